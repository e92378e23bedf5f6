# SPDX-License-Identifier: Apache-2.0
"""The integer model: what a quantised language model computes, exactly, without knowing instructions.

The executor and the RTL, running the scheduler's streams, must give the same bits. A token's result does not depend
on which other tokens, of its sequence or of others, are computed in the same step.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hdl.errors import A3dError
from hdl.isa import StoreFormat
from hdl.numerics import combine_add, requant, round_shift, saturate, split_nibbles, store_convert, swiglu, wrap
from hdl.numerics.vector import exp2_q15, float_scale, recip
from scheduler.models.description import Experts
from scheduler.models.fixed_point import (
    GATE_IN_BITS,
    GATE_MULT,
    GATE_RECIP,
    GATE_SHIFT,
    ONE_Q15,
    gate_scale_shift,
)
from scheduler.models.quantise import GATE_BITS, QuantisedExpert, QuantisedLayer
from scheduler.models.quantised_model import DecoderLayer, Norm, QuantisedModel
from scheduler.ops.batch import Routing
from sim.golden.integer_attention import (
    attend,
    matrix_rows,
    normalise,
    normalise_heads,
    product,
    rotate,
    scale_rows,
    value_bytes,
)

__all__ = [
    "IntegerModel", "IntegerTrace", "KeyValueCache", "StepResult", "expert_rows", "moe_layer", "route",
]  # fmt: skip

Int = npt.NDArray[np.int64]


def _high(weights: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    return (16 * split_nibbles(weights)[0]).astype(np.int8)


def expert_rows(expert: QuantisedExpert, x: npt.NDArray[np.int8], *, high_only: bool = False) -> Int:
    """Return one expert's int16 rows [tokens, hidden] for int8 activations [tokens, hidden].

    Parameters
    ----------
    expert : QuantisedExpert
        The expert.
    x : int8 array [tokens, hidden]
        Input.
    high_only : bool
        Only the high nibbles of the weights are used (a low-score expert's load of half the bytes).
    """
    gate, up, down = expert.gate, expert.up, expert.down
    if high_only:
        gate, up, down = _high(gate), _high(up), _high(down)
    h = swiglu(
        product(x, gate), product(x, up), expert.gate_mult, expert.up_mult, expert.up_shift,
        expert.post_mult, expert.post_shift,
    ).astype(np.int8)  # fmt: skip
    return requant(product(h, down), expert.down_mult, expert.down_shift, 16)


def moe_layer(
    layer: QuantisedLayer,
    x: npt.NDArray[np.int8],
    experts: npt.NDArray[np.integer],
    gates: npt.NDArray[np.uint16],
    *,
    high_only: Collection[int] = (),
) -> npt.NDArray[np.int16]:
    """Return the layer's int16 output [tokens, hidden].

    Parameters
    ----------
    layer : QuantisedLayer
        The experts.
    x : int8 array [tokens, hidden]
        Input.
    experts : int array [tokens, k]
        Chosen experts of each token; an expert named twice counts twice.
    gates : uint16 array [tokens, k]
        Their gate scores, Q15.
    high_only : collection of int
        Experts of which only the high nibbles are used.
    """
    combined = np.zeros(x.shape, dtype=np.int64)
    _add_experts(combined, layer, x, experts, gates, high_only)
    return store_convert(wrap(combined, 32), GATE_BITS, StoreFormat.INT16).astype(np.int16)


def _add_experts(
    rows: Int,
    layer: QuantisedLayer,
    x: npt.NDArray[np.int8],
    experts: npt.NDArray[np.integer],
    gates: npt.NDArray[np.integer],
    high_only: Collection[int] = (),
) -> None:
    """Add every token's experts to its row [tokens, hidden], without the wrap to int32."""
    for number, expert in enumerate(layer.experts):
        tokens, slots = np.nonzero(np.asarray(experts) == number)
        if not tokens.size:
            continue
        added = expert_rows(expert, x[tokens], high_only=number in high_only)
        np.add.at(rows, tokens, combine_add(np.zeros_like(added), gates[tokens, slots][:, None], added))


def route(logits: npt.NDArray[np.integer], chosen: int, *, normalised: bool = True) -> Routing:
    """Return the experts and gates of tokens: ARGMAX `chosen` times, GATHER, MAX, MAP EXP2 with SUM_RECIP, SCALE.

    Parameters
    ----------
    logits : int16 values [tokens, experts]
        Router logits in Q9 of log2 units; of equal ones the lower expert comes first.
    chosen : int
        Experts of a token.
    normalised : bool
        The gates of a token's experts are divided by their sum, else by that of all experts.
    """
    values = np.asarray(logits, dtype=np.int64)
    index = np.argsort(-values, axis=-1, kind="stable")[:, :chosen]
    best = np.take_along_axis(values, index, axis=-1)
    # The first of them is the largest: what MAX finds.
    power, total = (
        saturate(round_shift(exp2_q15(own - best[:, :1]) * GATE_MULT, GATE_SHIFT), GATE_IN_BITS)
        for own in (best, best if normalised else values)
    )
    mantissa, exponent = float_scale(*recip(total.sum(axis=-1)), GATE_RECIP)
    gates = scale_rows(power, mantissa, exponent, gate_scale_shift(GATE_BITS), GATE_IN_BITS)
    return Routing(experts=index, gates=gates.astype(np.uint16))


@dataclass(eq=False)
class KeyValueCache:
    """Keys and values of one sequence, as the machine's memory holds them.

    Attributes
    ----------
    keys, values : int8 arrays [layers, kv_heads, positions, head_dim]
        Keys are rotated; their channels are in the order of RoPE's adjacent pairs.
    length : int
        Tokens so far.
    """

    keys: npt.NDArray[np.int8]
    values: npt.NDArray[np.int8]
    length: int = 0

    def begin_with(self, other: KeyValueCache, tokens: int) -> None:
        """Begin with the first tokens of another sequence, which has run them."""
        self.keys[:, :, :tokens] = other.keys[:, :, :tokens]
        self.values[:, :, :tokens] = other.values[:, :, :tokens]
        self.length = tokens


@dataclass(frozen=True, eq=False)
class IntegerTrace:
    """What one layer holds after each part, for all tokens of a step in order: to find where a machine departs.

    Attributes
    ----------
    attention_input, expert_input : int8 arrays [tokens, hidden]
        Outputs of the norms.
    query : int8 array [tokens, heads, head_dim]
    key, value : int8 arrays [tokens, kv_heads, head_dim]
    context : int8 array [tokens, heads * head_dim]
    residual_middle, residual_out : int32 arrays [tokens, hidden]
        After attention and after the experts.
    router : int16 array [tokens, experts]
    """

    attention_input: npt.NDArray[np.int8]
    query: npt.NDArray[np.int8]
    key: npt.NDArray[np.int8]
    value: npt.NDArray[np.int8]
    context: npt.NDArray[np.int8]
    residual_middle: npt.NDArray[np.int32]
    expert_input: npt.NDArray[np.int8]
    router: npt.NDArray[np.int16]
    residual_out: npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class StepResult:
    """What a step computed; its tokens are those of the first sequence, then of the second, and so on.

    Attributes
    ----------
    logits : int16 array [tokens, vocab]
        Of every token.
    routing : tuple of Routing
        Chosen experts and gates [tokens, k] of every layer; k is 0 in a dense layer.
    counts : tuple of int
        New tokens of each sequence.
    layers : tuple of IntegerTrace
        Empty unless traces were asked for.
    """

    logits: npt.NDArray[np.int16]
    routing: tuple[Routing, ...]
    counts: tuple[int, ...]
    layers: tuple[IntegerTrace, ...] = ()

    @property
    def last_logits(self) -> npt.NDArray[np.int16]:
        """Logits [sequences, vocab] of each sequence's last token: what the machine stores."""
        last: npt.NDArray[np.int16] = self.logits[np.cumsum(self.counts) - 1]
        return last


class IntegerModel:
    """A quantised language model, run step by step.

    Parameters
    ----------
    model : QuantisedModel
        The model's integers.
    key_block : int, optional
        Keys that attention takes at once; results depend on it, so a machine must use the same. Default: the
        model's `key_block`.

    Raises
    ------
    A3dError
        A `key_block` for which context results could saturate.
    """

    def __init__(self, model: QuantisedModel, *, key_block: int | None = None) -> None:
        self.model = model
        self.description = model.description
        self.attention = model.description.attention
        self.key_block = model.key_block if key_block is None else key_block
        if not 1 <= self.key_block <= model.key_block:
            raise A3dError(
                f"key_block: {self.key_block}; the model is quantised for 1 to {model.key_block}: use that or quantise "
                "it again"
            )

    def new_cache(self, positions: int | None = None) -> KeyValueCache:
        """Return the empty cache of a sequence of up to `positions` tokens (default: what the model allows)."""
        longest = self.description.context
        positions = longest if positions is None else positions
        if not 1 <= positions <= longest:
            raise A3dError(f"positions: {positions}; the model has 1 to {longest} (max_position_embeddings)")
        shape = (len(self.model.layers), self.attention.kv_heads, positions, self.attention.head_dim)
        return KeyValueCache(np.zeros(shape, np.int8), np.zeros(shape, np.int8))

    def prefill(self, tokens: npt.ArrayLike) -> StepResult:
        """Run one new sequence and return the result, logits of every token; its cache is thrown away."""
        return self.step([(self.new_cache(), tokens)])

    def decode(self, caches: Sequence[KeyValueCache], tokens: npt.ArrayLike) -> StepResult:
        """Run one new token [sequences] of each sequence."""
        return self.step(list(zip(caches, np.asarray(tokens).reshape(-1, 1), strict=True)))

    def step(self, batch: Sequence[tuple[KeyValueCache, npt.ArrayLike]], *, trace: bool = False) -> StepResult:
        """Run new tokens of some sequences, prefill and decode in any mixture; the caches grow.

        Parameters
        ----------
        batch : sequence of (KeyValueCache, int array [new tokens])
            Sequences, each named once.
        trace : bool
            Also return what every layer holds.

        Raises
        ------
        A3dError
            No sequences or tokens, a sequence named twice, one that is too long, a token out of range. No cache has
            changed then.
        """
        caches = [cache for cache, _ in batch]
        ids = [np.asarray(tokens, dtype=np.int64).reshape(-1) for _, tokens in batch]
        self._check(caches, ids)
        model = self.model
        positions = np.concatenate([cache.length + np.arange(own.size) for cache, own in zip(caches, ids, strict=True)])
        residual = model.embedding[np.concatenate(ids)].astype(np.int64) << model.embedding_shift
        routing, traces = [], []
        for number, layer in enumerate(model.layers):
            residual, chosen, seen = self._layer(number, layer, residual, positions, caches, [own.size for own in ids])
            routing.append(chosen)
            if trace:
                traces.append(seen)
        for cache, own in zip(caches, ids, strict=True):
            cache.length += own.size
        logits = matrix_rows(self._normalise(residual, model.final_norm), model.head).astype(np.int16)
        return StepResult(logits, tuple(routing), tuple(own.size for own in ids), tuple(traces))

    def _check(self, caches: Sequence[KeyValueCache], ids: Sequence[Int]) -> None:
        if not caches:
            raise A3dError("batch: no sequences; give at least one")
        if len({id(cache) for cache in caches}) != len(caches):
            raise A3dError("batch: a cache is there twice; put all new tokens of a sequence together")
        for number, (cache, own) in enumerate(zip(caches, ids, strict=True)):
            room = cache.keys.shape[2]
            if not 1 <= own.size <= room - cache.length:
                raise A3dError(
                    f"sequence {number}: {own.size} new tokens after {cache.length}; its cache has {room} positions: "
                    f"give 1 to {room - cache.length}"
                )
            if own.min() < 0 or own.max() >= self.description.vocabulary:
                raise A3dError(
                    f"sequence {number}: tokens from {own.min()} to {own.max()}; the vocabulary is 0 to "
                    f"{self.description.vocabulary - 1}"
                )

    def _normalise(self, rows: Int, norm: Norm) -> npt.NDArray[Any]:
        """Return a norm's output; measurements put other roundings here."""
        return normalise(rows, norm)

    def _layer(
        self,
        number: int,
        layer: DecoderLayer,
        residual: Int,
        positions: Int,
        caches: Sequence[KeyValueCache],
        counts: Sequence[int],
    ) -> tuple[Int, Routing, IntegerTrace]:
        """Run a layer on residual rows [tokens, hidden]; keys and values go to the caches."""
        kind, mlp = self.attention, self.description.layers[number].mlp
        x = self._normalise(residual, layer.attention_norm)
        rows = matrix_rows(x, layer.qkv).reshape(len(x), -1, kind.head_dim)
        cosines, sines = self.model.rope_cos[positions], self.model.rope_sin[positions]
        q_heads, k_heads = kind.heads, kind.heads + kind.kv_heads
        query = rotate(normalise_heads(rows[:, :q_heads], layer.query_norm), cosines, sines)
        key = rotate(normalise_heads(rows[:, q_heads:k_heads], layer.key_norm), cosines, sines)
        value = value_bytes(rows[:, k_heads:])
        parts, first = [], 0
        for cache, count in zip(caches, counts, strict=True):
            own, end = slice(first, first + count), cache.length + count
            keys, values = cache.keys[number], cache.values[number]
            keys[:, cache.length : end] = key[own].swapaxes(0, 1)
            values[:, cache.length : end] = value[own].swapaxes(0, 1)
            parts.append(attend(query[own], keys[:, :end], values[:, :end], cache.length, layer.heads, self.key_block))
            first += count
        context = np.concatenate(parts).reshape(len(x), -1)
        middle = combine_add(residual, ONE_Q15, matrix_rows(context, layer.output))
        y = self._normalise(middle, layer.expert_norm)
        logits = np.zeros((len(x), 0), dtype=np.int64)
        chosen = Routing(experts=np.zeros((len(x), 0), np.int64), gates=np.zeros((len(x), 0), np.uint16))
        out = middle.copy()
        if isinstance(mlp, Experts):
            logits = matrix_rows(y, layer.router)
            chosen = route(logits, mlp.chosen, normalised=mlp.router.normalised)
            _add_experts(out, layer.experts, y, chosen.experts, chosen.gates)
        if layer.common is not None:
            out = combine_add(out, ONE_Q15, expert_rows(layer.common, y))
        out = wrap(out, 32)
        seen = IntegerTrace(
            attention_input=x, query=query, key=key, value=value, context=context,
            residual_middle=middle.astype(np.int32), expert_input=y, router=logits.astype(np.int16),
            residual_out=out.astype(np.int32),
        )  # fmt: skip
        return out, chosen, seen
