# SPDX-License-Identifier: Apache-2.0
"""A small random model, and its directory with text beside it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from scheduler.models.checkpoint import Checkpoint, MixtralConfig
from scheduler.models.random_checkpoint import random_checkpoint

SHAPE = MixtralConfig(
    vocab_size=128, hidden_size=32, intermediate_size=16, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, num_local_experts=4, num_experts_per_tok=2, max_position_embeddings=64,
    rms_norm_eps=1e-5, rope_theta=10_000.0,
)  # fmt: skip
CHECKPOINT = random_checkpoint(SHAPE, seed=5)


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a model directory with text beside it."""
    c = checkpoint.config
    folder.mkdir()
    fields = {**vars(c), "architectures": ["MixtralForCausalLM"], "model_type": "mixtral"}
    (folder / "config.json").write_text(json.dumps(fields))
    tensors = {
        "model.embed_tokens.weight": checkpoint.embed, "model.norm.weight": checkpoint.norm,
        "lm_head.weight": checkpoint.lm_head,
    }  # fmt: skip
    for number, layer in enumerate(checkpoint.layers):
        base = f"model.layers.{number}"
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            tensors[f"{base}.self_attn.{name}.weight"] = getattr(layer, name)
        tensors[f"{base}.input_layernorm.weight"] = layer.input_norm
        tensors[f"{base}.post_attention_layernorm.weight"] = layer.post_attention_norm
        tensors[f"{base}.block_sparse_moe.gate.weight"] = layer.router
        for expert in range(c.num_local_experts):
            for name in ("w1", "w2", "w3"):
                weight = getattr(layer, name)[expert]
                tensors[f"{base}.block_sparse_moe.experts.{expert}.{name}.weight"] = weight
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, folder / "model.safetensors")
    (folder / "heldout.txt").write_bytes(np.random.default_rng(2).integers(32, 127, 1000).astype(np.uint8).tobytes())
