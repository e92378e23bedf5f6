# SPDX-License-Identifier: Apache-2.0
"""Runs a schedule that was read from a directory, step by step, on an engine."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hdl.errors import A3dError
from scheduler.schedule.files import SavedSchedule, SavedStep
from sim.machine.engines import Engine, Outcome

__all__ = ["replay"]


def replay(saved: SavedSchedule, engine: Engine) -> Iterator[tuple[SavedStep, Outcome]]:
    """Run all steps in order; yields each with what it left behind.

    Parameters
    ----------
    saved : SavedSchedule
        A schedule with weights.
    engine : Engine
        One of the same configuration.

    Raises
    ------
    A3dError
        A schedule without weights, or what the engine raises.
    """
    if saved.images is None:
        raise A3dError(
            f"schedule {saved.folder}: has no weights, so that there is nothing to compute; use a3d time, or schedule "
            "again with weights or --random-weights SEED"
        )
    memory = _Memory(saved.images)
    for number in range(len(saved)):
        step = saved.step(number)
        patch = step.patch
        memory.images[patch.group][patch.address : patch.address + patch.size] = np.frombuffer(step.data, np.uint8)
        if not number:
            engine.start(memory)
        yield step, engine.run(step)


class _Memory:
    """Both groups' memories."""

    def __init__(self, images: tuple[np.ndarray, np.ndarray]) -> None:
        self.images = images
