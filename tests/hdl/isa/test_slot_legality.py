# SPDX-License-Identifier: Apache-2.0
"""What is legal in ROUTE and in instructions with a slot, and what `explain` says about them."""

from __future__ import annotations

import pytest

from hdl.config import PRESETS, MachineConfig
from hdl.isa import Format, Instruction, Opcode
from hdl.isa.asm import assemble
from hdl.isa.error_codes import ErrorCode
from hdl.isa.explain import describe
from hdl.isa.legality import Limits, Violation, check_instruction
from hdl.isa.slots import slot_gemm, slot_load

TINY = PRESETS["tiny"]  # 8 columns, 16 slots, 256 scalars, 512 rows and words, 128 list entries
PLACE = "dest_tiers=0 count=1"


def check(line: str, config: MachineConfig = TINY, limits: Limits | None = None) -> Violation | None:
    return check_instruction(assemble(line)[0], config, limits or Limits.whole(config))


@pytest.mark.parametrize(
    "line",
    [
        "route tokens=1 choices=1 experts=1",
        # Everything up to its last scalar, row, entry, word.
        "route tokens=16 choices=8 experts=16 s=128 a=496 a_stride=1 list=0",
        "route tokens=4 choices=2 experts=3 s=248 a=481 a_stride=10 list=120 dest=496 dest_stride=5",
        "route tokens=8 choices=1 experts=2 source_stride=73",
        "gemm tokens=4 k_slices=1 n_tiles=1 act_list=1 slot_en=1 slot=15 list=124 dest_kind=combine",
        "gemm tokens=4 k_slices=1 n_tiles=1 dest_list=1 slot_en=1 slot=3 dest_kind=combine",
        "gemm tier_count=2 mapping=n tokens=4 k_slices=1 n_tiles=1 act_list=1 slot_en=1 dest_kind=combine",
        # One tier is alone, whatever its mapping is called.
        "gemm mapping=k tokens=4 k_slices=1 n_tiles=1 act_list=1 slot_en=1 dest_kind=combine",
        f"load {PLACE} slot_en=1 slot=15 slot_stride=0xffffff addr=0xffffffff",
        f"load {PLACE} slot_en=1 format=pair slot_stride=2",
        f"load {PLACE} slot_en=1 dest_kind=parameter slot_stride=1",
        # Ignored without slot_en.
        f"load {PLACE} slot=255 slot_stride=0xffffff",
        "gemm tokens=4 k_slices=1 n_tiles=1 slot=255 dest_kind=combine",
    ],
)
def test_legal(line: str) -> None:
    assert check(line) is None


@pytest.mark.parametrize(
    ("line", "code", "field"),
    [
        ("route choices=1 experts=1", ErrorCode.ILLEGAL_FIELD, "tokens"),
        ("route tokens=1 experts=1", ErrorCode.ILLEGAL_FIELD, "choices"),
        ("route tokens=1 choices=9 experts=16", ErrorCode.ILLEGAL_FIELD, "choices"),
        ("route tokens=1 choices=1", ErrorCode.ILLEGAL_FIELD, "experts"),
        ("route tokens=1 choices=1 experts=17", ErrorCode.ILLEGAL_FIELD, "experts"),
        ("route tokens=16 choices=8 experts=16 s=129", ErrorCode.RANGE, "s_base"),
        ("route tokens=4 choices=2 experts=3 a=482 a_stride=10", ErrorCode.RANGE, "a_base"),
        ("route tokens=4 choices=2 experts=3 list=121", ErrorCode.RANGE, "list_base"),
        ("route tokens=8 choices=1 experts=2 source_stride=74", ErrorCode.RANGE, "source_base"),
        ("route tokens=1 choices=1 experts=2 source_base=512", ErrorCode.RANGE, "source_base"),
        ("route tokens=1 choices=1 experts=2 slot_base=15", ErrorCode.ILLEGAL_FIELD, "slot_base"),
        ("route tokens=4 choices=2 experts=3 dest=497 dest_stride=5", ErrorCode.RANGE, "dest_base"),
        ("gemm tokens=4 k_slices=1 n_tiles=1 act_list=1 slot_en=1 slot=16", ErrorCode.ILLEGAL_FIELD, "slot"),
        ("gemm tokens=4 k_slices=1 n_tiles=1 slot_en=1", ErrorCode.ILLEGAL_FIELD, "slot_en"),
        ("gemm tier_count=2 mapping=m tokens=4 k_slices=1 n_tiles=1 act_list=1 slot_en=1 dest_kind=combine",
         ErrorCode.ILLEGAL_FIELD, "mapping"),
        ("gemm tier_count=2 mapping=k tokens=4 k_slices=1 n_tiles=1 act_list=1 slot_en=1 dest_kind=combine",
         ErrorCode.ILLEGAL_FIELD, "mapping"),
        ("gemm tier_count=2 tokens=4 k_slices=1 n_tiles=1 act_list=1 slot_en=1 dest_kind=combine",
         ErrorCode.ILLEGAL_FIELD, "tier_count"),
        ("gemm tokens=4 k_slices=1 n_tiles=1 act_list=1 slot_en=1 list=125", ErrorCode.RANGE, "list_base"),
        (f"load {PLACE} slot_en=1 slot=16", ErrorCode.ILLEGAL_FIELD, "slot"),
        (f"load {PLACE} slot_en=1 dest_kind=activation", ErrorCode.ILLEGAL_FIELD, "slot_en"),
        (f"load {PLACE} slot_en=1 dest_kind=list", ErrorCode.ILLEGAL_FIELD, "slot_en"),
        ("load count=1 slot_en=1 dest_kind=rows", ErrorCode.ILLEGAL_FIELD, "slot_en"),
    ],
)  # fmt: skip
def test_not_legal(line: str, code: ErrorCode, field: str) -> None:
    found = check(line)
    assert found is not None
    assert (found.code, found.field) == (code, field)
    assert field in found.message


def test_what_a_slot_makes_of_an_instruction() -> None:
    gemm = Instruction(Opcode.GEMM, {"tokens": 4, "list_base": 8, "act_list": 1, "slot_en": 1, "slot": 5})
    assert slot_gemm(gemm, 8, 100) is None
    part = slot_gemm(gemm, 10, 100)
    assert part is not None and dict(part.values) == {"tokens": 2, "list_base": 108, "act_list": 1}
    whole = slot_gemm(gemm, 99, 7)
    assert whole is not None and (whole["tokens"], whole["list_base"]) == (4, 15)

    fields = {"addr": 100, "addr_low": 7, "slot_en": 1, "slot": 1, "slot_stride": 10, "group": 1}
    pair = slot_load(Instruction(Opcode.LOAD, {**fields, "format": Format.PAIR}), 5)
    assert (pair["group"], pair["addr"], pair["addr_low"], pair["slot_en"]) == (0, 120, 27, 0)
    high = slot_load(Instruction(Opcode.LOAD, {**fields, "format": Format.HIGH}), 5)
    assert (high["group"], high["addr"]) == (1, 150)


def test_explanations_speak_of_slots() -> None:
    def text(line: str) -> str:
        return describe(assemble(line)[0], TINY)

    assert "routes 3 tokens to 2 of 5 experts each" in text("route tokens=3 choices=2 experts=5 list=7")
    assert "entries 7 to 12 of all token lists" in text("route tokens=3 choices=2 experts=5 list=7")
    assert "at most 4 of the tokens of slot 9" in text(
        "gemm tokens=4 k_slices=1 n_tiles=1 act_list=1 slot_en=1 slot=9 dest_kind=combine"
    )
    pair = text(f"load {PLACE} slot_en=1 slot=6 format=pair addr=1 addr_low=5 slot_stride=4")
    assert "slot 6's expert" in pair and "128 bytes on for every second expert, groups swapped" in pair
