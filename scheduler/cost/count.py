# SPDX-License-Identifier: Apache-2.0
"""How much arithmetic and data movement a step of a language model is, whatever runs it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scheduler.ops.batch import Chunk, Routing
from scheduler.plan.shape import ModelShape

__all__ = ["compulsory_bytes", "step_macs"]


def step_macs(shape: ModelShape, chunks: Sequence[Chunk]) -> int:
    """Return the useful multiply-accumulates of a step, nothing padded.

    All matrices for every new token, of the experts only the chosen ones; scores and context for the keys that a token
    sees; the language-model head for the last token of each sequence.
    """
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    per_token = shape.hidden * (queries + 2 * keys) + queries * shape.hidden + shape.hidden * shape.experts
    per_token += shape.chosen * 3 * shape.hidden * shape.intermediate
    tokens = sum(len(chunk.tokens) for chunk in chunks)
    seen = sum(len(c.tokens) * c.position + len(c.tokens) * (len(c.tokens) + 1) // 2 for c in chunks)
    head = len(chunks) * shape.hidden * shape.vocabulary
    return shape.layers * (tokens * per_token + 2 * seen * queries) + head


def compulsory_bytes(shape: ModelShape, chunks: Sequence[Chunk], routing: Sequence[Routing]) -> int:
    """Return the bytes that a step must move when the chip holds nothing before it.

    Every weight that is used, once (one byte each; of the experts those that some token chose); the keys and values of
    earlier tokens read once, those of new tokens written once (one byte each).
    """
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    dense = shape.hidden * (queries + 2 * keys) + queries * shape.hidden + shape.hidden * shape.experts
    used = sum(np.unique(route.experts).size for route in routing)
    weights = shape.layers * dense + used * 3 * shape.hidden * shape.intermediate + shape.hidden * shape.vocabulary
    return weights + shape.layers * 2 * keys * sum(chunk.end for chunk in chunks)
