# SPDX-License-Identifier: Apache-2.0
"""The bench of fused plans of published shapes: what it measures, of one layer."""

from __future__ import annotations

from pathlib import Path

import pytest

from hdl.config import PRESETS
from sim.measure.fusion_shapes import (
    LEAST_GAIN,
    PROMPTS,
    STEPS,
    FusionShapesBench,
    PromptCase,
    ShapeStep,
    draw,
    nothing_gained,
)


def test_what_is_measured(tmp_path: Path) -> None:
    bench = FusionShapesBench(
        PRESETS["large"], ["olmoe-1b-7b"], layers=1, depths=(1, 2), prompts=[PromptCase(64, 2, 8, 63)],
        steps=[ShapeStep(64, 0, 16, 63), ShapeStep(0, 0, 4, 63), ShapeStep(16, 4096, 0, 0)],
    )  # fmt: skip
    assert sum(1 for _ in bench.run()) == bench.total == 2 + 2 + 1, "what is longer than the context is left out"
    result = bench.result()
    mixed, decode = result["points"]
    assert (mixed["kind"], decode["kind"]) == ("mixed", "decode")
    for point in result["points"]:
        least = max(point["compute_cycles"], point["memory_cycles"], point["vector_cycles"])
        assert point["fused_fraction"] == least / point["fused_cycles"]
        assert point["fused_cycles"] <= point["sequential_cycles"]
        assert point["sequential_cycles"] == point["tried"][0][1]
        assert bool(point["stalls"]) == (point["fused_fraction"] < 0.9)
    assert [own["layers"] for own in result["depth"]] == [1, 2]
    [layered] = result["layered"]
    assert layered["chunked_fused_cycles"] <= layered["chunked_sequential_cycles"]
    assert layered["chunked_fused_per_token"] == layered["chunked_fused_cycles"] / 64
    assert layered[f"{layered['best']}_cycles"] == min(v for k, v in layered.items() if k.endswith("_cycles"))
    draw(result, tmp_path / "shapes.png")
    assert (tmp_path / "shapes.png").stat().st_size > 1000


def test_a_step_that_does_not_fit_is_left_out_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.schedule.build.STEP_BYTES", 1 << 10)
    monkeypatch.setattr("scheduler.schedule.build.TOKEN_BYTES", 1 << 4)
    bench = FusionShapesBench(
        PRESETS["large"], ["olmoe-1b-7b"], layers=1, depths=(), prompts=(), steps=[ShapeStep(0, 0, 4, 63)]
    )
    list(bench.run())
    [left] = bench.result()["left_out"]
    assert left["step"] == "decode 4 at 63" and "step_bytes" in left["why"]


def test_regimes_are_named_by_what_bounds_them() -> None:
    def point(step: str, kind: str, bound: str, gain: float) -> dict[str, object]:
        return {"model": "m", "step": step, "kind": kind, "bound": bound, "gain": gain}

    points = [
        point("a", "decode", "memory", 0.0), point("b", "mixed", "vector", 0.3), point("c", "decode", "memory", 0.019),
        point("d", "mixed", "memory", LEAST_GAIN),
    ]  # fmt: skip
    assert nothing_gained(points) == [("decode", "memory", "m a; m c")]


def test_the_steps_of_the_bench() -> None:
    assert {step.kind for step in STEPS} == {"decode", "prefill", "mixed"}
    assert STEPS[9].name == "prefill 512 at 0, decode 64 at 4,095" and STEPS[9].context == 4096
    assert STEPS[0].name == "decode 64 at 2,047" and STEPS[3].name == "prefill 512 at 0"
    assert all(step.prefill + step.decode <= 1023 for step in STEPS)
    assert all(case.prompt % case.steps == 0 for case in PROMPTS)
