# SPDX-License-Identifier: Apache-2.0
"""Qwen3-MoE: queries and keys are normed head by head; some layers may be dense."""

from __future__ import annotations

from types import MappingProxyType

from scheduler.models.config_reader import ConfigReader
from scheduler.models.description import DenseMlp, Layer, Mlp, Model, QkNorm, Router
from scheduler.models.family import Family, SizeKeys

__all__ = ["FAMILY"]


def _describe(config: ConfigReader) -> Model:
    attention = config.grouped_attention(qk_norm=QkNorm.HEAD)
    experts = config.experts(router=Router(normalised=config.flag("norm_topk_prob")))
    dense, step = _dense_layers(config), config.natural("decoder_sparse_step", 1)
    if step < 1:
        config.wrong("decoder_sparse_step", "null or a positive integer")

    def mlp(number: int) -> Mlp:
        if number in dense or (number + 1) % step:
            return DenseMlp(intermediate=config.count(config.family.keys.dense))
        return experts

    return config.model([Layer(attention=attention, mlp=mlp(number)) for number in range(config.layers)])


def _dense_layers(config: ConfigReader) -> set[int]:
    """Return the layers that are named as dense."""
    value = config.get("mlp_only_layers")
    named = [] if value is None else value
    if not isinstance(named, list) or not all(type(n) is int and 0 <= n < config.layers for n in named):
        config.wrong("mlp_only_layers", f"null or a list of layers from 0 to {config.layers - 1}")
    return set(named)


FAMILY = Family(
    model_type="qwen3_moe",
    architecture="Qwen3MoeForCausalLM",
    title="Qwen3-MoE",
    keys=SizeKeys(experts="num_experts", intermediate="moe_intermediate_size", dense="intermediate_size"),
    describe=_describe,
    used=frozenset(
        {
            "decoder_sparse_step",
            "head_dim",
            "intermediate_size",
            "mlp_only_layers",
            "moe_intermediate_size",
            "norm_topk_prob",
            "num_experts",
        }
    ),
    harmless=frozenset({"sliding_window"}),  # without use_sliding_window, which is refused
    aliases=MappingProxyType({"num_local_experts": "num_experts"}),
    plain=MappingProxyType({"use_qk_norm": (True,), "qk_norm": (True,), "qk_layernorm": (True,)}),
    kv_heads=4,
)
