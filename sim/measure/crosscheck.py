# SPDX-License-Identifier: Apache-2.0
"""Level 1 of correctness: the simulated machine against the executor, every byte and every exact counter."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from hdl.config import MachineConfig
from hdl.errors import A3dError
from hdl.regs import EXHAUSTIVE
from sim.golden.executor import Executor
from sim.machine.system import Job, JobResult, MemoryKnobs, SimulatedMachine
from sim.stimulus.streams import IllegalStream, RandomStream

__all__ = ["MismatchError", "check_illegal", "check_random", "compare_counters", "compare_memory", "random_knobs"]

EXACT_COUNTERS = (
    "instructions", "read_beats_0", "read_beats_1", "write_beats_0", "write_beats_1", "fill_words", "rows",
    "vector_rows", "loads_left_out", "loads_reduced",
)  # fmt: skip
EXACT_TIER_COUNTERS = ("wave", "new_own", "link_m", "link_n", "link_k")
CYCLE_COUNTERS = ("wave", "stall_tag", "stall_credit", "stall_edge", "wait_semaphore", "wait_gang", "idle")


class MismatchError(A3dError):
    """The machine and the executor disagree."""

    exit_status = 1


def random_knobs(rng: random.Random) -> MemoryKnobs:
    """Return a memory behaviour: every fourth without randomness, the others with stalls and reordering."""
    if rng.random() < 0.25:
        return MemoryKnobs(latency=rng.randint(2, 60), seed=rng.randrange(1, 1 << 31))
    return MemoryKnobs(
        latency=rng.randint(2, 60),
        random_latency=rng.choice([0, 3, 20, 100]),
        stall_rate=rng.choice([10, 60, 128, 200]),
        seed=rng.randrange(1, 1 << 31),
    )


def compare_counters(config: MachineConfig, expected: dict[str, int], got: JobResult) -> list[str]:
    """Return a line for every exactly defined counter that differs, and for units whose cycles do not add up."""
    lines = []
    names = [*EXACT_COUNTERS, *(f"tier{t}_{n}" for t in range(config.tiers) for n in EXACT_TIER_COUNTERS)]
    for name in names:
        if expected.get(name, 0) != got.counters[name]:
            lines.append(f"counter {name}: expected {expected.get(name, 0)}, got {got.counters[name]}")
    units = {f"tier {tier}": tuple(f"tier{tier}_{name}" for name in CYCLE_COUNTERS) for tier in range(config.tiers)}
    for unit, parts in {**units, **EXHAUSTIVE}.items():
        total = sum(got.counters[name] for name in parts)
        if total != got.counters["cycles"]:
            lines.append(f"{unit}: cycle counters add up to {total} of {got.counters['cycles']} cycles")
    return lines


def compare_memory(expected: Sequence[np.ndarray], got: JobResult) -> list[str]:
    """Return a line for each group whose memory is not the expected one (shorter: the rest zero)."""
    lines = []
    assert got.memory is not None
    for group in range(2):
        image = expected[group]
        seen = got.memory[group]
        wide = np.zeros(seen.size, dtype=np.uint8)
        wide[: image.size] = image
        differing = np.flatnonzero(wide != seen)
        if differing.size:
            first = int(differing[0])
            lines.append(
                f"group {group}: {differing.size} bytes differ, first at {first:#x}: "
                f"expected {wide[first]:#04x}, got {seen[first]:#04x}"
            )
    return lines


def check_random(
    machine: SimulatedMachine, streams: Sequence[RandomStream], knobs: Sequence[MemoryKnobs]
) -> list[JobResult]:
    """Run streams one after the other on one machine; every byte and every exact counter must agree.

    Raises
    ------
    MismatchError
        Names the stream's seed and every difference.
    """
    config = machine.config
    jobs = [
        Job(images=s.images, stream_base=s.stream_base, limits=s.limits, knobs=k, max_cycles=400_000)
        for s, k in zip(streams, knobs, strict=True)
    ]
    results = machine.run(jobs)
    executor = Executor(config)
    for stream, knob, result in zip(streams, knobs, results, strict=True):
        executor.memory = [np.frombuffer(image, dtype=np.uint8).copy() for image in stream.images]
        executor.limits = stream.limits
        executor.counters.clear()
        executor.tags[:] = -1
        executor.run(stream.instructions)
        lines = [] if result.done else [f"the machine stopped: {result.error!r} at instruction {result.error_pc}"]
        lines += compare_memory(executor.memory, result)
        lines += compare_counters(config, dict(executor.counters), result)
        if lines:
            raise MismatchError(f"{config.name}, stream seed {stream.seed}, {knob}: " + "; ".join(lines))
    return results


def check_illegal(
    machine: SimulatedMachine, bad: Sequence[IllegalStream], good: RandomStream, knobs: Sequence[MemoryKnobs]
) -> list[JobResult]:
    """Run each bad stream, then the good one: right code, place and address, nothing else changed, machine restarts.

    Raises
    ------
    MismatchError
        Names the bad stream and every difference.
    """
    config = machine.config
    jobs: list[Job] = []
    for stream, knob in zip(bad, knobs, strict=True):
        jobs.append(
            Job(
                images=stream.images,
                stream_base=stream.stream_base,
                limits=stream.limits,
                knobs=knob,
                max_cycles=200_000,
            )
        )
        jobs.append(Job(images=good.images, stream_base=good.stream_base, limits=good.limits, knobs=knob))
    results = machine.run(jobs)
    reference = Executor(config, good.images, good.limits)
    reference.run(good.instructions)
    for index, stream in enumerate(bad):
        failed, restarted = results[2 * index], results[2 * index + 1]
        lines = []
        if failed.error != stream.code or (stream.pc is not None and failed.error_pc != stream.pc):
            got = f"{failed.error!r} at {failed.error_pc} (done={failed.done})"
            lines.append(f"expected {stream.code!r} at {stream.pc}, got {got}")
        elif stream.address is not None and failed.error_address != stream.address:
            lines.append(f"expected address {stream.address:#x}, got {failed.error_address:#x}")
        lines += _outside_window(stream, failed)
        if not restarted.done:
            lines.append(f"the next stream stopped with {restarted.error!r} at {restarted.error_pc}")
        lines += [f"next stream: {line}" for line in compare_memory(reference.memory, restarted)]
        if lines:
            raise MismatchError(f"{config.name}, {stream.name}: " + "; ".join(lines))
    return results


def _outside_window(stream: IllegalStream, result: JobResult) -> list[str]:
    """Return a line for each group in which a byte outside the output window changed."""
    lines = []
    assert result.memory is not None
    for group in range(2):
        image = np.zeros(result.memory[group].size, dtype=np.uint8)
        data = np.frombuffer(stream.images[group], dtype=np.uint8)
        image[: data.size] = data
        changed = np.flatnonzero(image != result.memory[group])
        first, end = stream.limits.window[group]
        outside = changed[(changed < first) | (changed >= end)]
        if outside.size:
            lines.append(f"group {group}: byte {int(outside[0]):#x} outside the output window changed")
    return lines
