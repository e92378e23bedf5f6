# SPDX-License-Identifier: Apache-2.0
"""Numbers over ranges of cells, by pages: the same as cell by cell."""

from __future__ import annotations

import random

import numpy as np
import pytest

from scheduler.stream.marks import PAGE, mark, marked, new_marks, next_from, run_of


@pytest.mark.parametrize("cells", [1, PAGE - 1, PAGE, PAGE + 1, 5 * PAGE + 3])
def test_numbers_are_those_of_the_cells(cells: int) -> None:
    rng = random.Random(cells)
    marks, plain = new_marks(2, cells), np.zeros((2, cells), dtype=np.int64)
    longest = 0
    for number in range(1, 120):
        layer, first = rng.randrange(2), rng.choice((0, rng.randrange(cells), rng.randrange(cells) // PAGE * PAGE))
        end = rng.choice((first, first + 1, cells, rng.randint(first, cells), (first // PAGE + 2) * PAGE))
        end = min(end, cells)
        mark(marks, layer, first, end, number)
        plain[layer, first:end] = number
        assert [marked(marks, layer, cell) for cell in range(cells)] == plain[layer].tolist()
        for _ in range(10):
            layer, first = rng.randrange(2), rng.randrange(cells)
            limit = rng.randint(first + 1, cells)
            found, behind = run_of(marks, layer, first, limit)
            assert first < behind <= limit
            assert set(plain[layer, first:behind].tolist()) == {found}
            longest = max(longest, behind - first)
            least = rng.randint(1, number + 1)
            behind = next_from(marks, layer, first, limit, least)
            assert (plain[layer, first:behind] < least).all()
            assert behind == limit or plain[layer, behind] >= least
    assert longest > 2 * PAGE or cells < 3 * PAGE


def test_layers_do_not_meet() -> None:
    marks = new_marks(3, 100)
    mark(marks, 1, 0, 100, 7)
    assert [marked(marks, layer, 50) for layer in range(3)] == [0, 7, 0]
