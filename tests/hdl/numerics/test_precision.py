# SPDX-License-Identifier: Apache-2.0
"""Which experts get both planes, one, or none."""

from __future__ import annotations

import numpy as np
import pytest

from hdl.numerics.precision import ALL_FULL, MAX_IMPORTANCE, Precision, Thresholds, importances, precisions

EXPERTS = np.array([[2, 0], [2, 1]])
GATES = np.array([[30000, 2768], [20000, 12768]], np.uint16)


def test_gates_of_an_expert_are_summed_and_saturate() -> None:
    assert importances(EXPERTS, GATES, 4).tolist() == [2768, 12768, 50000, 0]
    assert importances(np.full((33, 1), 1), np.full((33, 1), 32768), 2).tolist() == [0, MAX_IMPORTANCE]


def test_every_chosen_expert_is_full_without_thresholds() -> None:
    assert precisions(EXPERTS, GATES, 4, ALL_FULL).tolist() == [Precision.FULL] * 3 + [Precision.SKIP]


@pytest.mark.parametrize(
    ("thresholds", "found"),
    [
        (Thresholds(12768, 2768), [1, 2, 2, 0]),  # as much as the threshold is enough
        (Thresholds(12769, 2769), [0, 1, 2, 0]),
        (Thresholds(MAX_IMPORTANCE, 12769), [0, 0, 1, 0]),
        (Thresholds(MAX_IMPORTANCE, MAX_IMPORTANCE, first_full=True), [0, 0, 2, 0]),
    ],
)
def test_thresholds(thresholds: Thresholds, found: list[int]) -> None:
    assert precisions(EXPERTS, GATES, 4, thresholds).tolist() == found


@pytest.mark.parametrize(
    ("full", "skip", "words"),
    [(-1, 0, "full: -1"), (1 << 20, 0, "full: 1048576; use an integer of 0 to 1048575"),
     (5, 6, "skip: 6; .* 0 to full"),
     (True, 0, "full: True"), (9, 1 << 20, "skip: 1048576; .* 0 to 1048575")],
)  # fmt: skip
def test_thresholds_out_of_range_are_refused(full: int, skip: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Thresholds(full, skip)
