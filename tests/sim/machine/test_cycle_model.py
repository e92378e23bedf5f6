# SPDX-License-Identifier: Apache-2.0
"""The cycle model against the emitted machine: whole steps of random language models."""

from __future__ import annotations

import numpy as np
import pytest

from hdl.isa import Opcode
from scheduler.cost.model import simulate
from sim.machine.session import MachineSession
from tests.sim.machine.test_language import machine
from tests.support.language import TINY, try_reference

TOLERANCE = 0.05


@pytest.mark.parametrize("slots", [False, True], ids=["host-known", "slots"])
def test_steps_take_about_as_long_as_on_the_emitted_machine(slots: bool) -> None:
    measured: list[tuple[int, int]] = []
    with MachineSession(machine("tiny")) as session:
        for seed in range(80):
            reference = try_reference(TINY, seed, slots=slots)
            if reference is None:
                continue
            for chunks in reference.steps:
                program = reference.step(chunks)
                result = session.run(reference.job(program, dump=False))
                assert result.done
                counts = [sorted(np.bincount(r.experts.ravel()))[::-1] for r in reference.routing] if slots else []
                model = simulate(TINY, program.instructions, slot_counts=counts)
                working = [n for n, i in enumerate(program.instructions) if i.opcode not in (Opcode.NOP, Opcode.END)]
                assert np.unique(model.slices.number).tolist() == working
                measured.append((model.cycles, result.counters["cycles"]))
            if len(measured) >= 6:
                break
    assert len(measured) >= 6
    off = [model / rtl - 1 for model, rtl in measured]
    assert all(-TOLERANCE < o < TOLERANCE for o in off), off
