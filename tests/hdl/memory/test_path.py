# SPDX-License-Identifier: Apache-2.0
"""Loads, stores and fetches on Python memories with random stalls: every byte, every post, every error."""

from __future__ import annotations

import numpy as np
import pytest

from hdl.config import PRESETS, MachineConfig
from tests.support.memory.axi_slave import Behaviour
from tests.support.memory.environment import Environment, apply_stores
from tests.support.memory.programs import random_loads, random_memory, random_stores
from tests.support.memory.simulate import simulate

CONFIGS = {
    "nano": PRESETS["nano"],
    "tiny": PRESETS["tiny"],
    # Two channels a group; a fill word is two rows; short bursts.
    "wide": PRESETS["tiny"].replace(
        name="wide", channels_per_group=2, channel_bytes=8, columns=16, rows=16, burst_beats=4
    ),
    # A bus word takes four beats.
    "deep": PRESETS["tiny"].replace(name="deep", rows=16),
    # A beat holds four bus words, two instructions and eight list entries; addresses may be misaligned.
    "broad": PRESETS["tiny"].replace(name="broad", channels_per_group=2, channel_bytes=32, columns=16, rows=16),
}

STALLS = Behaviour(latency=5, jitter=20, stall=0.3, reorder=True)


def combine_rows(config: MachineConfig, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    rows = generator.integers(-(1 << 31), 1 << 31, (config.combine_rows, config.columns), np.int64)
    return (rows >> generator.integers(0, 28, rows.shape)).astype(np.int32)


# Seed 0 runs without stalls.
CASES = [("nano", 0), ("nano", 1), ("tiny", 0), ("tiny", 1), ("wide", 1), ("deep", 1), ("broad", 1)]
MORE = [pytest.param(name, seed, marks=pytest.mark.slow) for name in CONFIGS for seed in range(2, 8)]


@pytest.mark.parametrize(("name", "seed"), CASES + MORE)
def test_random_loads(name: str, seed: int) -> None:
    config = CONFIGS[name]
    memory = random_memory(seed)
    stalled = seed != 0
    environment = Environment(
        config, memory, random_loads(seed, config, 20), seed=seed, stall=0.3 if stalled else 0.0, wait_delay=3 * stalled
    )
    simulate(environment, STALLS if stalled else Behaviour())
    environment.check_loads()
    assert not environment.log.errors


@pytest.mark.parametrize(("name", "seed"), CASES + MORE)
def test_random_stores(name: str, seed: int) -> None:
    config = CONFIGS[name]
    memory = random_memory(seed)
    combine = combine_rows(config, seed)
    stores = random_stores(seed, config, 8)
    want_memory, want_combine = [group.copy() for group in memory], combine.copy()
    apply_stores(config, stores, want_combine, want_memory)
    stalled = seed != 0
    environment = Environment(
        config, memory, (), stores, combine=combine, seed=seed, stall=0.3 if stalled else 0.0, wait_delay=2 * stalled
    )
    simulate(environment, STALLS if stalled else Behaviour())
    for g in range(2):
        assert np.array_equal(memory[g], want_memory[g]), f"group {g}"
    assert np.array_equal(combine, want_combine)
    assert not environment.log.errors
