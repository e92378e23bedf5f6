# SPDX-License-Identifier: Apache-2.0
"""What the machine's integers cost: bits per byte of the integer model against the float model on held-out text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hdl.errors import A3dError
from scheduler.models.calibration import quantise_checkpoint, split_text
from scheduler.models.checkpoint import Checkpoint, read_checkpoint
from scheduler.models.float_model import FloatModel, byte_losses
from scheduler.models.quantised_model import Norm, QuantisedModel
from sim.golden.integer_model import IntegerModel, StepResult

__all__ = ["PerTokenNormModel", "QualityBench", "byte_text"]

Int = npt.NDArray[np.int64]

BYTE_VALUES = 256
BATCH = 16
"""Sequences that run at a time; results do not depend on it."""


class PerTokenNormModel(IntegerModel):
    """What the model would be if each token had its own scale after a norm: 127 for its largest channel.

    Products get the rounded values on the static scale, so that nothing else changes.
    """

    def _normalise(self, rows: npt.NDArray[np.int64], norm: Norm) -> npt.NDArray[Any]:
        x = rows / 2.0**norm.in_shift
        total = np.square(x).sum(axis=-1, keepdims=True) + norm.eps * 2.0**norm.eps_shift
        x *= norm.mult / 32768 * 2.0 ** (32 - norm.shift) / np.sqrt(total)
        unit = np.maximum(np.abs(x).max(axis=-1, keepdims=True), 1e-9) / 127
        return np.asarray(np.rint(x / unit) * unit)


def byte_text(folder: Path, count: int, window: int, calibration: int) -> tuple[Checkpoint, Int, Int]:
    """Return a byte-level model, windows [windows, length] to calibrate and [windows, length + 1] to evaluate.

    Parameters
    ----------
    folder : path
        Model directory, with ``heldout.txt``.
    count, calibration : int
        Bytes of each kind, rounded up to whole windows.
    window : int
        Bytes of a sequence.

    Raises
    ------
    A3dError
        A model that cannot be read or is not of bytes, or a text that is too short.
    """
    checkpoint = read_checkpoint(folder)
    if checkpoint.description.vocabulary != BYTE_VALUES:
        raise A3dError(
            f"{folder}: vocab_size is {checkpoint.description.vocabulary}, bits per byte need a byte-level model "
            f"({BYTE_VALUES})"
        )
    if not 1 <= window <= checkpoint.description.context:
        raise A3dError(f"window: {window} bytes; use 1 to {checkpoint.description.context}")
    path = Path(folder) / "heldout.txt"
    try:
        text = path.read_bytes()
    except OSError as error:
        raise A3dError(f"held-out text {path}: {error.strerror}; put a text there") from error
    seen, windows = split_text(
        text, window=window, calibration=-(-calibration // window), evaluation=-(-count // window)
    )
    return checkpoint, seen, windows


class QualityBench:
    """Measures a byte-level model.

    Parameters
    ----------
    folder : path
        Model directory, with ``heldout.txt``.
    count : int
        Bytes to evaluate, rounded up to whole windows.
    window : int
        Bytes of a sequence.
    calibration : int
        Bytes of the same text, in other windows, that the ranges come from.
    key_block : int
        Keys that attention takes at once.
    clip : bool
        Clip int8 ranges where that lowers the error in the calibration text.

    Attributes
    ----------
    batches : int
        Calls of `run` that make up the measurement.

    Raises
    ------
    A3dError
        A model that cannot be read or is not of bytes, or a text that is too short.
    """

    def __init__(
        self,
        folder: Path,
        *,
        count: int = 32768,
        window: int = 256,
        calibration: int = 8192,
        key_block: int = 128,
        clip: bool = True,
    ) -> None:
        checkpoint, seen, self._windows = byte_text(folder, count, window, calibration)
        model = quantise_checkpoint(checkpoint, seen, key_block=key_block, clip=clip)
        self._float = FloatModel(checkpoint)
        self._static = IntegerModel(model)
        self._per_token = PerTokenNormModel(model)
        self._clip = clip
        self._calibration_bytes = int(seen.size)
        self._losses: dict[str, list[npt.NDArray[np.floating]]] = {"float": [], "integer": [], "per_token": []}
        self._same_experts: list[npt.NDArray[np.bool_]] = []
        self.batches = -(-len(self._windows) // BATCH)

    def run(self, batch: int) -> None:
        """Run one batch of windows in all models."""
        windows = self._windows[batch * BATCH : (batch + 1) * BATCH]
        exact = self._float.forward(windows[:, :-1], trace=True)
        integer = _forward(self._static, windows)
        per_token = _forward(self._per_token, windows)
        for trace, routing in zip(exact.layers, integer.routing, strict=True):
            chosen = np.sort(trace.expert_index.reshape(routing.experts.shape), axis=-1)
            self._same_experts.append((chosen == np.sort(routing.experts, axis=-1)).all(axis=-1))
        model = self._static.model
        for name, logits in (
            ("float", exact.logits),
            ("integer", _real(integer, model, windows.shape[0])),
            ("per_token", _real(per_token, model, windows.shape[0])),
        ):
            self._losses[name].append(byte_losses(logits, windows[:, 1:]).ravel())

    def result(self) -> dict[str, Any]:
        """Return the figures.

        Returns
        -------
        dict
            ``float_bits_per_byte``, ``integer_bits_per_byte``, ``loss_percent`` (of the float model's bits),
            ``loss_percent_error`` (its standard error), ``per_token_norm_bits_per_byte`` (with a scale for each token
            after norms), ``same_experts`` (share of tokens and layers with the float model's choice),
            ``bytes_evaluated``, ``calibration_bytes``, ``window``, ``key_block``,
            ``clip``.
        """
        losses = {name: np.concatenate(own) for name, own in self._losses.items()}
        mean = {name: float(own.mean()) for name, own in losses.items()}
        difference = losses["integer"] - losses["float"]
        return {
            "float_bits_per_byte": mean["float"],
            "integer_bits_per_byte": mean["integer"],
            "loss_percent": 100 * (mean["integer"] / mean["float"] - 1),
            "loss_percent_error": 100 * float(difference.std() / np.sqrt(difference.size)) / mean["float"],
            "per_token_norm_bits_per_byte": mean["per_token"],
            "same_experts": float(np.concatenate(self._same_experts).mean()),
            "bytes_evaluated": int(difference.size),
            "calibration_bytes": self._calibration_bytes,
            "window": int(self._windows.shape[1] - 1),
            "key_block": self._static.key_block,
            "clip": self._clip,
        }


def _forward(model: IntegerModel, windows: npt.NDArray[np.int64]) -> StepResult:
    length = windows.shape[1] - 1
    return model.step([(model.new_cache(length), window[:-1]) for window in windows])


def _real(result: StepResult, model: QuantisedModel, sequences: int) -> npt.NDArray[np.float64]:
    """Return real logits [sequences, length, vocab]."""
    logits = result.logits.reshape(sequences, -1, result.logits.shape[-1])
    return logits * np.float64(model.logit_scale)
