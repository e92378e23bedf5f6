# SPDX-License-Identifier: Apache-2.0
"""Continues prompts on a machine: prefill in pieces that fit the chip, then tokens one after the other, in a batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hdl.config import MachineConfig
from hdl.errors import A3dError, CheckError
from scheduler.cost.memory_timing import MemoryTiming
from scheduler.cost.model import simulate
from scheduler.memory.contents import Weights
from scheduler.memory.model import ModelMemory
from scheduler.models.constants import constants_of
from scheduler.models.description import Experts
from scheduler.models.quantised_model import QuantisedModel
from scheduler.ops.batch import Chunk, Routing
from scheduler.ops.graph import step_operations
from scheduler.plan.limits import LoweringError
from scheduler.plan.policy import FUSED, Policy
from scheduler.plan.residence import plan_residence
from scheduler.plan.tiling import Tiling
from scheduler.stream.choose import Chooser
from scheduler.stream.lower import StepProgram, default_key_block, lower_step, parts_of
from scheduler.stream.synchronise import SyncError
from sim.golden.integer_model import IntegerModel, KeyValueCache, StepResult
from sim.machine.engines import Engine
from sim.machine.sampling import Sampler
from sim.view.timeline import TracedStep

__all__ = ["ROUTINGS", "TRACES", "Generator", "StepRecord"]

ROUTINGS = ("host", "slots")
"""Who finds the experts of a step: ``host``, the integer model beside the machine, before the stream is written (as a
trace that is replayed knows them); ``slots``, the machine's router, while the stream runs."""

TRACES = ("none", "first", "all")
"""Steps whose trace is kept: none, the first of each phase, all."""

STEP_TOKENS = 128
"""Most new tokens of a prefill step."""

STEP_BYTES = 1 << 15
SEQUENCE_BYTES = 1 << 10
"""Least memory for a step's stream and token lists: for every layer, and besides for every sequence."""

LEAST_CONTEXT = 1 << 10
"""Tokens that every sequence has room for, as far as the model has as many."""

MOST_STREAM = 1 << 28
"""Bytes of the longest stream that is tried."""


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One step of the machine.

    Attributes
    ----------
    number : int
        Counts from 0.
    phase : {"prefill", "decode"}
    sequences : tuple of int
        Numbers of the sequences that took part.
    lengths : tuple of int
        Their lengths after the step, in tokens that the machine has run.
    tokens : int
        New tokens that ran through the machine.
    chosen : dict of int to int
        The token that each sequence got, of those that are through with their prompt.
    instructions : int
        Of the stream, END included.
    macs : int
        Useful multiply-accumulates.
    least_bytes : int
        Bytes that the step had to move.
    cycles : int or None
        From start to done; None where the engine has no time.
    counters : dict of str to int
        Performance counters.
    compared_bytes, mismatched_bytes : int
        Bytes of memory that were compared with the executor's, and how many of them differed.
    host_s, run_s, simulated_s : float
        Wall-clock seconds: integer model and lowering; the engine with its comparison; the simulation alone.
    forecast : int or None
        Cycles that the cycle model says, where that was asked for.
    traced : TracedStep or None
        What each unit did in each cycle, where that was asked for and the engine has time.
    """

    number: int
    phase: str
    sequences: tuple[int, ...]
    lengths: tuple[int, ...]
    tokens: int
    chosen: Mapping[int, int]
    instructions: int
    macs: int
    least_bytes: int
    cycles: int | None
    counters: Mapping[str, int]
    compared_bytes: int
    mismatched_bytes: int
    host_s: float
    run_s: float
    simulated_s: float
    forecast: int | None = None
    traced: TracedStep | None = None


@dataclass(eq=False)
class _Sequence:
    """One prompt and what has become of it."""

    number: int
    prompt: tuple[int, ...]
    place: int = -1
    done: int = 0
    cache: KeyValueCache | None = None
    output: list[int] = field(default_factory=list)

    @property
    def pending(self) -> tuple[int, ...]:
        """Tokens that the machine has not run: the rest of the prompt, or the last chosen token."""
        return self.prompt[self.done :] if self.done < len(self.prompt) else (self.output[-1],)


class Generator:
    """A batch of prompts on a machine.

    Steps either prefill or decode. A prefill step takes prompts, or parts of them, of as many sequences as there are
    places, up to a number of tokens that fits the chip; a decode step runs one token of every sequence. When a
    sequence is finished, the next prompt gets its place.

    Parameters
    ----------
    model : QuantisedModel
        The model.
    config : MachineConfig
        The machine.
    prompts : sequence of sequences of int
        Tokens of each prompt.
    tokens : int
        Tokens to generate for each.
    batch : int, optional
        Sequences that run at the same time; default: all.
    routing : str
        One of ``ROUTINGS``.
    sampler : Sampler, optional
        Default: the most probable token.
    step_tokens : int
        Most new tokens of a step.
    stop : collection of int
        Tokens that end a sequence before it has all its tokens; default: none.
    policy : Policy
        What the planner may do to a step.
    timing : MemoryTiming, optional
        How the memories behave, for the planner and for forecasts.

    Attributes
    ----------
    tiling : Tiling
        The model on the machine.
    memory : ModelMemory
        Images of the machine's memory, with room for sequences as long as they can get here.
    key_block : int
        Keys that attention takes at once.

    Raises
    ------
    LoweringError, SyncError
        No prompt, an empty one, tokens out of the vocabulary, fewer than 1 token to generate, more than the model's
        context, a batch that does not fit the memory (with the nearest that fits), a model that the machine cannot map
        or has too few semaphores for.
    A3dError
        A model whose arithmetic is not complete.
    """

    def __init__(
        self,
        model: QuantisedModel,
        config: MachineConfig,
        prompts: Sequence[Sequence[int]],
        tokens: int,
        *,
        batch: int | None = None,
        routing: str = "host",
        sampler: Sampler | None = None,
        step_tokens: int = STEP_TOKENS,
        stop: Collection[int] = (),
        policy: Policy = FUSED,
        timing: MemoryTiming | None = None,
    ) -> None:
        self.model = model
        self.config = config
        self.tokens = tokens
        self.routing = routing
        self.sampler = sampler or Sampler()
        model.description.require_complete()
        self.tiling = Tiling(config, model.description)
        self.key_block = default_key_block(self.tiling, model.key_block)
        self.step_tokens = step_tokens
        self.stop = frozenset(stop)
        self._chooser = Chooser(policy, timing)
        self._sequences = [_Sequence(number, tuple(int(t) for t in p)) for number, p in enumerate(prompts)]
        self._check_request(routing)
        self.batch = len(self._sequences) if batch is None else min(batch, len(self._sequences))
        self._context = self._check_size(batch)
        self._constants = constants_of(model)
        self._residence = plan_residence(self.tiling)
        step_bytes = self._check_streams()
        self.memory = self._place(self.batch, step_bytes, Weights(model, self.tiling))
        self._integer = IntegerModel(model, key_block=self.key_block)

    @property
    def prompts(self) -> list[tuple[int, ...]]:
        """Tokens of the prompts."""
        return [s.prompt for s in self._sequences]

    @property
    def total(self) -> int:
        """Tokens to generate, all sequences together, unless some end before."""
        return self.tokens * len(self._sequences)

    def run(self, engine: Engine, *, trace: str = "none", forecast: bool = False) -> Iterator[StepRecord]:
        """Run all steps; yields each step's record as soon as it is there.

        Parameters
        ----------
        engine : Engine
            One of the same configuration that was started with `memory`.
        trace : str
            One of ``TRACES``.
        forecast : bool
            Also ask the cycle model.

        Raises
        ------
        A3dError
            What the engine raises; CheckError when it disagrees with the integer model.
        """
        waiting = list(self._sequences)
        active: list[_Sequence] = []
        places = list(range(self.batch))
        number, seen = 0, set[str]()
        while waiting or active:
            while waiting and places:
                sequence = waiting.pop(0)
                sequence.place, sequence.cache = places.pop(0), self._integer.new_cache(self._context)
                active.append(sequence)
            phase = "prefill" if any(s.done < len(s.prompt) for s in active) else "decode"
            traced = trace == "all" or (trace == "first" and phase not in seen)
            yield self._step(engine, number, phase, active, traced, forecast)
            seen.add(phase)
            number += 1
            for sequence in [s for s in active if self._ended(s)]:
                active.remove(sequence)
                places.append(sequence.place)
                sequence.cache = None

    def _ended(self, sequence: _Sequence) -> bool:
        return len(sequence.output) == self.tokens or (bool(sequence.output) and sequence.output[-1] in self.stop)

    def _step(
        self, engine: Engine, number: int, phase: str, active: Sequence[_Sequence], trace: bool, forecast: bool
    ) -> StepRecord:
        started = time.perf_counter()
        if phase == "prefill":
            chunks, expected, program = self._prefill([s for s in active if s.done < len(s.prompt)])
        else:
            chunks, expected, program = self._lower(active, len(active))
        lowered = time.perf_counter()
        self._chooser.forget()  # unless the step comes to its end
        outcome = engine.run(program, trace=trace)
        self._chooser.ran(program.on_chip)
        finished = time.perf_counter()
        if not np.array_equal(outcome.logits, expected.last_logits):
            raise CheckError(f"step {number}: the {engine.name} engine's logits are not those of the integer model")
        traced = None
        if outcome.trace is not None:
            traced = TracedStep(
                name=f"{phase} {number}", instructions=program.instructions, trace=outcome.trace, labels=program.labels
            )
        by_place = {s.place: s for s in active}
        sequences = [by_place[chunk.sequence] for chunk in chunks]
        chosen = {}
        for sequence, chunk, logits in zip(sequences, chunks, outcome.logits, strict=True):
            sequence.done = chunk.end
            if chunk.end >= len(sequence.prompt):
                token = self.sampler.pick(logits, self.model.logit_scale, sequence.number, chunk.end)
                sequence.output.append(token)
                chosen[sequence.number] = token
        operations = step_operations(self.tiling.model, chunks, expected.routing)
        return StepRecord(
            number=number, phase=phase, sequences=tuple(s.number for s in sequences),
            lengths=tuple(c.end for c in chunks), tokens=sum(len(c.tokens) for c in chunks), chosen=chosen,
            instructions=len(program.instructions), macs=sum(op.macs for op in operations),
            least_bytes=sum(op.bytes for op in operations), cycles=outcome.cycles,
            counters=outcome.counters, compared_bytes=outcome.compared_bytes,
            mismatched_bytes=outcome.mismatched_bytes, host_s=lowered - started,
            run_s=finished - lowered, simulated_s=outcome.wall_s,
            forecast=self._forecast(program, expected.routing) if forecast else None, traced=traced,
        )  # fmt: skip

    def _forecast(self, program: StepProgram, routing: Sequence[Routing]) -> int:
        """Return the cycles that the cycle model says, with the slots as the machine's router fills them."""
        counts = program.slot_counts(routing) if self.routing == "slots" else []
        return simulate(self.config, program.table, memory=self._chooser.timing, slot_counts=counts).cycles

    def _prefill(self, sequences: Sequence[_Sequence]) -> tuple[list[Chunk], StepResult, StepProgram]:
        """Lower as much of the prompts, in order, as one step takes."""
        budget = min(self.step_tokens, sum(len(s.pending) for s in sequences))
        while True:
            try:
                return self._lower(sequences, budget)
            except (LoweringError, SyncError):
                if budget == 1:
                    raise
            budget = -(-budget // 2)

    def _lower(self, sequences: Sequence[_Sequence], budget: int) -> tuple[list[Chunk], StepResult, StepProgram]:
        """Take pending tokens of the sequences, in order, up to `budget`: integer model and stream of that step."""
        chunks: list[Chunk] = []
        batch: list[tuple[KeyValueCache, tuple[int, ...]]] = []
        for sequence in sequences:
            own = sequence.pending[:budget]
            budget -= len(own)
            if own:
                assert sequence.cache is not None
                chunks.append(Chunk(sequence.place, sequence.done, own))
                batch.append((sequence.cache, own))
        slots = self.routing == "slots"
        parts_of(self._residence, chunks, self.key_block, slots)  # before the work is done
        expected = self._integer.step(batch)
        try:
            routing = None if slots else expected.routing
            program = lower_step(
                self._constants, self.memory, chunks, routing, key_block=self.key_block, chooser=self._chooser
            )  # fmt: skip
        except A3dError:
            for (cache, _), chunk in zip(batch, chunks, strict=True):
                cache.length = chunk.position
            raise
        return chunks, expected, program

    # Checks before anything is built.

    def _check_request(self, routing: str) -> None:
        if routing not in ROUTINGS:
            raise LoweringError(f"routing: {routing!r}; use {' or '.join(ROUTINGS)}")
        if self.tokens < 1:
            raise LoweringError(f"tokens: {self.tokens}; generate at least 1")
        if self.step_tokens < 1:
            raise LoweringError(f"step_tokens: {self.step_tokens}; use at least 1")
        if not self._sequences:
            raise LoweringError("prompts: none; give at least one")
        for sequence in self._sequences:
            if not sequence.prompt:
                raise LoweringError(f"prompt {sequence.number}: empty; give at least one token")
            wrong = [t for t in sequence.prompt if not 0 <= t < self.tiling.model.vocabulary]
            if wrong:
                raise LoweringError(
                    f"prompt {sequence.number}: token {wrong[0]}; the model's vocabulary is 0 to "
                    f"{self.tiling.model.vocabulary - 1}"
                )

    def _check_size(self, batch: int | None) -> int:
        """Refuse what is longer than the model's context; return the tokens that a sequence gets room for."""
        if batch is not None and batch < 1:
            raise LoweringError(f"batch: {batch}; run at least 1 sequence")
        longest, most = max(len(s.prompt) for s in self._sequences), self.tiling.model.context
        needed = longest + self.tokens - 1  # the last token is not run
        if needed > most:
            remedy = f"shorten the prompt to {most + 1 - self.tokens} tokens" if most + 1 > self.tokens else ""
            fewer = f"generate {most + 1 - longest}" if most + 1 > longest else ""
            raise LoweringError(
                f"context: a prompt of {longest} tokens and {self.tokens} new ones; the model's context is {most}: "
                + (" or ".join(r for r in (remedy, fewer) if r) or f"use at most {most} in all")
            )
        return min(most, max(LEAST_CONTEXT, 1 << (needed - 1).bit_length()))

    def _check_streams(self) -> int:
        """Lower the last step of one sequence, and of the batch, with a routing that is made up, without weights.

        There can be room for a step whose stream the machine has too few semaphores for, and that shows only when the
        stream is written. Prompts need no more: they are prefilled in steps as small as a token.

        Returns
        -------
        int
            Bytes for a step's stream and token lists.
        """
        model = self.tiling.model
        position = max(len(s.prompt) for s in self._sequences) + self.tokens - 2
        least = self._least_step(self.batch)
        room = (1 << self.config.address_bits) - max(self._place(self.batch, least, None).sizes)
        most = least + min(MOST_STREAM, room)
        for count in sorted({1, self.batch}):
            memory = self._place(count, most, None)
            chunks = [Chunk(place, position, (0,)) for place in range(count)]
            routing = [_made_up(count, layer.mlp) if isinstance(layer.mlp, Experts) else None for layer in model.layers]
            try:
                program = lower_step(
                    self._constants, memory, chunks, routing if self.routing == "host" else None,
                    key_block=self.key_block,
                )  # fmt: skip
            except (LoweringError, SyncError) as error:
                if count == 1:
                    raise
                raise LoweringError(
                    f"batch: {count} sequences of up to {position + 1} tokens; run fewer with --batch ({error})"
                ) from error
            least = max(least, program.patch.size + program.patch.size // 2)  # other plans take more
        return least

    def _least_step(self, count: int) -> int:
        """Return the least bytes for a step's stream and token lists."""
        return len(self.tiling.model.layers) * (STEP_BYTES + SEQUENCE_BYTES * count)

    def _place(self, count: int, step_bytes: int, weights: Weights | None) -> ModelMemory:
        """Return the memory for a number of sequences; if it is too small, say how many there is room for."""

        def place(count: int, step_bytes: int, weights: Weights | None) -> ModelMemory:
            return ModelMemory(self._residence, weights, sequences=count, context=self._context, step_bytes=step_bytes)

        def fits(count: int) -> bool:
            try:
                place(count, self._least_step(count), None)
            except LoweringError:
                return False
            return True

        try:
            return place(count, step_bytes, weights)
        except LoweringError as error:
            fitting = _largest(count - 1, fits)
            if not fitting:
                raise
            raise LoweringError(
                f"batch: {count} sequences with room for {self._context} tokens each do not fit the memory; at most "
                f"{fitting} do: use --batch {fitting} ({error})"
            ) from error


def _made_up(tokens: int, mlp: Experts) -> Routing:
    """Return a routing that uses as many experts as it can."""
    chosen = np.arange(tokens * mlp.chosen).reshape(tokens, -1) % mlp.count
    return Routing(chosen, np.full(chosen.shape, 1 << 14, dtype=np.uint16))


def _largest(most: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number up to `most` that fits, 0 when none does; all below it fit too."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
