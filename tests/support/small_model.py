# SPDX-License-Identifier: Apache-2.0
"""A small random Mixtral, and its directory with text beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scheduler.models.checkpoint import Checkpoint
from scheduler.models.random_checkpoint import random_checkpoint
from tests.support.checkpoints import small_model, write_model

SHAPE = small_model(
    "mixtral", vocabulary=128, hidden=32, intermediate=16, layers=2, heads=4, kv_heads=2, head_dim=8, experts=4,
    chosen=2,
)  # fmt: skip
CHECKPOINT = random_checkpoint(SHAPE, seed=5)


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a model directory with text beside it."""
    write_model(folder, checkpoint)
    (folder / "heldout.txt").write_bytes(np.random.default_rng(2).integers(32, 127, 1000).astype(np.uint8).tobytes())
