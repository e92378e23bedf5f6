# SPDX-License-Identifier: Apache-2.0
"""Continuous batching: requests join when a place for their keys and values is free, share steps, and leave.

The batcher knows no machine. Whoever drives it asks for the next step, runs it, and says which tokens were chosen::

    while not isinstance(work := batcher.next(now), Idle):
        ...  # run work.chunks, choose a token for each turn that is due one
        batcher.done(work, chosen)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from scheduler.ops.batch import Chunk
from scheduler.serving.batching import BATCHINGS, Active, check_batching, default_step_tokens
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
    leaves with its last token, and its place is free for the next step.

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

    Attributes
    ----------
    places, step_tokens : int
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
    ) -> None:
        self.places = places
        self.stop = frozenset(stop)
        self.change(batching, default_step_tokens(places) if step_tokens is None else step_tokens)
        self._waiting = [(request.arrival, request.number, request) for request in requests]
        heapify(self._waiting)
        self._active: list[Active] = []
        self._free = list(range(places))
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
        while self._waiting and self._waiting[0][0] <= now and self._free:
            self._active.append(Active(heappop(self._waiting)[2], heappop(self._free)))
        if not self._active:
            return Idle(self._waiting[0][0] if self._waiting else None)
        budget = self.step_tokens if most is None else min(most, self.step_tokens)
        return StepWork(
            tuple(
                Turn(own.request, Chunk(own.place, own.done, own.pending[:count]))
                for own, count in BATCHINGS[self.batching](self._active, budget)
            )
        )

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
        for own in finished:
            heappush(self._free, own.place)
        self._active = [own for own in self._active if own not in finished]
        return [own.request for own in finished]

    def _ended(self, own: Active) -> bool:
        return len(own.output) == own.request.tokens or (bool(own.output) and own.output[-1] in self.stop)
