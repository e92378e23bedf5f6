# SPDX-License-Identifier: Apache-2.0
"""Traces of the emitted machine against its counters and its streams, and the timelines made of them."""

from __future__ import annotations

import json
import random
from functools import cache
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np
import pytest

from hdl.config import ADDRESS_UNIT, PRESETS, MachineConfig
from hdl.isa import Opcode, beats, gang_tiers, issue_queues, queue_names
from hdl.regs import exhaustive_counters, traced_counters
from sim.machine.system import Job, JobResult, MemoryKnobs, SimulatedMachine
from sim.measure.crosscheck import random_knobs
from sim.stimulus.streams import random_stream
from sim.view.timeline import Slice, TracedStep, full_queues, slices_of, state_of, state_runs, write_timeline
from sim.view.trace import TraceError, read_trace
from tests.support.language import CONFIGS as LANGUAGE_CONFIGS
from tests.support.language import try_reference

NANO, TINY = PRESETS["nano"], PRESETS["tiny"]


@cache
def machine(name: str, simulator: str = "verilator") -> SimulatedMachine:
    return SimulatedMachine(PRESETS[name], memory_bits=18, simulator=simulator)


@cache
def random_steps(name: str) -> list[tuple[TracedStep, JobResult]]:
    """Run random streams under random stalls."""
    config, rng = PRESETS[name], random.Random(3)
    streams = [random_stream(config, 700 + seed) for seed in range(12)]
    jobs = [
        Job(images=s.images, stream_base=s.stream_base, limits=s.limits, knobs=random_knobs(rng), trace=True)
        for s in streams
    ]
    pairs = zip(streams, run(name, jobs), strict=True)
    return [(traced(f"stream {n}", s.instructions, r), r) for n, (s, r) in enumerate(pairs)]


def run(name: str, jobs: list[Job]) -> list[JobResult]:
    return machine(name).run(jobs)


def traced(name: str, instructions, result: JobResult, labels=None) -> TracedStep:  # type: ignore[no-untyped-def]
    assert result.done and result.trace is not None, f"{result.error!r} at {result.error_pc}"
    return TracedStep(name=name, instructions=instructions, trace=result.trace, labels=labels)


@cache
def language_steps() -> tuple[MachineConfig, list[tuple[TracedStep, JobResult]]]:
    """Run the steps of a random language model with two layers."""
    config = LANGUAGE_CONFIGS["tiny"]
    references = (try_reference(config, seed) for seed in range(40))
    reference = next(r for r in references if r is not None and len(r.model.layers) == 2)
    jobs, programs = [], []
    for chunks in reference.steps:
        program = reference.step(chunks)
        jobs.append(reference.job(program, trace=True))
        programs.append(program)
    return config, [
        (traced(f"step {n}", p.instructions, r, p.labels), r)
        for n, (p, r) in enumerate(zip(programs, run("tiny", jobs), strict=True))
    ]


def all_steps(name: str) -> list[tuple[TracedStep, JobResult]]:
    return language_steps()[1] if name == "language" else random_steps(name)


def config_of(name: str) -> MachineConfig:
    return TINY if name == "language" else PRESETS[name]


STEPS = pytest.mark.parametrize("name", ["nano", "tiny", "language"])


@STEPS
def test_activity_is_what_the_counters_count(name: str) -> None:
    for step, result in all_steps(name):
        assert step.trace.cycles == result.counters["cycles"]
        for counter, total in step.trace.totals().items():
            assert total == result.counters[counter], f"{step.name}: {counter}"


@STEPS
def test_exactly_one_state_of_each_unit_holds_in_each_cycle(name: str) -> None:
    config = config_of(name)
    for step, result in all_steps(name):
        lengths: dict[str, int] = {}
        reached = dict.fromkeys(traced_counters(config), 0)
        for unit, counter, low, high in state_runs(step.trace, config):
            assert low == reached[unit] < high
            reached[unit] = high
            lengths[counter] = lengths.get(counter, 0) + high - low
        assert set(reached.values()) == {step.trace.cycles}
        after_end = lengths.pop("")
        assert (
            0 < after_end == step.trace.cycles - sum(lengths.get(c, 0) for c in traced_counters(config)["dispatcher"])
        )
        assert all(result.counters[counter] == length for counter, length in lengths.items())


@pytest.mark.slow
@STEPS
def test_every_instruction_has_one_slice_a_queue_and_slices_do_not_overlap(name: str) -> None:
    config = config_of(name)
    for step, _ in all_steps(name):
        slices = slices_of(step, config)
        expected = [(q, pc) for pc, i in enumerate(step.instructions) for q in issue_queues(i)]
        assert sorted((s.track, s.pc) for s in slices) == sorted(expected)
        for _, track in groupby(slices, key=lambda s: s.track):
            for one, other in pairwise(track):
                assert one.pc < other.pc and one.end <= other.start
        for s in slices:
            assert s.dispatched < s.taken < s.begin <= s.start <= s.end <= step.trace.cycles and s.finished


@STEPS
def test_slices_move_what_the_counters_count(name: str) -> None:
    config = config_of(name)
    for step, result in all_steps(name):
        slices = slices_of(step, config)
        for tier in range(config.tiers):
            waves = sum(s.waves for s in slices if s.track == f"tier{tier}")
            assert waves == result.counters[f"tier{tier}_wave"], step.name
        for group in range(2):
            moved = sum(beats(s.bytes, config) for s in slices if s.track == f"load{group}")
            assert moved == result.counters[f"read_beats_{group}"], step.name
        rows = sum(s.rows for s in slices if s.track == "vector")
        assert rows == result.counters["vector_rows"], step.name


@STEPS
def test_the_dispatcher_waits_for_queues_that_are_full(name: str) -> None:
    config, waits = config_of(name), 0
    for step, _ in all_steps(name):
        slices = slices_of(step, config)
        for low, high, queue in full_queues(step, config):
            held = next(s for s in slices if s.track == queue and s.dispatched >= high)
            last = high - 1
            inside = [s for s in slices if s.track == queue and s.dispatched < last <= s.taken]
            assert held.dispatched == high and low < high and len(inside) >= config.queue_depth
            waits += 1
    assert waits > 10


def test_waves_are_issued_within_their_slices() -> None:
    """A tier's waves between the ends of two slices are those of the second one."""
    for step, _ in all_steps("tiny"):
        trace = step.trace
        per_cycle = np.repeat(trace.activity, np.diff(trace.since, append=trace.cycles), axis=0)
        for s in slices_of(step, TINY):
            if s.opcode == "GEMM":
                issued = per_cycle[s.start : s.end, trace.counters.index(f"{s.track}_wave")]
                assert issued.sum() == s.waves and issued[0] and issued[-1]


def test_gangs_start_together() -> None:
    pairs = 0
    for step, _ in all_steps("tiny"):
        begins = {(s.pc, s.track): s.begin for s in slices_of(step, TINY)}
        for pc, instruction in enumerate(step.instructions):
            if instruction.opcode == Opcode.GEMM and instruction["tier_count"] == 2:
                leader, follower = (begins[pc, f"tier{tier}"] for tier in gang_tiers(instruction))
                late = TINY.skew_k - 1 if instruction["mapping"] == 3 else 0
                assert follower - leader == late
                pairs += 1
    assert pairs > 10


def test_both_simulators_write_the_same_trace(icarus: str) -> None:
    stream = random_stream(NANO, 1)
    job = Job(images=stream.images, stream_base=stream.stream_base, limits=stream.limits, trace=True)
    one, other = (machine("nano", simulator).run([job])[0].trace for simulator in ("verilator", icarus))
    assert one is not None and other is not None and one.cycles == other.cycles
    assert np.array_equal(one.activity, other.activity) and np.array_equal(one.since, other.since)
    for field in ("taken", "begin", "end"):
        for queue in queue_names(NANO):
            assert np.array_equal(getattr(one, field)[queue], getattr(other, field)[queue])


def test_a_stream_that_stops_with_an_error_has_a_timeline() -> None:
    stream = random_stream(TINY, 5)
    _, load = [(n, i) for n, i in enumerate(stream.instructions) if i.opcode == Opcode.LOAD][-1]
    first = load["addr"] * ADDRESS_UNIT
    knobs = MemoryKnobs(read_error=(load["group"], first, first + TINY.group_bytes))
    job = Job(images=stream.images, stream_base=stream.stream_base, limits=stream.limits, knobs=knobs, trace=True)
    result = run("tiny", [job])[0]
    assert result.error is not None and result.trace is not None
    step = TracedStep(name="stopped", instructions=stream.instructions, trace=result.trace)
    slices = slices_of(step, TINY)
    assert all(s.start <= s.end <= result.trace.cycles for s in slices)
    failed = [s.finished for s in slices if s.pc == result.error_pc]  # one a load engine
    assert failed and not any(failed)
    assert [s.end for s in slices if not s.finished] and all(
        s.end == result.trace.cycles for s in slices if not s.finished
    )


def test_no_trace_unless_asked_for() -> None:
    stream = random_stream(NANO, 2)
    assert (
        run("nano", [Job(images=stream.images, stream_base=stream.stream_base, limits=stream.limits)])[0].trace is None
    )


def test_the_file_holds_every_slice(tmp_path: Path) -> None:
    config, steps = language_steps()
    path = tmp_path / "steps.trace.json"
    write_timeline(path, [step for step, _ in steps], config)
    assert [p.name for p in tmp_path.iterdir()] == ["steps.trace.json"]
    events = json.loads(path.read_text())["traceEvents"]
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert list(names.values())[: 1 + len(queue_names(config))] == ["host", *queue_names(config)]
    by_thread: dict[str, list[dict[str, int]]] = {name: [] for name in names.values()}
    for e in events:
        if e["ph"] == "X":
            by_thread[names[e["tid"]]].append(e)
    offset = 0
    for step, _ in steps:
        slices = slices_of(step, config)
        host = next(e for e in by_thread["host"] if e["name"] == step.name)
        assert (host["ts"], host["dur"]) == (offset, step.trace.cycles)
        for s in slices:
            assert step.labels is not None
            label = step.labels[s.pc]
            found = next(
                e for e in by_thread[s.track] if e["args"]["step"] == step.name and e["args"]["instruction"] == s.pc
            )
            assert (found["name"], found["ts"], found["dur"]) == (str(label), offset + s.start, s.end - s.start)
            assert found["args"].get("bytes", 0) == s.bytes
        offset += step.trace.cycles
    assert sum(len(by_thread[q]) for q in queue_names(config)) == sum(len(slices_of(s, config)) for s, _ in steps)
    waits = sum(e["dur"] for e in by_thread["tier 0 waits"])
    counters = [r.counters for _, r in steps]
    names_of = exhaustive_counters(config)["tier 0"]
    assert waits == sum(c[n] for c in counters for n in names_of if state_of(n, "tier 0") not in ("wave", "idle"))
    for thread in by_thread.values():
        assert all(one["ts"] + one["dur"] <= other["ts"] for one, other in pairwise(thread))


def test_what_a_slice_waited_for_ended_before_it(tmp_path: Path) -> None:
    config, steps = language_steps()
    step = steps[0][0]
    path = tmp_path / "step.trace.json"
    write_timeline(path, [step], config)
    ends: dict[int, list[Slice]] = {}
    for s in slices_of(step, config):
        ends.setdefault(s.pc, []).append(s)
    found = 0
    for e in json.loads(path.read_text())["traceEvents"]:
        if "waited for" in e.get("args", {}):
            cause = int(e["args"]["waited for"].rsplit(" ", 1)[1].rstrip(")"))
            waiter = step.instructions[e["args"]["instruction"]]
            posts = {
                step.instructions[cause][f"post{n}_sem"] for n in range(2) if step.instructions[cause][f"post{n}_en"]
            }
            assert posts & {waiter[f"wait{n}_sem"] for n in range(2) if waiter[f"wait{n}_count"]}
            assert min(s.end for s in ends[cause]) <= e["args"]["first work"]
            found += 1
    assert found > 20


def test_files_that_are_no_trace_of_one_stream(tmp_path: Path) -> None:
    path = tmp_path / "trace.txt"
    path.write_text("0 0 0\n")
    with pytest.raises(TraceError, match="no stream ends"):
        read_trace(path, NANO)
    path.write_text("0 0 0\nend 5\n0 0 0\nend 5\n")
    with pytest.raises(TraceError, match="more than one stream"):
        read_trace(path, NANO)


def test_a_trace_of_another_stream_is_refused() -> None:
    step = all_steps("nano")[0][0]
    with pytest.raises(TraceError, match="do not belong together"):
        slices_of(TracedStep(name="x", instructions=step.instructions[:3], trace=step.trace), NANO)
