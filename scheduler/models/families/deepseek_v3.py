# SPDX-License-Identifier: Apache-2.0
"""DeepSeek-V3, its shape only: a DeepSeek-V2 whose experts are chosen by sigmoids with a correction."""

from __future__ import annotations

from types import MappingProxyType

from scheduler.models.config_reader import ConfigReader
from scheduler.models.description import Model, Router, Scoring
from scheduler.models.families.deepseek_v2 import (
    LATENT_HARMLESS,
    LATENT_KEYS,
    LATENT_RELATED,
    expert_groups,
    latent_layers,
)
from scheduler.models.family import Family, SizeKeys

__all__ = ["FAMILY"]


def _describe(config: ConfigReader) -> Model:
    config.choice("topk_method", ("noaux_tc",))
    groups, chosen = expert_groups(config)
    router = Router(
        scoring=Scoring.SIGMOID,
        normalised=config.flag("norm_topk_prob", True),
        scale=config.factor("routed_scaling_factor"),
        groups=groups,
        chosen_groups=chosen,
        correction=True,
    )
    return config.model(
        latent_layers(config, router),
        missing="latent attention, sigmoid routing in groups, scaled rotary embeddings and multi-token prediction",
    )


FAMILY = Family(
    model_type="deepseek_v3",
    architecture="DeepseekV3ForCausalLM",
    title="DeepSeek-V3",
    keys=SizeKeys(experts="n_routed_experts", intermediate="moe_intermediate_size", dense="intermediate_size"),
    describe=_describe,
    used=LATENT_KEYS,
    harmless=LATENT_HARMLESS | {"num_nextn_predict_layers"},  # layers beyond num_hidden_layers
    plain=MappingProxyType({"scoring_func": ("sigmoid",), "rope_interleave": (True,)}),
    related=LATENT_RELATED,
    scaled_rotation=True,
)
