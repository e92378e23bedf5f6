# SPDX-License-Identifier: Apache-2.0
"""The cycle model on streams whose time is known, and its refusal of deadlocks."""

from __future__ import annotations

import numpy as np
import pytest

from hdl.config import PRESETS
from hdl.isa import Instruction, LoadDest, Opcode, StoreFormat
from scheduler.cost.blocks import blocks_of
from scheduler.cost.memory_timing import MemoryTiming
from scheduler.cost.model import Forecast, ModelDeadlockError, simulate
from scheduler.cost.work import gemm_cycles, load_cycles, store_cycles

TINY = PRESETS["tiny"]
B = blocks_of(TINY)


def gemm(**fields: int) -> Instruction:
    return Instruction(Opcode.GEMM, {"tier_count": 1, "tokens": 4, "k_slices": 2, "n_tiles": 3, **fields})


def ends(forecast: Forecast, unit: str) -> list[int]:
    """Return the cycle after the last work of each instruction of a unit."""
    own = forecast.slices.of(forecast.units.index(unit))
    return [int(end) for end in forecast.slices.end[own]]


def starts(forecast: Forecast, unit: str) -> list[int]:
    own = forecast.slices.of(forecast.units.index(unit))
    return [int(start) for start in forecast.slices.start[own]]


def test_waves_of_one_tier_follow_each_other_without_a_gap() -> None:
    one, three = simulate(TINY, [gemm()]), simulate(TINY, [gemm()] * 3)
    assert one.busy()["tier0"] == 24 and three.busy()["tier0"] == 72
    assert three.cycles - one.cycles == 48


def test_tiers_run_at_the_same_time_unless_a_semaphore_orders_them() -> None:
    free = simulate(TINY, [gemm(), gemm(tier_base=1)])
    tied = simulate(TINY, [gemm(post0_en=1, post0_sem=3), gemm(tier_base=1, wait0_sem=3, wait0_count=1)])
    assert tied.cycles - free.cycles > 24
    # What one instruction alone takes is what the planner is told, too.
    apart = starts(tied, "tier1")[0] - starts(tied, "tier0")[0]
    assert apart == gemm_cycles(B, 4, 2, 3, 0, 1, 0) + B.grant + B.nest


def test_a_stationary_tile_that_is_still_loaded_stalls_the_waves() -> None:
    load = Instruction(Opcode.LOAD, {"format": 1, "dest_tiers": 1, "count": 6, "tag": 5, "addr": 64, "addr_low": 64})
    forecast = simulate(TINY, [load, gemm(tag=5, tokens=1)])
    alone = simulate(TINY, [gemm(tokens=1)])
    assert forecast.cycles > alone.cycles + 6 * TINY.plane_bytes // TINY.group_bytes
    lost, none = forecast.stalls()["tier0"], alone.stalls()["tier0"]
    assert lost["memory"] + lost["tiles"] > none["memory"] + none["tiles"] == 0


def test_tiles_are_those_of_the_last_load_before_the_gemm() -> None:
    """A load that is still in its queue is waited for; one behind the GEMM is not, though its tag is equal."""
    fields = {"dest_tiers": 1, "count": 6, "tag": 5, "addr": 64}
    wanted = Instruction(Opcode.LOAD, fields)
    busy_engine = Instruction(Opcode.LOAD, {"dest_tiers": 1, "dest_base": 64, "count": 60, "addr": 64})
    late = simulate(TINY, [busy_engine, wanted, gemm(tag=5, tokens=1)])
    early = simulate(TINY, [wanted, busy_engine, gemm(tag=5, tokens=1)])
    through = 60 * TINY.tile_bytes // TINY.group_bytes
    assert ends(late, "tier0")[0] > through > ends(early, "tier0")[0]
    again = Instruction(Opcode.LOAD, {**fields, "wait0_sem": 1, "wait0_count": 1})
    forecast = simulate(TINY, [wanted, busy_engine, gemm(tag=5, tokens=1, post0_en=1, post0_sem=1), again])
    assert starts(forecast, "load0")[2] > ends(forecast, "tier0")[0]


def test_a_slot_takes_as_long_as_it_has_tokens() -> None:
    route = Instruction(Opcode.ROUTE, {"tokens": 4, "choices": 1, "experts": 2, "post0_en": 1, "post0_sem": 1})
    slot = {"slot_en": 1, "act_list": 1, "wait0_sem": 1, "wait0_count": 1, "tokens": 4}
    counts: list[list[list[int]]] = [[[4, 0]], [[3, 1]], [[1, 3]], []]
    waves = [simulate(TINY, [route, gemm(**slot, slot=0)], slot_counts=c).busy()["tier0"] for c in counts]
    assert waves == [24, 18, 6, 24]
    empty = simulate(TINY, [route, gemm(**slot, slot=1)], slot_counts=[[4, 0]])
    behind = simulate(TINY, [route, gemm(**slot, slot=0, list_base=3)], slot_counts=[[4, 0]])
    assert empty.busy()["tier0"] <= 1 and behind.busy()["tier0"] == 6


def test_a_gang_with_a_slot_takes_as_long_as_it_has_tokens() -> None:
    route = Instruction(Opcode.ROUTE, {"tokens": 4, "choices": 1, "experts": 2, "post0_en": 1, "post0_sem": 1})
    slot = {"slot_en": 1, "act_list": 1, "wait0_sem": 1, "wait0_count": 1, "tokens": 4, "tier_count": 2, "mapping": 2}
    for counts, waves in (([4, 0], 24), ([3, 1], 18), ([0, 4], 1)):
        forecast = simulate(TINY, [route, gemm(**slot, slot=0)], slot_counts=[counts])
        assert [forecast.busy()[tier] for tier in ("tier0", "tier1")] == [waves, waves]
        # Granted, looked up by the leader and then by its follower, taken by the loop nest.
        granted = int(forecast.slices.granted[forecast.slices.of(0)][0])
        assert starts(forecast, "tier0") == starts(forecast, "tier1")
        assert starts(forecast, "tier0")[0] - granted == B.grant + B.lag + B.slot + B.nest


def test_a_load_and_a_store_alone_take_what_the_planner_is_told() -> None:
    """The load reads group 1: instructions come from group 0."""
    fields = {"dest_kind": LoadDest.ROWS, "group": 1, "count": 8, "addr": 64, "post0_en": 1, "post0_sem": 1}
    store = Instruction(
        Opcode.STORE, {"rows": 8, "addr": 128, "wait0_sem": 1, "wait0_count": 1, "format": StoreFormat.INT32}
    )
    for latency in (5, 40):
        forecast = simulate(TINY, [Instruction(Opcode.LOAD, fields), store], memory=MemoryTiming(latency=latency))
        begun, stored = starts(forecast, "load1")[0], starts(forecast, "store")[0]
        assert stored - begun == load_cycles(B, latency, LoadDest.ROWS, 0, 8) + B.store_grant
        done = store_cycles(B, latency, StoreFormat.INT32, 8, False, 0, True)
        assert forecast.done[1] - stored == done - B.store_post - B.posted


def test_memory_that_stalls_makes_a_stream_longer_and_the_seed_says_by_how_much() -> None:
    stream = [Instruction(Opcode.LOAD, {"dest_tiers": 1, "count": 30, "addr": 64})]
    smooth = simulate(TINY, stream).cycles
    once, twice, other = (
        simulate(TINY, stream, memory=MemoryTiming(stall_rate=64, random_latency=20, seed=seed)).cycles
        for seed in (1, 1, 2)
    )
    assert once == twice != other
    assert min(once, other) > smooth


def test_a_deadlock_is_named() -> None:
    with pytest.raises(ModelDeadlockError, match="deadlock at instruction 1 .GEMM, which waits for 1 of semaphore 1"):
        simulate(TINY, [gemm(), gemm(wait0_sem=1, wait0_count=1)])


def test_slices_are_those_of_the_stream() -> None:
    forecast = simulate(TINY, [gemm(tier_count=2, mapping=2), Instruction(Opcode.END, {})])
    assert np.array_equal(forecast.slices.number, [0, 0]) and np.array_equal(forecast.slices.unit, [0, 1])
    assert forecast.dispatched[1] > forecast.dispatched[0]
