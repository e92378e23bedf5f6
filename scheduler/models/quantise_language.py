# SPDX-License-Identifier: Apache-2.0
"""Quantises a whole model for the machine: from float weights and calibrated ranges to `QuantisedModel`.

All scales are static. RMSNorm's weights go into the columns of the matrices that follow; RoPE's pairs become adjacent
channels; factors such as ``1/sqrt(head_dim)`` go into requantisation multipliers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from hdl.numerics import WEIGHT_MAX
from scheduler.models.checkpoint import Checkpoint, LayerWeights
from scheduler.models.deferred import Deferred
from scheduler.models.description import Experts, Model, QkNorm
from scheduler.models.fixed_point import (
    INT8_MAX,
    INT16_MAX,
    LOG2_BITS,
    ONE_Q15,
    PROBABILITY_MAX,
    QUERY_KEY_BITS,
    VALUE_SHIFT,
)
from scheduler.models.planes import ExpertMoments
from scheduler.models.quantise import (
    ExpertRanges,
    ExpertWeights,
    QuantisationError,
    QuantisedExpert,
    QuantisedLayer,
    QuantisedMatrix,
    multipliers,
    quantise_matrix,
    scale_of,
)
from scheduler.models.quantise_experts import quantise_layer
from scheduler.models.quantise_norm import float_fields, head_norm, residual_norm
from scheduler.models.quantised_model import AttentionHead, DecoderLayer, QuantisedModel, WeightedNorm
from scheduler.models.rope import adjacent_pairs, rope_tables

__all__ = [
    "DEFAULT_KEY_BLOCK", "HeadRanges", "LayerRanges", "ModelRanges", "attention_head", "quantise_language_model",
]  # fmt: skip

Float = npt.NDArray[np.floating]

DEFAULT_KEY_BLOCK = 128
"""Keys that a context GEMM may take at once unless something else is asked for."""

_LOG2_UNITS = (1 << LOG2_BITS) / math.log(2)
"""Units of scores and router logits in one natural unit."""

_MOST_EMBEDDING_SHIFT = 16


@dataclass(frozen=True)
class HeadRanges:
    """Magnitudes for which int8's 127 stands, in one key/value head and its query heads; q and k after RoPE."""

    query: float
    key: float
    value: float
    context: float


@dataclass(frozen=True)
class LayerRanges:
    """Ranges of one decoder layer.

    Attributes
    ----------
    attention_in, expert_in : float
        Largest magnitude of the residual before each norm.
    attention_norm, expert_norm : float
        Magnitude for which int8's 127 stands in each norm's output, without the norm's weights.
    heads : tuple of HeadRanges
        One for each key/value head. Where all heads share a norm's weights, they have the same ranges of q and k.
    experts : tuple of ExpertRanges
        One for each expert; `y` is not used.
    projected : tuple of two float
        Largest magnitudes of queries and keys before QK-norm; used with that only.
    common : ExpertRanges or None
        Of the MLP that every token uses; `y` is not used.
    shares : tuple of float
        What part of all choices of experts each expert had; empty: not known.
    """

    attention_in: float
    attention_norm: float
    heads: tuple[HeadRanges, ...]
    expert_in: float
    expert_norm: float
    experts: tuple[ExpertRanges, ...]
    projected: tuple[float, float] = (0.0, 0.0)
    common: ExpertRanges | None = None
    shares: tuple[float, ...] = ()


@dataclass(frozen=True)
class ModelRanges:
    """What calibration finds: magnitudes that the integers must hold or, for int8, the best place to clip.

    Attributes
    ----------
    residual : float
        Largest magnitude of the residual anywhere, and of anything that is added to it.
    layers : tuple of LayerRanges
    final_in, final_norm : float
        As in a layer, of the last norm.
    logits : float
        Largest magnitude of a logit.
    """

    residual: float
    layers: tuple[LayerRanges, ...]
    final_in: float
    final_norm: float
    logits: float


def quantise_language_model(
    checkpoint: Checkpoint,
    ranges: ModelRanges,
    *,
    headroom: float = 1.5,
    key_block: int = DEFAULT_KEY_BLOCK,
    resident: bool = True,
    moments: Sequence[Sequence[ExpertMoments]] | None = None,
    reach: int | None = None,
    levels: int = WEIGHT_MAX,
) -> QuantisedModel:
    """Quantise a model.

    Parameters
    ----------
    checkpoint : Checkpoint
        Float weights.
    ranges : ModelRanges
        What calibration found (``scheduler.models.calibration``).
    headroom : float
        Factor, at least 1, on the ranges of what is held in 16 bits or more and need not use them fully.
    key_block : int
        Largest block of keys that a context GEMM will get.
    resident : bool
        Keep the integers of matrices and embedding; else they are made from the float weights whenever they are asked
        for, so that there is never more than one of them in memory.
    moments : sequence [layers] of sequences of ExpertMoments, optional
        What the inputs of the experts are like (``scheduler.models.moments``).
    reach : int, optional
        Choose the experts' integers with error compensation (``scheduler.models.planes``); needs `moments`.
    levels : int
        Largest integer of an expert's weight, 1 to 119.

    Raises
    ------
    QuantisationError
        Ranges that are not of this model, not finite or negative; a weight that is not finite; a model whose numbers
        do not fit the formats.
    """
    model = checkpoint.description
    _check(model, ranges, headroom, key_block)
    y_scale = scale_of(ranges.residual * headroom, INT16_MAX, "residual")
    residual_scale = y_scale / ONE_Q15
    embedding, embedding_shift = _embedding(checkpoint, residual_scale, resident)
    cos, sin = rope_tables(model.attention.head_dim, model.context, model.rope_theta)
    layers = tuple(
        _Layer(
            model, number, weights, own, y_scale, headroom, key_block, resident,
            None if moments is None else moments[number], reach, levels,
        ).quantise()
        for number, (weights, own) in enumerate(zip(checkpoint.layers, ranges.layers, strict=True))
    )  # fmt: skip
    final_scale = scale_of(ranges.final_norm, INT8_MAX, "final norm")
    logit_scale = scale_of(ranges.logits * headroom, INT16_MAX, "logits")
    head = Deferred(
        (model.vocabulary, model.hidden), lambda: _folded(checkpoint.lm_head, checkpoint.norm)
    )  # fmt: skip
    return QuantisedModel(
        description=model,
        embedding=embedding,
        embedding_shift=embedding_shift,
        rope_cos=cos,
        rope_sin=sin,
        layers=layers,
        final_norm=residual_norm(model, ranges.final_in * headroom, final_scale, residual_scale),
        head=quantise_matrix(head, final_scale, logit_scale, resident=resident),
        key_block=key_block,
        residual_scale=residual_scale,
        logit_scale=logit_scale,
    )


def _check(model: Model, ranges: ModelRanges, headroom: float, key_block: int) -> None:
    if len(ranges.layers) != len(model.layers):
        raise QuantisationError(
            f"ranges: of {len(ranges.layers)} layers, the model has {len(model.layers)}; calibrate this model"
        )
    for number, (layer, own) in enumerate(zip(model.layers, ranges.layers, strict=True)):
        experts = layer.mlp.count if isinstance(layer.mlp, Experts) else 0
        common = not isinstance(layer.mlp, Experts) or layer.mlp.shared > 0
        for what, found, needed in (
            ("key/value heads", len(own.heads), model.attention.kv_heads),
            ("experts", len(own.experts), experts),
            ("MLPs of every token", int(own.common is not None), int(common)),
        ):
            if found != needed:
                raise QuantisationError(
                    f"ranges of layer {number}: {found} {what}, the model has {needed}; calibrate this model"
                )
        if model.attention.qk_norm == QkNorm.HEAD and len({(head.query, head.key) for head in own.heads}) > 1:
            raise QuantisationError(
                f"ranges of layer {number}: heads that share a norm's weights differ in those of q or k; use the same"
            )
    if not (math.isfinite(headroom) and headroom >= 1):
        raise QuantisationError(f"headroom: {headroom}; use 1.0 or more, 1.5 for a text like the calibration text")
    if not 1 <= key_block <= 1 << 16:
        raise QuantisationError(f"key_block: {key_block}; use 1 to 65536 keys")


def _folded(weights: Float, norm: Float) -> npt.NDArray[np.float64]:
    """Return a matrix that takes what a norm makes without its weights."""
    return np.asarray(weights, dtype=np.float64) * np.asarray(norm, dtype=np.float64)


def _embedding(
    checkpoint: Checkpoint, residual_scale: float, resident: bool
) -> tuple[npt.NDArray[np.int16] | Deferred[np.int16], int]:
    embed = checkpoint.embed
    if not np.isfinite(embed).all():
        raise QuantisationError("embedding: a value is not finite; check the checkpoint")
    largest = float(np.abs(embed).max(initial=0.0)) / residual_scale
    shift = max(0, math.ceil(math.log2(max(largest, 1.0) / INT16_MAX)))
    if shift > _MOST_EMBEDDING_SHIFT:
        raise QuantisationError(
            f"embedding: {largest:.0f} units of the residual, which holds {1 << 31}; raise the residual's range"
        )

    def rounded() -> npt.NDArray[np.int16]:
        units: Float = checkpoint.embed / (residual_scale * (1 << shift))
        return np.rint(units).astype(np.int16)

    return (rounded() if resident else Deferred(embed.shape, rounded)), shift


@dataclass(frozen=True)
class _Layer:
    """Quantises one layer."""

    model: Model
    number: int
    weights: LayerWeights
    ranges: LayerRanges
    y_scale: float
    headroom: float
    key_block: int
    resident: bool
    moments: Sequence[ExpertMoments] | None = None
    reach: int | None = None
    levels: int = WEIGHT_MAX

    def quantise(self) -> DecoderLayer:
        model, weights, ranges, headroom = self.model, self.weights, self.ranges, self.headroom
        residual_scale = self.y_scale / ONE_Q15
        attention_scale = scale_of(ranges.attention_norm, INT8_MAX, "attention norm")
        expert_scale = scale_of(ranges.expert_norm, INT8_MAX, "expert norm")
        context_scale = np.array([scale_of(r.context, INT8_MAX, "context") for r in ranges.heads])
        kind = model.attention
        qkv, query_norm, key_norm = self._qkv(attention_scale)
        router, experts, common = self._mlp(expert_scale)
        output = Deferred((model.hidden, kind.heads * kind.head_dim), lambda: weights.o_proj)
        repeated = np.repeat(context_scale, kind.heads // kind.kv_heads * kind.head_dim)
        return DecoderLayer(
            attention_norm=residual_norm(model, ranges.attention_in * headroom, attention_scale, residual_scale),
            qkv=qkv,
            query_norm=query_norm,
            key_norm=key_norm,
            heads=tuple(attention_head(kind.head_dim, own, self.key_block) for own in ranges.heads),
            output=quantise_matrix(output, repeated, self.y_scale, resident=self.resident),
            expert_norm=residual_norm(model, ranges.expert_in * headroom, expert_scale, residual_scale),
            router=router,
            experts=experts,
            common=common,
            shares=ranges.shares,
        )

    def _mlp(self, in_scale: float) -> tuple[QuantisedMatrix, QuantisedLayer, QuantisedExpert | None]:
        """Return router, experts and the MLP of every token."""
        model, weights, norm = self.model, self.weights, np.asarray(self.weights.post_attention_norm, dtype=np.float64)

        def quantise(
            experts: Sequence[ExpertWeights], ranges: Sequence[ExpertRanges],
            moments: Sequence[ExpertMoments] | None = None, reach: int | None = None, levels: int = WEIGHT_MAX,
        ) -> QuantisedLayer:  # fmt: skip
            wide = [ExpertRanges(r.up * self.headroom, r.h, r.y) for r in ranges]
            return quantise_layer(
                experts, 0.0, wide, x_scale=in_scale, y_scale=self.y_scale, resident=self.resident, moments=moments,
                reach=reach, levels=levels,
            )  # fmt: skip

        common = None
        if weights.common is not None and self.ranges.common is not None:
            own = weights.common
            (common,) = quantise(
                [_expert(lambda: own.gate, lambda: own.up, lambda: own.down, norm, own.shapes)], [self.ranges.common]
            ).experts
        if not len(weights.w1):
            none = QuantisedMatrix(
                weights=np.zeros((0, model.hidden), np.int8), mult=np.zeros(0, dtype=np.uint16), shift=0
            )  # fmt: skip
            return none, QuantisedLayer((), in_scale, self.y_scale), common
        shapes = (weights.w1.shape[1:], weights.w2.shape[1:])
        experts = [
            _expert(
                partial(weights.w1.__getitem__, e), partial(weights.w3.__getitem__, e),
                partial(weights.w2.__getitem__, e), norm, shapes,
            )
            for e in range(len(weights.w1))
        ]  # fmt: skip
        router = Deferred((len(experts), model.hidden), lambda: _folded(weights.router, norm))
        logits = quantise_matrix(router, in_scale, 1 / _LOG2_UNITS, resident=self.resident)
        return logits, quantise(experts, self.ranges.experts, self.moments, self.reach, self.levels), common

    def _qkv(self, in_scale: float) -> tuple[QuantisedMatrix, WeightedNorm | None, WeightedNorm | None]:
        """Return the projection of queries, keys and values, and the norms of queries and keys."""
        model, weights, ranges, kind = self.model, self.weights, self.ranges.heads, self.model.attention
        group, d = kind.heads // kind.kv_heads, kind.head_dim
        pairs = adjacent_pairs(d)

        def paired(matrix: Float) -> Float:
            return matrix.reshape(-1, d, *matrix.shape[1:])[:, pairs].reshape(matrix.shape)

        def scales(name: str, bits: int, repeat: int) -> npt.NDArray[np.float64]:
            own = [scale_of(getattr(r, name), INT8_MAX, name) / (1 << bits) for r in ranges]
            return np.repeat(own, repeat)

        def matrix() -> Float:
            parts = [paired(weights.q_proj), paired(weights.k_proj), weights.v_proj]
            return _folded(np.concatenate(parts), weights.input_norm)

        out = [
            scales("query", QUERY_KEY_BITS, group * d),
            scales("key", QUERY_KEY_BITS, d),
            scales("value", VALUE_SHIFT, d),
        ]
        norms: list[WeightedNorm | None] = [None, None]
        if weights.q_norm is not None and weights.k_norm is not None:
            whole, projected = kind.qk_norm == QkNorm.WHOLE, self.ranges.projected
            # One instruction norms heads of both where they are normed head by head: they share a unit.
            largest = projected if whole else (max(projected),) * 2
            for n, own in enumerate((weights.q_norm, weights.k_norm)):
                unit = scale_of(largest[n] * self.headroom, INT16_MAX, "queries and keys before their norm")
                wanted = out[n] * (1 << QUERY_KEY_BITS)
                norms[n] = head_norm(model, paired(own), unit, wanted if whole else wanted[:d])
                out[n] = np.full(out[n].size, unit)
        shape = ((kind.heads + 2 * kind.kv_heads) * d, model.hidden)
        qkv = quantise_matrix(Deferred(shape, matrix), in_scale, np.concatenate(out), resident=self.resident)
        return qkv, norms[0], norms[1]


def _expert(
    gate: Callable[[], Float], up: Callable[[], Float], down: Callable[[], Float], norm: Float,
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
) -> ExpertWeights:  # fmt: skip
    """Return an expert that takes what a norm makes without its weights; `shapes` are of gate and down."""
    return ExpertWeights(
        gate=Deferred(shapes[0], lambda: _folded(gate(), norm)), up=Deferred(shapes[0], lambda: _folded(up(), norm)),
        down=Deferred(shapes[1], down),
    )  # fmt: skip


def attention_head(head_dim: int, ranges: HeadRanges, key_block: int) -> AttentionHead:
    """Return the constants of a key/value head for blocks of up to `key_block` keys."""
    query, key, value, context = (
        scale_of(getattr(ranges, name), INT8_MAX, name) for name in ("query", "key", "value", "context")
    )
    score, score_shift = multipliers(query * key / math.sqrt(head_dim) * _LOG2_UNITS)
    # Probabilities up to 127 times values down to -128 may all add up.
    added, value_shift = multipliers(INT16_MAX / (PROBABILITY_MAX * (INT8_MAX + 1) * key_block))
    factor = 2.0**value_shift / int(added[0]) * value / context
    context_mult, context_shift = float_fields(factor, "context")
    return AttentionHead(int(score[0]), score_shift, int(added[0]), value_shift, context_mult, context_shift)
