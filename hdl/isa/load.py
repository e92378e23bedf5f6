# SPDX-License-Identifier: Apache-2.0
"""LOAD: from the channel groups' memories into a memory on chip."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum

from hdl.config import ADDRESS_UNIT, MachineConfig
from hdl.isa.checks import (
    Limits,
    Violation,
    check_slot,
    check_span,
    check_tiers,
    field_violation,
    memory_violation,
)
from hdl.isa.description import OpcodeDescription, Work, beats
from hdl.isa.fields import Field, Instruction, Opcode, tiers_of_mask
from hdl.isa.memories import MEMORIES, Access, Memory
from hdl.isa.queues import load_queue_name
from hdl.isa.words import count_of, span_of, tiers_text

__all__ = [
    "LIST_ENTRY_BYTES", "LOAD", "LOAD_TARGETS", "MAX_ROW_SHIFT", "PLANES", "SCORED_FORMATS", "SLOT_DESTS", "Format",
    "LoadDest", "LoadTarget", "check_load_addresses", "has_two_addresses", "load_bytes", "load_groups",
    "load_item_bytes", "needs_full", "slot_load", "slot_loads",
]  # fmt: skip

LIST_ENTRY_BYTES = 8
"""Bytes of one token-list entry in memory."""

MAX_ROW_SHIFT = 16
"""Largest left shift of LOAD ROWS: an int16 still fits a row's int32."""


class Format(IntEnum):
    """How a load's bytes lie in memory, and which bits of a tile they are."""

    BYTES = 0
    """Tiles row by row."""
    PAIR = 1
    """Both planes of weights, one in each group."""
    HIGH = 2
    """The plane of the upper four bits; the lower ones become `LOW_MISSING` (`hdl.numerics`)."""
    COLUMNS = 3
    """Tiles column by column."""
    LOW = 4
    """The plane of the lower four bits, for tiles whose upper ones are there."""


PLANES = (Format.PAIR, Format.HIGH, Format.LOW)
"""Formats of loads that read half a tile from a group."""

SCORED_FORMATS = (Format.PAIR, Format.LOW)
"""Formats of loads into V-Cache that a slot's importance makes smaller."""


class LoadDest(IntEnum):
    """Which memory of the machine a load fills."""

    VCACHE = 0
    ACTIVATION = 1
    LIST = 2
    PARAMETER = 3
    ROWS = 4


@dataclass(frozen=True)
class LoadTarget:
    """A memory that loads fill, item by item.

    Attributes
    ----------
    memory : Memory
        Which one.
    item, items : str
        What one of its words is called, and several.
    item_bytes : function of the configuration
        Bytes of an item in external memory (V-Cache: of a tile; a plane has half of them).
    """

    memory: Memory
    item: str
    items: str
    item_bytes: Callable[[MachineConfig], int]


LOAD_TARGETS: Mapping[LoadDest, LoadTarget] = {
    LoadDest.VCACHE: LoadTarget(Memory.VCACHE, "tile", "tiles", lambda c: c.tile_bytes),
    LoadDest.ACTIVATION: LoadTarget(Memory.ACTIVATION, "word", "words", lambda c: c.rows),
    LoadDest.LIST: LoadTarget(Memory.LIST, "entry", "entries", lambda c: LIST_ENTRY_BYTES),
    LoadDest.PARAMETER: LoadTarget(
        Memory.PARAMETER, "word", "words", lambda c: 2 * c.columns
    ),
    LoadDest.ROWS: LoadTarget(Memory.COMBINE, "row", "rows", lambda c: 2 * c.columns),
}  # fmt: skip

SLOT_DESTS = (LoadDest.VCACHE, LoadDest.PARAMETER)
"""What a load with a slot may fill: what an expert has of its own."""

_BODY = (
    Field("format", 3, "byte order in memory, and which planes", Format),
    Field("group", 1, "channel group (PAIR: of the high plane; the low plane lies in the other group)"),
    Field("dest_kind", 3, "memory that is filled", LoadDest),
    Field("dest_tiers", 8, "tiers, at least one; each of them gets the same data (ROWS: zero)", form="tiers"),
    Field("dest_base", 16, "first tile / word / entry / requantisation word"),
    Field("count", 16, "tiles / activation words / list entries / requantisation words / rows, 1 or more"),
    Field("tag", 6, "fill tag that the tiles get (V-Cache only)"),
    Field("shift", 5, f"left shift of the int16 elements (ROWS only), 0 to {MAX_ROW_SHIFT}"),
    Field("addr", 32, "memory address in units of 32 bytes (PAIR: of the high plane)", form="address"),
    Field("addr_low", 32, "address of the low plane in units of 32 bytes (PAIR only)", form="address"),
    Field("slot_en", 1, "1 = load what the expert of a slot needs: `addr` and `addr_low` are expert 0's"),
    Field("slot", 8, "slot of the routing table, below expert_slots"),
    Field("slot_stride", 24, "from one expert to the next (PAIR: of the same parity), in units of 32 bytes"),
    Field(
        "scored",
        1,
        "1 = what the slot's importance asks for: PAIR maybe the high plane only, LOW maybe nothing, then other "
        "parameters",
    ),
)


def load_item_bytes(instruction: Instruction, config: MachineConfig) -> int:
    """Return the bytes in one group's memory of one item (tile, word, entry, row) of a LOAD; PAIR: of each plane."""
    kind = LoadDest(instruction["dest_kind"])
    if kind == LoadDest.VCACHE and instruction["format"] in PLANES:
        return config.plane_bytes
    return LOAD_TARGETS[kind].item_bytes(config)


def load_groups(instruction: Instruction) -> list[tuple[int, int]]:
    """Return (channel group, byte address) of each range that a LOAD reads; PAIR: the high plane first."""
    group = instruction["group"]
    ranges = [(group, instruction["addr"] * ADDRESS_UNIT)]
    if instruction["format"] == Format.PAIR:
        ranges.append((1 - group, instruction["addr_low"] * ADDRESS_UNIT))
    return ranges


def load_bytes(instruction: Instruction, config: MachineConfig) -> int:
    """Return the bytes that a LOAD reads in both groups together (without the rest of a last beat).

    With a slot: when the slot is not empty.
    """
    planes = 2 if instruction["format"] == Format.PAIR else 1
    return planes * instruction["count"] * load_item_bytes(instruction, config)


def has_two_addresses(instruction: Instruction) -> bool:
    """Return whether a slot's importance may send a LOAD elsewhere: parameters of the high plane alone."""
    return bool(instruction["scored"] and instruction["dest_kind"] == LoadDest.PARAMETER)


def needs_full(instruction: Instruction) -> bool:
    """Return whether a LOAD reads nothing where its slot wants the high plane only."""
    return bool(instruction["scored"] and instruction["format"] == Format.LOW)


def slot_loads(instruction: Instruction, experts: int) -> list[Instruction]:
    """Return all that a LOAD with a slot may be, whichever of some experts the slot has and however important it is.

    Of a PAIR load that may read its high plane only: as if it read both.
    """
    both = (False, True) if has_two_addresses(instruction) else (False,)
    return [slot_load(instruction, expert, high) for high in both for expert in range(experts)]


def slot_load(instruction: Instruction, expert: int, high_only: bool = False) -> Instruction:
    """Return a LOAD without its slot, given the slot's expert; not for one that then reads nothing.

    The addresses may be too large for their fields; :func:`check_load_addresses` finds that.

    Parameters
    ----------
    instruction : Instruction
    expert : int
    high_only : bool
        The slot asks for the high plane only: what a `scored` load reads then.
    """
    values = {k: v for k, v in instruction.values.items() if k not in ("slot_en", "slot", "slot_stride", "scored")}
    reduced, stride = high_only and bool(instruction["scored"]), instruction["slot_stride"]
    if instruction["format"] == Format.PAIR:
        place = (expert >> 1) * stride
        values["group"] = instruction["group"] ^ (expert & 1)
        if reduced:
            values["format"] = Format.HIGH
            values.pop("addr_low", None)
        else:
            values["addr_low"] = instruction["addr_low"] + place
    else:  # the parameters of the high plane alone follow in the expert's second half
        place = expert * stride + (stride // 2 if reduced else 0)
    return Instruction(instruction.opcode, values | {"addr": instruction["addr"] + place})


def check_load_addresses(instruction: Instruction, config: MachineConfig, limits: Limits) -> Violation | None:
    """Check where a LOAD reads; with a slot, call it with what :func:`slot_load` makes of the instruction."""
    size = beats(instruction["count"] * load_item_bytes(instruction, config), config) * config.group_bytes
    for name, (group, start) in zip(("addr", "addr_low"), load_groups(instruction), strict=False):
        span, allowed = (start, start + size), (0, limits.memory_bytes[group])
        wrong = check_span(instruction, name, span, allowed, config.group_bytes, "the group's beat")
        if wrong:
            return wrong
    return None


def _check(instruction: Instruction, config: MachineConfig, limits: Limits) -> Violation | None:
    kind = LoadDest(instruction["dest_kind"])
    if kind != LoadDest.VCACHE and instruction["format"] != Format.BYTES:
        return field_violation(instruction, "format", "BYTES for a destination other than V-Cache")
    if instruction["format"] in (Format.COLUMNS, Format.LOW) and config.stationary_feed == "edge":
        return field_violation(
            instruction, "format", "BYTES, PAIR or HIGH: the edge feed takes neither transposed tiles nor half ones"
        )
    if kind == LoadDest.ROWS and instruction["dest_tiers"]:
        return field_violation(instruction, "dest_tiers", "0 with ROWS, which are no tier's")
    if kind != LoadDest.ROWS and not instruction["dest_tiers"]:
        return field_violation(instruction, "dest_tiers", "at least one tier")
    most = MAX_ROW_SHIFT if kind == LoadDest.ROWS else 0
    if instruction["shift"] > most:
        return field_violation(instruction, "shift", f"0 to {most}" if most else "0 for a destination other than ROWS")
    if not instruction["count"]:
        return field_violation(instruction, "count", "1 or more")
    if instruction["slot_en"] and kind not in SLOT_DESTS:
        return field_violation(instruction, "slot_en", "0 for a destination other than V-Cache or parameters")
    if instruction["scored"] and not (
        instruction["slot_en"] and (kind == LoadDest.PARAMETER or instruction["format"] in SCORED_FORMATS)
    ):
        return field_violation(
            instruction, "scored", "0 without a slot, or with a format other than PAIR or LOW in V-Cache"
        )
    end = instruction["dest_base"] + instruction["count"]
    wrong = (
        check_slot(instruction, config)
        or check_tiers(instruction, config)
        or memory_violation(instruction, "dest_base", end, LOAD_TARGETS[kind].memory, config)
    )
    # With a slot the expert, and so the address, is known only when the load engine takes the instruction.
    if wrong or instruction["slot_en"]:
        return wrong
    return check_load_addresses(instruction, config, limits)


def _explain(i: Instruction, config: MachineConfig) -> str:
    target = LOAD_TARGETS[LoadDest(i["dest_kind"])]
    how = {
        Format.BYTES: "bytes",
        Format.PAIR: "high and low nibble planes",
        Format.HIGH: "high nibble plane only",
        Format.LOW: "low nibble plane, to the high one that is there",
        Format.COLUMNS: "columns",
    }[Format(i["format"])]
    places = " and ".join(f"group {group} at {start:#x}" for group, start in load_groups(i))
    if i["slot_en"]:
        places = _slot_places(i, places)
    if i["dest_kind"] == LoadDest.ROWS:
        shift = f", shifted left by {i['shift']}" if i["shift"] else ""
        return (
            f"loads {count_of(i['count'], 'row')} ({load_bytes(i, config):,} bytes, int16{shift}) from {places} into "
            f"combine {'row' if i['count'] == 1 else 'rows'} {span_of(i['dest_base'], i['count'])}"
        )
    where = MEMORIES[target.memory].name + (f", tag {i['tag']}" if target.memory == Memory.VCACHE else "")
    return (
        f"loads {count_of(i['count'], target.item, target.items)} ({load_bytes(i, config):,} bytes, {how}) from "
        f"{places} into {target.item if i['count'] == 1 else target.items} {span_of(i['dest_base'], i['count'])} of "
        f"{tiers_text(tiers_of_mask(i['dest_tiers']))} ({where})"
    )


def _slot_places(i: Instruction, places: str) -> str:
    """Return where the expert of a slot lies, given where expert 0 does."""
    pair = i["format"] == Format.PAIR
    step = f"{i['slot_stride'] * ADDRESS_UNIT:,} bytes"
    rest = f"{step} on for every second expert, groups swapped for odd ones" if pair else f"{step} on for each expert"
    scored = ""
    if i["scored"]:
        scored = "; high plane only" if pair else "; half a step on"
        if needs_full(i):
            scored = "; nothing"
        scored += ", if that is what the slot asks for"
    return f"the memory of slot {i['slot']}'s expert (nothing if the slot is empty; expert 0: {places}; {rest}{scored})"


def _queues(instruction: Instruction) -> tuple[str, ...]:
    groups = (0, 1) if instruction["format"] == Format.PAIR else (instruction["group"],)
    return tuple(load_queue_name(group) for group in groups)


LOAD = OpcodeDescription(
    opcode=Opcode.LOAD,
    summary="fills a memory on chip from the channel groups' memories",
    body=_BODY,
    queues=_queues,
    queue_words="`load0` or `load1`, that of the channel group; PAIR: both at once",
    accesses=(
        Access(Memory.EXTERNAL, "read", "`count` items from `addr` on; PAIR: planes from `addr` and `addr_low` on"),
        Access(Memory.SLOTS, "read", "with `slot_en`"),
        Access(Memory.VCACHE, "read", "LOW: the upper four bits, which stay"),
        *(Access(target.memory, "write", f"{dest.name}: from `dest_base` on") for dest, target in LOAD_TARGETS.items()),
    ),
    check=_check,
    explain=_explain,
    work=lambda instruction, config: Work(bytes_loaded=load_bytes(instruction, config)),
)
