# SPDX-License-Identifier: Apache-2.0
"""The cycle model against the emitted machine: whole steps of random language models."""

from __future__ import annotations

import numpy as np
import pytest

from hdl.isa import Opcode
from scheduler.cost.cycle_model import simulate
from sim.machine.session import MachineSession
from sim.machine.system import Job
from tests.sim.machine.test_language import TINY, machine, try_reference

TOLERANCE = 0.10
"""Conflicts on the result bus and on the combine buffer's banks are not in the model."""


@pytest.mark.parametrize("slots", [False, True], ids=["host-known", "slots"])
def test_steps_take_about_as_long_as_on_the_emitted_machine(slots: bool) -> None:
    measured: list[tuple[int, int]] = []
    with MachineSession(machine("tiny")) as session:
        for seed in range(80):
            reference = try_reference(TINY, seed, slots=slots)
            if reference is None:
                continue
            images = (reference.memory.images[0].tobytes(), reference.memory.images[1].tobytes())
            for number, chunks in enumerate(reference.steps):
                program = reference.step(chunks)
                patch = program.patch
                data = reference.memory.images[patch.group][patch.address : patch.address + patch.size].tobytes()
                result = session.run(
                    Job(
                        images=images if number == 0 else None, patches=[(patch.group, patch.address, data)],
                        stream_base=program.stream_base, limits=reference.executor.limits, dump=False,
                    )
                )  # fmt: skip
                assert result.done
                counts = [sorted(np.bincount(r.experts.ravel()))[::-1] for r in reference.routing] if slots else []
                model = simulate(TINY, program.instructions, slot_counts=counts)
                working = [n for n, i in enumerate(program.instructions) if i.opcode not in (Opcode.NOP, Opcode.END)]
                assert sorted({s.number for s in model.slices}) == working
                measured.append((model.cycles, result.counters["cycles"]))
            if len(measured) >= 6:
                break
    assert len(measured) >= 6
    off = [model / rtl - 1 for model, rtl in measured]
    assert all(-TOLERANCE < o < TOLERANCE / 2 for o in off), off
