# SPDX-License-Identifier: Apache-2.0
"""Untrained models of any shape: for tests on machines that the demo model does not fit."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from scheduler.models.checkpoint import Checkpoint, LayerWeights, MixtralConfig

__all__ = ["random_checkpoint"]


def random_checkpoint(config: MixtralConfig, seed: int = 0) -> Checkpoint:
    """Return a checkpoint whose random weights keep activations at the size that trained models have.

    Parameters
    ----------
    config : MixtralConfig
        Shape.
    seed : int
        Of the weights.
    """
    rng = np.random.default_rng(seed)
    c = config
    q, kv = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    experts, inner, hidden = c.num_local_experts, c.intermediate_size, c.hidden_size

    def matrix(*shape: int) -> npt.NDArray[np.float32]:
        weights: npt.NDArray[np.float64] = rng.normal(size=shape) * 1.5 / np.sqrt(shape[-1])
        return weights.astype(np.float32)

    def norm() -> npt.NDArray[np.float32]:
        return rng.uniform(0.5, 1.5, hidden).astype(np.float32)

    embed = rng.normal(size=(c.vocab_size, hidden)).astype(np.float32)
    layers = tuple(
        LayerWeights(
            input_norm=norm(), q_proj=matrix(q, hidden), k_proj=matrix(kv, hidden), v_proj=matrix(kv, hidden),
            o_proj=matrix(hidden, q), post_attention_norm=norm(), router=matrix(experts, hidden),
            w1=matrix(experts, inner, hidden), w2=matrix(experts, hidden, inner), w3=matrix(experts, inner, hidden),
        )
        for _ in range(c.num_hidden_layers)
    )  # fmt: skip
    head = embed if c.tie_word_embeddings else matrix(c.vocab_size, hidden)
    return Checkpoint(config=c, embed=embed, layers=layers, norm=norm(), lm_head=head)
