# SPDX-License-Identifier: Apache-2.0
"""What a ROUTE does to the machine's state, and what the routing table makes of instructions with a slot."""

from __future__ import annotations

import numpy as np

from hdl.isa import (
    Instruction,
    check_load_addresses,
    gate_rows,
    needs_full,
    route_dests,
    route_entries,
    route_scalars,
    route_sources,
    slot_gemm,
    slot_load,
)
from hdl.isa.error_codes import ErrorCode
from hdl.numerics.precision import Precision, Thresholds, precisions
from sim.golden.state import ExecutionError, MachineState

__all__ = ["execute_route", "gemm_of_slot", "load_of_slot"]


def _thresholds(instruction: Instruction) -> Thresholds | None:
    """Return what a ROUTE compares the experts' importance with; None: every expert has both planes."""
    if not instruction["full_score"]:
        return None
    # An expert between both, if the lower one is the higher, is full.
    return Thresholds(
        instruction["full_score"], min(instruction["high_score"], instruction["full_score"]),
        bool(instruction["first_full"]),
    )  # fmt: skip


def execute_route(machine: MachineState, instruction: Instruction, pc: int) -> None:
    """Execute a ROUTE.

    Raises
    ------
    ExecutionError
        RANGE: a choice that is no expert. Nothing has changed then.
    UninitialisedError
        In strict mode, a choice or gate is read that was never written.
    """
    scalars, rows = route_scalars(instruction), gate_rows(instruction)
    machine.need("scalar", pc, None, scalars)
    machine.need("combine row", pc, None, rows)
    choice = (machine.scalars[scalars] >> 16).astype(np.int64)
    experts = instruction["experts"]
    if choice.max() >= experts:
        text = f"ROUTE.s_base: expert {choice.max()} is chosen; there are {experts} (0 to {experts - 1})"
        raise ExecutionError(ErrorCode.RANGE, pc, 0, text)
    counts = np.bincount(choice.reshape(-1), minlength=experts)
    order = np.arange(experts) if instruction["by_number"] else np.lexsort((np.arange(experts), -counts))
    base = instruction["list_base"] + np.concatenate([[0], np.cumsum(counts[order])[:-1]])
    gates = machine.combine[rows, : instruction["choices"]] & 0xFFFF
    asked = np.full(experts, Precision.FULL)
    thresholds = _thresholds(instruction)
    if thresholds is not None:
        asked = precisions(choice, gates, experts, thresholds)
    table = np.stack([counts[order], base, order, asked[order] == Precision.HIGH], axis=1)
    table[(counts[order] == 0) | (asked[order] == Precision.SKIP)] = 0  # an empty slot shows nothing else
    first = instruction["slot_base"]
    machine.slots[first : first + experts] = table
    # Entries expert by expert in slot order; of an expert, tokens ascending and of a token, choices ascending.
    rank = np.zeros(experts, dtype=np.int64)
    rank[order] = np.arange(order.size)
    flat = np.argsort(rank[choice].reshape(-1), kind="stable")
    token, lane = np.divmod(flat, instruction["choices"])
    first = instruction["list_base"]
    entries = machine.lists[:, first : first + route_entries(instruction)]
    entries[:, :, 0] = route_sources(instruction)[token]
    entries[:, :, 1] = route_dests(instruction)[token]
    entries[:, :, 2] = machine.combine[rows[token], lane] & 0xFFFF
    entries[:, :, 3] = 0
    machine.known["list entry"][:, first : first + route_entries(instruction)] = True
    machine.counters["vector_rows"] += instruction["tokens"]


def gemm_of_slot(machine: MachineState, instruction: Instruction) -> Instruction | None:
    """Return what a GEMM does: itself without a slot, else with the slot's tokens; None when it is skipped."""
    if not instruction["slot_en"]:
        return instruction
    count, base, *_ = (int(v) for v in machine.slots[instruction["slot"]])
    return slot_gemm(instruction, count, base)


def load_of_slot(machine: MachineState, instruction: Instruction, pc: int) -> Instruction | None:
    """Return what a LOAD does: itself without a slot, else with its expert's addresses; None if it reads nothing.

    Raises
    ------
    ExecutionError
        ADDRESS: the expert lies outside memory.
    """
    if not instruction["slot_en"]:
        return instruction
    count, _, expert, high_only = (int(v) for v in machine.slots[instruction["slot"]])
    if not count or (high_only and needs_full(instruction)):
        return None
    load = slot_load(instruction, expert, bool(high_only))
    wrong = check_load_addresses(load, machine.config, machine.limits)
    if wrong is not None:
        raise ExecutionError(wrong.code, pc, wrong.address, wrong.message)
    return load
