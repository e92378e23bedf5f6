# SPDX-License-Identifier: Apache-2.0
"""PE utilisation of the simulated machine: resident operands, mixes of GEMV and GEMM, operands from memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from hdl.config import MachineConfig
from hdl.errors import A3dError
from hdl.isa import Mapping3D
from hdl.scratch import whole_file
from sim.machine.system import Job, JobResult, SimulatedMachine, stream_bytes
from sim.measure.programs import (
    Program,
    Residents,
    macs_of,
    memory_limits,
    mix_program,
    resident_images,
    resident_program,
    streamed_program,
)

__all__ = [
    "MANY",
    "MIX_SHARES",
    "TOKENS",
    "MemoryPoint",
    "Point",
    "as_json",
    "draw",
    "measure_from_memory",
    "measure_resident",
    "resident_jobs",
    "run_repeated",
]

TOKENS = (1, 2, 3, 4, 8, 16, 32, 64)
"""Tokens of the operations (per tier, for the M mapping)."""

MIX_SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
"""Shares of the MACs in M=1 operations."""

MANY = 64
"""Tokens of the other operations of a mix, where there are accumulators for them."""

MIX = "mix"

MOST_JOBS = 256
"""Runs that are handed to the simulator at a time."""


@dataclass(frozen=True)
class Point:
    """One resident measurement.

    Attributes
    ----------
    feed : str
        ``vertical`` or ``edge``.
    mapping : str
        ``alone``, ``M``, ``N``, ``K``, or ``mix`` (tiers alone, operations of 1 and of `MANY` tokens).
    m : int
        Tokens of an operation (mix: `MANY`).
    gemv_share : float
        Share of the MACs that are in operations with one token.
    macs : int
        Useful multiply-accumulates.
    cycles : int
        From the first instruction's issue to the last result row written.
    utilisation : float
        ``macs / (PEs x cycles)``.
    """

    feed: str
    mapping: str
    m: int
    gemv_share: float
    macs: int
    cycles: int
    utilisation: float


@dataclass(frozen=True)
class MemoryPoint:
    """One measurement with nothing resident.

    Attributes
    ----------
    m : int
        Tokens.
    bytes : int
        Bytes that had to move: weights, activations, multipliers, instructions.
    macs : int
    cycles : int
        From the first instruction's issue to the last result row written.
    bound_cycles : float
        The larger of MACs / PEs and bytes / peak bandwidth.
    fraction : float
        ``bound_cycles / cycles``.
    """

    m: int
    bytes: int
    macs: int
    cycles: int
    bound_cycles: float
    fraction: float


def active_cycles(result: JobResult) -> int:
    """Return the cycles from the first instruction's issue to the last result written, both included."""
    if not result.done:
        raise A3dError(f"bench: the machine stopped with {result.error!r} at instruction {result.error_pc}")
    return result.counters["last_result"] - result.counters["first_issue"] + 1


def _waves(feed: str, tokens: int, rows: int, waves: int) -> int:
    # The edge feed takes `rows` cycles a tile: fewer waves give the same number of cycles.
    return waves if feed == "vertical" else max(256, waves * min(tokens, rows) // rows)


def usable(config: MachineConfig, tokens: Sequence[int]) -> list[int]:
    """Return those token counts for which the machine has accumulators, one an operation and token."""
    return [count for count in tokens if count <= config.accumulator_depth]


def run_repeated(
    machine: SimulatedMachine, setup: Sequence[Job], programs: Sequence[tuple[Job, int]]
) -> list[tuple[int, float, int]]:
    """Run each job as often as its number says, after the jobs `setup`.

    However many there are, no more than `MOST_JOBS` are described at a time.

    Returns
    -------
    list of (int, float, int)
        For each program the sum of its active cycles, of its wall-clock seconds, and of all its cycles.
    """
    totals = [(0, 0.0, 0) for _ in programs]
    order = (index for index, (_, repeats) in enumerate(programs) for _ in range(repeats))
    while batch := list(islice(order, MOST_JOBS)):
        jobs = [programs[index][0] for index in batch]
        # No run changes the memories: what they hold is written once for all runs in a row.
        jobs = [
            replace(job, images=None, patches=()) if n and batch[n - 1] == batch[n] else job
            for n, job in enumerate(jobs)
        ]
        results = machine.run([*setup, *jobs])[len(setup) :]
        for index, result in zip(batch, results, strict=True):
            active, wall, cycles = totals[index]
            active += active_cycles(result)
            totals[index] = (active, wall + result.wall_s, cycles + result.counters["cycles"])
    return totals


def resident_jobs(
    config: MachineConfig, residents: Residents, programs: Sequence[Program]
) -> tuple[Job, list[tuple[Job, int]]]:
    """Return the job that makes operands resident, and one for each program with its repeats."""
    limits = memory_limits(config)
    images = resident_images(config, residents)
    setup = Job(images=images, stream_base=residents.setup_base, limits=limits, dump=False)
    jobs = []
    for program in programs:
        stream = stream_bytes(program.instructions)
        stream += bytes(-len(stream) % config.group_bytes)
        # An operation with fewer waves than the tile has rows waits for the edge feed.
        most = 100_000 + 8 * config.rows * program.waves
        jobs.append(
            (
                Job(
                    images=None, patches=[(0, residents.stream_base, stream)], stream_base=residents.stream_base,
                    limits=limits, invalidate=False, dump=False, max_cycles=most,
                ),
                program.repeats,
            )
        )  # fmt: skip
    return setup, jobs


def measure_resident(
    machine: SimulatedMachine, mappings: Sequence[Mapping3D], tokens: Sequence[int], shares: Sequence[float], waves: int
) -> list[Point]:
    """Run every mapping and token count, and every mix, on operands that are resident in V-Cache.

    Parameters
    ----------
    machine : SimulatedMachine
    mappings : sequence of Mapping3D
    tokens : sequence of int
        Those that are more than the accumulators are left out.
    shares : sequence of float
        Shares of MACs in M=1 operations of the mixes.
    waves : int
        Waves per tier of each measurement (about its cycles at full utilisation).
    """
    config = machine.config
    feed = config.stationary_feed
    residents = Residents.of(config)
    cases: list[tuple[str, int, float, Program]] = []
    for mapping in mappings:
        for count in usable(config, tokens):
            program = resident_program(config, residents, mapping, count, _waves(feed, count, config.rows, waves))
            name = mapping.name.lower() if mapping == Mapping3D.ALONE else mapping.name
            cases.append((name, count, float(count == 1), program))
    many = min(MANY, config.accumulator_depth)
    for share in shares:
        # The edge feed needs `rows` cycles for every wave of an M=1 operation: half the waves are plenty.
        mix_waves = waves if feed == "vertical" else waves // 2
        cases.append((MIX, many, share, mix_program(config, residents, share, max(1, mix_waves), many)))
    setup, jobs = resident_jobs(config, residents, [program for *_, program in cases])
    points = []
    for (name, count, share, program), (cycles, _, _) in zip(cases, run_repeated(machine, [setup], jobs), strict=True):
        macs = macs_of(config, program.instructions)
        measured = share
        if name == MIX:
            measured = macs_of(config, [i for i in program.instructions if i["tokens"] == 1]) / macs
        macs *= program.repeats
        points.append(Point(feed, name, count, measured, macs, cycles, macs / (config.pes * cycles)))
    return points


def measure_from_memory(machine: SimulatedMachine, tokens: Sequence[int], rounds: int) -> list[MemoryPoint]:
    """Stream all weights from memory, each used once, for every token count that the accumulators hold."""
    config = machine.config
    counts = usable(config, tokens)
    programs = [streamed_program(config, count, rounds) for count in counts]
    limits = memory_limits(config)
    jobs = [
        (
            Job(
                images=p.images, stream_base=p.stream_base, limits=limits, dump=False,
                max_cycles=100_000 + 8 * (p.total_bytes + p.macs // config.pes),
            ),
            p.repeats,
        )
        for p in programs
    ]  # fmt: skip
    points = []
    for count, program, (cycles, _, _) in zip(counts, programs, run_repeated(machine, [], jobs), strict=True):
        macs, size = program.macs * program.repeats, program.total_bytes * program.repeats
        bound = max(macs / config.pes, size / config.peak_bytes)
        points.append(MemoryPoint(count, size, macs, cycles, bound, bound / cycles))
    return points


def draw(points: Sequence[Point], memory: Sequence[MemoryPoint], config: MachineConfig, path: Path) -> None:
    """Draw utilisation against tokens, against the GEMV share, and the fraction of the bound from memory."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.2), layout="constrained")
    axes = figure.subplots(1, 3)
    styles: dict[Literal["vertical", "edge"] | str, dict[str, Any]] = {
        "vertical": {"linestyle": "-", "marker": "o"},
        "edge": {"linestyle": "--", "marker": "x"},
    }
    colours = {"alone": "C0", "M": "C1", "N": "C2", "K": "C3"}
    for feed in ("vertical", "edge"):
        for mapping, colour in colours.items():
            chosen = [p for p in points if p.feed == feed and p.mapping == mapping]
            if chosen:
                label = f"{feed}, {mapping}"
                axes[0].plot(
                    [p.m for p in chosen],
                    [100 * p.utilisation for p in chosen],
                    color=colour,
                    label=label,
                    **styles[feed],
                )
        mixes = [p for p in points if p.feed == feed and p.mapping == MIX]
        if mixes:
            axes[1].plot(
                [100 * p.gemv_share for p in mixes], [100 * p.utilisation for p in mixes], label=feed, **styles[feed]
            )
    axes[0].set(xscale="log", xlabel="tokens M", ylabel="PE utilisation (%)", ylim=(0, 103), title="Resident operands")
    axes[0].set_xticks(list(TOKENS), [str(t) for t in TOKENS])
    axes[0].legend(fontsize=8)
    axes[1].set(xlabel=f"MACs in M=1 operations (%), rest M={MANY}", ylim=(0, 103), title="Mixes, tiers alone")
    if axes[1].lines:
        axes[1].legend(fontsize=8)
    if memory:  # a logarithmic axis needs a point
        axes[2].plot([p.m for p in memory], [100 * p.fraction for p in memory], marker="o")
        axes[2].axhline(95, color="grey", linewidth=0.8, linestyle=":")
        axes[2].set(
            xscale="log", xlabel="tokens M", ylabel="bound / cycles (%)", ylim=(0, 103), title="Weights from memory"
        )
        axes[2].set_xticks(list(TOKENS), [str(t) for t in TOKENS])
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.suptitle(
        f"{config.name}: {config.tiers} x {config.rows} x {config.columns} PEs, {config.peak_bytes} bytes a cycle"
    )
    with whole_file(path) as scratch:
        figure.savefig(scratch, dpi=110)


def as_json(points: Sequence[Point], memory: Sequence[MemoryPoint], config: MachineConfig) -> dict[str, Any]:
    """Return the figures as plain data."""
    return {
        "config": config.to_dict(),
        "points": [asdict(p) for p in points],
        "from_memory": [asdict(p) for p in memory],
    }
