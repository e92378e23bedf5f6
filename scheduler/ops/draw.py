# SPDX-License-Identifier: Apache-2.0
"""Routings that are drawn, for steps whose own is not known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from scheduler.models.description import Experts, Model
from scheduler.ops.batch import Routing
from scheduler.ops.steps_file import Q15

__all__ = ["draw_gates", "draw_routing"]


def draw_routing(
    model: Model, tokens: int, rng: np.random.Generator, shares: Sequence[Sequence[float]] = ()
) -> list[Routing | None]:
    """Return a routing of some tokens in each layer (None: one without experts).

    Parameters
    ----------
    model : Model
    tokens : int
    rng : numpy Generator
    shares : sequence of sequences of float, optional
        Of each layer, how likely its experts are; without them, and where they are empty, all are equally likely.
    """
    found: list[Routing | None] = []
    gates = rng.spawn(1)[0]  # experts are the same whatever gates take
    for number, layer in enumerate(model.layers):
        if not isinstance(layer.mlp, Experts):
            found.append(None)
            continue
        keys = rng.random((tokens, layer.mlp.count))
        if shares and len(shares[number]):  # drawn one after the other without replacement (Gumbel's trick)
            keys = -np.log(np.asarray(shares[number])) + np.log(-np.log(keys))
        order = np.argsort(keys, axis=1)[:, : layer.mlp.chosen]
        found.append(Routing(order.astype(np.int64), draw_gates(tokens, layer.mlp.chosen, gates)))
    return found


def draw_gates(tokens: int, chosen: int, rng: np.random.Generator) -> npt.NDArray[np.uint16]:
    """Return gates of some tokens, Q15 [tokens, chosen]: any division of one is as likely as another, largest first."""
    parts = np.sort(rng.dirichlet(np.ones(chosen), tokens), axis=1)[:, ::-1]
    return np.floor(parts * Q15).astype(np.uint16)
