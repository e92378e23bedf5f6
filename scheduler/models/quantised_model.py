# SPDX-License-Identifier: Apache-2.0
"""A whole language model in the machine's integers: what quantisation makes, the integer model runs, lowering emits.

``docs/vector.md`` section 5 says which instruction uses which constant; formats that no model changes are in
:mod:`scheduler.models.fixed_point`. The machine's numbers and what they stand for (the scales are of calibration,
static):

=====================  ======================================  =================================================
value                  real = integer * scale                  made by
=====================  ======================================  =================================================
residual row           int32 * residual_scale                  LOAD ROWS, and added to by combine units
norm output            int8  * one scale a norm                SUMSQ, SCALE (norm weights are in the next matrix)
q, k row               int16 * one scale a key/value head      GEMM ``qkv``; 2**7 finer than the int8 after ROTATE
v row                  int16 * one scale a key/value head      GEMM ``qkv``; 2**8 finer than the int8 that is stored
score                  int16 * 2**-9, log2 units               GEMM; 1/sqrt(head_dim) is in the multiplier
p                      int8, 127 for a row's largest score     MAX, MAP EXP2
context row            int32 * one scale a key/value head      GEMM, RESCALE
context                int8  * one scale a key/value head      SUM_RECIP, SCALE
output projection, y   int16 * residual_scale * 2**15          GEMM; gates are Q15 (1.0: 32768)
router logit           int16 * 2**-9, log2 units               GEMM
logit                  int16 * logit_scale                     GEMM ``head``
=====================  ======================================  =================================================
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scheduler.models.checkpoint import MixtralConfig
from scheduler.models.quantise import QuantisedLayer, QuantisedMatrix

__all__ = ["AttentionHead", "DecoderLayer", "Norm", "QuantisedModel"]


@dataclass(frozen=True)
class Norm:
    """An RMSNorm from int32 residual rows to int8: a SUMSQ and a SCALE with the same `in_shift`.

    Attributes
    ----------
    in_shift : int
        `in_shift` of both, 0 to 31.
    eps, eps_shift : int
        `imm` (uint16) and `shift` of SUMSQ: epsilon in units of the sum of squares is ``eps << eps_shift``.
    mult : int
        `mult` of SUMSQ (uint16, Q15).
    shift : int
        `shift` of SCALE, 0 to 63.
    """

    in_shift: int
    eps: int
    eps_shift: int
    mult: int
    shift: int


@dataclass(frozen=True)
class AttentionHead:
    """Constants of one key/value head and of the query heads that share it.

    Attributes
    ----------
    score_mult, score_shift : int
        Requantisation of scores (all channels, `param_hold`): int16 in Q9 of log2 units.
    value_mult, value_shift : int
        Requantisation of what a block of keys adds to a context row: int16.
    context_mult : int
        `imm` of SUM_RECIP (uint16, Q15).
    context_shift : int
        `shift` of the SCALE that makes int8 of context rows (`in_shift` = 0).
    """

    score_mult: int
    score_shift: int
    value_mult: int
    value_shift: int
    context_mult: int
    context_shift: int


@dataclass(frozen=True, eq=False)
class DecoderLayer:
    """One decoder layer.

    Attributes
    ----------
    attention_norm : Norm
        Norm before attention.
    qkv : QuantisedMatrix
        [(heads + 2 * kv_heads) * head_dim, hidden]: all query heads, all keys, all values. Within each head of queries
        and keys the channels are permuted so that RoPE's pairs are channels 2i and 2i + 1.
    heads : tuple of AttentionHead
        One for each key/value head; query head h uses ``h // (heads / kv_heads)``.
    output : QuantisedMatrix
        [hidden, heads * head_dim]: added to the residual rows with gate 32768.
    expert_norm : Norm
        Norm before router and experts.
    router : QuantisedMatrix
        [experts, hidden]: logits in Q9 of log2 units.
    experts : QuantisedLayer
        Experts; their rows are added to the residual rows with gates in Q15.
    """

    attention_norm: Norm
    qkv: QuantisedMatrix
    heads: tuple[AttentionHead, ...]
    output: QuantisedMatrix
    expert_norm: Norm
    router: QuantisedMatrix
    experts: QuantisedLayer


@dataclass(frozen=True, eq=False)
class QuantisedModel:
    """A language model.

    Attributes
    ----------
    config : MixtralConfig
        Dimensions.
    embedding : int16 array [vocab, hidden]
        Token embeddings; a residual row is the embedding shifted left by `embedding_shift`.
    embedding_shift : int
        `shift` of LOAD ROWS, 0 to 16.
    rope_cos, rope_sin : int16 arrays [positions, head_dim]
        ROTATE's tables in Q14; sines are signed (minus in even channels).
    layers : tuple of DecoderLayer
    final_norm : Norm
        Norm before the head.
    head : QuantisedMatrix
        [vocab, hidden]: int16 logits.
    key_block : int
        Largest block of keys for which a context GEMM's int16 results cannot saturate.
    residual_scale, logit_scale : float
        Real value of 1 of residual rows and of logits.
    """

    config: MixtralConfig
    embedding: npt.NDArray[np.int16]
    embedding_shift: int
    rope_cos: npt.NDArray[np.int16]
    rope_sin: npt.NDArray[np.int16]
    layers: tuple[DecoderLayer, ...]
    final_norm: Norm
    head: QuantisedMatrix
    key_block: int
    residual_scale: float
    logit_scale: float
