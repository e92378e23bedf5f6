# SPDX-License-Identifier: Apache-2.0
"""Serves requests on a machine: the batcher makes steps, an engine runs them, tokens are chosen from the logits."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hdl.config import MachineConfig
from hdl.errors import A3dError, CheckError
from hdl.numerics.precision import Thresholds
from scheduler.cost.energy.activity import Activity
from scheduler.cost.energy.count import activity_of_counters, activity_of_forecast
from scheduler.cost.links import LinkBytes, link_bytes
from scheduler.cost.memory_timing import MemoryTiming
from scheduler.cost.model import Forecast, simulate
from scheduler.memory.contents import Weights
from scheduler.models.constants import constants_of
from scheduler.models.quantised_model import QuantisedModel
from scheduler.ops.graph import step_operations
from scheduler.plan.limits import LoweringError
from scheduler.plan.policy import FUSED, Policy
from scheduler.plan.residence import plan_residence
from scheduler.plan.tiling import Tiling
from scheduler.serving.batcher import Batcher, Idle, StepWork, Turn
from scheduler.serving.request import Request, check_requests
from scheduler.serving.room import Room
from scheduler.stream.choose import Chooser
from scheduler.stream.lower import lower_step
from scheduler.stream.parts import default_key_block, parts_of
from scheduler.stream.step_program import StepProgram
from scheduler.stream.synchronise import SyncError
from sim.golden.integer_model import IntegerModel, KeyValueCache, StepResult
from sim.machine.engines import Engine, Outcome
from sim.machine.sampling import Sampler
from sim.view.timeline import TracedStep

__all__ = ["ROUTINGS", "TRACES", "Generator", "StepRecord"]

ROUTINGS = ("host", "slots")
"""Who finds the experts of a step: ``host``, the integer model beside the machine, before the stream is written (as a
trace that is replayed knows them); ``slots``, the machine's router, while the stream runs."""

TRACES = ("none", "first", "all")
"""Steps whose trace is kept: none, the first of each phase, all."""


@dataclass(frozen=True, kw_only=True)
class Beside:
    """A step by another policy than its own: it writes the same bytes, and its time counts nowhere else.

    Attributes
    ----------
    policy : str
    cycles : int
    compared_bytes, mismatched_bytes : int
        Bytes of memory that were compared with the executor's, and how many of them differed.
    traced : TracedStep or None
        What each unit did in each cycle.
    """

    policy: str
    cycles: int
    compared_bytes: int
    mismatched_bytes: int
    traced: TracedStep | None


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One step of the machine.

    Attributes
    ----------
    number : int
        Counts from 0.
    phase : str
        One of ``scheduler.serving.batcher.PHASES``.
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
    start : int
        The machine's clock when the step began: cycles of the steps before, and of the waiting for requests.
    forecast : int or None
        Cycles that the cycle model says, where that was asked for.
    traced : TracedStep or None
        What each unit did in each cycle, where that was asked for and the engine has time.
    beside : Beside or None
        The same step by another policy, where that was asked for.
    links : LinkBytes
        Bytes across bonds, on the dies and off chip, with the slots as the router fills them; instruction fetch as the
        engine counts it, or what the stream takes where it has no counter.
    activity, planned : Activity or None
        What the machine did, by its counters, and by the cycle model, where that was asked for.
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
    start: int = 0
    forecast: int | None = None
    traced: TracedStep | None = None
    beside: Beside | None = None
    links: LinkBytes = field(default_factory=LinkBytes)
    activity: Activity | None = None
    planned: Activity | None = None


@dataclass(frozen=True, eq=False)
class _Lowered:
    """A step before it runs."""

    work: StepWork
    expected: StepResult
    program: StepProgram


class Generator:
    """A batch of requests on a machine.

    `scheduler.serving.batcher` says which sequences share a step. A step that the machine has no room for is made
    smaller until it fits. The machine's clock counts the cycles of the steps; where nothing is to do, it goes on to the
    arrival of the next request.

    Parameters
    ----------
    model : QuantisedModel
        The model.
    config : MachineConfig
        The machine.
    prompts : sequence of sequences of int, or of Request
        Tokens of each prompt, all of which come in cycle 0; or requests, numbered from 0 in this order.
    tokens : int
        Tokens to generate for each prompt that is no request.
    batch : int, optional
        Sequences that run at the same time; default: all.
    routing : str
        One of ``ROUTINGS``.
    sampler : Sampler, optional
        Default: the most probable token.
    step_tokens : int, optional
        Most new tokens of a step; default: 128, or `batch` if that is more.
    batching : str
        One of ``scheduler.serving.batching.BATCHINGS``.
    stop : collection of int
        Tokens that end a sequence before it has all its tokens; default: none.
    policy : Policy
        What the planner may do to a step.
    timing : MemoryTiming, optional
        How the memories behave, for the planner and for forecasts.
    precision : sequence of Thresholds or None, optional
        How important an expert has to be for its bytes in steps that decode only, layer by layer; default: all experts
        with both planes. Steps with prompts have use for all experts, and read them with both planes in any case.

    Attributes
    ----------
    requests : list of Request
    batcher : Batcher
        Its policy may be changed between steps.
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
        context, a batch that does not fit the memory (with the nearest that fits), policies that contradict each other,
        a model that the machine cannot map or has too few semaphores for.
    A3dError
        A model whose arithmetic is not complete.
    """

    def __init__(
        self,
        model: QuantisedModel,
        config: MachineConfig,
        prompts: Sequence[Sequence[int] | Request],
        tokens: int = 1,
        *,
        batch: int | None = None,
        routing: str = "host",
        sampler: Sampler | None = None,
        step_tokens: int | None = None,
        batching: str = "prefill-first",
        stop: Collection[int] = (),
        policy: Policy = FUSED,
        timing: MemoryTiming | None = None,
        precision: Sequence[Thresholds | None] | None = None,
    ) -> None:
        self.model = model
        self.config = config
        self.routing = routing
        self.sampler = sampler or Sampler()
        model.description.require_complete()
        self.tiling = Tiling(config, model.description)
        self.key_block = default_key_block(self.tiling, model.key_block)
        self._chooser = Chooser(policy, timing)
        self.requests = [
            own if isinstance(own, Request) else Request(number, tuple(int(t) for t in own), tokens)
            for number, own in enumerate(prompts)
        ]
        if routing not in ROUTINGS:
            raise LoweringError(f"routing: {routing!r}; use {' or '.join(ROUTINGS)}")
        check_requests(self.requests, self.tiling.model.vocabulary, self.tiling.model.context)
        self.batch = len(self.requests) if batch is None else batch
        self.batcher = Batcher(
            self.requests, places=self.batch, step_tokens=step_tokens, batching=batching, stop=stop,
            prefix_block=self.tiling.key_alignment if policy.prefixes else 0,
        )  # fmt: skip
        self._constants = constants_of(model)
        self._precision = precision
        self._scored = constants_of(model, precision)
        self._residence = plan_residence(self.tiling)
        self._room = Room(
            self._residence, self._constants, places=self.batch, length=max(r.length for r in self.requests),
            key_block=self.key_block, slots=routing == "slots",
        )  # fmt: skip
        self.memory = self._room.memory(Weights(model, self.tiling))
        self._integer = IntegerModel(model, key_block=self.key_block)
        self._caches: dict[int, tuple[int, KeyValueCache]] = {}  # of each place: request, keys and values

    @property
    def prompts(self) -> list[tuple[int, ...]]:
        """Tokens of the prompts."""
        return [request.prompt for request in self.requests]

    @property
    def stop(self) -> frozenset[int]:
        """Tokens that end a sequence."""
        return self.batcher.stop

    @property
    def total(self) -> int:
        """Tokens to generate, all sequences together, unless some end before."""
        return sum(request.tokens for request in self.requests)

    def submit(self, prompt: Sequence[int], tokens: int, arrival: int) -> Request:
        """Take in a further request, before or while it runs, and return it.

        Raises
        ------
        LoweringError
            As for the first ones; or it is longer than what the memory was laid out for.
        """
        request = Request(len(self.requests), tuple(int(t) for t in prompt), tokens, arrival)
        check_requests([request], self.tiling.model.vocabulary, self._room.context)
        self.requests.append(request)
        self.batcher.add(request)
        return request

    def run(
        self, engine: Engine, *, trace: str = "none", forecast: bool = False, beside: Policy | None = None,
        activity_mhz: float | None = None,
    ) -> Iterator[StepRecord]:  # fmt: skip
        """Run all steps, once; yields each step's record as soon as it is there.

        Parameters
        ----------
        engine : Engine
            One of the same configuration that was started with `memory`.
        trace : str
            One of ``TRACES``.
        forecast : bool
            Also ask the cycle model.
        beside : Policy, optional
            Run the first mixed step by this policy too, to compare the two; only where the engine has time.
        activity_mhz : float, optional
            Also count what each step does, with the machine at this clock.

        Raises
        ------
        A3dError
            What the engine raises; requests that come later than cycle 0 where the engine has no time. CheckError when
            it disagrees with the integer model.
        """
        now = number = 0
        seen = set[str]()
        while True:
            work = self.batcher.next(now)
            if isinstance(work, Idle):
                if work.until is None:
                    return
                now = work.until
            if not engine.timed and (late := next((r for r in self.requests if r.arrival), None)):
                raise A3dError(no_time(late, engine.name))
            if isinstance(work, Idle):
                continue
            traced = trace == "all" or (trace == "first" and work.phase not in seen)
            other = beside if work.phase == "mixed" and "mixed" not in seen and engine.timed else None
            record = self._step(engine, number, now, work, traced, forecast, other, activity_mhz)
            seen.add(record.phase)
            number += 1
            now += record.cycles or 0
            yield record

    def _step(
        self, engine: Engine, number: int, now: int, work: StepWork, trace: bool, forecast: bool,
        other: Policy | None = None, mhz: float | None = None,
    ) -> StepRecord:  # fmt: skip
        started = time.perf_counter()
        lowered = self._fitting(now, work)
        written = time.perf_counter()
        self._chooser.forget()  # unless the step comes to its end
        beside = None
        if other is not None:
            lowered, beside = self._beside(engine, number, lowered, other, trace)
        outcome = engine.run(lowered.program, trace=trace)
        self._chooser.ran(lowered.work.chunks, lowered.program.on_chip)
        finished = time.perf_counter()
        if not np.array_equal(outcome.logits, lowered.expected.last_logits):
            raise CheckError(f"step {number}: the {engine.name} engine's logits are not those of the integer model")
        chosen = self._choose(lowered.work, outcome)
        self.batcher.done(lowered.work, chosen)
        work, program, routing = lowered.work, lowered.program, lowered.expected.routing
        traced = _traced(f"{work.phase} {number}", program, outcome)
        operations = step_operations(self.tiling.model, work.chunks, routing)
        counts = program.slot_counts(routing) if self.routing == "slots" else []
        model = self._forecast(program, counts) if forecast else None
        activity = planned = None
        if mhz is not None and outcome.cycles is not None:
            activity = activity_of_counters(
                self.config, outcome.counters, program.table, slot_counts=counts, mhz=mhz
            )  # fmt: skip
        if mhz is not None and model is not None:
            planned = activity_of_forecast(model, program.table, slot_counts=counts, mhz=mhz)
        return StepRecord(
            number=number, phase=work.phase, sequences=tuple(turn.request.number for turn in work.turns),
            lengths=tuple(chunk.end for chunk in work.chunks), tokens=work.tokens, chosen=chosen,
            instructions=len(program.instructions), macs=sum(op.macs for op in operations),
            least_bytes=sum(op.bytes for op in operations), cycles=outcome.cycles,
            counters=outcome.counters, compared_bytes=outcome.compared_bytes,
            mismatched_bytes=outcome.mismatched_bytes, host_s=written - started,
            run_s=finished - written, simulated_s=outcome.wall_s, start=now,
            forecast=None if model is None else model.cycles, traced=traced, beside=beside, activity=activity,
            planned=planned,
            links=link_bytes(
                self.config, program.table, slot_counts=counts, fetch_beats=outcome.counters.get("fetch_beats")
            ),
        )  # fmt: skip

    def _beside(
        self, engine: Engine, number: int, lowered: _Lowered, policy: Policy, trace: bool
    ) -> tuple[_Lowered, Beside]:  # fmt: skip
        """Run a step by another policy, and write its own stream again."""
        work, expected = lowered.work, lowered.expected
        program = self._stream(work, expected, Chooser(policy, self._chooser.timing))
        outcome = engine.run(program, trace=trace)
        if not np.array_equal(outcome.logits, expected.last_logits):
            raise CheckError(f"step {number}, {policy.name}: logits are not those of the integer model")
        assert outcome.cycles is not None
        again = _Lowered(work, expected, self._stream(work, expected, self._chooser))
        return again, Beside(
            policy=policy.name, cycles=outcome.cycles, compared_bytes=outcome.compared_bytes,
            mismatched_bytes=outcome.mismatched_bytes,
            traced=_traced(f"{work.phase} {number}, {policy.name}", program, outcome),
        )  # fmt: skip

    def _stream(self, work: StepWork, expected: StepResult, chooser: Chooser) -> StepProgram:
        routing = None if self.routing == "slots" else expected.routing
        constants = self._scored if _decodes(work) else self._constants
        return lower_step(
            constants, self.memory, work.chunks, routing, key_block=self.key_block, chooser=chooser
        )  # fmt: skip

    def _choose(self, work: StepWork, outcome: Outcome) -> dict[int, int]:
        """Return the new token of each sequence that is due one."""
        return {
            turn.request.number: self.sampler.pick(
                logits, self.model.logit_scale, turn.request.number, turn.chunk.end
            )
            for turn, logits in zip(work.turns, outcome.logits, strict=True)
            if turn.chooses
        }  # fmt: skip

    def _forecast(self, program: StepProgram, counts: Sequence[Sequence[int]]) -> Forecast:
        """Return what the cycle model says, with the slots as the machine's router fills them."""
        return simulate(
            self.config, program.table, memory=self._chooser.timing, slot_counts=counts,
            stream_base=program.stream_base,
        )  # fmt: skip

    def _fitting(self, now: int, work: StepWork) -> _Lowered:
        """Lower a step, or as much of it as the machine has room for."""
        while True:
            try:
                return self._lower(work)
            except (LoweringError, SyncError):
                if work.tokens == 1:
                    raise
            smaller = self.batcher.next(now, -(-work.tokens // 2))
            assert isinstance(smaller, StepWork)
            work = smaller

    def _lower(self, work: StepWork) -> _Lowered:
        """Return integer model and stream of a step; the caches are as they were where that fails."""
        chunks, slots = work.chunks, self.routing == "slots"
        parts_of(self._residence, chunks, self.key_block, slots)  # before the work is done
        batch = [(self._cache(turn), turn.chunk.tokens) for turn in work.turns]
        expected = self._integer.step(batch, precision=self._precision if _decodes(work) else None)
        try:
            program = self._stream(work, expected, self._chooser)
        except A3dError:
            for (cache, _), chunk in zip(batch, chunks, strict=True):
                cache.length = chunk.position
            raise
        return _Lowered(work, expected, program)

    def _cache(self, turn: Turn) -> KeyValueCache:
        """Return the integer model's keys and values of a sequence; a new one may begin with those of another."""
        place, prefix = turn.chunk.sequence, turn.chunk.prefix
        number, cache = self._caches.get(place, (-1, None))
        if number != turn.request.number or cache is None:
            cache, begin = self._integer.new_cache(self._room.context), turn.chunk.position
            if begin:  # in another place, or in this one, where a request before it has left them
                cache.begin_with(self._caches[place if prefix is None else prefix.sequence][1], begin)
            self._caches[place] = turn.request.number, cache
        return cache


def _decodes(work: StepWork) -> bool:
    """Return whether every sequence of a step has one new token."""
    return work.tokens == len(work.turns)


def _traced(name: str, program: StepProgram, outcome: Outcome) -> TracedStep | None:
    """Return what the units did in a step, where the engine has recorded it."""
    if outcome.trace is None:
        return None
    return TracedStep(name=name, instructions=program.instructions, trace=outcome.trace, labels=program.labels)


def no_time(late: Request, engine: str) -> str:
    """Return what is wrong with a request that comes later than cycle 0, on an engine without time."""
    return (
        f"arrival: {late.arrival} of request {late.number}; the engine {engine} has no time, so that all come in cycle "
        "0: leave it out, or use the engine rtl"
    )
