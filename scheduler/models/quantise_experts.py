# SPDX-License-Identifier: Apache-2.0
"""Quantises the experts of a layer; ``scheduler.models.quantise`` says what the integers mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from hdl.numerics import WEIGHT_MAX
from scheduler.models.deferred import Deferred
from scheduler.models.planes import ExpertMoments, Moments, compensated_weights, high_scales
from scheduler.models.quantise import (
    SILU_BITS,
    ExpertRanges,
    ExpertWeights,
    QuantisationError,
    QuantisedExpert,
    QuantisedLayer,
    Stored,
    multipliers,
    quantise_weights,
    scale_of,
)

__all__ = ["quantise_layer"]

Float = npt.NDArray[np.floating]
Scales = npt.NDArray[np.float64]
_MOST = 65535
"""Largest multiplier."""

_MOST_REACH = 16
"""Steps of int8 from one high nibble to the next."""


@dataclass(frozen=True)
class _Stack:
    """One matrix of all experts: integers, and scales [experts, outputs] of both planes and of the high one."""

    integers: list[Stored]
    scale: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]


def _planes(
    make: Callable[[], Float],
    resident: bool,
    moments: Moments | None,
    reach: int | None,
    levels: int,
) -> tuple[Stored, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the integers of an expert's matrix, or how to make them, its scales, and those of its high plane."""

    def rounded(weights: Float) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float64]]:
        integers, scale = quantise_weights(weights, levels)
        if moments is not None and reach is not None:
            integers = compensated_weights(np.asarray(weights, dtype=np.float64) / scale[:, None], moments, reach)
        return integers, scale

    weights = make()
    integers, scale = rounded(weights)
    seen = None if moments is None else moments.low
    high = scale * high_scales(np.asarray(weights, dtype=np.float64) / scale[:, None], integers, seen)
    return (integers if resident else Deferred(integers.shape, lambda: rounded(make())[0])), scale, high


def _each(
    experts: Sequence[ExpertWeights], name: str, resident: bool, moments: Sequence[ExpertMoments] | None,
    reach: int | None, levels: int,
) -> _Stack:  # fmt: skip
    """Return a matrix of all experts."""
    seen = [None] * len(experts) if moments is None else [own.h if name == "down" else own.x for own in moments]
    found = [
        _planes(partial(getattr, e, name), resident, own, reach, levels) for e, own in zip(experts, seen, strict=True)
    ]
    integers, scale, high = zip(*found, strict=True)
    return _Stack(list(integers), np.stack(scale), np.stack(high))


def quantise_layer(
    experts: Sequence[ExpertWeights],
    x_range: float,
    ranges: Sequence[ExpertRanges],
    margin: float = 1.0,
    *,
    x_scale: float | None = None,
    y_scale: float | None = None,
    resident: bool = True,
    moments: Sequence[ExpertMoments] | None = None,
    reach: int | None = None,
    levels: int = WEIGHT_MAX,
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
    resident : bool
        Keep the integers; else they are made whenever they are asked for.
    moments : sequence of ExpertMoments, optional
        What the inputs of each expert are like; default: the scales of high planes follow the weights alone.
    reach : int, optional
        Choose the integers with error compensation, see `compensated_weights`; needs `moments`. Default: round each
        weight to the nearest.
    levels : int
        Largest integer of a weight, 1 to 119. Fewer than 119 are for comparisons: 31 is what weights of 6 bits hold. A
        `reach` needs 119.

    Raises
    ------
    QuantisationError
        Numbers of experts, ranges and moments differ, a range or weight is not finite, or a reach out of range.
    """
    if len(experts) != len(ranges) or not experts:
        raise QuantisationError(f"ranges: {len(ranges)} for {len(experts)} experts; give one for each")
    if moments is not None and len(moments) != len(experts):
        raise QuantisationError(f"moments: {len(moments)} for {len(experts)} experts; give one for each")
    if reach is not None and (moments is None or not 0 <= reach <= _MOST_REACH):
        raise QuantisationError(f"reach: {reach}; use 0 to {_MOST_REACH}, and calibrate the moments of the inputs")
    if not 1 <= levels <= WEIGHT_MAX or (reach is not None and levels != WEIGHT_MAX):
        raise QuantisationError(f"levels: {levels}; use 1 to {WEIGHT_MAX}, {WEIGHT_MAX} with a reach")
    x_scale = scale_of(x_range * margin, 127, "x") if x_scale is None else x_scale
    fallback = ExpertRanges(*(max(getattr(r, name) for r in ranges) for name in ("up", "h", "y")))
    y_scale = scale_of(fallback.y * margin, 32767, "y") if y_scale is None else y_scale
    used = [seen if seen.h > 0 else fallback for seen in ranges]
    h_scales = np.array([scale_of(r.h * margin, 127, "h") for r in used])
    # One ratio of the two scales, so that all experts requantise their products alike; int16 has room for that.
    ratio = max(scale_of(r.up * margin, 32767, "up") / h for r, h in zip(used, h_scales, strict=True))
    gate, up, down = (_each(experts, name, resident, moments, reach, levels) for name in ("gate", "up", "down"))

    def up_ratios(gates: Scales, ups: Scales) -> Scales:
        return np.concatenate([x_scale * gates * (1 << SILU_BITS), x_scale * ups / (ratio * h_scales)[:, None]], axis=1)

    mult, up_shift = multipliers(up_ratios(gate.scale, up.scale))
    high = _with_shift(up_ratios(gate.high, up.high), up_shift)
    post, post_shift = multipliers(ratio / (1 << SILU_BITS))
    down_mult, down_shift = multipliers(h_scales[:, None] * down.scale / y_scale)
    high_down = _with_shift(h_scales[:, None] * down.high / y_scale, down_shift)
    half = gate.scale.shape[1]
    quantised = [
        QuantisedExpert(
            gate=gate.integers[e], up=up.integers[e], down=down.integers[e], gate_mult=mult[e, :half],
            up_mult=mult[e, half:], up_shift=up_shift, post_mult=int(post[0]), post_shift=post_shift,
            down_mult=down_mult[e], down_shift=down_shift, high_gate_mult=high[e, :half], high_up_mult=high[e, half:],
            high_down_mult=high_down[e],
        )
        for e in range(len(experts))
    ]  # fmt: skip
    return QuantisedLayer(tuple(quantised), x_scale, y_scale)


def _with_shift(ratios: Scales, shift: int) -> npt.NDArray[np.uint16]:
    """Return the multipliers for a given shift; a ratio that is a little too large for it gets the largest."""
    return np.minimum(np.rint(ratios * 2.0**shift), _MOST).astype(np.uint16)
