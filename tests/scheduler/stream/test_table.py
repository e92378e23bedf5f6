# SPDX-License-Identifier: Apache-2.0
"""Streams as arrays: the same bytes and instructions as one at a time, and the same refusals."""

import random

import numpy as np
import pytest

from hdl.config import PRESETS
from hdl.isa import BODIES, Instruction, IsaError, Opcode, encode, fields_of
from scheduler.stream.table import COL, COLUMNS, Builder, Table, pattern_of


def _random(draw: random.Random) -> Instruction:
    opcode = draw.choice(list(BODIES))
    values = {}
    for field in fields_of(opcode):
        if field.name in ("opcode", "reserved"):
            continue
        choices = (
            [int(v) for v in field.enum] if field.enum else [0, (1 << field.width) - 1, draw.getrandbits(field.width)]
        )
        values[field.name] = draw.choice(choices)
    return Instruction(opcode, {name: value for name, value in values.items() if value})


def test_same_bytes_as_one_at_a_time_and_back():
    draw = random.Random(5)
    stream = tuple(_random(draw) for _ in range(500))
    assert {i.opcode for i in stream} == set(Opcode)
    table = Table.of(stream)
    assert table.rows.shape == (500, len(COLUMNS))
    data = table.to_binary()
    assert data == b"".join(map(encode, stream))
    assert table.instructions() == stream
    again = Table.from_binary(data)
    assert (again.rows == table.rows).all()


def test_an_empty_stream_has_no_bytes():
    assert Table.of([]).to_binary() == b""
    assert len(Table.from_binary(b"")) == 0


@pytest.mark.parametrize(("field", "value"), [("tokens", 1024), ("tokens", -1), ("mode", 3), ("act_base", 1 << 16)])
def test_a_value_that_does_not_fit_names_instruction_and_field(field, value):
    table = Table.of([Instruction(Opcode.NOP, {}), Instruction(Opcode.GEMM, {"tokens": 1})])
    table.rows[1, getattr(COL, field)] = value
    with pytest.raises(IsaError, match=rf"instruction 1: GEMM.{field}: {value} "):
        table.to_binary()


def test_presets_have_no_field_that_is_missing():
    assert PRESETS and set(COLUMNS) >= {f.name for o in BODIES for f in fields_of(o) if f.name != "reserved"}


def test_values_of_enumerations_have_no_gaps():
    """The largest one says which others there are."""
    for opcode in BODIES:
        for field in fields_of(opcode):
            if field.enum is not None:
                values = sorted(int(value) for value in field.enum)
                assert values == list(range(int(field.name == "opcode"), max(values) + 1)), field.name


@pytest.mark.parametrize("opcode", [0, 8, 63, -1])
def test_an_opcode_that_does_not_exist_is_refused(opcode):
    table = Table.of([Instruction(Opcode.NOP, {}), Instruction(Opcode.NOP, {})])
    table.rows[1, COL.opcode] = opcode
    with pytest.raises(IsaError, match=rf"instruction 1: opcode {opcode} is not defined"):
        table.to_binary()


def test_builder_keeps_what_it_has_as_it_grows() -> None:
    builder = Builder()
    for number in range(3000):
        assert builder.add(Opcode.LOAD, {"count": number, "tag": 1}, number) == number
    builder.repeat({"addr": np.arange(5), "count": np.full(5, 7)})
    rows = builder.table().rows
    assert len(rows) == len(builder) == 3004
    assert rows[:2999, COL.count].tolist() == builder.marks[:2999].tolist() == list(range(2999))
    assert rows[2999:, COL.addr].tolist() == list(range(5)) and set(rows[2999:, COL.count].tolist()) == {7}
    assert set(rows[:, COL.tag].tolist()) == {1} and set(builder.marks[2999:3004].tolist()) == {2999}
    assert not builder.rows[3004:].any()


def test_instructions_are_like_a_pattern_but_for_some_fields() -> None:
    builder, pattern = Builder(), pattern_of(Opcode.LOAD, 3, count=9, addr=np.array([5, 6, 7]), tag=1)
    for number in range(1000):
        assert builder.add_like(pattern, {COL.count: number, COL.dest_base: np.arange(3)}, number) == 3 * number
    rows = builder.table().rows
    assert len(rows) == 3000 and set(rows[:, COL.opcode].tolist()) == {Opcode.LOAD}
    assert rows[:, COL.count].tolist() == builder.marks[:3000].tolist() == np.arange(1000).repeat(3).tolist()
    assert rows[:, COL.addr].tolist() == [5, 6, 7] * 1000 and rows[:, COL.dest_base].tolist() == [0, 1, 2] * 1000
    assert set(rows[:, COL.tag].tolist()) == {1} and pattern[:, COL.count].tolist() == [9, 9, 9]
