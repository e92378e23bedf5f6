# SPDX-License-Identifier: Apache-2.0
"""W8A8 quantisation of mixture-of-experts layers: int8 weights and activations, static scales, integer drains.

Real values and their integers (``q`` is what the machine holds):

====================  =============================  ==========================================================
value                 real = q * scale               scale is chosen from
====================  =============================  ==========================================================
x (input)             int8  * x_scale                largest magnitude in the calibration text, per layer
weights               int8  * one per output channel largest magnitude of the channel / 119
gate (before SiLU)    int16 * 2**-11                 fixed: Q4.11
up                    int16 * up_scale               largest magnitude in the calibration text, per expert
h = silu(gate) * up   int8  * h_scale                the same
y (an expert's row)   int16 * y_scale                the same over all experts of the layer
gate score            uint16 * 2**-15                fixed: Q15
====================  =============================  ==========================================================

Weights reach +-119 only: two signed nibbles hold -136 to 119, and every weight must have both planes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hdl.errors import A3dError
from hdl.numerics import MAX_SHIFT, NIBBLE_MAX

__all__ = [
    "GATE_BITS", "ExpertRanges", "ExpertWeights", "QuantisationError", "QuantisedExpert", "QuantisedLayer",
    "QuantisedMatrix", "multipliers", "quantise_activations", "quantise_gates", "quantise_layer", "quantise_matrix",
    "quantise_weights", "scale_of",
]  # fmt: skip

Float = npt.NDArray[np.floating]
GATE_BITS = 15
"""Fraction bits of a gate score: 1.0 is 32768."""

SILU_BITS = 11
"""Fraction bits of the gate value that enters SiLU."""


class QuantisationError(A3dError):
    """Weights or ranges that cannot be quantised."""


@dataclass(frozen=True, eq=False)
class ExpertWeights:
    """Float weights of one expert (outputs, inputs): gate, up (intermediate, hidden), down (hidden, intermediate)."""

    gate: Float
    up: Float
    down: Float


@dataclass(frozen=True)
class ExpertRanges:
    """Largest magnitudes that calibration saw: of the up projection, of ``silu(gate) * up``, of the expert's output."""

    up: float
    h: float
    y: float


@dataclass(frozen=True, eq=False)
class QuantisedMatrix:
    """A matrix whose accumulators become int16 rows: ``requant(x @ weights.T, mult, shift, 16)``.

    Attributes
    ----------
    weights : int8 array [outputs, inputs]
        Weights, -119 to 119.
    mult : uint16 array [outputs]
        Requantisation multiplier of each output channel.
    shift : int
        Shift of all of them.
    """

    weights: npt.NDArray[np.int8]
    mult: npt.NDArray[np.uint16]
    shift: int


@dataclass(frozen=True, eq=False)
class QuantisedExpert:
    """One expert as the machine computes it.

    Attributes
    ----------
    gate, up : int8 array [intermediate, hidden]
        Weights of the up projections.
    down : int8 array [hidden, intermediate]
        Weights of the down projection.
    gate_mult, up_mult : uint16 array [intermediate]
        Requantisation multipliers.
    up_shift : int
        Shift of both.
    post_mult, post_shift : int
        Requantisation of the product to int8.
    down_mult : uint16 array [hidden]
        Requantisation multipliers of the output.
    down_shift : int
        Their shift.
    """

    gate: npt.NDArray[np.int8]
    up: npt.NDArray[np.int8]
    down: npt.NDArray[np.int8]
    gate_mult: npt.NDArray[np.uint16]
    up_mult: npt.NDArray[np.uint16]
    up_shift: int
    post_mult: int
    post_shift: int
    down_mult: npt.NDArray[np.uint16]
    down_shift: int


@dataclass(frozen=True, eq=False)
class QuantisedLayer:
    """The experts of one layer.

    Attributes
    ----------
    experts : tuple of QuantisedExpert
        All experts of the layer, all of one shape.
    x_scale, y_scale : float
        Real value of 1 of the input and of 1 of the output.
    """

    experts: tuple[QuantisedExpert, ...]
    x_scale: float = 1.0
    y_scale: float = 1.0

    @property
    def hidden(self) -> int:
        """Input and output channels."""
        return int(self.experts[0].gate.shape[1])

    @property
    def intermediate(self) -> int:
        """Channels between the projections."""
        return int(self.experts[0].gate.shape[0])


def quantise_weights(weights: Float) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float64]]:
    """Quantise a matrix (outputs, inputs) symmetrically per output channel; return integers and scales.

    Raises
    ------
    QuantisationError
        Values that are not finite.
    """
    if not np.isfinite(weights).all():
        raise QuantisationError("weights: a value is not finite; check the checkpoint")
    largest = np.abs(weights).max(axis=1).astype(np.float64)
    scale = np.where(largest > 0, largest, 1.0) / NIBBLE_MAX
    return np.rint(weights / scale[:, None]).astype(np.int8), scale


def quantise_activations(x: Float, scale: float) -> npt.NDArray[np.int8]:
    """Round activations to int8 in [-127, 127]."""
    return np.clip(np.rint(np.asarray(x, dtype=np.float64) / scale), -127, 127).astype(np.int8)


def quantise_gates(weights: Float) -> npt.NDArray[np.uint16]:
    """Round gate scores to Q15; 1.0 is 32768."""
    return np.clip(np.rint(np.asarray(weights, dtype=np.float64) * (1 << GATE_BITS)), 0, 65535).astype(np.uint16)


def multipliers(ratios: npt.ArrayLike) -> tuple[npt.NDArray[np.uint16], int]:
    """Return uint16 multipliers and one shift with ``multiplier / 2**shift`` close to each ratio.

    The shift is the largest that keeps the largest multiplier in 16 bits, so that the largest ratio has 15 to 16
    significant bits; ratios below its 65536th part become zero.

    Raises
    ------
    QuantisationError
        A ratio that is negative or not below 65536.
    """
    values = np.atleast_1d(np.asarray(ratios, dtype=np.float64))
    largest = float(values.max(initial=0.0))
    if not np.isfinite(values).all() or values.min(initial=0.0) < 0 or largest >= 65535.5:
        raise QuantisationError(f"requantisation ratio {largest}: use 0 to 65535; check the calibrated ranges")
    if largest == 0:
        return np.zeros(values.shape, dtype=np.uint16), 0
    shift = min(MAX_SHIFT, math.floor(math.log2(65535.0 / largest)))
    return np.rint(values * 2.0**shift).astype(np.uint16), shift


def quantise_matrix(weights: Float, in_scale: npt.ArrayLike, out_scale: npt.ArrayLike) -> QuantisedMatrix:
    """Quantise a matrix (outputs, inputs) and find the multipliers that bring its accumulators to given scales.

    Parameters
    ----------
    weights : array [outputs, inputs]
        Float weights.
    in_scale : float or array [inputs]
        Real value of 1 of the input, of each channel if they differ (the weights take up the differences).
    out_scale : float or array [outputs]
        Real value of 1 of the int16 output.

    Raises
    ------
    QuantisationError
        Values that are not finite, or a ratio of scales that no multiplier reaches.
    """
    scales = np.asarray(in_scale, dtype=np.float64)
    integers, weight_scale = quantise_weights(np.asarray(weights, dtype=np.float64) * scales)
    mult, shift = multipliers(weight_scale / np.asarray(out_scale, dtype=np.float64))
    return QuantisedMatrix(integers, mult, shift)


def scale_of(largest: float, levels: int, what: str) -> float:
    """Return the real value of 1 that lets `levels` stand for `largest` (1.0 when nothing larger than 0 was seen).

    Raises
    ------
    QuantisationError
        A range that is negative or not finite; `what` names it.
    """
    if not math.isfinite(largest) or largest < 0:
        raise QuantisationError(f"range of {what}: {largest}; use a finite number, 0 or more")
    return (largest if largest > 0 else 1.0) / levels


def _each(
    results: Iterable[tuple[npt.NDArray[np.int8], npt.NDArray[np.float64]]],
) -> tuple[list[npt.NDArray[np.int8]], npt.NDArray[np.float64]]:
    """Return all experts' integers, and their scales as one array [experts, outputs]."""
    integers, scales = zip(*results, strict=True)
    return list(integers), np.stack(scales)


def quantise_layer(
    experts: Sequence[ExpertWeights],
    x_range: float,
    ranges: Sequence[ExpertRanges],
    margin: float = 1.0,
    *,
    x_scale: float | None = None,
    y_scale: float | None = None,
) -> QuantisedLayer:
    """Quantise the experts of a layer.

    Shifts, and the requantisation of the product, are the same for all of them: an instruction that runs whichever
    expert the router chose has them as constants. Multipliers differ.

    Parameters
    ----------
    experts : sequence of ExpertWeights
        Float weights.
    x_range : float
        Largest magnitude of the layer's input in the calibration text.
    ranges : sequence of ExpertRanges
        Largest magnitudes in each expert (0 for an expert that no token chose: the layer's largest is used).
    margin : float
        Factor on every calibrated range; above 1 trades resolution for less clipping.
    x_scale, y_scale : float, optional
        Scales of the input and of the output where others prescribe them; `x_range` and the ranges of y are not
        used then.

    Raises
    ------
    QuantisationError
        Numbers of experts and ranges differ, or a range or weight is not finite.
    """
    if len(experts) != len(ranges) or not experts:
        raise QuantisationError(f"ranges: {len(ranges)} for {len(experts)} experts; give one for each")
    x_scale = scale_of(x_range * margin, 127, "x") if x_scale is None else x_scale
    fallback = ExpertRanges(*(max(getattr(r, name) for r in ranges) for name in ("up", "h", "y")))
    y_scale = scale_of(fallback.y * margin, 32767, "y") if y_scale is None else y_scale
    used = [seen if seen.h > 0 else fallback for seen in ranges]
    h_scales = np.array([scale_of(r.h * margin, 127, "h") for r in used])
    # One ratio of the two scales, so that all experts requantise their products alike; int16 has room for that.
    ratio = max(scale_of(r.up * margin, 32767, "up") / h for r, h in zip(used, h_scales, strict=True))
    gate, gate_scale = _each(quantise_weights(e.gate) for e in experts)
    up, up_scale = _each(quantise_weights(e.up) for e in experts)
    down, down_scale = _each(quantise_weights(e.down) for e in experts)
    up_ratios = x_scale * up_scale / (ratio * h_scales)[:, None]
    mult, up_shift = multipliers(np.concatenate([x_scale * gate_scale * (1 << SILU_BITS), up_ratios], axis=1))
    post, post_shift = multipliers(ratio / (1 << SILU_BITS))
    down_mult, down_shift = multipliers(h_scales[:, None] * down_scale / y_scale)
    half = gate_scale.shape[1]
    quantised = [
        QuantisedExpert(
            gate[e], up[e], down[e], mult[e, :half], mult[e, half:], up_shift, int(post[0]), post_shift, down_mult[e],
            down_shift,
        )
        for e in range(len(experts))
    ]  # fmt: skip
    return QuantisedLayer(tuple(quantised), x_scale, y_scale)
