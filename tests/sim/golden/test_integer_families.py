# SPDX-License-Identifier: Apache-2.0
"""The integer model of every complete family: close to the float model, the same bits however tokens are grouped."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from scheduler.models.calibration import calibrate, quantise_checkpoint
from scheduler.models.checkpoint import Checkpoint
from scheduler.models.description import Experts, Model, QkNorm
from scheduler.models.fixed_point import QUERY_KEY_BITS, qk_norm_bits
from scheduler.models.float_model import FloatModel
from scheduler.models.quantise import ExpertWeights, QuantisationError
from scheduler.models.quantise_language import quantise_language_model
from scheduler.models.random_checkpoint import random_checkpoint
from scheduler.models.rope import adjacent_pairs
from sim.golden.integer_experts import expert_rows
from sim.golden.integer_model import IntegerModel
from tests.support.checkpoints import small_model

WIDE: dict[str, Any] = {"hidden": 32, "heads": 4, "kv_heads": 2}
MODELS = {
    "mixtral": small_model("mixtral", **WIDE),
    "qwen3": small_model("qwen3_moe", head_dim=16, **WIDE),
    "qwen3, gates of all experts": small_model("qwen3_moe", normalised=False, **WIDE),
    "qwen3, dense layers": small_model("qwen3_moe", layers=3, dense=(0, 2), **WIDE),
    "olmoe": small_model("olmoe", **WIDE),
    "olmoe, normalised": small_model("olmoe", normalised=True, tied=True, **WIDE),
}
TOKENS = np.random.default_rng(4).integers(0, 50, (8, 48))


def weights_of(model: Model) -> Checkpoint:
    """Random weights; queries and keys of very different sizes, as a norm evens out."""
    checkpoint = random_checkpoint(model, 3)
    rng = np.random.default_rng(5)
    for layer in checkpoint.layers:
        if layer.q_norm is not None:
            for matrix in (layer.q_proj, layer.k_proj):
                heads = matrix.reshape(-1, model.attention.head_dim, model.hidden)
                heads *= 2.0 ** rng.uniform(-2, 2, (len(heads), 1, 1)).astype(np.float32)
    return checkpoint


def signal_to_noise(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.sqrt(np.square(expected).mean() / np.square(found - expected).mean()))


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_close_to_the_float_model(model: Model) -> None:
    checkpoint = weights_of(model)
    exact = FloatModel(checkpoint).forward(TOKENS[:4], trace=True)
    ranges = calibrate(checkpoint, TOKENS)
    quantised = quantise_language_model(checkpoint, ranges)
    integer = IntegerModel(quantised)
    result = integer.step([(integer.new_cache(48), row) for row in TOKENS[:4]], trace=True)
    kind, pairs = model.attention, adjacent_pairs(model.attention.head_dim)
    first, seen, own = exact.layers[0], result.layers[0], ranges.layers[0].heads
    for name, heads in (("query", kind.heads), ("key", kind.kv_heads)):
        scale = np.repeat([getattr(h, name) / 127 for h in own], heads // kind.kv_heads)[:, None]
        expected = getattr(first, name).transpose(0, 2, 1, 3).reshape(-1, heads, kind.head_dim)[..., pairs]
        assert signal_to_noise(getattr(seen, name) * scale, expected) > 35, name
    same = np.ones((4, 48), dtype=bool)
    for number, (trace, routing) in enumerate(zip(exact.layers, result.routing, strict=True)):
        chosen = np.sort(routing.experts, axis=1).reshape(4, 48, -1)
        same &= (chosen == np.sort(trace.expert_index, axis=-1)).all(axis=-1)
        mlp = model.layers[number].mlp
        assert routing.gates.shape == (192, mlp.chosen if isinstance(mlp, Experts) else 0)
        if number == 0 and isinstance(mlp, Experts):
            order = np.argsort(routing.experts, axis=1).reshape(4, 48, -1)
            gates = np.take_along_axis(routing.gates.reshape(4, 48, -1) / 32768, order, axis=-1)
            expected = np.take_along_axis(trace.expert_weight, np.argsort(trace.expert_index, axis=-1), axis=-1)
            assert np.abs(gates - expected)[same].max() < 0.05
            assert (np.abs(gates.sum(axis=-1) - 1) < 1e-3).all() == mlp.router.normalised
    assert same.mean() > 0.75
    real = result.logits.reshape(exact.logits.shape) * quantised.logit_scale
    assert signal_to_noise(real[same], exact.logits[same]) > 7
    middle = first.hidden_in + first.attention_output
    assert signal_to_noise(seen.residual_middle.reshape(middle.shape) * quantised.residual_scale, middle) > 35


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_prefill_is_decode_and_the_batch_does_not_matter(model: Model) -> None:
    integer = IntegerModel(quantise_checkpoint(weights_of(model), TOKENS), key_block=7)
    whole = integer.prefill(TOKENS[0, :20])
    caches = [integer.new_cache(20) for _ in range(2)]
    for position in range(20):
        result = integer.decode(caches, TOKENS[[0, 3], position])
        np.testing.assert_array_equal(result.logits[0], whole.logits[position])
        for one, two in zip(result.routing, whole.routing, strict=True):
            np.testing.assert_array_equal(one.experts[0], two.experts[position])
            np.testing.assert_array_equal(one.gates[0], two.gates[position])


@pytest.mark.parametrize("name", ["qwen3, dense layers", "mixtral"])
def test_an_mlp_of_every_token_is_an_expert_with_gate_1(name: str) -> None:
    checkpoint = weights_of(MODELS[name])
    if name == "mixtral":  # beside those that are chosen, as shared experts are
        rng = np.random.default_rng(6)
        shapes = {"gate": (12, 32), "up": (12, 32), "down": (32, 12)}
        common = ExpertWeights(**{n: rng.normal(size=s).astype(np.float32) / 5 for n, s in shapes.items()})
        layers = tuple(dataclasses.replace(layer, common=common) for layer in checkpoint.layers)
        mlp = checkpoint.description.layers[0].mlp
        assert isinstance(mlp, Experts)
        layer = dataclasses.replace(checkpoint.description.layers[0], mlp=dataclasses.replace(mlp, shared=12))
        description = dataclasses.replace(checkpoint.description, layers=(layer,) * 2)
        checkpoint = dataclasses.replace(checkpoint, layers=layers, description=description)
    quantised = quantise_checkpoint(checkpoint, TOKENS)
    integer = IntegerModel(quantised)
    result = integer.step([(integer.new_cache(10), TOKENS[0, :10])], trace=True)
    exact = FloatModel(checkpoint).forward(TOKENS[:1, :10], trace=True).layers[0]
    for number, (seen, routing) in enumerate(zip(result.layers, result.routing, strict=True)):
        layer = quantised.layers[number]
        expected = seen.residual_middle.astype(np.int64)
        if layer.common is not None:
            expected += 32768 * expert_rows(layer.common, seen.expert_input)
        for token in range(10):
            for expert, gate in zip(routing.experts[token], routing.gates[token], strict=True):
                rows = expert_rows(layer.experts.experts[expert], seen.expert_input[token : token + 1])
                expected[token] += int(gate) * rows[0]
        np.testing.assert_array_equal(seen.residual_out, expected)
    assert quantised.layers[0].common is not None
    found = result.layers[0].residual_out * quantised.residual_scale
    assert signal_to_noise(found, exact.hidden_out[0]) > 15


@pytest.mark.parametrize("name", ["qwen3", "olmoe"])
def test_constants_of_qk_norm(name: str) -> None:
    model, checkpoint = MODELS[name], weights_of(MODELS[name])
    ranges = calibrate(checkpoint, TOKENS)
    quantised = quantise_language_model(checkpoint, ranges, headroom=2.0)
    d, whole = model.attention.head_dim, model.attention.qk_norm == QkNorm.WHOLE
    for layer, weights, own in zip(quantised.layers, checkpoint.layers, ranges.layers, strict=True):
        assert layer.query_norm is not None and layer.key_norm is not None
        assert (layer.query_norm.norm == layer.key_norm.norm) is not whole
        for norm, scales, heads, what in (
            (layer.query_norm, weights.q_norm, model.attention.heads, "query"),
            (layer.key_norm, weights.k_norm, model.attention.kv_heads, "key"),
        ):
            assert scales is not None
            channels = heads * d if whole else d
            assert norm.weights.dtype == np.int16 and norm.weights.shape == (channels,) and norm.norm.in_shift == 0
            assert 0 <= norm.shift <= 47 and 16384 <= np.abs(norm.weights.astype(int)).max() <= 32767
            ranges_of = np.repeat([getattr(h, what) for h in own.heads], channels * len(own.heads) // len(own.heads))
            unit = ranges_of.reshape(len(own.heads), -1)
            unit = np.repeat(unit[:, 0], channels // len(own.heads)) if whole else unit[0, 0]
            real = norm.weights / 2.0**norm.shift * 2.0 ** (qk_norm_bits(channels) - QUERY_KEY_BITS) * (unit / 127)
            expected = scales.reshape(-1, d)[:, adjacent_pairs(d)].ravel()
            np.testing.assert_allclose(real, expected, atol=np.abs(expected).max() * 2**-14)
            factor = norm.norm.mult / 32768 * 2.0 ** (32 - norm.norm.shift)
            assert factor == pytest.approx(math.sqrt(channels) * 2.0 ** qk_norm_bits(channels), rel=1e-4)
        rows = layer.qkv.weights[: model.attention.heads * d].astype(float)
        rows *= (layer.qkv.mult[: len(rows)] / 2.0**layer.qkv.shift)[:, None]
        largest = own.projected[0] if whole else max(own.projected)
        float_rows = weights.q_proj.reshape(-1, d, model.hidden)[:, adjacent_pairs(d)].reshape(rows.shape)
        float_rows = float_rows * weights.input_norm * (own.attention_norm / 127) / (largest * 2.0 / 32767)
        assert np.abs(rows - float_rows).max() < np.abs(float_rows).max() / 119
        if whole:
            unit_q, unit_k = (p * 2.0 / 32767 for p in own.projected)
            for norm, unit_of, count in ((layer.query_norm, unit_q, 32), (layer.key_norm, unit_k, 16)):
                eps = (norm.norm.eps << norm.norm.eps_shift) * unit_of**2 / count
                assert eps == pytest.approx(1e-5, rel=0.02)


def test_head_norms_need_the_same_ranges_for_all_heads() -> None:
    checkpoint = weights_of(MODELS["qwen3"])
    ranges = calibrate(checkpoint, TOKENS[:2])
    first, second = ranges.layers[0].heads
    assert (first.query, first.key) == (second.query, second.key) and first.value != second.value
    other = dataclasses.replace(second, key=2 * second.key)
    layers = (dataclasses.replace(ranges.layers[0], heads=(first, other)), *ranges.layers[1:])
    with pytest.raises(QuantisationError, match="ranges of layer 0: heads that share a norm's weights differ"):
        quantise_language_model(checkpoint, dataclasses.replace(ranges, layers=layers))
    dense = weights_of(MODELS["qwen3, dense layers"])
    found = calibrate(dense, TOKENS[:2])
    layers = (dataclasses.replace(found.layers[0], common=None), *found.layers[1:])
    with pytest.raises(QuantisationError, match="ranges of layer 0: 0 MLPs of every token, the model has 1"):
        quantise_language_model(dense, dataclasses.replace(found, layers=layers))


def test_bits_of_normed_rows() -> None:
    """The largest that a norm can make of n channels, sqrt(n), fits int16 or is its largest value."""
    for channels in (1, 2, 8, 63, 64, 65, 128, 2048, 4096, 8192):
        bits = qk_norm_bits(channels)
        assert math.sqrt(channels) * 2.0**bits <= 32768 < math.sqrt(channels) * 2.0 ** (bits + 2)
