# SPDX-License-Identifier: Apache-2.0
"""The verifier on routing: proofs that hold for whatever a ROUTE finds, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from hdl.config import PRESETS
from hdl.isa.asm import assemble
from hdl.isa.legality import Limits
from scheduler.stream.prove import Finding
from sim.golden.order.verify import verify_stream

TINY = PRESETS["tiny"]
LIMITS = Limits((4096, 4096), ((0, 4096), (0, 4096)))
CHOOSE = "vector op=argmax first=1 vectors=2 rows=1 a_stride=1 masked=1 length=4"
ROUTE = "route tokens=2 choices=1 experts=4 a=4 a_stride=1 source_stride=2 dest=20 dest_stride=1"
WORDS = "load dest_kind=parameter dest_tiers=0 count=1 slot_en=1 slot=1 slot_stride=1 group=1"
LOAD = "load dest_tiers=0 count=1 tag=5 format=pair slot_en=1 slot=1 slot_stride=1 addr_low=40"
GEMM = "gemm tokens=2 k_slices=1 n_tiles=1 tag=5 act_list=1 dest_list=1 slot_en=1 slot=1 mode=requant16"
GEMM += " dest_kind=combine accumulate=1"


def verify(*lines: str) -> list[Finding]:
    images = (np.zeros(4096, np.uint8), np.zeros(4096, np.uint8))
    return verify_stream(assemble("\n".join([*lines, "end"])), TINY, images, LIMITS)


def test_a_slot_is_proved() -> None:
    assert verify(
        CHOOSE, f"{ROUTE} post=s0,s1", f"{WORDS} wait=s0 post=s2", LOAD, f"{GEMM} wait=s1,s2 post=s3",
        "store format=int32 row=20 rows=2 addr=120 wait=s3",
    ) == []  # fmt: skip


GANG = f"{GEMM} tier_count=2 mapping=n"


def both_tiers(line: str) -> str:
    return line.replace("dest_tiers=0", "dest_tiers=0..1")


def test_a_slot_of_a_gang_is_proved() -> None:
    assert verify(
        CHOOSE, f"{ROUTE} post=s0,s1", f"{both_tiers(WORDS)} wait=s0 post=s2", both_tiers(LOAD),
        f"{GANG} wait=s1,s2 post=s3", "store format=int32 row=20 rows=2 addr=120 wait=s3:2",
    ) == []  # fmt: skip


def test_a_follower_that_comes_behind_the_routing_is_not_enough() -> None:
    """The leader looks the slot up when its own waits are granted; tier 1 may be at an earlier instruction then."""
    before = "gemm tiers=1 tokens=1 k_slices=1 n_tiles=1 tag=5 dest_kind=combine dest=40"
    lines = [
        "load dest_kind=parameter dest_tiers=0..1 count=1 group=1 post=s2,s3",
        "load dest_tiers=0..1 count=1 tag=5 format=pair addr_low=40", CHOOSE, f"{ROUTE} by_number=1 post=s0,s1",
    ]  # fmt: skip
    found = verify(*lines, f"{before} wait=s1,s2", f"{GANG} wait=s3")
    assert [f.message for f in found if "slots cell" in f.message] == [
        "instructions 3 and 5 (ROUTE and GEMM) race: 5 reads slots cell 1 after its write by 3"
    ]
    assert not [f for f in verify(*lines, f"{before} wait=s1,s2", f"{GANG} wait=s3,s0") if "slots" in f.message]


def test_a_slot_of_a_gang_may_be_written_again_behind_any_of_its_posts() -> None:
    lines = [
        CHOOSE, f"{ROUTE} post=s0,s1", f"{both_tiers(WORDS)} wait=s0 post=s2", f"{both_tiers(LOAD)} post=s3",
        f"{GANG} wait=s1,s2 post=s3",
    ]  # fmt: skip
    assert [f for f in verify(*lines, f"{ROUTE}") if "writes slots cell 1 after its read by 4" in f.message]
    assert not [f for f in verify(*lines, f"{ROUTE} wait=s3:3") if "slots" in f.message]


@pytest.mark.parametrize(
    ("lines", "kind", "message"),
    [
        ([LOAD], "illegal", "instruction 0 (LOAD) has a slot that no ROUTE before it"),
        ([GEMM], "illegal", "instruction 0 (GEMM) has a slot that no ROUTE before it"),
        # Whichever expert it is: the last one of four lies outside.
        ([f"{ROUTE} post=s0", f"{LOAD} addr=126 slot_stride=2 wait=s0"], "illegal", "instruction 1, expert 2: ADDRESS"),
        # Semaphores alone order what reads the table and what writes it.
        ([ROUTE, LOAD], "race", "1 reads slots cell 1 after its write by 0"),
        ([f"{ROUTE} post=s0", f"{LOAD} wait=s0", GEMM], "race", "2 reads slots cell 1 after its write by 0"),
        ([f"{ROUTE} post=s0", f"{LOAD} wait=s0", ROUTE], "race", "2 writes slots cell 1 after its read by 1"),
        # A GEMM with a slot may touch every token's words and rows.
        ([f"{ROUTE} post=s0,s1", f"{LOAD} wait=s0", f"{GEMM} wait=s1", "store format=int32 row=21 rows=1"],
         "race", "3 reads combine cell 21 after its add by 2"),
        ([f"{ROUTE} post=s0,s1", f"{LOAD} wait=s0", f"{GEMM} wait=s1",
          "load dest_kind=activation dest_tiers=0 dest=2 count=1"],
         "race", "3 writes activation cell 4 after its read by 2"),
        # The tag says nothing about loads that may be skipped: neither that those before it are there ...
        ([f"{ROUTE} post=s0,s1", f"{WORDS} wait=s0", LOAD, f"{GEMM} wait=s1"],
         "race", "3 reads parameter cell 0 after its write by 1"),
        # ... nor that an older fill with the same tag has been replaced.
        (["load dest_tiers=0 count=1 tag=5", f"{ROUTE} post=s0,s1", f"{LOAD} wait=s0", f"{GEMM} wait=s1"],
         "race", "3 reads vcache cell 0 after its write by 2"),
        # What is filled only if a slot is not empty.
        ([f"{ROUTE} post=s0,s1", f"{LOAD} wait=s0", f"{GEMM} slot=2 wait=s1"], "miss", "only if slot 1 is not empty"),
        ([f"{ROUTE} post=s0,s1", f"{LOAD} wait=s0 post=s2", f"{ROUTE} wait=s2 post=s1", f"{GEMM} wait=s1:2"],
         "miss", "only if slot 1 is not empty"),
        # A ROUTE does not write the slots before its first, nor those behind its experts.
        ([f"{ROUTE} slot_base=2 post=s0", f"{LOAD} wait=s0"], "illegal", "1 (LOAD) has a slot that no ROUTE before it"),
        ([f"{ROUTE} experts=1 post=s0", f"{LOAD} wait=s0"], "illegal", "1 (LOAD) has a slot that no ROUTE before it"),
    ],
)  # fmt: skip
def test_what_is_refused(lines: list[str], kind: str, message: str) -> None:
    found = verify(*[_merge(line) for line in lines])
    assert [f for f in found if f.kind == kind and message in f.message], [f.message for f in found]


def test_another_table_changes_nothing() -> None:
    """What one ROUTE wrote stays good behind a ROUTE that writes other slots and list entries."""
    other = f"{ROUTE} slot_base=4 list=8"
    assert verify(
        CHOOSE, f"{ROUTE} post=s0,s1", f"{WORDS} wait=s0 post=s2", LOAD, other, f"{GEMM} wait=s1,s2 post=s3",
        "store format=int32 row=20 rows=2 addr=120 wait=s3",
    ) == []  # fmt: skip


def test_weights_of_a_slot_by_number_come_before_the_routing() -> None:
    words = "load dest_kind=parameter dest_tiers=0 count=1 group=1 post=s2"
    load = "load dest_tiers=0 count=1 tag=5 format=pair addr_low=40"
    assert verify(
        words, load, CHOOSE, f"{ROUTE} by_number=1 post=s1", f"{GEMM} wait=s1,s2 post=s3",
        "store format=int32 row=20 rows=2 addr=120 wait=s3",
    ) == []  # fmt: skip


def _merge(line: str) -> str:
    """Let a later setting of a field replace an earlier one."""
    name, *fields = line.split()
    return " ".join([name, *dict.fromkeys(f"{k}={v}" for k, v in dict(f.split("=") for f in fields).items())])


def test_a_wait_for_the_load_helps_where_the_tag_does_not() -> None:
    lines = ["load dest_tiers=0 count=1 tag=5", f"{ROUTE} post=s0,s1", f"{LOAD} wait=s0 post=s2", f"{GEMM} wait=s1,s2"]
    assert not [f for f in verify(*lines) if f.kind == "race" and "vcache" in f.message]
