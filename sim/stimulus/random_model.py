# SPDX-License-Identifier: Apache-2.0
"""Random quantised models of any shape: they say nothing sensible, but use every range of the machine's numbers."""

from __future__ import annotations

import numpy as np

from scheduler.models.description import DenseMlp, Experts, Model, QkNorm
from scheduler.models.fixed_point import ROPE_BITS
from scheduler.models.quantise import QuantisedExpert, QuantisedLayer, QuantisedMatrix
from scheduler.models.quantised_model import AttentionHead, DecoderLayer, Norm, QuantisedModel, WeightedNorm

__all__ = ["random_model"]

WEIGHT_MAX = 119


def random_model(model: Model, seed: int) -> QuantisedModel:
    """Return a model with random weights and with scales that keep most of its values in range.

    Parameters
    ----------
    model : Model
        What it is made of; complete.
    seed : int
        Seed that repeats it.
    """
    rng = np.random.default_rng(seed)
    hidden, attention = model.hidden, model.attention
    queries, keys = attention.heads * attention.head_dim, attention.kv_heads * attention.head_dim

    def weights(outputs: int, inputs: int) -> np.ndarray:
        return rng.integers(-WEIGHT_MAX, WEIGHT_MAX + 1, (outputs, inputs)).astype(np.int8)

    def mult(count: int) -> np.ndarray:
        return rng.integers(20_000, 65_536, count).astype(np.uint16)

    def shift(inputs: int, bits: int) -> int:
        """Return the shift that brings random sums of `inputs` products to numbers of `bits` bits."""
        spread = np.log2(70.0 * 60.0 * np.sqrt(inputs) * 40_000)
        return int(max(0, round(spread - (bits - 2.5) + rng.uniform(-0.5, 0.5))))

    def matrix(outputs: int, inputs: int, bits: int = 16) -> QuantisedMatrix:
        return QuantisedMatrix(weights=weights(outputs, inputs), mult=mult(outputs), shift=shift(inputs, bits))

    def norm() -> Norm:
        # Residual rows of about 2**26; the norm makes numbers of about 2**5 of them.
        in_shift = int(rng.integers(10, 13))
        return Norm(in_shift=in_shift, eps=int(rng.integers(0, 65_536)), eps_shift=int(rng.integers(0, 8)),
                    mult=int(rng.integers(30_000, 65_536)), shift=int(27 - np.log2(np.sqrt(hidden))))  # fmt: skip

    def head_norms() -> tuple[WeightedNorm | None, WeightedNorm | None]:
        """Return the norms of queries and keys: numbers of about 2**11, then of about 2**13 with their weights."""
        if attention.qk_norm == QkNorm.NONE:
            return None, None
        found = []
        for heads in (attention.heads, attention.kv_heads):
            channels = attention.head_dim * (heads if attention.qk_norm == QkNorm.WHOLE else 1)
            own = Norm(in_shift=0, eps=int(rng.integers(0, 65_536)), eps_shift=int(rng.integers(0, 4)),
                       mult=int(rng.integers(30_000, 65_536)), shift=int(21 - np.log2(np.sqrt(channels))))  # fmt: skip
            if attention.qk_norm == QkNorm.HEAD and found:
                own = found[0].norm
            found.append(WeightedNorm(own, rng.integers(-32_768, 32_768, channels).astype(np.int16), shift=12))
        return found[0], found[1]

    def mlps(count: int, inner: int) -> tuple[QuantisedExpert, ...]:
        """Return gated MLPs that have all but weights and multipliers in common."""
        up_shift, post_mult, down_shift = shift(hidden, 14), int(mult(1)[0]), shift(inner, 14)
        return tuple(
            QuantisedExpert(
                gate=weights(inner, hidden), up=weights(inner, hidden), down=weights(hidden, inner),
                gate_mult=mult(inner), up_mult=mult(inner), up_shift=up_shift, post_mult=post_mult, post_shift=32,
                down_mult=mult(hidden), down_shift=down_shift,
            )
            for _ in range(count)
        )  # fmt: skip

    def head() -> AttentionHead:
        return AttentionHead(
            score_mult=int(mult(1)[0]), score_shift=shift(attention.head_dim, 12), value_mult=int(mult(1)[0]),
            value_shift=16, context_mult=int(rng.integers(30_000, 65_536)), context_shift=int(rng.integers(14, 20)),
        )  # fmt: skip

    def layer(mlp: Experts | DenseMlp) -> DecoderLayer:
        attention_norm, qkv = norm(), matrix(queries + 2 * keys, hidden)
        heads, output = tuple(head() for _ in range(attention.kv_heads)), matrix(hidden, queries, 10)
        experts = mlp.count if isinstance(mlp, Experts) else 0
        shared = mlp.shared if isinstance(mlp, Experts) else mlp.intermediate
        expert_norm, router = norm(), matrix(experts, hidden, 12)
        routed = QuantisedLayer(mlps(experts, mlp.intermediate), 1.0, 1.0)
        query_norm, key_norm = head_norms()
        return DecoderLayer(
            attention_norm=attention_norm, qkv=qkv, query_norm=query_norm, key_norm=key_norm, heads=heads,
            output=output, expert_norm=expert_norm, router=router, experts=routed,
            common=mlps(1, shared)[0] if shared else None,
        )  # fmt: skip

    layers = tuple(layer(own.mlp) for own in model.layers)
    angle = np.outer(
        np.arange(model.context), model.rope_theta ** (-np.arange(0, attention.head_dim, 2) / attention.head_dim)
    )
    cos, sin = np.repeat(np.cos(angle), 2, axis=1), np.repeat(np.sin(angle), 2, axis=1)
    sin[:, 0::2] *= -1
    return QuantisedModel(
        description=model,
        embedding=rng.integers(-32_768, 32_768, (model.vocabulary, hidden)).astype(np.int16),
        embedding_shift=int(rng.integers(0, 10)),
        rope_cos=np.rint(cos * (1 << ROPE_BITS)).astype(np.int16),
        rope_sin=np.rint(sin * (1 << ROPE_BITS)).astype(np.int16),
        layers=layers,
        final_norm=norm(),
        head=matrix(model.vocabulary, hidden),
        key_block=1 << 20,
        residual_scale=1.0,
        logit_scale=1.0,
    )
