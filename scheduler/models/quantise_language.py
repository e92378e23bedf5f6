# SPDX-License-Identifier: Apache-2.0
"""Quantises a whole Mixtral model for the machine: from float weights and calibrated ranges to `QuantisedModel`.

All scales are static. RMSNorm's weights go into the columns of the matrices that follow; RoPE's pairs become adjacent
channels; factors such as ``1/sqrt(head_dim)`` go into requantisation multipliers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scheduler.models.checkpoint import Checkpoint, LayerWeights, MixtralConfig
from scheduler.models.fixed_point import (
    INT8_MAX,
    INT16_MAX,
    LOG2_BITS,
    ONE_Q15,
    PROBABILITY_MAX,
    QUERY_KEY_BITS,
    VALUE_SHIFT,
)
from scheduler.models.quantise import (
    ExpertRanges,
    ExpertWeights,
    QuantisationError,
    QuantisedMatrix,
    multipliers,
    quantise_layer,
    quantise_matrix,
    scale_of,
)
from scheduler.models.quantised_model import AttentionHead, DecoderLayer, Norm, QuantisedModel
from scheduler.models.rope import adjacent_pairs, rope_tables

__all__ = ["DEFAULT_KEY_BLOCK", "HeadRanges", "LayerRanges", "ModelRanges", "quantise_language_model"]

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
        One for each key/value head.
    experts : tuple of ExpertRanges
        One for each expert; `y` is not used.
    """

    attention_in: float
    attention_norm: float
    heads: tuple[HeadRanges, ...]
    expert_in: float
    expert_norm: float
    experts: tuple[ExpertRanges, ...]


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
    checkpoint: Checkpoint, ranges: ModelRanges, *, headroom: float = 1.5, key_block: int = DEFAULT_KEY_BLOCK
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

    Raises
    ------
    QuantisationError
        Ranges that are not of this model, not finite or negative; a weight that is not finite; a model whose numbers
        do not fit the formats.
    """
    config = checkpoint.config
    _check(config, ranges, headroom, key_block)
    y_scale = scale_of(ranges.residual * headroom, INT16_MAX, "residual")
    residual_scale = y_scale / ONE_Q15
    embedding, embedding_shift = _embedding(checkpoint.embed, residual_scale)
    cos, sin = rope_tables(config.head_dim, config.max_position_embeddings, config.rope_theta)
    layers = tuple(
        _layer(config, weights, own, y_scale, headroom, key_block)
        for weights, own in zip(checkpoint.layers, ranges.layers, strict=True)
    )
    final_scale = scale_of(ranges.final_norm, INT8_MAX, "final norm")
    logit_scale = scale_of(ranges.logits * headroom, INT16_MAX, "logits")
    return QuantisedModel(
        config=config,
        embedding=embedding,
        embedding_shift=embedding_shift,
        rope_cos=cos,
        rope_sin=sin,
        layers=layers,
        final_norm=_norm(config, ranges.final_in * headroom, final_scale, residual_scale),
        head=quantise_matrix(_folded(checkpoint.lm_head, checkpoint.norm), final_scale, logit_scale),
        key_block=key_block,
        residual_scale=residual_scale,
        logit_scale=logit_scale,
    )


def _check(config: MixtralConfig, ranges: ModelRanges, headroom: float, key_block: int) -> None:
    if len(ranges.layers) != config.num_hidden_layers:
        raise QuantisationError(
            f"ranges: of {len(ranges.layers)} layers, the model has {config.num_hidden_layers}; calibrate this model"
        )
    for number, layer in enumerate(ranges.layers):
        for what, found, needed in (
            ("key/value heads", len(layer.heads), config.num_key_value_heads),
            ("experts", len(layer.experts), config.num_local_experts),
        ):
            if found != needed:
                raise QuantisationError(
                    f"ranges of layer {number}: {found} {what}, the model has {needed}; calibrate this model"
                )
    if not (math.isfinite(headroom) and headroom >= 1):
        raise QuantisationError(f"headroom: {headroom}; use 1.0 or more, 1.5 for a text like the calibration text")
    if not 1 <= key_block <= 1 << 16:
        raise QuantisationError(f"key_block: {key_block}; use 1 to 65536 keys")


def _folded(weights: Float, norm: Float) -> npt.NDArray[np.float64]:
    """Return a matrix that takes what a norm makes without its weights."""
    return np.asarray(weights, dtype=np.float64) * np.asarray(norm, dtype=np.float64)


def _embedding(embed: Float, residual_scale: float) -> tuple[npt.NDArray[np.int16], int]:
    if not np.isfinite(embed).all():
        raise QuantisationError("embedding: a value is not finite; check the checkpoint")
    largest = float(np.abs(embed).max(initial=0.0)) / residual_scale
    shift = max(0, math.ceil(math.log2(max(largest, 1.0) / INT16_MAX)))
    if shift > _MOST_EMBEDDING_SHIFT:
        raise QuantisationError(
            f"embedding: {largest:.0f} units of the residual, which holds {1 << 31}; raise the residual's range"
        )
    return np.rint(embed / (residual_scale * (1 << shift))).astype(np.int16), shift


def _float_fields(factor: float, what: str) -> tuple[int, int]:
    """Return the Q15 multiplier of a FLOAT and the SCALE's shift that together multiply by `factor`."""
    if not (math.isfinite(factor) and factor > 0):
        raise QuantisationError(f"{what}: a factor of {factor}; check the calibrated ranges")
    exponent = math.floor(math.log2(factor))
    mult = round(factor / 2.0**exponent * ONE_Q15)
    if mult > 65535:
        mult, exponent = mult // 2, exponent + 1
    if not -31 <= exponent <= 32:
        raise QuantisationError(f"{what}: a factor of {factor}; use 2**-31 to 2**33: check the calibrated ranges")
    return mult, 32 - exponent


def _norm(config: MixtralConfig, largest: float, out_scale: float, residual_scale: float) -> Norm:
    """Return a norm for residuals up to `largest`; 1 of its int8 output stands for `out_scale`."""
    units = max(largest / residual_scale, 1.0)
    in_shift = max(0, math.ceil(math.log2(units / INT16_MAX)))
    unit = residual_scale * 2.0**in_shift
    mult, shift = _float_fields(math.sqrt(config.hidden_size) / out_scale, "norm")
    # sum of squares / hidden + eps, times hidden, in squared units
    eps = round(config.rms_norm_eps * config.hidden_size / unit**2)
    eps_shift = max(0, eps.bit_length() - 16)
    eps = min(eps + (1 << eps_shift >> 1) >> eps_shift, 65535)
    if in_shift > 31 or eps_shift > 32:
        raise QuantisationError(
            f"norm: a residual up to {largest} with rms_norm_eps {config.rms_norm_eps} does not fit; check both"
        )
    return Norm(in_shift, eps, eps_shift, mult, shift)


def _layer(
    config: MixtralConfig, weights: LayerWeights, ranges: LayerRanges, y_scale: float, headroom: float, key_block: int
) -> DecoderLayer:
    residual_scale = y_scale / ONE_Q15
    attention_scale = scale_of(ranges.attention_norm, INT8_MAX, "attention norm")
    expert_scale = scale_of(ranges.expert_norm, INT8_MAX, "expert norm")
    context_scale = np.array([scale_of(r.context, INT8_MAX, "context") for r in ranges.heads])
    group = config.num_attention_heads // config.num_key_value_heads
    norm = np.asarray(weights.post_attention_norm, dtype=np.float64)
    experts = [
        ExpertWeights(_folded(weights.w1[e], norm), _folded(weights.w3[e], norm), weights.w2[e])
        for e in range(config.num_local_experts)
    ]
    wide = [ExpertRanges(r.up * headroom, r.h, r.y) for r in ranges.experts]
    return DecoderLayer(
        attention_norm=_norm(config, ranges.attention_in * headroom, attention_scale, residual_scale),
        qkv=_qkv(config, weights, ranges.heads, attention_scale),
        heads=tuple(_head(config, own, key_block) for own in ranges.heads),
        output=quantise_matrix(weights.o_proj, np.repeat(context_scale, group * config.head_dim), y_scale),
        expert_norm=_norm(config, ranges.expert_in * headroom, expert_scale, residual_scale),
        router=quantise_matrix(_folded(weights.router, norm), expert_scale, 1 / _LOG2_UNITS),
        experts=quantise_layer(experts, 0.0, wide, x_scale=expert_scale, y_scale=y_scale),
    )


def _qkv(
    config: MixtralConfig, weights: LayerWeights, ranges: Sequence[HeadRanges], in_scale: float
) -> QuantisedMatrix:
    group, d = config.num_attention_heads // config.num_key_value_heads, config.head_dim
    pairs = adjacent_pairs(d)

    def paired(matrix: Float) -> Float:
        return matrix.reshape(-1, d, matrix.shape[1])[:, pairs].reshape(matrix.shape)

    def scales(name: str, bits: int, repeat: int) -> npt.NDArray[np.float64]:
        own = [scale_of(getattr(r, name), INT8_MAX, name) / (1 << bits) for r in ranges]
        return np.repeat(own, repeat)

    matrix = np.concatenate([paired(weights.q_proj), paired(weights.k_proj), weights.v_proj])
    out = [
        scales("query", QUERY_KEY_BITS, group * d),
        scales("key", QUERY_KEY_BITS, d),
        scales("value", VALUE_SHIFT, d),
    ]
    return quantise_matrix(_folded(matrix, weights.input_norm), in_scale, np.concatenate(out))


def _head(config: MixtralConfig, ranges: HeadRanges, key_block: int) -> AttentionHead:
    query, key, value, context = (
        scale_of(getattr(ranges, name), INT8_MAX, name) for name in ("query", "key", "value", "context")
    )
    score, score_shift = multipliers(query * key / math.sqrt(config.head_dim) * _LOG2_UNITS)
    # Probabilities up to 127 times values down to -128 may all add up.
    added, value_shift = multipliers(INT16_MAX / (PROBABILITY_MAX * (INT8_MAX + 1) * key_block))
    factor = 2.0**value_shift / int(added[0]) * value / context
    context_mult, context_shift = _float_fields(factor, "context")
    return AttentionHead(int(score[0]), score_shift, int(added[0]), value_shift, context_mult, context_shift)
