# SPDX-License-Identifier: Apache-2.0
"""What a family of models declares: which keys of its ``config.json`` mean what, and how its tensors are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from scheduler.models.description import Experts, GroupedAttention, Model

if TYPE_CHECKING:
    from scheduler.models.config_reader import ConfigReader

__all__ = ["GROUPED_RELATED", "Family", "Related", "SizeKeys", "expert_width"]

Related = Mapping[str, Callable[[Model], float]]
"""Other names of what a model has, and the value that they must have."""


def _attention(model: Model) -> GroupedAttention:
    attention = model.layers[0].attention
    assert isinstance(attention, GroupedAttention)
    return attention


def expert_width(model: Model) -> int:
    """Return the intermediate width of an expert of the first layer that has some."""
    return next(layer.mlp.intermediate for layer in model.layers if isinstance(layer.mlp, Experts))


GROUPED_RELATED: Related = MappingProxyType({
    "rotary_dim": lambda m: _attention(m).head_dim,
    "v_head_dim": lambda m: _attention(m).head_dim,
    "kv_channels": lambda m: _attention(m).head_dim,
    "query_pre_attn_scalar": lambda m: _attention(m).head_dim,  # scores are divided by its root
    "attention_multiplier": lambda m: _attention(m).head_dim**-0.5,  # it replaces that division: 1 would not be it
    "layer_norm_eps": lambda m: m.norm_eps,
    "norm_eps": lambda m: m.norm_eps,
})  # fmt: skip
"""Those of a model with grouped attention."""


@dataclass(frozen=True, kw_only=True)
class SizeKeys:
    """Keys of ``config.json`` that families call differently.

    Attributes
    ----------
    experts : str
        Number of routed experts.
    intermediate : str
        Width of an expert.
    dense : str
        Width of the MLP of a layer without experts; empty: there are no such layers.
    """

    experts: str
    intermediate: str
    dense: str = ""


def _empty() -> Mapping[str, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of models.

    Attributes
    ----------
    model_type, architecture : str
        What its ``config.json`` says.
    title : str
        Its name in sentences.
    keys : SizeKeys
    describe : callable
        Makes a `Model` of a ``config.json``.
    used, harmless : frozenset of str
        Keys that `describe` reads, and keys that change nothing, besides those that all families have.
    aliases : mapping of str to str
        Other names of keys; where both are there, they must agree.
    plain : mapping of str to tuple
        Keys with the values, besides null, that change nothing.
    related : mapping of str to callable
        Keys that repeat what others say.
    theta : float
        Base of the rotary frequencies where ``config.json`` gives none.
    kv_heads : int
        Key/value heads where ``config.json`` has no such key; 0: as many as heads.
    scaled_rotation : bool
        Scaled rotary embeddings are let through: the model is planned and timed only.
    blocks : tuple of str
        What tensor files call the MLP of a layer; the first is usual.
    matrices : tuple of three str
        What they usually call an expert's gate, down and up projection.
    """

    model_type: str
    architecture: str
    title: str
    keys: SizeKeys
    describe: Callable[[ConfigReader], Model]
    used: frozenset[str] = frozenset()
    harmless: frozenset[str] = frozenset()
    aliases: Mapping[str, str] = field(default_factory=_empty)
    plain: Mapping[str, tuple[Any, ...]] = field(default_factory=_empty)
    related: Related = field(default_factory=lambda: GROUPED_RELATED)
    theta: float = 10_000.0
    kv_heads: int = 0
    scaled_rotation: bool = False
    blocks: tuple[str, ...] = ("mlp",)
    matrices: tuple[str, str, str] = ("gate_proj", "down_proj", "up_proj")
