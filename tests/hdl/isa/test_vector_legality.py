# SPDX-License-Identifier: Apache-2.0
"""What is just legal in VECTOR, loads of rows and columns, and stores with gaps (not: sim.stimulus.illegal_streams)."""

from __future__ import annotations

import pytest

from hdl.config import PRESETS, MachineConfig
from hdl.isa.asm import assemble
from hdl.isa.error_codes import ErrorCode
from hdl.isa.legality import Limits, Violation, check_instruction, store_beats, store_span

TINY = PRESETS["tiny"]  # 8 x 8, two tiers, 512 rows, 512 words, 256 scalars, beats of 4 bytes
LARGE = PRESETS["large"]  # 128 x 128, beats of 2,048 bytes, 2,048 rows


def check(line: str, config: MachineConfig = TINY, limits: Limits | None = None) -> Violation | None:
    return check_instruction(assemble(line)[0], config, limits or Limits.whole(config))


@pytest.mark.parametrize(
    "line",
    [
        "vector dest_kind=rows vectors=1 rows=1",
        # Everything up to its last row, word and scalar.
        "vector dest_kind=rows vectors=2 rows=8 a=496 a_stride=8 dest=496 dest_stride=8",
        "vector dest_kind=activation dest_tiers=0..1 vectors=2 rows=3 dest=506 dest_stride=3",
        "vector op=rotate dest_kind=rows vectors=3 rows=8 b_rows=4 b=496 b_stride=4",
        "vector op=add dest_kind=rows vectors=3 rows=8 b_rows=8 b=488 b_stride=8",
        "vector op=gather dest_kind=rows vectors=3 rows=2 length=8 s=232 dest=509 dest_stride=1",
        "vector op=max vectors=4 rows=1 s=252 d_scalar=252",
        "vector sum=sum_recip vectors=4 rows=1 d_scalar=252",
        # What an operation does not use may hold anything.
        "vector dest_kind=rows vectors=1 rows=1 s=4095 d_scalar=4095 b=0xffff b_rows=15 b_stride=1023 imm=65535",
        "vector op=max first=1 vectors=4 rows=1 s=4095 d_scalar=252 dest=0xffff dest_stride=1023 bits=bits32 b_rows=3",
        "vector op=sumsq vectors=4 rows=1 s=4095 d_scalar=252",
        "vector sum=sum vectors=4 rows=1 s=4095",
        "vector op=mul b_rows=1 dest_kind=rows vectors=1 rows=1 s=4095 d_scalar=4095 length=-32768 masked=1 shift=63",
        "vector op=scale dest_kind=rows vectors=1 rows=1 d_scalar=4095 b_rows=0",
        "vector op=mul dest_kind=rows vectors=1 rows=8 b_rows=8",
        "vector op=mul dest_kind=rows vectors=1 rows=9 b_rows=1",
        "vector op=argmax vectors=1 rows=511",
        "load dest_kind=rows count=512",
        "load dest_kind=rows count=1 dest=511 shift=16",
        "load format=columns dest_tiers=0..1 count=256",
        "store format=int8 rows=171 row_gap=2 row=1",
        "store format=discard rows=256 row_gap=1 addr=0xffffffff offset=31 addr_gap=0xffff",
        "gemm tokens=1 k_slices=1 n_tiles=9 param=127 param_hold=1 dest_kind=combine",
    ],
)  # fmt: skip
def test_just_legal(line: str) -> None:
    assert check(line) is None


@pytest.mark.parametrize(
    ("line", "code", "field", "message"),
    [
        ("vector dest_kind=rows vectors=2 rows=8 a=497 a_stride=8", "RANGE", "a_base",
         "VECTOR.a_base: combine rows up to 512 are used; the machine has 512 (0 to 511)"),
        ("vector op=rotate dest_kind=rows vectors=3 rows=8 b_rows=4 b=497 b_stride=4", "RANGE", "b_base", "up to 512"),
        ("vector op=gather dest_kind=rows vectors=3 rows=2 length=8 s=233 dest_stride=1", "RANGE", "s_base",
         "scalars up to 256"),
        ("vector op=gather dest_kind=rows vectors=3 rows=2 length=8 dest=510 dest_stride=1", "RANGE", "dest_base", ""),
        ("vector dest_kind=activation dest_tiers=0 vectors=2 rows=3 dest=507 dest_stride=3", "RANGE", "dest_base",
         "activation words up to 512"),
        # A field at fault is found before a range.
        ("vector op=mul dest_kind=rows vectors=1 rows=9 b_rows=2 a=0xffff", "ILLEGAL_FIELD", "b_rows",
         "VECTOR.b_rows: 2 is not legal; use 1, 2, 4 or 8, a divisor of rows"),
        ("vector op=max vectors=1 rows=1 dest_kind=rows a=0xffff", "ILLEGAL_FIELD", "dest_kind", "NONE with MAX"),
        ("vector vectors=1 rows=1", "ILLEGAL_FIELD", "dest_kind", "NONE only with MAP and a sum"),
        ("vector op=argmax vectors=1 rows=1 dest_tiers=0", "ILLEGAL_FIELD", "dest_tiers", ""),
        ("load dest_kind=rows count=513", "RANGE", "dest_base", "combine rows up to 512"),
        ("load dest_kind=rows count=1 shift=17", "ILLEGAL_FIELD", "shift", "use 0 to 16"),
        ("load dest_tiers=0 count=1 shift=1", "ILLEGAL_FIELD", "shift", "use 0 for a destination other than ROWS"),
        ("store format=int8 rows=171 row_gap=2 row=2", "RANGE", "row_base", "up to 512"),
        ("gemm tokens=1 k_slices=1 n_tiles=9 param=120 dest_kind=combine", "RANGE", "param_base", "up to 128"),
    ],
)  # fmt: skip
def test_just_not_legal(line: str, code: str, field: str, message: str) -> None:
    wrong = check(line)
    assert wrong is not None
    assert (wrong.code.name, wrong.field) == (code, field)
    assert message in wrong.message


@pytest.mark.parametrize(
    ("config", "form", "alignment"),
    [(TINY, "int8", 4), (TINY, "int32", 4), (LARGE, "int8", 128), (LARGE, "int16", 256), (LARGE, "int32", 512)],
)
def test_stores_start_at_rows_or_beats(config: MachineConfig, form: str, alignment: int) -> None:
    for byte in range(0, 2048, 4):
        wrong = check(f"store format={form} rows=3 addr={byte // 32} offset={byte % 32}", config)
        assert (wrong is None) == (byte % alignment == 0), byte
        if wrong is not None:
            assert (wrong.code, wrong.address) == (ErrorCode.ADDRESS, byte)


def test_stores_with_gaps_stay_inside_the_window() -> None:
    limits = Limits((4096, 4096), ((0, 0), (256, 1024)))
    line = "store format=int16 group=1 rows=4 addr_gap=14 addr={} offset={}"  # rows of 16 bytes, 240 apart
    last = 1024 - (3 * 240 + 16)
    for byte in (256, 260, last):
        assert check(line.format(byte // 32, byte % 32), TINY, limits) is None
    for byte in (252, last + 4):
        wrong = check(line.format(byte // 32, byte % 32), TINY, limits)
        assert wrong is not None and wrong.code == ErrorCode.ADDRESS and wrong.address == byte


def test_beats_of_stores() -> None:
    def beats(line: str, config: MachineConfig) -> int:
        return store_beats(assemble(line)[0], config)

    assert beats("store format=int8 rows=5", TINY) == 10
    assert beats("store format=int8 rows=5 addr_gap=1", TINY) == 10
    # Packed rows share beats, wherever the first one begins; rows with gaps have beats of their own.
    assert beats("store format=int8 rows=16", LARGE) == 1 and beats("store format=int8 rows=17", LARGE) == 2
    assert beats("store format=int8 rows=2 addr=60", LARGE) == 2  # from byte 1,920
    assert beats("store format=int8 rows=16 addr_gap=1", LARGE) == 16
    (store,) = assemble("store format=int8 rows=3 addr=4 addr_gap=127")
    assert store_span(store, LARGE) == (128, 128 + 2 * 128 * 128 + 128)
