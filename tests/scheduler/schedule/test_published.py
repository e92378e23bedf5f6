# SPDX-License-Identifier: Apache-2.0
"""Every published shape on `large`: prefill of 512 tokens and decode of up to 256 sequences, up to 8,192 keys."""

from __future__ import annotations

import pytest

from hdl.config import PRESETS
from hdl.isa.legality import Limits
from scheduler.models.shapes import load_shape, shape_names
from scheduler.plan.policy import SEQUENTIAL
from scheduler.schedule.build import Scheduler
from scheduler.schedule.routing import UniformRouting
from scheduler.stream.prove import check
from scheduler.system import SystemConfig
from sim.measure.scheduler import Phase, some_layers

LARGE = PRESETS["large"]
PHASES = (
    Phase("prefill", 512, 0), Phase("prefill", 512, 7680), Phase("decode", 1, 8191), Phase("decode", 64, 4095),
    Phase("decode", 256, 8191),
)  # fmt: skip


@pytest.mark.parametrize("phase", PHASES, ids=lambda p: f"{p.name} {p.tokens} at {p.keys}")
@pytest.mark.parametrize("name", shape_names())
def test_two_layers_of_a_published_shape_are_lowered_and_proved(name: str, phase: Phase) -> None:
    """Two layers are enough to find what is loaded ahead of the next one."""
    lower_and_prove(name, phase, 2)


def test_many_layers_share_the_semaphores() -> None:
    """Gangs wait for gangs in long rows: two layers have enough semaphores, eight ran out of them."""
    lower_and_prove("deepseek-v3", PHASES[0], 8)


def lower_and_prove(name: str, phase: Phase, layers: int) -> None:
    model = some_layers(load_shape(name), layers)
    scheduler = Scheduler(
        SystemConfig(machine=LARGE, policy=SEQUENTIAL), model, [phase.step()], UniformRouting(model, 1)
    )
    (planned,) = scheduler.run()
    memory = scheduler.memory
    check(planned.program.table, LARGE, memory.images, Limits(memory.sizes, planned.program.window))
    tokens = 512 if phase.name == "prefill" else phase.tokens
    assert sum(len(chunk.tokens) for part in planned.program.parts for chunk in part.chunks) == tokens
