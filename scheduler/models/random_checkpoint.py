# SPDX-License-Identifier: Apache-2.0
"""Untrained models of any shape: for tests on machines that the demo model does not fit."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from scheduler.models.checkpoint import Checkpoint, LayerWeights
from scheduler.models.description import Experts, Model, QkNorm
from scheduler.models.quantise import ExpertWeights

__all__ = ["random_checkpoint"]


def random_checkpoint(model: Model, seed: int = 0) -> Checkpoint:
    """Return a checkpoint whose random weights keep activations at the size that trained models have.

    Parameters
    ----------
    model : Model
        Shape; complete.
    seed : int
        Of the weights.
    """
    rng = np.random.default_rng(seed)
    attention, hidden = model.attention, model.hidden
    q, kv = attention.heads * attention.head_dim, attention.kv_heads * attention.head_dim

    def matrix(*shape: int) -> npt.NDArray[np.float32]:
        weights: npt.NDArray[np.float64] = rng.normal(size=shape) * 1.5 / np.sqrt(shape[-1])
        return weights.astype(np.float32)

    def norm(size: int = hidden) -> npt.NDArray[np.float32]:
        return rng.uniform(0.5, 1.5, size).astype(np.float32)

    def layer(number: int) -> LayerWeights:
        mlp = model.layers[number].mlp
        routed = isinstance(mlp, Experts)
        count, inner = (mlp.count, mlp.intermediate) if isinstance(mlp, Experts) else (0, 0)
        whole, normed = attention.qk_norm == QkNorm.WHOLE, attention.qk_norm != QkNorm.NONE
        return LayerWeights(
            input_norm=norm(), q_proj=matrix(q, hidden), k_proj=matrix(kv, hidden), v_proj=matrix(kv, hidden),
            o_proj=matrix(hidden, q), post_attention_norm=norm(), router=matrix(count, hidden),
            w1=matrix(count, inner, hidden), w2=matrix(count, hidden, inner) if routed else matrix(0, hidden, 1),
            w3=matrix(count, inner, hidden),
            q_norm=norm(q if whole else attention.head_dim) if normed else None,
            k_norm=norm(kv if whole else attention.head_dim) if normed else None,
            common=None if routed else ExpertWeights(
                gate=matrix(mlp.intermediate, hidden), up=matrix(mlp.intermediate, hidden),
                down=matrix(hidden, mlp.intermediate),
            ),
        )  # fmt: skip

    embed = rng.normal(size=(model.vocabulary, hidden)).astype(np.float32)
    layers = tuple(layer(number) for number in range(len(model.layers)))
    head = embed if model.tied else matrix(model.vocabulary, hidden)
    return Checkpoint(description=model, embed=embed, layers=layers, norm=norm(), lm_head=head)
