# SPDX-License-Identifier: Apache-2.0
"""DeepSeek-V2, its shape only: latent attention, shared experts, leading dense layers, routing in groups."""

from __future__ import annotations

from types import MappingProxyType

from scheduler.models.config_reader import ConfigReader
from scheduler.models.description import DenseMlp, LatentAttention, Layer, Model, Router
from scheduler.models.family import Family, SizeKeys

__all__ = ["FAMILY", "LATENT_HARMLESS", "LATENT_KEYS", "latent_layers"]

LATENT_KEYS = frozenset({
    "first_k_dense_replace", "intermediate_size", "kv_lora_rank", "moe_intermediate_size", "n_group",
    "n_routed_experts", "n_shared_experts", "norm_topk_prob", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim",
    "routed_scaling_factor", "topk_group", "topk_method", "v_head_dim",
})  # fmt: skip
"""Keys that describe the shape of a DeepSeek of either version."""

LATENT_HARMLESS = frozenset({"auto_map", "ep_size", "quantization_config"})
"""Keys that do not change it."""


def latent_layers(config: ConfigReader, router: Router) -> list[Layer]:
    """Return the layers of a DeepSeek of either version."""
    if config.get("num_key_value_heads") not in (None, config.count("num_attention_heads")):
        config.wrong("num_key_value_heads", f"null or num_attention_heads {config.get('num_attention_heads')}")
    attention = LatentAttention(
        heads=config.count("num_attention_heads"),
        query_rank=config.natural("q_lora_rank", 0),
        kv_rank=config.count("kv_lora_rank"),
        plain_dim=config.count("qk_nope_head_dim"),
        rope_dim=config.count("qk_rope_head_dim"),
        value_dim=config.count("v_head_dim"),
    )
    width = config.count(config.family.keys.intermediate)
    experts = config.experts(router=router, shared=config.natural("n_shared_experts", 0) * width)
    first = config.natural("first_k_dense_replace", 0)
    dense = DenseMlp(intermediate=config.count(config.family.keys.dense)) if first else None
    return [
        Layer(attention=attention, mlp=dense if dense is not None and number < first else experts)
        for number in range(config.layers)
    ]


def _describe(config: ConfigReader) -> Model:
    grouped = config.choice("topk_method", ("greedy", "group_limited_greedy")) != "greedy"
    router = Router(
        normalised=config.flag("norm_topk_prob"),
        scale=config.factor("routed_scaling_factor"),
        groups=config.count("n_group") if grouped else 1,
        chosen_groups=config.count("topk_group") if grouped else 1,
    )
    return config.model(
        latent_layers(config, router),
        missing="latent attention, routing in groups and scaled rotary embeddings",
    )


FAMILY = Family(
    model_type="deepseek_v2",
    architecture="DeepseekV2ForCausalLM",
    title="DeepSeek-V2",
    keys=SizeKeys(experts="n_routed_experts", intermediate="moe_intermediate_size", dense="intermediate_size"),
    describe=_describe,
    used=LATENT_KEYS,
    harmless=LATENT_HARMLESS,
    related=MappingProxyType({}),
    scaled_rotation=True,
)
