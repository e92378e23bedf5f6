# SPDX-License-Identifier: Apache-2.0
"""Lowers a file of steps, one step after the other, for a model on a machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from scheduler.memory.contents import Weights
from scheduler.memory.model import ModelMemory
from scheduler.models.constants import Constants, constants_of, placeholders
from scheduler.models.description import Model
from scheduler.models.quantised_model import QuantisedModel
from scheduler.ops.batch import Chunk, Routing
from scheduler.ops.graph import step_operations
from scheduler.ops.operation import Operation
from scheduler.ops.steps_file import Step
from scheduler.plan.estimate import Estimate, Roofline, estimate, roofline
from scheduler.plan.residence import plan_residence
from scheduler.plan.tiling import Tiling
from scheduler.schedule.routing import RoutingSource
from scheduler.stream.choose import Chooser
from scheduler.stream.lower import StepProgram, lower_step
from scheduler.system import SystemConfig

__all__ = ["Planned", "Scheduler"]

STEP_BYTES = 1 << 22
"""Least memory for a step's stream and lists."""
TOKEN_BYTES = 1 << 14
"""The same for each token and layer."""


@dataclass(frozen=True, eq=False)
class Planned:
    """One step, lowered.

    Attributes
    ----------
    step : Step
        What was asked for.
    chunks : tuple of Chunk
    routing : sequence of Routing or None, or None
        None: the machine finds it.
    program : StepProgram
    operations : tuple of Operation
    """

    step: Step
    chunks: tuple[Chunk, ...]
    routing: Sequence[Routing | None] | None
    program: StepProgram
    operations: tuple[Operation, ...]

    @property
    def roofline(self) -> Roofline:
        """Least cycles of the step."""
        return roofline(self.operations, self.program.places)

    def estimates(self) -> list[list[Estimate]]:
        """Return how each operation of each part of the step is planned."""
        found = []
        for part in self.program.parts:
            own = None
            if self.routing is not None:
                rows = part.numbers
                own = [None if r is None else Routing(r.experts[rows], r.gates[rows]) for r in self.routing]
            found.append(estimate(part.places, part.chunks, own, len(part.outputs)))
        return found


class Scheduler:
    """Lowers steps.

    Parameters
    ----------
    system : SystemConfig
    model : Model
    steps : sequence of Step
    source : RoutingSource
    quantised : QuantisedModel, optional
        Weights; without them streams have legal constants that mean nothing, and memory has addresses only.
    seed : int
        Of tokens that the file does not give.

    Attributes
    ----------
    system : SystemConfig
    has_weights : bool
    memory : ModelMemory
    constants : Constants

    Raises
    ------
    LoweringError
        A model or steps that the machine cannot map.
    """

    def __init__(
        self,
        system: SystemConfig,
        model: Model,
        steps: Sequence[Step],
        source: RoutingSource,
        *,
        quantised: QuantisedModel | None = None,
        seed: int = 0,
    ) -> None:
        self.system = system
        self.model = model
        self.has_weights = quantised is not None
        self.steps = steps
        self._source = source
        self._chooser = Chooser(system.policy, system.memory)
        self._rng = np.random.default_rng(seed)
        self._places = _cache_places(steps)
        tiling = Tiling(system.machine, model)
        most = max(len(step.sequences) for step in steps)
        tokens = max(step.tokens for step in steps)
        context = max(s.cached + s.new for step in steps for s in step.sequences)
        self.constants: Constants = placeholders(model) if quantised is None else constants_of(quantised)
        self.memory = ModelMemory(
            plan_residence(tiling), None if quantised is None else Weights(quantised, tiling),
            sequences=1 + max(place for step in self._places for place in step), context=context, outputs=most,
            step_bytes=STEP_BYTES + TOKEN_BYTES * tokens * len(model.layers),
        )  # fmt: skip

    def run(self) -> Iterator[Planned]:
        """Lower the steps; yields each as soon as it is there. Its bytes in the step area last until the next.

        Raises
        ------
        LoweringError
            A step that does not fit the machine.
        """
        for step, places in zip(self.steps, self._places, strict=True):
            chunks = tuple(
                Chunk(place, own.cached, own.tokens or self._draw(own.new))
                for own, place in zip(step.sequences, places, strict=True)
            )
            routing = self._source.routing(step)
            program = lower_step(self.constants, self.memory, chunks, routing, chooser=self._chooser)
            self._chooser.ran(chunks, program.on_chip)
            yield Planned(step, chunks, routing, program, step_operations(self.model, chunks, routing))

    def _draw(self, count: int) -> tuple[int, ...]:
        return tuple(self._rng.integers(0, self.model.vocabulary, count).tolist())


def _cache_places(steps: Sequence[Step]) -> list[list[int]]:
    """Give every sequence a place in the cache from its first step to its last."""
    last = {sequence.name: number for number, step in enumerate(steps) for sequence in step.sequences}
    held: dict[str, int] = {}
    free: list[int] = []
    used = 0
    found = []
    for number, step in enumerate(steps):
        for sequence in step.sequences:
            if sequence.name not in held:
                if not free:
                    free.append(used)
                    used += 1
                held[sequence.name] = free.pop(0)
        found.append([held[sequence.name] for sequence in step.sequences])
        for sequence in step.sequences:
            if last[sequence.name] == number:
                free.append(held.pop(sequence.name))
    return found
