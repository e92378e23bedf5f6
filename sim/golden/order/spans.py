# SPDX-License-Identifier: Apache-2.0
"""Sets of bytes in memory: whole ranges, and rows with gaps between them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Span", "SpanLog", "whole_span"]


class Span(NamedTuple):
    """Bytes ``start + j*step`` to ``start + j*step + width - 1`` for j = 0, 1, ..., all below `end`.

    Attributes
    ----------
    group : int
        Channel group.
    start, end : int
        First byte, and one past the last.
    step, width : int
        Bytes from one row to the next, and of one row; equal where there are no gaps.
    """

    group: int
    start: int
    end: int
    step: int
    width: int

    def covers(self, byte: int) -> bool:
        """Return whether a byte of the group belongs to the set."""
        return self.start <= byte < self.end and (byte - self.start) % self.step < self.width


def whole_span(group: int, start: int, end: int) -> Span:
    """Return all bytes from `start` up to `end`, exclusive."""
    return Span(group, start, end, end - start, end - start)


class SpanLog:
    """Spans with the number of the instruction that each belongs to."""

    def __init__(self) -> None:
        self._rows: npt.NDArray[np.int64] = np.zeros((64, 6), dtype=np.int64)
        self._size = 0

    def add(self, number: int, span: Span) -> None:
        """Note a span of instruction `number`."""
        if self._size == len(self._rows):
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
        self._rows[self._size] = (number, *span)
        self._size += 1

    def last_overlap(self, span: Span) -> tuple[int, int] | None:
        """Return (instruction, a byte near the first shared one) of the latest noted span that meets `span`, or None.

        Exact where at most one of the two has gaps; two spans with gaps count as meeting when their extents do.
        """
        rows = self._rows[: self._size]
        near = np.flatnonzero((rows[:, 1] == span.group) & (rows[:, 2] < span.end) & (rows[:, 3] > span.start))
        if not near.size:
            return None
        _, _, start, end, step, width = rows[near].T
        if span.step == span.width:
            meets = _meets(start, end, step, width, span.start, span.end)
        else:
            meets = (step != width) | _meets(span.start, span.end, span.step, span.width, start, end)
        if not meets.any():
            return None
        row = rows[near[meets][-1]]
        return int(row[0]), max(int(row[2]), span.start)


Number = npt.NDArray[np.int64] | int


def _meets(start: Number, end: Number, step: Number, width: Number, low: Number, high: Number) -> npt.NDArray[np.bool_]:
    """Return whether rows with gaps meet the whole range from `low` up to `high`, whose extents overlap."""
    # The first row that ends after `low` must begin before `high`, and exist.
    first = start + np.maximum((low - start - width) // step + 1, 0) * step
    result: npt.NDArray[np.bool_] = (first < high) & (first < end)
    return result
