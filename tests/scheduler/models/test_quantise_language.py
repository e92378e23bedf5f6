# SPDX-License-Identifier: Apache-2.0
"""A language model's integers: shapes, formats, scales, and what is refused."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hdl.errors import A3dError
from scheduler.models.quantise import ExpertRanges, QuantisationError
from scheduler.models.quantise_language import (
    HeadRanges,
    LayerRanges,
    ModelRanges,
    quantise_language_model,
)
from scheduler.models.quantise_norm import float_fields
from scheduler.models.random_checkpoint import random_checkpoint
from scheduler.models.rope import adjacent_pairs, rope_tables
from tests.support.checkpoints import small_model

SHAPE = small_model(
    "mixtral", vocabulary=24, hidden=16, intermediate=8, layers=2, heads=4, kv_heads=2, head_dim=8, experts=3, chosen=2,
    context=40,
)  # fmt: skip
HEAD = HeadRanges(query=4.0, key=5.0, value=3.0, context=2.5)
LAYER = LayerRanges(
    attention_in=5.0, attention_norm=3.0, heads=(HEAD, HeadRanges(1.0, 2.0, 3.0, 3.0)), expert_in=6.0,
    expert_norm=2.5, experts=(ExpertRanges(4.0, 6.0, 0.0),) * 3,
)  # fmt: skip
RANGES = ModelRanges(residual=12.0, layers=(LAYER, LAYER), final_in=10.0, final_norm=3.0, logits=8.0)
CHECKPOINT = random_checkpoint(SHAPE)


def test_shapes_and_types() -> None:
    model = quantise_language_model(CHECKPOINT, RANGES)
    assert model.description == SHAPE and len(model.layers) == 2
    assert model.embedding.shape == (24, 16) and model.embedding.dtype == np.int16
    assert model.rope_cos.shape == model.rope_sin.shape == (40, 8) and model.rope_cos.dtype == np.int16
    assert model.head.weights.shape == (24, 16)
    for layer in model.layers:
        shapes = [m.weights.shape for m in (layer.qkv, layer.output, layer.router)]
        assert shapes == [(4 * 8 + 2 * 2 * 8, 16), (16, 32), (3, 16)]
        assert len(layer.heads) == 2 and len(layer.experts.experts) == 3
        assert layer.experts.y_scale == pytest.approx(model.residual_scale * 32768)


def test_every_constant_fits_its_field() -> None:
    model = quantise_language_model(CHECKPOINT, RANGES)
    norms = [model.final_norm, *(n for layer in model.layers for n in (layer.attention_norm, layer.expert_norm))]
    for norm in norms:
        assert 0 <= norm.in_shift <= 31 and 0 <= norm.eps < 65536 and 0 <= norm.eps_shift <= 32
        assert 32768 <= norm.mult < 65536 and 0 <= norm.shift < 64
    for layer in model.layers:
        for matrix in (layer.qkv, layer.output, layer.router, model.head):
            assert matrix.weights.dtype == np.int8 and np.abs(matrix.weights.astype(int)).max() == 119
            assert matrix.mult.dtype == np.uint16 and matrix.mult.max() >= 32767 and 0 <= matrix.shift <= 47
        for head in layer.heads:
            assert all(0 <= v < 65536 for v in (head.score_mult, head.value_mult, head.context_mult))
            assert all(0 <= v <= 47 for v in (head.score_shift, head.value_shift)) and 0 <= head.context_shift < 64
    assert 0 <= model.embedding_shift <= 16


def test_scales() -> None:
    model = quantise_language_model(CHECKPOINT, RANGES, headroom=2.0)
    # The residual holds twice its range times the headroom; its largest summand uses 16 bits times Q15.
    assert 32767 * 32768 * model.residual_scale == pytest.approx(24.0)
    rows = model.embedding.astype(np.int64) << model.embedding_shift
    unit = model.residual_scale * 2**model.embedding_shift
    assert np.abs(rows * model.residual_scale - CHECKPOINT.embed).max() <= unit / 2 * 1.001
    assert np.abs(model.embedding.astype(int)).max() > 16000
    assert model.logit_scale == pytest.approx(16.0 / 32767)
    head = model.layers[0].heads[0]
    score = 4.0 / 127 * 5.0 / 127 / math.sqrt(8) * math.log2(math.e) * 512
    assert head.score_mult / 2**head.score_shift == pytest.approx(score, rel=1e-4)
    context = head.value_mult / 2**head.value_shift * head.context_mult / 32768 * 2.0 ** (32 - head.context_shift)
    assert context == pytest.approx(3.0 / 2.5, rel=1e-4)
    norm = model.layers[0].attention_norm
    assert norm.mult / 32768 * 2.0 ** (32 - norm.shift) == pytest.approx(math.sqrt(16) * 127 / 3.0, rel=1e-4)
    assert 16384 < 10.0 / model.residual_scale / 2**norm.in_shift <= 32767
    eps = (norm.eps << norm.eps_shift) * (model.residual_scale * 2**norm.in_shift) ** 2 / 16
    assert eps == pytest.approx(1e-5, rel=1e-3)


@pytest.mark.parametrize("key_block", [1, 16, 100, 4096])
def test_context_cannot_saturate(key_block: int) -> None:
    model = quantise_language_model(CHECKPOINT, RANGES, key_block=key_block)
    assert model.key_block == key_block
    for head in (h for layer in model.layers for h in layer.heads):
        most = 127 * 128 * key_block * head.value_mult / 2**head.value_shift
        assert 32700 < most < 32767.5


def test_norms_and_pairs_are_in_the_weights() -> None:
    """Rows of one head: the stored weights times their scale are the float ones, permuted, times the norm."""
    model = quantise_language_model(CHECKPOINT, RANGES)
    layer, weights = model.layers[1], CHECKPOINT.layers[1]
    matrix = layer.qkv
    in_scale = 3.0 / 127
    ranges = np.repeat([4.0, 1.0], 16)
    q = matrix.weights[:32] * (matrix.mult[:32] / 2.0**matrix.shift * ranges / 127 / 128 / in_scale)[:, None]
    order = np.concatenate([h * 8 + np.array([0, 4, 1, 5, 2, 6, 3, 7]) for h in range(4)])
    expected = (weights.q_proj * weights.input_norm)[order]
    assert np.abs(q - expected).max() < np.abs(expected).max() / 119
    router = layer.router.weights * (layer.router.mult / 2.0**layer.router.shift)[:, None]
    router = router / 512 * math.log(2) / (2.5 / 127)
    expected = weights.router * weights.post_attention_norm
    assert np.abs(router - expected).max() < np.abs(expected).max() / 119
    v = matrix.weights[48:] * (matrix.mult[48:] / 2.0**matrix.shift * 3.0 / 127 / 256 / in_scale)[:, None]
    expected = weights.v_proj * weights.input_norm
    assert np.abs(v - expected).max() < np.abs(expected).max() / 119


def test_the_same_again() -> None:
    one, two = (quantise_language_model(CHECKPOINT, RANGES) for _ in range(2))
    assert one.layers[0].heads == two.layers[0].heads and one.final_norm == two.final_norm
    np.testing.assert_array_equal(one.layers[1].qkv.weights, two.layers[1].qkv.weights)
    np.testing.assert_array_equal(one.embedding, two.embedding)


def test_ranges_of_zero_are_allowed() -> None:
    dead = LayerRanges(0.0, 0.0, (HeadRanges(0.0, 0.0, 0.0, 0.0),) * 2, 0.0, 0.0, (ExpertRanges(0.0, 0.0, 0.0),) * 3)
    model = quantise_language_model(CHECKPOINT, ModelRanges(12.0, (dead, dead), 0.0, 0.0, 0.0))
    assert model.layers[0].attention_norm.in_shift == 0


@given(st.floats(2.0**-30, 2.0**32))
def testfloat_fields(factor: float) -> None:
    mult, shift = float_fields(factor, "x")
    assert 32768 <= mult < 65536 and 0 <= shift < 64
    assert mult / 32768 * 2.0 ** (32 - shift) == pytest.approx(factor, rel=2e-5)


def testfloat_fields_at_their_ends() -> None:
    assert float_fields(1.0, "x") == (32768, 32)
    assert float_fields(2.0 - 2.0**-20, "x") == (32768, 31)
    for bad in (0.0, -1.0, math.inf, math.nan, 2.0**40, 2.0**-40):
        with pytest.raises(QuantisationError, match="^x: a factor of"):
            float_fields(bad, "x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": (LAYER,)}, "ranges: of 1 layers, the model has 2"),
        ({"layers": (LAYER, dataclasses.replace(LAYER, heads=(HEAD,)))}, "ranges of layer 1: 1 key/value heads"),
        ({"layers": (dataclasses.replace(LAYER, experts=()), LAYER)}, "ranges of layer 0: 0 experts"),
        ({"layers": (dataclasses.replace(LAYER, attention_norm=-1.0), LAYER)}, "range of attention norm: -1.0"),
        ({"residual": math.inf}, "range of residual: inf"),
        ({"residual": 1e-9}, "embedding: .* raise the residual's range"),
        ({"logits": math.nan}, "range of logits: nan"),
        ({"logits": 1e-12}, "requantisation ratio"),
    ],
)
def test_bad_ranges(change: dict[str, object], message: str) -> None:
    with pytest.raises(QuantisationError, match=message):
        quantise_language_model(CHECKPOINT, dataclasses.replace(RANGES, **change))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"headroom": 0.9}, "headroom: 0.9"),
        ({"headroom": math.nan}, "headroom: nan"),
        ({"key_block": 0}, "key_block: 0"),
        ({"key_block": 1 << 17}, "key_block: 131072"),
    ],
)
def test_bad_options(options: dict[str, float], message: str) -> None:
    with pytest.raises(QuantisationError, match=message):
        quantise_language_model(CHECKPOINT, RANGES, **options)


def test_weights_that_are_not_finite() -> None:
    embed = CHECKPOINT.embed.copy()
    embed[3, 3] = np.nan
    with pytest.raises(QuantisationError, match="embedding: a value is not finite"):
        quantise_language_model(dataclasses.replace(CHECKPOINT, embed=embed), RANGES)


@pytest.mark.parametrize("head_dim", [2, 8, 32])
def test_rope_rotates_as_the_float_model_does(head_dim: int) -> None:
    cosines, sines = rope_tables(head_dim, 50, 10000.0)
    assert np.abs(cosines.astype(int)).max() == 16384 and (cosines[0] == 16384).all() and not sines[0].any()
    x = np.random.default_rng(1).normal(size=(50, head_dim))
    angle = np.outer(np.arange(50), 10000.0 ** (-np.arange(0, head_dim, 2) / head_dim))
    low, high = np.split(x, 2, axis=1)
    cos, sin = np.cos(angle), np.sin(angle)
    expected = np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=1)
    order = adjacent_pairs(head_dim)
    mine = x[:, order]
    swapped = mine.reshape(50, -1, 2)[..., ::-1].reshape(50, -1)
    found = (mine * cosines + swapped * sines) / 16384
    np.testing.assert_allclose(found, expected[:, order], atol=2e-4)


@pytest.mark.parametrize("head_dim", [0, 1, 7, -2])
def test_rope_needs_pairs(head_dim: int) -> None:
    with pytest.raises(A3dError, match=f"head_dim: {head_dim}"):
        rope_tables(head_dim, 4, 10000.0)
