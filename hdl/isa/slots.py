# SPDX-License-Identifier: Apache-2.0
"""ROUTE, and what the routing table makes of instructions with a slot (``docs/vector.md``, section 6).

The legality checks, the executor, the verifier and the stream generators all use these functions.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hdl.config import MachineConfig
from hdl.isa import Format, Instruction
from hdl.isa.violation import Violation, field_violation, range_violation

__all__ = [
    "MAX_CHOICES", "check_route_fields", "check_route_ranges", "check_slot", "gate_rows", "route_dests",
    "route_entries", "route_scalars", "route_sources", "slot_gemm", "slot_load",
]  # fmt: skip

Int = npt.NDArray[np.int64]

MAX_CHOICES = 15
"""Most experts of a token: ROUTE's field has 4 bits."""


def check_route_fields(instruction: Instruction, config: MachineConfig) -> Violation | None:
    """Return the first field of a ROUTE that is not legal, or None; the dispatcher checks these."""
    if not instruction["tokens"]:
        return field_violation(instruction, "tokens", "1 or more")
    most = min(MAX_CHOICES, config.columns)
    if not 1 <= instruction["choices"] <= most:
        return field_violation(instruction, "choices", f"1 to {most}")
    if not 1 <= instruction["experts"] <= config.expert_slots:
        return field_violation(instruction, "experts", f"1 to {config.expert_slots}")
    return None


def check_route_ranges(instruction: Instruction, config: MachineConfig) -> Violation | None:
    """Return the first range of a ROUTE with legal fields that leaves its memory, or None; the unit checks these."""
    i, last, entries = instruction, instruction["tokens"] - 1, route_entries(instruction)
    return (
        range_violation(i, "s_base", i["s_base"] + entries, config.scalar_depth, "scalars")
        or range_violation(i, "a_base", i["a_base"] + last * i["a_stride"] + 1, config.combine_rows, "combine rows")
        or range_violation(i, "list_base", i["list_base"] + entries, config.list_depth, "token-list entries")
        or range_violation(
            i, "source_stride", last * i["source_stride"] + 1, config.activation_words, "activation words"
        )
        or range_violation(
            i, "dest_base", i["dest_base"] + last * i["dest_stride"] + 1, config.combine_rows, "combine rows"
        )
    )


def check_slot(instruction: Instruction, config: MachineConfig) -> Violation | None:
    """Return what is wrong with the slot number of a GEMM or LOAD, or None."""
    if instruction["slot_en"] and instruction["slot"] >= config.expert_slots:
        return field_violation(instruction, "slot", f"0 to {config.expert_slots - 1}")
    return None


def route_entries(instruction: Instruction) -> int:
    """Return the token-list entries that a ROUTE writes in each tier, which is also the scalars that it reads."""
    return instruction["tokens"] * instruction["choices"]


def route_scalars(instruction: Instruction) -> Int:
    """Return the scalars that hold the choices: shape [tokens, choices]."""
    tokens = np.arange(instruction["tokens"])[:, None]
    scalars: Int = instruction["s_base"] + np.arange(instruction["choices"]) * instruction["tokens"] + tokens
    return scalars


def gate_rows(instruction: Instruction) -> Int:
    """Return the combine row of each token's gates: shape [tokens]."""
    rows: Int = instruction["a_base"] + np.arange(instruction["tokens"]) * instruction["a_stride"]
    return rows


def route_sources(instruction: Instruction) -> Int:
    """Return the list entries' `source` of each token: shape [tokens]."""
    sources: Int = np.arange(instruction["tokens"]) * instruction["source_stride"]
    return sources


def route_dests(instruction: Instruction) -> Int:
    """Return the list entries' `dest` of each token: shape [tokens]."""
    dests: Int = instruction["dest_base"] + np.arange(instruction["tokens"]) * instruction["dest_stride"]
    return dests


def slot_gemm(instruction: Instruction, count: int, base: int) -> Instruction | None:
    """Return a GEMM without its slot, given the slot's tokens and first list entry; None when nothing is left to do."""
    tokens = min(instruction["tokens"], count - instruction["list_base"])
    if tokens <= 0:
        return None
    values = {k: v for k, v in instruction.values.items() if k not in ("slot_en", "slot")}
    values |= {"tokens": tokens, "list_base": base + instruction["list_base"]}
    return Instruction(instruction.opcode, values)


def slot_load(instruction: Instruction, expert: int) -> Instruction:
    """Return a LOAD without its slot, given the slot's expert.

    The addresses may be too large for their fields; `hdl.isa.legality.check_load_addresses` finds that.
    """
    values = {k: v for k, v in instruction.values.items() if k not in ("slot_en", "slot", "slot_stride")}
    if instruction["format"] == Format.PAIR:
        place = (expert >> 1) * instruction["slot_stride"]
        values |= {"group": instruction["group"] ^ (expert & 1), "addr_low": instruction["addr_low"] + place}
    else:
        place = expert * instruction["slot_stride"]
    return Instruction(instruction.opcode, values | {"addr": instruction["addr"] + place})
