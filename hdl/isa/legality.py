# SPDX-License-Identifier: Apache-2.0
"""The static checks that the dispatcher makes before an instruction has any effect, and the sizes they rest on.

The executor, the verifier, the assembler and the tests of the RTL all use these functions, so that there is one
Python statement of what is legal. Addresses that come from a token list or a chosen index are checked when they are
used, not here; neither are the memory addresses of a LOAD with a slot (:func:`check_load_addresses`).

In the RTL the dispatcher makes all field checks, and the RANGE checks of LOAD, of STORE and of a GEMM's accumulators.
A unit makes the others, with the same code, when it takes the instruction or uses the address: the sequencer the rest
of GEMM's RANGE, the vector unit all of VECTOR's and ROUTE's, load engines and store unit every ADDRESS. By then earlier
instructions may have changed on-chip memories, and VECTOR some of its own results; nothing outside has changed.
"""

from __future__ import annotations

from dataclasses import dataclass

from hdl.config import ADDRESS_UNIT, MachineConfig
from hdl.isa import (
    INSTRUCTION_BITS,
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
    decode,
)
from hdl.isa.error_codes import ErrorCode
from hdl.isa.slots import check_route_fields, check_route_ranges, check_slot
from hdl.isa.vector_legality import check_vector_fields, check_vector_ranges
from hdl.isa.violation import Violation, field_violation, range_violation
from hdl.numerics import MAX_SHIFT

__all__ = [
    "LIST_ENTRY_BYTES", "MAX_ROW_SHIFT", "Limits", "Violation", "beats", "check_instruction", "check_load_addresses",
    "check_word", "element_bytes", "gang_tiers", "load_groups", "load_unit_bytes", "parameter_count", "read_word",
    "store_beats", "store_bytes", "store_span", "store_start", "store_step", "tiers_of_mask",
]  # fmt: skip

LIST_ENTRY_BYTES = 8
"""Bytes of one token-list entry in memory."""

MAX_ROW_SHIFT = 16
"""Largest left shift of LOAD ROWS: an int16 still fits a row's int32."""

_STORE_BYTES = {StoreFormat.INT8: 1, StoreFormat.INT16: 2, StoreFormat.INT32: 4, StoreFormat.DISCARD: 0}


@dataclass(frozen=True)
class Limits:
    """Memory limits that the host writes to registers before the start.

    Attributes
    ----------
    memory_bytes : tuple of two int
        Size in bytes of each group's memory; loads and fetches stay below it.
    window : tuple of two (int, int)
        First byte and end (exclusive) of each group's output window; stores stay inside it.
    """

    memory_bytes: tuple[int, int]
    window: tuple[tuple[int, int], tuple[int, int]]

    @staticmethod
    def whole(config: MachineConfig) -> Limits:
        """Return limits that allow everything that ``address_bits`` can name."""
        size = 1 << config.address_bits
        return Limits((size, size), ((0, size), (0, size)))


def tiers_of_mask(mask: int) -> list[int]:
    """Return the tier numbers whose bits are set, lowest first."""
    return [tier for tier in range(mask.bit_length()) if mask >> tier & 1]


def gang_tiers(instruction: Instruction) -> range:
    """Return the tiers of a GEMM's gang, leader first."""
    base = instruction["tier_base"]
    return range(base, base + instruction["tier_count"])


def load_unit_bytes(instruction: Instruction, config: MachineConfig) -> int:
    """Return the bytes in one group's memory of one unit (tile, word, entry) of a LOAD; PAIR: of each plane."""
    kind = LoadDest(instruction["dest_kind"])
    if kind == LoadDest.VCACHE:
        planes = instruction["format"] in (Format.PAIR, Format.HIGH)
        return config.plane_bytes if planes else config.tile_bytes
    if kind == LoadDest.ACTIVATION:
        return config.rows
    if kind == LoadDest.LIST:
        return LIST_ENTRY_BYTES
    return 2 * config.columns


def load_groups(instruction: Instruction) -> list[tuple[int, int]]:
    """Return (channel group, byte address) of each range that a LOAD reads; PAIR: the high plane first."""
    group = instruction["group"]
    ranges = [(group, instruction["addr"] * ADDRESS_UNIT)]
    if instruction["format"] == Format.PAIR:
        ranges.append((1 - group, instruction["addr_low"] * ADDRESS_UNIT))
    return ranges


def element_bytes(store_format: int) -> int:
    """Return the bytes of one element that a STORE writes (DISCARD: 0)."""
    return _STORE_BYTES[StoreFormat(store_format)]


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


def parameter_count(instruction: Instruction) -> int:
    """Return how many requantisation words a GEMM reads in each tier that makes rows."""
    return 1 if instruction["param_hold"] else instruction["n_tiles"]


def beats(n_bytes: int, config: MachineConfig) -> int:
    """Return the beats of a channel group that ``n_bytes`` take."""
    return -(-n_bytes // config.group_bytes)


def read_word(word: bytes, config: MachineConfig, limits: Limits) -> Instruction | Violation:
    """Decode and check 32 raw bytes as the dispatcher does; return the instruction, or what is wrong."""
    if len(word) != INSTRUCTION_BITS // 8:
        raise ValueError(f"an instruction has {INSTRUCTION_BITS // 8} bytes, not {len(word)}")
    code = word[0] & 0x3F
    if code not in list(Opcode):
        return Violation(ErrorCode.ILLEGAL_OPCODE, "opcode", f"opcode {code} is not defined")
    try:
        instruction = decode(word)
    except IsaError as error:
        return Violation(ErrorCode.ILLEGAL_FIELD, "encoding", str(error))
    return check_instruction(instruction, config, limits) or instruction


def check_word(word: bytes, config: MachineConfig, limits: Limits) -> Violation | None:
    """Check 32 raw bytes as the dispatcher does; return what is wrong, or None."""
    result = read_word(word, config, limits)
    return result if isinstance(result, Violation) else None


def check_instruction(instruction: Instruction, config: MachineConfig, limits: Limits) -> Violation | None:
    """Check a decoded instruction as the dispatcher does; return the first thing that is wrong, or None."""
    return (
        _check_header(instruction, config)
        or (_check_load(instruction, config, limits) if instruction.opcode == Opcode.LOAD else None)
        or (_check_store(instruction, config, limits) if instruction.opcode == Opcode.STORE else None)
        or (_check_gemm(instruction, config) if instruction.opcode == Opcode.GEMM else None)
        or (_check_vector(instruction, config) if instruction.opcode == Opcode.VECTOR else None)
        or (_check_route(instruction, config) if instruction.opcode == Opcode.ROUTE else None)
    )


def _check_header(instruction: Instruction, config: MachineConfig) -> Violation | None:
    waits = [n for n in (0, 1) if instruction[f"wait{n}_count"]]
    posts = [n for n in (0, 1) if instruction[f"post{n}_en"]]
    if instruction.opcode in (Opcode.NOP, Opcode.END):
        # Neither enters a queue, so nothing could wait or post.
        for name in ("wait0_count", "wait1_count", "post0_en", "post1_en"):
            if instruction[name]:
                return field_violation(instruction, name, "0: this instruction enters no queue")
        return None
    for kind, numbers in (("wait", waits), ("post", posts)):
        for n in numbers:
            if instruction[f"{kind}{n}_sem"] >= config.semaphores:
                return field_violation(instruction, f"{kind}{n}_sem", f"0 to {config.semaphores - 1}")
    if len(waits) == 2 and instruction["wait0_sem"] == instruction["wait1_sem"]:
        return field_violation(instruction, "wait1_sem", "a semaphore other than wait0_sem")
    return None


def _check_mask(instruction: Instruction, config: MachineConfig) -> Violation | None:
    if instruction["dest_tiers"] >> config.tiers:
        return field_violation(instruction, "dest_tiers", f"bits 0 to {config.tiers - 1} only")
    return None


def _check_memory(
    instruction: Instruction, name: str, alignment: int, span: tuple[int, int], allowed: tuple[int, int]
) -> Violation | None:
    start, end = span
    label = f"{instruction.opcode.name}.{name}"
    if start % alignment:
        what = "the smaller of a row and the group's beat" if instruction.opcode == Opcode.STORE else "the group's beat"
        text = f"{label}: byte address {start:#x} is not a multiple of {alignment} bytes, {what}"
        return Violation(ErrorCode.ADDRESS, name, text, start)
    if start < allowed[0] or end > allowed[1]:
        text = f"{label}: bytes {start:#x} to {end:#x} lie outside {allowed[0]:#x} to {allowed[1]:#x}"
        return Violation(ErrorCode.ADDRESS, name, text, start)
    return None


def _check_load(instruction: Instruction, config: MachineConfig, limits: Limits) -> Violation | None:
    kind = LoadDest(instruction["dest_kind"])
    if kind != LoadDest.VCACHE and instruction["format"] != Format.BYTES:
        return field_violation(instruction, "format", "BYTES for a destination other than V-Cache")
    if instruction["format"] == Format.COLUMNS and config.stationary_feed == "edge":
        return field_violation(instruction, "format", "BYTES, PAIR or HIGH: the edge feed takes no transposed tiles")
    if kind == LoadDest.ROWS and instruction["dest_tiers"]:
        return field_violation(instruction, "dest_tiers", "0 with ROWS, which are no tier's")
    if kind != LoadDest.ROWS and not instruction["dest_tiers"]:
        return field_violation(instruction, "dest_tiers", "at least one tier")
    most = MAX_ROW_SHIFT if kind == LoadDest.ROWS else 0
    if instruction["shift"] > most:
        return field_violation(instruction, "shift", f"0 to {most}" if most else "0 for a destination other than ROWS")
    if not instruction["count"]:
        return field_violation(instruction, "count", "1 or more")
    if instruction["slot_en"] and kind not in (LoadDest.VCACHE, LoadDest.PARAMETER):
        return field_violation(instruction, "slot_en", "0 for a destination other than V-Cache or parameters")
    wrong = check_slot(instruction, config)
    if wrong:
        return wrong
    depth, what = {
        LoadDest.VCACHE: (config.vcache_tiles, "V-Cache tiles"),
        LoadDest.ACTIVATION: (config.activation_words, "activation words"),
        LoadDest.LIST: (config.list_depth, "token-list entries"),
        LoadDest.PARAMETER: (config.parameter_words, "requantisation words"),
        LoadDest.ROWS: (config.combine_rows, "combine rows"),
    }[kind]
    wrong = _check_mask(instruction, config) or range_violation(
        instruction, "dest_base", instruction["dest_base"] + instruction["count"], depth, what
    )
    if wrong or instruction["slot_en"]:
        return wrong
    return check_load_addresses(instruction, config, limits)


def check_load_addresses(instruction: Instruction, config: MachineConfig, limits: Limits) -> Violation | None:
    """Check where a LOAD reads; with a slot, call it with what `hdl.isa.slots.slot_load` makes of the instruction."""
    size = beats(instruction["count"] * load_unit_bytes(instruction, config), config) * config.group_bytes
    for name, (group, start) in zip(("addr", "addr_low"), load_groups(instruction), strict=False):
        span = (start, start + size)
        wrong = _check_memory(instruction, name, config.group_bytes, span, (0, limits.memory_bytes[group]))
        if wrong:
            return wrong
    return None


def _check_store(instruction: Instruction, config: MachineConfig, limits: Limits) -> Violation | None:
    if not instruction["rows"]:
        return field_violation(instruction, "rows", "1 or more")
    last = instruction["row_base"] + (instruction["rows"] - 1) * (1 + instruction["row_gap"])
    wrong = range_violation(instruction, "row_base", last + 1, config.combine_rows, "combine rows")
    if wrong or instruction["format"] == StoreFormat.DISCARD:
        return wrong
    alignment = min(store_step(instruction, config)[0], config.group_bytes)
    span = store_span(instruction, config)
    return _check_memory(instruction, "addr", alignment, span, limits.window[instruction["group"]])


def _check_vector(instruction: Instruction, config: MachineConfig) -> Violation | None:
    return check_vector_fields(instruction, config) or check_vector_ranges(instruction, config)


def _check_route(instruction: Instruction, config: MachineConfig) -> Violation | None:
    return check_route_fields(instruction, config) or check_route_ranges(instruction, config)


def _check_gemm_fields(instruction: Instruction, config: MachineConfig) -> Violation | None:
    count = instruction["tier_count"]
    if not 1 <= count or instruction["tier_base"] + count > config.tiers:
        return field_violation(instruction, "tier_count", f"1 to {config.tiers} tiers, up to tier {config.tiers - 1}")
    if instruction["mapping"] == Mapping3D.ALONE and count != 1:
        return field_violation(instruction, "tier_count", "1 with mapping ALONE")
    if count > 1 and not config.vertical_links:
        return field_violation(instruction, "tier_count", "1: this machine has no vertical links")
    for name in ("tokens", "k_slices", "n_tiles"):
        if not instruction[name]:
            return field_violation(instruction, name, "1 or more")
    for name in ("shift", "post_shift"):
        if instruction[name] > MAX_SHIFT:
            return field_violation(instruction, name, f"0 to {MAX_SHIFT}")
    if instruction["dest_kind"] == Dest.ACTIVATION and instruction["mode"] == Mode.REQUANT16:
        return field_violation(instruction, "mode", "REQUANT8 or SWIGLU when rows go to activation buffers")
    if instruction["dest_kind"] == Dest.COMBINE and instruction["mode"] == Mode.SWIGLU:
        return field_violation(instruction, "mode", "REQUANT8 or REQUANT16 when rows go to the combine buffer")
    if instruction["slot_en"] and count != 1:
        return field_violation(instruction, "tier_count", "1 with a slot")
    if instruction["slot_en"] and not (instruction["act_list"] or instruction["dest_list"]):
        return field_violation(instruction, "slot_en", "0 without act_list or dest_list")
    return check_slot(instruction, config) or _check_mask(instruction, config)


def _check_gemm(instruction: Instruction, config: MachineConfig) -> Violation | None:
    wrong = _check_gemm_fields(instruction, config)
    if wrong:
        return wrong
    tokens, k_slices, n_tiles = (instruction[n] for n in ("tokens", "k_slices", "n_tiles"))
    rows = tokens * (n_tiles if instruction["order"] == Order.N_INNER else 1)
    tiles = k_slices * n_tiles
    last_source = 0 if instruction["act_list"] else (tokens - 1) * instruction["act_stride"]
    spans = [
        ("tokens", rows, config.accumulator_depth, "accumulator rows"),
        ("vcache_base", instruction["vcache_base"] + tiles, config.vcache_tiles, "V-Cache tiles"),
        ("act_base", instruction["act_base"] + last_source + k_slices, config.activation_words, "activation words"),
    ]
    if instruction["act_list"] or instruction["dest_list"]:
        spans.append(("list_base", instruction["list_base"] + tokens, config.list_depth, "token-list entries"))
    words = instruction["param_base"] + parameter_count(instruction)
    spans.append(("param_base", words, config.parameter_words, "requantisation words"))
    for name, end, depth, what in spans:
        wrong = range_violation(instruction, name, end, depth, what)
        if wrong:
            return wrong
    return _check_gemm_dest(instruction, config)


def _check_gemm_dest(instruction: Instruction, config: MachineConfig) -> Violation | None:
    """Check the highest destination address that needs no list (with a list: the part that every row adds)."""
    gang = instruction["tier_count"]
    tiles = instruction["n_tiles"] * (gang if instruction["mapping"] == Mapping3D.N else 1)
    combine = instruction["dest_kind"] == Dest.COMBINE
    spread = instruction["mapping"] == Mapping3D.M and (combine or instruction["dest_tiers"])
    tokens = instruction["tokens"] * (gang if spread else 1)
    last_token = 0 if instruction["dest_list"] else (tokens - 1) * instruction["dest_stride"]
    if combine:
        end = instruction["dest_base"] + last_token + tiles
        return range_violation(instruction, "dest_base", end, config.combine_rows, "combine rows")
    row_bytes = config.columns // (2 if instruction["mode"] == Mode.SWIGLU else 1)
    end = instruction["dest_base"] + last_token + -(-tiles * row_bytes // config.rows)
    return range_violation(instruction, "dest_base", end, config.activation_words, "activation words")
