# SPDX-License-Identifier: Apache-2.0
"""Random quantised models: repeated by their seed, made tensor by tensor, with numbers that use their ranges."""

from __future__ import annotations

import dataclasses
import itertools
import tracemalloc

import numpy as np
import pytest

from hdl.errors import A3dError
from scheduler.models.description import Experts, Layer, Model, Router
from scheduler.models.random_model import random_model
from scheduler.models.shapes import load_shape
from sim.golden.integer_model import IntegerModel
from tests.scheduler.models.test_checkpoint_families import assert_equal
from tests.support.checkpoints import small_model


def shared(family: str) -> Model:
    """A model with an expert that every token uses beside those that are chosen."""
    model = small_model(family, hidden=64, head_dim=16)
    mlp = Experts(count=6, chosen=2, intermediate=32, shared=24, router=Router(normalised=False))
    return dataclasses.replace(model, layers=tuple(Layer(attention=model.attention, mlp=mlp) for _ in range(3)))


def narrow(name: str, **changes: int) -> Model:
    """A published shape with fewer layers, experts and tokens."""
    model = load_shape(name)
    mlp = model.layers[0].mlp
    assert isinstance(mlp, Experts)
    few = dataclasses.replace(mlp, count=16, chosen=8)
    layers = (dataclasses.replace(model.layers[0], mlp=few),) * 2
    return dataclasses.replace(model, layers=layers, vocabulary=256, context=128, **changes)


MODELS = {
    "mixtral": small_model("mixtral", hidden=64, head_dim=16),
    "qwen3, deep": small_model("qwen3_moe", hidden=64, head_dim=32, layers=12),
    "qwen3, dense layers": small_model("qwen3_moe", hidden=64, head_dim=16, layers=4, dense=(0, 1)),
    "olmoe": small_model("olmoe", hidden=96, experts=16, chosen=4),
    "olmoe's widths": narrow("olmoe-1b-7b"),
    "shared experts": shared("qwen3_moe"),
    "tiny": small_model("mixtral", hidden=8, heads=2, kv_heads=1, intermediate=8, layers=1),
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_numbers_neither_vanish_nor_saturate(model: Model) -> None:
    quantised = random_model(model, 3)
    integer = IntegerModel(quantised, key_block=16)
    tokens = np.random.default_rng(1).integers(0, model.vocabulary, (2, 40))
    result = integer.step([(integer.new_cache(), own) for own in tokens], trace=True)
    for number, layer in enumerate(result.layers):
        for name in ("attention_input", "query", "key", "value", "context", "expert_input"):
            values = getattr(layer, name).astype(np.int64)
            deviation, full = values.std(), (np.abs(values) >= 127).mean()
            assert 6 < deviation < 64 and full < 0.1, (number, name, deviation, full)
        head, kind = quantised.layers[number].heads[0], model.attention
        products = np.einsum("thd,kd->thk", *(a.astype(float) for a in (layer.query, layer.key[:, 0])))
        scores = products[:, : kind.heads // kind.kv_heads] * head.score_mult / 2.0**head.score_shift
        assert 300 < scores.std() < 3500, "about 1.5 natural units of 739: neither flat nor of one key"
        for name in ("residual_middle", "residual_out"):
            assert np.abs(getattr(layer, name).astype(np.int64)).max() < 1 << 30, (number, name)
        before = result.layers[number - 1].residual_out if number else layer.residual_middle
        assert layer.residual_out.astype(float).std() > before.astype(float).std() * 0.9
        if layer.router.size:
            router = layer.router.astype(float)
            assert 500 < router.std() < 6000 and (np.abs(router) >= 32767).mean() < 0.01
        gates = result.routing[number].gates
        assert gates.shape[1] == 0 or (1000 < gates.mean() and gates.max() <= 32768)
    chosen = [np.unique(routing.experts).size for routing in result.routing if routing.experts.size]
    assert all(count > 2 for count in chosen)
    logits = result.logits.astype(float)
    assert 1000 < logits.std() < 12_000 and (np.abs(logits) >= 32767).mean() < 0.01
    assert np.unique(logits.argmax(axis=1)).size > 10, "texts differ from token to token"


def test_the_seed_repeats_a_model_in_any_order() -> None:
    model = MODELS["qwen3, dense layers"]
    whole, parts = random_model(model, 7, resident=True), random_model(model, 7, resident=False)
    assert_equal(parts.layers[3].qkv.weights, whole.layers[3].qkv.weights)
    assert_equal(whole, parts)
    other = random_model(model, 8)
    assert (other.layers[0].qkv.weights != whole.layers[0].qkv.weights).mean() > 0.9
    tensors = [whole.layers[n].output.weights.ravel() for n in range(4)]
    assert all((a != b).mean() > 0.9 for a, b in itertools.pairwise(tensors))
    everything = np.concatenate([e.gate.ravel() for layer in whole.layers for e in layer.experts.experts])
    assert everything.min() == -119 and everything.max() == 119


def test_experts_of_a_layer_share_their_constants() -> None:
    """An instruction that runs whichever expert the router chose has them as constants."""
    for layer in random_model(MODELS["olmoe"], 1).layers:
        constants = {(e.up_shift, e.post_mult, e.post_shift, e.down_shift) for e in layer.experts.experts}
        assert len(constants) == 1


def test_published_shapes_take_no_memory() -> None:
    tracemalloc.start()
    try:
        model = random_model(dataclasses.replace(load_shape("mixtral-8x7b"), context=128), 1)
        assert model.layers[31].experts.experts[7].down_mult.size == 4096
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 28
    assert model.layers[0].qkv.weights.shape == (6144, 4096)


def test_what_is_refused() -> None:
    with pytest.raises(A3dError, match="deepseek-v3: deepseek_v3 can be planned and timed only"):
        random_model(load_shape("deepseek-v3"), 1)
    with pytest.raises(A3dError, match="seed: -1; use 0 or more"):
        random_model(MODELS["tiny"], -1)
