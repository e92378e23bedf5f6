# SPDX-License-Identifier: Apache-2.0
"""The numbers of a quantised model that instructions hold: shifts, multipliers, epsilons.

Weights and requantisation multipliers lie in memory; a stream has only these. A shape without weights has
:func:`placeholders`: legal values, so that its streams can be planned, verified and timed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hdl.errors import A3dError
from hdl.numerics.precision import ALL_FULL, Thresholds
from scheduler.models.description import Experts, LatentAttention, Model, QkNorm
from scheduler.models.quantised_model import AttentionHead, Norm, QuantisedModel

__all__ = ["Constants", "ExpertConstants", "HeadNorm", "LayerConstants", "constants_of", "placeholders"]


@dataclass(frozen=True)
class ExpertConstants:
    """Of a gated MLP: `shift`, `post_mult` and `post_shift` of its up GEMM, `shift` of its down GEMM."""

    up_shift: int
    post_mult: int
    post_shift: int
    down_shift: int


@dataclass(frozen=True)
class HeadNorm:
    """Of a norm of queries or keys with its weights: SUMSQ and SCALE, and `shift` of MUL."""

    norm: Norm
    shift: int


@dataclass(frozen=True)
class LayerConstants:
    """Of one decoder layer.

    Attributes
    ----------
    attention_norm, mlp_norm : Norm
    shifts : dict of str to int
        `shift` of the GEMM of each dense matrix, by its name.
    heads : tuple of AttentionHead
        One for each key/value head.
    experts : tuple of ExpertConstants
        Of each routed expert; one for all when they have them in common.
    mlp : ExpertConstants or None
        Of the MLP that all tokens use.
    qk_norm : tuple of two HeadNorm, or None
        Of queries and of keys.
    shares : tuple of float
        Part of the choices that each expert can expect; empty: all alike.
    thresholds : Thresholds
        How important an expert has to be for both planes of its weights, or for one.
    """

    attention_norm: Norm
    mlp_norm: Norm
    shifts: Mapping[str, int]
    heads: tuple[AttentionHead, ...]
    experts: tuple[ExpertConstants, ...]
    mlp: ExpertConstants | None = None
    qk_norm: tuple[HeadNorm, HeadNorm] | None = None
    shares: tuple[float, ...] = ()
    thresholds: Thresholds = ALL_FULL

    @property
    def scored(self) -> bool:
        """Whether some experts may be loaded in part."""
        return self.thresholds.full > 0

    def expert(self, number: int) -> ExpertConstants:
        """Return the constants of a routed expert."""
        return self.experts[number if len(self.experts) > 1 else 0]


@dataclass(frozen=True)
class Constants:
    """Of a model.

    Attributes
    ----------
    embedding_shift : int
        `shift` of LOAD ROWS of an embedding.
    layers : tuple of LayerConstants
    final_norm : Norm
    head_shift : int
    key_block : int
        Most keys that are scored at once.
    """

    embedding_shift: int
    layers: tuple[LayerConstants, ...]
    final_norm: Norm
    head_shift: int
    key_block: int


def constants_of(model: QuantisedModel, precision: Sequence[Thresholds | None] | None = None) -> Constants:
    """Return the constants of a quantised model.

    Parameters
    ----------
    model : QuantisedModel
    precision : sequence of Thresholds or None, optional
        Of each layer; default, and None: all experts with both planes.

    Raises
    ------
    A3dError
        As many thresholds as the model has no layers.
    """
    if precision is not None and len(precision) != len(model.layers):
        raise A3dError(f"precision: thresholds of {len(precision)} layers; the model has {len(model.layers)}")
    layers = []
    for number, layer in enumerate(model.layers):
        experts = tuple(
            ExpertConstants(e.up_shift, e.post_mult, e.post_shift, e.down_shift) for e in layer.experts.experts
        )
        shifts = {"qkv": layer.qkv.shift, "output": layer.output.shift, "router": layer.router.shift}
        common = experts[:1] if len(set(experts)) == 1 else experts
        mlp = layer.common
        own = None if mlp is None else ExpertConstants(mlp.up_shift, mlp.post_mult, mlp.post_shift, mlp.down_shift)
        norms = None
        if layer.query_norm is not None and layer.key_norm is not None:
            query, key = layer.query_norm, layer.key_norm
            norms = HeadNorm(query.norm, query.shift), HeadNorm(key.norm, key.shift)
        layers.append(
            LayerConstants(
                layer.attention_norm, layer.expert_norm, shifts, layer.heads, common, own, norms, layer.shares,
                (precision[number] if precision is not None else None) or ALL_FULL,
            )
        )  # fmt: skip
    return Constants(model.embedding_shift, tuple(layers), model.final_norm, model.head.shift, model.key_block)


_NORM = Norm(in_shift=8, eps=1, eps_shift=4, mult=1 << 15, shift=20)
_HEAD = AttentionHead(
    score_mult=1 << 15, score_shift=20, value_mult=1 << 15, value_shift=20, context_mult=1 << 15, context_shift=20
)
_HEAD_NORM = HeadNorm(Norm(in_shift=0, eps=1, eps_shift=4, mult=1 << 15, shift=17), 14)
_EXPERT = ExpertConstants(up_shift=20, post_mult=1 << 15, post_shift=20, down_shift=20)


def placeholders(model: Model) -> Constants:
    """Return legal constants for a shape without weights; what a stream with them computes means nothing."""
    known: dict[object, LayerConstants] = {}
    for layer in model.layers:
        attention = layer.attention
        count = 1 if isinstance(attention, LatentAttention) else attention.kv_heads
        normed = not isinstance(attention, LatentAttention) and attention.qk_norm != QkNorm.NONE
        known.setdefault(layer, LayerConstants(
            _NORM, _NORM, _AnyShift(), (_HEAD,) * count, (_EXPERT,) if isinstance(layer.mlp, Experts) else (), _EXPERT,
            (_HEAD_NORM, _HEAD_NORM) if normed else None
        ))  # fmt: skip
    return Constants(0, tuple(known[layer] for layer in model.layers), _NORM, 20, 1 << 14)


class _AnyShift(dict[str, int]):
    """The same shift for whatever matrix a layer has."""

    def __missing__(self, name: str) -> int:
        return 20
