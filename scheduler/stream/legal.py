# SPDX-License-Identifier: Apache-2.0
"""Which instructions of a stream are not legal: the checks of :mod:`hdl.isa.legality`, compiled.

Only the verdict comes from here; what is wrong with an instruction, :func:`hdl.isa.legality.check_instruction` says.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hdl.config import ADDRESS_UNIT, MachineConfig
from hdl.isa import (
    Dest,
    Format,
    Instruction,
    IsaError,
    LoadDest,
    Mapping3D,
    Mode,
    Opcode,
    Order,
    StoreFormat,
    encode,
)
from hdl.isa.legality import MAX_ROW_SHIFT, Limits, check_instruction
from hdl.isa.slots import MAX_CHOICES
from hdl.numerics import MAX_SHIFT
from scheduler.stream.compiled import compiled
from scheduler.stream.legal_vector import legal_vector
from scheduler.stream.machine import Machine, machine_of
from scheduler.stream.segments import element_bytes, load_bytes
from scheduler.stream.table import COL, COLUMNS, Rows, Table, tops

__all__ = ["addresses_fit", "illegal", "limits_of", "why_illegal"]

Int64 = npt.NDArray[np.int64]


def limits_of(limits: Limits) -> Int64:
    """Return memory limits as an array [2, 3]: for each group the memory's size, and begin and end of the window."""
    return np.array([[limits.memory_bytes[group], *limits.window[group]] for group in (0, 1)], dtype=np.int64)


@compiled
def _encodes(rows: Rows, r: int, most: Int64) -> bool:
    opcode = rows[r, COL.opcode]
    if opcode < 1 or opcode >= len(most):
        return False
    for column in range(most.shape[1]):
        if rows[r, column] < 0 or rows[r, column] >= most[opcode, column]:
            return False
    return True


@compiled
def _header(rows: Rows, r: int, machine: Machine) -> bool:
    waits = rows[r, COL.wait0_count] > 0, rows[r, COL.wait1_count] > 0
    posts = rows[r, COL.post0_en] > 0, rows[r, COL.post1_en] > 0
    opcode = rows[r, COL.opcode]
    if opcode == Opcode.NOP or opcode == Opcode.END:
        return not (waits[0] or waits[1] or posts[0] or posts[1])
    top = machine.semaphores
    if (waits[0] and rows[r, COL.wait0_sem] >= top) or (waits[1] and rows[r, COL.wait1_sem] >= top):
        return False
    if (posts[0] and rows[r, COL.post0_sem] >= top) or (posts[1] and rows[r, COL.post1_sem] >= top):
        return False
    return not (waits[0] and waits[1] and rows[r, COL.wait0_sem] == rows[r, COL.wait1_sem])


@compiled
def _slot_fits(rows: Rows, r: int, machine: Machine) -> bool:
    return bool(not rows[r, COL.slot_en] or rows[r, COL.slot] < machine.expert_slots)


@compiled
def _reads(begin: int, size: int, group: int, machine: Machine, limits: Int64) -> bool:
    return bool(begin % machine.group_bytes == 0 and begin + size <= limits[group, 0])


@compiled
def addresses_fit(rows: Rows, r: int, expert: int, machine: Machine, limits: Int64) -> bool:
    """Return whether what the LOAD in row `r` reads (with a slot: of an expert) is aligned and in memory."""
    size, group, pair = load_bytes(rows, r, machine), rows[r, COL.group], rows[r, COL.format] == Format.PAIR
    high, low, step = rows[r, COL.addr], rows[r, COL.addr_low], rows[r, COL.slot_stride]
    if rows[r, COL.slot_en]:
        group ^= expert & 1 if pair else 0
        high += step * (expert >> 1 if pair else expert)
        low += step * (expert >> 1)
        if rows[r, COL.scored] and rows[r, COL.dest_kind] == LoadDest.PARAMETER:  # and those of the high plane alone
            if not _reads((high + (step >> 1)) * ADDRESS_UNIT, size, group, machine, limits):
                return False
    if not _reads(high * ADDRESS_UNIT, size, group, machine, limits):
        return False
    return not pair or _reads(low * ADDRESS_UNIT, size, 1 - group, machine, limits)


@compiled
def _load(rows: Rows, r: int, machine: Machine, limits: Int64) -> bool:
    kind, form, mask = rows[r, COL.dest_kind], rows[r, COL.format], rows[r, COL.dest_tiers]
    if kind != LoadDest.VCACHE and form != Format.BYTES:
        return False
    if form > Format.LOW or ((form == Format.COLUMNS or form == Format.LOW) and machine.edge_feed):
        return False
    if (kind == LoadDest.ROWS) == (mask != 0):
        return False
    if rows[r, COL.shift] > (MAX_ROW_SHIFT if kind == LoadDest.ROWS else 0) or not rows[r, COL.count]:
        return False
    if rows[r, COL.slot_en] and kind != LoadDest.VCACHE and kind != LoadDest.PARAMETER:
        return False
    planes = form == Format.PAIR or form == Format.LOW
    if rows[r, COL.scored] and not (rows[r, COL.slot_en] and (kind == LoadDest.PARAMETER or planes)):
        return False
    if not _slot_fits(rows, r, machine) or mask >> machine.tiers:
        return False
    depth = machine.vcache_tiles
    if kind == LoadDest.ACTIVATION:
        depth = machine.activation_words
    elif kind == LoadDest.LIST:
        depth = machine.list_depth
    elif kind == LoadDest.PARAMETER:
        depth = machine.parameter_words
    elif kind == LoadDest.ROWS:
        depth = machine.combine_rows
    if rows[r, COL.dest_base] + rows[r, COL.count] > depth:
        return False
    return bool(rows[r, COL.slot_en]) or addresses_fit(rows, r, 0, machine, limits)


@compiled
def _store(rows: Rows, r: int, machine: Machine, limits: Int64) -> bool:
    many, group = rows[r, COL.rows], rows[r, COL.group]
    if not many or rows[r, COL.row_base] + (many - 1) * (1 + rows[r, COL.row_gap]) + 1 > machine.combine_rows:
        return False
    if rows[r, COL.format] == StoreFormat.DISCARD:
        return True
    row = machine.columns * element_bytes(rows, r)
    begin = rows[r, COL.addr] * ADDRESS_UNIT + rows[r, COL.offset]
    end = begin + (many - 1) * row * (1 + rows[r, COL.addr_gap]) + row
    return bool(begin % min(row, machine.group_bytes) == 0 and begin >= limits[group, 1] and end <= limits[group, 2])


@compiled
def _gemm_fields(rows: Rows, r: int, machine: Machine) -> bool:
    gang, kind, mode = rows[r, COL.tier_count], rows[r, COL.dest_kind], rows[r, COL.mode]
    if gang < 1 or rows[r, COL.tier_base] + gang > machine.tiers:
        return False
    if gang > 1 and (rows[r, COL.mapping] == Mapping3D.ALONE or not machine.vertical_links):
        return False
    if gang > 1 and rows[r, COL.slot_en] and rows[r, COL.mapping] != Mapping3D.N:
        return False
    if not rows[r, COL.tokens] or not rows[r, COL.k_slices] or not rows[r, COL.n_tiles]:
        return False
    if rows[r, COL.shift] > MAX_SHIFT or rows[r, COL.post_shift] > MAX_SHIFT:
        return False
    if mode == (Mode.REQUANT16 if kind == Dest.ACTIVATION else Mode.SWIGLU):
        return False
    if rows[r, COL.slot_en] and not (rows[r, COL.act_list] or rows[r, COL.dest_list]):
        return False
    return _slot_fits(rows, r, machine) and not rows[r, COL.dest_tiers] >> machine.tiers


@compiled
def _gemm(rows: Rows, r: int, machine: Machine) -> bool:
    if not _gemm_fields(rows, r, machine):
        return False
    tokens, slices, tiles = rows[r, COL.tokens], rows[r, COL.k_slices], rows[r, COL.n_tiles]
    last = 0 if rows[r, COL.act_list] else (tokens - 1) * rows[r, COL.act_stride]
    if tokens * (tiles if rows[r, COL.order] == Order.N_INNER else 1) > machine.accumulator_depth:
        return False
    if rows[r, COL.vcache_base] + slices * tiles > machine.vcache_tiles:
        return False
    if rows[r, COL.act_base] + last + slices > machine.activation_words:
        return False
    if rows[r, COL.act_list] or rows[r, COL.dest_list]:
        if rows[r, COL.list_base] + tokens > machine.list_depth:
            return False
    if rows[r, COL.param_base] + (1 if rows[r, COL.param_hold] else tiles) > machine.parameter_words:
        return False
    gang, combine = rows[r, COL.tier_count], rows[r, COL.dest_kind] == Dest.COMBINE
    if rows[r, COL.mapping] == Mapping3D.N:
        tiles *= gang
    if rows[r, COL.mapping] == Mapping3D.M and (combine or rows[r, COL.dest_tiers]):
        tokens *= gang
    last = 0 if rows[r, COL.dest_list] else (tokens - 1) * rows[r, COL.dest_stride]
    if combine:
        return bool(rows[r, COL.dest_base] + last + tiles <= machine.combine_rows)
    width = machine.columns // (2 if rows[r, COL.mode] == Mode.SWIGLU else 1)
    return bool(rows[r, COL.dest_base] + last - (-tiles * width // machine.rows) <= machine.activation_words)


@compiled
def _route(rows: Rows, r: int, machine: Machine) -> bool:
    tokens, choices, experts = rows[r, COL.tokens], rows[r, COL.choices], rows[r, COL.experts]
    if not tokens or not 1 <= choices <= min(MAX_CHOICES, machine.columns):
        return False
    if not experts or rows[r, COL.slot_base] + experts > machine.expert_slots:
        return False
    last, entries = tokens - 1, tokens * choices
    return bool(
        rows[r, COL.s_base] + entries <= machine.scalar_depth
        and rows[r, COL.a_base] + last * rows[r, COL.a_stride] + 1 <= machine.combine_rows
        and rows[r, COL.list_base] + entries <= machine.list_depth
        and rows[r, COL.source_base] + last * rows[r, COL.source_stride] + 1 <= machine.activation_words
        and rows[r, COL.dest_base] + last * rows[r, COL.dest_stride] + 1 <= machine.combine_rows
    )


@compiled
def _legal(rows: Rows, r: int, machine: Machine, limits: Int64, most: Int64) -> bool:
    if not _encodes(rows, r, most) or not _header(rows, r, machine):
        return False
    opcode = rows[r, COL.opcode]
    if opcode == Opcode.LOAD:
        return _load(rows, r, machine, limits)
    if opcode == Opcode.STORE:
        return _store(rows, r, machine, limits)
    if opcode == Opcode.GEMM:
        return _gemm(rows, r, machine)
    if opcode == Opcode.VECTOR:
        return legal_vector(rows, r, machine)
    if opcode == Opcode.ROUTE:
        return _route(rows, r, machine)
    return True


@compiled
def _check(rows: Rows, machine: Machine, limits: Int64, most: Int64, wrong: npt.NDArray[np.bool_]) -> None:
    for r in range(len(rows)):
        wrong[r] = not _legal(rows, r, machine, limits, most)


def illegal(table: Table, config: MachineConfig, limits: Limits) -> Int64:
    """Return the numbers of the instructions that are not legal."""
    wrong = np.zeros(len(table), dtype=np.bool_)
    _check(table.rows, machine_of(config), limits_of(limits), tops(), wrong)
    return np.flatnonzero(wrong)


def why_illegal(table: Table, number: int, config: MachineConfig, limits: Limits) -> str:
    """Return one line about the instruction `number`, which is not legal."""
    code = int(table.rows[number, COL.opcode])
    if code not in list(Opcode):
        return f"opcode {code} is not defined"
    row = {name: int(value) for name, value in zip(COLUMNS, table.rows[number], strict=True) if value}
    del row["opcode"]
    instruction = Instruction(Opcode(code), row)
    try:
        encode(instruction)
    except IsaError as error:
        return str(error)
    wrong = check_instruction(instruction, config, limits)
    if wrong is None:
        raise AssertionError(f"instruction {number} ({instruction}) is legal after all")
    return f"{wrong.code.name}: {wrong.message}"
