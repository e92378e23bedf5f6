# SPDX-License-Identifier: Apache-2.0
"""The bench of the planner's policies: what it measures, on a small machine and a small model."""

from __future__ import annotations

from pathlib import Path

import pytest

from hdl.config import PRESETS
from hdl.errors import A3dError
from scheduler.system import SystemConfig
from sim.commands._bench_steps import FUSION_POLICIES
from sim.measure.fusion import CASES, Case, FusionBench, draw
from sim.stimulus.moe_demo import DEMO_MODEL


@pytest.mark.slow
def test_the_fused_plan_is_no_longer_than_any_part_of_it(tmp_path: Path) -> None:
    bench = FusionBench(
        DEMO_MODEL,
        SystemConfig(machine=PRESETS["tiny"]),
        cases=[Case(6, 2, (3, 5)), Case(0, 2, (4, 4))],
        policies=FUSION_POLICIES,
    )
    assert sum(1 for _ in bench.run()) == bench.total == 16
    result = bench.result()
    assert not result["mismatched_bytes"] and result["compared_bytes"]
    assert result["worst_error"] < 0.05
    for case in {p["case"] for p in result["points"]}:
        for routing in ("host", "slots"):
            cycles = {
                p["policy"]: p["cycles"] for p in result["points"] if (p["case"], p["routing"]) == (case, routing)
            }
            assert cycles["fused"] <= 1.02 * min(cycles.values())
    point = result["points"][0]
    assert point["roofline_fraction"] == max(
        point["compute_cycles"], point["memory_cycles"], point["vector_cycles"]
    ) / point["cycles"]  # fmt: skip
    draw(result, tmp_path / "fusion.png")
    assert (tmp_path / "fusion.png").stat().st_size > 1000


def test_a_context_that_is_too_short() -> None:
    with pytest.raises(A3dError, match="context of"):
        FusionBench(
            DEMO_MODEL, SystemConfig(machine=PRESETS["small"]), cases=[Case(0, 1, (1 << 20, 1 << 20))],
            policies=FUSION_POLICIES,
        )  # fmt: skip


def test_the_steps_of_the_bench() -> None:
    assert [case.name for case in CASES][:4] == [
        "96 + 16, 180-220 keys", "96 + 32, 60-100 keys", "64 + 32, 180-220 keys", "128 + 0",
    ]  # fmt: skip
