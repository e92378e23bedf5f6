# SPDX-License-Identifier: Apache-2.0
"""What the address side of a load engine tells its data side about an instruction."""

from __future__ import annotations

from enum import IntEnum

from amaranth.lib import data

from hdl.config import MachineConfig
from hdl.interfaces import PC_BITS, fill_control_layout, post_layout, write_layout
from hdl.legality import LIST_ENTRY_BYTES

__all__ = ["LoadKind", "job_fifo_depth", "job_layout", "kind_unit_bytes", "log2", "out_word_layout", "position_bits"]


class LoadKind(IntEnum):
    """Destination and format of a load in one number."""

    FILL_BYTES = 0
    FILL_HIGH = 1
    FILL_PAIR = 2
    ACTIVATION = 3
    PARAMETER = 4
    LIST = 5


def log2(n: int) -> int:
    """Return the exact logarithm of a power of two."""
    if n < 1 or n & (n - 1):
        raise ValueError(f"{n} is no power of two")
    return n.bit_length() - 1


def kind_unit_bytes(config: MachineConfig, kind: LoadKind) -> int:
    """Return the bytes of memory (of one plane) that make one output word of the data side."""
    if kind == LoadKind.FILL_BYTES:
        return config.fill_bytes
    if kind in (LoadKind.FILL_HIGH, LoadKind.FILL_PAIR):
        return config.group_bytes
    if kind == LoadKind.LIST:
        return LIST_ENTRY_BYTES
    return config.rows


def job_fifo_depth(config: MachineConfig) -> int:
    """Return how many instructions the address side may be ahead of the data side."""
    return max(4, config.outstanding_bursts)


def position_bits(config: MachineConfig) -> int:
    """Return the width of an output word's address: {word, tile} of V-Cache, or a unit's or list entry's address."""
    control = fill_control_layout(config)
    fill = int(control["tile"].width + control["word"].width)
    return max(fill, int(write_layout(config)["addr"].width), config.list_bits)


def job_layout(config: MachineConfig) -> data.StructLayout:
    """Return a job of the data side.

    ``units``: output words to make, 1 or more. ``position``: address of the first. ``high``: PAIR only, this engine's
    plane is the high one. ``addr``: byte address of the first beat (for error reports).
    """
    return data.StructLayout(
        {
            "kind": 3,
            "high": 1,
            "tiers": config.tiers,
            "position": position_bits(config),
            "units": 16 + max(log2(config.fill_words), log2(config.parameter_parts)),
            "tag": 6,
            "pc": PC_BITS,
            "addr": config.address_bits,
            "post": post_layout(config),
        }
    )


def out_word_layout(config: MachineConfig) -> data.StructLayout:
    """Return an output word of the data side.

    Exactly one of ``fill``, ``unit`` and ``list`` is set; ``parameter`` goes with ``unit``. ``last``: last word of its
    instruction, which then posts ``post``. ``data``: as many low bytes as the destination takes.
    """
    return data.StructLayout(
        {
            "fill": 1,
            "unit": 1,
            "list": 1,
            "parameter": 1,
            "last": 1,
            "tiers": config.tiers,
            "position": position_bits(config),
            "tag": 6,
            "post": post_layout(config),
            "data": 8 * max(config.fill_bytes, config.rows, LIST_ENTRY_BYTES),
        }
    )
