# SPDX-License-Identifier: Apache-2.0
"""All ideas together on published shapes, and each switched off alone, by the cycle model.

Weights stream there, so that none stay from step to step. Router scores are drawn (normal, their softmax over the
chosen experts), and so are thresholds: of each layer the one that leaves the wanted part of the chosen experts' bytes
unread. What that costs in loss is known of the demo model alone (``a3d bench quality --frontier``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from hdl.numerics.precision import MAX_IMPORTANCE, Precision, Thresholds, importances, precisions
from scheduler.cost.energy.count import activity_of_forecast
from scheduler.cost.energy.energy import energy_of
from scheduler.cost.energy.table import EnergyTable
from scheduler.cost.model import simulate
from scheduler.models.description import Experts, Model
from scheduler.models.shapes import load_shape
from scheduler.ops.batch import Routing
from scheduler.ops.steps_file import Q15, Step, StepSequence
from scheduler.schedule.build import Scheduler
from scheduler.system import SystemConfig
from sim.measure.scheduler import some_layers
from sim.measure.together import IDEAS, Ideas

__all__ = ["SHAPES", "DrawnScores", "TogetherShapesBench", "thresholds_for", "ways"]

SHAPES: Final = ("mixtral-8x7b", "qwen3-30b-a3b", "olmoe-1b-7b")


class DrawnScores:
    """Routing of router scores that are drawn: the largest of normal ones, and their softmax.

    Parameters
    ----------
    model : Model
    seed : int
    """

    def __init__(self, model: Model, seed: int) -> None:
        self._model, self._seed = model, seed

    def routing(self, step: Step) -> list[Routing | None]:
        """Return the same draw each time."""
        rng, found = np.random.default_rng(self._seed), list[Routing | None]()
        for layer in self._model.layers:
            if not isinstance(layer.mlp, Experts):
                found.append(None)
                continue
            scores = rng.normal(size=(step.tokens, layer.mlp.count))
            experts = np.argsort(-scores, axis=1)[:, : layer.mlp.chosen].astype(np.int64)
            gates = np.exp(np.take_along_axis(scores, experts, axis=1))
            gates = np.rint(Q15 * gates / gates.sum(axis=1, keepdims=True)).astype(np.uint16)
            found.append(Routing(experts, gates))
        return found


def thresholds_for(routing: Routing | None, count: int, percent: float) -> Thresholds:
    """Return the threshold that leaves about a part of the chosen experts' bytes unread, their low planes'.

    Parameters
    ----------
    routing : Routing or None
        None: a layer without experts.
    count : int
        Experts.
    percent : float
        0 to 50.
    """
    if routing is None:
        return Thresholds()
    chosen = np.sort(importances(routing.experts, routing.gates, count)[np.unique(routing.experts)])
    reduced = min(len(chosen), round(len(chosen) * percent / 50))
    return Thresholds(int(chosen[reduced]) if reduced < len(chosen) else min(MAX_IMPORTANCE, int(chosen[-1]) + 1))


def ways() -> dict[str, Ideas]:
    """Return nothing, all, and all but each one, by name; weights do not stay in any of them."""
    on = Ideas(residency=False)
    each = {f"all but {name}": replace(on, **{name: False}) for name in IDEAS if name != "residency"}
    return {"nothing": Ideas(False, False, False, False), "all": on, **each}


class TogetherShapesBench:
    """Times a decode step of published shapes.

    Parameters
    ----------
    system : SystemConfig
        Machine and memories; the policy is not looked at.
    table : EnergyTable
    mhz : float
        Clock, for static power.
    shapes : sequence of str
    batch, keys : int
        Sequences, and keys that each has cached.
    layers : int
        Layers of each shape that are timed, with the embedding and the head.
    budget : float
        Percent of the experts' bytes that are not read.
    """

    def __init__(
        self,
        system: SystemConfig,
        table: EnergyTable,
        mhz: float,
        *,
        shapes: Sequence[str] = SHAPES,
        batch: int = 64,
        keys: int = 2047,
        layers: int = 2,
        budget: float = 35,
    ) -> None:
        self._system, self._table, self._mhz = system, table, mhz
        self._batch, self._keys, self._layers, self._budget = batch, keys, layers, budget
        self._models = {name: some_layers(load_shape(name), layers) for name in shapes}
        self._step = Step(1, tuple(StepSequence(str(n), keys, 1) for n in range(batch)))
        self._points: list[dict[str, Any]] = []

    @property
    def total(self) -> int:
        """Ways that will be timed."""
        return len(self._models) * len(ways())

    def run(self) -> Iterator[None]:
        """Time everything; yields after each way.

        Raises
        ------
        LoweringError
            A shape that the machine cannot map.
        """
        for name, model in self._models.items():
            for way, ideas in ways().items():
                self._points.append({"model": name, "ideas": way, **self._point(model, ideas)})
                yield

    def _point(self, model: Model, ideas: Ideas) -> dict[str, Any]:
        source = DrawnScores(model, 1)
        routing, thresholds, wanted = source.routing(self._step), [], []
        for layer, own in zip(model.layers, routing, strict=True):
            count = layer.mlp.count if isinstance(layer.mlp, Experts) else 0
            thresholds.append(thresholds_for(own, count, self._budget) if ideas.scores else Thresholds())
            if own is not None:
                found = precisions(own.experts, own.gates, count, thresholds[-1])
                wanted.append(found[np.unique(own.experts)])
        system = replace(self._system, policy=ideas.policy)
        scheduler = Scheduler(
            system, model, [self._step], source, thresholds=thresholds, placement=ideas.placement
        )  # fmt: skip
        planned = next(scheduler.run())
        program = planned.program
        forecast = simulate(system.machine, program.table, memory=system.memory)
        energy = energy_of(activity_of_forecast(forecast, program.table, mhz=self._mhz), self._table, self._mhz)
        high = np.concatenate(wanted) == Precision.HIGH
        return {
            "plan": str(program.plan), "cycles": forecast.cycles,
            "pj_per_token": energy.total.value / self._batch, "expert_bytes_saved_percent": 50 * float(high.mean()),
        }  # fmt: skip

    def result(self) -> dict[str, Any]:
        """Return the figures: ``points`` with how much longer each takes than all ideas together."""
        for point in self._points:
            best = next(p for p in self._points if p["model"] == point["model"] and p["ideas"] == "all")
            point["cycles_over_all"] = point["cycles"] / best["cycles"]
            point["pj_over_all"] = point["pj_per_token"] / best["pj_per_token"]
        return {
            "config": self._system.machine.to_dict(), "system": self._system.to_dict(), "mhz": self._mhz,
            "energy_table": self._table.to_dict(), "batch": self._batch, "keys": self._keys, "layers": self._layers,
            "budget_percent": self._budget, "points": self._points,
        }  # fmt: skip
