# SPDX-License-Identifier: Apache-2.0
"""GEMM: a gang of tiers multiplies activations by stationary tiles."""

from __future__ import annotations

from enum import IntEnum

from hdl.config import MachineConfig
from hdl.isa.checks import (
    Limits,
    Violation,
    check_slot,
    check_tiers,
    field_violation,
    memory_violation,
    range_violation,
)
from hdl.isa.description import OpcodeDescription, Work
from hdl.isa.fields import Field, Instruction, Opcode, tiers_of_mask
from hdl.isa.memories import Access, Memory
from hdl.isa.queues import tier_queue_name
from hdl.isa.words import span_of, tiers_text

__all__ = [
    "GEMM", "MAX_SHIFT", "Dest", "Mapping3D", "Mode", "Order", "gang_tiers", "maker_tiers", "parameter_count",
    "slot_gemm", "swiglu_channels",
]  # fmt: skip

MAX_SHIFT = 47
"""Largest right shift of a requantisation."""


class Mapping3D(IntEnum):
    """How a gang of adjacent tiers shares one GEMM's loop nest (``alone``: a gang of one)."""

    ALONE = 0
    M = 1
    N = 2
    K = 3


class Order(IntEnum):
    """Which of the two tile loops is the inner one; tokens are always innermost."""

    K_INNER = 0
    N_INNER = 1


class Mode(IntEnum):
    """What a tier's drain does with a finished output row."""

    REQUANT8 = 0
    REQUANT16 = 1
    SWIGLU = 2


class Dest(IntEnum):
    """Where result rows go."""

    ACTIVATION = 0
    COMBINE = 1


_BODY = (
    Field("tier_base", 3, "lowest tier of the gang (the leader)"),
    Field("tier_count", 4, "tiers in the gang, 1 to 8", default=1),
    Field("mapping", 2, "mapping of the loop nest to the gang; N, or one tier, with a slot", Mapping3D),
    Field("order", 1, "inner tile loop", Order),
    Field("act_list", 1, "1 = activation rows through the token list"),
    Field("dest_list", 1, "1 = result rows (and gates) through the token list"),
    Field("tokens", 10, "tokens per tier, 1 or more"),
    Field("k_slices", 10, "reduction slices of R per tier, 1 or more"),
    Field("n_tiles", 10, "output tiles of C columns per tier, 1 or more"),
    Field("vcache_base", 16, "first V-Cache tile, the same in each tier of the gang; tiles follow in loop order"),
    Field("tag", 6, "fill tag that the tiles must have"),
    Field("act_base", 16, "first activation word"),
    Field("act_stride", 10, "activation words from one token to the next (no list)"),
    Field("list_base", 12, "first token-list entry"),
    Field("param_base", 12, "requantisation word of the tier's first output tile; one word a tile"),
    Field("mode", 2, "drain operation", Mode),
    Field("shift", 6, f"requantisation shift, 0 to {MAX_SHIFT}"),
    Field("post_mult", 16, "SWIGLU: multiplier of the product, 0 to 65535"),
    Field("post_shift", 6, f"SWIGLU: shift of the product, 0 to {MAX_SHIFT}"),
    Field("dest_kind", 1, "where result rows go", Dest),
    Field("accumulate", 1, "COMBINE: 1 = add to the row, 0 = overwrite it"),
    Field("dest_tiers", 8, "ACTIVATION: tier mask that gets the rows; 0 = the tier that made the row", form="tiers"),
    Field("dest_base", 16, "first activation word / combine row"),
    Field("dest_stride", 10, "words / rows from one token to the next (no list)"),
    Field("param_hold", 1, "1 = every output tile uses the requantisation word param_base"),
    Field("slot_en", 1, "1 = the tokens of a slot: `tokens` is the most, `list_base` the first in the slot's list"),
    Field("slot", 8, "slot of the routing table, below expert_slots"),
)


def gang_tiers(instruction: Instruction) -> range:
    """Return the tiers of a GEMM's gang, leader first."""
    base = instruction["tier_base"]
    return range(base, base + instruction["tier_count"])


def maker_tiers(instruction: Instruction) -> list[int]:
    """Return the tiers that make a GEMM's result rows (K: the top one only)."""
    tiers = gang_tiers(instruction)
    return [tiers[-1]] if instruction["mapping"] == Mapping3D.K else list(tiers)


def parameter_count(instruction: Instruction) -> int:
    """Return how many requantisation words a GEMM reads in each tier that makes rows."""
    return 1 if instruction["param_hold"] else instruction["n_tiles"]


def swiglu_channels(columns: int) -> tuple[slice, slice]:
    """Return the columns of a SWIGLU row with gate channels, and those with the up channels of the same outputs."""
    half = columns // 2
    return slice(0, half), slice(half, columns)


def slot_gemm(instruction: Instruction, count: int, base: int) -> Instruction | None:
    """Return a GEMM without its slot, given the slot's tokens and first list entry; None when nothing is left to do."""
    tokens = min(instruction["tokens"], count - instruction["list_base"])
    if tokens <= 0:
        return None
    values = {k: v for k, v in instruction.values.items() if k not in ("slot_en", "slot")}
    values |= {"tokens": tokens, "list_base": base + instruction["list_base"]}
    return Instruction(instruction.opcode, values)


def _check_fields(instruction: Instruction, config: MachineConfig) -> Violation | None:
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
    if instruction["slot_en"] and count > 1 and instruction["mapping"] != Mapping3D.N:
        return field_violation(instruction, "mapping", "N (or one tier) with a slot")
    if instruction["slot_en"] and not (instruction["act_list"] or instruction["dest_list"]):
        return field_violation(instruction, "slot_en", "0 without act_list or dest_list")
    return check_slot(instruction, config) or check_tiers(instruction, config)


def _check(instruction: Instruction, config: MachineConfig, limits: Limits) -> Violation | None:
    wrong = _check_fields(instruction, config)
    if wrong:
        return wrong
    tokens, k_slices, n_tiles = (instruction[n] for n in ("tokens", "k_slices", "n_tiles"))
    rows = tokens * (n_tiles if instruction["order"] == Order.N_INNER else 1)
    wrong = range_violation(instruction, "tokens", rows, config.accumulator_depth, "accumulator rows")
    if wrong:
        return wrong
    last_source = 0 if instruction["act_list"] else (tokens - 1) * instruction["act_stride"]
    ends = [
        ("vcache_base", instruction["vcache_base"] + k_slices * n_tiles, Memory.VCACHE),
        ("act_base", instruction["act_base"] + last_source + k_slices, Memory.ACTIVATION),
    ]
    if instruction["act_list"] or instruction["dest_list"]:
        ends.append(("list_base", instruction["list_base"] + tokens, Memory.LIST))
    ends.append(("param_base", instruction["param_base"] + parameter_count(instruction), Memory.PARAMETER))
    for name, end, memory in ends:
        wrong = memory_violation(instruction, name, end, memory, config)
        if wrong:
            return wrong
    return _check_dest(instruction, config)


def _check_dest(instruction: Instruction, config: MachineConfig) -> Violation | None:
    """Check the highest destination address that needs no list (with a list: the part that every row adds)."""
    gang = instruction["tier_count"]
    tiles = instruction["n_tiles"] * (gang if instruction["mapping"] == Mapping3D.N else 1)
    combine = instruction["dest_kind"] == Dest.COMBINE
    spread = instruction["mapping"] == Mapping3D.M and (combine or instruction["dest_tiers"])
    tokens = instruction["tokens"] * (gang if spread else 1)
    first = instruction["dest_base"] + (0 if instruction["dest_list"] else (tokens - 1) * instruction["dest_stride"])
    if combine:
        return memory_violation(instruction, "dest_base", first + tiles, Memory.COMBINE, config)
    row_bytes = config.columns // (2 if instruction["mode"] == Mode.SWIGLU else 1)
    words = -(-tiles * row_bytes // config.rows)
    return memory_violation(instruction, "dest_base", first + words, Memory.ACTIVATION, config)


def _work(instruction: Instruction, config: MachineConfig) -> Work:
    waves = instruction["tokens"] * instruction["k_slices"] * instruction["n_tiles"]
    return Work(waves=waves, macs=waves * instruction["tier_count"] * config.rows * config.columns)


def _explain(i: Instruction, config: MachineConfig) -> str:
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
    mode = {Mode.REQUANT8: "int8", Mode.REQUANT16: "int16", Mode.SWIGLU: "SwiGLU to int8"}[Mode(i["mode"])]
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
    work, tiles = _work(i, config), i["k_slices"] * i["n_tiles"]
    named = "tile" if tiles == 1 else "tiles"
    return (
        f"{tiers_text(gang_tiers(i))} {shared}: [{tokens} x {depth}] x [{depth} x {width}]{order}, "
        f"{work.macs:,} MACs in {work.waves:,} waves per tier; activations from {source}, "
        f"V-Cache {named} {span_of(i['vcache_base'], tiles)} with tag {i['tag']}; {mode} rows{hold} {where}"
    )


GEMM = OpcodeDescription(
    opcode=Opcode.GEMM,
    summary="multiplies activations by stationary tiles in a gang of tiers, and requantises the result rows",
    body=_BODY,
    queues=lambda instruction: tuple(tier_queue_name(tier) for tier in gang_tiers(instruction)),
    queue_words="`tier<i>` of each tier of the gang at once",
    accesses=(
        Access(Memory.VCACHE, "read", "`k_slices` x `n_tiles` tiles from `vcache_base` on, when they have the `tag`"),
        Access(Memory.ACTIVATION, "read", "words from `act_base` on"),
        Access(Memory.LIST, "read", "with `act_list` or `dest_list`: `tokens` entries from `list_base` on"),
        Access(Memory.PARAMETER, "read", "words from `param_base` on"),
        Access(Memory.SLOTS, "read", "with `slot_en`"),
        Access(Memory.ACTIVATION, "write", "ACTIVATION: words from `dest_base` on"),
        Access(Memory.COMBINE, "write", "COMBINE: rows from `dest_base` on"),
        Access(Memory.COMBINE, "add", "COMBINE with `accumulate`: the same rows"),
    ),
    check=_check,
    explain=_explain,
    work=_work,
)
