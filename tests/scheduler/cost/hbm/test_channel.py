# SPDX-License-Identifier: Apache-2.0
"""The channel obeys every rule of an HBM, serves everything, and gives a stream nearly all of its bandwidth."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from itertools import pairwise

import pytest

from scheduler.cost.hbm.channel import ACTIVATE, PRECHARGE, READ, REFRESH, WRITE
from scheduler.cost.hbm.timing import HBM2, HBM3, MAPPINGS, T, parameters_of
from tests.scheduler.cost.hbm.rules import Request, commands_of, drawn, mistakes


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize(("timing", "mhz"), [(HBM3, 800.0), (HBM3, 1600.0), (HBM2, 1000.0), (HBM3, 300.0)])
def test_random_traffic_obeys_the_rules(timing, mhz, mapping):
    rng, kinds = random.Random(f"{mapping} {mhz}"), Counter()
    parameters = parameters_of(dataclasses.replace(timing, mapping=mapping), mhz)
    for _ in range(2):
        requests = drawn(rng, "random", 90)
        commands = list(commands_of(parameters, requests, 500))
        assert mistakes(parameters, commands, requests) == []
        kinds.update(command for one in commands for command in (one[1], one[6]))
    assert {READ, WRITE, ACTIVATE, PRECHARGE, REFRESH} <= set(kinds)


def share(timing, mhz, requests):
    """Return the part of the cycles from the first to the last beat that have one, and reads for each activate."""
    parameters = parameters_of(timing, mhz)
    commands = list(commands_of(parameters, requests))
    assert mistakes(parameters, commands, requests) == []
    beats = [one[0] for one in commands if one[1]]
    return len(beats) / (beats[-1] - beats[0] + 1), len(beats) / sum(one[6] == ACTIVATE for one in commands)


@pytest.mark.parametrize("mapping", MAPPINGS[:2])
def test_a_stream_takes_nearly_all(mapping):
    """Row hits but for one beat of each row, refreshed banks are those that it has left."""
    timing = dataclasses.replace(HBM3, mapping=mapping)
    part, hits = share(timing, 800.0, drawn(random.Random(1), "stream", 700))
    assert part > 0.97 and hits > 25


def test_a_bank_group_at_a_time_takes_half():
    mapping = "row-bank-group-column"
    part, _ = share(dataclasses.replace(HBM3, mapping=mapping), 800.0, drawn(random.Random(1), "stream", 300))
    assert 0.4 < part < 0.55


def test_a_row_for_each_beat_is_bound_by_its_bank():
    """Every beat another row of the same bank."""
    timing = parameters_of(HBM3, 800.0)
    requests = [Request(0, 0, row << 9, 1) for row in range(40)]
    commands = list(commands_of(timing, requests))
    assert mistakes(timing, commands, requests) == []
    beats = [one[0] for one in commands if one[1] == READ]
    steps = {after - before for before, after in pairwise(beats)}
    assert min(steps) == max(timing[T.rc], timing[T.ras] + timing[T.rp])


def test_row_hits_of_another_stream_go_first():
    """While a stream waits for its row, younger bursts with an open row are read."""
    timing = parameters_of(dataclasses.replace(HBM3, mapping="row-bank-column-group"), 800.0)
    requests = [Request(0, 1, 0, 4), Request(60, 0, 1 << 9, 1), Request(60, 1, 5, 3)]
    commands = list(commands_of(timing, requests))
    assert mistakes(timing, commands, requests) == []
    assert [one[2] for one in commands if one[1]] == [1] * 7 + [0]


def test_idle_banks_are_refreshed_in_time():
    timing = parameters_of(HBM3, 800.0)
    commands = list(commands_of(timing, [Request(0, 0, 0, 1)], 100_000))
    assert mistakes(timing, commands, [Request(0, 0, 0, 1)]) == []
    assert abs(sum(one[6] == REFRESH for one in commands) - 100_000 // timing[T.refresh]) <= 1
