# SPDX-License-Identifier: Apache-2.0
"""Chooses int8 weights whose high nibbles alone are good int4 weights, and the scales of the high nibbles.

An int8 weight is ``16 * high + low`` with `low` from 0 to 15, and `high` alone, which half of the bytes give, stands
for the middle, ``16 * high + 8``. Both are chosen column by column, and what a column rounds away is made up by the
columns that follow, as far as the inputs of the calibration text allow: error compensation as in GPTQ (Frantar et al.,
"GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", 2022), then improved by coordinate
descent on the same error (as in CDQuant, Nair and Suggala, 2024). This is done for `high`, and once more for `low`
below it: the nesting of precisions of Any-Precision LLM (Park et al., 2024). Our own are the bound on how far a weight
may move (`reach`), and that `high` is made for the tokens that will use it alone: those whose gates are small.

Inputs are int8, so that their second moments are whole numbers: neither the library under NumPy nor its number of
threads changes a weight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hdl.numerics import LOW_MISSING, WEIGHT_MAX, merge_nibbles, split_nibbles

__all__ = ["DEFAULT_REACH", "ExpertMoments", "Moments", "compensated_weights", "high_plane", "high_scales"]

Array = npt.NDArray[np.float64]

DEFAULT_REACH = 3
"""Steps of int8 by which a weight may leave its rounded value to give a better high plane (decision 26)."""

_DAMPING = 0.05
"""Part of the mean second moment that is added to every channel's: inputs that calibration saw too little of."""

_SWEEPS = 3
"""Rounds of coordinate descent: more change nothing to speak of."""

_MOST = 127
"""Largest magnitude of a weight that compensation moved."""

_BLOCK = 128
"""Columns whose errors are carried on at once; results differ by rounding of float64 only."""

_SCALE_BITS = 12
"""Fraction bits of a scale of the high plane, relative to the int8 scale."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums of products of a matrix's int8 inputs over the tokens of a calibration text: whole numbers.

    Attributes
    ----------
    all : float64 array [inputs, inputs]
        All tokens count the same.
    low : float64 array [inputs, inputs]
        Tokens count the more the smaller the expert's gate: those that may use its high plane alone.
    """

    all: Array
    low: Array


@dataclass(frozen=True, eq=False)
class ExpertMoments:
    """Moments of an expert's inputs, of the tokens that chose it.

    Attributes
    ----------
    x : Moments
        Of the input of gate and up [hidden, hidden].
    h : Moments
        Of the input of down [intermediate, intermediate].
    """

    x: Moments
    h: Moments

    def alike(self) -> ExpertMoments:
        """Return moments with which high planes are made for all tokens alike."""
        return ExpertMoments(*(Moments(own.all, own.all) for own in (self.x, self.h)))


def high_plane(weights: npt.NDArray[np.integer]) -> npt.NDArray[np.int8]:
    """Return what a machine computes with that has only the high nibbles of int8 weights."""
    return merge_nibbles(split_nibbles(weights)[0]).astype(np.int8)


def high_scales(
    weights: npt.NDArray[np.floating], integers: npt.NDArray[np.integer], moments: Array | None = None
) -> Array:
    """Return the scales of the high plane's channels: least squares of the outputs, or of the weights.

    Parameters
    ----------
    weights : float array [outputs, inputs]
        In units of each channel's int8 scale.
    integers : int array [outputs, inputs]
        The int8 weights.
    moments : float64 array [inputs, inputs], optional
        Second moments of the inputs; default: all inputs the same and independent.

    Returns
    -------
    float64 array [outputs]
        In units of each channel's int8 scale, 0 to 2, a multiple of 2**-12; 0 for a channel of zeros.
    """
    high = high_plane(integers).astype(np.float64)
    # A little of every input, so that inputs that calibration never saw do not make a scale of nothing.
    weighed = high if moments is None or not moments.any() else high @ _damped(moments)
    power = (weighed * high).sum(axis=1)
    bounded = np.clip((weighed * weights).sum(axis=1) / power, 0.0, 2.0)
    rounded: Array = np.rint(bounded * (1 << _SCALE_BITS)) / (1 << _SCALE_BITS)
    return rounded


def compensated_weights(
    weights: npt.NDArray[np.floating], moments: Moments, reach: int = DEFAULT_REACH
) -> npt.NDArray[np.int8]:
    """Return int8 weights whose planes both follow the float weights on the inputs of the calibration text.

    Parameters
    ----------
    weights : float array [outputs, inputs]
        In units of each channel's int8 scale: -119 to 119 (`WEIGHT_MAX`).
    moments : Moments
        Of the inputs; nothing but zeros: weights are rounded to the nearest.
    reach : int
        Steps by which a weight may leave its rounded value for the sake of the high plane, 0 to 16. 0: the high plane
        is that of the rounded weights, and only the low plane is compensated.

    Returns
    -------
    int8 array [outputs, inputs]
        -127 to 127.
    """
    target = weights.astype(np.float64)
    rounded = np.clip(np.rint(target), -WEIGHT_MAX, WEIGHT_MAX).astype(np.int64)
    if not moments.all.any():
        return np.asarray(rounded, dtype=np.int8)
    least, most = (high_plane(np.clip(rounded + step, -_MOST, _MOST)).astype(np.float64) for step in (-reach, reach))
    low = moments.low if moments.low.any() else moments.all
    high = _nearest(target, _damped(low), least, most, unit=16, middle=LOW_MISSING)
    first = high - LOW_MISSING  # of the sixteen weights with this high nibble
    both = _nearest(target, _damped(moments.all), np.maximum(first, -_MOST), first + 15)
    return both.astype(np.int8)


def _nearest(
    target: Array, moments: Array, least: Array, most: Array, *, unit: int = 1, middle: int = 0
) -> Array:  # fmt: skip
    """Return weights within bounds, `unit` apart, whose products with the inputs are near the target's.

    Parameters
    ----------
    target, least, most : float64 arrays [outputs, inputs]
    moments : float64 array [inputs, inputs]
        Positive definite.
    unit, middle : int
    """
    order = np.argsort(-np.diag(moments), kind="stable")  # the inputs that matter most have most others to help them
    wanted, low, high = target[:, order], least[:, order], most[:, order]
    ordered = moments[np.ix_(order, order)]

    def choose(j: int, column: Array) -> Array:
        chosen: Array = np.clip(unit * np.rint((column - middle) / unit) + middle, low[:, j], high[:, j])
        return chosen

    found = np.empty_like(target)
    found[:, order] = _descended(_carried(wanted, _inverse_factor(ordered), choose), wanted, ordered, choose)
    return found


def _damped(moments: Array) -> Array:
    size = len(moments)
    damped: Array = moments + np.eye(size) * (_DAMPING * np.trace(moments) / size)
    return damped


def _inverse_factor(moments: Array) -> Array:
    """Return U, upper triangular, with ``U.T @ U`` the inverse of the moments."""
    upper: Array = np.linalg.cholesky(np.linalg.inv(moments)).T
    return upper


def _carried(target: Array, factor: Array, choose: Callable[[int, Array], Array]) -> Array:
    """Choose column after column; what a column gets wrong is carried to those after it.

    Parameters
    ----------
    target : float64 array [outputs, inputs]
        What is wanted.
    factor : float64 array [inputs, inputs]
        See `_inverse_factor`.
    choose : callable
        Returns the values of column j, given what is wanted there.
    """
    wanted, found = target.copy(), np.empty_like(target)
    size = target.shape[1]
    for first in range(0, size, _BLOCK):
        end = min(first + _BLOCK, size)
        errors = np.empty((len(target), end - first))
        for j in range(first, end):
            found[:, j] = choose(j, wanted[:, j])
            errors[:, j - first] = (wanted[:, j] - found[:, j]) / factor[j, j]
            wanted[:, j + 1 : end] -= np.outer(errors[:, j - first], factor[j, j + 1 : end])
        wanted[:, end:] -= errors @ factor[first:end, end:]
    return found


def _descended(found: Array, target: Array, moments: Array, choose: Callable[[int, Array], Array]) -> Array:
    """Choose each column anew, given all others, a few times over."""
    pull = (target - found) @ moments
    for _ in range(_SWEEPS):
        for j in range(target.shape[1]):
            changed = choose(j, found[:, j] + pull[:, j] / moments[j, j]) - found[:, j]
            rows = np.flatnonzero(changed)
            found[rows, j] += changed[rows]
            pull[rows] -= np.outer(changed[rows], moments[j])
    return found
