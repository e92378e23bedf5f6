# SPDX-License-Identifier: Apache-2.0
"""gpt-oss, its shape only: sliding windows in every second layer, attention sinks, biases, a clamped SwiGLU."""

from __future__ import annotations

from types import MappingProxyType

from scheduler.models.config_reader import ConfigReader
from scheduler.models.description import Activation, Experts, Layer, Model, Router
from scheduler.models.family import GROUPED_RELATED, Family, SizeKeys

__all__ = ["FAMILY"]

_SLIDING, _FULL = "sliding_attention", "full_attention"


def _describe(config: ConfigReader) -> Model:
    window = config.count("sliding_window")
    plain = config.experts(router=Router(bias=True))
    mlp = Experts(
        count=plain.count, chosen=plain.chosen, intermediate=plain.intermediate, router=plain.router,
        activation=Activation.CLAMPED_SWIGLU, bias=True,
    )  # fmt: skip
    attention = {
        kind: config.grouped_attention(window=width, sinks=True, bias=True)
        for kind, width in ((_SLIDING, window), (_FULL, None))
    }
    return config.model(
        [Layer(attention=attention[kind], mlp=mlp) for kind in _layer_types(config)],
        missing="attention sinks, sliding windows, biases, the clamped SwiGLU and scaled rotary embeddings",
    )


def _layer_types(config: ConfigReader) -> list[str]:
    types = config.get("layer_types")
    if types is None:
        return [_FULL if number % 2 else _SLIDING for number in range(config.layers)]
    if not isinstance(types, list) or len(types) != config.layers or any(t not in (_SLIDING, _FULL) for t in types):
        config.wrong("layer_types", f"null or {_SLIDING} or {_FULL} for each of {config.layers} layers")
    return types


FAMILY = Family(
    model_type="gpt_oss",
    architecture="GptOssForCausalLM",
    title="gpt-oss",
    keys=SizeKeys(experts="num_local_experts", intermediate="intermediate_size"),
    describe=_describe,
    used=frozenset({"head_dim", "intermediate_size", "layer_types", "num_local_experts", "sliding_window"}),
    harmless=frozenset({"initial_context_length", "quantization_config"}),
    aliases=MappingProxyType({"num_experts": "num_local_experts", "experts_per_token": "num_experts_per_tok"}),
    plain=MappingProxyType({"attention_bias": (True,), "swiglu_limit": (7.0,), "swiglu_alpha": (1.702,)}),
    related=GROUPED_RELATED,
    theta=150_000.0,
    kv_heads=8,
    scaled_rotation=True,
)
