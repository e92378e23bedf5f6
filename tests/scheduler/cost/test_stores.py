# SPDX-License-Identifier: Apache-2.0
"""The store unit of the cycle model: order and pace of beats, and as many bursts on their way as there may be."""

from __future__ import annotations

from hdl.config import PRESETS
from hdl.isa import Instruction, Opcode, StoreFormat
from scheduler.cost.blocks import blocks_of
from scheduler.cost.memory_timing import MemoryTiming
from scheduler.cost.model import Forecast, simulate

SMALL = PRESETS["small"]
B = blocks_of(SMALL)


def store(**fields: int) -> Instruction:
    return Instruction(Opcode.STORE, {"format": StoreFormat.INT32, "rows": 4, **fields})


def spans(forecast: Forecast) -> list[tuple[int, int]]:
    own = forecast.slices.of(forecast.units.index("store"))
    return [(int(a), int(b)) for a, b in zip(forecast.slices.start[own], forecast.slices.end[own], strict=True)]


def test_the_next_store_starts_while_responses_are_on_their_way() -> None:
    (first, answered), (second, _) = spans(simulate(SMALL, [store(), store()]))
    assert first + 4 < second < answered


def test_a_wide_row_takes_a_beat_for_each_part_and_narrow_rows_share_one() -> None:
    def took(form: StoreFormat, rows: int) -> int:
        (first, _), (second, _) = spans(simulate(SMALL, [store(format=form, rows=rows), store()]))
        return second - first

    wide, beat = 4 * SMALL.columns, SMALL.group_bytes
    assert took(StoreFormat.INT32, 40) - took(StoreFormat.INT32, 20) == 20 * wide // beat
    assert took(StoreFormat.INT8, 40) - took(StoreFormat.INT8, 20) == 20, "a row is read in a cycle"


def test_rows_that_lie_apart_wait_for_room_for_their_responses() -> None:
    rows, latency = 3 * B.tracker, 400
    forecast = simulate(SMALL, [store(rows=rows, addr_gap=8)], memory=MemoryTiming(latency=latency))
    together = simulate(SMALL, [store(rows=rows)], memory=MemoryTiming(latency=latency))
    (start, end), (_, sooner) = spans(forecast)[0], spans(together)[0]
    assert end - start > 3 * latency > 2 * latency > sooner - start


def test_discard_writes_nothing_and_is_over_with_its_last_row() -> None:
    (start, end) = spans(
        simulate(SMALL, [store(format=StoreFormat.DISCARD, rows=6)], memory=MemoryTiming(latency=999))
    )[0]
    assert end - start < 6 + 20
