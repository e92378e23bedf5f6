# SPDX-License-Identifier: Apache-2.0
"""The memories of the cycle model: how often channels pause, how much longer latencies get, what a seed repeats."""

from __future__ import annotations

import numpy as np
import pytest

from hdl.config import PRESETS
from scheduler.cost.blocks import blocks_of
from scheduler.cost.memory import latency, transfers
from scheduler.cost.state import Int, new_state

NONE = np.zeros((0, 1), dtype=np.int64)


def memory(*, jitter: int = 0, stall: int = 0, channels: int = 1, seed: int = 1) -> Int:
    return new_state(blocks_of(PRESETS["tiny"]), (40, jitter, stall, channels, seed, 1 << 40), NONE, NONE, NONE, NONE)


def test_without_randomness_a_transfer_is_a_cycle() -> None:
    assert transfers(memory(), 100) == 100 and latency(memory()) == 40


@pytest.mark.parametrize("stall", [32, 128])
def test_a_channel_pauses_as_often_as_it_is_said_to(stall: int) -> None:
    count = 20_000
    expected = count / (1 - stall / 256)
    assert transfers(memory(stall=stall), count) == pytest.approx(expected, rel=0.03)
    assert transfers(memory(stall=stall, channels=4), count) > 1.05 * expected, "the slowest channel counts"


def test_latencies_get_up_to_the_largest_addition_longer() -> None:
    state = memory(jitter=8)
    seen = {latency(state) for _ in range(500)}
    assert seen == set(range(40, 49))


def test_a_seed_repeats_it() -> None:
    one, same, other = (transfers(memory(stall=64, seed=seed), 200) for seed in (5, 5, 6))
    assert one == same != other
