# SPDX-License-Identifier: Apache-2.0
"""NumPy specifications of the arithmetic, which the RTL equals bit for bit."""

from hdl.numerics.matrix import (
    LOW_MISSING,
    MAX_SHIFT,
    SIGMOID_FRACTION_BITS,
    SIGMOID_SEGMENTS,
    WEIGHT_MAX,
    combine_add,
    merge_nibbles,
    requant,
    round_shift,
    saturate,
    sigmoid_q16,
    sigmoid_table,
    silu_q11,
    split_nibbles,
    store_convert,
    swiglu,
    wrap,
)

__all__ = [
    "LOW_MISSING",
    "MAX_SHIFT",
    "SIGMOID_FRACTION_BITS",
    "SIGMOID_SEGMENTS",
    "WEIGHT_MAX",
    "combine_add",
    "merge_nibbles",
    "requant",
    "round_shift",
    "saturate",
    "sigmoid_q16",
    "sigmoid_table",
    "silu_q11",
    "split_nibbles",
    "store_convert",
    "swiglu",
    "wrap",
]
