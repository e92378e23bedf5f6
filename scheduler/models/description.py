# SPDX-License-Identifier: Apache-2.0
"""What a decoder-only mixture-of-experts model is made of, whatever family it belongs to and whatever machine runs it.

A family (:mod:`scheduler.models.families`) turns a ``config.json`` into a :class:`Model`: layers built from the blocks
of this file. The graph of operations, the planner and the emitter know the blocks and no family. Widths are the
published ones, in elements; padding to a machine's rows and columns is the planner's.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from hdl.errors import A3dError

__all__ = [
    "Activation",
    "Attention",
    "DenseMlp",
    "Experts",
    "GroupedAttention",
    "LatentAttention",
    "Layer",
    "Mlp",
    "Model",
    "QkNorm",
    "Router",
    "Scoring",
]


class QkNorm(Enum):
    """RMSNorm of queries and keys before the rotation."""

    NONE = "none"
    HEAD = "head"
    """Each head by itself, the weights shared by the heads (Qwen3-MoE)."""
    WHOLE = "whole"
    """All heads of a token together, a weight for each channel (OLMoE)."""


class Scoring(Enum):
    """How router logits become scores."""

    SOFTMAX = "softmax"
    SIGMOID = "sigmoid"


class Activation(Enum):
    """What an MLP does with its gate and up projections."""

    SWIGLU = "swiglu"
    CLAMPED_SWIGLU = "clamped_swiglu"
    """gpt-oss: ``g = min(gate, limit)``, ``u = clamp(up, -limit, limit)``, ``g * sigmoid(1.702 g) * (u + 1)``."""


@dataclass(frozen=True, kw_only=True)
class GroupedAttention:
    """Attention whose query heads share key/value heads.

    Attributes
    ----------
    heads, kv_heads, head_dim : int
        `heads` is a multiple of `kv_heads`. All 0: there is none, in a layer of experts alone.
    qk_norm : QkNorm
    window : int or None
        Keys that a query sees, its own included; None: all before it.
    sinks : bool
        A learned logit for each head takes part in the softmax.
    bias : bool
        All four projections have biases.
    """

    heads: int
    kv_heads: int
    head_dim: int
    qk_norm: QkNorm = QkNorm.NONE
    window: int | None = None
    sinks: bool = False
    bias: bool = False

    def parameters(self, hidden: int) -> int:
        """Return the number of weights."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        count = hidden * (queries + 2 * keys) + queries * hidden
        count += {QkNorm.NONE: 0, QkNorm.HEAD: 2 * self.head_dim, QkNorm.WHOLE: queries + keys}[self.qk_norm]
        count += (queries + 2 * keys + hidden) if self.bias else 0
        return count + (self.heads if self.sinks else 0)


@dataclass(frozen=True, kw_only=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2): one latent vector and one rotated key for all heads are cached.

    Attributes
    ----------
    heads : int
    query_rank : int
        Width of the latent vector of queries; 0: queries are projected directly.
    kv_rank : int
        Width of the latent vector of keys and values.
    plain_dim, rope_dim, value_dim : int
        Widths of a head's key without and with rotation, and of its value.
    """

    heads: int
    query_rank: int
    kv_rank: int
    plain_dim: int
    rope_dim: int
    value_dim: int

    def parameters(self, hidden: int) -> int:
        """Return the number of weights."""
        head = self.plain_dim + self.rope_dim
        if self.query_rank:
            queries = hidden * self.query_rank + self.query_rank + self.query_rank * self.heads * head
        else:
            queries = hidden * self.heads * head
        latent = hidden * (self.kv_rank + self.rope_dim) + self.kv_rank
        up = self.kv_rank * self.heads * (self.plain_dim + self.value_dim)
        return queries + latent + up + self.heads * self.value_dim * hidden


@dataclass(frozen=True, kw_only=True)
class Router:
    """How tokens choose experts.

    Attributes
    ----------
    scoring : Scoring
    normalised : bool
        The chosen scores are divided by their sum (a softmax over the chosen logits is the same as one over all that
        is normalised afterwards).
    scale : float
        Factor of the chosen scores.
    groups, chosen_groups : int
        Experts compete within the best `chosen_groups` of `groups` groups; 1 and 1: all with all.
    correction : bool
        A bias for each expert is added for the choice, not for the score.
    bias : bool
        The router's matrix has a bias.
    """

    scoring: Scoring = Scoring.SOFTMAX
    normalised: bool = True
    scale: float = 1.0
    groups: int = 1
    chosen_groups: int = 1
    correction: bool = False
    bias: bool = False


@dataclass(frozen=True, kw_only=True)
class Experts:
    """A mixture of experts, each a gated MLP.

    Attributes
    ----------
    count, chosen, intermediate : int
        `chosen` of `count` routed experts run for a token.
    shared : int
        Intermediate width of the experts that every token uses, all together; 0: none.
    router : Router
    activation : Activation
    bias : bool
        Gate, up and down projections have biases.
    """

    count: int
    chosen: int
    intermediate: int
    shared: int = 0
    router: Router = Router()
    activation: Activation = Activation.SWIGLU
    bias: bool = False

    def parameters(self, hidden: int, used: int | None = None) -> int:
        """Return the number of weights with `used` of the routed experts (default: all)."""
        used = self.count if used is None else used
        expert = 3 * hidden * self.intermediate + ((2 * self.intermediate + hidden) if self.bias else 0)
        router = self.count * hidden + (self.count if self.router.bias or self.router.correction else 0)
        return used * expert + router + 3 * hidden * self.shared


@dataclass(frozen=True, kw_only=True)
class DenseMlp:
    """A gated MLP that every token uses.

    Attributes
    ----------
    intermediate : int
    """

    intermediate: int

    def parameters(self, hidden: int, used: int | None = None) -> int:
        """Return the number of weights; all of them are used."""
        return 3 * hidden * self.intermediate


Attention = GroupedAttention | LatentAttention
Mlp = Experts | DenseMlp


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One decoder layer: norm, attention, residual, norm, MLP, residual."""

    attention: Attention
    mlp: Mlp

    def parameters(self, hidden: int, active: bool = False) -> int:
        """Return the number of weights, or of those that one token uses."""
        used = self.mlp.chosen if active and isinstance(self.mlp, Experts) else None
        return 2 * hidden + self.attention.parameters(hidden) + self.mlp.parameters(hidden, used)


@dataclass(frozen=True, kw_only=True)
class Model:
    """A decoder-only language model.

    Attributes
    ----------
    family : str
        ``model_type`` of its ``config.json``.
    name : str
        What it is called in messages and reports.
    hidden, vocabulary, context : int
        Width of the residual, tokens, longest sequence.
    layers : tuple of Layer
    tied : bool
        The head is the embedding.
    norm_eps : float
        Added to the mean square in every RMSNorm.
    rope_theta : float
        Base of the rotary frequencies.
    end_tokens : tuple of int
        Tokens that end a text.
    missing : str
        What of its arithmetic is not implemented; empty: nothing, it runs bit for bit. With something missing it can
        be planned and timed, on streams without weights.
    """

    family: str
    name: str
    hidden: int
    vocabulary: int
    context: int
    layers: tuple[Layer, ...]
    tied: bool = False
    norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    end_tokens: tuple[int, ...] = ()
    missing: str = ""

    @cached_property
    def parameters(self) -> int:
        """Number of weights, tied ones counted once."""
        own = sum(layer.parameters(self.hidden) for layer in self.layers) + self.hidden
        return own + self.vocabulary * self.hidden * (1 if self.tied else 2)

    @cached_property
    def active_parameters(self) -> int:
        """Number of weights that one token uses, embedding and head as in `parameters` (the published way)."""
        own = sum(layer.parameters(self.hidden, active=True) for layer in self.layers) + self.hidden
        return own + self.vocabulary * self.hidden * (1 if self.tied else 2)

    def require_complete(self) -> None:
        """Refuse a model that can be planned and timed only.

        Raises
        ------
        A3dError
            Something of its arithmetic is missing.
        """
        if self.missing:
            raise A3dError(
                f"{self.name}: {self.family} can be planned and timed only, on streams without weights: not "
                f"implemented are {self.missing}"
            )

    @cached_property
    def attention(self) -> GroupedAttention:
        """Attention of every layer, in a model whose layers all have the same grouped attention.

        Raises
        ------
        A3dError
            The model is not complete.
        """
        self.require_complete()
        kinds = {layer.attention for layer in self.layers}
        (only,) = kinds
        assert isinstance(only, GroupedAttention)
        return only
