# SPDX-License-Identifier: Apache-2.0
"""All ideas together on published shapes: scores that are drawn, thresholds, what is timed."""

from __future__ import annotations

import numpy as np

from hdl.numerics.precision import Precision, precisions
from scheduler.cost.energy.table import load_table
from scheduler.models.description import Experts
from scheduler.models.shapes import load_shape
from scheduler.ops.steps_file import Q15, Step, StepSequence
from scheduler.system import load_system
from sim.measure.scheduler import some_layers
from sim.measure.together_page import shapes_lines
from sim.measure.together_shapes import DrawnScores, TogetherShapesBench, thresholds_for, ways

STEP = Step(1, tuple(StepSequence(str(n), 7, 1) for n in range(8)))


def test_drawn_scores() -> None:
    model = some_layers(load_shape("olmoe-1b-7b"), 1)
    (routing,) = DrawnScores(model, 3).routing(STEP)
    assert routing is not None and isinstance(model.layers[0].mlp, Experts)
    assert routing.experts.shape == (8, model.layers[0].mlp.chosen)
    assert (np.diff(routing.gates.astype(int), axis=1) <= 0).all()
    assert np.abs(routing.gates.sum(axis=1, dtype=int) - Q15).max() < 8
    (again,) = DrawnScores(model, 3).routing(STEP)
    assert again is not None and np.array_equal(routing.experts, again.experts)


def test_thresholds_save_what_is_wanted() -> None:
    model = some_layers(load_shape("olmoe-1b-7b"), 1)
    (routing,) = DrawnScores(model, 3).routing(STEP)
    assert routing is not None
    for percent in (0, 25, 50):
        wanted = precisions(routing.experts, routing.gates, 64, thresholds_for(routing, 64, percent))
        chosen = wanted[np.unique(routing.experts)]
        assert abs(50 * (chosen == Precision.HIGH).mean() - percent) < 1
    assert not thresholds_for(None, 0, 35).full


def test_the_bench_and_its_page() -> None:
    bench = TogetherShapesBench(
        load_system("large"), load_table(None), 800.0, shapes=("olmoe-1b-7b",), batch=8, keys=127, layers=1
    )
    assert len(list(bench.run())) == bench.total == len(ways()) == 5
    result = bench.result()
    points = {p["ideas"]: p for p in result["points"]}
    assert points["all"]["cycles_over_all"] == points["all"]["pj_over_all"] == 1
    assert points["nothing"]["cycles"] > points["all but scores"]["cycles"] > points["all"]["cycles"]
    assert 34 < points["all"]["expert_bytes_saved_percent"] < 36 and not points["nothing"]["expert_bytes_saved_percent"]
    lines = shapes_lines(result)
    assert "decode step of 8 sequences at 127 keys" in lines[0] and lines[4].startswith(
        "| olmoe-1b-7b | nothing | 0.0 %"
    )
