# SPDX-License-Identifier: Apache-2.0
"""Lockstep batches are decode steps; thresholds decide what is loaded, and calibration finds them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hdl.errors import A3dError
from hdl.numerics.precision import MAX_IMPORTANCE, Precision, Thresholds, precisions
from scheduler.models.calibration import quantise_checkpoint
from scheduler.models.float_model import FloatModel
from sim.golden.integer_experts import expert_rows
from sim.golden.integer_model import IntegerModel
from sim.measure.frontier import _least_used
from sim.measure.lockstep import ByThresholds, Chances, Everything, lockstep
from sim.measure.thresholds import LayerLoads, ThresholdCalibration, _options, divergence
from tests.sim.golden.test_integer_model import CHECKPOINT, TOKENS

THRESHOLDS = (Thresholds(24000, 9000, first_full=True), Thresholds(30000, 12000))


@pytest.fixture(scope="module")
def model() -> IntegerModel:
    return IntegerModel(quantise_checkpoint(CHECKPOINT, TOKENS, reach=3))


@pytest.mark.parametrize("batch", [1, 3])
def test_lockstep_is_step_after_step(model: IntegerModel, batch: int) -> None:
    windows = TOKENS[:5, :13]
    found = lockstep(model, windows, batch, ByThresholds(THRESHOLDS))
    planes = loads = 0
    seen = set()
    for first in range(0, 5, batch):
        own = windows[first : first + batch]
        caches = [model.new_cache(12) for _ in own]
        for position in range(12):
            result = model.step([(c, [t]) for c, t in zip(caches, own[:, position], strict=True)], precision=THRESHOLDS)
            np.testing.assert_array_equal(found.logits[first : first + batch, position], result.logits)
            for number, (routing, precision) in enumerate(zip(result.routing, result.precision, strict=True)):
                rule = precisions(routing.experts, routing.gates, 5, THRESHOLDS[number])
                np.testing.assert_array_equal(precision, rule)
                seen |= set(precision[routing.experts].ravel().tolist())
                planes += int(precision.sum())
                loads += len(np.unique(routing.experts))
    assert seen == {0, 1, 2}  # the thresholds of the test tell all three apart
    assert found.saved == {batch: pytest.approx(1 - planes / (2 * loads))}


def test_precision_changes_what_is_loaded_only(model: IntegerModel) -> None:
    full, same = model.prefill(TOKENS[0, :9]), model.step([(model.new_cache(), TOKENS[0, :9])], precision=[None] * 2)
    np.testing.assert_array_equal(full.logits, same.logits)
    assert all(set(own.tolist()) <= {0, 2} for own in full.precision)
    high = model.step([(model.new_cache(), TOKENS[0, :1])], precision=[Thresholds(MAX_IMPORTANCE)] * 2, trace=True)
    seen, routing = high.layers[0], high.routing[0]
    expected = seen.residual_middle[0].astype(np.int64)
    for expert, gate in zip(routing.experts[0], routing.gates[0], strict=True):
        own = model.model.layers[0].experts.experts[expert]
        expected += int(gate) * expert_rows(own, seen.expert_input, high_only=True)[0]
    np.testing.assert_array_equal(seen.residual_out[0], expected)
    assert high.precision[0].max() == Precision.HIGH
    nothing = [Thresholds(MAX_IMPORTANCE, MAX_IMPORTANCE)] * 2
    skipped = model.step([(model.new_cache(), TOKENS[0, :1])], precision=nothing, trace=True).layers[0]
    np.testing.assert_array_equal(skipped.residual_out, skipped.residual_middle)
    with pytest.raises(A3dError, match="precision: thresholds for 1 layers, the model has 2; give one each"):
        model.step([(model.new_cache(), [1])], precision=[None])


def test_the_high_plane_has_multipliers_of_its_own(model: IntegerModel) -> None:
    expert = model.model.layers[0].experts.experts[0]
    shared = dataclasses.replace(
        expert, high_gate_mult=expert.gate_mult, high_up_mult=expert.up_mult, high_down_mult=expert.down_mult
    )
    x = np.random.default_rng(1).integers(-128, 128, (20, 32)).astype(np.int8)
    assert (expert_rows(expert, x, high_only=True) != expert_rows(shared, x, high_only=True)).any()
    np.testing.assert_array_equal(expert_rows(expert, x), expert_rows(shared, x))


def test_bytes_of_tokens_that_decide_alone(model: IntegerModel) -> None:
    found = lockstep(model, TOKENS[:4, :13], 1, ByThresholds(THRESHOLDS), counted=[4])
    assert found.saved[1] > found.saved[4] > 0  # a load serves the token that needs most
    everything = lockstep(model, TOKENS[:4, :13], 4, Everything(Precision.HIGH))
    assert everything.saved == {4: 0.5}


def test_chances_save_what_is_asked(model: IntegerModel) -> None:
    counts = np.array([[8.0, 1, 3, 4, 4], [2, 2, 2, 2, 2]])
    chance = _least_used(counts, 0.2)
    np.testing.assert_allclose(chance, [[0, 1, 1, 1, 0], [1, 1, 0, 0, 0]])
    np.testing.assert_allclose(_least_used(counts, 0.25)[0], [0, 1, 1, 1, 0.5])
    saved = lockstep(model, TOKENS[:8, :40], 1, Chances(np.full((2, 5), 0.6), np.random.default_rng(1))).saved[1]
    assert saved == pytest.approx(0.3, abs=0.03)


def test_options_are_what_the_rule_does() -> None:
    rng = np.random.default_rng(7)
    importance = rng.integers(0, 65536, 200)
    high = (importance / 65536) ** 2 * rng.uniform(0.5, 1.5, 200)
    loads = LayerLoads(np.arange(200) % 5, importance, rng.random(200) < 0.5, high, high * rng.uniform(2, 8, 200))
    options = _options(loads, loads.high, loads.skip)
    assert len(options.thresholds) > 20 and (np.diff(options.planes) < 0).all() and (np.diff(options.error) < 0).all()
    assert {own.first_full for own in options.thresholds} == {False, True}
    assert max(own.skip for own in options.thresholds) > 0
    for own, planes, error in zip(options.thresholds, options.planes, options.error, strict=True):
        full = (importance >= own.full) | (loads.first & own.first_full)
        skipped = ~full & (importance < own.skip)
        assert planes == (~full).sum() + skipped.sum()
        assert error == pytest.approx(np.where(full, 0, np.where(skipped, loads.skip, loads.high)).sum())


def test_thresholds_are_nearly_the_best_there_are(model: IntegerModel) -> None:
    """Two layers with the same loads, one of which minds a hundred times as much: beside every pair of options."""
    exact = FloatModel(CHECKPOINT).forward(TOKENS[:4, :40]).logits
    calibration = ThresholdCalibration(model, TOKENS[:4, :40], exact)
    loads = calibration.loads(1)[1]
    options = _options(loads, loads.high, loads.skip)
    planes = options.planes[:, None] + options.planes
    for dear, cheap in ((100.0, 1.0), (1.0, 100.0)):
        calibration._weights = {0: (dear, dear), 1: (cheap, cheap)}
        error = (dear * options.error[:, None] + cheap * options.error) / 160
        for budget, found in calibration.find({0: loads, 1: loads}, np.linspace(0.03, 0.6, 25).tolist()).items():
            assert found.saved >= budget
            assert found.bits <= 1.2 * error[planes >= budget * 4 * loads.importance.size].min()


def test_calibration_spends_a_budget_where_it_costs_least(model: IntegerModel) -> None:
    exact = FloatModel(CHECKPOINT).forward(TOKENS[:, :40]).logits
    calibration = ThresholdCalibration(model, TOKENS[:, :40], exact)
    found = calibration.find(calibration.loads(4), [0.1, 0.3, 0.45, 0.999])
    assert list(found) == [0.1, 0.3, 0.45] and all(own.saved >= budget for budget, own in found.items())
    assert found[0.1].bits <= found[0.3].bits <= found[0.45].bits
    text = np.concatenate([TOKENS[:, :40], TOKENS[:, :1]], axis=1)
    for own in found.values():
        assert lockstep(model, text, 4, ByThresholds(own.thresholds)).saved[4] == pytest.approx(own.saved, abs=0.03)
    with pytest.raises(A3dError, match="calibration: no tokens"):
        ThresholdCalibration(model, np.zeros((0, 4)), exact)


def test_divergence_is_zero_for_the_same_and_positive_for_others() -> None:
    logits = np.random.default_rng(3).normal(size=(4, 6))
    assert divergence(logits, logits + 5).max() < 1e-12
    assert divergence(logits, logits[::-1]).min() > 0
    assert divergence(np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]]))[0] == pytest.approx(0.5 - 0.5 * np.log2(1.5))
