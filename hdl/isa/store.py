# SPDX-License-Identifier: Apache-2.0
"""STORE: rows of the combine buffer into the channel groups' memories, or to zero."""

from __future__ import annotations

from enum import IntEnum

from hdl.config import ADDRESS_UNIT, MachineConfig
from hdl.isa.checks import Limits, Violation, check_span, field_violation, memory_violation
from hdl.isa.description import OpcodeDescription, Work, beats
from hdl.isa.fields import Field, Instruction, Opcode
from hdl.isa.memories import Access, Memory
from hdl.isa.queues import STORE_QUEUE
from hdl.isa.words import count_of, span_of

__all__ = [
    "STORE", "StoreFormat", "element_bytes", "store_beats", "store_bytes", "store_span", "store_start", "store_step",
]  # fmt: skip


class StoreFormat(IntEnum):
    """Element type that a store writes; DISCARD writes nothing (used with ``clear``)."""

    INT8 = 0
    INT16 = 1
    INT32 = 2
    DISCARD = 3


_ELEMENT_BYTES = {StoreFormat.INT8: 1, StoreFormat.INT16: 2, StoreFormat.INT32: 4, StoreFormat.DISCARD: 0}

_BODY = (
    Field("format", 2, "element type written", StoreFormat),
    Field("group", 1, "channel group"),
    Field("shift", 5, "rounding right shift before saturation"),
    Field("clear", 1, "1 = set the rows to zero after they were read"),
    Field("row_base", 16, "first combine-buffer row"),
    Field("rows", 16, "rows, 1 or more"),
    Field("addr", 32, "memory address in units of 32 bytes", form="address"),
    Field(
        "offset", 5, "bytes added to the address; the sum is a multiple of the smaller of a row's bytes and group_bytes"
    ),
    Field("row_gap", 10, "combine rows skipped after each row that is read"),
    Field("addr_gap", 16, "memory skipped after each row that is written, in rows' bytes"),
)


def element_bytes(store_format: int) -> int:
    """Return the bytes of one element that a STORE writes (DISCARD: 0)."""
    return _ELEMENT_BYTES[StoreFormat(store_format)]


def store_bytes(instruction: Instruction, config: MachineConfig) -> int:
    """Return the bytes that a STORE writes."""
    return instruction["rows"] * config.columns * element_bytes(instruction["format"])


def store_start(instruction: Instruction) -> int:
    """Return the byte address of a STORE's first row."""
    return instruction["addr"] * ADDRESS_UNIT + instruction["offset"]


def store_step(instruction: Instruction, config: MachineConfig) -> tuple[int, int]:
    """Return (bytes of one row of a STORE, bytes from the start of one row to the start of the next)."""
    row = config.columns * element_bytes(instruction["format"])
    return row, row * (1 + instruction["addr_gap"])


def store_span(instruction: Instruction, config: MachineConfig) -> tuple[int, int]:
    """Return the first byte that a STORE writes and the end (exclusive) of the last row, gaps included."""
    row, step = store_step(instruction, config)
    start = store_start(instruction)
    return start, start + (instruction["rows"] - 1) * step + row


def store_beats(instruction: Instruction, config: MachineConfig) -> int:
    """Return the beats that a STORE writes: rows that lie side by side share beats, rows with gaps do not."""
    row, step = store_step(instruction, config)
    if step != row:
        return instruction["rows"] * beats(row, config)
    start, end = store_span(instruction, config)
    return beats(end - start // config.group_bytes * config.group_bytes, config)


def _check(instruction: Instruction, config: MachineConfig, limits: Limits) -> Violation | None:
    if not instruction["rows"]:
        return field_violation(instruction, "rows", "1 or more")
    last = instruction["row_base"] + (instruction["rows"] - 1) * (1 + instruction["row_gap"])
    wrong = memory_violation(instruction, "row_base", last + 1, Memory.COMBINE, config)
    if wrong or instruction["format"] == StoreFormat.DISCARD:
        return wrong
    alignment = min(store_step(instruction, config)[0], config.group_bytes)
    span, allowed = store_span(instruction, config), limits.window[instruction["group"]]
    return check_span(instruction, "addr", span, allowed, alignment, "the smaller of a row and the group's beat")


def _explain(i: Instruction, config: MachineConfig) -> str:
    if i["row_gap"] and i["rows"] > 1:
        rows = f"{count_of(i['rows'], 'combine row')} from {i['row_base']} on, one in {1 + i['row_gap']},"
    else:
        rows = f"combine {'row' if i['rows'] == 1 else 'rows'} {span_of(i['row_base'], i['rows'])}"
    if i["format"] == StoreFormat.DISCARD:
        return f"sets {rows} to zero" if i["clear"] else "writes nothing"
    clear = ", then sets them to zero" if i["clear"] else ""
    kind = StoreFormat(i["format"]).name.lower()
    shift = f", shifted right by {i['shift']}" if i["shift"] else ""
    place = f"group {i['group']} at {store_start(i):#x}"
    if i["addr_gap"]:
        place += f", a row every {store_step(i, config)[1]:,} bytes"
    return f"stores {rows} as {kind}{shift} ({store_bytes(i, config):,} bytes) to {place}{clear}"


STORE = OpcodeDescription(
    opcode=Opcode.STORE,
    summary="writes rows of the combine buffer to a channel group's memory, or sets them to zero",
    body=_BODY,
    queues=lambda instruction: (STORE_QUEUE,),
    queue_words="`store`",
    accesses=(
        Access(Memory.COMBINE, "read", "`rows` rows from `row_base` on, `row_gap` left out after each; not DISCARD"),
        Access(Memory.COMBINE, "write", "with `clear`: the same rows"),
        Access(Memory.EXTERNAL, "write", "the rows' bytes from `addr` and `offset` on; not DISCARD"),
    ),
    check=_check,
    explain=_explain,
    work=lambda instruction, config: Work(bytes_stored=store_bytes(instruction, config)),
)
