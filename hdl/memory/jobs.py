# SPDX-License-Identifier: Apache-2.0
"""What the address side of a load engine tells its data side about an instruction."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from amaranth.lib import data

from hdl.config import MachineConfig
from hdl.interfaces import PC_BITS, post_layout
from hdl.isa import LIST_ENTRY_BYTES, Opcode, field_widths, instruction_layout

__all__ = [
    "LOAD_KIND_BITS",
    "ROW_SHIFT_BITS",
    "LoadKind",
    "item_bytes",
    "job_fifo_depth",
    "job_layout",
    "kind_item_bytes",
    "log2",
    "out_word_layout",
]  # fmt: skip

ROW_SHIFT_BITS: int = instruction_layout(Opcode.LOAD)["shift"].width
"""Width of the left shift of ROWS."""


class LoadKind(IntEnum):
    """Destination and format of a load in one number."""

    FILL_BYTES = 0
    FILL_HIGH = 1
    FILL_PAIR = 2
    FILL_COLUMNS = 3
    FILL_LOW = 4
    ACTIVATION = 5
    PARAMETER = 6
    LIST = 7
    ROWS = 8


LOAD_KIND_BITS: Final = 4
"""Width of a `LoadKind`."""


def log2(n: int) -> int:
    """Return the exact logarithm of a power of two."""
    if n < 1 or n & (n - 1):
        raise ValueError(f"{n} is no power of two")
    return n.bit_length() - 1


def kind_item_bytes(config: MachineConfig, kind: LoadKind) -> int:
    """Return the bytes of memory (of one plane) that make one output word of the data side."""
    if kind in (LoadKind.FILL_BYTES, LoadKind.FILL_COLUMNS):
        return config.fill_bytes
    if kind in (LoadKind.FILL_HIGH, LoadKind.FILL_PAIR, LoadKind.FILL_LOW):
        return config.group_bytes
    if kind == LoadKind.LIST:
        return LIST_ENTRY_BYTES
    if kind == LoadKind.ROWS:
        return 2 * config.columns
    return config.rows


def item_bytes(config: MachineConfig) -> int:
    """Return the low bytes of an output word that bus words, list entries and combine rows (as in memory) take."""
    return max(config.rows, LIST_ENTRY_BYTES, 2 * config.columns)


def job_fifo_depth(config: MachineConfig) -> int:
    """Return how many instructions the address side may be ahead of the data side."""
    return max(4, config.outstanding_bursts)


def job_layout(config: MachineConfig) -> data.StructLayout:
    """Return a job of the data side.

    ``empty``: of a slot without tokens: there is nothing to do but to post, in order; ``words`` is 1 then. ``alone``:
    of a PAIR load only the high plane is wanted: each engine runs its part for itself, the one that has the low plane
    an empty one. Engine 0 posts; if its part is empty, when engine 1 has finished its own.
    ``words``: output words to make, 1 or more. ``position``: address of the first. ``high``: PAIR only, this engine's
    plane is the high one. ``shift``: ROWS only. ``addr``: byte address of the first beat (for error reports).
    """
    return data.StructLayout(
        {
            "kind": LOAD_KIND_BITS,
            "empty": 1,
            "alone": 1,
            "high": 1,
            "tiers": config.tiers,
            "position": config.position_bits,
            "words": 16 + max(log2(config.fill_words), log2(config.parameter_parts)),
            **field_widths(Opcode.LOAD, "tag"),
            "shift": ROW_SHIFT_BITS,
            "pc": PC_BITS,
            "addr": config.address_bits,
            "post": post_layout(config),
        }
    )


def out_word_layout(config: MachineConfig) -> data.StructLayout:
    """Return an output word of the data side.

    Exactly one of ``fill``, ``bus``, ``list``, ``row`` and ``empty`` (no word, only a post) is set; ``columns`` (a
    transposed tile) and ``low`` (the lower four bits of each byte) go with ``fill``, ``parameter`` with ``bus``,
    ``shift`` with ``row``. ``last``: last word of its instruction, which then posts ``post``. ``alone``: see
    `job_layout`. ``data``: as many low bytes as the destination takes; a row's are the int16 elements as memory has
    them.
    """
    return data.StructLayout(
        {
            "fill": 1,
            "columns": 1,
            "low": 1,
            "bus": 1,
            "list": 1,
            "row": 1,
            "empty": 1,
            "parameter": 1,
            "last": 1,
            "alone": 1,
            "tiers": config.tiers,
            "position": config.position_bits,
            **field_widths(Opcode.LOAD, "tag"),
            "shift": ROW_SHIFT_BITS,
            "post": post_layout(config),
            "data": 8 * max(config.fill_bytes, item_bytes(config)),
        }
    )
