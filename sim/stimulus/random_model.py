# SPDX-License-Identifier: Apache-2.0
"""Random quantised models of any shape: they say nothing sensible, but use every range of the machine's numbers."""

from __future__ import annotations

import numpy as np

from scheduler.models.checkpoint import MixtralConfig
from scheduler.models.fixed_point import ROPE_BITS
from scheduler.models.quantise import QuantisedExpert, QuantisedLayer, QuantisedMatrix
from scheduler.models.quantised_model import AttentionHead, DecoderLayer, Norm, QuantisedModel

__all__ = ["random_model"]

WEIGHT_MAX = 119


def random_model(config: MixtralConfig, seed: int) -> QuantisedModel:
    """Return a model with random weights and with scales that keep most of its values in range.

    Parameters
    ----------
    config : MixtralConfig
        Dimensions.
    seed : int
        Seed that repeats it.
    """
    rng = np.random.default_rng(seed)
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim

    def weights(outputs: int, inputs: int) -> np.ndarray:
        return rng.integers(-WEIGHT_MAX, WEIGHT_MAX + 1, (outputs, inputs)).astype(np.int8)

    def mult(count: int) -> np.ndarray:
        return rng.integers(20_000, 65_536, count).astype(np.uint16)

    def shift(inputs: int, bits: int) -> int:
        """Return the shift that brings random sums of `inputs` products to numbers of `bits` bits."""
        spread = np.log2(70.0 * 60.0 * np.sqrt(inputs) * 40_000)
        return int(max(0, round(spread - (bits - 2.5) + rng.uniform(-0.5, 0.5))))

    def matrix(outputs: int, inputs: int, bits: int = 16) -> QuantisedMatrix:
        return QuantisedMatrix(weights(outputs, inputs), mult(outputs), shift(inputs, bits))

    def norm() -> Norm:
        # Residual rows of about 2**26; the norm makes numbers of about 2**5 of them.
        in_shift = int(rng.integers(10, 13))
        return Norm(in_shift=in_shift, eps=int(rng.integers(0, 65_536)), eps_shift=int(rng.integers(0, 8)),
                    mult=int(rng.integers(30_000, 65_536)), shift=int(27 - np.log2(np.sqrt(hidden))))  # fmt: skip

    def experts() -> QuantisedLayer:
        """Return a layer's experts, which have all but weights and multipliers in common."""
        up_shift, post_mult, down_shift = shift(hidden, 14), int(mult(1)[0]), shift(inner, 14)
        return QuantisedLayer(
            tuple(
                QuantisedExpert(
                    gate=weights(inner, hidden), up=weights(inner, hidden), down=weights(hidden, inner),
                    gate_mult=mult(inner), up_mult=mult(inner), up_shift=up_shift, post_mult=post_mult, post_shift=32,
                    down_mult=mult(hidden), down_shift=down_shift,
                )
                for _ in range(config.num_local_experts)
            ), 1.0, 1.0,
        )  # fmt: skip

    def head() -> AttentionHead:
        return AttentionHead(
            score_mult=int(mult(1)[0]), score_shift=shift(config.head_dim, 12), value_mult=int(mult(1)[0]),
            value_shift=16, context_mult=int(rng.integers(30_000, 65_536)), context_shift=int(rng.integers(14, 20)),
        )  # fmt: skip

    layers = tuple(
        DecoderLayer(
            attention_norm=norm(), qkv=matrix(queries + 2 * keys, hidden),
            heads=tuple(head() for _ in range(config.num_key_value_heads)), output=matrix(hidden, queries, 10),
            expert_norm=norm(), router=matrix(config.num_local_experts, hidden, 12),
            experts=experts(),
        )
        for _ in range(config.num_hidden_layers)
    )  # fmt: skip
    angle = np.outer(
        np.arange(config.max_position_embeddings),
        config.rope_theta ** (-np.arange(0, config.head_dim, 2) / config.head_dim),
    )
    cos, sin = np.repeat(np.cos(angle), 2, axis=1), np.repeat(np.sin(angle), 2, axis=1)
    sin[:, 0::2] *= -1
    return QuantisedModel(
        config=config,
        embedding=rng.integers(-32_768, 32_768, (config.vocab_size, hidden)).astype(np.int16),
        embedding_shift=int(rng.integers(0, 10)),
        rope_cos=np.rint(cos * (1 << ROPE_BITS)).astype(np.int16),
        rope_sin=np.rint(sin * (1 << ROPE_BITS)).astype(np.int16),
        layers=layers,
        final_norm=norm(),
        head=matrix(config.vocab_size, hidden),
        key_block=1 << 20,
        residual_scale=1.0,
        logit_scale=1.0,
    )
