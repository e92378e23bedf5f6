# SPDX-License-Identifier: Apache-2.0
"""Weights from nibble planes: the high plane has the upper four bits of each, the low plane the lower four."""

from __future__ import annotations

from amaranth.hdl import Cat, Value

__all__ = ["merge_planes"]


def merge_planes(high: Value, low: Value) -> Value:
    """Return the weights (8 bits each, weight 0 lowest) of a beat of each plane.

    Parameters
    ----------
    high, low : Value
        Beats of the two planes, the same width; weight i has bits ``4*i .. 4*i+3``.

    Returns
    -------
    Value
        Twice as wide as `high`; wires.
    """
    return Cat(plane.word_select(i, 4) for i in range(len(high) // 4) for plane in (low, high))
