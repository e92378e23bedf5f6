# SPDX-License-Identifier: Apache-2.0
"""The emitted machine compiled by itself, without this project's bench around it: its ports are the top's."""

from __future__ import annotations

from functools import cache

from hdl.config import PRESETS
from hdl.generate import TOP, generate
from hdl.scratch import scratch_folder
from sim.simulator import runner

__all__ = ["CONFIG", "bare_machine"]

CONFIG = PRESETS["nano"]
"""The machine of these tests. It has one channel in each group: the memories model no lockstep of several."""


@cache
def bare_machine() -> runner.BuiltModel:
    """Return the simulator of the machine as top; streams are short, so that it is not worth optimising."""
    with scratch_folder("a3d-bare-") as folder:
        out = folder / "out"
        design, _ = generate(CONFIG, out)
        return runner.build([out / path for path in design.files], TOP, quick=True)
