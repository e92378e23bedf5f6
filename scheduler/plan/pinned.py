# SPDX-License-Identifier: Apache-2.0
"""Weights that stay in V-Cache from step to step: all dense matrices, and the experts that tokens choose most.

They lie in the first tiles of every tier, whose tags INVALIDATE leaves valid (KEPT_TILES), and have fill tags that
nothing else uses: one for both planes, one for the high plane alone. The host knows what it has loaded there; what it
has not, or what a reset took, a GEMM does not find. Where scores decide about planes and the host knows the routing, an
expert whose high plane is there gets its low plane when a step wants both; when a step wants the high plane alone of an
expert that has both, the high plane is loaded again.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from scheduler.models.description import Experts
from scheduler.plan.residence import Residence

__all__ = ["PINNED_HIGH_TAG", "PINNED_TAG", "Pinned", "dense_tiles", "plan_pinned", "resident"]

PINNED_TAG = 63
"""Fill tag of what stays."""

PINNED_HIGH_TAG = 62
"""Fill tag of an expert that stays, of which only the high plane is there; other fills take the tags below in turn."""


def resident(layer: int, expert: int, high: bool) -> Hashable:
    """Return the name of an expert that stays: with both planes, or its high plane alone."""
    return (layer, expert, "high") if high else (layer, expert)


@dataclass(frozen=True)
class Pinned:
    """Which weights stay, and where.

    Attributes
    ----------
    experts : tuple of tuples of (int, int)
        Layer and number of the expert in each place of a tier (first index) of each tier.
    dense_tiles : int
        Tiles of each tier for the dense matrices of all layers and the head.
    tiles : int
        All tiles of each tier that stay, from the first on.
    """

    experts: tuple[tuple[tuple[int, int], ...], ...]
    dense_tiles: int
    tiles: int

    @property
    def places(self) -> int:
        """Experts of one tier."""
        return len(self.experts)

    def place_of(self, layer: int, expert: int) -> tuple[int, int] | None:
        """Return tier and place of an expert, or None."""
        for place, own in enumerate(self.experts):
            if (layer, expert) in own:
                return own.index((layer, expert)), place
        return None

    def all(self, layers: int) -> frozenset[Hashable]:
        """Return the names of everything: ``"head"``, layers of dense matrices, and experts, with either tag."""
        experts = (resident(*pair, high) for own in self.experts for pair in own for high in (False, True))
        return frozenset(["head", *range(layers), *experts])


def dense_tiles(residence: Residence) -> int:
    """Return the tiles of each tier that the dense matrices of all layers and the head take."""
    tiling = residence.tiling
    head = sum(share.each for share in residence.head) * tiling.hidden_words
    return head + sum(residence.layer_tiles(layer) for layer in tiling.model.layers)


def plan_pinned(
    residence: Residence, shares: Sequence[Sequence[float]], keys: int, experts: bool = True
) -> Pinned | None:  # fmt: skip
    """Return what stays on the chip, or None where nothing can.

    Parameters
    ----------
    residence : Residence
    shares : sequence of sequences of float
        Of each layer, how likely its experts are chosen; empty: all the same.
    keys : int
        Tiles of each tier that the keys and values of the longest sequence need.
    experts : bool
        Experts may stay; where the machine decides which planes of them it needs, only the dense matrices do.
    """
    tiling, config = residence.tiling, residence.tiling.config
    if not residence.resident or residence.gangs or any(len(pieces) != 1 for pieces in residence.pieces.values()):
        return None
    dense, each = dense_tiles(residence), residence.piece_tiles
    room = (config.vcache_tiles - dense - keys) // each if each else 0
    words = max((tiling.expert(mlp.intermediate).words for mlp in _mlps(residence)), default=0)
    if words:
        room = min(room, (config.parameter_words - residence.dense_words) // words)
    if room < 1:
        return None
    places = min(room - 1, -(-sum(m.count for m in _mlps(residence)) // config.tiers))
    likely = _likely(residence, shares)[: places * config.tiers] if experts else []
    rows = tuple(tuple(likely[first : first + config.tiers]) for first in range(0, len(likely), config.tiers))
    return Pinned(rows, dense, dense + len(rows) * each)


def _mlps(residence: Residence) -> Iterable[Experts]:
    return (layer.mlp for layer in residence.tiling.model.layers if isinstance(layer.mlp, Experts))


def _likely(residence: Residence, shares: Sequence[Sequence[float]]) -> list[tuple[int, int]]:
    """Return layer and number of all experts, the likeliest first; equally likely ones layer by layer in turn."""
    found = []
    for number, layer in enumerate(residence.tiling.model.layers):
        if isinstance(layer.mlp, Experts):
            many = layer.mlp.count
            own = shares[number] if number < len(shares) and len(shares[number]) else [1 / many] * many
            found += [(-own[expert] * layer.mlp.chosen, expert, number) for expert in range(many)]
    return [(number, expert) for _, expert, number in sorted(found)]
