# SPDX-License-Identifier: Apache-2.0
"""W8A8 quantisation: int8 weights and activations, static scales, integer drains, and what an expert is made of.

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

Weights are rounded to +-119, which leaves error compensation room to move them. The high plane alone is an int4 weight
with a scale of its own for each channel (`scheduler.models.planes`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hdl.errors import A3dError
from hdl.numerics import MAX_SHIFT, WEIGHT_MAX
from scheduler.models.deferred import ArrayField, Deferred, shape_of

__all__ = [
    "GATE_BITS", "SILU_BITS", "ExpertRanges", "ExpertWeights", "QuantisationError", "QuantisedExpert", "QuantisedLayer",
    "QuantisedMatrix", "Stored", "multipliers", "quantise_activations", "quantise_gates", "quantise_matrix",
    "quantise_weights", "scale_of",
]  # fmt: skip

Float = npt.NDArray[np.floating]
GATE_BITS = 15
"""Fraction bits of a gate score: 1.0 is 32768."""

SILU_BITS = 11
"""Fraction bits of the gate value that enters SiLU."""


class QuantisationError(A3dError):
    """Weights or ranges that cannot be quantised."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ExpertWeights:
    """Float weights of one expert (outputs, inputs): gate, up (intermediate, hidden), down (hidden, intermediate).

    They may be made anew by each reading: read them once.
    """

    gate: ArrayField[np.floating] = ArrayField()
    up: ArrayField[np.floating] = ArrayField()
    down: ArrayField[np.floating] = ArrayField()

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of gate (and up) and of down."""
        return shape_of(self, "gate"), shape_of(self, "down")


@dataclass(frozen=True)
class ExpertRanges:
    """Largest magnitudes that calibration saw: of the up projection, of ``silu(gate) * up``, of the expert's output."""

    up: float
    h: float
    y: float


@dataclass(frozen=True, eq=False, kw_only=True)
class QuantisedMatrix:
    """A matrix whose accumulators become int16 rows: ``requant(x @ weights.T, mult, shift, 16)``.

    Attributes
    ----------
    weights : int8 array [outputs, inputs]
        Weights, -119 to 119. They may be made anew by each reading: read them once.
    mult : uint16 array [outputs]
        Requantisation multiplier of each output channel.
    shift : int
        Shift of all of them.
    """

    weights: ArrayField[np.int8] = ArrayField()
    mult: npt.NDArray[np.uint16]
    shift: int


@dataclass(frozen=True, eq=False, kw_only=True)
class QuantisedExpert:
    """One expert as the machine computes it.

    Attributes
    ----------
    gate, up : int8 array [intermediate, hidden]
        Weights of the up projections. All three may be made anew by each reading: read them once.
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
    high_gate_mult, high_up_mult, high_down_mult : uint16 arrays
        The multipliers where only the high nibbles are there: these are int4 weights with scales of their own. Shifts
        and the requantisation of the product are the same.
    """

    gate: ArrayField[np.int8] = ArrayField()
    up: ArrayField[np.int8] = ArrayField()
    down: ArrayField[np.int8] = ArrayField()
    gate_mult: npt.NDArray[np.uint16]
    up_mult: npt.NDArray[np.uint16]
    up_shift: int
    post_mult: int
    post_shift: int
    down_mult: npt.NDArray[np.uint16]
    down_shift: int
    high_gate_mult: npt.NDArray[np.uint16]
    high_up_mult: npt.NDArray[np.uint16]
    high_down_mult: npt.NDArray[np.uint16]


@dataclass(frozen=True, eq=False)
class QuantisedLayer:
    """The experts of one layer.

    Attributes
    ----------
    experts : tuple of QuantisedExpert
        All experts that the router chooses from, all of one shape; none in a dense layer.
    x_scale, y_scale : float
        Real value of 1 of the input and of 1 of the output.
    """

    experts: tuple[QuantisedExpert, ...]
    x_scale: float = 1.0
    y_scale: float = 1.0

    @property
    def hidden(self) -> int:
        """Input and output channels."""
        return int(self.experts[0].down_mult.size)

    @property
    def intermediate(self) -> int:
        """Channels between the projections."""
        return int(self.experts[0].gate_mult.size)


def quantise_weights(weights: Float, levels: int = WEIGHT_MAX) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float64]]:
    """Quantise a matrix (outputs, inputs) symmetrically per output channel; return integers and scales.

    `levels` is the largest integer, 1 to 119: 31 makes weights of 6 bits.

    Raises
    ------
    QuantisationError
        Values that are not finite.
    """
    if not np.isfinite(weights).all():
        raise QuantisationError("weights: a value is not finite; check the checkpoint")
    largest = np.abs(weights).max(axis=1).astype(np.float64)
    scale = np.where(largest > 0, largest, 1.0) / levels
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


def quantise_matrix(
    weights: Float | Deferred[np.floating], in_scale: npt.ArrayLike, out_scale: npt.ArrayLike, *, resident: bool = True
) -> QuantisedMatrix:
    """Quantise a matrix (outputs, inputs) and find the multipliers that bring its accumulators to given scales.

    Parameters
    ----------
    weights : array [outputs, inputs], or how to make it
        Float weights.
    in_scale : float or array [inputs]
        Real value of 1 of the input, of each channel if they differ (the weights take up the differences).
    out_scale : float or array [outputs]
        Real value of 1 of the int16 output.
    resident : bool
        Keep the integers; else they are made whenever they are asked for.

    Raises
    ------
    QuantisationError
        Values that are not finite, or a ratio of scales that no multiplier reaches.
    """
    scales = np.asarray(in_scale, dtype=np.float64)

    def scaled() -> Float:
        made = weights.make() if isinstance(weights, Deferred) else weights
        return np.asarray(made, dtype=np.float64) * scales

    integers, weight_scale = _quantised(scaled, resident)
    mult, shift = multipliers(weight_scale / np.asarray(out_scale, dtype=np.float64))
    return QuantisedMatrix(weights=integers, mult=mult, shift=shift)


Stored = npt.NDArray[np.int8] | Deferred[np.int8]
"""Integers of a matrix, or how to make them."""


def _quantised(make: Callable[[], Float], resident: bool) -> tuple[Stored, npt.NDArray[np.float64]]:
    """Return the integers of a matrix, or how to make them, and the scales of its channels."""
    integers, scale = quantise_weights(make())
    return (integers if resident else Deferred(integers.shape, lambda: quantise_weights(make())[0])), scale


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
