# SPDX-License-Identifier: Apache-2.0
"""Weights from nibble planes: ``w = 16*hi + lo`` with both nibbles signed."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Value

__all__ = ["merge_planes"]


def merge_planes(high: Value, low: Value | None) -> Value:
    """Return the weights (8 bits each, weight 0 lowest) of a beat of each plane.

    Parameters
    ----------
    high, low : Value
        Beats of the two planes, the same width; weight i has bits ``4*i .. 4*i+3``. Without `low`: ``16*hi``.

    Returns
    -------
    Value
        Twice as wide as `high`. Purely combinational: one 4-bit subtraction of one bit per weight.
    """
    weights: list[Value] = []
    for i in range(len(high) // 4):
        hi = high.word_select(i, 4)
        if low is None:
            weights += [Const(0, 4), hi]
        else:
            lo = low.word_select(i, 4)
            # A negative low nibble (bit 3 set) borrows one from the high nibble. Sums below -128 wrap; the packer makes
            # none.
            weights += [lo, (hi - lo[3])[:4]]
    return Cat(*weights)
