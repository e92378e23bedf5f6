# SPDX-License-Identifier: Apache-2.0
"""The instruction set: encodings round-trip, layouts agree with them, and errors say what to change."""

from __future__ import annotations

import pytest
from amaranth.hdl import Const
from hypothesis import given
from hypothesis import strategies as st

from hdl.isa import (
    BODIES,
    HEADER,
    INSTRUCTION_BITS,
    Instruction,
    IsaError,
    Opcode,
    body_layout,
    decode,
    encode,
    fields_of,
    header_layout,
    instruction_layout,
)


@st.composite
def instructions(draw: st.DrawFn) -> Instruction:
    """Any encodable instruction."""
    opcode = draw(st.sampled_from(list(Opcode)))
    values = {}
    for field in fields_of(opcode):
        if field.name in ("opcode", "reserved"):
            continue
        if field.enum is not None:
            value = int(draw(st.sampled_from(list(field.enum))))
        else:
            value = draw(st.integers(0, (1 << field.width) - 1))
        if value:
            values[field.name] = value
    return Instruction(opcode, values)


@given(instructions())
def test_encoding_round_trips(instruction: Instruction) -> None:
    word = encode(instruction)
    assert len(word) == 32 and decode(word) == instruction


@given(instructions())
def test_the_rtl_layouts_see_the_same_fields(instruction: Instruction) -> None:
    bits = int.from_bytes(encode(instruction), "little")
    layout = instruction_layout(instruction.opcode)
    assert layout.size == INSTRUCTION_BITS
    view = layout.from_bits(bits)
    for field in fields_of(instruction.opcode):
        assert int(view[field.name]) == instruction[field.name], field.name
    body = body_layout(instruction.opcode)
    low = sum(f.width for f in HEADER)
    assert header_layout().size == low
    view = body.from_bits(bits >> low & (1 << body.size) - 1)
    for field in BODIES[instruction.opcode]:
        assert int(view[field.name]) == instruction[field.name], field.name


def test_every_opcode_fits_and_starts_on_the_same_bit() -> None:
    assert sum(f.width for f in HEADER) == 48
    for opcode in Opcode:
        assert sum(f.width for f in fields_of(opcode)) <= INSTRUCTION_BITS
        names = [f.name for f in fields_of(opcode)]
        assert len(names) == len(set(names))
        assert all(f.doc for f in fields_of(opcode))
    assert 0 not in list(Opcode)


def test_reserved_bits_are_refused() -> None:
    word = int.from_bytes(encode(Instruction(Opcode.GEMM, {"tokens": 1})), "little")
    used = sum(f.width for f in fields_of(Opcode.GEMM))
    for bit in (42, 47, used, 255):
        with pytest.raises(IsaError, match="GEMM: reserved bits are set; they must be zero"):
            decode((word | 1 << bit).to_bytes(32, "little"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"token": 1}, "GEMM: no field 'token'; use one of"),
        ({"tokens": 1024}, r"GEMM.tokens: 1024 does not fit 10 bits; use 0 to 1023"),
        ({"tokens": -1}, r"GEMM.tokens: -1 does not fit 10 bits"),
        ({"mode": 3}, r"GEMM.mode: 3 is not defined; use REQUANT8=0, REQUANT16=1, SWIGLU=2"),
    ],
)
def test_bad_values_are_named(values: dict[str, int], message: str) -> None:
    with pytest.raises(IsaError, match=message):
        encode(Instruction(Opcode.GEMM, values))


def test_bad_words_are_named() -> None:
    with pytest.raises(IsaError, match="31 bytes; an instruction has 32"):
        decode(bytes(31))
    with pytest.raises(IsaError, match="opcode: 0 is not defined; use NOP=1, END=2"):
        decode(bytes(32))
    word = int.from_bytes(encode(Instruction(Opcode.LOAD, {})), "little") | 5 << 52
    with pytest.raises(IsaError, match="LOAD.dest_kind: 5 is not defined"):
        decode(word.to_bytes(32, "little"))


def test_layout_constants_are_little_endian() -> None:
    layout = instruction_layout(Opcode.LOAD)
    const = layout.const({"opcode": int(Opcode.LOAD), "addr": 0x12345678})
    assert isinstance(const.as_value(), Const)
    word = const.as_value().value.to_bytes(32, "little")
    assert decode(word) == Instruction(Opcode.LOAD, {"addr": 0x12345678})
