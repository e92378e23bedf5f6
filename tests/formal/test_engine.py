# SPDX-License-Identifier: Apache-2.0
"""What the engine says of a circuit whose answers are plain, by each method."""

from __future__ import annotations

from pathlib import Path

import pytest
from amaranth.hdl import Mux, Signal

from tests.support.formal.bench import Bench
from tests.support.formal.engine import How, Method, graphs, proved, reached

HOWS = (How(), How(Method.INDUCTION, 3), How(Method.BOUNDED, 12))


def counter(limit: int) -> str:
    """A counter from 0 to 9 that may wait, with the claim that it stays below a limit."""
    b = Bench()
    count, runs = Signal(4), b.free("runs")
    b.m.d.sync += count.eq(Mux(runs, Mux(count == 9, 0, count + 1), count))
    b.claim("small", count < 10)
    b.claim("below the limit", count < limit)
    b.cover("nine", count == 9)
    b.cover("ten", count == 10)
    return b.circuit()


@pytest.mark.parametrize("how", HOWS, ids=lambda how: how.method.value)
def test_true_and_false_claims(how: How, tmp_path: Path) -> None:
    good, bad = graphs([counter(10), counter(9)], tmp_path)
    assert proved(good, 2, how)
    if how.method is Method.INDUCTION:
        # Too short to see the failure, and no induction: that is no proof.
        with pytest.raises(AssertionError):
            proved(bad, 2, how)
    else:
        assert not proved(bad, 2, how)
    assert reached(bad, 0, 2, 20, all=False) == {1: 10}
    assert reached(good, 2, 2, 20, all=True) == {0: 10}


def test_nothing_holds_or_fails_after_a_broken_assumption(tmp_path: Path) -> None:
    b = Bench()
    count = Signal(4)
    b.m.d.sync += count.eq(count + 1)
    b.assume(count < 3)
    b.claim("small", count < 3)
    b.cover("later", count == 5)
    (graph,) = graphs([b.circuit()], tmp_path)
    assert proved(graph, 1, How())
    assert reached(graph, 1, 1, 10, all=True) == {}


def test_a_constant_has_one_value_and_a_free_signal_any(tmp_path: Path) -> None:
    b = Bench()
    fixed, free = b.constant("fixed", 2), b.free("free", 2)
    started = b.past(1)
    b.claim("the same", ~started | (b.past(fixed) == fixed))
    b.cover("three", fixed == 3)
    b.cover("changes", started & (b.past(free) != free))
    (graph,) = graphs([b.circuit()], tmp_path)
    assert proved(graph, 1, How())
    assert set(reached(graph, 1, 2, 5, all=True)) == {0, 1}
