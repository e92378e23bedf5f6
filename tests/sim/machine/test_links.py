# SPDX-License-Identifier: Apache-2.0
"""Words that a stream moves against what the executor counts; against the machine's counters: ``test_system.py``."""

import pytest

from hdl.config import PRESETS, MachineConfig
from scheduler.cost.links import count_words
from sim.stimulus.streams import StreamOptions, random_stream
from tests.support.links import compare_words, counted

CONFIGS = [PRESETS["nano"], PRESETS["small"], PRESETS["tiny"].replace(name="edge", stationary_feed="edge")]
SEEDS = range(600, 612)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_random_streams_move_what_the_executor_counts(config: MachineConfig) -> None:
    routes = 0
    for seed in SEEDS:
        stream = random_stream(config, seed, options=StreamOptions.everything(slots=True))
        counters, slots = counted(stream)
        compare_words(config, count_words(config, stream.instructions, slot_counts=slots), counters)
        routes += len(slots)
    assert routes
