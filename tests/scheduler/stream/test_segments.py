# SPDX-License-Identifier: Apache-2.0
"""The tree of memory segments: for every load the last store of one of its bytes, and the other way round."""

from __future__ import annotations

import random

import numpy as np
import pytest

from hdl.config import PRESETS
from hdl.isa import Instruction, LoadDest, Opcode
from scheduler.stream.machine import machine_of
from scheduler.stream.segments import GROUP, LOADS, STORES, latest_overlap, new_spans, note_spans, segments_of, spans
from scheduler.stream.table import Table
from sim.golden.order.spans import Span, SpanLog

TINY = PRESETS["tiny"]  # rows of 8 elements, beats of 4 bytes


def random_instruction(rng: random.Random) -> Instruction:
    """Return a load or a store in a small memory."""
    if rng.random() < 0.5:
        values = {
            "format": rng.randrange(4), "rows": rng.choice((1, 1, 2, 3, 40)), "addr": rng.randrange(40),
            "offset": 8 * rng.randrange(4), "addr_gap": rng.choice((0, 0, 1, 3, 20)), "group": rng.randrange(2),
        }  # fmt: skip
        return Instruction(Opcode.STORE, {k: v for k, v in values.items() if v})
    kind = rng.choice((LoadDest.VCACHE, LoadDest.ACTIVATION, LoadDest.ROWS, LoadDest.PARAMETER))
    values = {
        "dest_kind": kind, "dest_tiers": 0 if kind == LoadDest.ROWS else 1, "count": rng.choice((1, 2, 5, 30)),
        "addr": rng.randrange(60), "group": rng.randrange(2),
    }  # fmt: skip
    if kind == LoadDest.VCACHE:
        values |= {"format": rng.randrange(3), "addr_low": rng.randrange(60)}
        if rng.random() < 0.3:
            values |= {"slot_en": 1, "slot_stride": rng.choice((0, 1, 2, 9, 1000))}
    return Instruction(Opcode.LOAD, {k: int(v) for k, v in values.items() if v})


@pytest.mark.parametrize("length", [1, 3, 30, 200])
def test_the_latest_overlap_is_the_logs(length: int) -> None:
    machine, met = machine_of(TINY), 0
    for seed in range(20):
        rng = random.Random(f"{length} {seed}")
        table = Table.of([random_instruction(rng) for _ in range(length)])
        segments, found = segments_of(table.rows, machine), new_spans(1)
        logs = {STORES: SpanLog(), LOADS: SpanLog()}
        for n in range(length):
            load = table.rows[n, 0] == Opcode.LOAD
            other, own = (STORES, LOADS) if load else (LOADS, STORES)
            many = spans(table.rows, n, machine, 5, found, 0)
            runs = [
                (at + run * step, width) for at, width, step, count in found[:many].tolist() for run in range(count)
            ]
            exact = [Span(at // GROUP, at % GROUP, at % GROUP + width, width, width) for at, width in runs]
            overlaps = [logs[other].last_overlap(span) for span in exact]
            wanted = max((overlap[0] + 1 for overlap in overlaps if overlap), default=0)
            assert latest_overlap(found, 0, many, segments, other) == wanted
            met += bool(wanted)
            note_spans(found, 0, many, segments, own, n)
            for span in exact:
                logs[own].add(n, span)
    assert met > length // 4 or length == 1


def test_a_stream_without_stores_has_no_segments() -> None:
    machine, load = machine_of(TINY), Instruction(Opcode.LOAD, {"dest_tiers": 1, "count": 4, "addr": 3})
    table, found = Table.of([load, load]), new_spans(1)
    segments = segments_of(table.rows, machine)
    assert segments.bounds.size == 0
    many = spans(table.rows, 0, machine, 0, found, 0)
    note_spans(found, 0, many, segments, LOADS, 0)
    assert latest_overlap(found, 0, many, segments, STORES) == 0
    assert segments_of(table.rows[:0], machine).bounds.size == 0


def test_spans_beside_each_other_do_not_meet() -> None:
    """A store of 8 bytes at 32, and loads that end before it, begin behind it, and hold its first or last byte."""
    machine = machine_of(TINY)
    store = Instruction(Opcode.STORE, {"rows": 1, "addr": 1})
    loads = [  # LOAD ROWS of 16 bytes
        Instruction(Opcode.LOAD, {"dest_kind": LoadDest.ROWS, "count": count, "addr": addr, "group": group})
        for count, addr, group in ((2, 0, 0), (3, 0, 0), (1, 2, 0), (1, 1, 0), (1, 1, 1))
    ]
    table, found = Table.of([store, *loads]), new_spans(1)
    segments = segments_of(table.rows, machine)
    note_spans(found, 0, spans(table.rows, 0, machine, 0, found, 0), segments, STORES, 0)
    met = [
        latest_overlap(found, 0, spans(table.rows, n, machine, 0, found, 0), segments, STORES)
        for n in range(1, len(table))
    ]
    assert met == [0, 1, 0, 1, 0]
    assert np.count_nonzero(segments.trees)
