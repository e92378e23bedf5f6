# SPDX-License-Identifier: Apache-2.0
"""Reading Mixtral checkpoints: types, shards, tied embeddings, and one clear line for everything that is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from scheduler.models.checkpoint import CheckpointError, read_checkpoint
from scheduler.models.description import Experts, GroupedAttention, Layer
from tests.support.small_config import CONFIG

DEMO = Path(__file__).parents[3] / "models" / "demo"


def tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights for CONFIG, names and shapes written out here independently of the reader."""
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (11, 8),
        "lm_head.weight": (11, 8),
        "model.norm.weight": (8,),
    }
    for i in (0, 1):
        p = f"model.layers.{i}."
        shapes |= {
            p + "input_layernorm.weight": (8,),
            p + "post_attention_layernorm.weight": (8,),
            p + "self_attn.q_proj.weight": (8, 8),
            p + "self_attn.k_proj.weight": (4, 8),
            p + "self_attn.v_proj.weight": (4, 8),
            p + "self_attn.o_proj.weight": (8, 8),
            p + "block_sparse_moe.gate.weight": (3, 8),
        }
        for e in range(3):
            q = f"{p}block_sparse_moe.experts.{e}."
            shapes |= {q + "w1.weight": (6, 8), q + "w2.weight": (8, 6), q + "w3.weight": (6, 8)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def write(folder: Path, weights: dict[str, np.ndarray], **changes: Any) -> Path:
    """A model directory with CONFIG changed by `changes` (None removes a field)."""
    config = {k: v for k, v in (CONFIG | changes).items() if k == "sliding_window" or v is not None}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors")
    return folder


def test_reads_every_tensor(tmp_path: Path) -> None:
    weights = tensors()
    model = read_checkpoint(write(tmp_path, weights))
    assert model.description.attention.head_dim == 2 and len(model.layers) == 2
    np.testing.assert_array_equal(model.embed, weights["model.embed_tokens.weight"])
    np.testing.assert_array_equal(model.lm_head, weights["lm_head.weight"])
    np.testing.assert_array_equal(model.norm, weights["model.norm.weight"])
    for i, layer in enumerate(model.layers):
        p = f"model.layers.{i}."
        for field, name in {
            "q_proj": "self_attn.q_proj",
            "k_proj": "self_attn.k_proj",
            "v_proj": "self_attn.v_proj",
            "o_proj": "self_attn.o_proj",
            "router": "block_sparse_moe.gate",
            "input_norm": "input_layernorm",
            "post_attention_norm": "post_attention_layernorm",
        }.items():
            np.testing.assert_array_equal(getattr(layer, field), weights[f"{p}{name}.weight"])
        for e in range(3):
            for w in ("w1", "w2", "w3"):
                np.testing.assert_array_equal(
                    getattr(layer, w)[e], weights[f"{p}block_sparse_moe.experts.{e}.{w}.weight"]
                )
    assert model.description.parameters == sum(w.size for w in weights.values())


def test_weights_are_read_only(tmp_path: Path) -> None:
    model = read_checkpoint(write(tmp_path, tensors()))
    for array in (model.embed, model.layers[0].q_proj, model.layers[0].w1):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


def test_float16_and_bfloat16(tmp_path: Path) -> None:
    weights = tensors()
    write(tmp_path, {name: w.astype(np.float16) for name, w in weights.items()})
    half = read_checkpoint(tmp_path)
    assert half.embed.dtype == np.float32
    np.testing.assert_array_equal(half.embed, weights["model.embed_tokens.weight"].astype(np.float16))

    # bfloat16: keep the upper 16 bits of each float32
    header: dict[str, object] = {}
    data = b""
    for name, w in weights.items():
        upper = (w.view(np.uint32) >> 16).astype("<u2").tobytes()
        header[name] = {"dtype": "BF16", "shape": list(w.shape), "data_offsets": [len(data), len(data) + len(upper)]}
        data += upper
    text = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    brain = read_checkpoint(tmp_path)
    expected = (weights["model.embed_tokens.weight"].view(np.uint32) & 0xFFFF0000).view(np.float32)
    np.testing.assert_array_equal(brain.embed, expected)
    assert np.abs(brain.embed - weights["model.embed_tokens.weight"]).max() < 2**-6


def test_shards(tmp_path: Path) -> None:
    weights = tensors()
    whole = read_checkpoint(write(tmp_path, weights))
    (tmp_path / "model.safetensors").unlink()
    names = sorted(weights)
    parts = {"a.safetensors": names[:9], "b.safetensors": names[9:]}
    for file, part in parts.items():
        save_file({name: weights[name] for name in part}, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {n: f for f, part in parts.items() for n in part}}))
    sharded = read_checkpoint(tmp_path)
    np.testing.assert_array_equal(sharded.layers[1].w2, whole.layers[1].w2)

    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"b.safetensors: not found, but weight_map .* download the missing"):
        read_checkpoint(tmp_path)
    index.write_text(json.dumps({"weight_map": {"x": "../b.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"names the file '../b.safetensors', expected a file in"):
        read_checkpoint(tmp_path)
    index.write_text(json.dumps({"weight_map": {}}))
    with pytest.raises(CheckpointError, match="weight_map is missing"):
        read_checkpoint(tmp_path)
    index.write_text(json.dumps({"weight_map": {"x": "a\0b"}}))
    with pytest.raises(CheckpointError, match=r"names the file 'a.x00b', expected a file in"):
        read_checkpoint(tmp_path)
    index.unlink()
    missing = r"neither model.safetensors nor model.safetensors.index.json, only a.safetensors; save the model in"
    with pytest.raises(CheckpointError, match=missing):
        read_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").symlink_to("gone")
    with pytest.raises(CheckpointError, match=r"model.safetensors: is a link to a file that is not there"):
        read_checkpoint(tmp_path)


def test_same_tensor_in_two_shards(tmp_path: Path) -> None:
    weights = tensors()
    write(tmp_path, weights)
    (tmp_path / "model.safetensors").rename(tmp_path / "a.safetensors")
    save_file({"lm_head.weight": weights["lm_head.weight"]}, tmp_path / "b.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"x": "a.safetensors", "lm_head.weight": "b.safetensors"}})
    )
    with pytest.raises(CheckpointError, match=r"b.safetensors: tensor lm_head.weight is in another shard too"):
        read_checkpoint(tmp_path)


def test_tied_embeddings(tmp_path: Path) -> None:
    weights = tensors()
    weights.pop("lm_head.weight")
    model = read_checkpoint(write(tmp_path, weights, tie_word_embeddings=True))
    assert model.lm_head is model.embed
    assert model.description.parameters == sum(w.size for w in weights.values())
    with pytest.raises(CheckpointError, match=r"tensor lm_head.weight is missing.*; set tie_word_embeddings to true"):
        read_checkpoint(write(tmp_path, weights))


def test_tied_embeddings_that_are_stored_twice(tmp_path: Path) -> None:
    weights = tensors()
    same = weights | {"lm_head.weight": weights["model.embed_tokens.weight"].copy()}
    model = read_checkpoint(write(tmp_path, same, tie_word_embeddings=True))
    assert model.lm_head is model.embed
    with pytest.raises(CheckpointError, match=r"lm_head.weight differs from the embedding, but tie_word_embeddings is"):
        read_checkpoint(write(tmp_path, weights, tie_word_embeddings=True))


def _drop(weights: dict[str, np.ndarray]) -> None:
    del weights["model.layers.1.block_sparse_moe.experts.2.w3.weight"]


def _reshape(weights: dict[str, np.ndarray]) -> None:
    weights["model.layers.0.self_attn.k_proj.weight"] = np.zeros((8, 8), np.float32)


def _extra(weights: dict[str, np.ndarray]) -> None:
    weights["model.layers.0.self_attn.q_proj.bias"] = np.zeros(8, np.float32)


def _integers(weights: dict[str, np.ndarray]) -> None:
    weights["lm_head.weight"] = np.zeros((11, 8), np.int8)


def _overflow(weights: dict[str, np.ndarray]) -> None:
    weights["model.norm.weight"] = np.full(8, np.inf, np.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop, r"tensor model.layers.1.block_sparse_moe.experts.2.w3.weight is missing, expected shape \(6, 8\)"),
        (_reshape, r"tensor model.layers.0.self_attn.k_proj.weight has shape \(8, 8\), expected \(4, 8\)"),
        (_extra, r"tensor model.layers.0.self_attn.q_proj.bias is not part of a MixtralForCausalLM; .* of biases"),
        (_integers, r"tensor lm_head.weight has type I8, expected F32, F16 or BF16"),
        (_overflow, r"tensor model.norm.weight holds infinities or NaNs"),
    ],
)
def test_tensor_errors(tmp_path: Path, change: Callable[[dict[str, np.ndarray]], None], message: str) -> None:
    weights = tensors()
    change(weights)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(write(tmp_path, weights))
    assert "\n" not in str(caught.value)


def test_truncated_file(tmp_path: Path) -> None:
    file = write(tmp_path, tensors()) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match=r"model.safetensors: not a readable safetensors file"):
        read_checkpoint(tmp_path)


def test_only_headers_are_read_before_the_shapes_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of the wrong size is refused without reading a weight, however large it is said to be."""
    monkeypatch.setattr(np, "fromfile", lambda *_, **__: pytest.fail("a tensor was read"))
    for field, said, message in (
        (
            "num_hidden_layers",
            4000,
            r"num_hidden_layers in config.json is 4000, but the tensor files hold 2 layers",
        ),
        ("num_hidden_layers", 1, r"num_hidden_layers in config.json is 1, but the tensor files hold 2 layers"),
        ("num_local_experts", 10**9, r"num_local_experts in config.json is 1000000000, but .* hold 3 experts"),
        ("num_local_experts", 2, r"num_local_experts in config.json is 2, but .* hold 3 experts"),
        (
            "vocab_size",
            10**9,
            r"embed_tokens.weight has shape \(11, 8\), expected \(1000000000, 8\).*compare vocab_size",
        ),
        ("intermediate_size", 10**9, r"w1.weight has shape \(6, 8\), .*\(compare intermediate_size, hidden_size\)"),
        ("num_key_value_heads", 4, r"k_proj.weight has shape \(4, 8\), .*\(compare num_key_value_heads, head_dim"),
    ):
        with pytest.raises(CheckpointError, match=message):
            read_checkpoint(write(tmp_path, tensors(), **{field: said}))


def test_inverse_frequencies_of_old_checkpoints_are_ignored(tmp_path: Path) -> None:
    weights = tensors() | {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(1, np.float32)}
    read_checkpoint(write(tmp_path, weights))


def test_demo_model_has_the_shape_that_the_hardware_is_sized_for() -> None:
    model = read_checkpoint(DEMO)
    shape = model.description
    layer = Layer(
        attention=GroupedAttention(heads=4, kv_heads=2, head_dim=32),
        mlp=Experts(count=16, chosen=2, intermediate=128),
    )  # fmt: skip
    assert (shape.vocabulary, shape.hidden, shape.context) == (256, 128, 512)
    assert shape.layers == (layer,) * 4
    assert model.description.parameters == 3_417_216
    assert (DEMO / "model.safetensors").stat().st_size < 8_000_000
