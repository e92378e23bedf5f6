# SPDX-License-Identifier: Apache-2.0
"""The cycle model on streams whose time is known, and its refusal of deadlocks."""

from __future__ import annotations

import pytest

from hdl.config import PRESETS
from hdl.isa import Instruction, Opcode
from scheduler.cost.cycle_model import simulate

TINY = PRESETS["tiny"]


def gemm(**fields: int) -> Instruction:
    return Instruction(Opcode.GEMM, {"tier_count": 1, "tokens": 4, "k_slices": 2, "n_tiles": 3, **fields})


def busy(model: object, queue: str) -> int:
    return sum(s.end - s.start for s in model.slices if s.queue == queue)  # type: ignore[attr-defined]


def test_waves_of_one_tier_follow_each_other_without_a_gap() -> None:
    one, three = simulate(TINY, [gemm()]), simulate(TINY, [gemm()] * 3)
    assert busy(one, "tier0") == 24 and busy(three, "tier0") == 72
    assert three.cycles - one.cycles == 48


def test_tiers_run_at_the_same_time_unless_a_semaphore_orders_them() -> None:
    free = simulate(TINY, [gemm(), gemm(tier_base=1)])
    tied = simulate(TINY, [gemm(post0_en=1, post0_sem=3), gemm(tier_base=1, wait0_sem=3, wait0_count=1)])
    assert tied.cycles - free.cycles > 24
    first = next(s for s in tied.slices if s.queue == "tier0")
    second = next(s for s in tied.slices if s.queue == "tier1")
    assert second.start > first.end


def test_a_stationary_tile_that_is_still_loaded_stalls_the_waves() -> None:
    load = Instruction(Opcode.LOAD, {"format": 1, "dest_tiers": 1, "count": 6, "tag": 5, "addr": 64, "addr_low": 64})
    model = simulate(TINY, [load, gemm(tag=5, tokens=1)])
    alone = simulate(TINY, [gemm(tokens=1)])
    assert model.cycles > alone.cycles + 6 * TINY.plane_bytes // TINY.group_bytes


def test_tiles_are_those_of_the_last_load_before_the_gemm() -> None:
    """A load that is still in its queue is waited for; one behind the GEMM is not, though its tag is equal."""
    fields = {"dest_tiers": 1, "count": 6, "tag": 5, "addr": 64}
    wanted = Instruction(Opcode.LOAD, fields)
    busy_engine = Instruction(Opcode.LOAD, {"dest_tiers": 1, "dest_base": 64, "count": 60, "addr": 64})
    late = simulate(TINY, [busy_engine, wanted, gemm(tag=5, tokens=1)])
    early = simulate(TINY, [wanted, busy_engine, gemm(tag=5, tokens=1)])
    assert next(s.end for s in late.slices if s.queue == "tier0") > 60 * TINY.tile_bytes // TINY.group_bytes
    assert next(s.end for s in early.slices if s.queue == "tier0") < 60 * TINY.tile_bytes // TINY.group_bytes
    again = Instruction(Opcode.LOAD, {**fields, "wait0_sem": 1, "wait0_count": 1})
    reads = gemm(tag=5, tokens=1, post0_en=1, post0_sem=1)
    model = simulate(TINY, [wanted, busy_engine, reads, again])
    assert [s.number for s in model.slices if s.queue == "load0"] == [0, 1, 3]


def test_a_slot_takes_as_long_as_it_has_tokens() -> None:
    route = Instruction(Opcode.ROUTE, {"tokens": 4, "choices": 1, "experts": 2, "post0_en": 1, "post0_sem": 1})
    slot = {"slot_en": 1, "act_list": 1, "wait0_sem": 1, "wait0_count": 1, "tokens": 4}
    waves = []
    for counts in ([[4, 0]], [[3, 1]], [[1, 3]], []):
        model = simulate(TINY, [route, gemm(**slot, slot=0)], slot_counts=counts)
        waves.append(busy(model, "tier0"))
    assert waves == [24, 18, 6, 24]
    empty = simulate(TINY, [route, gemm(**slot, slot=1)], slot_counts=[[4, 0]])
    behind = simulate(TINY, [route, gemm(**slot, slot=0, list_base=3)], slot_counts=[[4, 0]])
    assert busy(empty, "tier0") == 1 and busy(behind, "tier0") == 6


def test_a_deadlock_is_named() -> None:
    with pytest.raises(RuntimeError, match="deadlock at instruction 1"):
        simulate(TINY, [gemm(), gemm(wait0_sem=1, wait0_count=1)])
