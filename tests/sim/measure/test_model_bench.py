# SPDX-License-Identifier: Apache-2.0
"""The roofline of a language model's step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hdl.config import PRESETS
from hdl.regs import counter_names
from scheduler.cost.count import compulsory_bytes
from scheduler.models.checkpoint import MixtralConfig
from scheduler.ops.batch import Chunk, Routing
from scheduler.plan.shape import ModelShape
from sim.machine.generator import StepRecord
from sim.measure.model import point_of

TINY = PRESETS["tiny"]
SHAPE = ModelShape.of(
    TINY,
    MixtralConfig(
        vocab_size=16, hidden_size=16, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, num_local_experts=4, num_experts_per_tok=2, max_position_embeddings=64,
        rms_norm_eps=1e-5, rope_theta=10_000.0,
    ),
)  # fmt: skip


def test_weights_count_once_and_only_those_of_chosen_experts() -> None:
    one = Routing(np.array([[0, 1]]), np.zeros((1, 2), dtype=np.uint16))
    two = Routing(np.array([[0, 1], [1, 3]]), np.zeros((2, 2), dtype=np.uint16))
    dense = 16 * 32 + 16 * 16 + 16 * 4
    single = compulsory_bytes(SHAPE, [Chunk(0, 5, (1,))], [one, one])
    assert single == 2 * dense + 4 * 3 * 16 * 8 + 16 * 16 + 2 * 2 * 8 * 6
    both = compulsory_bytes(SHAPE, [Chunk(0, 5, (1,)), Chunk(1, 0, (2,))], [two, one])
    assert both - single == 3 * 16 * 8 + 2 * 2 * 8


@pytest.mark.parametrize(("macs", "least", "bound"), [(128 * 600, 8 * 100, "compute"), (128, 8 * 700, "memory")])
def test_the_larger_bound_counts(macs: int, least: int, bound: str) -> None:
    counters = dict.fromkeys(counter_names(TINY), 0) | {"read_beats_0": 3, "write_beats_1": 2, "fetch_beats": 1}
    record = StepRecord(
        number=0, phase="decode", sequences=(0,), lengths=(6,), tokens=1, chosen={}, instructions=1, macs=macs,
        least_bytes=least, cycles=1000, counters=counters, compared_bytes=0, mismatched_bytes=0, host_s=0.0, run_s=0.0,
        simulated_s=0.0,
    )  # fmt: skip
    point = point_of(TINY, record)
    assert point["bound"] == bound
    assert point["roofline_fraction"] == pytest.approx({"compute": 0.6, "memory": 0.7}[bound])
    assert point["bytes"] == 6 * TINY.group_bytes
    assert point_of(TINY, replace(record, cycles=2000))["roofline_fraction"] == pytest.approx(
        point["roofline_fraction"] / 2
    )
