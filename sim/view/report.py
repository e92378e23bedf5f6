# SPDX-License-Identifier: Apache-2.0
"""What a generation cost: times of tokens, utilisation, bytes, V-Cache reuse, and where every unit's cycles went."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any

import numpy as np

from hdl.config import MachineConfig
from hdl.regs import EXHAUSTIVE
from scheduler.cost.energy.activity import Activity
from scheduler.cost.links import LinkBytes
from scheduler.serving.batcher import PHASES
from scheduler.serving.request import Request
from sim.machine.byte_model import show
from sim.machine.generator import Generator, StepRecord
from sim.measure.crosscheck import CYCLE_COUNTERS
from sim.view.timeline import TracedStep

__all__ = ["Tally", "between_tokens", "loss_rows", "stalls_of", "summarise"]

_LARGE = ("counters", "traced", "beside", "links", "activity", "planned")
"""Fields of a step's record that are not kept for each step."""

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


@dataclass(eq=False)
class _Sums:
    """Sums over the steps of one phase."""

    steps: int = 0
    tokens: int = 0
    instructions: int = 0
    macs: int = 0
    cycles: int = 0
    timed: bool = True
    wall_s: float = 0.0
    simulated_s: float = 0.0
    mismatched_bytes: int = 0
    compared_bytes: int = 0
    counters: Counter[str] = field(default_factory=Counter)
    links: LinkBytes = field(default_factory=LinkBytes)
    activity: Activity | None = None

    def add(self, record: StepRecord) -> None:
        self.steps += 1
        self.tokens += record.tokens
        self.instructions += record.instructions
        self.macs += record.macs
        self.cycles += record.cycles or 0
        self.timed = self.timed and record.cycles is not None
        self.wall_s += record.host_s + record.run_s
        self.simulated_s += record.simulated_s
        self.mismatched_bytes += record.mismatched_bytes
        self.compared_bytes += record.compared_bytes
        self.counters.update(record.counters)
        self.links += record.links
        if record.activity is not None:
            self.activity = record.activity if self.activity is None else self.activity + record.activity

    def figures(self, config: MachineConfig) -> dict[str, Any]:
        counters = self.counters
        cycles = self.cycles if self.timed and self.steps else None
        reads = sum(counters[f"tier{t}_new_own"] for t in range(config.tiers))
        waves = sum(counters[f"tier{t}_wave"] for t in range(config.tiers))
        filled = counters["fill_words"] // config.fill_words
        beats = [counters[f"read_beats_{g}"] + counters[f"write_beats_{g}"] for g in range(2)]
        beats[0] += counters["fetch_beats"]
        return {
            "steps": self.steps,
            "tokens": self.tokens,
            "instructions": self.instructions,
            "macs": self.macs,
            "cycles": cycles,
            "utilisation": self.macs / (config.pes * cycles) if cycles else None,
            "bytes_0": beats[0] * config.group_bytes,
            "bytes_1": beats[1] * config.group_bytes,
            "links": self.links.to_dict(),
            "tile_reads": reads,
            "tiles_filled": filled,
            "waves_per_tile_read": waves / reads if reads else None,
            "vcache_hits": 1 - filled / reads if reads else None,
            "wall_s": self.wall_s,
            "simulated_s": self.simulated_s,
            "cycles_per_s": cycles / self.simulated_s if cycles and self.simulated_s else None,
            "stalls": stalls_of(config, counters) if cycles is not None else None,
        }


@dataclass(eq=False)
class _Tokens:
    """A sequence's tokens, and the machine's clock when each of them came."""

    tokens: list[int] = field(default_factory=list)
    cycles: list[int] = field(default_factory=list)


class Tally:
    """Adds up the steps of a generation: of each step it keeps a few numbers, however long the generation is.

    Parameters
    ----------
    generator : Generator
        What runs.
    engine : str
        Name of the engine.

    Attributes
    ----------
    timelines : dict of str to TracedStep
        The first traced step of each phase; ``other``: of a step by another policy.
    """

    def __init__(self, generator: Generator, engine: str) -> None:
        self._generator = generator
        self._engine = engine
        self._phases = {phase: _Sums() for phase in PHASES}
        self._total = _Sums()
        self._sequences: defaultdict[int, _Tokens] = defaultdict(_Tokens)
        self._end = 0
        self._steps: list[dict[str, Any]] = []
        self.timelines: dict[str, TracedStep] = {}
        self._compared: dict[str, Any] | None = None

    def add(self, record: StepRecord) -> None:
        """Take in a step."""
        self._phases[record.phase].add(record)
        self._total.add(record)
        self._end = record.start + (record.cycles or 0)
        for number, token in record.chosen.items():
            self._sequences[number].tokens.append(token)
            self._sequences[number].cycles.append(self._end)
        self._steps.append({f.name: getattr(record, f.name) for f in fields(record) if f.name not in _LARGE})
        if record.traced is not None:
            self.timelines.setdefault(record.phase, record.traced)
        if record.beside is not None:
            other = record.beside
            self._compared = {
                "step": record.number,
                "policy": other.policy,
                "policy_cycles": other.cycles,
                "cycles": record.cycles,
            }
            self._total.compared_bytes += other.compared_bytes
            self._total.mismatched_bytes += other.mismatched_bytes
            if other.traced is not None:
                self.timelines["other"] = other.traced

    @property
    def counters(self) -> dict[str, Counter[str]]:
        """Sums of the performance counters in each phase that has steps."""
        return {phase: own.counters for phase, own in self._phases.items() if own.steps}

    @property
    def activities(self) -> dict[str, tuple[Activity, int]]:
        """Sums of what the machine did in each phase, where that was counted, with the tokens that went through it."""
        return {phase: (own.activity, own.tokens) for phase, own in self._phases.items() if own.activity is not None}

    def report(self, *, clock_mhz: float | None = None) -> dict[str, Any]:
        """Return the report as plain data.

        Parameters
        ----------
        clock_mhz : float, optional
            Clock for which tokens per second are worked out.

        Returns
        -------
        dict
            ``config, engine, routing, batch, batching, step_tokens, shared_tokens, temperature, seed``, ``tokens``
            (generated),
            ``mismatched_bytes, compared_bytes, ttft_cycles, tpot_cycles`` (means over the sequences),
            ``between_tokens`` (:func:`between_tokens`), ``end_cycle`` (the machine's clock at the end),
            ``idle_cycles`` (in which no request was there), ``compared`` (a step that ran by another policy too:
            ``step, policy, policy_cycles, cycles``; else None), and

            ``sequences``
                ``prompt_tokens, tokens`` (numbers), ``arrival`` (cycle), ``token_cycles`` (the machine's clock when
                each token came: at the end of its step), ``ttft_cycles`` (from the arrival to the first token),
                ``tpot_cycles`` (cycles from token to token after that, on average; None for a single token),
                ``stopped`` (by the model's token for the end), ``prompt, text``. Time that the host takes between
                steps does not count.
            ``total, prefill, mixed, decode``
                ``steps, tokens, instructions, macs, cycles, utilisation`` (useful MACs / (PEs x cycles)), ``bytes_0,
                bytes_1`` (moved in each channel group, instruction fetch included), ``links`` (bytes ``vertical,
                lateral, offchip``, each by kind too, and by bond: `LinkBytes.to_dict`), ``tile_reads, tiles_filled`` (a
                tile that a load writes to several tiers counts once), ``waves_per_tile_read``, ``vcache_hits`` (share
                of tile reads without a load of their own), ``wall_s, simulated_s, cycles_per_s, stalls``. What needs
                time is None where the engine has none.
            ``steps``
                The steps' records without counters and traces.
        """
        generator, config, total = self._generator, self._generator.config, self._total
        timed = total.timed and total.steps > 0
        sequences = [_sequence(r, self._sequences[r.number], generator.stop, timed) for r in generator.requests]
        report = {
            "config": config.to_dict(),
            "engine": self._engine,
            "routing": generator.routing,
            "batch": generator.batch,
            "batching": generator.batcher.batching,
            "shared_tokens": generator.batcher.shared_tokens,
            "step_tokens": generator.batcher.step_tokens,
            "temperature": generator.sampler.temperature,
            "seed": generator.sampler.seed,
            "tokens": sum(len(own["tokens"]) for own in sequences),
            "mismatched_bytes": total.mismatched_bytes,
            "compared_bytes": total.compared_bytes,
            "ttft_cycles": _mean([s["ttft_cycles"] for s in sequences]),
            "tpot_cycles": _mean([s["tpot_cycles"] for s in sequences]),
            "between_tokens": between_tokens([s["token_cycles"] for s in sequences]) if timed else None,
            "end_cycle": self._end if timed else None,
            "idle_cycles": self._end - total.cycles if timed else None,
            "sequences": sequences,
            "compared": self._compared,
            "total": total.figures(config),
            **{phase: own.figures(config) for phase, own in self._phases.items()},
            "steps": self._steps,
        }
        if clock_mhz is not None:
            report |= {"clock_mhz": clock_mhz, **_speeds(report, clock_mhz)}
        return report


def _sequence(request: Request, own: _Tokens, stop: Collection[int], timed: bool) -> dict[str, Any]:
    """Return what the report says of a sequence."""
    more = len(own.tokens) - 1
    return {
        "prompt_tokens": len(request.prompt),
        "tokens": own.tokens,
        "arrival": request.arrival,
        "token_cycles": own.cycles if timed else None,
        "ttft_cycles": own.cycles[0] - request.arrival if timed and own.cycles else None,
        "tpot_cycles": (own.cycles[-1] - own.cycles[0]) / more if timed and more > 0 else None,
        "stopped": bool(own.tokens) and own.tokens[-1] in stop,
        "prompt": show(bytes(request.prompt)),
        "text": show(bytes(own.tokens)),
    }


def between_tokens(cycles: Iterable[Sequence[int]]) -> dict[str, float] | None:
    """Return how long sequences waited from one of their tokens to the next.

    Parameters
    ----------
    cycles : iterable of sequences of int
        For each sequence, when each of its tokens came.

    Returns
    -------
    dict or None
        ``p50, p95, max`` over all times of all sequences, in cycles; None where no sequence has two tokens.
    """
    times = [after - before for own in cycles for before, after in pairwise(own)]
    if not times:
        return None
    p50, p95 = np.percentile(times, [50, 95]).tolist()
    return {"p50": p50, "p95": p95, "max": float(max(times))}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def summarise(
    generator: Generator, records: Iterable[StepRecord], engine: str, *, clock_mhz: float | None = None
) -> dict[str, Any]:
    """Return the report of all steps of a generation; arguments as for `Tally`."""
    tally = Tally(generator, engine)
    for record in records:
        tally.add(record)
    return tally.report(clock_mhz=clock_mhz)


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
