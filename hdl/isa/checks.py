# SPDX-License-Identifier: Apache-2.0
"""What the legality checks of all opcodes share: what they report, and the limits that they check against."""

from __future__ import annotations

from dataclasses import dataclass

from hdl.config import MachineConfig
from hdl.isa.error_codes import ErrorCode
from hdl.isa.fields import Instruction
from hdl.isa.memories import MEMORIES, Memory

__all__ = [
    "Limits", "Violation", "check_slot", "check_span", "check_tiers", "field_violation", "memory_violation",
    "range_violation",
]  # fmt: skip


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


def field_violation(instruction: Instruction, name: str, allowed: str) -> Violation:
    """Return the violation of a field whose value is not legal; `allowed` says what is."""
    text = f"{instruction.opcode.name}.{name}: {instruction[name]} is not legal; use {allowed}"
    return Violation(ErrorCode.ILLEGAL_FIELD, name, text)


def range_violation(instruction: Instruction, name: str, end: int, depth: int, what: str) -> Violation | None:
    """Return a violation when `end`, one past the last address used, is beyond a memory of `depth` words."""
    if end <= depth:
        return None
    label = f"{instruction.opcode.name}.{name}"
    text = f"{label}: {what} up to {end - 1} are used; the machine has {depth} (0 to {depth - 1})"
    return Violation(ErrorCode.RANGE, name, text)


def memory_violation(
    instruction: Instruction, name: str, end: int, memory: Memory, config: MachineConfig
) -> Violation | None:
    """Return a violation when `end`, one past the last word used, is beyond an on-chip memory."""
    about = MEMORIES[memory]
    return range_violation(instruction, name, end, about.depth(config), about.words)


def check_tiers(instruction: Instruction, config: MachineConfig) -> Violation | None:
    """Return what is wrong with a mask of tiers that may be empty, or None."""
    if instruction["dest_tiers"] >> config.tiers:
        return field_violation(instruction, "dest_tiers", f"bits 0 to {config.tiers - 1} only")
    return None


def check_slot(instruction: Instruction, config: MachineConfig) -> Violation | None:
    """Return what is wrong with the slot number of a GEMM or LOAD, or None."""
    if instruction["slot_en"] and instruction["slot"] >= config.expert_slots:
        return field_violation(instruction, "slot", f"0 to {config.expert_slots - 1}")
    return None


def check_span(
    instruction: Instruction,
    name: str,
    span: tuple[int, int],
    allowed: tuple[int, int],
    alignment: int,
    aligned_to: str,
) -> Violation | None:
    """Return what is wrong with where bytes of external memory lie, or None.

    Parameters
    ----------
    instruction, name
        The instruction and its field.
    span, allowed : (int, int)
        First byte and end (exclusive) of what is used, and of what may be.
    alignment, aligned_to : int, str
        Bytes of which the first byte must be a multiple, and what they are.
    """
    start, end = span
    label = f"{instruction.opcode.name}.{name}"
    if start % alignment:
        text = f"{label}: byte address {start:#x} is not a multiple of {alignment} bytes, {aligned_to}"
        return Violation(ErrorCode.ADDRESS, name, text, start)
    if start < allowed[0] or end > allowed[1]:
        text = f"{label}: bytes {start:#x} to {end:#x} lie outside {allowed[0]:#x} to {allowed[1]:#x}"
        return Violation(ErrorCode.ADDRESS, name, text, start)
    return None
