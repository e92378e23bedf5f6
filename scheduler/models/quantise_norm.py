# SPDX-License-Identifier: Apache-2.0
"""Constants of RMSNorms: of the residual, and of queries and keys (QK-norm)."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from scheduler.models.description import Model
from scheduler.models.fixed_point import INT16_MAX, ONE_Q15, QUERY_KEY_BITS, qk_norm_bits
from scheduler.models.quantise import QuantisationError
from scheduler.models.quantised_model import Norm, WeightedNorm

__all__ = ["float_fields", "head_norm", "residual_norm"]

Float = npt.NDArray[np.floating]

_MOST_SHIFT = 47
"""Largest shift of MUL that moves a product."""


def float_fields(factor: float, what: str) -> tuple[int, int]:
    """Return the Q15 multiplier of a FLOAT and the SCALE's shift that together multiply by `factor`.

    Raises
    ------
    QuantisationError
        A factor that is not positive, not finite, or beyond 2**-31 to 2**33; `what` names it.
    """
    if not (math.isfinite(factor) and factor > 0):
        raise QuantisationError(f"{what}: a factor of {factor}; check the calibrated ranges")
    exponent = math.floor(math.log2(factor))
    mult = round(factor / 2.0**exponent * ONE_Q15)
    if mult > 65535:
        mult, exponent = mult // 2, exponent + 1
    if not -31 <= exponent <= 32:
        raise QuantisationError(f"{what}: a factor of {factor}; use 2**-31 to 2**33: check the calibrated ranges")
    return mult, 32 - exponent


def _rms(model: Model, channels: int, in_shift: int, unit: float, factor: float) -> Norm:
    """Return the norm over `channels` of x in units of `unit` whose output is x / rms(x) times `factor`."""
    mult, shift = float_fields(math.sqrt(channels) * factor, "norm")
    # sum of squares / channels + eps, times channels, in squared units
    eps = round(model.norm_eps * channels / unit**2)
    eps_shift = max(0, eps.bit_length() - 16)
    eps = min(eps + (1 << eps_shift >> 1) >> eps_shift, 65535)
    if in_shift > 31 or eps_shift > 32:
        raise QuantisationError(
            f"norm: values in units of {unit} with rms_norm_eps {model.norm_eps} do not fit; check both"
        )
    return Norm(in_shift, eps, eps_shift, mult, shift)


def residual_norm(model: Model, largest: float, out_scale: float, residual_scale: float) -> Norm:
    """Return a norm for residuals up to `largest`; 1 of its int8 output stands for `out_scale`.

    Raises
    ------
    QuantisationError
        Ranges that the formats do not hold.
    """
    units = max(largest / residual_scale, 1.0)
    in_shift = max(0, math.ceil(math.log2(units / INT16_MAX)))
    return _rms(model, model.hidden, in_shift, residual_scale * 2.0**in_shift, 1 / out_scale)


def head_norm(model: Model, weights: Float, unit: float, out_scales: npt.ArrayLike) -> WeightedNorm:
    """Return the norm of queries or keys in int16 rows.

    Parameters
    ----------
    model : Model
        The model.
    weights : array [channels]
        Of one head or of all heads together; RoPE's pairs adjacent.
    unit : float
        Real value of 1 of the rows.
    out_scales : float or array [channels]
        Real value of 1 of the int8 that ROTATE makes; the norm's rows are 2**QUERY_KEY_BITS finer.

    Raises
    ------
    QuantisationError
        Ranges that the formats do not hold.
    """
    bits = qk_norm_bits(weights.size)
    ratios = np.asarray(weights, dtype=np.float64) * 2.0 ** (QUERY_KEY_BITS - bits) / np.asarray(out_scales)
    largest = float(np.abs(ratios).max(initial=0.0))
    if not math.isfinite(largest) or largest > INT16_MAX:
        raise QuantisationError(f"QK-norm: a weight of {largest} units; check the checkpoint and the calibrated ranges")
    shift = min(_MOST_SHIFT, math.floor(math.log2(INT16_MAX / largest))) if largest else 0
    norm = _rms(model, weights.size, 0, unit, 2.0**bits)
    return WeightedNorm(norm, np.rint(ratios * 2.0**shift).astype(np.int16), shift)
