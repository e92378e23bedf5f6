# SPDX-License-Identifier: Apache-2.0
"""Fixed steps on `small` take no longer than recorded, by the cycle model: what would make streams slower is seen here.

``python -m pytest tests/scheduler/cost/test_ceilings.py -n 0 -s`` prints what the steps take now; a ceiling is lowered
when a step has become faster, and raised only for a reason that its commit names.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from hdl.config import PRESETS
from scheduler.cost.model import simulate
from scheduler.memory.contents import Weights
from scheduler.memory.model import ModelMemory
from scheduler.models.checkpoint_config import read_config
from scheduler.models.constants import Constants, constants_of
from scheduler.models.description import Experts
from scheduler.models.random_model import random_model
from scheduler.ops.batch import Chunk, Routing
from scheduler.plan.policy import FUSED, SEQUENTIAL, Policy
from scheduler.plan.residence import plan_residence
from scheduler.plan.tiling import Tiling
from scheduler.stream.choose import Chooser
from scheduler.stream.lower import lower_step
from scheduler.stream.parts import default_key_block
from sim.stimulus.moe_demo import DEMO_MODEL

SMALL = PRESETS["small"]
KEYS = 63
"""Tokens that each decoded sequence has cached."""

STEPS = {
    "prefill 128": (128, 0), "decode 1": (0, 1), "decode 8": (0, 8), "decode 32": (0, 32), "mixed 96 + 32": (96, 32),
}  # fmt: skip
"""New tokens of a sequence that is prefilled, and decoded sequences."""

CEILINGS = {
    ("prefill 128", "host"): (115_747, 93_637), ("prefill 128", "slots"): (130_327, 98_206),
    ("decode 1", "host"): (11_712, 11_395), ("decode 1", "slots"): (12_653, 11_740),
    ("decode 8", "host"): (42_896, 42_069), ("decode 8", "slots"): (45_494, 43_511),
    ("decode 32", "host"): (79_465, 76_099), ("decode 32", "slots"): (86_293, 76_468),
    ("mixed 96 + 32", "host"): (129_198, 95_508), ("mixed 96 + 32", "slots"): (141_192, 101_393),
}  # fmt: skip
"""Of the sequential plan, and of the fused one without what a step before has left."""
ONE_STEP = replace(FUSED, residency=False)
SLACK = 1.02


@cache
def machine() -> tuple[Constants, ModelMemory, int]:
    """Return the demo model's shape with random weights in the memory of `small`."""
    model = random_model(read_config(DEMO_MODEL), 1)
    tiling = Tiling(SMALL, model.description)
    memory = ModelMemory(plan_residence(tiling), Weights(model, tiling), sequences=40, context=256, step_bytes=1 << 20)
    return constants_of(model), memory, default_key_block(tiling, model.key_block)


def cycles_of(step: str, routing: str, policy: Policy) -> int:
    """Return what a step takes when all experts are equally likely."""
    constants, memory, block = machine()
    new, decoded = STEPS[step]
    chunks = [Chunk(0, 0, tuple(range(new)))] if new else []
    chunks += [Chunk(1 + slot, KEYS, (slot,)) for slot in range(decoded)]
    rng, tokens = np.random.default_rng(7), new + decoded
    drawn = []
    for layer in memory.tiling.model.layers:
        assert isinstance(layer.mlp, Experts)
        experts = np.argsort(rng.random((tokens, layer.mlp.count)), axis=1)[:, : layer.mlp.chosen]
        drawn.append(Routing(experts, np.full(experts.shape, 1 << 14, dtype=np.uint16)))
    program = lower_step(
        constants, memory, chunks, drawn if routing == "host" else None, key_block=block, chooser=Chooser(policy)
    )  # fmt: skip
    counts = program.slot_counts(drawn) if routing == "slots" else []
    return simulate(SMALL, program.table, slot_counts=counts).cycles


@pytest.mark.parametrize(("step", "routing"), list(CEILINGS))
def test_a_step_takes_no_longer_than_recorded(step: str, routing: str) -> None:
    sequential, fused = (cycles_of(step, routing, policy) for policy in (SEQUENTIAL, ONE_STEP))
    print(f'    ("{step}", "{routing}"): ({sequential:_}, {fused:_}),')
    assert sequential <= SLACK * CEILINGS[step, routing][0]
    assert fused <= SLACK * CEILINGS[step, routing][1] and fused <= SLACK * sequential
