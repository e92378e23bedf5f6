# SPDX-License-Identifier: Apache-2.0
"""Quantisation: ranges, multipliers, and how close the integer experts come to the float ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hdl.numerics import requant
from scheduler.models.quantise import (
    ExpertRanges,
    ExpertWeights,
    QuantisationError,
    multipliers,
    quantise_activations,
    quantise_gates,
    quantise_weights,
)
from scheduler.models.quantise_experts import quantise_layer
from sim.golden.integer_experts import expert_rows, moe_layer


def float_expert(w: ExpertWeights, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    gate, up = x @ w.gate.T, x @ w.up.T
    h = gate / (1 + np.exp(-gate)) * up
    return up, h, h @ w.down.T


def test_weights_reach_119_and_no_further() -> None:
    weights = np.random.default_rng(1).normal(size=(20, 30))
    weights[3] = 0
    integers, scale = quantise_weights(weights)
    assert np.abs(integers).max(axis=1).tolist() == [119] * 3 + [0] + [119] * 16
    assert np.abs(integers * scale[:, None] - weights).max() <= scale.max() / 2 + 1e-12
    with pytest.raises(QuantisationError, match="not finite"):
        quantise_weights(np.array([[np.nan]]))


def test_activations_and_gates_saturate() -> None:
    assert quantise_activations(np.array([-9.0, -0.5, 0.25, 9.0]), 0.05).tolist() == [-127, -10, 5, 127]
    assert quantise_gates(np.array([0.0, 0.5, 1.0, 3.0])).tolist() == [0, 16384, 32768, 65535]


@given(st.lists(st.floats(1e-9, 60000.0), min_size=1, max_size=8))
def test_multipliers_are_close(ratios: list[float]) -> None:
    mult, shift = multipliers(ratios)
    assert mult.dtype == np.uint16 and 0 <= shift <= 47
    error = np.abs(mult / 2.0**shift - np.array(ratios))
    assert (error <= 0.5 / 2.0**shift + 1e-12).all()
    if max(ratios) > 2.0**-31:
        assert mult.max() >= 32767  # 15 significant bits for the largest


def test_multipliers_refuse_what_does_not_fit() -> None:
    assert multipliers([0.0])[0].tolist() == [0]
    for bad in (70000.0, -1.0, float("inf")):
        with pytest.raises(QuantisationError, match="requantisation ratio"):
            multipliers([bad])


def test_integer_experts_follow_the_float_ones() -> None:
    rng = np.random.default_rng(2)
    hidden, intermediate, n = 64, 96, 4
    experts = [
        ExpertWeights(
            gate=rng.normal(size=(intermediate, hidden)) / 8,
            up=rng.normal(size=(intermediate, hidden)) / 8,
            down=rng.normal(size=(hidden, intermediate)) / 10,
        )
        for _ in range(n)
    ]
    x = rng.normal(size=(200, hidden))
    results = [float_expert(w, x) for w in experts]
    ranges = [ExpertRanges(*(float(np.abs(v).max()) for v in r)) for r in results]
    ranges[3] = ExpertRanges(0, 0, 0)  # never chosen in the calibration text
    layer = quantise_layer(experts, float(np.abs(x).max()), ranges)
    assert (layer.hidden, layer.intermediate) == (hidden, intermediate)
    xq = quantise_activations(x, layer.x_scale)
    for number, (expert, (_, _, y)) in enumerate(zip(layer.experts, results, strict=True)):
        error = expert_rows(expert, xq) * layer.y_scale - y
        bound = 0.04 if number < 3 else 0.08  # the last one has no range of its own
        assert np.sqrt((error**2).mean()) < bound * np.sqrt((y**2).mean())
    # High nibbles alone are int4 weights: rougher, and still the same function.
    rough = expert_rows(layer.experts[0], xq, high_only=True) * layer.y_scale - results[0][2]
    assert 0.04 < np.sqrt((rough**2).mean()) / results[0][2].std() < 0.5


def test_the_layer_weighs_and_adds_exactly() -> None:
    rng = np.random.default_rng(3)
    experts = [ExpertWeights(**{name: rng.normal(size=(8, 8)) for name in ("gate", "up", "down")}) for _ in range(3)]
    layer = quantise_layer(experts, 3.0, [ExpertRanges(9, 40, 90)] * 3)
    x = quantise_activations(rng.normal(size=(5, 8)), layer.x_scale)
    chosen = np.array([[0, 1], [1, 2], [2, 2], [0, 0], [1, 0]])
    gates = rng.integers(0, 32768, chosen.shape).astype(np.uint16)
    rows = [expert_rows(expert, x) for expert in layer.experts]
    expected = [
        [requant(sum(int(gates[t, s]) * int(rows[chosen[t, s]][t, c]) for s in range(2)), 1, 15, 16) for c in range(8)]
        for t in range(5)
    ]
    np.testing.assert_array_equal(moe_layer(layer, x, chosen, gates), np.array(expected))


def test_ranges_must_match() -> None:
    weights = ExpertWeights(gate=np.ones((4, 4)), up=np.ones((4, 4)), down=np.ones((4, 4)))
    with pytest.raises(QuantisationError, match="ranges: 2 for 1 experts; give one for each"):
        quantise_layer([weights], 1.0, [ExpertRanges(1, 1, 1)] * 2)
    with pytest.raises(QuantisationError, match="range of x: inf"):
        quantise_layer([weights], float("inf"), [ExpertRanges(1, 1, 1)])
