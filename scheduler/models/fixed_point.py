# SPDX-License-Identifier: Apache-2.0
"""Fixed-point formats of the language model on the machine: fields of VECTOR, STORE and LOAD that no model changes.

Quantisation, the integer model and the lowering take them from here. The names say which field of
which instruction (``docs/vector.md``) holds the value.
"""

from __future__ import annotations

__all__ = [
    "GATE_IN_BITS", "GATE_MULT", "GATE_RECIP", "GATE_SHIFT", "INT8_MAX", "INT16_MAX", "KEY_SHIFT", "LOG2_BITS",
    "ONE_Q15", "PROBABILITY_MAX", "PROBABILITY_MULT", "PROBABILITY_SHIFT", "QUERY_KEY_BITS", "ROPE_BITS",
    "ROTATE_SHIFT", "VALUE_SHIFT", "gate_scale_shift",
]  # fmt: skip

INT8_MAX, INT16_MAX = 127, 32767
"""Largest magnitude that scales are chosen for."""

ONE_Q15 = 1 << 15
"""1.0 in Q15."""

LOG2_BITS = 9
"""Fraction bits of attention scores and router logits, which are in units of log2: what ``exp2_q15`` takes."""

ROPE_BITS = 14
"""Fraction bits of the cosine and sine tables."""

QUERY_KEY_BITS = 7
"""Bits that q and k rows have before ROTATE beyond the int8 after it; one bit of int16 is left for the rotation."""

ROTATE_SHIFT = ROPE_BITS + QUERY_KEY_BITS
"""`shift` of ROTATE (`bits` = 8, `in_shift` = 0)."""

KEY_SHIFT = 0
"""`shift` of the STORE of keys, which ROTATE has already brought to int8."""

VALUE_SHIFT = 8
"""`shift` of the STORE of values: from the int16 rows of the projection to int8."""

PROBABILITY_MAX = 127
"""What the largest score of a row becomes."""

PROBABILITY_MULT, PROBABILITY_SHIFT = PROBABILITY_MAX, 15
"""`mult` and `shift` of MAP EXP2 in attention (`bits` = 8, `in_shift` = 0): 1.0 in Q15 becomes 127."""

GATE_MULT, GATE_SHIFT = 1, 0
"""`mult` and `shift` of MAP EXP2 with SUM_RECIP in the router (`bits` = 32): Q15, 0 to 32768, as it is."""

GATE_RECIP = ONE_Q15
"""`imm` of that SUM_RECIP: 1.0."""

GATE_IN_BITS = 32
"""`bits` of the router's MAP and SCALE: 32768 does not fit int16."""


def gate_scale_shift(gate_bits: int) -> int:
    """Return `shift` of the SCALE that makes gates with `gate_bits` fraction bits from Q15 numbers and the FLOAT.

    SCALE shifts by E + shift - 32, and mantissa x 2^-E is 1/sum with the sum in Q15, so 32 - shift = gate_bits.
    """
    return 32 - gate_bits
