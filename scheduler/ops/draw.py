# SPDX-License-Identifier: Apache-2.0
"""Routings that are drawn, for steps whose own is not known."""

from __future__ import annotations

import numpy as np

from scheduler.models.description import Experts, Model
from scheduler.ops.batch import Routing
from scheduler.ops.steps_file import Q15

__all__ = ["draw_routing"]


def draw_routing(model: Model, tokens: int, rng: np.random.Generator) -> list[Routing | None]:
    """Return a routing of some tokens in each layer (None: one without experts): all experts are equally likely."""
    found: list[Routing | None] = []
    for layer in model.layers:
        if not isinstance(layer.mlp, Experts):
            found.append(None)
            continue
        order = np.argsort(rng.random((tokens, layer.mlp.count)), axis=1)[:, : layer.mlp.chosen]
        gates = np.full(order.shape, Q15 // layer.mlp.chosen, dtype=np.uint16)
        found.append(Routing(order.astype(np.int64), gates))
    return found
