# SPDX-License-Identifier: Apache-2.0
"""Numbers written over ranges of cells, the latest counting: large ranges cost little more than small ones.

Cells lie in pages. A range that holds a whole page is noted once for the page, and for each cell only at its ends. As
numbers only grow, what counts for a cell is the larger of its own number and its page's.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scheduler.stream.compiled import compiled

__all__ = ["PAGE", "Marks", "mark", "marked", "new_marks", "next_from", "run_of"]

PAGE = 32
"""Cells of a page."""


class Marks(NamedTuple):
    """Numbers over the cells, of several layers that have nothing to do with each other.

    Attributes
    ----------
    cells : int32 array [layers, cells]
        Number of each cell.
    pages : int32 array [layers, 2, pages]
        Number of each page, and the largest of its own and its cells'.
    """

    cells: npt.NDArray[np.int32]
    pages: npt.NDArray[np.int32]


def new_marks(layers: int, cells: int) -> Marks:
    """Return layers of cells whose numbers are 0."""
    return Marks(np.zeros((layers, cells), np.int32), np.zeros((layers, 2, -(-cells // PAGE)), np.int32))


@compiled
def _mark_cells(marks: Marks, layer: int, first: int, end: int, number: int) -> None:
    """Write a number over cells of one page."""
    if first < end:
        for cell in range(first, end):
            marks.cells[layer, cell] = number
        marks.pages[layer, 1, first // PAGE] = number


@compiled
def mark(marks: Marks, layer: int, first: int, end: int, number: int) -> None:
    """Write a number, no less than any before, over cells `first` up to `end`."""
    page, last = first // PAGE, end // PAGE
    if page == last:
        _mark_cells(marks, layer, first, end, number)
        return
    if first != page * PAGE:
        page += 1
        _mark_cells(marks, layer, first, page * PAGE, number)
    for whole in range(page, last):
        marks.pages[layer, 0, whole] = number
        marks.pages[layer, 1, whole] = number
    _mark_cells(marks, layer, last * PAGE, end, number)


@compiled
def marked(marks: Marks, layer: int, cell: int) -> int:
    """Return the number of a cell."""
    return int(max(marks.cells[layer, cell], marks.pages[layer, 0, cell // PAGE]))


@compiled
def next_from(marks: Marks, layer: int, first: int, end: int, least: int) -> int:
    """Return the first cell from `first` on whose number is `least` or more, or `end`."""
    cells, pages = marks.cells, marks.pages
    while first < end:
        page = first // PAGE
        behind = min(end, (page + 1) * PAGE)
        if pages[layer, 1, page] < least:
            first = behind
            continue
        if pages[layer, 0, page] >= least:
            return first
        while first < behind:
            if cells[layer, first] >= least:
                return first
            first += 1
    return end


@compiled
def run_of(marks: Marks, layer: int, first: int, end: int) -> tuple[int, int]:
    """Return the number of cell `first`, and the end of cells from there on that have it too, at most `end`.

    There may be more of them.
    """
    cells, pages, page = marks.cells, marks.pages, first // PAGE
    number, behind = pages[layer, 0, page], page + 1
    if pages[layer, 1, page] == number:
        last = (end - 1) // PAGE
        while behind <= last and pages[layer, 0, behind] == number and pages[layer, 1, behind] == number:
            behind += 1
        return int(number), min(end, behind * PAGE)
    end, own = min(end, behind * PAGE), max(number, cells[layer, first])
    first += 1
    while first < end and max(number, cells[layer, first]) == own:
        first += 1
    return int(own), first
