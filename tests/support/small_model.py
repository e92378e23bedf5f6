# SPDX-License-Identifier: Apache-2.0
"""A small random Mixtral, and its directory with text beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scheduler.models.checkpoint import Checkpoint, MixtralConfig
from scheduler.models.random_checkpoint import random_checkpoint
from tests.support.checkpoints import write_model

SHAPE = MixtralConfig(
    vocab_size=128, hidden_size=32, intermediate_size=16, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, num_local_experts=4, num_experts_per_tok=2, max_position_embeddings=64,
    rms_norm_eps=1e-5, rope_theta=10_000.0,
)  # fmt: skip
CHECKPOINT = random_checkpoint(SHAPE.model, seed=5)


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a model directory with text beside it."""
    write_model(folder, checkpoint)
    (folder / "heldout.txt").write_bytes(np.random.default_rng(2).integers(32, 127, 1000).astype(np.uint8).tobytes())
