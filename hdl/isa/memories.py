# SPDX-License-Identifier: Apache-2.0
"""The memories that instructions read and write, and in what grains they share them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from hdl.config import MachineConfig

__all__ = ["MEMORIES", "Access", "Memory", "OnChip"]


class Memory(Enum):
    """A memory; all but ``EXTERNAL`` are on chip."""

    EXTERNAL = "external"
    """Memory of the two channel groups, shared in bytes."""
    VCACHE = "vcache"
    ACTIVATION = "activation"
    LIST = "list"
    PARAMETER = "parameter"
    COMBINE = "combine"
    SCALAR = "scalar"
    SLOTS = "slots"
    """The routing table."""


@dataclass(frozen=True)
class OnChip:
    """An on-chip memory.

    Attributes
    ----------
    name, words : str
        What it is called, and its words.
    depth : function of the configuration
        Words, in each tier that has one.
    per_tier : bool
        Whether each tier has its own.
    cells_per_word : function of the configuration
        Cells of a word. A cell is the smallest thing that two instructions can share without meeting.
    """

    name: str
    words: str
    depth: Callable[[MachineConfig], int]
    per_tier: bool = True
    cells_per_word: Callable[[MachineConfig], int] = lambda config: 1

    def cells(self, config: MachineConfig) -> int:
        """Return the cells of the whole machine."""
        return (config.tiers if self.per_tier else 1) * self.depth(config) * self.cells_per_word(config)


MEMORIES: Mapping[Memory, OnChip] = {
    Memory.VCACHE: OnChip("V-Cache", "V-Cache tiles", lambda c: c.vcache_tiles),
    # Half a row of int8 results, what SWIGLU makes of a tile: the narrowest write of a result.
    Memory.ACTIVATION: OnChip(
        "activation buffer",
        "activation words",
        lambda c: c.activation_words,
        cells_per_word=lambda c: 2 * c.rows // c.columns,
    ),
    Memory.LIST: OnChip("token list", "token-list entries", lambda c: c.list_depth),
    Memory.PARAMETER: OnChip("requantisation memory", "requantisation words", lambda c: c.parameter_words),
    Memory.COMBINE: OnChip("combine buffer", "combine rows", lambda c: c.combine_rows, per_tier=False),
    Memory.SCALAR: OnChip("scalars", "scalars", lambda c: c.scalar_depth, per_tier=False),
    Memory.SLOTS: OnChip("routing table", "slots of the routing table", lambda c: c.expert_slots, per_tier=False),
}
"""The on-chip memories, in the order in which tools number their cells."""


@dataclass(frozen=True)
class Access:
    """That an opcode reads or writes a memory.

    Attributes
    ----------
    memory : Memory
        Where.
    kind : {"read", "write", "add"}
        ``add`` accumulates onto a row, and commutes with other additions.
    what : str
        Which words and when, for the reference page.
    """

    memory: Memory
    kind: Literal["read", "write", "add"]
    what: str
