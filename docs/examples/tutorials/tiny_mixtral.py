# SPDX-License-Identifier: Apache-2.0
"""Writes a model directory as Hugging Face tools do: a Mixtral of random weights that is small enough for ``nano``.

    python docs/examples/tutorials/tiny_mixtral.py DIR

DIR gets ``config.json``, ``model.safetensors`` (float32) and ``heldout.txt``, a text for the static ranges.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

HIDDEN, INNER, LAYERS, HEADS, KV_HEADS, HEAD_DIM, EXPERTS, CHOSEN, VOCABULARY = 16, 8, 2, 2, 1, 8, 4, 2, 128

CONFIG = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "hidden_act": "silu",
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "num_local_experts": EXPERTS,
    "num_experts_per_tok": CHOSEN,
    "max_position_embeddings": 32,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "eos_token_id": [],
}


def tensors() -> dict[str, npt.NDArray[np.float32]]:
    """Return random tensors by the names that transformers gives them."""
    rng = np.random.default_rng(5)

    def matrix(rows: int, columns: int) -> npt.NDArray[np.float32]:
        return (rng.normal(size=(rows, columns)) * 1.5 / np.sqrt(columns)).astype(np.float32)

    def norm() -> npt.NDArray[np.float32]:
        return rng.uniform(0.5, 1.5, HIDDEN).astype(np.float32)

    made = {
        "model.embed_tokens.weight": matrix(VOCABULARY, HIDDEN),
        "model.norm.weight": norm(),
        "lm_head.weight": matrix(VOCABULARY, HIDDEN),
    }
    for number in range(LAYERS):
        layer = f"model.layers.{number}"
        attention, block = f"{layer}.self_attn", f"{layer}.block_sparse_moe"
        made |= {
            f"{layer}.input_layernorm.weight": norm(),
            f"{attention}.q_proj.weight": matrix(HEADS * HEAD_DIM, HIDDEN),
            f"{attention}.k_proj.weight": matrix(KV_HEADS * HEAD_DIM, HIDDEN),
            f"{attention}.v_proj.weight": matrix(KV_HEADS * HEAD_DIM, HIDDEN),
            f"{attention}.o_proj.weight": matrix(HIDDEN, HEADS * HEAD_DIM),
            f"{layer}.post_attention_layernorm.weight": norm(),
            f"{block}.gate.weight": matrix(EXPERTS, HIDDEN),
        }
        for expert in range(EXPERTS):
            for name, shape in (("w1", (INNER, HIDDEN)), ("w2", (HIDDEN, INNER)), ("w3", (INNER, HIDDEN))):
                made[f"{block}.experts.{expert}.{name}.weight"] = matrix(*shape)
    return made


def main(folder: Path) -> None:
    """Write the directory."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    header: dict[str, object] = {}
    data = b""
    for name, tensor in tensors().items():
        own = tensor.astype("<f4").tobytes()
        header[name] = {
            "dtype": "F32", "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(own)]
        }  # fmt: skip
        data += own
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    letters = np.random.default_rng(2).integers(32, 127, 1000).astype(np.uint8)
    (folder / "heldout.txt").write_bytes(letters.tobytes())
    print(f"{len(header)} tensors, {len(data):,} bytes of weights in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
