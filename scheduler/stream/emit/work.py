# SPDX-License-Identifier: Apache-2.0
"""What the emitters of a step share: constants, memory, places, the emitter, and what is used in turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from scheduler.memory.layer import LayerMemory
from scheduler.memory.model import ModelMemory
from scheduler.models.constants import Constants, LayerConstants
from scheduler.models.description import Layer
from scheduler.plan.places import TAGS, Places
from scheduler.plan.pools import Ring
from scheduler.plan.tiling import HeadTiling
from scheduler.stream.emit.emitter import Emitter

__all__ = ["Work"]


class Work:
    """State of one step's emission.

    Parameters
    ----------
    constants : Constants
        Of the model.
    memory : ModelMemory or LayerMemory
        Where the model, or the experts of a layer alone, lie in memory.
    places : Places
        Where the step's data lie on the chip.
    """

    def __init__(self, constants: Constants, memory: ModelMemory | LayerMemory, places: Places) -> None:
        self.constants = constants
        self.area = memory
        self.experts = memory.experts
        self.places = places
        self.tiling = places.tiling
        self.config = places.config
        self.residence = places.residence
        self.emitter = Emitter(places.config)
        self.every_tier = (1 << self.config.tiers) - 1
        tiles = [
            self.tiling.key_tiles(h, places.key_piece) + self.tiling.value_tiles(h, places.key_piece)
            for h in map(self.tiling.heads, self.tiling.kinds)
        ]  # fmt: skip
        self.key_buffer_tiles = max(1, *tiles)
        self.key_buffers = max(1, places.keys[1] // self.key_buffer_tiles)
        self._key_buffer = [0] * self.config.tiers
        self.lists = [Ring(*places.list_entries) for _ in range(self.config.tiers)]
        self.background: deque[Callable[[], None]] = deque()
        """Loads of weights, in order, that may come between the loads of attention."""
        self._tags = 0
        self._tier = -1
        self._region = -1
        self._scalars = -1
        self._words = [0] * self.config.tiers

    @property
    def memory(self) -> ModelMemory:
        """Where the model lies in memory; of a layer alone there are `experts` and the step's `area` only."""
        assert isinstance(self.area, ModelMemory)
        return self.area

    def layer(self, number: int) -> Layer:
        """Return what a layer is made of."""
        return self.tiling.model.layers[number]

    def heads(self, number: int) -> HeadTiling:
        """Return a layer's attention on the machine."""
        return self.tiling.heads(self.tiling.model.layers[number])

    def constants_of(self, number: int) -> LayerConstants:
        """Return a layer's constants."""
        return self.constants.layers[number]

    def next_tag(self) -> int:
        """Return a fill tag; it comes again after 64 others."""
        self._tags += 1
        return self._tags % TAGS

    def next_tier(self) -> int:
        """Return the tiers in turn."""
        self._tier = (self._tier + 1) % self.config.tiers
        return self._tier

    def key_buffer(self, tiers: tuple[int, ...]) -> int:
        """Return the first tile of the next place for a head's keys and values, the same in each of some tiers."""
        place = max(self._key_buffer[tier] for tier in tiers)
        for tier in tiers:
            self._key_buffer[tier] = place + 1
        return self.places.keys[0] + place % self.key_buffers * self.key_buffer_tiles

    def next_scalars(self) -> int:
        """Return the first of a job's scalars in turn: maxima, then sums."""
        self._scalars = (self._scalars + 1) % self.places.regions
        return self.places.scalars["attention"]["jobs"] + 2 * self.places.job_vectors * self._scalars

    def next_region(self) -> int:
        """Return the first row of the score regions in turn."""
        self._region = (self._region + 1) % self.places.regions
        return self.places.rows["attention"]["scores"] + self._region * self.places.score_rows

    def next_words(self, tier: int) -> int:
        """Return the first word of a tier's regions of probabilities in turn."""
        self._words[tier] = (self._words[tier] + 1) % self.places.turns
        return self.places.words["attention"]["scores"] + self._words[tier] * self.places.score_words

    def tiers_of(self, layer: int, head: int) -> tuple[int, ...]:
        """Return the tiers that hold a key/value head of a prefilled sequence."""
        tiers, heads = self.config.tiers, self.heads(layer).kv_heads
        if heads >= tiers:
            return (head % tiers,)
        share = tiers // heads
        return tuple(range(head * share, (head + 1) * share))
