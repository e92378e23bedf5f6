# SPDX-License-Identifier: Apache-2.0
"""Layouts of checkpoints: the ways in which tools name and stack the same weights, and what is refused by its kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from scheduler.models.checkpoint import Checkpoint, CheckpointError, read_checkpoint
from tests.scheduler.models.test_checkpoint import CONFIG, tensors

Weights = dict[str, np.ndarray]


def read(folder: Path, weights: Weights, **changes: object) -> Checkpoint:
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    save_file({name: np.ascontiguousarray(w) for name, w in weights.items()}, folder / "model.safetensors")
    return read_checkpoint(folder)


def fused(weights: Weights, block: str = "mlp") -> Weights:
    """Return the layout of transformers 5, whose gate and up projections lie one after the other."""
    result = {
        name.replace("block_sparse_moe", block): w for name, w in weights.items() if ".experts." not in name
    }  # fmt: skip
    for layer in (0, 1):
        own = f"model.layers.{layer}.block_sparse_moe.experts."
        stacks = [np.stack([weights[f"{own}{e}.{m}.weight"] for e in range(3)]) for m in ("w1", "w2", "w3")]
        result[f"model.layers.{layer}.{block}.experts.gate_up_proj"] = np.concatenate([stacks[0], stacks[2]], axis=1)
        result[f"model.layers.{layer}.{block}.experts.down_proj"] = stacks[1]
    return result


def renamed(*pairs: tuple[str, str]) -> Callable[[Weights], Weights]:
    def rename(weights: Weights) -> Weights:
        result = {}
        for name, w in weights.items():
            for old, new in pairs:
                name = name.replace(old, new)
            result[name] = w
        return result

    return rename


LAYOUTS: dict[str, Callable[[Weights], Weights]] = {
    "transformers 5": fused,
    "fused, old block name": lambda w: fused(w, "block_sparse_moe"),
    "fused, with .weight": lambda w: renamed(("_up_proj", "_up_proj.weight"), ("down_proj", "down_proj.weight"))(
        fused(w)
    ),
    "mlp": renamed(("block_sparse_moe", "mlp")),
    "named projections": renamed((".w1.", ".gate_proj."), (".w2.", ".down_proj."), (".w3.", ".up_proj.")),
    "no prefix": renamed(("model.", "")),
    "no prefix, fused": lambda w: renamed(("model.", ""))(fused(w)),
    "wrapped": renamed(("model.", "language_model.model."), ("lm_head", "language_model.lm_head")),
    "wrapped outside": renamed(("model.", "model.language_model."),),
    "compiled": renamed(("model.", "_orig_mod.model."), ("lm_head", "_orig_mod.lm_head")),
    "rotation tables": lambda w: w | {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(1, np.float32)},
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_the_same_weights_in_every_layout(tmp_path: Path, layout: Callable[[Weights], Weights]) -> None:
    weights = tensors()
    usual, other = read(tmp_path, weights), read(tmp_path, layout(weights))
    for name in ("embed", "norm", "lm_head"):
        np.testing.assert_array_equal(getattr(other, name), getattr(usual, name))
    for one, two in zip(usual.layers, other.layers, strict=True):
        for name, expected in vars(one).items():
            np.testing.assert_array_equal(getattr(two, name), expected, err_msg=name)
            assert not getattr(two, name).flags.writeable


def with_extra(name: str, *shape: int) -> Callable[[Weights], Weights]:
    return lambda w: w | {name: np.zeros(shape, np.float32)}


REFUSED: dict[str, tuple[Callable[[Weights], Weights], str]] = {
    "scales": (
        with_extra("model.layers.0.self_attn.k_scale", 1),
        r"k_scale is not part of a MixtralForCausalLM; such names are of the numbers of a quantisation: dequantise",
    ),
    "GPTQ": (with_extra("model.layers.0.self_attn.q_proj.qweight", 1), "qweight is not part .*: dequantise"),
    "blocks": (
        with_extra("model.layers.0.block_sparse_moe.experts.0.w1.weight_scale_inv", 1),
        "weight_scale_inv .*: dequantise",
    ),
    "bias": (with_extra("model.layers.1.self_attn.k_proj.bias", 4), "k_proj.bias .* such names are of biases"),
    "norms": (with_extra("model.layers.0.self_attn.q_norm.weight", 2), "q_norm.weight .* such names are of norms"),
    "adapter": (with_extra("model.layers.0.self_attn.q_proj.lora_A.weight", 2), "lora_A.* merge it into the model"),
    "shared": (with_extra("model.layers.0.mlp.shared_expert.up_proj.weight", 2), "shared_expert.* of dense or shared"),
    "classifier": (with_extra("score.weight", 2, 8), "score.weight is .* of a classifier's head"),
    "several": (
        lambda w: with_extra("model.a", 1)(with_extra("model.b", 1)(w)),
        r"model.a is not part of a MixtralForCausalLM \(nor are 1 others\)",
    ),
    "both layouts": (lambda w: fused(w, "block_sparse_moe") | w, "experts.0.w1.weight is not part of a Mixtral"),
    "twice": (lambda w: w | renamed(("block_sparse_moe", "mlp"))(w), "tensor .* holds what .* holds too; save"),
    "two models": (
        lambda w: w | renamed(("model.", "draft."))(w),
        r"has several embeddings \(.*draft.embed_tokens.weight.*\); save the language model alone",
    ),
    "Mistral's own": (
        lambda w: {"tok_embeddings.weight": w["lm_head.weight"], "layers.0.attention.wq.weight": np.zeros((8, 8))},
        r"the tensors \(.*tok_embeddings.weight\) are not named as those of a MixtralForCausalLM \(model.embed_tokens",
    ),
    "empty": (lambda w: {}, r"the tensors \(none\) are not named"),
    "no embedding": (
        lambda w: {k: v for k, v in w.items() if "embed" not in k},
        "tensor model.embed_tokens.weight is missing, expected shape .11, 8.",
    ),
    "no first layer": (
        lambda w: {k: v for k, v in w.items() if ".layers.0." not in k},
        "tensor model.layers.0.input_layernorm.weight is missing",
    ),
    "no experts": (
        lambda w: {k: v for k, v in w.items() if ".experts." not in k},
        "num_local_experts in config.json is 3, but the tensor files hold 0 experts",
    ),
    "transposed stacks": (
        lambda w: {k: v.transpose(0, 2, 1) if ".experts." in k else v for k, v in fused(w).items()},
        r"down_proj has shape \(3, 6, 8\), expected \(3, 8, 6\)|gate_up_proj has shape \(3, 8, 12\), expected",
    ),
    "a leading zero": (
        lambda w: renamed((".layers.1.", ".layers.01."))(w),
        "layers.01..* is not part of a MixtralForCausalLM",
    ),
}


@pytest.mark.parametrize(("layout", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_understood_is_named(tmp_path: Path, layout: Callable[[Weights], Weights], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        read(tmp_path, layout(tensors()))
    assert "\n" not in str(caught.value)


def test_fused_experts_of_another_number(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"gate.weight has shape \(3, 8\).*compare num_local_experts, hidden_size"
    ):
        read(tmp_path, fused(tensors()), num_local_experts=4)
    with pytest.raises(CheckpointError, match=r"gate_up_proj has shape \(3, 12, 8\), expected \(3, 14, 8\)"):
        read(tmp_path, fused(tensors()), intermediate_size=7)
