# SPDX-License-Identifier: Apache-2.0
"""A whole language model in the machine's integers: what quantisation makes, the integer model runs, lowering emits.

Formats that no model changes are in :mod:`scheduler.models.fixed_point`. The machine's numbers and what they stand for
(the scales are of calibration, static):

=====================  ======================================  =================================================
value                  real = integer * scale                  made by
=====================  ======================================  =================================================
residual row           int32 * residual_scale                  LOAD ROWS, and added to by combine units
norm output            int8  * one scale a norm                SUMSQ, SCALE (norm weights are in the next matrix)
q, k row               int16 * one scale a key/value head      GEMM ``qkv``; 2**7 finer than the int8 after ROTATE
... with QK-norm       int16 * one scale for q, one for k      GEMM ``qkv``; equal for q and k when heads are normed
... normed             int16 * 2**-``qk_norm_bits``            SUMSQ, SCALE; then MUL: the q, k row without QK-norm
v row                  int16 * one scale a key/value head      GEMM ``qkv``; 2**8 finer than the int8 that is stored
score                  int16 * 2**-9, log2 units               GEMM; 1/sqrt(head_dim) is in the multiplier
p                      int8, 127 for a row's largest score     MAX, MAP EXP2
context row            int32 * one scale a key/value head      GEMM, RESCALE
context                int8  * one scale a key/value head      SUM_RECIP, SCALE
output projection, y   int16 * residual_scale * 2**15          GEMM; gates are Q15 (1.0: 32768)
router logit           int16 * 2**-9, log2 units               GEMM
logit                  int16 * logit_scale                     GEMM ``head``
=====================  ======================================  =================================================

Which instruction takes which constant, where a layer differs from ``docs/vector.md`` section 5:

*QK-norm* (``query_norm`` and ``key_norm`` of a layer, each a `WeightedNorm`), between GEMM ``qkv`` and ROTATE, in place
on the int16 rows of queries (of keys). A vector is one head of one token (`QkNorm.HEAD`) or all query heads (all key
heads) of one token (`QkNorm.WHOLE`); results do not depend on which vectors an instruction takes together. Lanes that
pad a head are zero and stay zero.

1. ``SUMSQ in_shift=0 imm=norm.eps shift=norm.eps_shift mult=norm.mult``: a FLOAT for each vector.
2. ``SCALE in_shift=0 shift=norm.shift bits=16``, of the same vectors with those FLOATs, to ROWS.
3. ``MUL in_shift=0 shift=shift bits=16`` with operand B the rows of ``weights``, to ROWS. HEAD: ``weights`` are those
   of one head, [head_dim], for every head. WHOLE: one for each channel of all heads, [heads * head_dim]; head h of
   every token takes rows h * head_rows and up of them.

   B has a period of at most 8 rows. So HEAD: ``b_rows = head_rows, b_stride = 0``, with as many heads in `rows` as
   wanted. WHOLE: either a vector is a head of one token (``rows = b_rows = head_rows``, ``a_stride = b_stride =
   head_rows``), or 1 to 8 rows of every token (``rows = b_rows``, ``a_stride`` from token to token, ``b_stride = 0``).
4. ROTATE as without QK-norm.

With HEAD, ``query_norm.norm == key_norm.norm``: one SUMSQ and one SCALE can take heads of both.

*Gates*, from the router's logits. Choice and order are the same for all: ARGMAX `chosen` times over the logits, masked
to the experts; GATHER of the chosen logits, ``bits=16``; MAX of the gathered row, ``masked=1 length=chosen first=1``.

- ``router.normalised``: MAP EXP2 of the gathered row with SUM_RECIP (``masked=1 length=chosen first=1 mult=GATE_MULT
  shift=GATE_SHIFT imm=GATE_RECIP bits=32``), to ROWS; SCALE (``shift=gate_scale_shift(15) bits=32``).
- else, two MAPs with the same MAXCORR: MAP EXP2 with SUM_RECIP over the router's rows (``masked=1`` when the experts do
  not fill them, ``length=experts first=1 mult=GATE_MULT shift=GATE_SHIFT imm=GATE_RECIP bits=32 dest_kind=NONE``); MAP
  EXP2 without a sum of the gathered row (``masked=1 length=chosen``, same `mult`, `shift`, `bits`), to ROWS; SCALE as
  above. The largest of the gathered logits is the largest of all, so that both see the same maximum.

*MLP of every token* (``common`` of a layer: all of a dense layer's MLP, or the shared experts as one): the GEMMs of an
expert through a token list that names every token with gate 32768, added to the residual rows like an expert's. Its
shifts are its own. A dense layer has no routed experts: ``experts.experts`` is empty and the router's matrix has no
rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scheduler.models.deferred import ArrayField
from scheduler.models.description import Model
from scheduler.models.quantise import QuantisedExpert, QuantisedLayer, QuantisedMatrix

__all__ = ["AttentionHead", "DecoderLayer", "Norm", "QuantisedModel", "WeightedNorm"]


@dataclass(frozen=True)
class Norm:
    """An RMSNorm: a SUMSQ and a SCALE with the same `in_shift`.

    From int32 residual rows to int8, or in a `WeightedNorm`.

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


@dataclass(frozen=True, eq=False)
class WeightedNorm:
    """An RMSNorm of int16 rows in place, with its weights: SUMSQ, SCALE and MUL, results of 16 bits.

    Attributes
    ----------
    norm : Norm
        SUMSQ and SCALE; `in_shift` is 0.
    weights : int16 array [channels]
        Operand B of MUL: of one head (`QkNorm.HEAD`) or of all (`QkNorm.WHOLE`), each head's channels in the order of
        RoPE's adjacent pairs.
    shift : int
        `shift` of MUL, 0 to 47.
    """

    norm: Norm
    weights: npt.NDArray[np.int16]
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


@dataclass(frozen=True, eq=False, kw_only=True)
class DecoderLayer:
    """One decoder layer.

    Attributes
    ----------
    attention_norm : Norm
        Norm before attention.
    qkv : QuantisedMatrix
        [(heads + 2 * kv_heads) * head_dim, hidden]: all query heads, all keys, all values. Within each head of queries
        and keys the channels are permuted so that RoPE's pairs are channels 2i and 2i + 1.
    query_norm, key_norm : WeightedNorm or None
        QK-norm: both or none.
    heads : tuple of AttentionHead
        One for each key/value head; query head h uses ``h // (heads / kv_heads)``.
    output : QuantisedMatrix
        [hidden, heads * head_dim]: added to the residual rows with gate 32768.
    expert_norm : Norm
        Norm before router and experts.
    router : QuantisedMatrix
        [experts, hidden]: logits in Q9 of log2 units; [0, hidden] in a dense layer.
    experts : QuantisedLayer
        Experts; their rows are added to the residual rows with gates in Q15. None in a dense layer.
    common : QuantisedExpert or None
        MLP that every token uses, with gate 32768.
    shares : tuple of float
        What part of all choices of experts each expert can expect; empty: all the same. A planner's guess, which no
        result depends on.
    """

    attention_norm: Norm
    qkv: QuantisedMatrix
    heads: tuple[AttentionHead, ...]
    output: QuantisedMatrix
    expert_norm: Norm
    router: QuantisedMatrix
    experts: QuantisedLayer
    query_norm: WeightedNorm | None = None
    key_norm: WeightedNorm | None = None
    common: QuantisedExpert | None = None
    shares: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class QuantisedModel:
    """A language model.

    Attributes
    ----------
    description : Model
        What it is made of; complete.
    embedding : int16 array [vocabulary, hidden]
        Token embeddings; a residual row is the embedding shifted left by `embedding_shift`. They may be made anew by
        each reading.
    embedding_shift : int
        `shift` of LOAD ROWS, 0 to 16.
    rope_cos, rope_sin : int16 arrays [positions, head_dim]
        ROTATE's tables in Q14; sines are signed (minus in even channels).
    layers : tuple of DecoderLayer
    final_norm : Norm
        Norm before the head.
    head : QuantisedMatrix
        [vocabulary, hidden]: int16 logits.
    key_block : int
        Largest block of keys for which a context GEMM's int16 results cannot saturate.
    residual_scale, logit_scale : float
        Real value of 1 of residual rows and of logits.
    """

    description: Model
    embedding: ArrayField[np.int16] = ArrayField()
    embedding_shift: int
    rope_cos: npt.NDArray[np.int16]
    rope_sin: npt.NDArray[np.int16]
    layers: tuple[DecoderLayer, ...]
    final_norm: Norm
    head: QuantisedMatrix
    key_block: int
    residual_scale: float
    logit_scale: float
