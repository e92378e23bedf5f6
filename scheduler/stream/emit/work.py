# SPDX-License-Identifier: Apache-2.0
"""What the emitters of a step share: constants, memory, places, the emitter, and what is used in turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable

import numpy as np

from scheduler.memory.layer import LayerMemory
from scheduler.memory.model import ModelMemory
from scheduler.models.constants import Constants, LayerConstants
from scheduler.models.description import Layer
from scheduler.plan.places import TAGS, Places
from scheduler.plan.pools import Ring
from scheduler.plan.tiling import HeadTiling
from scheduler.stream.emit.emitter import Emitter
from scheduler.stream.emit.job_table import TURN, Int64, new_turns
from scheduler.stream.emit.labels import Labels
from scheduler.stream.table import Builder

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
    labels : Labels, optional
    stream : Builder, optional
        Those of the step.
    """

    def __init__(
        self, constants: Constants, memory: ModelMemory | LayerMemory, places: Places, labels: Labels | None = None,
        stream: Builder | None = None,
    ) -> None:  # fmt: skip
        self.constants = constants
        self.area = memory
        self.experts = memory.experts
        self.places = places
        self.tiling = places.tiling
        self.config = places.config
        self.residence = places.residence
        self.emitter = Emitter(places.config, labels, stream, places.residence.resident)
        self.every_tier = (1 << self.config.tiers) - 1
        tiles = [
            self.tiling.key_tiles(h, places.key_piece) + self.tiling.value_tiles(h, places.key_piece)
            for h in map(self.tiling.heads, self.tiling.kinds)
        ]  # fmt: skip
        self.key_buffer_tiles = max(1, *tiles)
        self.key_buffers = max(1, places.keys[1] // self.key_buffer_tiles)
        self.turns = new_turns()
        self.operations: dict[Hashable, Int64] = {}
        """What jobs of attention that look at the same keys have to emit."""
        self.lists = [Ring(*places.list_entries) for _ in range(self.config.tiers)]
        self.background: deque[Callable[[], None]] = deque()
        """Loads of weights, in order, that may come between the loads of attention."""
        self.pinned = places.size.pinned
        """What stays in V-Cache from step to step."""
        self.on_chip: set[Hashable] = set()
        """What of that is there; grows as it is loaded."""
        self.early_keys = False
        """Whether the last keys of a sequence, which the step writes, are loaded apart from the others."""
        self.early_planes = False
        """Whether high planes of likely experts are loaded before the machine knows the routing."""
        self._tier = -1

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
        """Return a fill tag; it comes again after 61 others."""
        self.turns[TURN.tag] += 1
        return int(self.turns[TURN.tag]) % TAGS

    def next_tiers(self, count: int) -> Int64:
        """Return the tiers in turn."""
        found = (self._tier + 1 + np.arange(count)) % self.config.tiers
        self._tier += count
        return found

    def key_buffer(self, tiers: tuple[int, ...]) -> int:
        """Return the first tile of the next place for a head's keys and values, the same in each of some tiers."""
        place = max(int(self.turns[TURN.buffers + tier]) for tier in tiers)
        for tier in tiers:
            self.turns[TURN.buffers + tier] = place + 1
        return self.places.keys[0] + place % self.key_buffers * self.key_buffer_tiles

    def tiers_of(self, layer: int, head: int) -> tuple[int, ...]:
        """Return the tiers that hold a key/value head of a prefilled sequence."""
        tiers, heads = self.config.tiers, self.heads(layer).kv_heads
        if heads >= tiers:
            return (head % tiers,)
        share = tiers // heads
        return tuple(range(head * share, (head + 1) * share))
