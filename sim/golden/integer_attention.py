# SPDX-License-Identifier: Apache-2.0
"""What norms, matrices, rotation and attention compute in the integer language model, exactly (``docs/vector.md``).

Nothing depends on which tokens are computed together. The online softmax does depend on `key_block`: a block's
probabilities are rounded relative to the largest score up to that block.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hdl.isa import StoreFormat
from hdl.numerics import combine_add, requant, round_shift, saturate, store_convert, wrap
from hdl.numerics.vector import exp2_q15, float_scale, recip, rsqrt
from scheduler.models.fixed_point import PROBABILITY_MULT, PROBABILITY_SHIFT, ROTATE_SHIFT, VALUE_SHIFT
from scheduler.models.quantise import QuantisedMatrix
from scheduler.models.quantised_model import AttentionHead, Norm

__all__ = ["attend", "matrix_rows", "normalise", "product", "rotate", "scale_rows", "value_bytes"]

Int = npt.NDArray[np.int64]
Int8 = npt.NDArray[np.int8]

_LOWEST = -32768
_SUM_MASK = (1 << 32) - 1
_SUMSQ_MASK = (1 << 48) - 1
_FLOAT32_DEPTH = 1 << 24 - 14
"""Longest reduction of int8 products whose partial sums are whole numbers that float32 holds."""


def product(x: npt.NDArray[np.integer], weights: npt.NDArray[np.integer]) -> Int:
    """Return int32 accumulators ``x @ weights.T`` of int8 values [..., tokens, k] and [..., outputs, k].

    The sums are whole numbers below 2**24 (float32) or 2**53 (float64), which these hold exactly in any order of
    addition; their matrix products are fast.
    """
    kind = np.float32 if weights.shape[-1] <= _FLOAT32_DEPTH else np.float64
    total = x.astype(kind) @ weights.swapaxes(-1, -2).astype(kind)
    return wrap(total.astype(np.int64), 32)


def matrix_rows(x: Int8, matrix: QuantisedMatrix) -> Int:
    """Return the int16 rows [tokens, outputs] of a GEMM with REQUANT16."""
    return requant(product(x, matrix.weights), matrix.mult, matrix.shift, 16)


def scale_rows(x: Int, mantissa: Int, exponent: Int, shift: npt.ArrayLike, bits: int) -> Int:
    """Return what SCALE makes of elements [..., n] with FLOATs [...]; `shift` is broadcast against the FLOATs."""
    amount = np.clip(exponent + np.asarray(shift, dtype=np.int64) - 32, 0, 47)
    return saturate(round_shift(saturate(x, 24) * mantissa[..., None], amount[..., None]), bits)


def normalise(rows: npt.NDArray[np.integer], norm: Norm) -> Int8:
    """Return int8 activations [tokens, hidden] of int32 residual rows: SUMSQ and SCALE."""
    shifted = round_shift(rows, norm.in_shift)
    x16 = saturate(shifted, 16)
    total = (x16 * x16).sum(axis=-1) + (norm.eps << norm.eps_shift & _SUMSQ_MASK) & _SUMSQ_MASK
    mantissa, exponent = float_scale(*rsqrt(total), norm.mult)
    return scale_rows(shifted, mantissa, exponent, norm.shift, 8).astype(np.int8)


def rotate(rows: Int, cosines: npt.NDArray[np.integer], sines: npt.NDArray[np.integer]) -> Int8:
    """Return int8 queries or keys [tokens, heads, head_dim] of int16 rows; tables [tokens, head_dim] in Q14: ROTATE."""
    swapped = rows.reshape(*rows.shape[:-1], -1, 2)[..., ::-1].reshape(rows.shape)
    total = rows * cosines[:, None].astype(np.int64) + swapped * sines[:, None].astype(np.int64)
    return saturate(round_shift(total, ROTATE_SHIFT), 8).astype(np.int8)


def value_bytes(rows: Int) -> Int8:
    """Return the int8 values that a STORE writes of int16 rows."""
    return store_convert(rows, VALUE_SHIFT, StoreFormat.INT8).astype(np.int8)


def attend(
    query: Int8, keys: Int8, values: Int8, position: int, heads: Sequence[AttentionHead], key_block: int
) -> Int8:
    """Return the int8 context [tokens, query heads, head_dim] of consecutive tokens of one sequence.

    Parameters
    ----------
    query : int8 array [tokens, query heads, head_dim]
        After rotation.
    keys, values : int8 arrays [kv heads, position + tokens, head_dim]
        Those of the tokens themselves included.
    position : int
        Position of the first token; each sees the keys up to its own.
    heads : sequence of AttentionHead
        Constants of each key/value head.
    key_block : int
        Keys that are scored at once.
    """
    tokens, query_heads, d = query.shape
    kv_heads, count, _ = keys.shape
    # [kv heads, group x tokens, d]: the queries that share keys are rows of one product.
    rows = query.reshape(tokens, kv_heads, -1, d).transpose(1, 2, 0, 3).reshape(kv_heads, -1, d)

    def constant(name: str) -> Int:
        return np.array([getattr(head, name) for head in heads], dtype=np.int64)[:, None, None]

    last = np.tile(position + np.arange(tokens), query_heads // kv_heads)
    highest = np.full(rows.shape[:2], _LOWEST, dtype=np.int64)
    total = np.zeros_like(highest)
    context = np.zeros(rows.shape, dtype=np.int64)
    for first in range(0, count, key_block):
        block = slice(first, min(first + key_block, count))
        scores = requant(product(rows, keys[:, block]), constant("score_mult"), constant("score_shift"), 16)
        valid = np.arange(block.start, block.stop) <= last[:, None]
        before, highest = highest, np.maximum(highest, np.where(valid, scores, _LOWEST).max(axis=-1))
        p = round_shift(exp2_q15(scores - highest[..., None]) * PROBABILITY_MULT, PROBABILITY_SHIFT)
        p = np.where(valid, saturate(p, 8), 0)
        added = p.sum(axis=-1)
        correction = exp2_q15(before - highest)
        if first:
            added += round_shift(total * correction, 15)
            context = saturate(round_shift(saturate(context, 24) * correction[..., None], 15), 32)
        total = added & _SUM_MASK
        result = requant(
            product(p, values[:, block].swapaxes(-1, -2)), constant("value_mult"), constant("value_shift"), 16
        )
        context = combine_add(context, 1, result, accumulate=first > 0)
    mantissa, exponent = float_scale(*recip(total), constant("context_mult")[..., 0])
    divided = scale_rows(context, mantissa, exponent, constant("context_shift")[..., 0], 8)
    split = divided.reshape(kv_heads, -1, tokens, d).transpose(2, 0, 1, 3)
    return split.reshape(tokens, query_heads, d).astype(np.int8)
