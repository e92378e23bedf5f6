# SPDX-License-Identifier: Apache-2.0
"""Mixtral: plain grouped-query attention; a softmax over the chosen experts of every layer."""

from __future__ import annotations

from types import MappingProxyType

from scheduler.models.config_reader import ConfigReader
from scheduler.models.description import Layer, Model
from scheduler.models.family import GROUPED_RELATED, Family, SizeKeys, expert_width

__all__ = ["FAMILY"]


def _describe(config: ConfigReader) -> Model:
    layer = Layer(attention=config.grouped_attention(), mlp=config.experts())
    config.require_full_attention()
    return config.model([layer] * config.layers)


FAMILY = Family(
    model_type="mixtral",
    architecture="MixtralForCausalLM",
    title="Mixtral",
    keys=SizeKeys(experts="num_local_experts", intermediate="intermediate_size"),
    describe=_describe,
    used=frozenset({"head_dim", "intermediate_size", "layer_types", "num_local_experts", "sliding_window"}),
    aliases=MappingProxyType({"num_experts": "num_local_experts"}),
    related=MappingProxyType({**GROUPED_RELATED, "moe_intermediate_size": expert_width}),
    theta=1e6,
    kv_heads=8,
    blocks=("block_sparse_moe", "mlp"),
    matrices=("w1", "w2", "w3"),
)
