# SPDX-License-Identifier: Apache-2.0
"""Energy of steps: the machine's counters and the cycle model agree on what was done; the bench and its picture."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import pytest

from hdl.config import PRESETS
from hdl.errors import A3dError
from scheduler.cost.energy.count import DEFAULT_MHZ, activity_of_counters, activity_of_forecast, counted, differing
from scheduler.cost.energy.energy import COMPONENTS
from scheduler.cost.energy.table import load_table
from scheduler.cost.energy.work import work_of
from scheduler.cost.hbm.timing import HBM3
from scheduler.cost.model import simulate
from scheduler.system import SystemConfig
from sim.machine.hbm_record import hbm_counts
from sim.machine.session import MachineSession
from sim.machine.system import MemoryKnobs, SimulatedMachine
from sim.measure.energy import SOURCES, EnergyBench, draw
from sim.measure.results import render_results
from sim.measure.timed_streams import groups_of
from tests.support.small_model import CHECKPOINT, write_checkpoint

TINY = PRESETS["tiny"]
TIMED = ("cycles", "pe_cycles", "channel_cycles", "hbm_refreshes")
FETCHED = ("offchip_bytes", "hbm_read_bytes", "lateral_bytes", "hbm_activates")


@pytest.fixture(scope="module", name="machine")
def machine_fixture() -> SimulatedMachine:
    return SimulatedMachine(TINY, memory_bits=21)


def test_counters_and_cycle_model_agree_on_what_is_done(machine: SimulatedMachine) -> None:
    """A prefill of both routings on `tiny`: all counts but those of time and of instructions fetched past END."""
    group = groups_of(TINY)[1]
    assert group.memory_bits <= 21
    with MachineSession(machine) as session:
        for stream in itertools.islice(group.streams(), 2):
            result = session.run(stream.job)
            rows, counts = stream.table.rows, stream.slot_counts
            work = work_of(TINY, rows, counts, fetch_room=stream.fetch_room)
            seen = counted(work, result.counters)
            assert not differing(work, result.counters)
            assert differing(work, {**result.counters, "tier1_link_k": -1, "rows": 0}) == ["link_k", "rows"]
            assert work.accumulator_rows == seen.accumulator_rows
            assert abs(work.fetch_beats - seen.fetch_beats) <= TINY.burst_beats
            forecast = simulate(TINY, stream.table, slot_counts=counts, fetch_room=stream.fetch_room)
            planned = activity_of_forecast(
                forecast, stream.table, slot_counts=counts, fetch_room=stream.fetch_room
            ).to_dict()
            done = activity_of_counters(TINY, result.counters, stream.table, slot_counts=counts).to_dict()
            for name, count in done.items():
                if name in TIMED or name in FETCHED:
                    assert planned[name] == pytest.approx(count, rel=0.04), name
                else:
                    assert planned[name] == count, name
            # Without the router's counts the planned slots are an upper bound, which the counters correct.
            if counts:
                blind = activity_of_counters(TINY, result.counters, stream.table).to_dict()
                assert activity_of_forecast(forecast, stream.table).macs > done["macs"] == blind["macs"]
                assert blind["accumulator_bytes"] == pytest.approx(done["accumulator_bytes"], rel=0.05)
        check_derived_rows(session, stream, result)


def check_derived_rows(session: MachineSession, stream, result) -> None:
    """The rows that are derived from addresses are near those that a channel opens."""
    knobs = MemoryKnobs(hbm=HBM3, mhz=DEFAULT_MHZ)
    job = dataclasses.replace(stream.job, images=None, knobs=knobs, record_hbm=True)
    record = session.run(job)
    done = activity_of_counters(TINY, record.counters, stream.table, slot_counts=stream.slot_counts)
    told = activity_of_counters(
        TINY, record.counters, stream.table, slot_counts=stream.slot_counts, hbm=hbm_counts(record.hbm)
    )
    assert done.hbm_activates == pytest.approx(told.hbm_activates, rel=0.3)
    # A short run begins or ends beside a refresh of each group.
    assert done.hbm_refreshes == pytest.approx(told.hbm_refreshes, rel=0.3, abs=2)
    later = session.run(dataclasses.replace(job, idle=500))  # the memories run before the machine starts
    assert later.hbm[0].requests[0, 0] - record.hbm[0].requests[0, 0] == pytest.approx(501, abs=1)


@pytest.fixture(scope="module", name="folder")
def folder_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_checkpoint(folder, CHECKPOINT)
    return folder


def test_the_bench(folder: Path, machine: SimulatedMachine, tmp_path: Path) -> None:
    bench = EnergyBench(
        folder,
        SystemConfig(machine=TINY),
        load_table(),
        800.0,
        batches=(1, 2),
        prefill=6,
        rtl=(1,),
        context=(2, 3),
        machine=machine,
    )
    assert len(list(bench.run())) == bench.total == 7
    result = bench.result()
    points = result["points"]
    assert [(p["phase"], p["batch"], p["tokens"], p["source"]) for p in points] == [
        ("prefill", 1, 6, SOURCES[0]), ("decode", 1, 1, SOURCES[0]), ("decode", 1, 1, SOURCES[1]),
        ("decode", 2, 2, SOURCES[0]),
    ]  # fmt: skip
    for point in points:
        parts, whole = point["components_pj_per_token"], point["pj_per_token"]
        assert set(parts) == set(COMPONENTS)
        for end in ("value", "low", "high"):
            assert sum(part[end] for part in parts.values()) == pytest.approx(whole[end])
            assert point["energy"]["total_pj"][end] == pytest.approx(whole[end] * point["tokens"])
        assert whole["low"] < whole["value"] < whole["high"]
    model, rtl = points[1], points[2]
    assert model["activity"]["macs"] == rtl["activity"]["macs"]
    assert model["pj_per_token"]["value"] == pytest.approx(rtl["pj_per_token"]["value"], rel=0.03)
    assert points[3]["bytes_per_token"] < model["bytes_per_token"]  # two sequences share the dense weights
    draw(result, tmp_path / "energy.png")
    assert (tmp_path / "energy.png").stat().st_size > 5000
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "energy.json").write_text(json.dumps(result))
    page, _ = render_results(tmp_path)
    assert "## Energy of steps, by component" in page and "| HBM read |" in page and "| `hbm_activate` | 909 |" in page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batches": (5000,)}, "--batches 5000: the held-out text has .* excerpts; use at most"),
        (
            {"prefill": 5000, "batches": (1,)},
            "--prefill 5000: excerpts of the held-out text have .* bytes; use at most",
        ),
    ],
)
def test_what_the_text_is_too_short_for(folder: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(A3dError, match=message):
        EnergyBench(folder, SystemConfig(machine=TINY), load_table(), 800.0, **options)
