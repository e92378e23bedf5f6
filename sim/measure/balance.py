# SPDX-License-Identifier: Apache-2.0
"""How evenly the two channel groups are read, by the placement of experts: a published shape's decode steps.

The routing is a recorded one, or drawn; its gates are drawn, as recordings have none. Weights stream, and each step is
planned, lowered and counted: beats are those of the whole stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hdl.errors import A3dError
from hdl.numerics.precision import Thresholds
from scheduler.cost.links import count_words
from scheduler.cost.model import simulate
from scheduler.memory.placement import Placement
from scheduler.models.description import Experts
from scheduler.models.shapes import load_shape
from scheduler.ops.batch import Routing
from scheduler.ops.draw import draw_gates, draw_routing
from scheduler.ops.steps_file import Step, StepSequence
from scheduler.schedule.build import Scheduler
from scheduler.schedule.routing import TraceRouting
from scheduler.system import SystemConfig
from sim.measure.scheduler import some_layers
from sim.measure.together_shapes import thresholds_for

__all__ = ["BalanceBench"]


class _Given:
    """Routing of steps that are known."""

    def __init__(self, routings: Sequence[Sequence[Routing | None]]) -> None:
        self._left = list(routings)

    def routing(self, step: Step) -> list[Routing | None]:
        """Return the next step's."""
        return list(self._left.pop(0))


class BalanceBench:
    """Counts the beats of both groups in decode steps.

    Parameters
    ----------
    system : SystemConfig
        Machine, memories and policy.
    shape : str
        A published shape.
    routing : path or None
        A recorded routing [tokens, layers, chosen]; None: all experts are equally likely.
    batches : sequence of int
        Sequences that decode.
    keys : int
        Keys that each has cached.
    layers : int
        Layers of the shape, with the embedding and the head.
    steps : int
        Steps of each batch.
    budget : float
        Percent of the experts' bytes that scores leave unread, in one of the two ways that are counted.

    Raises
    ------
    A3dError
        The routing cannot be read or does not fit the shape, or the shape has fewer layers.
    """

    def __init__(
        self,
        system: SystemConfig,
        shape: str,
        routing: Path | None,
        *,
        batches: Sequence[int] = (1, 8, 32),
        keys: int = 511,
        layers: int = 2,
        steps: int = 4,
        budget: float = 35,
    ) -> None:
        self._system, self._batches, self._keys, self._budget = system, list(batches), keys, budget
        whole = load_shape(shape)
        if layers > len(whole.layers):
            raise A3dError(f"--layers {layers}: {shape} has {len(whole.layers)}; use 1 to {len(whole.layers)}")
        self._model = some_layers(whole, layers)
        self._shape, self._routing, self._many = shape, routing, steps
        self._source = None if routing is None else TraceRouting(self._model, routing)
        self._points: list[dict[str, Any]] = []

    @property
    def total(self) -> int:
        """Points that will be counted."""
        return 2 * len(self._batches) * len(Placement)

    def run(self) -> Iterator[None]:
        """Count everything; yields after each point.

        Raises
        ------
        LoweringError
            A shape that the machine cannot map.
        """
        for batch in self._batches:
            sequences = [StepSequence(str(n), self._keys, 1) for n in range(batch)]
            steps = [Step(1 + n, tuple(sequences)) for n in range(self._many)]
            routings = [self._of(step, n) for n, step in enumerate(steps)]
            for scored in (False, True):
                for placement in Placement:
                    self._points.append(self._point(batch, steps, routings, scored, placement))
                    yield

    def _of(self, step: Step, number: int) -> list[Routing | None]:
        rng = np.random.default_rng(number)
        if self._source is None:
            return draw_routing(self._model, step.tokens, rng)
        found: list[Routing | None] = []
        for own in self._source.routing(step):
            if own is not None:
                tokens, chosen = own.experts.shape
                own = Routing(own.experts, draw_gates(tokens, chosen, rng))
            found.append(own)
        return found

    def _point(
        self, batch: int, steps: Sequence[Step], routings: Sequence[Sequence[Routing | None]], scored: bool,
        placement: Placement,
    ) -> dict[str, Any]:  # fmt: skip
        beats: npt.NDArray[np.int64] = np.zeros(2, np.int64)
        cycles, each = 0, list[float]()
        for step, routing in zip(steps, routings, strict=True):
            thresholds = [
                thresholds_for(own, layer.mlp.count, self._budget)
                if scored and isinstance(layer.mlp, Experts) else Thresholds()
                for layer, own in zip(self._model.layers, routing, strict=True)
            ]  # fmt: skip
            scheduler = Scheduler(
                self._system, self._model, [step], _Given([routing]), thresholds=thresholds, placement=placement
            )  # fmt: skip
            table = next(scheduler.run()).program.table
            words = count_words(self._system.machine, table)
            own = words.read_beats + np.array([words.fetch_beats, 0], np.int64)
            each.append(float(own.max() / max(1, own.min())))
            beats = beats + own
            cycles += simulate(self._system.machine, table, memory=self._system.memory).cycles
        return {
            "batch": batch, "placement": placement.value, "saved_percent": self._budget if scored else 0.0,
            "read_beats": beats.tolist(), "imbalance": float(beats.max() / max(1, beats.min())),
            "worst_imbalance": max(each), "cycles": cycles,
        }  # fmt: skip

    def result(self) -> dict[str, Any]:
        """Return the figures: ``points`` with the beats of both groups over all steps.

        ``imbalance`` is the busier group's over the other's; ``worst_imbalance`` that of the least even step.
        """
        return {
            "config": self._system.machine.to_dict(), "system": self._system.to_dict(), "model": self._shape,
            "routing": "drawn" if self._routing is None else self._routing.name, "keys": self._keys,
            "layers": len(self._model.layers), "steps": self._many, "points": self._points,
        }  # fmt: skip
