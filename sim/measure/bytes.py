# SPDX-License-Identifier: Apache-2.0
"""Bytes of experts on the emitted machine: what scores and placements save in decode steps, in cycles and energy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hdl.errors import CheckError
from hdl.numerics.precision import Precision, Thresholds
from hdl.scratch import whole_file
from scheduler.cost.energy.count import activity_of_counters
from scheduler.cost.energy.energy import energy_of
from scheduler.cost.energy.table import EnergyTable
from scheduler.cost.model import simulate
from scheduler.memory.placement import Placement
from scheduler.stream.step_program import StepProgram
from scheduler.system import SystemConfig
from sim.golden.integer_model import StepResult
from sim.machine.engines import Outcome, RtlEngine, simulated_memory_bits
from sim.machine.system import SimulatedMachine
from sim.measure.prompted import Prompted, model_of, score_points

__all__ = ["BytesBench", "Variant", "draw", "variants_of"]

STYLES = ("-", "--", ":", "-.")
"""Of the lines of batches, the smallest first."""


@dataclass(frozen=True)
class Variant:
    """A way to run a decode step.

    Attributes
    ----------
    routing : {"host", "slots"}
    placement : Placement
    budget : float or None
        Percent of the experts' bytes that the thresholds were found for; None: all experts with both planes.
    """

    routing: str
    placement: Placement
    budget: float | None

    @property
    def name(self) -> str:
        """Such as ``even_odd, slots, 35 %``."""
        what = "both planes" if self.budget is None else f"{self.budget:g} %"
        return f"{self.placement.value}, {self.routing}, {what}"


def variants_of(budgets: Sequence[float]) -> list[Variant]:
    """Return what is measured: the even-odd placement in both routings, the others where the host knows it."""
    both = [Variant(r, Placement.EVEN_ODD, b) for r in ("slots", "host") for b in (None, *budgets)]
    controls = [p for p in Placement if p != Placement.EVEN_ODD]
    return both + [Variant("host", p, b) for p in controls for b in (None, *budgets)]


class BytesBench:
    """Measures decode steps of a byte-level model.

    Prompts run on the instruction executor; the decode step that follows runs on the emitted machine in every variant,
    each time from the same memory. Every byte, every exact counter and the logits are compared.

    Parameters
    ----------
    folder : path
        Model directory with ``heldout.txt``.
    system : SystemConfig
        Machine, memories and policy.
    frontier : mapping
        Report of ``a3d bench quality --frontier --json``: its thresholds and losses.
    table : EnergyTable
    mhz : float
        Clock, for static power.
    batches : sequence of int
        Sequences that decode.
    budgets : sequence of float
        Percent of the experts' bytes that thresholds are wanted for; what the report lacks is left out.
    context : (int, int)
        Shortest and longest prompt.
    phases : int
        Runs of each step, from other moments of the refreshes: cycles and energy are their means.
    announce : callable, optional
        Called before a simulator is compiled.

    Raises
    ------
    A3dError
        A model that the machine cannot run; a report without thresholds for a batch.
    """

    def __init__(
        self,
        folder: Path,
        system: SystemConfig,
        frontier: Mapping[str, Any],
        table: EnergyTable,
        mhz: float,
        *,
        batches: Sequence[int] = (1, 8, 32),
        budgets: Sequence[float] = (25, 35, 45),
        context: tuple[int, int] = (24, 64),
        phases: int = 4,
        announce: Callable[[], None] | None = None,
    ) -> None:
        self.system, self.config = system, system.machine
        self._model = model_of(folder, frontier)
        self._table, self._mhz = table, mhz
        self._batches, self._context, self._announce = sorted(set(batches)), context, announce
        hbm, mhz_of = system.memory.hbm, system.memory.mhz
        period = 0 if hbm is None or mhz_of is None else hbm.cycles("refi", mhz_of)
        self._idle = [phase * period // phases + phase for phase in range(phases if period else 1)]
        self._found = score_points(frontier, self._batches, budgets)
        self._points: list[dict[str, Any]] = []
        self._compared = self._wrong = 0

    @property
    def total(self) -> int:
        """Points that will be measured."""
        return sum(len(variants_of(self._budgets(batch))) for batch in self._batches)

    def _budgets(self, batch: int) -> list[float]:
        return sorted(budget for own, budget in self._found if own == batch)

    def run(self) -> Iterator[None]:
        """Measure everything; yields after each point.

        Raises
        ------
        CheckError
            The machine's bytes, counters or logits are not those expected.
        """
        machine: SimulatedMachine | None = None
        for placement in Placement:
            for batch in reversed(self._batches):
                own = [v for v in variants_of(self._budgets(batch)) if v.placement == placement]
                step = Prompted(self._model, self.system, batch, self._context, placement)
                if machine is None:
                    bits = simulated_memory_bits(step.memory) + 1  # other placements fill one group more
                    machine = SimulatedMachine(self.config, memory_bits=bits, announce=self._announce)
                with RtlEngine(self.config, machine=machine, timing=self.system.memory) as engine:
                    engine.start(step.memory)
                    for variant in own:
                        self._points.append(self._measure(step, engine, batch, variant))
                        yield

    def _measure(self, step: Prompted, engine: RtlEngine, batch: int, variant: Variant) -> dict[str, Any]:
        found = None if variant.budget is None else self._found[batch, variant.budget]
        precision = None if found is None else [None if t is None else Thresholds(**t) for t in found["threshold"]]
        expected, program = step.lower(variant.routing, precision)
        outcomes = []
        for engine.idle in self._idle:
            outcomes.append(engine.run(program))
            if not np.array_equal(outcomes[-1].logits, expected.last_logits):
                raise CheckError(f"batch {batch}, {variant.name}: logits differ from the integer model's")
        self._compared += sum(outcome.compared_bytes for outcome in outcomes)
        self._wrong += sum(outcome.mismatched_bytes for outcome in outcomes)
        return self._point(batch, variant, found, expected, program, outcomes)

    def _point(
        self, batch: int, variant: Variant, found: Mapping[str, Any] | None, expected: StepResult,
        program: StepProgram, outcomes: Sequence[Outcome],
    ) -> dict[str, Any]:  # fmt: skip
        counters, config = outcomes[0].counters, self.config
        counts = program.slot_counts(expected.routing) if variant.routing == "slots" else []
        activities = (
            activity_of_counters(config, one.counters, program.table, slot_counts=counts, mhz=self._mhz)
            for one in outcomes
        )
        energies = [energy_of(activity, self._table, self._mhz).total.to_dict() for activity in activities]
        read = [counters["read_beats_0"] + counters["fetch_beats"], counters["read_beats_1"]]
        wanted = np.concatenate([own for own in expected.precision if own.size])
        forecasts = [
            simulate(config, program.table, memory=self.system.memory, slot_counts=counts, begun=idle).cycles
            for idle in self._idle
        ]
        cycles = [int(one.counters["cycles"]) for one in outcomes]
        return {
            "placement": variant.placement.value, "policy": str(program.plan), "batch": batch,
            "routing": variant.routing, "budget_percent": variant.budget,
            "threshold": None if found is None else found["threshold"],
            "expert_bytes": _expert_bytes(program, expected),
            "bytes": (sum(read) + counters["write_beats_0"] + counters["write_beats_1"]) * config.group_bytes,
            "cycles": round(float(np.mean(cycles))), "least_cycles": min(cycles), "most_cycles": max(cycles),
            "model_cycles": round(float(np.mean(forecasts))),
            "energy_pj": {name: float(np.mean([own[name] for own in energies])) for name in energies[0]},
            "loss_percent": 0.0 if found is None else found["loss_percent"],
            "loss_percent_error": 0.0 if found is None else found["loss_percent_error"],
            "imbalance": max(read) / max(1, min(read)),
            "loads_reduced": counters["loads_reduced"], "loads_left_out": counters["loads_left_out"],
            "experts": {what.name.lower(): int((wanted == what).sum()) for what in (Precision.FULL, Precision.HIGH)},
        }  # fmt: skip

    def result(self) -> dict[str, Any]:
        """Return the figures: ``points`` with what each saves against both planes in the same placement and routing.

        ``cycles`` and ``energy_pj`` are means over the phases of the refreshes, ``least_cycles`` and ``most_cycles``
        the ends of their range. The cycle model's ``model_cycles`` are its mean over as many phases.
        """
        for point in self._points:
            base = next(
                p for p in self._points
                if p["budget_percent"] is None
                and all(p[name] == point[name] for name in ("placement", "routing", "batch"))
            )  # fmt: skip
            saved = {
                f"{name}_saved_percent": 100 * (1 - point[name] / base[name])
                for name in ("expert_bytes", "bytes", "cycles")
            }
            pj = point["energy_pj"]["value"], base["energy_pj"]["value"]
            point |= {**saved, "energy_saved_percent": 100 * (1 - pj[0] / pj[1])}
            of_bytes = saved["bytes_saved_percent"]
            point["cycles_per_byte_saved"] = saved["cycles_saved_percent"] / of_bytes if of_bytes else None
        return {
            "config": self.config.to_dict(), "system": self.system.to_dict(), "model": self._model.name,
            "energy_table": self._table.to_dict(), "mhz": self._mhz, "points": self._points,
            "compared_bytes": self._compared, "mismatched_bytes": self._wrong,
        }  # fmt: skip


def _expert_bytes(program: StepProgram, expected: StepResult) -> int:
    """Return the bytes of the planes that a step reads of its experts, each once."""
    total, tiling = 0, program.tiling
    for layer, wanted in zip(tiling.model.layers, expected.precision, strict=True):
        if wanted.size:
            expert = tiling.expert(layer.mlp.intermediate)
            total += int(wanted.sum()) * expert.tiles * tiling.config.plane_bytes
    return total


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw loss, cycles and energy against the bytes of experts that are saved."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.2), layout="constrained")
    columns = ("loss_percent", "cycles_saved_percent", "energy_saved_percent")
    words = ("perplexity, percent more", "cycles saved, percent", "energy saved, percent")
    kinds = list(dict.fromkeys((p["batch"], p["placement"], p["routing"]) for p in result["points"]))
    ways = list(dict.fromkeys((placement, routing) for _, placement, routing in kinds))
    batches = sorted({batch for batch, _, _ in kinds})
    for place, (name, label) in enumerate(zip(columns, words, strict=True)):
        axis = figure.add_subplot(1, 3, place + 1)
        for batch, placement, routing in kinds:
            own = [
                p for p in result["points"] if (p["batch"], p["placement"], p["routing"]) == (batch, placement, routing)
            ]  # fmt: skip
            own.sort(key=lambda p: p["expert_bytes_saved_percent"])
            axis.plot(
                [p["expert_bytes_saved_percent"] for p in own], [p[name] for p in own], marker="o", markersize=3,
                color=f"C{ways.index((placement, routing))}", linestyle=STYLES[batches.index(batch) % len(STYLES)],
                label=f"batch {batch}, {placement}, {routing}",
            )  # fmt: skip
        axis.set_xlabel("bytes of experts saved, percent")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    axis.legend(fontsize=6)
    figure.suptitle(f"Decode steps of {result['model']} on {result['config']['name']}, emitted Verilog")
    with whole_file(path) as scratch:
        figure.savefig(scratch, dpi=110)
