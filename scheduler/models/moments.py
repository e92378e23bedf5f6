# SPDX-License-Identifier: Apache-2.0
"""What the int8 inputs of each expert are like on a text: their second moments, for `scheduler.models.planes`.

The float model runs in float64 here, and its activations are rounded to the integers that the machine would have. The
moments are then sums of whole numbers, the same with every library under NumPy.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hdl.errors import A3dError
from scheduler.models.checkpoint import Checkpoint
from scheduler.models.fixed_point import INT8_MAX
from scheduler.models.float_model import FloatModel, LayerTrace, rms_norm
from scheduler.models.planes import ExpertMoments, Moments
from scheduler.models.quantise import quantise_activations, scale_of
from scheduler.models.quantise_language import LayerRanges, ModelRanges

__all__ = ["expert_moments"]

_GATE_STEPS = 16
"""Gates are taken in steps of their sixteenth part, so that the weights of tokens are whole numbers."""

_BATCH = 16
"""Sequences that the float model runs at a time."""


def expert_moments(
    checkpoint: Checkpoint, tokens: npt.ArrayLike, ranges: ModelRanges
) -> tuple[tuple[ExpertMoments, ...], ...]:
    """Return the moments of every layer's experts, none of a dense layer.

    Parameters
    ----------
    checkpoint : Checkpoint
        The model.
    tokens : int array [sequences, length]
        Calibration text.
    ranges : ModelRanges
        What calibration found: the scales of the inputs.

    Raises
    ------
    A3dError
        No tokens, or tokens that the model does not have.
    """
    model = FloatModel(checkpoint, dtype=np.float64)
    ids = np.atleast_2d(np.asarray(tokens, dtype=np.int64))
    if not ids.size:
        raise A3dError("calibration: no tokens; give at least one sequence")
    residuals = [model.embedded(ids[i : i + _BATCH]) for i in range(0, len(ids), _BATCH)]
    found = []
    for number, own in enumerate(ranges.layers):
        sums = _Sums(model, own)
        for place, x in enumerate(residuals):
            trace = model.run_layer(x, number)
            sums.add(trace)
            residuals[place] = trace.hidden_out
        found.append(sums.moments())
    return tuple(found)


class _Sums:
    """The sums of one layer."""

    def __init__(self, model: FloatModel, ranges: LayerRanges) -> None:
        hidden, experts = model.description.hidden, ranges.experts
        largest = max((own.h for own in experts), default=0.0)
        self._eps, self._ones = model.description.norm_eps, np.ones(hidden)
        self._x_scale = scale_of(ranges.expert_norm, INT8_MAX, "expert norm")
        self._h_scales = [scale_of(own.h if own.h > 0 else largest, INT8_MAX, "h") for own in experts]
        self._x = [_zeros(hidden) for _ in experts]
        self._h: list[Moments] = []

    def add(self, trace: LayerTrace) -> None:
        """Add what a layer computed for some sequences."""
        if not self._h:
            self._h = [_zeros(trace.expert_hidden.shape[-1]) for _ in self._x]
        middle = trace.hidden_in + trace.attention_output
        x = quantise_activations(rms_norm(middle, self._ones, self._eps), self._x_scale)
        for expert, scale in enumerate(self._h_scales):
            *token, place = np.nonzero(trace.expert_index == expert)
            h = quantise_activations(trace.expert_hidden[*token, place], scale)
            # Whoever has a small gate for an expert may get its high plane alone.
            rest = np.rint(_GATE_STEPS * np.clip(1 - trace.expert_weight[*token, place], 0, 1))
            _add(self._x[expert], x[*token], rest)
            _add(self._h[expert], h, rest)

    def moments(self) -> tuple[ExpertMoments, ...]:
        """Return the moments of every expert."""
        return tuple(ExpertMoments(x, h) for x, h in zip(self._x, self._h, strict=True))


def _zeros(size: int) -> Moments:
    return Moments(np.zeros((size, size)), np.zeros((size, size)))


def _add(sums: Moments, inputs: npt.NDArray[np.int8], rest: npt.NDArray[np.floating]) -> None:
    """Add int8 inputs [tokens, inputs] with weights [tokens]: whole numbers."""
    rows = inputs.astype(np.float64)
    sums.all[:] += rows.T @ rows
    sums.low[:] += (rows * rest[:, None]).T @ rows
