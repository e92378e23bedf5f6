# SPDX-License-Identifier: Apache-2.0
"""Planes of weights: the residual is exact, the high plane alone is a good int4, compensation helps both."""

from __future__ import annotations

import numpy as np
import pytest

from hdl.numerics import split_nibbles
from scheduler.models.calibration import calibrate, quantise_checkpoint
from scheduler.models.moments import expert_moments
from scheduler.models.planes import (
    ExpertMoments,
    Moments,
    _carried,
    _descended,
    _inverse_factor,
    compensated_weights,
    high_plane,
    high_scales,
)
from scheduler.models.quantise import ExpertRanges, ExpertWeights, QuantisationError
from scheduler.models.quantise_experts import quantise_layer
from tests.sim.golden.test_integer_model import CHECKPOINT, TOKENS


def case(seed: int = 1, outputs: int = 24, inputs: int = 40, tokens: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Return weights in int8 units, and int8 inputs that hang together."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(outputs, inputs))
    weights *= 119 / np.abs(weights).max(axis=1, keepdims=True)
    x = rng.normal(size=(tokens, inputs // 4)) @ rng.normal(size=(inputs // 4, inputs)) + 0.3 * rng.normal(
        size=(tokens, inputs)
    )
    return weights, np.clip(np.rint(10 * x), -127, 127)


def moments_of(x: np.ndarray) -> Moments:
    return Moments(x.T @ x, x.T @ x)


def error(weights: np.ndarray, found: np.ndarray, x: np.ndarray) -> float:
    return float(np.square((found - weights) @ x.T).sum())


def test_planes_add_up_to_every_weight() -> None:
    values = np.arange(-128, 128)
    _, low = split_nibbles(values)
    assert (high_plane(values) + low - 8 == values).all() and (high_plane(values).astype(int) % 16 == 8).all()


@pytest.mark.parametrize("reach", [0, 3, 16])
def test_compensated_weights_hold_two_nibbles(reach: int) -> None:
    weights, x = case()
    weights[0], weights[1, ::2], weights[2] = 119, -119, 0
    found = compensated_weights(weights, moments_of(x), reach)
    assert found.dtype == np.int8 and np.abs(found.astype(int)).max() <= 127
    high = high_plane(found).astype(int)
    rounded = np.rint(weights).astype(int)
    low, top = (high_plane(np.clip(rounded + step, -127, 127)).astype(int) for step in (-reach, reach))
    assert ((low <= high) & (high <= top)).all()


def test_compensation_lowers_the_error_of_outputs() -> None:
    weights, x = case()
    rounded = np.rint(weights)
    kept, near, far = (compensated_weights(weights, moments_of(x), reach).astype(int) for reach in (0, 3, 16))
    assert (high_plane(kept) == high_plane(rounded.astype(int))).all()
    assert error(weights, kept, x) < 0.5 * error(weights, rounded, x)
    plain = error(weights, high_plane(rounded.astype(int)), x)
    errors = [error(weights, high_plane(found), x) for found in (near, far)]
    assert errors[1] < errors[0] < 0.8 * plain
    # What the high plane gains costs full precision something, but far less than the low plane is worth.
    assert error(weights, near, x) < 0.05 * errors[0]


def test_high_planes_are_made_for_tokens_with_small_gates() -> None:
    weights, x = case()
    few = x[:100] * np.linspace(0.2, 1.8, 40)
    seen, alike = Moments(x.T @ x, few.T @ few), moments_of(x)
    own, other = (high_plane(compensated_weights(weights, moments, 16)).astype(int) for moments in (seen, alike))
    assert error(weights, own, few) < 0.95 * error(weights, other, few)
    assert error(weights, own, x) > error(weights, other, x)


def test_each_part_of_the_compensation_helps() -> None:
    """What a column rounds away is carried to the next; columns that are chosen anew help once more."""
    weights, x = case()
    moments = x.T @ x + np.eye(40)
    carried = _carried(weights, _inverse_factor(moments), lambda j, column: 16 * np.rint(column / 16))
    descended = _descended(carried.copy(), weights, moments, lambda j, column: 16 * np.rint(column / 16))
    errors = [error(weights, found, x) for found in (16 * np.rint(weights / 16), carried, descended)]
    assert errors[1] < 0.6 * errors[0] and errors[2] < 0.95 * errors[1]
    blocks = np.linalg.cholesky(np.linalg.inv(np.eye(300) + 0.5)).T  # more columns than are carried at once
    row = np.random.default_rng(3).normal(size=(1, 300)) * 20
    expected = row.copy()
    for j in range(300):
        step = (expected[0, j] - np.rint(expected[0, j])) / blocks[j, j]
        expected[0, j + 1 :] -= step * blocks[j, j + 1 :]
    np.testing.assert_array_equal(_carried(row, blocks, lambda j, column: np.rint(column)), np.rint(expected))


def test_without_inputs_weights_are_rounded() -> None:
    weights, _ = case()
    nothing = np.zeros((40, 40))
    np.testing.assert_array_equal(compensated_weights(weights, Moments(nothing, nothing), 3), np.rint(weights))


def test_scales_of_the_high_plane_are_least_squares() -> None:
    weights, x = case()
    weights[3] = 0
    integers = np.rint(weights).astype(int)
    high = high_plane(integers).astype(float)
    plain, seen = high_scales(weights, integers), high_scales(weights, integers, x.T @ x)
    assert plain[3] == seen[3] == 0
    assert (plain * 4096 == np.rint(plain * 4096)).all() and not (plain == seen).all()
    rows = np.arange(24) != 3
    for step in (-0.01, 0.01):
        worse = (plain + step)[:, None]
        assert (
            np.square(plain[:, None] * high - weights).sum(axis=1)[rows]
            < np.square(worse * high - weights).sum(axis=1)[rows]
        ).all()
    assert error(weights, seen[:, None] * high, x) < error(weights, plain[:, None] * high, x)


def test_experts_get_words_for_both_precisions() -> None:
    rng = np.random.default_rng(5)
    weights = [ExpertWeights(**{n: rng.normal(size=(16, 16)) for n in ("gate", "up", "down")}) for _ in range(2)]
    x = np.rint(rng.normal(size=(50, 16)) * 30)
    moments = [ExpertMoments(moments_of(x), moments_of(x))] * 2
    ranges = [ExpertRanges(9, 40, 90)] * 2
    plain = quantise_layer(weights, 3.0, ranges)
    compensated = quantise_layer(weights, 3.0, ranges, moments=moments, reach=3)
    for own, other in zip(plain.experts, compensated.experts, strict=True):
        assert (own.up_shift, own.down_shift, own.post_mult) == (other.up_shift, other.down_shift, other.post_mult)
        np.testing.assert_array_equal(own.gate_mult, other.gate_mult)
        assert (own.gate != other.gate).any()
        for name in ("gate", "up", "down"):
            ratio = getattr(own, f"high_{name}_mult") / getattr(own, f"{name}_mult")
            assert getattr(own, f"high_{name}_mult").dtype == np.uint16 and (0.9 < ratio).all() and (ratio < 1.1).all()
            assert (ratio != 1).any()
    for bad, message in (
        ({"reach": 3}, "reach: 3; use 0 to 16, and calibrate"),
        ({"reach": 17, "moments": moments}, "reach: 17"),
        ({"moments": moments[:1]}, "moments: 1 for 2 experts"),
        ({"levels": 120}, "levels: 120; use 1 to 119"),
    ):
        with pytest.raises(QuantisationError, match=message):
            quantise_layer(weights, 3.0, ranges, **bad)


def test_moments_are_whole_numbers_of_the_tokens_that_chose_an_expert() -> None:
    found = expert_moments(CHECKPOINT, TOKENS, calibrate(CHECKPOINT, TOKENS))
    assert len(found) == 2 and len(found[0]) == 5
    for layer in found:
        for own in layer:
            for seen, size in ((own.x, 32), (own.h, 24)):
                assert seen.all.shape == (size, size)
                for sums in (seen.all, seen.low):
                    np.testing.assert_array_equal(sums, np.rint(sums))
                    np.testing.assert_array_equal(sums, sums.T)
                assert 0 < np.trace(seen.low) < 16 * np.trace(seen.all)
    model = quantise_checkpoint(CHECKPOINT, TOKENS, reach=3)
    plain = quantise_checkpoint(CHECKPOINT, TOKENS)
    assert (model.layers[0].experts.experts[0].down != plain.layers[0].experts.experts[0].down).any()
    np.testing.assert_array_equal(model.layers[0].qkv.weights, plain.layers[0].qkv.weights)
