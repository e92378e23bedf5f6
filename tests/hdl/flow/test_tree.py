# SPDX-License-Identifier: Apache-2.0
"""Blocks of a hierarchy, and places in it."""

from __future__ import annotations

import pytest

from hdl.errors import A3dError
from hdl.flow.store import module_texts
from hdl.flow.timing import PORT, TOP, TimedPath, place_of, tidy, worst_by_block
from hdl.flow.tree import block_of, module_at, reachable
from tests.support.flow import designs

TEXTS = module_texts(designs.CHAIN)


@pytest.mark.parametrize(
    ("path", "block"),
    [
        ([], ""),
        (["semaphores"], "semaphores"),
        (["loads", "address0", "splitter"], "loads"),
        (["stack", "tier_1", "row_12", "pe_3"], "stack/tier/row/pe"),
        (["stack", "tier_1", "drain", "swiglu0", "deeper"], "stack/tier/drain/swiglu"),
        (["vector"], "vector"),
        (["vector", "lanes", "lane0"], "vector/lanes"),
    ],
)
def test_blocks(path: list[str], block: str) -> None:
    assert block_of(path) == block


def test_places() -> None:
    assert module_at(TEXTS, "chain", "") == "chain"
    assert module_at(TEXTS, "chain", "last") == "link"
    assert module_at(TEXTS, "chain", "pair") == module_at(TEXTS, "chain", "pair_1") == "pair"
    assert module_at(TEXTS, "chain", "pair/link_1") == "link"
    with pytest.raises(A3dError, match="--block pair/none: no 'none' in pair; the blocks there are link"):
        module_at(TEXTS, "chain", "pair/none")
    with pytest.raises(A3dError, match="no 'x' in link; the blocks there are none"):
        module_at(TEXTS, "chain", "last/x")


def test_reachable_is_bottom_up() -> None:
    assert list(reachable(TEXTS, "chain")) == ["link", "pair", "chain"]
    assert list(reachable(TEXTS, "pair")) == ["link", "pair"]


@pytest.mark.parametrize(
    ("name", "signal"),
    [
        ("vector.lanes.value[3]$_SDFFE_PP0P_", "vector.lanes.value[3]"),
        ("machine.semaphores.overflow_TRELLIS_FF_Q_DI_LUT4_Z", "machine.semaphores.overflow"),
        ("machine.stack.value_TRELLIS_FF_Q_12", "machine.stack.value"),
        (r"\machine.x_MULT18X18D_P0_3", "machine.x"),
        ("plain_name", "plain_name"),
    ],
)
def test_names_of_signals(name: str, signal: str) -> None:
    assert tidy(name) == signal


def test_places_of_cells() -> None:
    assert place_of("vector.lanes.value[3]") == "vector/lanes"
    assert place_of("count") == TOP
    assert place_of("machine.vector.lanes.value", "machine") == "vector/lanes"
    assert place_of("machine.count", "machine") == TOP
    assert place_of("stage", "machine") == PORT


def test_worst_by_block() -> None:
    paths = [TimedPath(ns, "a", f"e{ns}", block) for ns, block in ((3.0, "x"), (5.0, "x"), (4.0, "y"), (1.0, "y"))]
    assert [(path.block, path.ns) for path in worst_by_block(paths)] == [("x", 5.0), ("y", 4.0)]
