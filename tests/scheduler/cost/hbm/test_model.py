# SPDX-License-Identifier: Apache-2.0
"""The cycle model on HBM: a stream's pace, what jumps and refreshes cost, stores and their posts."""

from __future__ import annotations

import dataclasses

import pytest

from hdl.config import PRESETS, ConfigError
from hdl.isa import Format, Instruction, LoadDest, Opcode
from scheduler.cost.hbm.channel import cycle as next_cycle
from scheduler.cost.hbm.channel import new_channel, push, running_channel, wait
from scheduler.cost.hbm.timing import HBM2, HBM3, MAPPINGS, parameters_of
from scheduler.cost.memory_timing import MemoryTiming
from scheduler.cost.model import simulate

SMALL = PRESETS["small"]
ON_HBM = MemoryTiming(hbm=HBM3, mhz=800.0)


def tiles(number: int, count: int = 64, **fields: int) -> Instruction:
    """Return a LOAD of tiles from both groups, the `number`-th of many that lie side by side."""
    place = number * count * SMALL.plane_bytes // 32
    own = {"format": Format.PAIR, "dest_tiers": 1, "count": count, "addr": place, "addr_low": place}
    return Instruction(Opcode.LOAD, {"dest_kind": LoadDest.VCACHE, **own, **fields})


def test_a_sequential_stream_takes_nearly_all_of_the_peak() -> None:
    many, loads = 40, [tiles(number) for number in range(40)]
    beats = many * 64 * SMALL.plane_bytes // SMALL.group_bytes
    forecast = simulate(SMALL, loads, memory=ON_HBM)
    assert 0.95 < beats / forecast.cycles < 1
    # The bank group lowest but one, and each second beat of a burst has to wait.
    slow = dataclasses.replace(HBM3, mapping=MAPPINGS[5])
    assert simulate(SMALL, loads, memory=MemoryTiming(hbm=slow, mhz=800.0)).cycles > 1.5 * forecast.cycles


def test_loads_that_jump_between_rows_take_longer() -> None:
    near = [tiles(number, count=8) for number in range(64)]
    far = [tiles(number % 2 * 4096 + number // 2 * 1024, count=8) for number in range(64)]
    one, other = (simulate(SMALL, loads, memory=ON_HBM).cycles for loads in (near, far))
    assert other > 1.3 * one


def test_a_load_behind_a_store_waits_for_its_response() -> None:
    rows = Instruction(Opcode.LOAD, {"dest_kind": LoadDest.ROWS, "count": 8, "post0_en": 1, "post0_sem": 1})
    store = Instruction(
        Opcode.STORE,
        {"rows": 8, "addr": 1 << 12, "format": 1, "wait0_sem": 1, "wait0_count": 1, "post0_en": 1, "post0_sem": 2},
    )
    discard = Instruction(Opcode.STORE, {"rows": 4, "format": 3, "post0_en": 1, "post0_sem": 3})
    again = [
        tiles(0, count=1, wait0_sem=2, wait0_count=1, group=1), tiles(1, count=1, wait0_sem=3, wait0_count=1),
    ]  # fmt: skip
    forecast = simulate(SMALL, [rows, store, discard, *again], memory=ON_HBM)
    # The DISCARD has ended before the STORE's response, and posts behind it.
    assert forecast.done[2] < forecast.done[1] < min(forecast.slices.start[-3:])
    # A write to a closed row: its activate, its column, and the way back.
    slower = MemoryTiming(hbm=dataclasses.replace(HBM3, rcd_wr=60, ras=62, rc=90), mhz=800.0)
    later = simulate(SMALL, [rows, store, discard, *again], memory=slower)
    assert 15 <= later.done[1] - forecast.done[1] <= 30


def test_where_the_refreshes_are_matters() -> None:
    loads = [tiles(number, count=16) for number in range(12)]
    seen = {simulate(SMALL, loads, memory=ON_HBM, begun=begun).cycles for begun in range(0, 400, 40)}
    assert len(seen) > 2 and max(seen) < 1.5 * min(seen)


@pytest.mark.parametrize("timing", [HBM3, HBM2])
def test_waiting_gives_what_cycle_by_cycle_gives(timing) -> None:
    parameters = parameters_of(timing, 800.0)
    fast, slow = new_channel(parameters), new_channel(parameters)
    for gap in (1, 37, 400, 5000):
        for channel in (fast, slow):
            push(channel, 0, 32 * gap, 16)
            for _ in range(200):
                next_cycle(channel)
        wait(fast, int(fast.state[0]) + gap)
        for _ in range(gap):
            next_cycle(slow)
        assert all((a == b).all() for a, b in zip(fast[1:3], slow[1:3], strict=True))
    assert running_channel(parameters, 777).state[0] == 0


def test_what_means_nothing_with_hbm_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"config memory.stall_rate: means nothing with \[hbm\]"):
        MemoryTiming(hbm=HBM3, mhz=800.0, stall_rate=3)
    with pytest.raises(ConfigError, match="config clock.mhz: missing"):
        MemoryTiming(hbm=HBM3)
