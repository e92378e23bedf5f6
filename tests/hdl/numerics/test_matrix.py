# SPDX-License-Identifier: Apache-2.0
"""The arithmetic specification against independent big-integer and real-valued statements of the same."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hdl import numerics as nx
from hdl.isa import StoreFormat

ALL_INT16 = np.arange(-32768, 32768)
INT32 = st.integers(-(2**31), 2**31 - 1)
INT16 = st.integers(-(2**15), 2**15 - 1)
UINT16 = st.integers(0, 2**16 - 1)


def _exact_requant(acc: int, mult: int, shift: int, bits: int) -> int:
    """The definition in words: the real quotient, rounded half up, clamped."""
    value = math.floor(Fraction(acc * mult, 2**shift) + (Fraction(1, 2) if shift else 0))
    return max(-(2 ** (bits - 1)), min(2 ** (bits - 1) - 1, value))


@given(INT32, UINT16, st.integers(0, 47), st.sampled_from([8, 16]))
def test_requant_is_the_rounded_quotient(acc: int, mult: int, shift: int, bits: int) -> None:
    assert int(nx.requant(acc, mult, shift, bits)) == _exact_requant(acc, mult, shift, bits)


@pytest.mark.parametrize("shift", [0, 1, 15, 46, 47])
@pytest.mark.parametrize("mult", [0, 1, 32768, 65535])
def test_requant_at_the_corners(mult: int, shift: int) -> None:
    accs = [-(2**31), -(2**31) + 1, -1, 0, 1, 2**31 - 1]
    for bits in (8, 16):
        got = nx.requant(accs, mult, shift, bits)
        assert got.tolist() == [_exact_requant(a, mult, shift, bits) for a in accs]


def test_floats_are_refused() -> None:
    with pytest.raises(TypeError, match="float64"):
        nx.requant(1.5, 1, 0, 8)


def test_sigmoid_error_over_every_argument() -> None:
    exact = 65536.0 / (1.0 + np.exp(-ALL_INT16 / 2048.0))
    error = np.abs(nx.sigmoid_q16(ALL_INT16) - exact)
    assert error.max() < 7.0, f"worst error {error.max():.3f} at {ALL_INT16[error.argmax()]}"


def test_sigmoid_is_monotonic_symmetric_and_within_uint16() -> None:
    value = nx.sigmoid_q16(ALL_INT16)
    assert value.min() == 1 and value.max() == 65535
    assert (np.diff(value) >= 0).all()
    assert (value[1:] + value[1:][::-1] == 65536).all()
    assert value[0] == value[1]
    assert int(nx.sigmoid_q16(0)) == 32768


def test_silu_error_over_every_argument() -> None:
    exact = ALL_INT16 / (1.0 + np.exp(-ALL_INT16 / 2048.0))
    silu = nx.silu_q11(ALL_INT16)
    error = np.abs(silu - exact)
    assert error.max() < 1.0, f"worst error {error.max():.3f} at {ALL_INT16[error.argmax()]}"
    assert silu.min() >= -32768 and silu.max() <= 32767


def test_sigmoid_table_fits_the_rom() -> None:
    table = nx.sigmoid_table()
    assert len(table) == nx.SIGMOID_SEGMENTS
    assert table[0][0] == 32768
    assert all(0 <= value < 65536 and 0 <= slope < 2**12 for value, slope in table)


@given(INT32, INT32, UINT16, UINT16, st.integers(0, 47), UINT16, st.integers(0, 47))
def test_swiglu_composes_the_parts(ag: int, au: int, mg: int, mu: int, shift: int, pm: int, ps: int) -> None:
    gate, up = _exact_requant(ag, mg, shift, 16), _exact_requant(au, mu, shift, 16)
    silu = math.floor(Fraction(gate * int(nx.sigmoid_q16(gate)), 65536) + Fraction(1, 2))
    assert int(nx.swiglu(ag, au, mg, mu, shift, pm, ps)) == _exact_requant(silu * up, pm, ps, 8)


@given(INT32, UINT16, INT16, st.booleans())
def test_combine_add_wraps(row: int, gate: int, result: int, accumulate: bool) -> None:
    got = int(nx.combine_add(row, gate, result, accumulate))
    assert -(2**31) <= got < 2**31
    assert (got - (row if accumulate else 0) - gate * result) % 2**32 == 0


@given(INT32, st.integers(0, 31))
def test_store_convert(row: int, shift: int) -> None:
    for kind, bits in ((StoreFormat.INT8, 8), (StoreFormat.INT16, 16), (StoreFormat.INT32, 32)):
        assert int(nx.store_convert(row, shift, kind)) == _exact_requant(row, 1, shift, bits)


def test_store_convert_refuses_discard() -> None:
    with pytest.raises(ValueError, match="DISCARD"):
        nx.store_convert(0, 0, StoreFormat.DISCARD)


def test_nibbles_round_trip_and_high_alone_is_the_middle() -> None:
    weights = np.arange(-128, 128)
    hi, lo = nx.split_nibbles(weights)
    assert (hi.min(), hi.max(), lo.min(), lo.max()) == (-8, 7, 0, 15)
    assert (nx.merge_nibbles(hi, lo) == weights).all()
    assert (np.unique(nx.merge_nibbles(hi) - weights) == np.arange(-7, 9)).all()
    assert (((hi & 15) << 4 | lo) == weights & 255).all()
    for bad in (128, -129):
        with pytest.raises(ValueError, match="-128 to 127"):
            nx.split_nibbles(bad)
