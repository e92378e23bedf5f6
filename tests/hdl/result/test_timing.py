# SPDX-License-Identifier: Apache-2.0
"""The collector's latencies, measured."""

from __future__ import annotations

from typing import Any

import pytest

from hdl.config import PRESETS
from hdl.result import Collector
from hdl.result.control import TIMING
from tests.support.timing import record

TINY = PRESETS["tiny"]


@pytest.mark.parametrize("combine", [False, True], ids=["activation", "combine"])
def test_a_row(combine: bool) -> None:
    """From the bond to its place, its credit, its post; what is in the combine buffer is seen by a read."""
    dut, row = Collector(TINY), 20

    def drive(ctx: Any, cycle: int) -> None:
        ctx.set(dut.descriptor_valid[0], cycle == 5)
        ctx.set(dut.descriptor[0], {"combine": combine, "tiers": 1, "addr": 7, "op_end": 1, "post0_en": 1})
        ctx.set(dut.result[0].valid, cycle == row)
        ctx.set(dut.post.ready, 1)

    watched = {"credit": dut.credit[0], "post": dut.post.valid, "moved": dut.stats.rows, "write": dut.write[0].tiers}
    seen = record(dut, watched, drive)
    assert seen["credit"] == [row + TIMING.row + TIMING.credit]
    assert seen["post"] == [row + TIMING.row + TIMING.post]
    assert bool(seen["write"]) != combine
    if not combine:  # the register of the bond is behind it
        assert seen["write"][0] == row + TIMING.row + TIMING.combine + 1


def test_a_stores_row() -> None:
    dut = Collector(TINY)

    def drive(ctx: Any, cycle: int) -> None:
        ctx.set(dut.store_read.valid, cycle == 20)
        ctx.set(dut.store_data.ready, 1)

    seen = record(dut, {"taken": dut.store_read.ready, "row": dut.store_data.valid}, drive)
    assert 20 in seen["taken"] and seen["row"] == [20 + TIMING.store_row]
