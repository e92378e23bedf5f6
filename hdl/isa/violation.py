# SPDX-License-Identifier: Apache-2.0
"""What the legality checks report: which field of an instruction is wrong, how, and what the machine makes of it."""

from __future__ import annotations

from dataclasses import dataclass

from hdl.isa import Instruction
from hdl.isa.error_codes import ErrorCode

__all__ = ["Violation", "field_violation", "range_violation"]


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
