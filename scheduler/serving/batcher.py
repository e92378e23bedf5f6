# SPDX-License-Identifier: Apache-2.0
"""Continuous batching: requests join when a place for their keys and values is free, share steps, and leave.

A prompt that begins as another one does not run those tokens again: it uses the keys and values that are there.

The batcher knows no machine. Whoever drives it asks for the next step, runs it, and says which tokens were chosen::

    while not isinstance(work := batcher.next(now), Idle):
        ...  # run work.chunks, choose a token for each turn that is due one
        batcher.done(work, chosen)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from scheduler.ops.batch import Chunk, Prefix, with_own_prefixes
from scheduler.serving.batching import BATCHINGS, Active, check_batching, default_step_tokens
from scheduler.serving.prefixes import find_prefix
from scheduler.serving.request import Request

__all__ = ["PHASES", "Batcher", "Idle", "StepWork", "Turn"]

PHASES = ("prefill", "mixed", "decode")
"""Kinds of steps: prompts alone, prompts beside sequences that decode, sequences that decode alone."""


@dataclass(frozen=True)
class Turn:
    """What a sequence does in a step.

    Attributes
    ----------
    request : Request
        Whose.
    chunk : Chunk
        Place, position and tokens.
    """

    request: Request
    chunk: Chunk

    @property
    def decodes(self) -> bool:
        """Whether the prompt has been run before."""
        return self.chunk.position >= len(self.request.prompt)

    @property
    def chooses(self) -> bool:
        """Whether a new token comes of it."""
        return self.chunk.end >= len(self.request.prompt)


@dataclass(frozen=True)
class StepWork:
    """The work of a step.

    Attributes
    ----------
    turns : tuple of Turn
        In the order of the step's tokens; at least one.
    """

    turns: tuple[Turn, ...]

    @property
    def chunks(self) -> list[Chunk]:
        """New tokens of each sequence."""
        return [turn.chunk for turn in self.turns]

    @property
    def tokens(self) -> int:
        """New tokens of all sequences."""
        return sum(len(turn.chunk.tokens) for turn in self.turns)

    @property
    def phase(self) -> str:
        """One of ``PHASES``."""
        decoding = sum(turn.decodes for turn in self.turns)
        return "prefill" if not decoding else "mixed" if decoding < len(self.turns) else "decode"


@dataclass(frozen=True)
class Idle:
    """Nothing can run now.

    Attributes
    ----------
    until : int or None
        Cycle in which the next request comes; None: none is left.
    """

    until: int | None


class Batcher:
    """Makes steps of requests.

    A request joins, in order of arrival, when it has come and a place is free; without a free place it waits. It
    leaves with its last token, and its place is free for the next step, unless others use the keys and values there.

    A prompt that begins as one that came before it waits until that one has run the tokens that they have in common.
    What lies in free places is used as well, as long as nothing else comes there.

    Parameters
    ----------
    requests : iterable of Request
        More may come with `add`.
    places : int
        Sequences that the key/value memory has room for.
    step_tokens : int, optional
        Most new tokens of a step; default: 128, or as many as there are places.
    batching : str
        One of ``scheduler.serving.batching.BATCHINGS``.
    stop : collection of int
        Tokens that end a sequence before it has all its tokens.
    prefix_block : int
        Prefixes that requests have in common are multiples of so many tokens; 0: every prompt runs all its tokens.

    Attributes
    ----------
    places, step_tokens : int
    shared_tokens : int
        Tokens of prompts that did not have to run.
    batching : str
    stop : frozenset of int

    Raises
    ------
    LoweringError
        Parameters that are not allowed, or contradict each other.
    """

    def __init__(
        self,
        requests: Iterable[Request],
        *,
        places: int,
        step_tokens: int | None = None,
        batching: str = "mixed",
        stop: Collection[int] = (),
        prefix_block: int = 0,
    ) -> None:
        self.places = places
        self.shared_tokens = 0
        self._block = prefix_block
        self.stop = frozenset(stop)
        self.change(batching, default_step_tokens(places) if step_tokens is None else step_tokens)
        self._waiting = [(request.arrival, request.number, request) for request in requests]
        heapify(self._waiting)
        self._active: list[Active] = []
        self._free = list(range(places))
        self._left: dict[int, tuple[int, ...]] = {}  # tokens in free places, those that became free first at first
        self._steps = 0

    def change(self, batching: str, step_tokens: int) -> None:
        """Go on by another policy, from the next step on.

        Raises
        ------
        LoweringError
            As for the parameters.
        """
        check_batching(batching, step_tokens, self.places)
        self.batching, self.step_tokens = batching, step_tokens

    def add(self, request: Request) -> None:
        """Take in a further request; its number must be new."""
        heappush(self._waiting, (request.arrival, request.number, request))

    def next(self, now: int, most: int | None = None) -> StepWork | Idle:
        """Return the work of the next step; asked again before `done`, it is the same but for `most`.

        Parameters
        ----------
        now : int
            The machine's cycle.
        most : int, optional
            At most so many new tokens, 1 or more, where more turned out not to fit the machine.
        """
        self._ready()  # who has a place claims what it can use before others come there
        while self._waiting and self._waiting[0][0] <= now and self._free:
            self._join(heappop(self._waiting)[2])
        if not self._active:
            return Idle(self._waiting[0][0] if self._waiting else None)
        budget = self.step_tokens if most is None else min(most, self.step_tokens)
        taking = BATCHINGS[self.batching](self._ready(), budget)
        chunks = with_own_prefixes(
            [Chunk(own.place, own.done, own.pending[:count], own.prefix) for own, count in taking]
        )  # fmt: skip
        turns = [Turn(own.request, chunk) for (own, _), chunk in zip(taking, chunks, strict=True)]
        return StepWork(tuple(_grouped(turns)))

    def _join(self, request: Request) -> None:
        """Give a request a place, rather one with nothing of use, and what a free place has of its prompt."""
        own = Active(request, -1)
        found = find_prefix(own, self._active, self._left, self._block) if self._block else None
        kept = found.prefix if found is not None and found.prefix.sequence in self._left else None
        free = [place for place in self._free if kept is None or place != kept.sequence]
        if free:
            empty = [place for place in free if place not in self._left]
            own.place = empty[0] if empty else next(place for place in self._left if place in free)
            if kept is not None:
                self._begin(own, kept)
        else:  # the only free place: it goes on there
            (own.place,) = self._free
            if kept is not None:
                own.done = kept.tokens
                self.shared_tokens += kept.tokens
        self._left.pop(own.place, None)
        self._active.append(own)
        self._count_free()

    def _begin(self, own: Active, prefix: Prefix) -> None:
        own.prefix, own.done = prefix, prefix.tokens
        self.shared_tokens += prefix.tokens

    def _ready(self) -> list[Active]:
        """Return who can go on: those that do not wait for what they have in common with others."""
        ready = []
        for number, own in enumerate(self._active):
            if self._block and not own.done:
                found = find_prefix(own, self._active[:number], self._left, self._block)
                if found is not None and not found.there:
                    continue
                if found is not None:
                    self._begin(own, found.prefix)
                    self._count_free()
            ready.append(own)
        return ready

    def _count_free(self) -> None:
        used = {own.place for own in self._active}
        used |= {own.prefix.sequence for own in self._active if own.prefix is not None}
        self._free = sorted(set(range(self.places)) - used)

    def done(self, work: StepWork, chosen: Mapping[int, int]) -> list[Request]:
        """Take in that a step has run, and return the requests that are finished with it.

        Parameters
        ----------
        work : StepWork
            From `next`.
        chosen : mapping of int to int
            The new token of each request, by its number, that is through with its prompt.

        Raises
        ------
        ValueError
            The step is not the next one of its sequences, or the tokens are not those of its requests.
        """
        active = {own.request.number: own for own in self._active}
        if {turn.request.number for turn in work.turns if turn.chooses} != set(chosen):
            raise ValueError("a token for each request that is through with its prompt, and for no other")
        for turn in work.turns:
            own = active.get(turn.request.number)
            if own is None or own.done != turn.chunk.position:
                raise ValueError(f"request {turn.request.number}: not its next step")
        for turn in work.turns:
            own = active[turn.request.number]
            own.done, own.served = turn.chunk.end, self._steps
            if turn.chooses:
                own.output.append(chosen[turn.request.number])
        self._steps += 1
        finished = [own for own in self._active if self._ended(own)]
        self._active = [own for own in self._active if own not in finished]
        for own in finished:
            if self._block and own.prefix is None:
                self._left[own.place] = own.run
        self._count_free()
        return [own.request for own in finished]

    def _ended(self, own: Active) -> bool:
        return len(own.output) == own.request.tokens or (bool(own.output) and own.output[-1] in self.stop)


def _grouped(turns: Sequence[Turn]) -> list[Turn]:
    """Return turns with decoded sequences behind each other that attend to the same prefix, else in their order."""
    first: dict[Prefix, int] = {}
    for number, turn in enumerate(turns):
        if turn.decodes and turn.chunk.prefix is not None:
            first.setdefault(turn.chunk.prefix, number)

    def place(item: tuple[int, Turn]) -> int:
        number, turn = item
        return first[turn.chunk.prefix] if turn.decodes and turn.chunk.prefix is not None else number

    return [turn for _, turn in sorted(enumerate(turns), key=place)]
