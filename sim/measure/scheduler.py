# SPDX-License-Identifier: Apache-2.0
"""How fast steps are planned, lowered and timed, and how near the plans of published shapes come to the roofline."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hdl.config import MachineConfig
from hdl.scratch import whole_file
from scheduler.cost.model import Forecast, simulate
from scheduler.cost.stalls import CAUSES
from scheduler.memory.image import ImageError
from scheduler.models.description import Experts, Model
from scheduler.models.shapes import load_shape
from scheduler.ops.batch import Chunk
from scheduler.ops.steps_file import Step, StepSequence
from scheduler.plan.limits import LoweringError
from scheduler.plan.policy import SEQUENTIAL
from scheduler.plan.residence import plan_residence
from scheduler.plan.tiling import Tiling
from scheduler.schedule.build import Planned, Scheduler
from scheduler.schedule.routing import UniformRouting
from scheduler.stream.parts import default_key_block, parts_of
from scheduler.system import SystemConfig

__all__ = ["PHASES", "Phase", "SchedulerBench", "draw", "layer_plan_seconds", "some_layers", "stalls_by_kind"]

ENOUGH = 0.80
"""Part of the roofline below which a point says where its cycles went."""

KEY_BLOCK = 1 << 14
"""Keys that a shape without weights is scored for at once, at most."""


@dataclass(frozen=True)
class Phase:
    """A kind of step.

    Attributes
    ----------
    name : {"prefill", "decode"}
    tokens : int
        Of the one sequence that is prefilled, or sequences that are decoded.
    keys : int
        Tokens that each sequence has cached.
    """

    name: str
    tokens: int
    keys: int

    def step(self) -> Step:
        """Return such a step."""
        count, new = (1, self.tokens) if self.name == "prefill" else (self.tokens, 1)
        return Step(1, tuple(StepSequence(str(number), self.keys, new) for number in range(count)))


PHASES = (Phase("decode", 64, 1023), Phase("decode", 64, 4095), Phase("prefill", 512, 0))
"""What the bench measures unless something else is asked for."""


def some_layers(model: Model, count: int | None) -> Model:
    """Return a model with `count` of its layers with experts (None: all layers)."""
    if count is None or count >= len(model.layers):
        return model
    first = next(n for n, layer in enumerate(model.layers) if isinstance(layer.mlp, Experts))
    first = min(first, len(model.layers) - count)
    return dataclasses.replace(model, layers=model.layers[first : first + count])


def layer_plan_seconds(config: MachineConfig) -> float:
    """Return the seconds of planning a decode step of 256 tokens at 4,096 keys of a DeepSeek-V3 layer from nothing."""
    model = some_layers(load_shape("deepseek-v3"), 1)
    chunks = [Chunk(slot, 4095, (0,)) for slot in range(256)]
    started = time.perf_counter()
    tiling = Tiling(config, model)
    parts_of(plan_residence(tiling), chunks, default_key_block(tiling, KEY_BLOCK), False)
    return time.perf_counter() - started


class SchedulerBench:
    """Lowers, proves and times steps of published shapes.

    Parameters
    ----------
    config : MachineConfig
    shapes : sequence of str
        Names of published shapes.
    phases : sequence of Phase
    layers : int, optional
        Layers of each shape; default: all. Of a shape that memory cannot hold, the half of them, the quarter ... A
        sample has the head as a whole, so that its part is too large.
    """

    def __init__(
        self, config: MachineConfig, shapes: Sequence[str], phases: Sequence[Phase] = PHASES, layers: int | None = None
    ) -> None:
        self.config = config
        self._layers = layers
        self._cases = [(name, phase) for name in shapes for phase in phases]
        self._shapes: list[dict[str, Any]] = []
        self._lowered = self._timed = 0
        self._lower_s = self._time_s = 0.0

    @property
    def total(self) -> int:
        """Points that will be measured."""
        return len(self._cases)

    def run(self) -> Iterator[None]:
        """Measure everything; yields after each point.

        Raises
        ------
        StreamError
            A stream is not proved.
        """
        warm = some_layers(load_shape("olmoe-1b-7b"), 1)
        self._measure(warm, Phase("decode", 2, 3))  # what is compiled at first use is no scheduling
        for name, phase in self._cases:
            planned, forecast, lower_s, time_s = self._measure_what_fits(load_shape(name), phase)
            count = len(planned.program.table)
            self._lowered, self._timed = self._lowered + count, self._timed + count
            self._lower_s, self._time_s = self._lower_s + lower_s, self._time_s + time_s
            self._shapes.append(self._point(name, phase, planned, forecast) | {"lower_s": lower_s, "model_s": time_s})
            del planned, forecast  # a user lowers one step at a time: two would need twice the memory
            yield

    def _measure_what_fits(self, model: Model, phase: Phase) -> tuple[Planned, Forecast, float, float]:
        """Measure a shape, or as a stage of several machines the half, the quarter ... of its layers that fits."""
        count = min(self._layers or len(model.layers), len(model.layers))
        while True:
            try:
                return self._measure(some_layers(model, count), phase)
            except LoweringError as error:
                if count == 1 or not isinstance(error.__cause__, ImageError):
                    raise
                count //= 2

    def _measure(self, model: Model, phase: Phase) -> tuple[Planned, Forecast, float, float]:
        """Return a step, its forecast, and the seconds of lowering with its proof, and of the cycle model."""
        system = SystemConfig(machine=self.config, policy=SEQUENTIAL)
        scheduler = Scheduler(system, model, [phase.step()], UniformRouting(model, 1))
        started = time.perf_counter()
        planned = next(scheduler.run())  # which proves the stream
        lowered = time.perf_counter()
        forecast = simulate(self.config, planned.program.table)
        return planned, forecast, lowered - started, time.perf_counter() - lowered

    def _point(self, name: str, phase: Phase, planned: Planned, forecast: Forecast) -> dict[str, Any]:
        line, cycles = planned.roofline, forecast.cycles
        estimates = [one for part in planned.estimates() for one in part]
        waves = sum(one.waves for one in estimates)
        return {
            "model": name, "config": self.config.name, "phase": phase.name, "tokens": phase.tokens,
            "keys": phase.keys, "layers": len(planned.program.tiling.model.layers),
            "parts": len(planned.program.parts), "instructions": len(planned.program.table), "cycles": cycles,
            "roofline_cycles": line.cycles, "bound": line.bound, "roofline_fraction": line.cycles / cycles,
            "padding_waste": 1 - sum(one.waves * (1 - one.padding) for one in estimates) / waves,
            "stalls": stalls_by_kind(forecast) if line.cycles < ENOUGH * cycles else {},
        }  # fmt: skip

    def result(self) -> dict[str, Any]:
        """Return the figures: ``lower_instructions_per_s, model_instructions_per_s, layer_plan_s, shapes``.

        A shape that reaches less than `ENOUGH` of its roofline has ``stalls``: for each kind of unit the part of the
        cycles that went into each of ``scheduler.cost.stalls.CAUSES``, a mean over the units of the kind.
        """
        return {
            "config": self.config.to_dict(),
            "lower_instructions_per_s": self._lowered / self._lower_s,
            "model_instructions_per_s": self._timed / self._time_s,
            "layer_plan_s": min(layer_plan_seconds(self.config) for _ in range(3)),
            "shapes": self._shapes,
        }


def stalls_by_kind(forecast: Forecast) -> dict[str, dict[str, float]]:
    """Return the parts of the cycles that tiers, load engines, store unit and vector unit spent on each cause."""
    kinds: dict[str, list[dict[str, int]]] = {}
    for unit, causes in forecast.stalls().items():
        kinds.setdefault(unit.rstrip("0123456789"), []).append(causes)
    return {
        kind: {
            cause: sum(one[cause] for one in ones) / len(ones) / forecast.cycles
            for cause in CAUSES
            if any(one[cause] for one in ones)
        }
        for kind, ones in kinds.items()
    }


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw the part of the roofline that each shape reaches, phase beside phase."""
    from matplotlib.figure import Figure

    points = result["shapes"]
    names = list(dict.fromkeys(point["model"] for point in points))
    phases = list(dict.fromkeys((p["phase"], p["tokens"], p["keys"]) for p in points))
    figure = Figure(figsize=(1.2 * len(names) + 3, 4.2), layout="constrained")
    axis = figure.subplots()
    width = 0.8 / len(phases)
    for number, phase in enumerate(phases):
        own = {p["model"]: p["roofline_fraction"] for p in points if (p["phase"], p["tokens"], p["keys"]) == phase}
        places = np.arange(len(names)) + (number - (len(phases) - 1) / 2) * width
        label = f"{phase[0]} {phase[1]}, {phase[2]} cached"
        axis.bar(places, [own.get(name, 0.0) for name in names], width, label=label)
    axis.set_xticks(np.arange(len(names)), names, rotation=20, ha="right")
    axis.set_ylabel("roofline / cycles")
    axis.set_ylim(0, 1)
    axis.grid(axis="y", alpha=0.3)
    axis.legend(fontsize=8)
    axis.set_title(f"Steps of published shapes on {result['config']['name']}, sequential plan, cycle model")
    with whole_file(path) as scratch:
        figure.savefig(scratch, dpi=110)
