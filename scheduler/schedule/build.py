# SPDX-License-Identifier: Apache-2.0
"""Lowers a file of steps, one step after the other, for a model on a machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from hdl.errors import shown
from hdl.isa.legality import Limits
from hdl.numerics.precision import Thresholds
from scheduler.memory.contents import Weights
from scheduler.memory.model import ModelMemory
from scheduler.memory.placement import Placement
from scheduler.models.constants import Constants, constants_of, placeholders
from scheduler.models.description import Model
from scheduler.models.quantised_model import QuantisedModel
from scheduler.ops.batch import Chunk, Prefix, Routing, with_own_prefixes
from scheduler.ops.graph import step_operations
from scheduler.ops.operation import Operation
from scheduler.ops.steps_file import Step
from scheduler.plan.estimate import Estimate, Roofline, estimate, roofline
from scheduler.plan.limits import LoweringError
from scheduler.plan.residence import plan_residence
from scheduler.plan.tiling import Tiling
from scheduler.schedule.routing import RoutingSource
from scheduler.stream.choose import Chooser
from scheduler.stream.lower import lower_step
from scheduler.stream.prove import check
from scheduler.stream.step_program import StepProgram
from scheduler.stream.tags import note_tags
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
    model : Model
    """

    step: Step
    chunks: tuple[Chunk, ...]
    routing: Sequence[Routing | None] | None
    program: StepProgram
    model: Model

    @cached_property
    def operations(self) -> tuple[Operation, ...]:
        """The step's graph, which reports read and lowering does not."""
        return step_operations(self.model, self.chunks, self.routing)

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
    thresholds : sequence of Thresholds
        Of each layer: how important experts have to be; default: all are loaded with both planes.
    placement : Placement
        Where the planes of experts lie.
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
        thresholds: Sequence[Thresholds] = (),
        placement: Placement = Placement.EVEN_ODD,
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
        _check_prefixes(steps, tiling)
        most = max(len(step.sequences) for step in steps)
        tokens = max(step.tokens for step in steps)
        context = max(s.cached + s.new for step in steps for s in step.sequences)
        constants = placeholders(model) if quantised is None else constants_of(quantised)
        if thresholds:
            layers = zip(constants.layers, thresholds, strict=True)
            constants = replace(constants, layers=tuple(replace(own, thresholds=one) for own, one in layers))
        self.constants: Constants = constants
        self.memory = ModelMemory(
            plan_residence(tiling), None if quantised is None else Weights(quantised, tiling),
            sequences=1 + max(place for step in self._places for place, _ in step), context=context, outputs=most,
            step_bytes=STEP_BYTES + TOKEN_BYTES * tokens * len(model.layers), placement=placement,
        )  # fmt: skip

    def run(self) -> Iterator[Planned]:
        """Lower the steps and prove their streams; yields each as soon as it is there.

        A step's bytes in the step area last until the next.

        Raises
        ------
        LoweringError
            A step that does not fit the machine.
        StreamError
            A stream that could deadlock, race or stop: a fault of the scheduler.
        """
        machine = self.system.machine
        tags = np.full((machine.tiers, machine.vcache_tiles), -1, np.int16)
        for step, places in zip(self.steps, self._places, strict=True):
            chunks = with_own_prefixes(
                [
                    Chunk(place, own.cached, own.tokens or self._draw(own.new), prefix)
                    for own, (place, prefix) in zip(step.sequences, places, strict=True)
                ]
            )
            routing = self._source.routing(step)
            program = lower_step(self.constants, self.memory, chunks, routing, chooser=self._chooser)
            tags[:, program.kept_tiles :] = -1
            check(program.table, machine, self.memory.images, Limits(self.memory.sizes, program.window), tags)
            note_tags(program.table, tags)
            self._chooser.ran(chunks, program.on_chip)
            yield Planned(step, tuple(chunks), routing, program, self.model)

    def _draw(self, count: int) -> tuple[int, ...]:
        return tuple(self._rng.integers(0, self.model.vocabulary, count).tolist())


def _check_prefixes(steps: Sequence[Step], tiling: Tiling) -> None:
    """Refuse prefixes that end where no load can end."""
    align = tiling.key_alignment
    for step in steps:
        for own in step.sequences:
            if own.prefix_tokens % align:
                raise LoweringError(
                    f"steps, line {step.line}: sequence {shown(own.name)}: prefix of {own.prefix_tokens} tokens; use a "
                    f"multiple of {align}, what {tiling.config.name} loads as a whole"
                )


def _cache_places(steps: Sequence[Step]) -> list[list[tuple[int, Prefix | None]]]:
    """Give every sequence a place in the cache from its first step to the last of those that use it, and its prefix."""
    last: dict[str, int] = {}
    for number, step in enumerate(steps):
        for own in step.sequences:
            last[own.name] = number
            if own.prefix is not None:
                last[own.prefix] = number
    held: dict[str, int] = {}
    free: list[int] = []
    used = 0
    found = []
    for number, step in enumerate(steps):
        for own in step.sequences:
            if own.name not in held:
                if not free:
                    free.append(used)
                    used += 1
                held[own.name] = free.pop(0)
        found.append([
            (held[own.name], None if own.prefix is None else Prefix(held[own.prefix], own.prefix_tokens))
            for own in step.sequences
        ])  # fmt: skip
        for name in [name for name in held if last[name] == number]:
            free.append(held.pop(name))
    return found
