# SPDX-License-Identifier: Apache-2.0
"""What fusion is worth on published shapes: sequential and fused plans, layered prefill, the roofline, by cycle model.

The sequential plan reads each expert once for all tokens of a step, prompts' and decoded ones: the honest baseline.
*Layered prefill* (arXiv 2510.08055) spreads a prompt over steps by layers instead of by tokens: in each step all tokens
of the prompt go through one group of layers, and the decoded tokens through all, so that no expert is read again for
the next chunk. Its cycles are composed of layers that were timed alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hdl.config import MachineConfig
from hdl.isa.legality import Limits
from hdl.scratch import whole_file
from scheduler.cost.model import Forecast, simulate
from scheduler.memory.image import ImageError
from scheduler.models.description import Model
from scheduler.models.shapes import load_shape
from scheduler.ops.steps_file import Step, StepSequence
from scheduler.plan.limits import LoweringError
from scheduler.plan.policy import FUSED, Policy
from scheduler.schedule.build import Planned, Scheduler
from scheduler.schedule.routing import UniformRouting
from scheduler.stream.prove import check
from scheduler.system import SystemConfig
from sim.measure.scheduler import some_layers, stalls_by_kind

__all__ = [
    "LEAST_GAIN", "PROMPTS", "SHAPES", "STEPS", "FusionShapesBench", "PromptCase", "ShapeStep", "draw",
    "nothing_gained",
]  # fmt: skip

SHAPES = ("qwen3-30b-a3b", "olmoe-1b-7b", "mixtral-8x7b", "deepseek-v3")
LEAST_GAIN = 0.02
"""What fusion has to gain, as a part of the cycles, to gain anything."""
GOAL = 0.90
"""Part of the roofline below which a mixed step says where its cycles went."""
ONE_STEP = replace(FUSED, residency=False)
DEPTHS = (1, 2, 4, 8)
"""Numbers of layers that two mixed steps are timed with, for what the part of the roofline owes to their number."""


@dataclass(frozen=True)
class ShapeStep:
    """A step.

    Attributes
    ----------
    prefill, position : int
        New tokens of a prompt (0: none), and how many of it are cached.
    decode, keys : int
        Sequences that get one token (0: none), and how many each has cached.
    """

    prefill: int
    position: int
    decode: int
    keys: int

    @property
    def kind(self) -> str:
        """``decode``, ``prefill`` or ``mixed``."""
        return "mixed" if self.prefill and self.decode else "prefill" if self.prefill else "decode"

    @property
    def name(self) -> str:
        """Such as ``prefill 256 at 2,048, decode 32 at 4,095``."""
        parts = [f"prefill {self.prefill} at {self.position:,}"] if self.prefill else []
        return ", ".join([*parts, f"decode {self.decode} at {self.keys:,}"] if self.decode else parts)

    @property
    def context(self) -> int:
        """Tokens of the longest sequence after the step."""
        return max(self.position + self.prefill, self.keys + 1 if self.decode else 0)

    def step(self) -> Step:
        """Return it as a line of a file of steps."""
        prompt = [StepSequence("prompt", self.position, self.prefill)] if self.prefill else []
        return Step(1, (*prompt, *(StepSequence(str(n), self.keys, 1) for n in range(self.decode))))


STEPS = (
    ShapeStep(0, 0, 64, 2047), ShapeStep(0, 0, 64, 4095), ShapeStep(0, 0, 64, 16383),
    ShapeStep(512, 0, 0, 0), ShapeStep(512, 3584, 0, 0), ShapeStep(512, 15872, 0, 0),
    ShapeStep(256, 0, 32, 2047), ShapeStep(256, 1792, 32, 2047), ShapeStep(512, 0, 64, 2047),
    ShapeStep(512, 0, 64, 4095), ShapeStep(512, 3584, 64, 4095), ShapeStep(256, 7936, 32, 8191),
    ShapeStep(512, 0, 64, 16383), ShapeStep(256, 16128, 32, 16383),
)  # fmt: skip
"""What is measured where the model's context allows."""


@dataclass(frozen=True)
class PromptCase:
    """A prompt that is processed in several steps while others decode.

    Attributes
    ----------
    prompt, steps : int
        Tokens, and steps in which it is processed, which divide them.
    decode, keys : int
        Sequences that get a token in each step, and how many each has cached.
    """

    prompt: int
    steps: int
    decode: int
    keys: int


PROMPTS = (PromptCase(768, 4, 32, 2047),)


@dataclass(frozen=True)
class _Timed:
    """A step that was lowered, proved and timed."""

    planned: Planned
    forecast: Forecast
    seconds: float


class FusionShapesBench:
    """Lowers, proves and times steps of published shapes by the sequential and the fused plan.

    Parameters
    ----------
    config : MachineConfig
    shapes : sequence of str
        Names of published shapes.
    layers : int
        Layers of each that are timed, with the embedding and the head.
    steps : sequence of ShapeStep
    prompts : sequence of PromptCase
        Of these chunked prefill is compared with layered prefill.
    depths : sequence of int
        Numbers of layers that the first shape's first two mixed steps are timed with.
    """

    def __init__(
        self,
        config: MachineConfig,
        shapes: Sequence[str] = SHAPES,
        *,
        layers: int = 2,
        steps: Sequence[ShapeStep] = STEPS,
        prompts: Sequence[PromptCase] = PROMPTS,
        depths: Sequence[int] = DEPTHS,
    ) -> None:
        self.config = config
        self._layers = layers
        models = {name: load_shape(name) for name in shapes}
        self._cases = [
            (name, model, step) for name, model in models.items() for step in steps if step.context <= model.context
        ]
        self._prompts = [
            (name, model, case) for name, model in models.items() for case in prompts
            if max(case.prompt, case.keys + 1) <= model.context
        ]  # fmt: skip
        mixed = [case for case in self._cases if case[2].kind == "mixed" and case[0] == shapes[0]][:2]
        self._depths = [(*case, count) for case in mixed for count in depths]
        self._points: list[dict[str, Any]] = []
        self._depth: list[dict[str, Any]] = []
        self._layered: list[dict[str, Any]] = []
        self._left_out: list[dict[str, str]] = []
        self._started = time.perf_counter()

    @property
    def total(self) -> int:
        """Rows of all tables."""
        return len(self._cases) + len(self._prompts) + len(self._depths)

    def run(self) -> Iterator[None]:
        """Measure everything; yields after each row.

        Raises
        ------
        StreamError
            A stream is not proved.
        """
        for name, model, step in self._cases:
            try:
                self._points.append(self._point(name, model, step))
            except (LoweringError, ImageError) as error:
                self._left_out.append({"model": name, "step": step.name, "why": str(error)})
            yield
        for name, model, step, count in self._depths:
            own = self._fractions(self._time(some_layers(model, count), step, ONE_STEP))
            self._depth.append({"model": name, "step": step.name, "layers": count} | own)
            yield
        for name, model, case in self._prompts:
            self._layered.append(self._compared(name, model, case))
            yield

    def _time(self, model: Model, step: ShapeStep, policy: Policy) -> _Timed:
        system = SystemConfig(machine=self.config, policy=policy)
        scheduler = Scheduler(system, model, [step.step()], UniformRouting(model, 1))
        started = time.perf_counter()
        planned = next(scheduler.run())
        seconds = time.perf_counter() - started
        program, memory = planned.program, scheduler.memory
        check(program.table, self.config, memory.images, Limits(memory.sizes, program.window))
        return _Timed(planned, simulate(self.config, program.table), seconds)

    @staticmethod
    def _fractions(timed: _Timed) -> dict[str, Any]:
        """Return the cycles of the sequential and the fused plan, and what part of the roofline each is."""
        program, line, cycles = timed.planned.program, timed.planned.roofline, timed.forecast.cycles
        sequential = program.tried[0].cycles if program.tried else cycles
        return {
            "sequential_cycles": sequential, "fused_cycles": cycles, "sequential_fraction": line.cycles / sequential,
            "fused_fraction": line.cycles / cycles, "gain": 1 - cycles / sequential,
        }  # fmt: skip

    def _point(self, name: str, model: Model, step: ShapeStep) -> dict[str, Any]:
        timed = self._time(some_layers(model, self._layers), step, ONE_STEP)
        program, line = timed.planned.program, timed.planned.roofline
        listed = [one.cycles for one in program.tried if not one.plan.cuts]
        point: dict[str, Any] = {
            "model": name, "step": step.name, "kind": step.kind, "prefill": step.prefill, "position": step.position,
            "decode": step.decode, "keys": step.keys, "layers": len(program.tiling.model.layers),
            "parts": len(program.parts) if not program.plan.spread else 1, "instructions": len(program.table),
            "compute_cycles": line.compute, "memory_cycles": line.memory, "vector_cycles": line.vector,
            "bound": line.bound, "list_cycles": min(listed) if listed else timed.forecast.cycles,
            "plan": str(program.plan), "tried": [[str(one.plan), one.cycles] for one in program.tried],
            "plan_s": timed.seconds,
            "stalls": stalls_by_kind(timed.forecast) if line.cycles < GOAL * timed.forecast.cycles else {},
        }  # fmt: skip
        return point | self._fractions(timed)

    def _compared(self, name: str, model: Model, case: PromptCase) -> dict[str, Any]:
        """Return what a prompt costs in chunks and in groups of layers, for all layers of a model.

        What a chunk costs grows evenly with the keys before it: the first and the last stand for all.
        """
        size = case.prompt // case.steps
        first, last = (ShapeStep(size, at, case.decode, case.keys) for at in (0, case.prompt - size))
        whole, alone = ShapeStep(case.prompt, 0, case.decode, case.keys), ShapeStep(0, 0, case.decode, case.keys)
        layers, steps = len(model.layers), case.steps
        timed = [self._of_layers(model, step) for step in (first, last, whole, alone)]
        found: dict[str, float] = {}
        for number, label in enumerate(("sequential", "fused")):
            (each_first, rest_first), (each_last, rest_last), (each_whole, _), (each_alone, rest) = (
                own[number] for own in timed
            )  # fmt: skip
            found[f"chunked_{label}"] = steps * (rest_first + rest_last + layers * (each_first + each_last)) / 2
            found[f"layered_{label}"] = steps * rest + layers * (each_whole + (steps - 1) * each_alone)
        for way in ("chunked", "layered"):  # what only one layer gains is no gain of all
            found[f"{way}_fused"] = min(found[f"{way}_fused"], found[f"{way}_sequential"])
        best = min(found.values())
        return {
            "model": name, "prompt": case.prompt, "steps": steps, "decode": case.decode, "keys": case.keys,
            "layers": layers, **{f"{key}_cycles": value for key, value in found.items()},
            **{f"{key}_per_token": value / case.prompt for key, value in found.items()},
            "best": next(key for key, value in found.items() if value == best),
        }  # fmt: skip

    def _of_layers(self, model: Model, step: ShapeStep) -> list[tuple[int, int]]:
        """Return the cycles that one more layer takes, and those of the rest: embeddings, head, both ends.

        Of the sequential plan, then of the fused one.
        """
        one, two = (self._fractions(self._time(some_layers(model, count), step, ONE_STEP)) for count in (1, 2))
        names = ("sequential_cycles", "fused_cycles")
        return [(two[name] - one[name], 2 * one[name] - two[name]) for name in names]

    def result(self) -> dict[str, Any]:
        """Return the figures: lists ``points``, ``left_out``, ``depth`` and ``layered``, and ``seconds`` of it all."""
        return {
            "config": self.config.to_dict(), "layers": self._layers, "least_gain": LEAST_GAIN, "points": self._points,
            "left_out": self._left_out, "depth": self._depth, "layered": self._layered,
            "seconds": time.perf_counter() - self._started,
        }  # fmt: skip


def nothing_gained(points: Sequence[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Return where fusion gains less than `LEAST_GAIN`: kind of step, what bounds it, and which steps of which models.

    Parameters
    ----------
    points : sequence of dict
        Of :meth:`FusionShapesBench.result`.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for point in points:
        if point["gain"] < LEAST_GAIN:
            found.setdefault((point["kind"], point["bound"]), []).append(f"{point['model']} {point['step']}")
    return [(kind, bound, "; ".join(steps)) for (kind, bound), steps in found.items()]


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw the part of the roofline that each step reaches, sequential beside fused, shape below shape."""
    from matplotlib.figure import Figure

    points = result["points"]
    names = list(dict.fromkeys(point["model"] for point in points))
    figure = Figure(figsize=(18, 2.6 * len(names) + 0.8), layout="constrained")
    for number, name in enumerate(names):
        own = [point for point in points if point["model"] == name]
        axis = figure.add_subplot(len(names), 1, number + 1)
        places = np.arange(len(own))
        for offset, key, label in ((-0.2, "sequential_fraction", "sequential"), (0.2, "fused_fraction", "fused")):
            axis.bar(places + offset, [point[key] for point in own], 0.38, label=label)
        axis.axhline(GOAL, color="grey", linewidth=0.8, linestyle="--")
        labels = [f"{point['step'].replace(', ', chr(10))}\n{point['bound']}" for point in own]
        axis.set_xticks(places, labels, fontsize=6)
        axis.set_ylabel("roofline / cycles")
        axis.set_ylim(0, 1)
        axis.grid(axis="y", alpha=0.3)
        axis.set_title(name, fontsize=10)
        if not number:
            axis.legend(fontsize=8, ncols=2)
    figure.suptitle(f"Steps of published shapes on {result['config']['name']}, cycle model")
    with whole_file(path) as scratch:
        figure.savefig(scratch, dpi=110)
