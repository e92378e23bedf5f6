# SPDX-License-Identifier: Apache-2.0
"""DeepSeek-V2, its shape only: latent attention, shared experts, leading dense layers, routing in groups."""

from __future__ import annotations

from types import MappingProxyType

from scheduler.models.config_reader import ConfigReader
from scheduler.models.description import DenseMlp, LatentAttention, Layer, Model, Router
from scheduler.models.family import Family, Related, SizeKeys

__all__ = ["FAMILY", "LATENT_HARMLESS", "LATENT_KEYS", "LATENT_RELATED", "expert_groups", "latent_layers"]

LATENT_KEYS = frozenset({
    "first_k_dense_replace", "intermediate_size", "kv_lora_rank", "moe_intermediate_size", "n_group",
    "n_routed_experts", "n_shared_experts", "norm_topk_prob", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim",
    "routed_scaling_factor", "topk_group", "topk_method", "v_head_dim",
})  # fmt: skip
"""Keys that describe the shape of a DeepSeek of either version."""

LATENT_HARMLESS = frozenset({"auto_map", "ep_size", "quantization_config"})
"""Keys that do not change it."""


def _latent(model: Model) -> LatentAttention:
    attention = model.layers[0].attention
    assert isinstance(attention, LatentAttention)
    return attention


LATENT_RELATED: Related = MappingProxyType({
    "head_dim": lambda m: _latent(m).rope_dim,  # as transformers saves it: the width that is rotated
    "qk_head_dim": lambda m: _latent(m).plain_dim + _latent(m).rope_dim,
})  # fmt: skip
"""Keys that repeat what others say."""


def latent_layers(config: ConfigReader, router: Router) -> list[Layer]:
    """Return the layers of a DeepSeek of either version."""
    if config.get("num_key_value_heads") not in (None, config.count("num_attention_heads")):
        config.wrong("num_key_value_heads", f"null or num_attention_heads {config.get('num_attention_heads')}")
    if config.count("qk_rope_head_dim") % 2:
        config.wrong("qk_rope_head_dim", "an even number (RoPE rotates pairs)")
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
    if first > config.layers:
        config.wrong("first_k_dense_replace", f"at most num_hidden_layers {config.layers}")
    dense = DenseMlp(intermediate=config.count(config.family.keys.dense)) if first else None
    return [
        Layer(attention=attention, mlp=dense if dense is not None and number < first else experts)
        for number in range(config.layers)
    ]


def expert_groups(config: ConfigReader) -> tuple[int, int]:
    """Return the groups of experts, and how many of them a token chooses from."""
    experts, groups, chosen = config.count("n_routed_experts"), config.count("n_group"), config.count("topk_group")
    if experts % groups:
        config.wrong("n_group", f"a divisor of n_routed_experts {experts}")
    if chosen > groups:
        config.wrong("topk_group", f"at most n_group {groups}")
    most = chosen * (experts // groups)
    if config.count("num_experts_per_tok") > most:
        config.wrong("num_experts_per_tok", f"at most {most}, the experts of topk_group {chosen} groups")
    return groups, chosen


def _describe(config: ConfigReader) -> Model:
    grouped = config.choice("topk_method", ("greedy", "group_limited_greedy")) != "greedy"
    groups, chosen = expert_groups(config) if grouped else (1, 1)
    router = Router(
        normalised=config.flag("norm_topk_prob"),
        scale=config.factor("routed_scaling_factor"),
        groups=groups,
        chosen_groups=chosen,
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
    related=LATENT_RELATED,
    scaled_rotation=True,
)
