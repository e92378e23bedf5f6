# SPDX-License-Identifier: Apache-2.0
"""Says in plain words what each instruction of a stream does: shapes, bytes, multiply-accumulates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hdl.config import ADDRESS_UNIT, MachineConfig
from hdl.isa import Dest, Format, Instruction, LoadDest, Mapping3D, Mode, Opcode, Order, StoreFormat
from hdl.isa.asm import disassemble
from hdl.isa.explain_vector import describe_vector
from hdl.isa.explain_words import count_of, span_of, tiers_text
from hdl.isa.legality import (
    gang_tiers,
    load_groups,
    load_unit_bytes,
    store_bytes,
    store_start,
    store_step,
    tiers_of_mask,
)
from hdl.isa.slots import route_entries
from hdl.isa.vector_access import row_count

__all__ = ["describe", "explain", "instruction_macs", "load_bytes"]


def load_bytes(instruction: Instruction, config: MachineConfig) -> int:
    """Return the bytes that a LOAD reads in both groups together (without the rest of a last beat).

    With a slot: when the slot is not empty.
    """
    planes = 2 if instruction["format"] == Format.PAIR else 1
    return planes * instruction["count"] * load_unit_bytes(instruction, config)


def instruction_macs(instruction: Instruction, config: MachineConfig) -> int:
    """Return the multiply-accumulates of an instruction (0 but for a GEMM; with a slot the most)."""
    if instruction.opcode != Opcode.GEMM:
        return 0
    size = instruction["tokens"] * instruction["k_slices"] * instruction["n_tiles"] * instruction["tier_count"]
    return size * config.rows * config.columns


def _load(i: Instruction, config: MachineConfig) -> str:
    what = {
        LoadDest.VCACHE: ("tile", "tiles", f"V-Cache, tag {i['tag']}"),
        LoadDest.ACTIVATION: ("word", "words", "activation buffer"),
        LoadDest.LIST: ("entry", "entries", "token list"),
        LoadDest.PARAMETER: ("word", "words", "requantisation memory"),
        LoadDest.ROWS: ("row", "rows", ""),
    }[LoadDest(i["dest_kind"])]
    how = {
        Format.BYTES: "bytes",
        Format.PAIR: "high and low nibble planes",
        Format.HIGH: "high nibble plane only",
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
    return (
        f"loads {count_of(i['count'], what[0], what[1])} ({load_bytes(i, config):,} bytes, {how}) from {places} into "
        f"{what[0]} {span_of(i['dest_base'], i['count'])} of {tiers_text(tiers_of_mask(i['dest_tiers']))} ({what[2]})"
    )


def _slot_places(i: Instruction, places: str) -> str:
    """Return where the expert of a slot lies, given where expert 0 does."""
    pair = i["format"] == Format.PAIR
    step = f"{i['slot_stride'] * ADDRESS_UNIT:,} bytes"
    rest = f"{step} on for every second expert, groups swapped for odd ones" if pair else f"{step} on for each expert"
    return f"the memory of slot {i['slot']}'s expert (nothing if the slot is empty; expert 0: {places}; {rest})"


def _store(i: Instruction, config: MachineConfig) -> str:
    if i["row_gap"] and i["rows"] > 1:
        rows = f"{count_of(i['rows'], 'combine row')} from {i['row_base']} on, one in {1 + i['row_gap']},"
    else:
        rows = f"combine {count_of(i['rows'], 'row')} {span_of(i['row_base'], i['rows'])}"
    if i["format"] == StoreFormat.DISCARD:
        return f"sets {rows} to zero" if i["clear"] else "writes nothing"
    clear = ", then sets them to zero" if i["clear"] else ""
    kind = StoreFormat(i["format"]).name.lower()
    shift = f", shifted right by {i['shift']}" if i["shift"] else ""
    place = f"group {i['group']} at {store_start(i):#x}"
    if i["addr_gap"]:
        place += f", a row every {store_step(i, config)[1]:,} bytes"
    return f"stores {rows} as {kind}{shift} ({store_bytes(i, config):,} bytes) to {place}{clear}"


def _gemm(i: Instruction, config: MachineConfig) -> str:
    gang = i["tier_count"]
    mapping = Mapping3D(i["mapping"]) if gang > 1 else Mapping3D.ALONE
    tokens = i["tokens"] * (gang if mapping == Mapping3D.M else 1)
    depth = i["k_slices"] * config.rows * (gang if mapping == Mapping3D.K else 1)
    width = i["n_tiles"] * config.columns * (gang if mapping == Mapping3D.N else 1)
    shared = {
        Mapping3D.ALONE: "alone",
        Mapping3D.M: "sharing stationary tiles, each its own tokens",
        Mapping3D.N: "sharing activations, each its own outputs",
        Mapping3D.K: "sharing the reduction",
    }[mapping]
    mode = {
        Mode.REQUANT8: "int8",
        Mode.REQUANT16: "int16",
        Mode.SWIGLU: "SwiGLU to int8",
    }[Mode(i["mode"])]
    source = "the token list" if i["act_list"] else f"word {i['act_base']}"
    if i["dest_kind"] == Dest.COMBINE:
        verb = "added to" if i["accumulate"] else "written to"
        where = f"{verb} combine rows from {i['dest_base']}" + (", gated by the token list" if i["dest_list"] else "")
    else:
        holders = tiers_text(tiers_of_mask(i["dest_tiers"])) if i["dest_tiers"] else "the tier that made them"
        where = f"to activation words from {i['dest_base']} of {holders}"
    if i["slot_en"]:
        most = f"at most {i['tokens']} of the tokens of slot {i['slot']}"
        source = f"{most} from its token {i['list_base']} on (nothing if there are none), through {source}"
    hold = ", all by one requantisation word," if i["param_hold"] else ""
    order = "" if i["order"] == Order.K_INNER else ", outputs innermost"
    tiles = i["k_slices"] * i["n_tiles"]
    return (
        f"{tiers_text(gang_tiers(i))} {shared}: [{tokens} x {depth}] x [{depth} x {width}]{order}, "
        f"{instruction_macs(i, config):,} MACs in {i['tokens'] * tiles:,} waves per tier; activations from {source}, "
        f"V-Cache tiles {span_of(i['vcache_base'], tiles)} with tag {i['tag']}; {mode} rows{hold} {where}"
    )


def _route(i: Instruction) -> str:
    entries = route_entries(i)
    return (
        f"routes {count_of(i['tokens'], 'token')} to {i['choices']} of {count_of(i['experts'], 'expert')} each, chosen "
        f"in scalars {span_of(i['s_base'], entries)}, with gates in combine rows from {i['a_base']} on: fills the "
        "routing table (slots by falling number of tokens) and entries "
        f"{span_of(i['list_base'], entries)} of all token lists"
    )


def describe(instruction: Instruction, config: MachineConfig) -> str:
    """Return one sentence on what an instruction does, with its semaphores."""
    if instruction.opcode == Opcode.LOAD:
        text = _load(instruction, config)
    elif instruction.opcode == Opcode.STORE:
        text = _store(instruction, config)
    elif instruction.opcode == Opcode.GEMM:
        text = _gemm(instruction, config)
    elif instruction.opcode == Opcode.VECTOR:
        text = describe_vector(instruction, config)
    elif instruction.opcode == Opcode.ROUTE:
        text = _route(instruction)
    else:
        end = instruction.opcode == Opcode.END
        text = "ends the stream when everything is idle" if end else "does nothing"
    for n in (0, 1):
        if instruction[f"wait{n}_count"]:
            text += f"; waits for {instruction[f'wait{n}_count']} of semaphore {instruction[f'wait{n}_sem']}"
    for n in (0, 1):
        if instruction[f"post{n}_en"]:
            text += f"; posts semaphore {instruction[f'post{n}_sem']}"
    return text


def explain(
    instructions: Iterable[Instruction], config: MachineConfig, symbols: Mapping[tuple[int, int], str] | None = None
) -> str:
    """Return a stream as assembler text with a comment of plain words above each instruction, and totals at the end."""
    lines = []
    totals = {"instructions": 0, "bytes loaded": 0, "bytes stored": 0, "MACs": 0, "vector rows": 0}
    for number, instruction in enumerate(instructions):
        lines += [f"; {number}: {describe(instruction, config)}", disassemble(instruction, symbols)]
        totals["instructions"] += 1
        totals["MACs"] += instruction_macs(instruction, config)
        if instruction.opcode == Opcode.LOAD:
            totals["bytes loaded"] += load_bytes(instruction, config)
        if instruction.opcode == Opcode.STORE:
            totals["bytes stored"] += store_bytes(instruction, config)
        if instruction.opcode == Opcode.VECTOR:
            totals["vector rows"] += row_count(instruction)
    if not totals["vector rows"]:
        del totals["vector rows"]
    lines.append("; total: " + ", ".join(f"{value:,} {name}" for name, value in totals.items()))
    return "\n".join(lines) + "\n"
