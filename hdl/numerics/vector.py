# SPDX-License-Identifier: Apache-2.0
"""Arithmetic of the vector unit: exact integer functions that the RTL equals bit for bit (``docs/vector.md``).

Three functions come from tables with linear interpolation: a power of two, a reciprocal square root and a
reciprocal.  The chord of a curve with second derivative *f''* over a segment *h* errs by ``h*h*f''/8`` in the
middle and by nothing at the ends; moving every node by half of that halves the worst error.  ``a3d bench primitives``
measures the worst error of each over its whole range.

A FLOAT is a mantissa (0 to 65535) and an exponent E: ``mantissa * 2**-E``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from hdl.numerics import round_shift

__all__ = [
    "EXP2_FRACTION_BITS", "EXP2_GUARD_BITS", "EXP2_SEGMENTS", "EXP2_UNIT_BITS", "FLOAT_FRACTION_BITS",
    "FLOAT_MAX_EXPONENT", "RECIP_BITS", "RSQRT_BITS", "exp2_q15", "exp2_table", "float_scale", "pack_choice",
    "pack_float", "pack_maxcorr", "recip", "recip_table", "rsqrt", "rsqrt_table", "unpack_choice", "unpack_float",
    "unpack_maxcorr",
]  # fmt: skip

Int = npt.NDArray[np.int64]
Table = tuple[tuple[int, int], ...]

EXP2_UNIT_BITS = 9
"""Fraction bits of the argument of :func:`exp2_q15`."""

EXP2_SEGMENTS = 32
"""Segments of its table, which spans one octave."""

EXP2_FRACTION_BITS = EXP2_UNIT_BITS - 5
"""Bits of the argument below the segment index."""

EXP2_GUARD_BITS = 2
"""Fraction bits of the table's values below Q15."""

FLOAT_FRACTION_BITS = 8
"""Bits below the segment index in :func:`rsqrt` and :func:`recip`; the index has 8 bits, too."""

RSQRT_BITS = 48
"""Width of the argument of :func:`rsqrt`."""

RECIP_BITS = 32
"""Width of the argument of :func:`recip`."""

FLOAT_MAX_EXPONENT = 63
"""Largest exponent that a FLOAT holds."""


def _nodes(value: Callable[[float], float], second: Callable[[float], float], places: list[float]) -> list[int]:
    """Return the curve at `places`, each moved by half of the chord's worst error, rounded."""
    width = places[1] - places[0]
    return [math.floor(value(x) - width * width * second(x) / 16.0 + 0.5) for x in places]


def _table(nodes: list[int]) -> Table:
    return tuple((high, high - low) for high, low in pairwise(nodes))


@lru_cache(maxsize=1)
def exp2_table() -> Table:
    """Return (value, fall) of each segment of ``2**-x``, x in [0, 1), in Q15 with `EXP2_GUARD_BITS` more bits.

    Node 0 stays at exactly 1.0, because a row's largest score must come out as that.
    """
    one = float(1 << 15 + EXP2_GUARD_BITS)

    def curve(x: float) -> float:
        return one * math.exp2(-x)

    nodes = _nodes(curve, lambda x: curve(x) * math.log(2) ** 2, [i / EXP2_SEGMENTS for i in range(EXP2_SEGMENTS + 1)])
    return _table([int(one), *nodes[1:]])


@lru_cache(maxsize=1)
def rsqrt_table() -> Table:
    """Return (value, fall) of each segment of ``2**15 / sqrt(x)`` for the indices 64 to 255 of x = index/256."""
    places = [i / 256 for i in range(64, 257)]
    return _table(_nodes(lambda x: 32768.0 / math.sqrt(x), lambda x: 24576.0 * x**-2.5, places))


@lru_cache(maxsize=1)
def recip_table() -> Table:
    """Return (value, fall) of each segment of ``2**15 / x`` for the indices 128 to 255 of x = index/256."""
    places = [i / 256 for i in range(128, 257)]
    return _table(_nodes(lambda x: 32768.0 / x, lambda x: 65536.0 * x**-3.0, places))


def exp2_q15(d: npt.ArrayLike) -> Int:
    """Return ``2**(d/512)`` in Q15.

    Parameters
    ----------
    d : array of integers
        Exponent in units of 1/512; positive values count as 0.

    Returns
    -------
    ndarray of int64
        0 to 32768, within 2 units (6.1e-5) of the exact value; exactly 32768 for d = 0. Never rises as d falls.
    """
    depth = -np.minimum(np.asarray(d, dtype=np.int64), 0)
    octave = np.minimum(depth >> EXP2_UNIT_BITS, 31)
    table = np.array(exp2_table(), dtype=np.int64)
    segment = table[depth >> EXP2_FRACTION_BITS & (EXP2_SEGMENTS - 1)]
    fraction = depth & (1 << EXP2_FRACTION_BITS) - 1
    value = (segment[..., 0] << EXP2_FRACTION_BITS) - segment[..., 1] * fraction
    return round_shift(value, octave + EXP2_FRACTION_BITS + EXP2_GUARD_BITS)


def _bit_length(value: Int) -> Int:
    """Return the bit length of positive numbers below 2**52."""
    _, exponent = np.frexp(value.astype(np.float64))
    return exponent.astype(np.int64)


def _interpolate(table: Table, first: int, scaled: Int) -> Int:
    """Return a mantissa from a 16-bit number: an index (its high byte) from `first` on, and a fraction."""
    entry = np.array(table, dtype=np.int64)[(scaled >> FLOAT_FRACTION_BITS) - first]
    fraction = scaled & (1 << FLOAT_FRACTION_BITS) - 1
    mantissa: Int = np.minimum(entry[..., 0] - round_shift(entry[..., 1] * fraction, FLOAT_FRACTION_BITS), 65535)
    return mantissa


def _leading16(value: Int, shift: Int, width: int) -> Int:
    """Return the top 16 bits of a `width`-bit number after a left shift; bits below them are dropped."""
    down = width - 16 - shift
    return np.where(down >= 0, value >> np.maximum(down, 0), value << np.maximum(-down, 0))


def rsqrt(v: npt.ArrayLike) -> tuple[Int, Int]:
    """Return a FLOAT near ``1/sqrt(v)``.

    Parameters
    ----------
    v : array of integers
        0 to 2**48 - 1; 0 counts as 1.

    Returns
    -------
    mantissa, exponent : ndarrays of int64
        32768 to 65535, and 16 to 39; within 5e-5 of the exact value, relatively.
    """
    value = np.maximum(np.asarray(v, dtype=np.int64), 1)
    pairs = (RSQRT_BITS - _bit_length(value)) >> 1
    scaled = _leading16(value, 2 * pairs, RSQRT_BITS)
    return _interpolate(rsqrt_table(), 64, scaled), 39 - pairs


def recip(v: npt.ArrayLike) -> tuple[Int, Int]:
    """Return a FLOAT near ``1/v``.

    Parameters
    ----------
    v : array of integers
        0 to 2**32 - 1; 0 counts as 1.

    Returns
    -------
    mantissa, exponent : ndarrays of int64
        32768 to 65535, and 16 to 47; within 5e-5 of the exact value, relatively.
    """
    value = np.maximum(np.asarray(v, dtype=np.int64), 1)
    shift = RECIP_BITS - _bit_length(value)
    scaled = _leading16(value, shift, RECIP_BITS)
    return _interpolate(recip_table(), 128, scaled), 47 - shift


def float_scale(mantissa: npt.ArrayLike, exponent: npt.ArrayLike, mult: npt.ArrayLike) -> tuple[Int, Int]:
    """Multiply a FLOAT by a Q15 number (0 to 65535): ``(p >> 15, E)``, or ``(p >> 16, E - 1)`` from 2**31 on.

    What is cut off keeps the result within 1 unit of its mantissa below the exact product.
    """
    product = np.asarray(mantissa, dtype=np.int64) * np.asarray(mult, dtype=np.int64)
    large = product >= 1 << 31
    power = np.asarray(exponent, dtype=np.int64)
    return np.where(large, product >> 16, product >> 15), np.where(large, power - 1, power)


def _pack(low: npt.ArrayLike, high: npt.ArrayLike) -> npt.NDArray[np.uint32]:
    halves = [np.asarray(half, dtype=np.int64) & 0xFFFF for half in (low, high)]
    packed: npt.NDArray[np.uint32] = (halves[0] | halves[1] << 16).astype(np.uint32)
    return packed


def pack_float(mantissa: npt.ArrayLike, exponent: npt.ArrayLike) -> npt.NDArray[np.uint32]:
    """Return FLOAT scalars: mantissa in bits 15..0, exponent (0 to 63) in bits 21..16."""
    return _pack(mantissa, np.asarray(exponent, dtype=np.int64) & FLOAT_MAX_EXPONENT)


def unpack_float(scalar: npt.ArrayLike) -> tuple[Int, Int]:
    """Return (mantissa, exponent) of FLOAT scalars."""
    value = np.asarray(scalar).astype(np.int64)
    return value & 0xFFFF, value >> 16 & FLOAT_MAX_EXPONENT


def pack_maxcorr(maximum: npt.ArrayLike, correction: npt.ArrayLike) -> npt.NDArray[np.uint32]:
    """Return MAXCORR scalars: an int16 maximum in bits 15..0, a Q15 correction (0 to 32768) in bits 31..16."""
    return _pack(maximum, correction)


def unpack_maxcorr(scalar: npt.ArrayLike) -> tuple[Int, Int]:
    """Return (maximum, correction) of MAXCORR scalars."""
    value = np.asarray(scalar).astype(np.int64) & 0xFFFFFFFF
    return (value & 0xFFFF ^ 0x8000) - 0x8000, value >> 16


def pack_choice(value: npt.ArrayLike, index: npt.ArrayLike) -> npt.NDArray[np.uint32]:
    """Return CHOICE scalars: an int16 value in bits 15..0, an index (0 to 65535) in bits 31..16."""
    return _pack(value, index)


def unpack_choice(scalar: npt.ArrayLike) -> tuple[Int, Int]:
    """Return (value, index) of CHOICE scalars."""
    return unpack_maxcorr(scalar)
