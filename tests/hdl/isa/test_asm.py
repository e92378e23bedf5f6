# SPDX-License-Identifier: Apache-2.0
"""The assembler: text, instructions and binary round-trip; errors name the line and the field."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hdl.config import PRESETS
from hdl.isa import BODIES, Instruction, Opcode, fields_of
from hdl.isa.asm import AsmError, assemble, disassemble, from_binary, to_binary, to_text
from hdl.isa.explain import describe, explain
from sim import cli


@st.composite
def instructions(draw: st.DrawFn) -> Instruction:
    opcode = draw(st.sampled_from(list(Opcode)))
    values = {}
    for field in fields_of(opcode):
        if field.name in ("opcode", "reserved") or draw(st.booleans()):
            continue
        top = (1 << field.width) - 1
        choices = st.sampled_from(list(field.enum)) if field.enum else st.integers(0, top) | st.just(top)
        values[field.name] = int(draw(choices))
    return Instruction(opcode, {k: v for k, v in values.items() if v})


@given(st.lists(instructions(), max_size=5))
def test_text_and_binary_round_trip(stream: list[Instruction]) -> None:
    assert assemble(to_text(stream)) == stream
    assert from_binary(to_binary(stream)) == stream


def test_the_short_forms() -> None:
    line = (
        "gemm tiers=0..3 mapping=n tokens=8 k_slices=8 n_tiles=4 vcache=0 tag=3 act=0 dest_tiers=0,2..3 "
        "dest_kind=combine wait=s3:2,s4 post=s5  ; comment"
    )
    (gemm,) = assemble(line)
    assert gemm.values == {
        "tier_count": 4, "mapping": 2, "tokens": 8, "k_slices": 8, "n_tiles": 4, "tag": 3, "dest_tiers": 13,
        "dest_kind": 1, "wait0_sem": 3, "wait0_count": 2, "wait1_sem": 4, "wait1_count": 1, "post0_en": 1,
        "post0_sem": 5,
    }  # fmt: skip
    assert disassemble(gemm) == (
        "gemm tiers=0..3 mapping=n order=k_inner tokens=8 k_slices=8 n_tiles=4 tag=3 mode=requant8 dest_kind=combine "
        "dest_tiers=0,2,3 wait=s3:2,s4 post=s5"
    )


def test_every_field_can_be_written_by_its_full_name() -> None:
    for opcode in Opcode:
        for field in BODIES[opcode]:
            value = max(int(v) for v in field.enum) if field.enum else 1
            text = f"0x{value:x}" if field.name.endswith("_tiers") else str(value)
            (instruction,) = assemble(f"{opcode.name} {field.name}={text}")
            assert instruction[field.name] == value


def test_symbols() -> None:
    (load,) = assemble("load addr=@w count=1", {"w": 0x140})
    assert load["addr"] == 10 and "addr=@w" in disassemble(load, {(0, 0x140): "w"})
    (pair,) = assemble("load format=pair group=1 addr=1 addr_low=2 count=1")
    text = disassemble(pair, {(1, 32): "high", (0, 64): "low", (0, 32): "no", (1, 64): "no"})
    assert "addr=@high addr_low=@low" in text  # the low plane lies in the other group
    with pytest.raises(AsmError, match=r"line 1: addr: no symbol 'v'; known are w"):
        assemble("load addr=@v", {"w": 0})
    with pytest.raises(AsmError, match="not a multiple of 32 bytes"):
        assemble("load addr=@w", {"w": 5})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nop\n\nfoo", "line 3: opcode 'foo'; use one of nop, end, load, store, gemm, vector"),
        ("gemm x=3", "line 1: no field 'x'; use one of wait, post, tiers, "),
        ("gemm tokens", "line 1: 'tokens' is not field=value"),
        ("gemm tokens=", "line 1: 'tokens=' is not field=value"),
        ("gemm tokens=5000", "line 1: GEMM.tokens: 5000 does not fit 10 bits"),
        ("gemm tokens=-1", "line 1: GEMM.tokens: -1 does not fit"),
        ("gemm tokens=1 tokens=2", "line 1: tokens: the field tokens is given twice"),
        ("gemm tokens=many", "line 1: tokens: 'many' is not understood; use a number"),
        ("load format=nibbles", "line 1: format: 'nibbles' is not understood; use one of bytes, pair, high"),
        ("gemm tiers=0,2", "line 1: tiers: '0,2' are not adjacent"),
        ("gemm tiers=3..1", "line 1: tiers: '3..1' is not a set of tiers"),
        ("load dest_tiers=1,1", "line 1: dest_tiers: '1,1' names a tier twice"),
        ("load wait=3", "line 1: wait: '3' is not a semaphore; write for example wait=s3:2,s4"),
        ("load wait=s1,s2,s3", "line 1: wait: 's1,s2,s3' has 3 semaphores; an instruction has two"),
        ("load wait=s1:0", "line 1: wait: 's1:0' waits for nothing"),
        ("load post=s1:2", "line 1: post: 's1:2'; a post always adds 1"),
        ("load wait=s99", "line 1: LOAD.wait0_sem: 99 does not fit 6 bits"),
        ("end tokens=1", "line 1: no field 'tokens'"),
        (
            "vector op=sum",
            "line 1: op: 'sum' is not understood; use one of map, scale, rescale, mul, rotate, add, max, ",
        ),
        ("vector length=-32769", "line 1: VECTOR.length: -32769 does not fit 16 bits"),
        ("vector a_base=-1", "line 1: VECTOR.a_base: -1 does not fit 16 bits"),
        ("store addr_gap=@w", "line 1: addr_gap: '@w' is not understood; use a number"),
    ],
)
def test_errors_name_line_and_field(text: str, message: str) -> None:
    with pytest.raises(AsmError) as caught:
        assemble(text)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_damaged_binaries_are_named() -> None:
    with pytest.raises(AsmError, match="stream: 33 bytes; use a multiple of 32"):
        from_binary(bytes(33))
    with pytest.raises(AsmError, match="instruction 1: opcode: 0 is not defined"):
        from_binary(to_binary(assemble("nop")) + bytes(32))


def test_vector_text() -> None:
    line = "vector op=map fn=exp2 sum=sum_recip vectors=3 rows=2 a=4 a_stride=2 s=4 d_scalar=7 masked=1 length=-3"
    (vector,) = assemble(line)
    assert vector["length"] == 0xFFFD and vector["a_base"] == 4 and vector["sum"] == 2
    assert "length=-3" in disassemble(vector) and assemble(disassemble(vector)) == [vector]
    (most,) = assemble("vector length=0x8000")
    assert "length=-32768" in disassemble(most)
    (store,) = assemble("store rows=2 addr=2 offset=16 row_gap=3 addr_gap=5")
    text = disassemble(store, {(0, 64): "out", (0, 160): "other"})  # addr_gap is no address
    assert "addr=@out offset=16 row_gap=3 addr_gap=5" in text


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("vector op=sumsq vectors=2 rows=4 a_stride=4 imm=3 shift=4 mult=32768 d_scalar=9",
         "takes one over the root of the sum of squares of 2 vectors of 4 rows (combine rows 0 to 7, plus 48, times "
         "32768 / 2**15); scalars into 9 to 10"),
        ("vector op=gather vectors=2 rows=4 length=2 a=8 a_stride=4 dest_kind=rows dest=20 dest_stride=1 bits=bits16 "
         "s=2",
         "gathers chosen elements of 2 vectors of 4 rows (combine rows 8 to 15), reading scalars 2 to 5, into int16 "
         "rows 20 to 21"),
        ("vector fn=exp2 sum=sum first=1 vectors=2 rows=2 a_stride=3 dest_kind=activation dest_tiers=0..1 dest=3 "
         "dest_stride=2 mult=127 shift=15 s=4 d_scalar=7 masked=1 length=5 length_step=1",
         "takes powers of two of 2 vectors of 2 rows (combine rows 0 to 1 and every 3 on, the first 5 elements, one "
         "more for each vector, times 127 / 2**15), reading scalars 4 to 5, into int8 activation words 3 to 6 of tiers "
         "0 to 1; sums into 7 to 8, starting afresh"),
        ("vector op=rotate vectors=2 rows=4 b_rows=2 b=100 a=8 a_stride=4 dest_kind=rows dest=8 dest_stride=4 "
         "bits=bits16 shift=14 in_shift=2",
         "rotates pairs of elements of 2 vectors of 4 rows (combine rows 8 to 15, shifted right by 2, result shift 14) "
         "with rows 100 to 103, always, into int16 rows 8 to 15"),
        ("load dest_kind=rows count=4 dest=4 shift=8 addr=4",
         "loads 4 rows (128 bytes, int16, shifted left by 8) from group 0 at 0x80 into combine rows 4 to 7"),
        ("load format=columns dest_tiers=0 count=1",
         "loads 1 tile (256 bytes, columns) from group 0 at 0x0 into tile 0 of tier 0 (V-Cache, tag 0)"),
        ("store format=int8 rows=4 row=4 row_gap=2 addr_gap=3 addr=4 offset=16",
         "stores 4 combine rows from 4 on, one in 3, as int8 (64 bytes) to group 0 at 0x90, a row every 64 bytes"),
    ],
)  # fmt: skip
def test_explanations_of_vectors_rows_and_gaps(line: str, text: str) -> None:
    assert describe(assemble(line)[0], PRESETS["small"]) == text


def test_explanations() -> None:
    config = PRESETS["small"]
    stream = assemble(
        "load format=pair dest_tiers=0..3 count=2 dest=4 tag=7 addr=0x40 addr_low=0x80 group=1 post=s1\n"
        "gemm tiers=0..3 mapping=k tokens=8 k_slices=2 n_tiles=3 mode=requant16 dest_kind=combine wait=s1\n"
        "store format=int16 shift=15 row=2 rows=2 clear=1 addr=2\nend"
    )
    assert describe(stream[0], config) == (
        "loads 2 tiles (512 bytes, high and low nibble planes) from group 1 at 0x800 and group 0 at 0x1000 into "
        "tiles 4 to 5 of tiers 0 to 3 (V-Cache, tag 7); posts semaphore 1"
    )
    assert "[8 x 128] x [128 x 48], 49,152 MACs in 48 waves per tier" in describe(stream[1], config)
    text = explain(stream, config)
    assert text.endswith("; total: 4 instructions, 512 bytes loaded, 64 bytes stored, 49,152 MACs\n")
    assert assemble(text) == stream  # comments are comments


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, binary = tmp_path / "a.s", tmp_path / "a.bin"
    source.write_text("load dest_tiers=0 count=1\nend\n")
    assert cli.main(["asm", str(source), str(binary), "--config", "nano"]) == 0
    assert cli.main(["disasm", str(binary), "--explain", "--config", "nano"]) == 0
    assert "loads 1 tile (16 bytes, bytes) from group 0" in capsys.readouterr().out
    source.write_text("load dest_tiers=0\n")
    assert cli.main(["asm", str(source), str(binary)]) == 2
    assert "instruction 0: LOAD.count: 0 is not legal; use 1 or more" in capsys.readouterr().err
    assert cli.main(["disasm", str(tmp_path / "absent")]) == 2
    assert cli.main(["disasm", str(binary), "--verify"]) == 2
