# SPDX-License-Identifier: Apache-2.0
"""What compiled functions need to know of a machine: its sizes, and one numbering of all on-chip cells.

A cell is the smallest thing that two instructions can share without meeting: a V-Cache tile, half a tile's width of
an activation word (C/2 bytes), a token-list entry, a requantisation word, a combine row, a scalar of the vector unit.
A slot of the routing table is one too. Cells of a space follow each other, tier by tier.
"""

from __future__ import annotations

from typing import NamedTuple

from hdl.config import MachineConfig
from scheduler.stream.marks import PAGE

__all__ = [
    "ACTIVATION", "COMBINE", "LIST", "PARAMETER", "SCALAR", "SLOTS", "SPACES", "VCACHE", "Machine", "machine_of",
]  # fmt: skip

SPACES = ("vcache", "activation", "list", "parameter", "combine", "scalar", "slots")
VCACHE, ACTIVATION, LIST, PARAMETER, COMBINE, SCALAR, SLOTS = range(len(SPACES))
"""Names of the spaces, and their numbers."""


class Machine(NamedTuple):
    """Sizes of a machine as plain numbers; those that are not explained are of ``MachineConfig``.

    Attributes
    ----------
    edge_feed : int
        1: stationary words are fed from the edge.
    parts : int
        Cells of an activation word.
    vcache, activation, lists, parameter, combine, scalar, slots : int
        First cell of each space.
    cells : int
        All cells, and some between the spaces that stand for nothing.
    """

    tiers: int
    rows: int
    columns: int
    edge_feed: int
    vertical_links: int
    vcache_tiles: int
    activation_words: int
    accumulator_depth: int
    list_depth: int
    parameter_words: int
    combine_rows: int
    scalar_depth: int
    expert_slots: int
    semaphores: int
    group_bytes: int
    parts: int
    vcache: int
    activation: int
    lists: int
    parameter: int
    combine: int
    scalar: int
    slots: int
    cells: int


def machine_of(config: MachineConfig) -> Machine:
    """Return the sizes of a machine."""
    parts = 2 * config.rows // config.columns
    sizes = (
        config.tiers * config.vcache_tiles, config.tiers * config.activation_words * parts,
        config.tiers * config.list_depth, config.tiers * config.parameter_words, config.combine_rows,
        config.scalar_depth, config.expert_slots,
    )  # fmt: skip
    whole = [-(-size // PAGE) * PAGE for size in sizes]  # a page has cells of one space
    first = [sum(whole[:number]) for number in range(len(sizes) + 1)]
    return Machine(
        config.tiers, config.rows, config.columns, int(config.stationary_feed == "edge"), int(config.vertical_links),
        config.vcache_tiles, config.activation_words, config.accumulator_depth, config.list_depth,
        config.parameter_words, config.combine_rows, config.scalar_depth, config.expert_slots, config.semaphores,
        config.group_bytes, parts, *first,
    )  # fmt: skip
