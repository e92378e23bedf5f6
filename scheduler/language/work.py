# SPDX-License-Identifier: Apache-2.0
"""What the parts of a step's lowering share: model, memory, chip, emitter, and what is used in turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from scheduler.memory.model import ModelMemory
from scheduler.models.quantised_model import QuantisedModel
from scheduler.plan.chip import TAGS, Chip, Ring, dense_tiles, dense_words
from scheduler.plan.shape import ModelShape
from scheduler.stream.emitter import Emitter

__all__ = ["Work"]


class Work:
    """State of one step's lowering.

    Parameters
    ----------
    model : QuantisedModel
        The model's integers.
    memory : ModelMemory
        Where they lie in memory.
    chip : Chip
        Where the step's data lie on the chip.
    """

    def __init__(self, model: QuantisedModel, memory: ModelMemory, chip: Chip) -> None:
        self.model = model
        self.memory = memory
        self.chip = chip
        self.shape: ModelShape = chip.shape
        self.emitter = Emitter(chip, memory.images)
        self.every_tier = (1 << self.shape.config.tiers) - 1
        self.key_slots = chip.keys[1] // chip.key_slot
        self._key_slot = [0] * self.shape.config.tiers
        self.lists = [Ring(*chip.list_entries) for _ in range(self.shape.config.tiers)]
        self.background: deque[Callable[[], None]] = deque()
        """Loads of weights, in order, that may come between the loads of attention."""
        self.dense_tags: dict[int, int] = {}
        self.head_tag = 0
        self._tags = 0
        self._tier = -1
        self._region = -1
        self._scalars = -1
        self._words = [0] * self.shape.config.tiers

    def next_tag(self) -> int:
        """Return a fill tag; it comes again after 64 others."""
        self._tags += 1
        return self._tags % TAGS

    def next_tier(self) -> int:
        """Return the tiers in turn."""
        self._tier = (self._tier + 1) % self.shape.config.tiers
        return self._tier

    def key_slot(self, tiers: tuple[int, ...]) -> int:
        """Return the first tile of the next place for a head's keys and values, the same in each of some tiers."""
        place = max(self._key_slot[tier] for tier in tiers)
        for tier in tiers:
            self._key_slot[tier] = place + 1
        return self.chip.keys[0] + place % self.key_slots * self.chip.key_slot

    def next_scalars(self) -> int:
        """Return the first of a job's scalars in turn: maxima, then sums."""
        self._scalars = (self._scalars + 1) % self.chip.regions
        return self.chip.scalars["attention"]["jobs"] + 2 * self.chip.size.job_tokens * self._scalars

    def next_region(self) -> int:
        """Return the first row of the score regions in turn."""
        self._region = (self._region + 1) % self.chip.regions
        return self.chip.rows["attention"]["scores"] + self._region * self.chip.score_rows

    def next_words(self, tier: int) -> int:
        """Return the first word of a tier's two regions of probabilities in turn."""
        self._words[tier] ^= 1
        return self.chip.words["attention"]["scores"] + self._words[tier] * self.chip.score_words

    def tiers_of(self, head: int) -> tuple[int, ...]:
        """Return the tiers that hold a key/value head of a prefilled sequence."""
        tiers, heads = self.shape.config.tiers, self.shape.kv_heads
        if heads >= tiers:
            return (head % tiers,)
        share = tiers // heads
        return tuple(range(head * share, (head + 1) * share))

    def word(self, layer: int, name: str) -> int:
        """Return the first requantisation word of a layer's dense matrix."""
        return _place(dense_words(self.shape), name) + layer * self.chip.dense_words

    def tile(self, layer: int, name: str) -> int:
        """Return the first V-Cache tile of a layer's dense matrix."""
        return self.chip.dense_tiles[layer % 2] + _place(dense_tiles(self.shape), name)


def _place(sizes: dict[str, int], name: str) -> int:
    place = 0
    for key, size in sizes.items():
        if key == name:
            break
        place += size
    return place
