# SPDX-License-Identifier: Apache-2.0
"""Puts semaphores into a stream that was written as if instructions ran one after the other.

A lowering emits instructions in program order with nothing but their work. What each touches is known
(:mod:`scheduler.stream.footprints`), and so is what queues and fill tags order by themselves
(:mod:`scheduler.stream.clocks`). For every pair of instructions that conflict and are not ordered yet, the earlier one
gets a post and the later one a wait.

Two kinds of semaphores:

- one for each pair of a completing unit (a tier, a load engine, the stores, the vector unit) and a waiting queue. Posts
  come in order and are taken in order, one at a time, so it never has to be given back;
- a pool for gangs, whose tiers each post. One of these is used again only by a gang that starts after the last wait for
  it was granted, and for a waiter that asks after that.

What comes out is what :func:`scheduler.stream.prove.prove` proves free of races and deadlocks.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from hdl.config import MachineConfig
from hdl.errors import A3dError
from hdl.isa import Opcode
from hdl.isa.legality import Limits
from scheduler.stream.blocks import KINDS, most_blocks
from scheduler.stream.claims import overflows, semaphores_of
from scheduler.stream.clocks import COUNTS, STORE, VECTOR, Clocks, new_clocks, unit_name
from scheduler.stream.conflicts import new_cells
from scheduler.stream.insert import run
from scheduler.stream.legal import illegal, why_illegal
from scheduler.stream.lists import Memory, token_lists
from scheduler.stream.machine import SPACES, machine_of
from scheduler.stream.posted import (
    CARRIERS,
    FULL,
    NO_CARRIER,
    NO_SEMAPHORE,
    ORIGIN,
    PAIR,
    PLACES,
    TOO_MANY_WAITS,
    WRONG,
    Posted,
    new_posted,
    write_out,
)
from scheduler.stream.segments import segments_of
from scheduler.stream.table import COL, COLUMNS, Builder, Rows, Table
from scheduler.stream.touched import new_touched, touch

__all__ = ["SyncError", "synchronise"]

CONTROL = tuple(getattr(COL, name) for name in COLUMNS if name.startswith(("wait", "post")) and name[4].isdigit())
"""Columns of waits and posts."""

Carriers = Mapping[str, Mapping[str, int]]


class SyncError(A3dError):
    """A stream that needs more semaphores, waits or posts than the machine has."""


def synchronise(
    stream: Table | Builder, config: MachineConfig, memory: Memory, carriers: Carriers | None = None, *,
    end: bool = False,
) -> tuple[Table, npt.NDArray[np.int32]]:  # fmt: skip
    """Return a stream with the waits and posts that order it.

    Parameters
    ----------
    stream : Table or Builder
        Instructions in program order without waits and posts, END excluded. A Builder's rows become those of the
        result: a copy of a long stream takes as long as all the rest.
    config : MachineConfig
        The machine.
    memory : Memory
        Where token lists are read from.
    carriers : mapping of str to mapping of str to int, optional
        Fields of a harmless instruction of the queues ``load0``, ``load1``, ``store`` and ``vector``; it is put in
        where an instruction has no room for a wait or a post. An instruction that needs one that is not here is an
        error.
    end : bool
        Put an END behind the stream.

    Returns
    -------
    table : Table
        The stream.
    origin : int32 array [instructions]
        For each of its instructions but that END the one of `stream` that it is, or that it carries for.

    Raises
    ------
    SyncError
        The machine has too few semaphores, an instruction too few waits or posts, or a unit may run so far ahead of
        those that wait for it that a counter of ``semaphore_bits`` overflows; an instruction is not legal.
    """
    builder = stream if isinstance(stream, Builder) else Builder.of(stream)
    machine, plain = machine_of(config), len(builder)
    carrier_rows = _add_carriers(builder, carriers or {})
    table = builder.table()
    rows = table.rows
    _check_plain(table, plain, config)
    segments, touched, own = segments_of(rows, machine), new_touched(machine), new_touched(machine)
    room, most = plain + plain // 8 + 64, most_blocks(machine)
    touch(rows, plain, len(rows), machine, token_lists(Table(rows[plain:]), machine, {}), most, own)
    while True:
        lists, cells = token_lists(Table(rows[:plain]), machine, memory), new_cells(rows, machine)
        posted = new_posted(room, config.semaphores, config.tiers * config.vcache_tiles, carrier_rows)
        completions = int(np.where(rows[:, COL.opcode] == Opcode.GEMM, rows[:, COL.tier_count], 1).sum()) + room
        clocks, wrong, touched.part[:] = new_clocks(room, completions), 0, 0
        while touched.part[1] < plain and wrong == 0:
            touch(rows, touched.part[1], plain, machine, lists, most, touched)
            wrong = run(rows, machine, cells, clocks, segments, posted, touched, own)
            if wrong == 0 and touched.part[2]:
                raise SyncError(_outside(table, int(touched.part[1]), int(touched.part[2]) - 1))
        if wrong == 0:
            break
        if posted.state[WRONG] != FULL:
            raise SyncError(_what(table, config, posted))
        room *= 2
        segments.trees[:] = 0
    many = int(clocks.now[COUNTS, 0])
    own_rows = rows[plain:].copy()
    builder.reserve(many + int(end))
    result = builder.rows[: many + int(end)]
    write_out(result[:many], posted.notes[:many], plain, own_rows)
    _check_counters(result[:many], config, clocks)
    if end:
        result[many] = 0
        result[many, COL.opcode] = Opcode.END
    return Table(result), posted.notes[:many, ORIGIN].copy()


def _add_carriers(builder: Builder, carriers: Carriers) -> dict[int, int]:
    """Put carriers behind a stream, and return where each queue's is."""
    at = {}
    for queue in CARRIERS:
        if unit_name(queue) in carriers:
            opcode = {STORE: Opcode.STORE, VECTOR: Opcode.VECTOR}.get(queue, Opcode.LOAD)
            at[queue] = builder.add(opcode, carriers[unit_name(queue)])
    return at


def _check_plain(table: Table, plain: int, config: MachineConfig) -> None:
    """Refuse what is not legal, which could be anywhere on the chip, and what has semaphores already."""
    wrong = illegal(table, config, Limits.whole(config))
    if wrong.size:
        number = int(wrong[0])
        name = f"instruction {number}" if number < plain else "a carrier"
        raise SyncError(f"{name}: {why_illegal(table, number, config, Limits.whole(config))}")
    rows = table.rows
    for number in np.flatnonzero(rows[:, CONTROL].any(axis=1) | (rows[:, COL.opcode] == Opcode.END))[:1].tolist():
        raise SyncError(f"{_name(table, number)}: a stream gets its waits, posts and END here; give it without")


def _check_counters(rows: Rows, config: MachineConfig, clocks: Clocks) -> None:
    """Refuse a stream in which a unit may run so far ahead of those that wait for it that a counter overflows."""
    most = (1 << config.semaphore_bits) - 1
    semaphores = semaphores_of(rows, clocks, config.semaphores)
    if np.diff(semaphores.turn_at).max() <= most:
        return
    if overflows(clocks, semaphores, most):  # in the order that the waits were made for, which the proof shows again
        raise SyncError(
            f"semaphores: one may count beyond {most}, the most that semaphore_bits of {config.semaphore_bits} can "
            "hold; raise semaphore_bits, or run fewer tokens in a step"
        )


def _name(table: Table, number: int) -> str:
    return f"instruction {number} ({Opcode(int(table.rows[number, COL.opcode])).name})"


def _outside(table: Table, number: int, access: int) -> str:
    """Return one line about an access through a token list, given as kind plus three times the space."""
    kind, space = KINDS[access % 3], SPACES[access // 3]
    return f"{_name(table, number)}: it {kind}s beyond the {space} memory through its token list"


def _what(table: Table, config: MachineConfig, posted: Posted) -> str:
    """Return one line about what went wrong."""
    code, first, second = posted.state[WRONG : WRONG + 3].tolist()
    if code == NO_SEMAPHORE:
        queues = "" if second < 0 else "load0+load1" if second == PAIR else unit_name(second)
        what = f"from {unit_name(first)} to {queues}" if first >= 0 else "a gang's results"
        return f"semaphores: {config.semaphores} are not enough ({what} needs another one); raise semaphores"
    name = _name(table, first)
    if code == NO_CARRIER:
        return f"{name}: the semaphores need a carrier in queue {unit_name(second)}"
    way = "wait for" if code == TOO_MANY_WAITS else "post to"
    return f"{name} has to {way} more than {PLACES} units: split the work differently"
