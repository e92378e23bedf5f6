# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of every complete family: all ways to write them, read at once or when they are used."""

from __future__ import annotations

import dataclasses
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scheduler.models.calibration import quantise_checkpoint
from scheduler.models.checkpoint import Checkpoint, CheckpointError, read_checkpoint
from scheduler.models.description import Model
from scheduler.models.quantise import ExpertWeights, QuantisedExpert, QuantisedLayer, QuantisedMatrix
from scheduler.models.random_checkpoint import random_checkpoint
from tests.support.checkpoints import small_model, tensors_of, write_model, write_safetensors

MODELS = {
    "mixtral": small_model("mixtral"),
    "qwen3": small_model("qwen3_moe", head_dim=6),
    "qwen3, dense layers": small_model("qwen3_moe", layers=3, dense=(0, 2), tied=True),
    "olmoe": small_model("olmoe"),
    "olmoe, normalised, tied": small_model("olmoe", normalised=True, tied=True),
}


def assert_equal(one: Any, two: Any, name: str = "checkpoint") -> None:
    """Compare dataclasses of arrays."""
    if isinstance(one, (Checkpoint, ExpertWeights, QuantisedMatrix, QuantisedExpert, QuantisedLayer)) or (
        dataclasses.is_dataclass(one) and not isinstance(one, Model)
    ):
        for field in dataclasses.fields(one):
            assert_equal(getattr(one, field.name), getattr(two, field.name), f"{name}.{field.name}")
    elif isinstance(one, tuple):
        assert len(one) == len(two)
        for n, (a, b) in enumerate(zip(one, two, strict=True)):
            assert_equal(a, b, f"{name}[{n}]")
    elif isinstance(one, np.ndarray):
        other = np.asarray(list(two)) if not isinstance(two, np.ndarray) else two
        np.testing.assert_array_equal(one, other.reshape(one.shape), err_msg=name)
    elif not isinstance(one, Model):
        assert one == two, name


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize(
    "way", [{}, {"fused": True}, {"shards": 3}, {"fused": True, "shards": 2}], ids=lambda w: str(w)
)
@pytest.mark.parametrize("resident", [True, False])
def test_every_way_to_write_a_family(tmp_path: Path, model: Model, way: dict[str, Any], resident: bool) -> None:
    written = random_checkpoint(model, 1)
    found = read_checkpoint(write_model(tmp_path / "model", written, **way), resident=resident)
    assert_equal(written, found)
    assert found.description == dataclasses.replace(model, name="model")
    size = sum(array.size for array in tensors_of(written).values())
    assert found.description.parameters == size


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
@pytest.mark.parametrize("fused", [True, False])
def test_short_types(tmp_path: Path, dtype: str, fused: bool) -> None:
    written = random_checkpoint(small_model("olmoe"), 1)
    found = read_checkpoint(write_model(tmp_path / "model", written, dtype=dtype, fused=fused), resident=False)
    for one, two in (
        (written.layers[1].w3[4], found.layers[1].w3[4]),
        (written.layers[0].w2[2], found.layers[0].w2[2]),
        (written.layers[0].q_norm, found.layers[0].q_norm),
        (written.lm_head, found.lm_head),
    ):
        assert one is not None and two is not None and two.dtype == np.float32
        exact = one.astype(np.float16) if dtype == "F16" else (one.view(np.uint32) & 0xFFFF0000).view(np.float32)
        np.testing.assert_array_equal(two, exact)


def test_a_large_model_is_never_in_memory(tmp_path: Path) -> None:
    """Reading and quantising takes the largest tensor a few times, though the model has a hundred of its size."""
    model = small_model(
        "olmoe", hidden=256, heads=4, kv_heads=4, intermediate=256, experts=32, layers=4, vocabulary=256, context=16
    )
    folder = write_model(tmp_path / "model", random_checkpoint(model, 1), fused=True, dtype="BF16")
    tensor = 256 * 256 * 8  # a matrix in float64
    tracemalloc.start()
    try:
        quantised = quantise_checkpoint(read_checkpoint(folder, resident=False), [[1, 2, 3, 4]], resident=False)
        total = 0
        for layer in quantised.layers:
            for expert in layer.experts.experts:
                total += int(expert.gate.astype(np.int64).sum() + expert.up.sum() + expert.down.sum())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total != 0 and model.parameters > 380 * 256 * 256
    assert peak < 20 * tensor, peak / tensor


@pytest.mark.parametrize("name", ["mixtral", "qwen3, dense layers", "olmoe"])
def test_integers_do_not_depend_on_when_they_are_made(tmp_path: Path, name: str) -> None:
    folder = write_model(tmp_path / "model", random_checkpoint(MODELS[name], 2))
    tokens = np.random.default_rng(1).integers(0, 50, (3, 20))
    whole, parts = (
        quantise_checkpoint(read_checkpoint(folder, resident=keep), tokens, resident=keep) for keep in (True, False)
    )
    assert_equal(whole, parts)


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("qwen3_moe", {"head_dim": 6}, "q_proj.weight has shape (24, 24), expected (36, 24); .*num_attention_heads"),
        (
            "qwen3_moe",
            {"num_experts": 4, "num_experts_per_tok": 2},
            "num_experts in config.json is 4, but .* 5 experts",
        ),
        ("qwen3_moe", {"moe_intermediate_size": 8}, "gate_proj.weight has .* moe_intermediate_size, hidden_size"),
        ("qwen3_moe", {"mlp_only_layers": [1], "intermediate_size": 28}, "mlp.gate_proj.weight is missing, expected"),
        ("qwen3_moe", {"num_hidden_layers": 3}, "num_hidden_layers in config.json is 3, but the tensor files hold 2"),
        ("olmoe", {"num_key_value_heads": 6}, "k_proj.weight has shape .*compare num_key_value_heads, head_dim"),
        ("olmoe", {"intermediate_size": 8}, "gate_proj.weight has shape .*compare intermediate_size, hidden_size"),
        (
            "mixtral",
            {"architectures": ["OlmoeForCausalLM"], "model_type": "olmoe", "num_local_experts": 5},
            "block_sparse_moe.gate.weight is not part of a OlmoeForCausalLM",
        ),
        (
            "olmoe",
            {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "norm_topk_prob": True},
            "self_attn.q_norm.weight is not part of a MixtralForCausalLM .* norms that it does not have",
        ),
    ],
)
def test_a_config_that_contradicts_its_tensors(
    tmp_path: Path, family: str, changes: dict[str, Any], message: str
) -> None:
    folder = write_model(tmp_path / "model", random_checkpoint(small_model(family)), **changes)
    with pytest.raises(CheckpointError, match=message.replace("(", r"\(").replace(")", r"\)")) as caught:
        read_checkpoint(folder)
    assert "\n" not in str(caught.value)


def test_missing_parts_of_a_family(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", random_checkpoint(small_model("qwen3_moe")), shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match="model-00002-of-00003.safetensors: not found, .* the missing shard"):
        read_checkpoint(folder)
    tensors = tensors_of(random_checkpoint(small_model("qwen3_moe")), fused=True)
    for name in ("self_attn.k_norm.weight", "mlp.experts.down_proj", "mlp.gate.weight"):
        folder = write_model(tmp_path / name, random_checkpoint(small_model("qwen3_moe")))
        left = {key: value for key, value in tensors.items() if key != f"model.layers.1.{name}"}
        write_safetensors(folder / "model.safetensors", left)
        with pytest.raises(CheckpointError, match=rf"tensor model.layers.1.{name} is missing, expected shape"):
            read_checkpoint(folder)
