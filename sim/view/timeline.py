# SPDX-License-Identifier: Apache-2.0
"""Timelines: which instruction kept which unit busy when, and why units waited; as data and for trace viewers.

The reader's page is ``docs/timeline.md``.
"""

from __future__ import annotations

import contextlib
import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from hdl.config import MachineConfig
from hdl.isa import OPCODES, Instruction, LoadDest, Opcode, issue_queues, queue_names
from hdl.regs import traced_counters
from hdl.scratch import whole_file
from scheduler.stream.emit.labels import Label
from sim.view.trace import Trace, TraceError

__all__ = [
    "BUSY", "KINDS", "Causes", "Slice", "TimelineFile", "TracedStep", "full_queues", "kind_of", "slices_of", "state_of",
    "state_runs", "write_timeline",
]  # fmt: skip

KINDS = ("attention", "dense", "router", "experts", "norm, softmax", "keys, values", "weights", "other data")
"""Kinds of operations, as timelines colour them."""

BUSY = ("wave", "read_beats", "write_beats", "rows", "instructions")
"""States in which a unit works; in the others it waits or has nothing to do."""

_ROUTER = ("router", "choose", "gather", "gate")


@dataclass(frozen=True, kw_only=True)
class TracedStep:
    """One stream that ran with ``Job(trace=True)``.

    Attributes
    ----------
    name : str
        Such as ``prefill`` or ``decode 3``.
    instructions : sequence of Instruction
        The stream.
    trace : Trace
        What the machine did.
    labels : sequence of Label, optional
        What each instruction is for; without them slices are named by opcode.
    """

    name: str
    instructions: Sequence[Instruction]
    trace: Trace
    labels: Sequence[Label] | None = None


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One instruction's time on one unit.

    Attributes
    ----------
    track : str
        Queue: ``tier0`` ..., ``load0``, ``load1``, ``store``, ``vector``.
    name : str
        The label's operation, or the opcode.
    kind : str
        One of ``KINDS``.
    layer : int
        Decoder layer, -1 outside.
    pc : int
        Index in the stream; the instruction's address is ``32 * pc`` from the stream's base.
    opcode : str
    dispatched : int
        Cycle in which the instruction entered its queue.
    taken : int
        Cycle in which it left the queue.
    begin : int
        Cycle of its first work: first wave, waits granted (loads: first address), vector unit started.
    start, end : int
        First cycle of the slice and the cycle after its last: from `begin`, or from the end of the slice before if that
        is later (units start on their next instruction while the last one drains). Last work: last wave issued, last
        word launched, last write response, result complete.
    finished : bool
        False: the stream stopped before; `end` is the end of the stream.
    bytes : int
        Bytes of memory that this unit moved.
    waves : int
        Waves that this tier issued.
    rows : int
        Rows that the vector unit took in.
    """

    track: str
    name: str
    kind: str
    layer: int
    pc: int
    opcode: str
    dispatched: int
    taken: int
    begin: int
    start: int
    end: int
    finished: bool
    bytes: int = 0
    waves: int = 0
    rows: int = 0


def kind_of(instruction: Instruction, operation: str) -> str:
    """Return which of ``KINDS`` an instruction that enters a queue belongs to, by its label's operation."""
    return KIND_OF[instruction.opcode](instruction, operation)


def _load_kind(instruction: Instruction, operation: str) -> str:
    if operation.startswith(("keys", "values")):
        return "keys, values"
    return "weights" if instruction["dest_kind"] == LoadDest.VCACHE else "other data"


def _store_kind(instruction: Instruction, operation: str) -> str:
    return "keys, values" if operation.startswith("append") else "other data"


def _gemm_kind(instruction: Instruction, operation: str) -> str:
    if operation.startswith(_ROUTER):
        return "router"
    if operation.startswith(("scores", "context")):
        return "attention"
    return "experts" if operation.startswith(("expert", "slot")) else "dense"


def _vector_kind(instruction: Instruction, operation: str) -> str:
    return "router" if operation.startswith(_ROUTER) else "norm, softmax"


KIND_OF: Mapping[Opcode, Callable[[Instruction, str], str]] = {
    Opcode.LOAD: _load_kind,
    Opcode.STORE: _store_kind,
    Opcode.GEMM: _gemm_kind,
    Opcode.VECTOR: _vector_kind,
    Opcode.ROUTE: lambda instruction, operation: "router",
}
"""The kind of an instruction, for each opcode that enters a queue."""


def slices_of(step: TracedStep, config: MachineConfig) -> list[Slice]:
    """Return all slices of a stream, track after track, each in the order of time.

    Raises
    ------
    TraceError
        The trace has more instructions of a queue than the stream.
    """
    slices: list[Slice] = []
    dispatched = step.trace.cycles_of("instructions")
    for track in queue_names(config):
        numbers = [pc for pc, i in enumerate(step.instructions) if track in issue_queues(i)]
        slices += _track(step, config, track, numbers, dispatched)
    return slices


def _track(
    step: TracedStep, config: MachineConfig, track: str, numbers: Sequence[int], dispatched: npt.NDArray[np.int64]
) -> Iterator[Slice]:
    trace = step.trace
    taken, begin = trace.taken[track], trace.begin[track]
    if max(len(taken), len(begin), len(trace.end[track])) > len(numbers):
        raise TraceError(
            f"{step.name}: the trace has {len(taken)} instructions of {track}, the stream has {len(numbers)}: "
            "they do not belong together"
        )
    # The two ends of a PAIR load come from different places.
    apart = track == "load1"
    ends, pair_ends = iter(trace.end[track]), iter(trace.pair_end)
    before = 0
    for place, pc in enumerate(numbers[: len(begin)]):
        instruction = step.instructions[pc]
        end = next(pair_ends if apart and len(issue_queues(instruction)) > 1 else ends, None)
        label = step.labels[pc] if step.labels is not None else Label(-1, instruction.opcode.name)
        first = int(begin[place])
        start = max(first, before)
        before = max(start, trace.cycles if end is None else int(end) + 1)
        yield Slice(
            track=track, name=label.operation, kind=kind_of(instruction, label.operation), layer=label.layer, pc=pc,
            opcode=instruction.opcode.name, dispatched=int(dispatched[pc]), taken=int(taken[place]), begin=first,
            start=start, end=before, finished=end is not None, **_amounts(instruction, config),
        )  # fmt: skip


def _amounts(instruction: Instruction, config: MachineConfig) -> dict[str, int]:
    """Return what an instruction moves or computes on one unit (one with a slot: at most)."""
    work = OPCODES[instruction.opcode].work(instruction, config)
    # The two engines of a PAIR load bring half of its bytes each.
    loaded = work.bytes_loaded // len(issue_queues(instruction))
    return {"bytes": loaded + work.bytes_stored, "waves": work.waves, "rows": work.vector_rows}


def state_of(counter: str, unit: str) -> str:
    """Return the unit's state that a counter counts, such as ``stall_tag`` or ``starved``."""
    for part in (f"{unit.replace(' ', '')}_", "load_", "store_", "vector_", "dispatch_"):
        counter = counter.removeprefix(part)
    return counter.removesuffix("_0").removesuffix("_1")


def state_runs(trace: Trace, config: MachineConfig) -> Iterator[tuple[str, str, int, int]]:
    """Yield (unit, counter, first cycle, cycle after the last) of each stretch in which a unit's state stays the same.

    Units and counters are those of ``hdl.regs.traced_counters``; the counter is empty while none counts.
    """
    first = 0
    for unit, counters in traced_counters(config).items():
        events = trace.activity[:, first : first + len(counters)]
        first += len(counters)
        states = np.where(events.any(axis=1), events.argmax(axis=1), len(counters))
        names = (*counters, "")
        places = np.flatnonzero(np.append(True, states[1:] != states[:-1]))
        bounds = np.append(trace.since[places], trace.cycles)
        for place, low, high in zip(places, bounds[:-1], bounds[1:], strict=True):
            yield unit, names[states[place]], int(low), int(high)


class TimelineFile:
    """A Chrome trace, which Perfetto and ``chrome://tracing`` open, written step after step; a context manager.

    One microsecond in the file is one clock cycle; each step begins where the one before ended. The file appears,
    complete, when the block ends without an exception; no step stays in memory.

    Parameters
    ----------
    path : path
        File to write, conventionally ``*.trace.json``.
    config : MachineConfig
        The machine that runs.
    """

    def __init__(self, path: Path, config: MachineConfig) -> None:
        self._path = path
        self._config = config
        self._stack = contextlib.ExitStack()
        self._file: TextIO | None = None
        self._cycles = 0

    def __enter__(self) -> TimelineFile:
        """Begin the file."""
        with contextlib.ExitStack() as stack:
            scratch = stack.enter_context(whole_file(self._path))
            self._file = stack.enter_context(scratch.open("w", encoding="utf-8"))
            other = {"time": "1 us = 1 clock cycle", "machine": self._config.to_dict()}
            self._file.write(f'{{"displayTimeUnit":"ms","otherData":{_compact(other)},"traceEvents":[\n')
            self._file.write(",\n".join(map(_compact, _names(self._config))))
            self._stack = stack.pop_all()
        return self

    def add(self, step: TracedStep) -> None:
        """Write a step.

        Raises
        ------
        TraceError
            The trace and the stream do not belong together.
        """
        assert self._file is not None
        cycles = step.trace.cycles
        event = _event(step.name, "step", 0, self._cycles, cycles, {"cycles": cycles})
        for each in (event, *_step_events(step, self._config, self._cycles)):
            self._file.write(",\n" + _compact(each))
        self._cycles += cycles

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the file, and put it in its place."""
        assert self._file is not None
        if kind is None:
            self._file.write("\n]}\n")
        self._stack.__exit__(kind, error, trace)


def write_timeline(path: Path, steps: Iterable[TracedStep], config: MachineConfig) -> None:
    """Write steps, in order, as a `TimelineFile`.

    Raises
    ------
    TraceError
        A trace and its stream do not belong together.
    """
    with TimelineFile(path, config) as timeline:
        for step in steps:
            timeline.add(step)


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _threads(config: MachineConfig) -> list[str]:
    """Return the rows of the viewer in order: the host, the queues, the units whose waits are shown."""
    return ["host", *queue_names(config), *(f"{unit} waits" for unit in traced_counters(config))]


def _names(config: MachineConfig) -> Iterator[dict[str, Any]]:
    yield {"ph": "M", "name": "process_name", "pid": 1, "args": {"name": f"A3D-MoE {config.name}"}}
    for number, name in enumerate(_threads(config)):
        yield {"ph": "M", "name": "thread_name", "pid": 1, "tid": number, "args": {"name": name}}
        yield {"ph": "M", "name": "thread_sort_index", "pid": 1, "tid": number, "args": {"sort_index": number}}


def _event(name: str, category: str, thread: int, start: int, length: int, args: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "ph": "X", "name": name, "cat": category, "pid": 1, "tid": thread, "ts": start, "dur": length, "args": args
    }  # fmt: skip


def _step_events(step: TracedStep, config: MachineConfig, offset: int) -> Iterator[dict[str, Any]]:
    threads = {name: number for number, name in enumerate(_threads(config))}
    slices = slices_of(step, config)
    causes = Causes(step, slices)
    for s in slices:
        args: dict[str, Any] = {
            "step": step.name, "layer": s.layer, "instruction": s.pc, "address": f"{32 * s.pc:#x}", "opcode": s.opcode,
            "dispatched": s.dispatched, "left queue": s.taken, "first work": s.begin, "last work": s.end - 1,
        }  # fmt: skip
        args |= {name: count for name in ("bytes", "waves", "rows") if (count := getattr(s, name))}
        if (cause := causes.before(s)) is not None:
            args["waited for"] = f"{cause.name} ({cause.track}, instruction {cause.pc})"
        if not s.finished:
            args["finished"] = False
        title = f"L{s.layer} {s.name}" if s.layer >= 0 else s.name
        yield _event(title, s.kind, threads[s.track], offset + s.start, s.end - s.start, args)
    held = {low: queue for low, _, queue in full_queues(step, config)}
    for unit, counter, low, high in state_runs(step.trace, config):
        state = state_of(counter, unit)
        if state not in (*BUSY, "idle", ""):
            name = f"{held[low]} full" if state == "full" else state
            yield _event(name, "waits", threads[f"{unit} waits"], offset + low, high - low, {"counter": counter})


def full_queues(step: TracedStep, config: MachineConfig) -> Iterator[tuple[int, int, str]]:
    """Yield (first cycle, cycle after the last, queue) of each stretch in which a full queue holds the dispatcher.

    Instructions behind the one that is held cannot enter their queues either. Of several queues that the instruction
    enters, the one named is the fullest at the end.
    """
    dispatched = step.trace.cycles_of("instructions")
    queues = [issue_queues(i) for i in step.instructions[: len(dispatched)]]
    entered = {q: dispatched[[q in names for names in queues]] for q in queue_names(config)}
    for unit, counter, low, high in state_runs(step.trace, config):
        if unit == "dispatcher" and counter == "dispatch_full":
            names = issue_queues(step.instructions[int(np.searchsorted(dispatched, low))])
            times = [(entered[q], step.trace.taken[q]) for q in names]
            inside = [int(np.searchsorted(came, high - 1) - np.searchsorted(left, high - 1)) for came, left in times]
            yield low, high, names[int(np.argmax(inside))]


class Causes:
    """Finds what a slice waited for: the last post before its first work to a semaphore that it waited for."""

    def __init__(self, step: TracedStep, slices: Sequence[Slice]) -> None:
        self._step = step
        self._posts: dict[int, list[Slice]] = {}
        for s in sorted(slices, key=lambda s: s.end):
            instruction = step.instructions[s.pc]
            for number in range(2):
                if instruction[f"post{number}_en"]:
                    self._posts.setdefault(instruction[f"post{number}_sem"], []).append(s)

    def before(self, waiter: Slice) -> Slice | None:
        """Return the slice whose end let `waiter` start, or None if it waited for no semaphore."""
        instruction = self._step.instructions[waiter.pc]
        found: list[Slice] = []
        for number in range(2):
            posts = self._posts.get(instruction[f"wait{number}_sem"], [])
            place = bisect_right(posts, waiter.begin, key=lambda s: s.end)
            if instruction[f"wait{number}_count"] and place:
                found.append(posts[place - 1])
        return max(found, key=lambda s: s.end, default=None)
