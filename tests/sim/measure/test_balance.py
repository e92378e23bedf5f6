# SPDX-License-Identifier: Apache-2.0
"""The bench of the groups' balance: what placements do to it, recorded routings, the page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hdl.errors import A3dError
from scheduler.memory.placement import Placement
from scheduler.system import load_system
from sim.measure.balance import BalanceBench
from sim.measure.bytes_page import balance_lines


def test_placements_of_a_shape(tmp_path: Path) -> None:
    """All high planes in one group leave the other idle where scores leave low planes out."""
    chosen = np.array([[[0, 3], [6, 1]]] * 3 + [[[5, 2], [4, 7]]] * 5, dtype=np.uint8)
    path = tmp_path / "routing.npy"
    np.save(path, chosen)
    bench = BalanceBench(load_system("large"), "mixtral-8x7b", path, batches=[4], keys=15, layers=1, steps=2)
    assert sum(1 for _ in bench.run()) == bench.total == 8
    result = bench.result()
    found = {(p["placement"], bool(p["saved_percent"])): p for p in result["points"]}
    assert set(found) == {(p.value, scored) for p in Placement for scored in (False, True)}
    assert all(found[p.value, False]["imbalance"] < 1.01 for p in Placement if p != Placement.WHOLE)
    even_odd, one_group = (found[p.value, True] for p in (Placement.EVEN_ODD, Placement.ONE_GROUP))
    assert sum(even_odd["read_beats"]) == sum(one_group["read_beats"]) < sum(found["even_odd", False]["read_beats"])
    assert even_odd["imbalance"] < 1.3 < one_group["imbalance"]
    lines = balance_lines(result)
    assert "routing routing.npy" in lines[0] and len(lines) == 4 + 8


def test_a_routing_of_another_model(tmp_path: Path) -> None:
    path = tmp_path / "routing.npy"
    np.save(path, np.zeros((4, 1, 1), dtype=np.uint8))
    with pytest.raises(A3dError, match="has 1 layers and 1 experts a token"):
        BalanceBench(load_system("large"), "mixtral-8x7b", path)
