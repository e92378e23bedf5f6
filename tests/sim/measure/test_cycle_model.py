# SPDX-License-Identifier: Apache-2.0
"""The bench of the cycle model: its streams, and that the model is as near to the emitted machine as it must be."""

from __future__ import annotations

import numpy as np
import pytest

from hdl.config import PRESETS
from hdl.isa import Opcode
from scheduler.cost.memory_timing import MemoryTiming
from scheduler.cost.model import simulate
from scheduler.stream.table import COL
from sim.commands import _bench_scheduler as command
from sim.measure import timed_streams
from sim.measure.cycle_model import MEMORIES, MOST_MEAN, MOST_WORST, CycleModelBench, errors_of
from sim.measure.timed_streams import CONFIGS, groups_of


def test_there_are_streams_for_all_configurations_that_the_command_names() -> None:
    assert tuple(CONFIGS) == command.TIMED_CONFIGS
    assert sum(group.total for name in ("tiny", "small") for group in groups_of(PRESETS[name])) * len(MEMORIES) >= 40


def test_errors_are_magnitudes() -> None:
    assert errors_of([{"error": -0.03}, {"error": 0.01}]) == pytest.approx((0.02, 0.03))


def test_streams_of_both_routings_and_of_experts_alone() -> None:
    tiny = PRESETS["tiny"]
    steps, *_, alone = groups_of(tiny)
    streams = list(steps.streams())
    assert [stream.routing for stream in streams] == ["host", "slots"] * (len(streams) // 2)
    assert [bool(stream.job.images) for stream in streams] == [True] + [False] * (len(streams) - 1)
    for stream in streams:
        routes = int((stream.table.rows[:, COL.opcode] == Opcode.ROUTE).sum())
        assert len(stream.slot_counts) == routes
    forecast = simulate(tiny, streams[0].table)
    working = [n for n, i in enumerate(streams[0].table.instructions()) if i.opcode not in (Opcode.NOP, Opcode.END)]
    assert np.unique(forecast.slices.number).tolist() == working
    # A layer's stream ends where its memory ends, and what lies behind is not fetched.
    last = next(iter(alone.streams()))
    assert last.fetch_room == 32 * len(last.table)
    assert simulate(tiny, last.table, fetch_room=last.fetch_room).cycles < simulate(tiny, last.table).cycles


def test_the_model_is_near_the_emitted_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The streams of one model, and of experts alone, on `tiny`."""
    tiny = PRESETS["tiny"]
    monkeypatch.setitem(timed_streams.CONFIGS, "tiny", lambda config: timed_streams._tiny(config)[1:])
    bench = CycleModelBench([tiny])
    assert len(list(bench.run())) == bench.total
    result = bench.result()
    points = result["points"]
    assert len(points) == bench.total >= 30
    assert result["mean_error"] <= MOST_MEAN and result["worst_error"] <= MOST_WORST, points
    assert {(p["routing"], p["memory"]) for p in points} == {
        (routing, memory) for routing in ("host", "slots") for memory in MEMORIES
    }
    # With another latency the same machine would be far off: the bench would see it.
    stream = next(iter(groups_of(tiny)[0].streams()))
    other = simulate(tiny, stream.table, memory=MemoryTiming(latency=80)).cycles
    assert other / points[0]["rtl_cycles"] - 1 > MOST_WORST
