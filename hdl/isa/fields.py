# SPDX-License-Identifier: Apache-2.0
"""What all instructions share: opcodes, the header, and what a field and an instruction are.

An instruction is 256 bits, little-endian in memory. All instructions share a header; the body depends on the opcode,
and stands in the opcode's own file. Bits that no field uses are reserved and must be zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from hdl.config import INSTRUCTION_BYTES
from hdl.errors import A3dError

__all__ = ["HEADER", "INSTRUCTION_BITS", "Field", "Instruction", "IsaError", "Opcode", "tiers_of_mask"]

INSTRUCTION_BITS = 8 * INSTRUCTION_BYTES


class IsaError(A3dError):
    """An instruction word or an instruction's field is not legal."""


class Opcode(IntEnum):
    """Operation codes (6 bits). Zero is illegal, so that erased memory is not a program."""

    NOP = 1
    END = 2
    LOAD = 3
    STORE = 4
    GEMM = 5
    VECTOR = 6
    ROUTE = 7


@dataclass(frozen=True)
class Field:
    """One field of an instruction.

    Attributes
    ----------
    name : str
        Name in the assembler and in the RTL layout.
    width : int
        Bits.
    doc : str
        One line for the reference page, with unit and range.
    enum : type of IntEnum, optional
        Names of the legal values.
    form : {"number", "signed", "tiers", "address"}
        How the assembler writes it: a number, one in two's complement, a set of tiers, or an address in units of 32
        bytes that may be a symbol.
    default : int
        What the assembler takes when the field is left out.
    """

    name: str
    width: int
    doc: str
    enum: type[IntEnum] | None = None
    form: Literal["number", "signed", "tiers", "address"] = "number"
    default: int = 0


HEADER: tuple[Field, ...] = (
    Field("opcode", 6, "operation", Opcode),
    Field("wait0_sem", 6, "semaphore of the first wait"),
    Field("wait0_count", 5, "amount that the first wait subtracts; 0 = no wait"),
    Field("wait1_sem", 6, "semaphore of the second wait; must differ from the first when both wait"),
    Field("wait1_count", 5, "amount that the second wait subtracts; 0 = no wait"),
    Field("post0_en", 1, "1 = post the first semaphore when the result is readable"),
    Field("post0_sem", 6, "semaphore of the first post (adds 1)"),
    Field("post1_en", 1, "1 = post the second semaphore"),
    Field("post1_sem", 6, "semaphore of the second post (adds 1)"),
    Field("reserved", 6, "must be zero"),
)


@dataclass(frozen=True)
class Instruction:
    """One instruction: its opcode and every field's value (absent fields are zero)."""

    opcode: Opcode
    values: Mapping[str, int]

    def __getitem__(self, name: str) -> int:
        if name == "opcode":
            return int(self.opcode)
        return self.values.get(name, 0)


def tiers_of_mask(mask: int) -> list[int]:
    """Return the tier numbers whose bits are set, lowest first."""
    return [tier for tier in range(mask.bit_length()) if mask >> tier & 1]
