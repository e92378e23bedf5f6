# SPDX-License-Identifier: Apache-2.0
"""Energy of a stream that is worked out by hand, of slots, and what another table changes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hdl.config import PRESETS
from hdl.isa import Instruction, Mapping3D, Opcode, StoreFormat
from hdl.regs import counter_names
from scheduler.cost.energy.count import HbmCounts, activity_of_counters, activity_of_forecast
from scheduler.cost.energy.energy import COMPONENTS, Band, energy_of
from scheduler.cost.energy.hbm import refreshes_of, rows_opened
from scheduler.cost.energy.table import ENTRIES, load_table
from scheduler.cost.energy.work import work_of
from scheduler.cost.hbm.timing import HBM3, MAPPINGS
from scheduler.cost.model import simulate
from scheduler.stream.table import Table

TINY = PRESETS["tiny"]
"""Two tiers of 8 x 8 PEs, 4 bytes a beat, 8 bytes a fill word."""

END = Instruction(Opcode.END, {})
STREAM = [
    Instruction(Opcode.LOAD, {"dest_tiers": 1, "count": 2, "tag": 5, "addr": 64, "post0_en": 1, "post0_sem": 1}),
    Instruction(
        Opcode.GEMM,
        {"tier_count": 1, "tokens": 3, "k_slices": 2, "n_tiles": 1, "tag": 5, "mode": 1, "dest_kind": 1,
         "post0_en": 1, "post0_sem": 2},
    ),
    Instruction(
        Opcode.STORE, {"format": StoreFormat.INT16, "group": 1, "rows": 3, "wait0_sem": 2, "wait0_count": 1}
    ),
    END,
]  # fmt: skip
ROOM = 32 * len(STREAM)


def test_a_load_a_gemm_and_a_store_by_hand() -> None:
    """One LOAD of two tiles, one GEMM of 3 tokens over 2 slices, one STORE of 3 rows of int16."""
    forecast = simulate(TINY, STREAM, fetch_room=ROOM)
    done = activity_of_forecast(forecast, Table.of(STREAM), fetch_room=ROOM)
    cycles = forecast.cycles
    assert done.cycles == cycles and done.pe_cycles == cycles * 2 * 8 * 8
    assert done.channel_cycles == cycles * 8 / 32  # two groups of 4 bytes: a quarter of a pseudo-channel
    # 3 tokens x 2 slices = 6 waves of 64 MACs; each writes 64 sums of 32 bits and 8 activations of 8 bits.
    assert done.macs == 6 * 64 and done.idle_pe_cycles == cycles * 128 - 384
    assert done.register_bits == 6 * (64 * 32 + 8 * 8) + 2 * 64 * 8
    assert done.vcache_write_bytes == done.vcache_read_bytes == 2 * 64
    # The first slice's 3 rows of 8 sums are written, the second one's read them; the last sum goes to the drain.
    assert done.accumulator_bytes == (3 + 3) * 8 * 4
    # 6 words of 8 activations, 3 words of 8 multipliers, 3 rows of 8 sums into the combine buffer and out of it.
    assert done.buffer_bytes == 6 * 8 + 3 * 8 * 2 + (3 + 3) * 8 * 4
    assert done.lane_operations == 3 * 8 + 3 * 8  # requantised, and added in the combine buffer
    # 2 tiles (128 bytes), 3 rows of int16 (48 bytes), 4 instructions (128 bytes), all in beats of 4 bytes.
    assert (done.hbm_read_bytes, done.hbm_write_bytes, done.offchip_bytes) == (128 + 128, 48, 304)
    # One bond: 128 bytes of fill words, 3 rows of int16, and 6 waves with 22 + 46 bits of control: 9 bytes.
    assert done.vertical_bytes == 128 + 48 + 6 * 9
    assert done.lateral_bytes == 304 + 6 * 8 + 3 * 16
    # Each of the three runs lies in two rows of 32 x 4 bytes; a row of HBM has 1,024 bytes.
    assert done.hbm_activates == 6 * 128 / 1024
    assert done.hbm_refreshes == 2 * (cycles // 195) * 128 / 1024  # 3.9 us / 16 banks = 195 cycles at 800 MHz
    table = load_table()
    energy = energy_of(done, table, 800.0)
    by_hand = {
        "PEs": 384 * 0.3, "registers": 13_696 * 0.009, "V-Cache": 256 * 1.25, "accumulators": 192 * 1.25,
        "buffers": 288 * 1.25, "drain and vector unit": 48 * 3.2, "vertical": 230 * 8 * 0.05,
        "lateral": 400 * 8 * 0.12, "off chip": 304 * 8 * 0.3, "HBM activate": 0.75 * 909, "HBM read": 256 * 25.44,
        "HBM write": 48 * 25.44, "HBM refresh": done.hbm_refreshes * 3636,
        "static, dies": 128 * 0.1 * cycles * 1.25, "static, HBM": 0.25 * 33 * cycles * 1.25,
    }  # fmt: skip
    assert {name: band.value for name, band in energy.components.items()} == pytest.approx(by_hand)
    assert energy.total.value == pytest.approx(sum(by_hand.values()))
    assert energy.total.low < energy.total.value < energy.total.high
    assert energy.components["PEs"].low == pytest.approx(38.4)
    assert energy.components["PEs"].high == pytest.approx(384 * 0.45 + done.idle_pe_cycles * 0.43)
    slower = energy_of(done, table, 400.0)
    assert slower.components["static, dies"].value == pytest.approx(2 * by_hand["static, dies"])
    assert slower.components["HBM read"] == energy.components["HBM read"]


def test_every_entry_and_every_count_has_its_component() -> None:
    used = [(entry, count) for parts in COMPONENTS.values() for entry, count, _ in parts]
    assert sorted(entry for entry, _ in used) == sorted(ENTRIES)
    activity = activity_of_forecast(simulate(TINY, STREAM), Table.of(STREAM))
    assert {count for _, count in used} | {"cycles"} == set(activity.to_dict()) | {"idle_pe_cycles"}


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_changes_its_own_part_in_proportion(name: str) -> None:
    activity = activity_of_forecast(simulate(TINY, STREAM), Table.of(STREAM))
    table = load_table()
    entry = table[name]
    wider = dataclasses.replace(entry, value=3 * entry.value, low=3 * entry.low, high=3 * entry.high)
    before, after = (
        energy_of(activity, table, 800.0),
        energy_of(activity, dataclasses.replace(table, **{name: wider}), 800.0),
    )
    none = dataclasses.replace(entry, value=0.0, low=0.0, high=0.0)
    without = energy_of(activity, dataclasses.replace(table, **{name: none}), 800.0)
    for end in ("value", "low", "high"):
        own = getattr(before.total, end) - getattr(without.total, end)
        assert getattr(after.total, end) - getattr(without.total, end) == pytest.approx(3 * own)
    assert before.total.high > without.total.high or activity.hbm_refreshes == 0
    changed = [key for key in COMPONENTS if before.components[key] != after.components[key]]
    assert len(changed) <= 1


def test_runs_of_the_same_machine_add_up() -> None:
    one = activity_of_forecast(simulate(TINY, STREAM), Table.of(STREAM))
    two = one + one
    assert two.macs == 2 * one.macs and two.channel_cycles == 2 * one.channel_cycles
    assert energy_of(two, load_table(), 800.0).total.high == pytest.approx(
        2 * energy_of(one, load_table(), 800.0).total.high
    )
    assert Band(4.0, 2.0, 8.0) / 2 == Band(2.0, 1.0, 4.0)


def test_links_and_gangs() -> None:
    """Two tiers: M passes tiles up, N activations, K sums; with K the upper one alone makes rows."""
    for mapping in (Mapping3D.M, Mapping3D.N, Mapping3D.K):
        gemm = Instruction(
            Opcode.GEMM, {"tier_count": 2, "mapping": mapping, "tokens": 3, "k_slices": 2, "n_tiles": 4, "dest_kind": 1}
        )
        work = work_of(TINY, Table.of([gemm, END]).rows)
        assert work.wave.tolist() == [24, 24]
        assert work.new_own.tolist() == ([8, 0] if mapping == Mapping3D.M else [8, 8])
        links = {Mapping3D.M: work.link_m, Mapping3D.N: work.link_n, Mapping3D.K: work.link_k}
        assert links[mapping].tolist() == [0, 8 if mapping == Mapping3D.M else 24]
        assert work.rows.tolist() == ([0, 12] if mapping == Mapping3D.K else [12, 12])
        assert work.accumulator_rows == (24 if mapping == Mapping3D.K else 48)


def test_loads_of_an_empty_slot_do_not_count_and_its_gemm_is_one_wave() -> None:
    stream = [
        Instruction(Opcode.ROUTE, {"tokens": 5, "choices": 1, "experts": 3}),
        *(Instruction(Opcode.LOAD, {"format": 1, "dest_tiers": 2, "count": 4, "slot_en": 1, "slot": slot, "addr": 64})
          for slot in range(3)),
        *(Instruction(Opcode.GEMM, {"tier_count": 1, "tokens": 4, "k_slices": 2, "n_tiles": 2, "slot_en": 1,
                                    "slot": slot, "act_list": 1, "dest_list": 1, "dest_kind": 1})
          for slot in range(3)),
        END,
    ]  # fmt: skip
    rows = Table.of(stream).rows
    planned, known = work_of(TINY, rows), work_of(TINY, rows, [[4, 1, 0]])
    assert planned.wave[0] == 3 * 16 and known.wave[0] == 16 + 4 + 1
    assert planned.fill_words == 3 * 32 and known.fill_words == 2 * 32
    # The upper tier alone takes them, over both bonds.
    assert known.fill_tiers == known.fill_words and known.fill_bonds == 2 * known.fill_words
    assert planned.read_beats.tolist() == [96, 96] and known.read_beats.tolist() == [64, 64]
    assert known.rows[0] == 8 + 2 + 1 and known.rows_combine == 10  # the row of the empty slot is dropped
    # 5 entries in each of two tiers by the ROUTE, one for each wave and for each row.
    assert known.list_entries == 10 + 21 + 11


def test_counters_come_before_the_stream() -> None:
    """What is counted replaces the stream's own count; what is not follows in proportion."""
    counters = dict.fromkeys(counter_names(TINY), 0)
    counters |= {
        "cycles": 1000, "tier0_wave": 12, "tier0_new_own": 2, "fill_words": 32, "rows": 6, "rows_combine": 6,
        "read_beats_0": 64, "write_beats_1": 24, "fetch_beats": 40,
    }  # fmt: skip
    one = activity_of_forecast(simulate(TINY, STREAM, fetch_room=ROOM), Table.of(STREAM), fetch_room=ROOM)
    twice = activity_of_counters(TINY, counters, Table.of(STREAM))
    assert twice.macs == 2 * one.macs and twice.accumulator_bytes == 2 * one.accumulator_bytes
    assert twice.vcache_write_bytes == 2 * one.vcache_write_bytes and twice.vcache_read_bytes == one.vcache_read_bytes
    assert twice.offchip_bytes == 4 * (64 + 24 + 40) and twice.hbm_write_bytes == 96
    seen = activity_of_counters(TINY, counters, Table.of(STREAM), hbm=HbmCounts(activates=80, refreshes=16))
    assert (seen.hbm_activates, seen.hbm_refreshes) == (10.0, 2.0)


@pytest.mark.parametrize(("mapping", "rows"), [(0, [2, 2, 4, 1, 0]), (2, [1, 1, 3, 1, 0])])
def test_rows_that_runs_open(mapping: int, rows: list[int]) -> None:
    """Rows of 32 beats; in the first mapping two of them take turns, in the third one row follows the other."""
    timing = dataclasses.replace(HBM3, mapping=MAPPINGS[mapping])
    runs = [(0, 32), (32, 32), (16, 80), (7, 1), (5, 0)]
    assert [rows_opened(timing, np.array([(1, *run)])) for run in runs] == rows
    # A page stays open for the next run; the other group's is another one.
    both = np.array([(0, 0, 8), (0, 8, 8), (1, 8, 8)])
    assert rows_opened(timing, both) == 2 * rows_opened(timing, both[:1])


def test_refreshes_follow_time() -> None:
    assert [refreshes_of(HBM3, cycles, 800.0) for cycles in (194, 195, 1950)] == [0, 1, 10]
    assert refreshes_of(HBM3, 1950, 400.0) > refreshes_of(HBM3, 1950, 800.0)
