# SPDX-License-Identifier: Apache-2.0
"""The one specification of the machine's arithmetic: exact integer functions that the RTL equals bit for bit.

Everything here is NumPy on int64 without any floating point at run time; the only real numbers are those from which
the sigmoid table is made, once.  Reference models, the scheduler and every test import these functions; no other file
may restate them.

Notation: *Qi.f* is a fixed-point number with *f* fraction bits; "round half up" adds half a unit and floors.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from hdl.isa import MAX_SHIFT, StoreFormat

__all__ = [
    "LOW_MISSING", "MAX_SHIFT", "SIGMOID_FRACTION_BITS", "SIGMOID_SEGMENTS", "WEIGHT_MAX", "combine_add",
    "merge_nibbles", "requant", "round_shift", "saturate", "sigmoid_q16", "sigmoid_table", "silu_q11",
    "split_nibbles", "store_convert", "swiglu", "wrap",
]  # fmt: skip

Int = npt.NDArray[np.int64]

WEIGHT_MAX = 119
"""Largest magnitude of a weight that is rounded: error compensation moves weights from there, within int8."""

LOW_MISSING = 8
"""Low nibble of a weight whose low plane is not loaded: the middle of those there are."""

SIGMOID_SEGMENTS = 128
"""Segments of the sigmoid table over the magnitudes [0, 16); a segment is 1/8 wide."""

SIGMOID_FRACTION_BITS = 8
"""Bits of a Q4.11 magnitude below the segment index."""


def _int64(value: npt.ArrayLike) -> Int:
    array = np.asarray(value)
    if array.dtype.kind not in "iub":
        raise TypeError(f"numerics: dtype {array.dtype}; the machine's arithmetic is defined on integers only")
    return array.astype(np.int64)


def saturate(value: npt.ArrayLike, bits: int) -> Int:
    """Clamp to the range of a signed number of `bits` bits."""
    high = (1 << (bits - 1)) - 1
    clamped: Int = np.clip(_int64(value), -high - 1, high)
    return clamped


def wrap(value: npt.ArrayLike, bits: int) -> Int:
    """Reduce modulo ``2**bits`` into the range of a signed number of `bits` bits (2 to 62)."""
    half = 1 << (bits - 1)
    return ((_int64(value) + half) & ((1 << bits) - 1)) - half


def round_shift(value: npt.ArrayLike, shift: npt.ArrayLike) -> Int:
    """Shift right by 0 to 62 bits with round half up: ``floor(value / 2**shift + 1/2)``.

    The sum of `value` and half a unit must fit int64.
    """
    amount = _int64(shift)
    half = np.where(amount > 0, np.int64(1) << np.maximum(amount - 1, 0), 0)
    return (_int64(value) + half) >> amount


def requant(acc: npt.ArrayLike, mult: npt.ArrayLike, shift: npt.ArrayLike, bits: int) -> Int:
    """Requantise accumulators: ``saturate(round_half_up(acc * mult / 2**shift))``.

    Parameters
    ----------
    acc : array of int32 values
        Accumulators; the last axis usually runs over the ``columns`` output channels.
    mult : array of uint16 values
        Multipliers, broadcast against `acc`.
    shift : int or array, 0 to 47
        Right shift.
    bits : int
        Width of the signed result, 8 or 16.

    Returns
    -------
    ndarray of int64
        Values within ``bits`` bits; within 0.5 units of the exact quotient where it does not saturate.
    """
    return saturate(round_shift(_int64(acc) * _int64(mult), shift), bits)


@lru_cache(maxsize=1)
def sigmoid_table() -> tuple[tuple[int, int], ...]:
    """Return (value, slope) of each segment: sigmoid in Q0.16 at its start, and the rise across it.

    The chord of a curve with second derivative *s''* over a segment *h* errs by ``h*h*s''/8`` in the middle and by
    nothing at the ends.  Moving every node by half of that halves the worst error.  Node 0 stays at exactly 1/2
    (*s''* is zero there), which :func:`sigmoid_q16` needs for its symmetry.
    """
    width = 16.0 / SIGMOID_SEGMENTS

    def node(i: int) -> int:
        s = 1.0 / (1.0 + math.exp(-i * width))
        curvature = s * (1.0 - s) * (1.0 - 2.0 * s)
        return min(65535, math.floor(65536.0 * (s - width * width * curvature / 16.0) + 0.5))

    nodes = [node(i) for i in range(SIGMOID_SEGMENTS + 1)]
    return tuple((low, high - low) for low, high in pairwise(nodes))


def sigmoid_q16(g: npt.ArrayLike) -> Int:
    """Sigmoid by table and linear interpolation.

    Parameters
    ----------
    g : array of int16 values
        Argument in Q4.11, [-16, 16).

    Returns
    -------
    ndarray of int64
        Sigmoid in Q0.16, 1 to 65535, monotonic; within 7 units (1.1e-4) of the exact value for each of the 65,536
        arguments.  ``sigmoid_q16(-g) == 65536 - sigmoid_q16(g)`` for every g but -32768, whose magnitude has no
        int16: it is taken as -32767.
    """
    value = _int64(g)
    magnitude = np.minimum(np.abs(value), 32767)
    segment = magnitude >> SIGMOID_FRACTION_BITS
    fraction = magnitude & ((1 << SIGMOID_FRACTION_BITS) - 1)
    table = np.array(sigmoid_table(), dtype=np.int64)
    positive = table[segment, 0] + round_shift(table[segment, 1] * fraction, SIGMOID_FRACTION_BITS)
    result: Int = np.where(value < 0, 65536 - positive, positive)
    return result


def silu_q11(g: npt.ArrayLike) -> Int:
    """``g * sigmoid(g)`` in Q4.11 (int16 range), from `g` in Q4.11; within 1 unit (4.9e-4) of the exact value."""
    value = _int64(g)
    return round_shift(value * sigmoid_q16(value), 16)


def swiglu(
    acc_gate: npt.ArrayLike,
    acc_up: npt.ArrayLike,
    mult_gate: npt.ArrayLike,
    mult_up: npt.ArrayLike,
    shift: npt.ArrayLike,
    post_mult: npt.ArrayLike,
    post_shift: npt.ArrayLike,
) -> Int:
    """Requantise gate and up accumulators, apply SiLU to the gate, multiply, requantise to int8.

    Parameters
    ----------
    acc_gate, acc_up : arrays of int32 values
        Accumulators of the gate and of the up projection of the same output channels.
    mult_gate, mult_up : arrays of uint16 values
        Their multipliers; the gate's bring it to Q4.11, the up projection's to any 16-bit scale.
    shift : int, 0 to 47
        Shift of both.
    post_mult, post_shift : int
        uint16 multiplier and shift (0 to 47) of the product.

    Returns
    -------
    ndarray of int64
        Values in [-128, 127].
    """
    gate = requant(acc_gate, mult_gate, shift, 16)
    up = requant(acc_up, mult_up, shift, 16)
    return requant(silu_q11(gate) * up, post_mult, post_shift, 8)


def combine_add(
    row: npt.ArrayLike, gate: npt.ArrayLike, result: npt.ArrayLike, accumulate: npt.ArrayLike = True
) -> Int:
    """Return a combine-buffer row after a result row has arrived: ``(row if accumulate else 0) + gate * result``.

    Parameters
    ----------
    row : array of int32 values
        What the buffer holds.
    gate : array of uint16 values
        Gate score (Q15), or 1.
    result : array of int16 values
        Result row.
    accumulate : bool or array of bool
        Whether the old row counts.

    Returns
    -------
    ndarray of int64
        Values wrapped to int32.
    """
    old = np.where(np.asarray(accumulate, dtype=bool), _int64(row), 0)
    return wrap(old + _int64(gate) * _int64(result), 32)


def store_convert(row: npt.ArrayLike, shift: npt.ArrayLike, format: StoreFormat) -> Int:
    """Return the elements that a STORE writes for combine-buffer rows.

    Parameters
    ----------
    row : array of int32 values
        Combine-buffer rows.
    shift : int, 0 to 31
        Right shift with round half up.
    format : StoreFormat
        INT8, INT16 or INT32.

    Returns
    -------
    ndarray of int64
        Values within the format.
    """
    bits = {StoreFormat.INT8: 8, StoreFormat.INT16: 16, StoreFormat.INT32: 32}.get(StoreFormat(format))
    if bits is None:
        raise ValueError(f"store_convert: format {StoreFormat(format).name} writes no elements")
    return saturate(round_shift(row, shift), bits)


def split_nibbles(w: npt.ArrayLike) -> tuple[Int, Int]:
    """Split int8 weights into ``(hi, lo)`` with ``w = 16*hi + lo``, `hi` in [-8, 7] and `lo` in [0, 15].

    These are the upper and the lower four bits of the weight. `hi` alone stands for the sixteen weights that have it,
    with their middle: ``16*hi + LOW_MISSING`` differs from the weight by -8 to 7.

    Raises
    ------
    ValueError
        If a weight lies outside [-128, 127].
    """
    value = _int64(w)
    if value.size and (value.min() < -128 or value.max() > 127):
        raise ValueError(f"split_nibbles: weights from {value.min()} to {value.max()}; use -128 to 127")
    return value >> 4, value & 15


def merge_nibbles(hi: npt.ArrayLike, lo: npt.ArrayLike = LOW_MISSING) -> Int:
    """Return ``16*hi + lo`` for `hi` in [-8, 7] and `lo` in [0, 15]; without `lo`: of the high plane alone."""
    return 16 * _int64(hi) + _int64(lo)
