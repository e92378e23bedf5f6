# SPDX-License-Identifier: Apache-2.0
"""How much arithmetic and data movement a step of a language model is, whatever runs it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scheduler.models.description import Attention, Experts, GroupedAttention, Layer, Model
from scheduler.ops.batch import Chunk, Routing

__all__ = ["compulsory_bytes", "step_macs"]


def step_macs(model: Model, chunks: Sequence[Chunk]) -> int:
    """Return the useful multiply-accumulates of a step, nothing padded.

    All matrices for every new token, of the routed experts only the chosen ones; scores and context for the keys that a
    token sees; the language-model head for the last token of each sequence.
    """
    tokens = sum(len(chunk.tokens) for chunk in chunks)
    total = len(chunks) * model.hidden * model.vocabulary
    for layer in model.layers:
        chosen = layer.mlp.chosen if isinstance(layer.mlp, Experts) else 0
        total += tokens * _matrix_weights(layer, model.hidden, chosen)
        total += _key_macs(layer.attention) * sum(_seen(layer.attention, chunk) for chunk in chunks)
    return total


def compulsory_bytes(model: Model, chunks: Sequence[Chunk], routing: Sequence[Routing | None]) -> int:
    """Return the bytes that a step must move when the chip holds nothing before it.

    Every weight that is used, once (one byte each; of the routed experts those that some token chose); the keys and
    values of earlier tokens that are seen read once, those of new tokens written once (one byte each).

    Parameters
    ----------
    model : Model
    chunks : sequence of Chunk
        New tokens of each sequence.
    routing : sequence of Routing or None
        Experts of every layer; None, or none chosen: a layer without routed experts.
    """
    total = model.hidden * model.vocabulary
    for layer, route in zip(model.layers, routing, strict=True):
        used = 0 if route is None else np.unique(route.experts).size
        total += _matrix_weights(layer, model.hidden, used)
        window = _window(layer.attention)
        for chunk in chunks:
            before = chunk.position if window is None else min(chunk.position, window - 1)
            total += _cached_bytes(layer.attention) * (before + len(chunk.tokens))
    return total


def _matrix_weights(layer: Layer, hidden: int, experts: int) -> int:
    """Return the weights of a layer's matrices with some of its routed experts."""
    attention, mlp = layer.attention, layer.mlp
    if isinstance(attention, GroupedAttention):
        queries, keys = attention.heads * attention.head_dim, attention.kv_heads * attention.head_dim
        weights = hidden * (queries + 2 * keys) + queries * hidden
    else:
        head = attention.plain_dim + attention.rope_dim
        source = attention.query_rank or hidden
        weights = hidden * (attention.query_rank + attention.kv_rank + attention.rope_dim)
        weights += attention.heads * (
            source * head
            + attention.kv_rank * (attention.plain_dim + attention.value_dim)
            + attention.value_dim * hidden
        )
    if not isinstance(mlp, Experts):
        return weights + 3 * hidden * mlp.intermediate
    return weights + hidden * mlp.count + 3 * hidden * (experts * mlp.intermediate + mlp.shared)


def _key_macs(attention: Attention) -> int:
    """Return the multiply-accumulates of a token's scores and context for each key that it sees."""
    if isinstance(attention, GroupedAttention):
        return 2 * attention.heads * attention.head_dim
    return attention.heads * (2 * attention.kv_rank + attention.rope_dim)  # keys and values are the latent vector


def _cached_bytes(attention: Attention) -> int:
    """Return the bytes of a token's keys and values in the cache."""
    if isinstance(attention, GroupedAttention):
        return 2 * attention.kv_heads * attention.head_dim
    return attention.kv_rank + attention.rope_dim


def _window(attention: Attention) -> int | None:
    return attention.window if isinstance(attention, GroupedAttention) else None


def _seen(attention: Attention, chunk: Chunk) -> int:
    """Return the keys that a chunk's tokens see, all together."""
    window, count = _window(attention), len(chunk.tokens)
    if window is None:
        return count * chunk.position + count * (count + 1) // 2
    return sum(min(position + 1, window) for position in range(chunk.position, chunk.end))
