# SPDX-License-Identifier: Apache-2.0
"""Sequences of a byte-level model whose prompts have run, and the decode steps that follow, from the same memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hdl.errors import A3dError, CheckError
from hdl.numerics.precision import Thresholds
from scheduler.memory.contents import Weights
from scheduler.memory.model import ModelMemory
from scheduler.memory.placement import Placement
from scheduler.models.calibration import quantise_checkpoint
from scheduler.models.constants import constants_of
from scheduler.ops.batch import Chunk
from scheduler.plan.residence import plan_residence
from scheduler.plan.tiling import Tiling
from scheduler.stream.choose import Chooser
from scheduler.stream.lower import lower_step
from scheduler.stream.parts import default_key_block
from scheduler.stream.step_program import StepProgram
from scheduler.system import SystemConfig
from sim.golden.integer_model import IntegerModel, KeyValueCache, StepResult
from sim.machine.byte_model import ByteModel
from sim.machine.engines import IsaEngine
from sim.measure.quality import byte_text

__all__ = ["Prompted", "model_of", "score_points"]

STEP_BYTES = 1 << 19
"""Memory for a step's stream and lists."""
PROMPT_TOKENS = 128
"""New tokens of a step that runs prompts, at most."""


def model_of(folder: Path, frontier: Mapping[str, Any]) -> ByteModel:
    """Return a byte-level model, quantised as a report of ``a3d bench quality --frontier`` says."""
    checkpoint, seen, windows = byte_text(
        folder, frontier["bytes_evaluated"], frontier["window"], frontier["calibration_bytes"]
    )  # fmt: skip
    options = {name: frontier[name] for name in ("key_block", "clip", "reach")}
    return ByteModel(folder.resolve().name, quantise_checkpoint(checkpoint, seen, **options), windows)


def score_points(
    frontier: Mapping[str, Any], batches: Sequence[int], budgets: Sequence[float]
) -> dict[tuple[int, float], Mapping[str, Any]]:
    """Return a report's points decided from scores, by batch and percent of the experts' bytes that are saved.

    Raises
    ------
    A3dError
        There is none for a batch.
    """
    found = {
        (p["batch"], p["budget_percent"]): p
        for p in frontier["points"] if p["policy"] == "score" and p["budget_percent"] in budgets
    }  # fmt: skip
    missing = [batch for batch in batches if not any(own == batch for own, _ in found)]
    if missing:
        raise A3dError(
            f"thresholds: none for batch {missing[0]} and {' or '.join(f'{b:g}' for b in budgets)} percent in the "
            "report of bench quality; run a3d bench quality --frontier with --batches and --budgets for it"
        )
    return found


class Prompted:
    """Sequences whose prompts have run, and the steps that decode the held-out text's next tokens.

    Parameters
    ----------
    model : ByteModel
    system : SystemConfig
    batch : int
        Sequences.
    context : (int, int)
        Shortest and longest prompt.
    placement : Placement
    steps : int
        Tokens of each sequence that can be decoded.

    Attributes
    ----------
    memory : ModelMemory
        As the prompts have left it.
    decode : list of list of Chunk
        Of each step.

    Raises
    ------
    A3dError
        The held-out text is too short.
    CheckError
        The executor's logits are not the integer model's.
    """

    def __init__(
        self, model: ByteModel, system: SystemConfig, batch: int, context: tuple[int, int], placement: Placement,
        steps: int = 1,
    ) -> None:  # fmt: skip
        self._model, self._system = model.model, system
        tiling = Tiling(system.machine, self._model.description)
        self._block = default_key_block(tiling, self._model.key_block)
        self._integer = IntegerModel(self._model, key_block=self._block)
        self.memory = ModelMemory(
            plan_residence(tiling), Weights(self._model, tiling), sequences=batch, context=context[1] + steps,
            outputs=batch, step_bytes=STEP_BYTES, placement=placement,
        )  # fmt: skip
        prompts = model.excerpts(batch, context[0] + steps, context[1] + steps)
        self._caches: list[KeyValueCache] = [self._integer.new_cache(context[1] + steps) for _ in prompts]
        ends = [len(own) - steps for own in prompts]
        self.decode = [
            [
                Chunk(n, end + step, own[end + step : end + step + 1])
                for n, (own, end) in enumerate(zip(prompts, ends, strict=True))
            ]
            for step in range(steps)
        ]
        engine, waiting = IsaEngine(system.machine, verify=False), list(enumerate(prompts))
        engine.start(self.memory)
        while waiting:
            chunks = [Chunk(n, 0, own[:-steps]) for n, own in waiting[: max(1, PROMPT_TOKENS // context[1])]]
            waiting = waiting[len(chunks) :]
            expected = self._integer.step([(self._caches[c.sequence], c.tokens) for c in chunks])
            program = self._lower(chunks, expected, "host", None, self._alone())
            if not np.array_equal(engine.run(program).logits, expected.last_logits):
                raise CheckError("prompts: logits differ from the integer model's")
        for image, own in zip(self.memory.images, engine.contents, strict=True):
            image[:] = own

    def lower(
        self, routing: str, precision: Sequence[Thresholds | None] | None, number: int = 0,
        chooser: Chooser | None = None,
    ) -> tuple[StepResult, StepProgram]:  # fmt: skip
        """Return what a decode step computes, and its stream.

        Parameters
        ----------
        routing : {"host", "slots"}
        precision : sequence of Thresholds or None, or None
            Of each layer; None: all experts with both planes.
        number : int
            Which step; the ones before have run, in the same way.
        chooser : Chooser, optional
            Who says which plans are tried; default: the system's policy for a step alone, without residency.
        """
        for cache, chunk in zip(self._caches, self.decode[number], strict=True):
            cache.length = chunk.position
        expected = self._integer.step(
            [(self._caches[c.sequence], c.tokens) for c in self.decode[number]], precision=precision
        )  # fmt: skip
        return expected, self._lower(self.decode[number], expected, routing, precision, chooser or self._alone())

    def _alone(self) -> Chooser:
        return Chooser(replace(self._system.policy, residency=False), self._system.memory)

    def _lower(
        self, chunks: Sequence[Chunk], expected: StepResult, routing: str,
        precision: Sequence[Thresholds | None] | None, chooser: Chooser,
    ) -> StepProgram:  # fmt: skip
        own = None if routing == "slots" else expected.routing
        constants = constants_of(self._model, precision)
        return lower_step(constants, self.memory, chunks, own, key_block=self._block, chooser=chooser)
