# SPDX-License-Identifier: Apache-2.0
"""The static checks that the dispatcher makes before an instruction has any effect, and the sizes they rest on.

The executor, the verifier, the assembler and the tests of the RTL all use these functions, so that there is one
Python statement of what is legal. Addresses that come from a token list are checked when they are used, not here.
"""

from __future__ import annotations

from dataclasses import dataclass

from hdl.config import ADDRESS_UNIT, MachineConfig
from hdl.errors_hw import ErrorCode
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
from hdl.numerics import MAX_SHIFT

__all__ = [
    "LIST_ENTRY_BYTES", "Limits", "Violation", "beats", "check_instruction", "check_word", "element_bytes",
    "gang_tiers", "load_groups", "load_unit_bytes", "store_bytes", "tiers_of_mask",
]  # fmt: skip

LIST_ENTRY_BYTES = 8
"""Bytes of one token-list entry in memory."""

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


@dataclass(frozen=True)
class Violation:
    """Why an instruction is not legal.

    Attributes
    ----------
    code : ErrorCode
        What the machine reports.
    field : str
        Name of the field at fault.
    message : str
        One line: field, value, what is allowed.
    address : int
        Memory address in bytes for ADDRESS errors, else 0.
    """

    code: ErrorCode
    field: str
    message: str
    address: int = 0


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
        return config.tile_bytes if instruction["format"] == Format.BYTES else config.plane_bytes
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


def beats(n_bytes: int, config: MachineConfig) -> int:
    """Return the beats of a channel group that ``n_bytes`` take."""
    return -(-n_bytes // config.group_bytes)


def check_word(word: bytes, config: MachineConfig, limits: Limits) -> Violation | None:
    """Check 32 raw bytes as the dispatcher does; return what is wrong, or None."""
    if len(word) != INSTRUCTION_BITS // 8:
        raise ValueError(f"an instruction has {INSTRUCTION_BITS // 8} bytes, not {len(word)}")
    code = word[0] & 0x3F
    if code not in list(Opcode):
        return Violation(ErrorCode.ILLEGAL_OPCODE, "opcode", f"opcode {code} is not defined")
    try:
        instruction = decode(word)
    except IsaError as error:
        return Violation(ErrorCode.ILLEGAL_FIELD, "encoding", str(error))
    return check_instruction(instruction, config, limits)


def check_instruction(instruction: Instruction, config: MachineConfig, limits: Limits) -> Violation | None:
    """Check a decoded instruction as the dispatcher does; return the first thing that is wrong, or None."""
    return (
        _check_header(instruction, config)
        or (_check_load(instruction, config, limits) if instruction.opcode == Opcode.LOAD else None)
        or (_check_store(instruction, config, limits) if instruction.opcode == Opcode.STORE else None)
        or (_check_gemm(instruction, config) if instruction.opcode == Opcode.GEMM else None)
    )


def _field(instruction: Instruction, name: str, allowed: str) -> Violation:
    text = f"{instruction.opcode.name}.{name}: {instruction[name]} is not legal; use {allowed}"
    return Violation(ErrorCode.ILLEGAL_FIELD, name, text)


def _range(instruction: Instruction, name: str, end: int, depth: int, what: str) -> Violation | None:
    if end <= depth:
        return None
    label = f"{instruction.opcode.name}.{name}"
    text = f"{label}: {what} up to {end - 1} are used; the machine has {depth} (0 to {depth - 1})"
    return Violation(ErrorCode.RANGE, name, text)


def _check_header(instruction: Instruction, config: MachineConfig) -> Violation | None:
    waits = [n for n in (0, 1) if instruction[f"wait{n}_count"]]
    posts = [n for n in (0, 1) if instruction[f"post{n}_en"]]
    if instruction.opcode in (Opcode.NOP, Opcode.END):
        # Neither enters a queue, so nothing could wait or post.
        for name in ("wait0_count", "wait1_count", "post0_en", "post1_en"):
            if instruction[name]:
                return _field(instruction, name, "0: this instruction enters no queue")
        return None
    for kind, numbers in (("wait", waits), ("post", posts)):
        for n in numbers:
            if instruction[f"{kind}{n}_sem"] >= config.semaphores:
                return _field(instruction, f"{kind}{n}_sem", f"0 to {config.semaphores - 1}")
    if len(waits) == 2 and instruction["wait0_sem"] == instruction["wait1_sem"]:
        return _field(instruction, "wait1_sem", "a semaphore other than wait0_sem")
    return None


def _check_mask(instruction: Instruction, config: MachineConfig) -> Violation | None:
    if instruction["dest_tiers"] >> config.tiers:
        return _field(instruction, "dest_tiers", f"bits 0 to {config.tiers - 1} only")
    return None


def _check_memory(
    instruction: Instruction, name: str, config: MachineConfig, span: tuple[int, int], allowed: tuple[int, int]
) -> Violation | None:
    start, end = span
    label = f"{instruction.opcode.name}.{name}"
    if start % config.group_bytes:
        text = f"{label}: byte address {start:#x} is not a multiple of the group's beat of {config.group_bytes} bytes"
        return Violation(ErrorCode.ADDRESS, name, text, start)
    if start < allowed[0] or end > allowed[1]:
        text = f"{label}: bytes {start:#x} to {end:#x} lie outside {allowed[0]:#x} to {allowed[1]:#x}"
        return Violation(ErrorCode.ADDRESS, name, text, start)
    return None


def _check_load(instruction: Instruction, config: MachineConfig, limits: Limits) -> Violation | None:
    kind = LoadDest(instruction["dest_kind"])
    if kind != LoadDest.VCACHE and instruction["format"] != Format.BYTES:
        return _field(instruction, "format", "BYTES for a destination other than V-Cache")
    if not instruction["dest_tiers"]:
        return _field(instruction, "dest_tiers", "at least one tier")
    if not instruction["count"]:
        return _field(instruction, "count", "1 or more")
    depth, what = {
        LoadDest.VCACHE: (config.vcache_tiles, "V-Cache tiles"),
        LoadDest.ACTIVATION: (config.activation_words, "activation words"),
        LoadDest.LIST: (config.list_depth, "token-list entries"),
        LoadDest.PARAMETER: (config.parameter_words, "requantisation words"),
    }[kind]
    wrong = _check_mask(instruction, config) or _range(
        instruction, "dest_base", instruction["dest_base"] + instruction["count"], depth, what
    )
    if wrong:
        return wrong
    size = beats(instruction["count"] * load_unit_bytes(instruction, config), config) * config.group_bytes
    for name, (group, start) in zip(("addr", "addr_low"), load_groups(instruction), strict=False):
        wrong = _check_memory(instruction, name, config, (start, start + size), (0, limits.memory_bytes[group]))
        if wrong:
            return wrong
    return None


def _check_store(instruction: Instruction, config: MachineConfig, limits: Limits) -> Violation | None:
    if not instruction["rows"]:
        return _field(instruction, "rows", "1 or more")
    wrong = _range(
        instruction, "row_base", instruction["row_base"] + instruction["rows"], config.combine_rows, "combine rows"
    )
    if wrong or instruction["format"] == StoreFormat.DISCARD:
        return wrong
    start = instruction["addr"] * ADDRESS_UNIT
    span = (start, start + store_bytes(instruction, config))
    return _check_memory(instruction, "addr", config, span, limits.window[instruction["group"]])


def _check_gemm_fields(instruction: Instruction, config: MachineConfig) -> Violation | None:
    count = instruction["tier_count"]
    if not 1 <= count or instruction["tier_base"] + count > config.tiers:
        return _field(instruction, "tier_count", f"1 to {config.tiers} tiers, up to tier {config.tiers - 1}")
    if instruction["mapping"] == Mapping3D.ALONE and count != 1:
        return _field(instruction, "tier_count", "1 with mapping ALONE")
    if count > 1 and not config.vertical_links:
        return _field(instruction, "tier_count", "1: this machine has no vertical links")
    for name in ("tokens", "k_slices", "n_tiles"):
        if not instruction[name]:
            return _field(instruction, name, "1 or more")
    for name in ("shift", "post_shift"):
        if instruction[name] > MAX_SHIFT:
            return _field(instruction, name, f"0 to {MAX_SHIFT}")
    if instruction["dest_kind"] == Dest.ACTIVATION and instruction["mode"] == Mode.REQUANT16:
        return _field(instruction, "mode", "REQUANT8 or SWIGLU when rows go to activation buffers")
    if instruction["dest_kind"] == Dest.COMBINE and instruction["mode"] == Mode.SWIGLU:
        return _field(instruction, "mode", "REQUANT8 or REQUANT16 when rows go to the combine buffer")
    return _check_mask(instruction, config)


def _check_gemm(instruction: Instruction, config: MachineConfig) -> Violation | None:
    wrong = _check_gemm_fields(instruction, config)
    if wrong:
        return wrong
    tokens, k_slices, n_tiles = (instruction[n] for n in ("tokens", "k_slices", "n_tiles"))
    rows = tokens * (n_tiles if instruction["order"] == Order.N_INNER else 1)
    tiles = k_slices * n_tiles
    last_source = 0 if instruction["act_list"] else (tokens - 1) * instruction["act_stride"]
    uses_list = instruction["act_list"] or instruction["dest_list"]
    return (
        _range(instruction, "tokens", rows, config.accumulator_depth, "accumulator rows")
        or _range(instruction, "vcache_base", instruction["vcache_base"] + tiles, config.vcache_tiles, "V-Cache tiles")
        or _range(
            instruction, "act_base", instruction["act_base"] + last_source + k_slices, config.activation_words,
            "activation words",
        )
        or (
            _range(instruction, "list_base", instruction["list_base"] + tokens, config.list_depth, "token-list entries")
            if uses_list
            else None
        )
        or _range(
            instruction, "param_base", instruction["param_base"] + n_tiles, config.parameter_words,
            "requantisation words",
        )
        or _check_gemm_dest(instruction, config)
    )  # fmt: skip


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
        return _range(instruction, "dest_base", end, config.combine_rows, "combine rows")
    row_bytes = config.columns // (2 if instruction["mode"] == Mode.SWIGLU else 1)
    end = instruction["dest_base"] + last_token + -(-tiles * row_bytes // config.rows)
    return _range(instruction, "dest_base", end, config.activation_words, "activation words")
