# SPDX-License-Identifier: Apache-2.0
"""From instructions to words and back, and the RTL's layouts of them."""

from __future__ import annotations

from amaranth.lib import data

from hdl.isa.fields import HEADER, INSTRUCTION_BITS, Field, Instruction, IsaError, Opcode
from hdl.isa.registry import BODIES

__all__ = [
    "body_layout", "decode", "encode", "field_widths", "fields_of", "header_layout", "instruction_layout", "most_of",
]  # fmt: skip


def fields_of(opcode: Opcode) -> tuple[Field, ...]:
    """Return header and body fields of an opcode in bit order from bit 0."""
    return HEADER + BODIES[opcode]


def field_widths(opcode: Opcode, *names: str) -> dict[str, int]:
    """Return the widths of some fields of an opcode by name, in the order given: for layouts that carry them on."""
    widths = {field.name: field.width for field in fields_of(opcode)}
    return {name: widths[name] for name in names}


def most_of(opcode: Opcode, *names: str) -> int:
    """Return the largest number that all these fields of an opcode can hold, without a sign."""
    return min((1 << width) - 1 for width in field_widths(opcode, *names).values())


def body_layout(opcode: Opcode) -> data.StructLayout:
    """Return the Amaranth layout of an opcode's body (bits 48 and up), without trailing reserved bits."""
    return data.StructLayout({f.name: f.width for f in BODIES[opcode]})


def header_layout() -> data.StructLayout:
    """Return the Amaranth layout of the header."""
    return data.StructLayout({f.name: f.width for f in HEADER})


def instruction_layout(opcode: Opcode) -> data.StructLayout:
    """Return the Amaranth layout of a whole 256-bit instruction of one opcode (``_pad`` is reserved)."""
    members = {f.name: f.width for f in fields_of(opcode)}
    used = sum(members.values())
    return data.StructLayout({**members, "_pad": INSTRUCTION_BITS - used})


def encode(instruction: Instruction) -> bytes:
    """Return the 32 bytes of an instruction, little-endian.

    Raises
    ------
    IsaError
        A field that the opcode does not have, or a value that does not fit its width or enumeration.
    """
    fields = fields_of(instruction.opcode)
    known = {f.name for f in fields}
    for name in instruction.values:
        if name not in known:
            raise IsaError(f"{instruction.opcode.name}: no field {name!r}; use one of {', '.join(sorted(known))}")
    word = 0
    position = 0
    for field in fields:
        value = int(instruction[field.name])
        if not 0 <= value < 1 << field.width:
            raise IsaError(
                f"{instruction.opcode.name}.{field.name}: {value} does not fit {field.width} bits; "
                f"use 0 to {(1 << field.width) - 1}"
            )
        if field.enum is not None and value not in [int(v) for v in field.enum]:
            names = ", ".join(f"{v.name}={int(v)}" for v in field.enum)
            raise IsaError(f"{instruction.opcode.name}.{field.name}: {value} is not defined; use {names}")
        word |= value << position
        position += field.width
    return word.to_bytes(INSTRUCTION_BITS // 8, "little")


def decode(word: bytes) -> Instruction:
    """Return the instruction that 32 bytes encode.

    Raises
    ------
    IsaError
        Wrong length, unknown opcode, undefined enumeration value, or a reserved bit that is set.
    """
    if len(word) != INSTRUCTION_BITS // 8:
        raise IsaError(f"instruction: {len(word)} bytes; an instruction has {INSTRUCTION_BITS // 8}")
    bits = int.from_bytes(word, "little")
    code = bits & 0x3F
    try:
        opcode = Opcode(code)
    except ValueError:
        names = ", ".join(f"{v.name}={int(v)}" for v in Opcode)
        raise IsaError(f"opcode: {code} is not defined; use {names}") from None
    values: dict[str, int] = {}
    position = 0
    for field in fields_of(opcode):
        value = (bits >> position) & ((1 << field.width) - 1)
        position += field.width
        if field.enum is not None and value not in [int(v) for v in field.enum]:
            names = ", ".join(f"{v.name}={int(v)}" for v in field.enum)
            raise IsaError(f"{opcode.name}.{field.name}: {value} is not defined; use {names}")
        if field.name != "opcode":
            values[field.name] = value
    if bits >> position or values.get("reserved"):
        raise IsaError(f"{opcode.name}: reserved bits are set; they must be zero")
    return Instruction(opcode, {k: v for k, v in values.items() if v})
