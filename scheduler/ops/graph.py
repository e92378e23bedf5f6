# SPDX-License-Identifier: Apache-2.0
"""A step of a model as a graph of operations: what a family's layers are made of, for the tokens of one step.

The order is a sequential one; `reads` and `writes` are the edges. Counts are those of the published widths, without
padding, so that what a machine makes of them can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scheduler.models.description import (
    DenseMlp,
    GroupedAttention,
    LatentAttention,
    Layer,
    Model,
    QkNorm,
    Scoring,
)
from scheduler.ops.batch import Chunk, Routing
from scheduler.ops.operation import Kind, Operation

__all__ = ["expected_experts", "layer_operations", "seen_keys", "step_operations"]

NORM_PASSES = 2
"""Passes of the vector unit over what it norms: sum of squares, scale."""
SOFTMAX_PASSES = 2
"""Passes over scores: maximum, exponential."""


def seen_keys(chunks: Sequence[Chunk], window: int | None = None) -> int:
    """Return the pairs of a new token and a key that it sees."""
    total = 0
    for chunk in chunks:
        if window is None:
            count = len(chunk.tokens)
            total += count * chunk.position + count * (count + 1) // 2
        else:
            total += sum(min(window, position + 1) for position in range(chunk.position, chunk.end))
    return total


def _cached(chunks: Sequence[Chunk], window: int | None) -> int:
    """Return the keys that must be read: of earlier tokens, each once for a sequence; new ones are made on the chip.

    Those of a prefix that sequences have in common count once for all of them.
    """
    own, common = 0, dict[int, tuple[int, int]]()  # first and end of what is read in a prefix's place
    for chunk in chunks:
        first = 0 if window is None else max(0, chunk.position - window + 1)
        border = 0 if chunk.prefix is None else chunk.prefix.tokens
        own += chunk.position - max(first, border)
        if chunk.prefix is not None and first < border:
            begin, end = common.get(chunk.prefix.sequence, (first, border))
            common[chunk.prefix.sequence] = min(begin, first), max(end, border)
    for chunk in chunks:  # the prefix's own sequence may read it in the same step
        if chunk.prefix is None and chunk.sequence in common:
            begin, end = common[chunk.sequence]
            first = 0 if window is None else max(0, chunk.position - window + 1)
            own -= max(0, min(end, chunk.position) - max(begin, first))
    return own + sum(end - begin for begin, end in common.values())


def expected_experts(experts: int, chosen: int, tokens: int) -> float:
    """Return how many experts at least one token chooses, when all are equally likely."""
    return float(experts * (1 - (1 - chosen / experts) ** tokens))


def step_operations(
    model: Model,
    chunks: Sequence[Chunk],
    routing: Sequence[Routing | None] | None = None,
    outputs: int | None = None,
) -> tuple[Operation, ...]:
    """Return the operations of a step in sequential order.

    Parameters
    ----------
    model : Model
    chunks : sequence of Chunk
        New tokens of each sequence.
    routing : sequence of Routing or None, optional
        Experts of each layer; without it as many experts count as used as a uniform routing would use.
    outputs : int, optional
        Sequences whose logits are wanted; default: all.
    """
    tokens = sum(len(chunk.tokens) for chunk in chunks)
    outputs = len(chunks) if outputs is None else outputs
    sequences = tuple(chunk.sequence for chunk in chunks)
    found = [
        Operation(
            name="embed", kind=Kind.EMBED, layer=-1, tokens=tokens, reads=(), writes=("residual",),
            tensors=("embed",), weight_bytes=2 * tokens * model.hidden, sequences=sequences,
        )
    ]  # fmt: skip
    for number in range(len(model.layers)):
        route = None if routing is None else routing[number]
        used = None if route is None or not route.experts.size else np.unique(route.experts).size
        found += layer_operations(model, number, chunks, used)
    found += [
        Operation(
            name="final_norm", kind=Kind.NORM, layer=-1, tokens=outputs, reads=("residual",), writes=("x",),
            tensors=("norm",), elements=NORM_PASSES * outputs * model.hidden, sequences=sequences,
        ),
        Operation(
            name="head", kind=Kind.HEAD, layer=-1, tokens=outputs, reads=("x",), writes=("logits",),
            tensors=("embed" if model.tied else "head",), macs=outputs * model.hidden * model.vocabulary,
            weight_bytes=model.hidden * model.vocabulary if outputs else 0, sequences=sequences,
        ),
    ]  # fmt: skip
    return tuple(found)


def layer_operations(model: Model, number: int, chunks: Sequence[Chunk], used: int | None = None) -> list[Operation]:
    """Return the operations of one layer; `used` is the number of its experts that some token chose."""
    layer = model.layers[number]
    return [*_Builder(model, number, chunks).attention(layer), *_Builder(model, number, chunks).mlp(layer, used)]


class _Builder:
    """Makes the operations of one layer."""

    def __init__(self, model: Model, number: int, chunks: Sequence[Chunk]) -> None:
        self.model = model
        self.number = number
        self.chunks = chunks
        self.tokens = sum(len(chunk.tokens) for chunk in chunks)
        self.sequences = tuple(chunk.sequence for chunk in chunks)

    def one(
        self, kind: Kind, name: str, reads: str, writes: str, tensors: tuple[str, ...] = (), **counts: int
    ) -> Operation:
        def local(values: str) -> tuple[str, ...]:
            return tuple(v if v == "residual" else f"layer{self.number}.{v}" for v in values.split())

        return Operation(
            name=f"layer{self.number}.{name}", kind=kind, layer=self.number, tokens=self.tokens, reads=local(reads),
            writes=local(writes), tensors=tuple(f"layers.{self.number}.{t}" for t in tensors),
            sequences=self.sequences, **counts,
        )  # fmt: skip

    def norm(self, name: str, writes: str) -> Operation:
        return self.one(
            Kind.NORM, name, "residual", writes, (name,), elements=NORM_PASSES * self.tokens * self.model.hidden
        )  # fmt: skip

    def matrix(
        self, name: str, reads: str, writes: str, tensors: tuple[str, ...], inputs: int, outputs: int
    ) -> Operation:
        size = inputs * outputs
        return self.one(Kind.PROJECT, name, reads, writes, tensors, macs=self.tokens * size, weight_bytes=size)

    def attention(self, layer: Layer) -> list[Operation]:
        attention = layer.attention
        if isinstance(attention, LatentAttention):
            return self.latent(attention)
        return self.grouped(attention)

    def grouped(self, a: GroupedAttention) -> list[Operation]:
        hidden, tokens = self.model.hidden, self.tokens
        queries, keys = a.heads * a.head_dim, a.kv_heads * a.head_dim
        found = [
            self.norm("norm1", "x"),
            self.matrix("qkv", "x", "q k v", ("q", "k", "v"), hidden, queries + 2 * keys),
        ]
        if a.qk_norm != QkNorm.NONE:
            found.append(
                self.one(Kind.HEAD_NORM, "qk_norm", "q k", "q k", ("q_norm", "k_norm"),
                         elements=(NORM_PASSES + 1) * tokens * (queries + keys))
            )  # fmt: skip
        found += [
            self.one(Kind.ROTATE, "rotate", "q k", "q k", elements=tokens * (queries + keys)),
            self.one(Kind.APPEND, "append", "k v", "cache", cache_written=tokens * 2 * keys),
            self.attend("q cache", a.heads, a.kv_heads, a.head_dim, a.head_dim, a.window),
            self.matrix("output", "context", "residual", ("o",), queries, hidden),
        ]
        return found

    def attend(
        self, reads: str, heads: int, kv_heads: int, key: int, value: int, window: int | None = None, shared: int = 0
    ) -> Operation:
        """Return the attention over the cache; `shared` are channels that keys and values have in common."""
        seen = seen_keys(self.chunks, window)
        cached = _cached(self.chunks, window)
        return self.one(
            Kind.ATTEND, "attend", reads, "context", macs=heads * seen * (key + value),
            cache_read=cached * kv_heads * (key + value - shared),
            elements=heads * (SOFTMAX_PASSES * seen + self.tokens * value),
        )  # fmt: skip

    def latent(self, a: LatentAttention) -> list[Operation]:
        hidden, tokens = self.model.hidden, self.tokens
        cached = a.kv_rank + a.rope_dim
        source = a.query_rank or hidden
        found = [
            self.norm("norm1", "x"),
            self.matrix("latent", "x", "latent", ("latent",), hidden, a.query_rank + cached),
            self.one(Kind.HEAD_NORM, "latent_norm", "latent", "latent", ("latent_norm",),
                     elements=NORM_PASSES * tokens * (a.query_rank + a.kv_rank)),
            self.matrix("query", "latent" if a.query_rank else "x", "q", ("q",), source,
                        a.heads * (a.plain_dim + a.rope_dim)),
            self.one(Kind.ROTATE, "rotate", "q latent", "q latent", elements=tokens * (a.heads + 1) * a.rope_dim),
            self.one(Kind.APPEND, "append", "latent", "cache", cache_written=tokens * cached),
            # Each head's projection of keys is applied to its query, so that scores are with the latent vector.
            self.matrix("absorb", "q", "q", ("k_up",), a.plain_dim, a.heads * a.kv_rank),
            self.attend("q cache", a.heads, 1, cached, a.kv_rank, shared=a.kv_rank),
            self.matrix("expand", "context", "context", ("v_up",), a.kv_rank, a.heads * a.value_dim),
            self.matrix("output", "context", "residual", ("o",), a.heads * a.value_dim, hidden),
        ]  # fmt: skip
        return found

    def mlp(self, layer: Layer, used: int | None) -> list[Operation]:
        hidden, tokens, mlp = self.model.hidden, self.tokens, layer.mlp
        found = [self.norm("norm2", "y")]
        if isinstance(mlp, DenseMlp):
            return [*found, self.gated("mlp", mlp.intermediate)]
        count = used if used is not None else round(expected_experts(mlp.count, mlp.chosen, tokens))
        passes = mlp.chosen + 1 + (2 if mlp.router.scoring == Scoring.SIGMOID else int(not mlp.router.normalised))
        found += [
            self.matrix("router", "y", "scores", ("router",), hidden, mlp.count),
            self.one(Kind.ROUTE, "route", "scores", "gates", elements=passes * tokens * mlp.count),
            self.one(
                Kind.EXPERTS, "experts", "y gates", "residual", ("experts",),
                macs=tokens * mlp.chosen * 3 * hidden * mlp.intermediate,
                weight_bytes=count * 3 * hidden * mlp.intermediate,
            ),
        ]  # fmt: skip
        return [*found, self.gated("shared", mlp.shared)] if mlp.shared else found

    def gated(self, name: str, inner: int) -> Operation:
        size = 3 * self.model.hidden * inner
        return self.one(Kind.MLP, name, "y", "residual", (name,), macs=self.tokens * size, weight_bytes=size)
