# SPDX-License-Identifier: Apache-2.0
"""Small models of the complete families, and directories of them as other people's tools write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from scheduler.models.checkpoint import Checkpoint
from scheduler.models.description import (
    DenseMlp,
    Experts,
    GroupedAttention,
    Layer,
    Mlp,
    Model,
    QkNorm,
    Router,
)
from scheduler.models.families.table import family_named

_NORM = {"mixtral": QkNorm.NONE, "qwen3_moe": QkNorm.HEAD, "olmoe": QkNorm.WHOLE}


def small_model(
    family: str, *, hidden: int = 24, heads: int = 6, kv_heads: int = 3, head_dim: int | None = None,
    normalised: bool | None = None, dense: tuple[int, ...] = (), tied: bool = False, layers: int = 2, experts: int = 5,
    chosen: int = 3, intermediate: int = 20, vocabulary: int = 50, context: int = 64,
) -> Model:  # fmt: skip
    """Return the shape of a small model of a complete family."""
    attention = GroupedAttention(
        heads=heads, kv_heads=kv_heads, head_dim=head_dim or hidden // heads, qk_norm=_NORM[family]
    )
    router = Router(normalised=family != "olmoe" if normalised is None else normalised)
    routed: Mlp = Experts(count=experts, chosen=chosen, intermediate=intermediate, router=router)
    plain = DenseMlp(intermediate=intermediate + 8)
    return Model(
        family=family, name=f"small {family}", hidden=hidden, vocabulary=vocabulary, context=context, tied=tied,
        layers=tuple(Layer(attention=attention, mlp=plain if n in dense else routed) for n in range(layers)),
        norm_eps=1e-5, rope_theta=777.0,
    )  # fmt: skip


def config_json(model: Model) -> dict[str, Any]:
    """Return the ``config.json`` of a model."""
    family, attention = family_named(model.family), model.attention
    routed = next(layer.mlp for layer in model.layers if isinstance(layer.mlp, Experts))
    fields: dict[str, Any] = {
        "architectures": [family.architecture], "model_type": model.family, "vocab_size": model.vocabulary,
        "hidden_size": model.hidden, "num_hidden_layers": len(model.layers), "num_attention_heads": attention.heads,
        "num_key_value_heads": attention.kv_heads, "head_dim": attention.head_dim,
        "max_position_embeddings": model.context, "rms_norm_eps": model.norm_eps, "rope_theta": model.rope_theta,
        "tie_word_embeddings": model.tied, "hidden_act": "silu", "eos_token_id": list(model.end_tokens),
        "num_experts_per_tok": routed.chosen, family.keys.experts: routed.count,
        family.keys.intermediate: routed.intermediate,
    }  # fmt: skip
    if "norm_topk_prob" in family.used:
        fields["norm_topk_prob"] = routed.router.normalised
    dense = {n: layer.mlp for n, layer in enumerate(model.layers) if isinstance(layer.mlp, DenseMlp)}
    if dense:
        fields["mlp_only_layers"] = list(dense)
        fields[family.keys.dense] = next(iter(dense.values())).intermediate
    return fields


def tensors_of(checkpoint: Checkpoint, *, fused: bool = False) -> dict[str, np.ndarray]:
    """Return the tensors of a model as transformers 4 names them, or with the fused experts of transformers 5."""
    model = checkpoint.description
    family = family_named(model.family)
    tensors = {"model.embed_tokens.weight": checkpoint.embed, "model.norm.weight": checkpoint.norm}
    if not model.tied:
        tensors["lm_head.weight"] = checkpoint.lm_head
    for number, layer in enumerate(checkpoint.layers):
        base = f"model.layers.{number}"
        block = f"{base}.{'mlp' if fused else family.blocks[0]}"
        for name in ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"):
            if getattr(layer, name) is not None:
                tensors[f"{base}.self_attn.{name}.weight"] = getattr(layer, name)
        tensors[f"{base}.input_layernorm.weight"] = layer.input_norm
        tensors[f"{base}.post_attention_layernorm.weight"] = layer.post_attention_norm
        if layer.common is not None:
            tensors |= {f"{block}.{name}_proj.weight": getattr(layer.common, name) for name in ("gate", "up", "down")}
            continue
        tensors[f"{block}.gate.weight"] = layer.router
        if fused:
            tensors[f"{block}.experts.gate_up_proj"] = np.concatenate([layer.w1, layer.w3], axis=1)
            tensors[f"{block}.experts.down_proj"] = np.asarray(layer.w2)
            continue
        for name, usual in zip(("w1", "w2", "w3"), family.matrices, strict=True):
            for expert, weight in enumerate(getattr(layer, name)):
                tensors[f"{block}.experts.{expert}.{usual}.weight"] = weight
    return tensors


def _encoded(array: np.ndarray, dtype: str) -> bytes:
    if dtype == "BF16":  # the upper half of a float32
        return (np.ascontiguousarray(array, dtype="<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return np.ascontiguousarray(array, dtype={"F32": "<f4", "F16": "<f2"}[dtype]).tobytes()


def write_safetensors(path: Path, tensors: dict[str, np.ndarray], dtype: str = "F32") -> None:
    """Write a safetensors file, whatever the type."""
    header: dict[str, object] = {}
    data = b""
    for name, array in tensors.items():
        own = _encoded(array, dtype)
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(own)]}
        data += own
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def write_model(
    folder: Path, checkpoint: Checkpoint, *, fused: bool = False, dtype: str = "F32", shards: int = 1, **changes: Any
) -> Path:
    """Write a model directory; `changes` are keys of ``config.json``."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_json(checkpoint.description) | changes))
    tensors = tensors_of(checkpoint, fused=fused)
    if shards == 1:
        write_safetensors(folder / "model.safetensors", tensors, dtype)
        return folder
    names = list(tensors)
    files = {name: f"model-{n % shards + 1:05}-of-{shards:05}.safetensors" for n, name in enumerate(names)}
    for file in set(files.values()):
        write_safetensors(folder / file, {name: tensors[name] for name in names if files[name] == file}, dtype)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    return folder
