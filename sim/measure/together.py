# SPDX-License-Identifier: Apache-2.0
"""All ideas together, and each switched off alone: cycles, bytes and energy of decoded tokens, emitted Verilog."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from hdl.errors import CheckError
from hdl.numerics.precision import Thresholds
from hdl.scratch import whole_file
from scheduler.cost.energy.count import activity_of_counters
from scheduler.cost.energy.energy import energy_of
from scheduler.cost.energy.table import EnergyTable
from scheduler.memory.placement import Placement
from scheduler.plan.policy import FUSED, SEQUENTIAL, Policy
from scheduler.stream.choose import Chooser
from scheduler.system import SystemConfig
from sim.machine.byte_model import ByteModel
from sim.machine.engines import RtlEngine, simulated_memory_bits
from sim.machine.system import SimulatedMachine
from sim.measure.prompted import Prompted, model_of, score_points

__all__ = ["IDEAS", "Ideas", "TogetherBench", "draw", "ideas_to_measure"]


@dataclass(frozen=True)
class Ideas:
    """What is on.

    Attributes
    ----------
    fused : bool
        The planner may run experts beside attention, in another order; else the sequential plan.
    residency : bool
        Weights stay in V-Cache from one step to the next.
    scores : bool
        Of experts that matter little only the high plane is read; else all are read with both planes.
    even_odd : bool
        Planes of even and odd experts lie the other way round; else planes lie in both groups in turns.
    """

    fused: bool = True
    residency: bool = True
    scores: bool = True
    even_odd: bool = True

    @property
    def name(self) -> str:
        """Such as ``all but residency``."""
        off = [name for name in IDEAS if not getattr(self, name)]
        if not off or len(off) == len(IDEAS):
            return "nothing" if off else "all"
        return f"all but {' and '.join(off)}"

    @property
    def policy(self) -> Policy:
        """What the planner may do."""
        return replace(FUSED if self.fused else SEQUENTIAL, residency=self.residency)

    @property
    def placement(self) -> Placement:
        """Where planes lie."""
        return Placement.EVEN_ODD if self.even_odd else Placement.INTERLEAVED


IDEAS: Final = tuple(field.name for field in fields(Ideas))


def ideas_to_measure() -> list[Ideas]:
    """Return nothing, all, and all but each one."""
    return [Ideas(False, False, False, False), Ideas(), *(replace(Ideas(), **{name: False}) for name in IDEAS)]


class TogetherBench:
    """Measures decode steps of a byte-level model whose routing the host knows.

    Prompts run on the instruction executor; the steps that follow run on the emitted machine, in every way from the
    same memory and with the same tokens, those of the held-out text. Every byte, every exact counter and the logits are
    compared. The first step is not counted: what stays in V-Cache is loaded there.

    Parameters
    ----------
    folder : path
        Model directory with ``heldout.txt``.
    system : SystemConfig
        Machine and memories; the policy is not looked at.
    frontier : mapping
        Report of ``a3d bench quality --frontier --json``: its thresholds and losses.
    table : EnergyTable
    mhz : float
        Clock, for static power.
    budget : float
        Percent of the experts' bytes that thresholds are wanted for.
    batches : sequence of int
        Sequences that decode.
    steps : int
        Tokens of each, 2 or more.
    context : (int, int)
        Shortest and longest prompt.
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
        budget: float = 45,
        batches: Sequence[int] = (1, 8, 32),
        steps: int = 4,
        context: tuple[int, int] = (24, 64),
        announce: Callable[[], None] | None = None,
    ) -> None:
        self.system = system
        self._model: ByteModel = model_of(folder, frontier)
        self._table, self._mhz, self._budget = table, mhz, budget
        self._batches, self._steps, self._context = sorted(set(batches)), steps, context
        self._announce = announce
        self._found = score_points(frontier, self._batches, [budget])
        self._points: list[dict[str, Any]] = []
        self._compared = self._wrong = 0

    @property
    def total(self) -> int:
        """Ways that will be measured."""
        return len(self._batches) * len(ideas_to_measure())

    def run(self) -> Iterator[None]:
        """Measure everything; yields after each way.

        Raises
        ------
        CheckError
            The machine's bytes, counters or logits are not those expected.
        """
        config, machine = self.system.machine, None
        for placement in (Placement.EVEN_ODD, Placement.INTERLEAVED):
            for batch in reversed(self._batches):
                sequences = Prompted(self._model, self.system, batch, self._context, placement, self._steps)
                if machine is None:
                    bits = simulated_memory_bits(sequences.memory) + 1  # another placement fills one group more
                    machine = SimulatedMachine(config, memory_bits=bits, announce=self._announce)
                with RtlEngine(config, machine=machine, timing=self.system.memory) as engine:
                    engine.start(sequences.memory)
                    for ideas in (own for own in ideas_to_measure() if own.placement == placement):
                        self._points.append(self._measure(sequences, engine, batch, ideas))
                        yield

    def _measure(self, sequences: Prompted, engine: RtlEngine, batch: int, ideas: Ideas) -> dict[str, Any]:
        found, config = self._found[batch, self._budget], self.system.machine
        precision = None
        if ideas.scores:
            precision = [None if t is None else Thresholds(**t) for t in found["threshold"]]
        chooser = Chooser(ideas.policy, self.system.memory)
        cycles, moved, pj, plans = 0, 0, 0.0, []
        for number in range(self._steps):
            expected, program = sequences.lower("host", precision, number, chooser)
            outcome = engine.run(program)
            if not np.array_equal(outcome.logits, expected.last_logits):
                raise CheckError(f"batch {batch}, {ideas.name}: logits differ from the integer model's")
            chooser.ran(sequences.decode[number], program.on_chip)
            self._compared += outcome.compared_bytes
            self._wrong += outcome.mismatched_bytes
            if not number:
                continue
            counters = outcome.counters
            activity = activity_of_counters(config, counters, program.table, mhz=self._mhz)
            names = ("read_beats_0", "read_beats_1", "fetch_beats", "write_beats_0", "write_beats_1")
            cycles += counters["cycles"]
            moved += sum(counters[name] for name in names) * config.group_bytes
            pj += energy_of(activity, self._table, self._mhz).total.value
            plans.append(str(program.plan))
        steps = self._steps - 1
        return {
            "batch": batch, "ideas": ideas.name, **{name: getattr(ideas, name) for name in IDEAS},
            "plans": sorted(set(plans)), "steps": steps, "cycles_per_step": cycles / steps,
            "bytes_per_step": moved / steps, "pj_per_token": pj / steps / batch,
            "loss_percent": found["loss_percent"] if ideas.scores else 0.0,
        }  # fmt: skip

    def result(self) -> dict[str, Any]:
        """Return the figures: ``points`` with how much longer each takes than all ideas together."""
        for point in self._points:
            best = next(p for p in self._points if p["ideas"] == "all" and p["batch"] == point["batch"])
            for name in ("cycles_per_step", "bytes_per_step", "pj_per_token"):
                point[f"{name.split('_per_')[0]}_over_all"] = point[name] / best[name]
        return {
            "config": self.system.machine.to_dict(), "system": self.system.to_dict(), "model": self._model.name,
            "energy_table": self._table.to_dict(), "mhz": self._mhz, "budget_percent": self._budget,
            "points": self._points, "compared_bytes": self._compared, "mismatched_bytes": self._wrong,
        }  # fmt: skip


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draw cycles and energy of each way over those of all ideas together."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    batches = sorted({p["batch"] for p in result["points"]})
    names = [ideas.name for ideas in ideas_to_measure()]
    for place, (column, label) in enumerate((("cycles_over_all", "cycles"), ("pj_over_all", "energy"))):
        axis = figure.add_subplot(1, 2, place + 1)
        for number, batch in enumerate(batches):
            own = {p["ideas"]: p[column] for p in result["points"] if p["batch"] == batch}
            at = np.arange(len(names)) + (number - (len(batches) - 1) / 2) * 0.8 / len(batches)
            axis.barh(at, [own[name] for name in names], 0.8 / len(batches), label=f"batch {batch}")
        axis.set_yticks(range(len(names)), names)
        axis.invert_yaxis()
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set_xlabel(f"{label}, all ideas together = 1")
    axis.legend()
    figure.suptitle(f"Decoded tokens of {result['model']} on {result['config']['name']}, emitted Verilog")
    with whole_file(path) as scratch:
        figure.savefig(scratch, dpi=110)
