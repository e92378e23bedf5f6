# SPDX-License-Identifier: Apache-2.0
"""Activity of a run: of the cycle model's forecast, or of the performance counters of the machine.

Both begin with the stream's own work (:mod:`scheduler.cost.energy.work`). The forecast adds the cycles. The counters
replace whatever they count: waves, tiles read, links, fill words, rows, beats, rows of the vector unit. What has no
counter is taken from the stream in proportion to what has one: accumulators and token lists to waves, V-Cache words
written and bonds crossed to fill words, rows opened in HBM to beats.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from hdl.config import MachineConfig
from scheduler.cost.energy.activity import Activity
from scheduler.cost.energy.hbm import ROW_BYTES, refreshes_of, rows_opened
from scheduler.cost.energy.moved import moved_bytes
from scheduler.cost.energy.work import Int, Work, work_of
from scheduler.cost.hbm.timing import HBM3, HbmTiming
from scheduler.cost.model import Forecast
from scheduler.stream.table import Rows, Table

__all__ = [
    "DEFAULT_MHZ", "HbmCounts", "activity_of_counters", "activity_of_forecast", "counted", "derived_counts",
    "differing",
]  # fmt: skip

DEFAULT_MHZ = 800.0
"""Clock of a system that has none: results say so."""


class HbmCounts(NamedTuple):
    """What the channels of both groups did, one channel of each group counted.

    Attributes
    ----------
    activates, refreshes : int
        Rows that were opened, banks that were refreshed.
    """

    activates: int
    refreshes: int


def activity_of_forecast(
    forecast: Forecast,
    stream: Table | Rows,
    *,
    slot_counts: Sequence[Sequence[int]] = (),
    fetch_room: int | None = None,
    timing: HbmTiming = HBM3,
    mhz: float = DEFAULT_MHZ,
) -> Activity:
    """Return the activity of a stream by the cycle model.

    Parameters
    ----------
    forecast : Forecast
        Of :func:`scheduler.cost.model.simulate`.
    stream : Table or int64 array [instructions, columns]
        What it was made for.
    slot_counts, fetch_room
        As `simulate` got them.
    timing : HbmTiming
        Of the HBM whose activates and refreshes are derived.
    mhz : float
        The machine's clock, which says how often HBM is refreshed.
    """
    config = forecast.config
    work = work_of(config, _rows(stream), slot_counts, fetch_room=fetch_room)
    return _activity(config, work, forecast.cycles, derived_counts(config, work, forecast.cycles, timing, mhz), timing)


def activity_of_counters(
    config: MachineConfig,
    counters: Mapping[str, int],
    stream: Table | Rows,
    *,
    slot_counts: Sequence[Sequence[int]] = (),
    hbm: HbmCounts | None = None,
    timing: HbmTiming = HBM3,
    mhz: float = DEFAULT_MHZ,
) -> Activity:
    """Return the activity of a run on the machine.

    Parameters
    ----------
    config : MachineConfig
        The machine.
    counters : mapping of str to int
        Its performance counters after the run, by the names of ``hdl.regs``.
    stream : Table or int64 array [instructions, columns]
        What it ran.
    slot_counts : sequence of sequences of int, optional
        Tokens of the slots after each ROUTE, where they are known.
    hbm : HbmCounts, optional
        What the channels did, where they were simulated; default: derived from the stream's addresses and the time.
    timing, mhz
        See `activity_of_forecast`.
    """
    work = counted(work_of(config, _rows(stream), slot_counts), counters)
    cycles = int(counters["cycles"])
    return _activity(config, work, cycles, hbm or derived_counts(config, work, cycles, timing, mhz), timing)


def _rows(stream: Table | Rows) -> Rows:
    return stream.rows if isinstance(stream, Table) else stream


def counted(work: Work, counters: Mapping[str, int]) -> Work:
    """Return a stream's work with what the counters say of it."""
    tiers = range(len(work.wave))

    def by_tier(name: str) -> Int:
        return np.array([counters[f"tier{tier}_{name}"] for tier in tiers], np.int64)

    wave, fill_words, rows = by_tier("wave"), int(counters["fill_words"]), int(counters["rows"])
    waves = _ratio(int(wave.sum()), int(work.wave.sum()))
    fills = _ratio(fill_words, work.fill_words)
    made = _ratio(rows, int(work.rows.sum()))
    to_activation = _ratio(int(counters["rows_activation"]), work.rows_activation)
    to_combine = _ratio(int(counters["rows_combine"]), work.rows_combine)
    vector = _ratio(int(counters["vector_rows"]), work.vector_rows)
    return dataclasses.replace(
        work, wave=wave, new_own=by_tier("new_own"), link_m=by_tier("link_m"), link_n=by_tier("link_n"),
        link_k=by_tier("link_k"),
        rows=np.rint(work.rows * made).astype(np.int64), swiglu_rows=round(work.swiglu_rows * made),
        rows_activation=int(counters["rows_activation"]), rows_combine=int(counters["rows_combine"]),
        result_bytes=round(work.result_bytes * to_activation),
        result_bond_bytes=round(work.result_bond_bytes * to_activation), added_rows=round(work.added_rows * to_combine),
        accumulator_rows=round(work.accumulator_rows * waves), list_entries=round(work.list_entries * waves),
        fill_words=fill_words, fill_tiers=round(work.fill_tiers * fills), fill_bonds=round(work.fill_bonds * fills),
        vector_rows=int(counters["vector_rows"]), vector_moved=round(work.vector_moved * vector),
        read_beats=np.array([counters[f"read_beats_{group}"] for group in range(2)], np.int64),
        write_beats=np.array([counters[f"write_beats_{group}"] for group in range(2)], np.int64),
        fetch_beats=int(counters["fetch_beats"]),
    )  # fmt: skip


def differing(work: Work, counters: Mapping[str, int]) -> list[str]:
    """Return the names of what the counters count otherwise than the stream's work says, beats of instructions aside.

    Those depend on time: what is fetched behind END is a burst more or less.
    """
    seen = counted(work, counters)
    names = (
        "wave", "new_own", "link_m", "link_n", "link_k", "read_beats", "write_beats", "fill_words", "rows_activation",
        "rows_combine", "vector_rows",
    )  # fmt: skip
    found = [name for name in names if not np.array_equal(getattr(work, name), getattr(seen, name))]
    return found + ["rows"] * (int(work.rows.sum()) != counters["rows"])


def _ratio(counted: int, planned: int) -> float:
    return counted / planned if planned else 1.0


def derived_counts(config: MachineConfig, work: Work, cycles: int, timing: HbmTiming, mhz: float) -> HbmCounts:
    """Return what a stream's work lets HBM channels do: rows by the addresses, refreshes by the time."""
    runs = np.array(work.runs, np.int64)
    beats = int(work.read_beats.sum() + work.write_beats.sum()) + work.fetch_beats
    share = _ratio(beats, int(runs[:, 2].sum()))
    opened = round(rows_opened(timing, runs) * share)
    return HbmCounts(opened, 2 * refreshes_of(timing, cycles, mhz))


def _activity(config: MachineConfig, work: Work, cycles: int, hbm: HbmCounts, timing: HbmTiming) -> Activity:
    c = config
    waves, tiles = int(work.wave.sum()), int(work.new_own.sum())
    shifted = int(work.link_m.sum()) + tiles
    moved = moved_bytes(c, work)
    rows = int(work.rows.sum())
    own_acts = waves - int(work.link_n.sum())
    combine_rows = work.combine_rows + work.rows_combine + work.added_rows
    buffers = (
        own_acts * c.rows + work.result_bytes + work.activation_written + work.parameter_bytes + rows * 2 * c.columns
        + combine_rows * 4 * c.columns + work.list_entries * 8
    )  # fmt: skip
    group_row = timing.columns * c.group_bytes / ROW_BYTES  # of the rows that a group's channels open together
    return Activity(
        cycles=cycles, pe_cycles=cycles * c.pes, channel_cycles=cycles * 2 * c.group_bytes / 32,
        macs=waves * c.tile_bytes,
        register_bits=waves * (32 * c.tile_bytes + 8 * c.rows) + shifted * 8 * c.tile_bytes,
        vcache_read_bytes=tiles * c.tile_bytes, vcache_write_bytes=work.fill_tiers * c.fill_bytes,
        accumulator_bytes=work.accumulator_rows * 4 * c.columns, buffer_bytes=buffers,
        lane_operations=(rows + work.swiglu_rows + work.rows_combine + work.vector_rows) * c.columns,
        vertical_bytes=moved.vertical_bytes, lateral_bytes=moved.lateral_bytes, offchip_bytes=moved.offchip_bytes,
        hbm_read_bytes=(int(work.read_beats.sum()) + work.fetch_beats) * c.group_bytes,
        hbm_write_bytes=int(work.write_beats.sum()) * c.group_bytes,
        hbm_activates=hbm.activates * group_row, hbm_refreshes=hbm.refreshes * group_row,
    )  # fmt: skip
