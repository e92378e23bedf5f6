# SPDX-License-Identifier: Apache-2.0
"""The load engines of the cycle model: pace, both engines at once, order, and how far they read ahead."""

from __future__ import annotations

from itertools import pairwise

import pytest

from hdl.config import PRESETS
from hdl.isa import Format, Instruction, LoadDest, Opcode
from scheduler.cost.blocks import blocks_of
from scheduler.cost.model import Forecast, simulate
from scheduler.cost.work import load_steps

SMALL = PRESETS["small"]
B = blocks_of(SMALL)


def load(**fields: int) -> Instruction:
    own = {"dest_kind": LoadDest.VCACHE, "group": 1, "dest_tiers": 1, "count": 4, "addr": 64}
    return Instruction(Opcode.LOAD, own | fields)


def starts(forecast: Forecast, unit: str) -> list[int]:
    return [int(start) for start in forecast.slices.start[forecast.slices.of(forecast.units.index(unit))]]


@pytest.mark.parametrize("dest", list(LoadDest))
def test_one_load_follows_the_other_as_fast_as_its_beats_and_words(dest: LoadDest) -> None:
    one, three = (simulate(SMALL, [load(dest_kind=dest, count=16)] * n).done[-1] for n in (1, 3))
    steps = load_steps(SMALL.rows, SMALL.columns, SMALL.group_bytes, dest, Format.BYTES, 16)
    assert 2 * steps <= three - one <= 2 * steps + 8


def test_a_pair_load_waits_for_both_engines() -> None:
    busy, pair = load(count=64), load(format=Format.PAIR, addr_low=64)
    apart = simulate(SMALL, [load(group=0, count=1), pair])
    behind = simulate(SMALL, [busy, load(group=0, count=1), pair])
    assert behind.done[-1] > apart.done[-1] + 20


def test_engines_read_ahead_of_their_data_as_far_as_they_have_places() -> None:
    many = simulate(SMALL, [load(count=64)] * (B.load_jobs + 4))
    begun = starts(many, "load1")
    assert begun == sorted(begun)
    assert max(b - a for a, b in pairwise(begun)) > 20, "the address side is held up at last"
