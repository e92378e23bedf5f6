# SPDX-License-Identifier: Apache-2.0
"""How much work instructions are: waves, beats, words, rows of the vector unit."""

from __future__ import annotations

from hdl.isa import Format, LoadDest
from scheduler.stream.compiled import compiled

__all__ = ["load_beats", "load_steps"]


@compiled
def load_unit(tile: int, rows: int, columns: int, dest: int, form: int) -> int:
    """Return the bytes in one group's memory of one unit of a LOAD."""
    if dest == LoadDest.VCACHE:
        return tile // 2 if form == Format.PAIR or form == Format.HIGH else tile
    if dest == LoadDest.ACTIVATION:
        return rows
    return 8 if dest == LoadDest.LIST else 2 * columns


@compiled
def load_beats(tile: int, rows: int, columns: int, group: int, dest: int, form: int, count: int) -> int:
    """Return the beats that a LOAD reads from one group."""
    return -(-count * load_unit(tile, rows, columns, dest, form) // group)


@compiled
def load_word(rows: int, columns: int, group: int, dest: int, form: int) -> int:
    """Return the bytes of memory that make one word of the data side."""
    if dest == LoadDest.VCACHE:
        return group if form == Format.PAIR or form == Format.HIGH else 2 * group
    if dest == LoadDest.LIST:
        return 8
    return 2 * columns if dest == LoadDest.ROWS else rows


@compiled
def load_steps(tile: int, rows: int, columns: int, group: int, dest: int, form: int, count: int) -> int:
    """Return the cycles that the data side of a load engine takes: a beat or a word each."""
    words = count * load_unit(tile, rows, columns, dest, form) // load_word(rows, columns, group, dest, form)
    return max(load_beats(tile, rows, columns, group, dest, form, count), words)


@compiled
def load_words(tile: int, rows: int, columns: int, group: int, dest: int, form: int, count: int) -> int:
    """Return the words that a LOAD writes."""
    return count * load_unit(tile, rows, columns, dest, form) // load_word(rows, columns, group, dest, form)
