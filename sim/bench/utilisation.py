# SPDX-License-Identifier: Apache-2.0
"""PE utilisation of the simulated machine: resident operands, mixes of GEMV and GEMM, operands from memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from hdl.config import MachineConfig
from hdl.errors import A3dError
from hdl.isa import Instruction, Mapping3D
from sim.bench.programs import macs_of, mix_program, resident_images, resident_program, streamed_program
from sim.system import Job, JobResult, SimulatedMachine, place_stream

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
]

TOKENS = (1, 2, 3, 4, 8, 16, 32, 64)
"""Tokens of the operations (per tier, for the M mapping)."""

MIX_SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
"""Shares of the MACs in M=1 operations."""

MANY = 64
"""Tokens of the other operations of a mix."""

MIX = "mix"


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


def measure_resident(
    machine: SimulatedMachine, mappings: Sequence[Mapping3D], tokens: Sequence[int], shares: Sequence[float], waves: int
) -> list[Point]:
    """Run every mapping and token count, and every mix, on operands that are resident in V-Cache.

    Parameters
    ----------
    machine : SimulatedMachine
    mappings : sequence of Mapping3D
    tokens : sequence of int
    shares : sequence of float
        Shares of MACs in M=1 operations of the mixes.
    waves : int
        Waves per tier of each measurement (about its cycles at full utilisation).
    """
    config = machine.config
    feed = config.stationary_feed
    cases: list[tuple[str, int, float, list[Instruction]]] = []
    for mapping in mappings:
        for count in tokens:
            program = resident_program(config, mapping, count, _waves(feed, count, config.rows, waves))
            name = mapping.name.lower() if mapping == Mapping3D.ALONE else mapping.name
            cases.append((name, count, float(count == 1), program))
    for share in shares:
        # The edge feed needs `rows` cycles for every wave of an M=1 operation: half the waves are plenty.
        mix_waves = waves if feed == "vertical" else waves // 2
        cases.append((MIX, MANY, share, mix_program(config, share, mix_waves, MANY)))

    image0, image1, setup = resident_images(config)
    base = -(-len(image0) // 4096) * 4096
    bases: list[int] = []
    images = (image0, image1)
    for _, _, _, program in cases:
        place_stream(images, base, program)
        bases.append(base)
        base += -(-len(program) * 32 // 4096) * 4096
    jobs = [Job(images=(bytes(image0), bytes(image1)), stream_base=setup, dump=False)]
    jobs += [Job(images=None, stream_base=base, invalidate=False, dump=False) for base in bases]
    results = machine.run(jobs)
    points = []
    for (name, count, share, program), result in zip(cases, results[1:], strict=True):
        macs = macs_of(config, program)
        cycles = active_cycles(result)
        measured = share
        if name == MIX:
            single = macs_of(config, [i for i in program if i["tokens"] == 1])
            measured = single / macs
        points.append(Point(feed, name, count, measured, macs, cycles, macs / (config.pes * cycles)))
    return points


def measure_from_memory(machine: SimulatedMachine, tokens: Sequence[int], rounds: int) -> list[MemoryPoint]:
    """Stream all weights from memory, each used once, for every token count."""
    config = machine.config
    points = []
    programs = [streamed_program(config, count, rounds) for count in tokens]
    jobs = [Job(images=p.images, stream_base=p.stream_base, dump=False) for p in programs]
    for count, program, result in zip(tokens, programs, machine.run(jobs), strict=True):
        cycles = active_cycles(result)
        bound = max(program.macs / config.pes, program.total_bytes / config.peak_bytes)
        points.append(MemoryPoint(count, program.total_bytes, program.macs, cycles, bound, bound / cycles))
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
    axes[1].legend(fontsize=8)
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
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def as_json(points: Sequence[Point], memory: Sequence[MemoryPoint], config: MachineConfig) -> dict[str, Any]:
    """Return the figures as plain data."""
    return {
        "config": config.to_dict(),
        "points": [asdict(p) for p in points],
        "from_memory": [asdict(p) for p in memory],
    }
