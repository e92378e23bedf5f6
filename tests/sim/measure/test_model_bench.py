# SPDX-License-Identifier: Apache-2.0
"""The roofline of a language model's step."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hdl.config import PRESETS
from hdl.regs import counter_names
from scheduler.cost.links import LinkBytes
from sim.machine.generator import StepRecord
from sim.measure.model import point_of
from tests.support.checkpoints import small_model

TINY = PRESETS["tiny"]
SHAPE = small_model(
    "mixtral", vocabulary=16, hidden=16, intermediate=8, layers=2, heads=2, kv_heads=1, head_dim=8, experts=4, chosen=2
)


@pytest.mark.parametrize(("macs", "least", "bound"), [(128 * 600, 8 * 100, "compute"), (128, 8 * 700, "memory")])
def test_the_larger_bound_counts(macs: int, least: int, bound: str) -> None:
    counters = dict.fromkeys(counter_names(TINY), 0) | {"read_beats_0": 3, "write_beats_1": 2, "fetch_beats": 1}
    record = StepRecord(
        number=0, phase="decode", sequences=(0,), lengths=(6,), tokens=1, chosen={}, instructions=1, macs=macs,
        least_bytes=least, cycles=1000, counters=counters, compared_bytes=0, mismatched_bytes=0, host_s=0.0, run_s=0.0,
        simulated_s=0.0, links=LinkBytes((5,), {"fill": 5}, {"rows": 7, "array": 1}, {"read": 48}),
    )  # fmt: skip
    point = point_of(TINY, record)
    assert point["bound"] == bound
    assert point["roofline_fraction"] == pytest.approx({"compute": 0.6, "memory": 0.7}[bound])
    assert point["bytes"] == 6 * TINY.group_bytes
    assert [point[f"{way}_bytes"] for way in ("vertical", "lateral", "offchip")] == [5, 8, 48]
    assert point_of(TINY, replace(record, cycles=2000))["roofline_fraction"] == pytest.approx(
        point["roofline_fraction"] / 2
    )
