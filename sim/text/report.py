# SPDX-License-Identifier: Apache-2.0
"""What a generation cost: times to tokens, utilisation, bytes, V-Cache reuse, and where every unit's cycles went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from hdl.config import MachineConfig
from hdl.regs import EXHAUSTIVE
from sim.crosscheck import CYCLE_COUNTERS
from sim.text.generator import Generator, StepRecord
from sim.text.model import show

__all__ = ["PHASES", "phase_figures", "sequence_figures", "stalls_of", "summarise"]

PHASES = ("prefill", "decode")

_WORKING = ("wave", "read_beats_0", "read_beats_1", "write_beats_0", "write_beats_1", "vector_rows")
"""Counters of cycles in which a unit does its work; all other counters of `stalls_of` are losses."""


def stalls_of(config: MachineConfig, counters: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Return, for every unit, how many of its cycles went where; each unit's numbers add up to its cycles.

    Returns
    -------
    dict of str to dict of str to int
        Unit, counter, cycles; the tiers count together, so that theirs add up to tiers x cycles.
    """
    units: dict[str, dict[str, int]] = {
        "tiers": {name: sum(counters[f"tier{t}_{name}"] for t in range(config.tiers)) for name in CYCLE_COUNTERS}
    }
    return units | {unit: {name: counters[name] for name in names} for unit, names in EXHAUSTIVE.items()}


def _total(records: Sequence[StepRecord]) -> Counter[str]:
    total: Counter[str] = Counter()
    for record in records:
        total.update(record.counters)
    return total


def phase_figures(config: MachineConfig, records: Sequence[StepRecord]) -> dict[str, Any]:
    """Return the sums over some steps.

    Returns
    -------
    dict
        ``steps, tokens, instructions, macs, cycles, utilisation`` (useful MACs / (PEs x cycles)), ``bytes_0, bytes_1``
        (moved in each channel group, instruction fetch included), ``tile_reads, tiles_filled`` (a tile that a load
        writes to several tiers counts once), ``waves_per_tile_read``, ``vcache_hits`` (share of tile reads without a
        load of their own), ``wall_s, simulated_s, cycles_per_s, stalls``. What needs time is None where the engine
        has none.
    """
    counters = _total(records)
    timed = bool(records) and all(r.cycles is not None for r in records)
    cycles = sum(r.cycles or 0 for r in records) if timed else None
    macs = sum(r.macs for r in records)
    reads = sum(counters[f"tier{t}_new_own"] for t in range(config.tiers))
    waves = sum(counters[f"tier{t}_wave"] for t in range(config.tiers))
    filled = counters["fill_words"] // config.fill_words
    simulated = sum(r.simulated_s for r in records)
    beats = [counters[f"read_beats_{g}"] + counters[f"write_beats_{g}"] for g in range(2)]
    beats[0] += counters["fetch_beats"]
    return {
        "steps": len(records),
        "tokens": sum(r.tokens for r in records),
        "instructions": sum(r.instructions for r in records),
        "macs": macs,
        "cycles": cycles,
        "utilisation": macs / (config.pes * cycles) if cycles else None,
        "bytes_0": beats[0] * config.group_bytes,
        "bytes_1": beats[1] * config.group_bytes,
        "tile_reads": reads,
        "tiles_filled": filled,
        "waves_per_tile_read": waves / reads if reads else None,
        "vcache_hits": 1 - filled / reads if reads else None,
        "wall_s": sum(r.host_s + r.run_s for r in records),
        "simulated_s": simulated,
        "cycles_per_s": cycles / simulated if cycles and simulated else None,
        "stalls": stalls_of(config, counters) if timed else None,
    }


def sequence_figures(records: Sequence[StepRecord], sequence: int) -> dict[str, Any]:
    """Return a sequence's tokens, and the machine's cycles to them.

    Returns
    -------
    dict
        ``tokens`` (numbers), ``ttft_cycles`` (all cycles of the machine up to the end of the step that gave the first
        token), ``tpot_cycles`` (cycles from token to token after that, on average; None for a single token). Time
        that the host takes between steps does not count.
    """
    clock, tokens, times = 0, [], []
    for record in records:
        clock += record.cycles or 0
        if sequence in record.chosen:
            tokens.append(record.chosen[sequence])
            times.append(clock)
    timed = bool(times) and all(r.cycles is not None for r in records)
    return {
        "tokens": tokens,
        "ttft_cycles": times[0] if timed else None,
        "tpot_cycles": (times[-1] - times[0]) / (len(times) - 1) if timed and len(times) > 1 else None,
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def summarise(
    generator: Generator, records: Sequence[StepRecord], engine: str, *, clock_mhz: float | None = None
) -> dict[str, Any]:
    """Return the report of a generation as plain data.

    Parameters
    ----------
    generator : Generator
        What ran.
    records : sequence of StepRecord
        All its steps.
    engine : str
        Name of the engine.
    clock_mhz : float, optional
        Clock for which tokens per second are worked out.
    """
    config = generator.config
    sequences = []
    for number, prompt in enumerate(generator.prompts):
        own = sequence_figures(records, number)
        texts = {"prompt": show(bytes(prompt)), "text": show(bytes(own["tokens"]))}
        stopped = bool(own["tokens"]) and own["tokens"][-1] in generator.stop
        sequences.append({"prompt_tokens": len(prompt), **own, "stopped": stopped, **texts})
    whole = phase_figures(config, records)
    phases = {phase: phase_figures(config, [r for r in records if r.phase == phase]) for phase in PHASES}
    generated = sum(len(s["tokens"]) for s in sequences)
    report = {
        "config": config.to_dict(),
        "engine": engine,
        "routing": generator.routing,
        "batch": generator.batch,
        "temperature": generator.sampler.temperature,
        "seed": generator.sampler.seed,
        "tokens": generated,
        "mismatched_bytes": sum(r.mismatched_bytes for r in records),
        "compared_bytes": sum(r.compared_bytes for r in records),
        "ttft_cycles": _mean([s["ttft_cycles"] for s in sequences]),
        "tpot_cycles": _mean([s["tpot_cycles"] for s in sequences]),
        "sequences": sequences,
        "total": whole,
        **phases,
        "steps": [_plain(r) for r in records],
    }
    if clock_mhz is not None:
        report |= {"clock_mhz": clock_mhz, **_speeds(report, clock_mhz)}
    return report


def _plain(record: StepRecord) -> dict[str, Any]:
    """Return a record without its trace, which a timeline shows."""
    return {f.name: getattr(record, f.name) for f in fields(record) if f.name != "traced"}


def _speeds(report: Mapping[str, Any], clock_mhz: float) -> dict[str, Any]:
    """Return what the cycles mean at a clock."""
    decode, prefill = report["decode"], report["prefill"]
    ttft = report["ttft_cycles"]
    per_second = {
        f"{phase}_tokens_per_s": own["tokens"] * clock_mhz * 1e6 / own["cycles"] if own["cycles"] else None
        for phase, own in (("prefill", prefill), ("decode", decode))
    }
    return {"ttft_ms": None if ttft is None else ttft / clock_mhz / 1e3, **per_second}


def loss_rows(phases: Mapping[str, Any]) -> list[list[object]]:
    """Return table rows: unit, counter, and the share of each phase's cycles in percent; what is 0 is left out."""
    rows: list[list[object]] = []
    timed = {name: own["stalls"] for name, own in phases.items() if own["stalls"] is not None}
    if not timed:
        return rows
    for unit, counters in next(iter(timed.values())).items():
        for name in counters:
            shares = []
            for own in timed.values():
                total = sum(own[unit].values())
                shares.append(round(100 * own[unit][name] / total, 1) if total else 0.0)
            if any(shares):
                rows.append([unit, name, "work" if name in _WORKING else "lost", *shares])
    return rows
