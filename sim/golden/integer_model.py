# SPDX-License-Identifier: Apache-2.0
"""The integer model: what a quantised language model computes, exactly, without knowing instructions.

The executor and the RTL, running the scheduler's streams, must give the same bits. With all experts at full precision
a token's result does not depend on which other tokens, of its sequence or of others, are computed in the same step.
With thresholds it does: all tokens of a step together decide what is loaded of each expert.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hdl.errors import A3dError
from hdl.numerics import combine_add, wrap
from hdl.numerics.precision import Thresholds
from scheduler.models.description import Experts
from scheduler.models.fixed_point import (
    ONE_Q15,
)
from scheduler.models.quantised_model import DecoderLayer, Norm, QuantisedModel
from scheduler.ops.batch import Routing
from sim.golden.integer_attention import (
    attend,
    matrix_rows,
    normalise,
    normalise_heads,
    rotate,
    value_bytes,
)
from sim.golden.integer_experts import Decision, add_experts, expert_rows, route, threshold_decision

__all__ = [
    "IntegerModel", "IntegerTrace", "KeyValueCache", "StepResult",
]  # fmt: skip

Int = npt.NDArray[np.int64]


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
    precision : tuple of int64 arrays [experts]
        What was loaded of each expert of every layer, as numbers of `Precision`: SKIP where no token chose it.
    """

    logits: npt.NDArray[np.int16]
    routing: tuple[Routing, ...]
    counts: tuple[int, ...]
    layers: tuple[IntegerTrace, ...] = ()
    precision: tuple[Int, ...] = ()

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

    def step(
        self,
        batch: Sequence[tuple[KeyValueCache, npt.ArrayLike]],
        *,
        precision: Sequence[Thresholds | None] | None = None,
        trace: bool = False,
    ) -> StepResult:
        """Run new tokens of some sequences, prefill and decode in any mixture; the caches grow.

        Parameters
        ----------
        batch : sequence of (KeyValueCache, int array [new tokens])
            Sequences, each named once.
        precision : sequence [layers] of Thresholds or None, optional
            What all tokens of the step together need of each expert; default: both planes of all. A layer without
            experts has an entry too.
        trace : bool
            Also return what every layer holds.

        Raises
        ------
        A3dError
            No sequences or tokens, a sequence named twice, one that is too long, a token out of range, thresholds for
            another number of layers. No cache has changed then.
        """
        layers = len(self.model.layers)
        if precision is not None and len(precision) != layers:
            raise A3dError(f"precision: thresholds for {len(precision)} layers, the model has {layers}; give one each")
        return self.run(batch, threshold_decision([None] * layers if precision is None else precision), trace=trace)

    def run(
        self, batch: Sequence[tuple[KeyValueCache, npt.ArrayLike]], decide: Decision, *, trace: bool = False
    ) -> StepResult:
        """Run new tokens as `step` does, with any decision about what each choice gets."""
        caches = [cache for cache, _ in batch]
        ids = [np.asarray(tokens, dtype=np.int64).reshape(-1) for _, tokens in batch]
        self._check(caches, ids)
        model = self.model
        positions = np.concatenate([cache.length + np.arange(own.size) for cache, own in zip(caches, ids, strict=True)])
        residual = model.embedding[np.concatenate(ids)].astype(np.int64) << model.embedding_shift
        routing, traces, loaded = [], [], []
        counts = [own.size for own in ids]
        for number, layer in enumerate(model.layers):
            residual, chosen, got, seen = self._layer(number, layer, residual, positions, caches, counts, decide)
            routing.append(chosen)
            loaded.append(np.zeros(len(layer.experts.experts), dtype=np.int64))
            np.maximum.at(loaded[-1], chosen.experts, got)
            if trace:
                traces.append(seen)
        for cache, own in zip(caches, ids, strict=True):
            cache.length += own.size
        logits = matrix_rows(self._normalise(residual, model.final_norm), model.head).astype(np.int16)
        return StepResult(logits, tuple(routing), tuple(counts), tuple(traces), tuple(loaded))

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
        decide: Decision,
    ) -> tuple[Int, Routing, Int, IntegerTrace]:
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
        got = np.zeros((len(x), 0), dtype=np.int64)
        out = middle.copy()
        if isinstance(mlp, Experts):
            logits = matrix_rows(y, layer.router)
            chosen = route(logits, mlp.chosen, normalised=mlp.router.normalised)
            got = decide(number, chosen, mlp.count)
            add_experts(out, layer.experts, y, chosen, got)
        if layer.common is not None:
            out = combine_add(out, ONE_Q15, expert_rows(layer.common, y))
        out = wrap(out, 32)
        seen = IntegerTrace(
            attention_input=x, query=query, key=key, value=value, context=context,
            residual_middle=middle.astype(np.int32), expert_input=y, router=logits.astype(np.int16),
            residual_out=out.astype(np.int32),
        )  # fmt: skip
        return out, chosen, got, seen
