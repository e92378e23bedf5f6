# SPDX-License-Identifier: Apache-2.0
"""OLMoE: all query heads are normed together, and all key heads; gates are a softmax over all experts."""

from __future__ import annotations

from types import MappingProxyType

from scheduler.models.config_reader import ConfigReader
from scheduler.models.description import Layer, Model, QkNorm, Router
from scheduler.models.family import GROUPED_RELATED, Family, SizeKeys, expert_width

__all__ = ["FAMILY"]


def _describe(config: ConfigReader) -> Model:
    attention = config.grouped_attention(qk_norm=QkNorm.WHOLE)
    if attention.heads * attention.head_dim != config.hidden:
        config.wrong("head_dim", f"null or hidden_size / num_attention_heads, {config.hidden // attention.heads}")
    config.require_full_attention()
    layer = Layer(attention=attention, mlp=config.experts(router=Router(normalised=config.flag("norm_topk_prob"))))
    return config.model([layer] * config.layers)


FAMILY = Family(
    model_type="olmoe",
    architecture="OlmoeForCausalLM",
    title="OLMoE",
    keys=SizeKeys(experts="num_experts", intermediate="intermediate_size"),
    describe=_describe,
    used=frozenset({"head_dim", "intermediate_size", "layer_types", "norm_topk_prob", "num_experts", "sliding_window"}),
    aliases=MappingProxyType({"num_local_experts": "num_experts"}),
    plain=MappingProxyType({"use_qk_norm": (True,), "qk_norm": (True,), "qk_layernorm": (True,)}),
    related=MappingProxyType({**GROUPED_RELATED, "moe_intermediate_size": expert_width}),
)
