# SPDX-License-Identifier: Apache-2.0
"""Contents of the token lists, as loads and ROUTEs leave them: list-driven addresses depend on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hdl.config import ADDRESS_UNIT
from hdl.errors import A3dError
from hdl.isa import LoadDest, Opcode
from hdl.isa.legality import LIST_ENTRY_BYTES
from scheduler.stream.compiled import compiled
from scheduler.stream.machine import Machine
from scheduler.stream.table import COL, Rows, Table

__all__ = [
    "DEST", "FLAGS", "ROUTED", "SOURCE", "Contents", "Entries", "ListError", "Memory", "Routes", "TokenLists",
    "apply_lists", "listed", "route_of", "token_lists",
]  # fmt: skip

Memory = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]] | Mapping[tuple[int, int], bytes]
"""Where token lists are read from: images of the two groups, or the bytes of each list by (group, byte address)."""


class ListError(A3dError):
    """A token list that a stream loads is not in memory."""


Contents = npt.NDArray[np.int32]
"""Shape [entries, 4], for all loads of lists one after the other: source, dest, gate and flags of what they bring."""

Entries = npt.NDArray[np.int32]
"""Shape [tiers * list_depth, 5]: the same as loads left it, and 0 or the row in `Routes` of a ROUTE that came later."""

Routes = npt.NDArray[np.int32]
"""Shape [1 + ROUTEs, 3]. First how many there were so far, how often they were looked at, how much of `Contents` has
been loaded; then for each ROUTE its row in the stream, and when it was last looked at."""

SOURCE, DEST, GATE, FLAGS, ROUTED = range(5)
"""Columns of `Entries`."""


class TokenLists(NamedTuple):
    """What the lists hold, and what loads will put there.

    Attributes
    ----------
    contents, entries, routes
        See above.
    slots : int32 array [expert_slots]
        Number in `routes` of the ROUTE that wrote each slot last; 0: none has.
    """

    contents: Contents
    entries: Entries
    routes: Routes
    slots: npt.NDArray[np.int32]


def token_lists(table: Table, machine: Machine, memory: Memory) -> TokenLists:
    """Return the lists as they are before a stream, and what its loads will bring.

    Raises
    ------
    ListError
        A load of a list reads bytes that `memory` does not have.
    """
    rows = table.rows
    loads = np.flatnonzero((rows[:, COL.opcode] == Opcode.LOAD) & (rows[:, COL.dest_kind] == LoadDest.LIST))
    parts = [np.zeros((0, 4), dtype=np.int32)]
    for number, group, address, count in zip(
        loads.tolist(),
        rows[loads, COL.group].tolist(),
        (rows[loads, COL.addr] * ADDRESS_UNIT).tolist(),
        rows[loads, COL.count].tolist(),
        strict=True,
    ):
        size = count * LIST_ENTRY_BYTES
        if isinstance(memory, Mapping):
            raw = memory.get((group, address), b"")[:size]
        else:
            raw = memory[group][address : address + size].tobytes()
        if len(raw) < size:
            raise ListError(
                f"instruction {number} loads a token list from group {group}, bytes {address:#x} to "
                f"{address + size:#x}: memory has {len(raw)} of them; give the whole list"
            )
        parts.append(np.frombuffer(raw, dtype="<u2").reshape(count, 4).astype(np.int32))
    routes = int(np.count_nonzero(rows[:, COL.opcode] == Opcode.ROUTE))
    return TokenLists(
        np.concatenate(parts), np.zeros((machine.tiers * machine.list_depth, 5), np.int32),
        np.zeros((1 + routes, 3), np.int32), np.zeros(machine.expert_slots, np.int32),
    )  # fmt: skip


@compiled
def route_of(rows: Rows, r: int, lists: TokenLists) -> int:
    """Return the row of the ROUTE that wrote the slot of the instruction in row `r` last, or -1."""
    number = lists.slots[rows[r, COL.slot]]
    return int(lists.routes[number, 0]) if number else -1


@compiled
def listed(rows: Rows, r: int, lists: TokenLists) -> tuple[int, int]:
    """Return the first list entry that the GEMM in row `r` may read, in each tier, and how many it may."""
    if not rows[r, COL.slot_en]:
        return int(rows[r, COL.list_base]), int(rows[r, COL.tokens])
    route = route_of(rows, r, lists)
    if route < 0:
        return 0, 0
    return int(rows[route, COL.list_base]), int(rows[route, COL.tokens] * rows[route, COL.choices])


@compiled
def apply_lists(rows: Rows, r: int, machine: Machine, lists: TokenLists) -> None:
    """Apply row `r`: a LOAD of list entries, or a ROUTE; others do nothing."""
    contents, entries, routes = lists.contents, lists.entries, lists.routes
    if rows[r, COL.opcode] == Opcode.ROUTE:
        routes[0, 0] += 1
        routes[routes[0, 0], 0] = r
        first = rows[r, COL.slot_base]
        lists.slots[first : first + rows[r, COL.experts]] = routes[0, 0]
        many = rows[r, COL.tokens] * rows[r, COL.choices]
        for tier in range(machine.tiers):
            first = tier * machine.list_depth + rows[r, COL.list_base]
            for entry in range(first, first + many):
                entries[entry, ROUTED] = routes[0, 0]
    elif rows[r, COL.opcode] == Opcode.LOAD and rows[r, COL.dest_kind] == LoadDest.LIST:
        at, many = routes[0, 2], rows[r, COL.count]
        routes[0, 2] += many
        for tier in range(machine.tiers):
            if rows[r, COL.dest_tiers] >> tier & 1:
                first = tier * machine.list_depth + rows[r, COL.dest_base]
                for place in range(many):
                    for column in range(ROUTED):
                        entries[first + place, column] = contents[at + place, column]
                    entries[first + place, ROUTED] = 0
