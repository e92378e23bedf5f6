# SPDX-License-Identifier: Apache-2.0
"""The instruction executor with a time that is made up: an engine for what needs time, but no machine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hdl.config import MachineConfig
from scheduler.stream.step_program import StepProgram
from sim.machine.engines import IsaEngine, Outcome

__all__ = ["TOKEN_CYCLES", "TimedExecutor"]

TOKEN_CYCLES = 1000


class TimedExecutor(IsaEngine):
    """Takes `TOKEN_CYCLES` for each new token of a step; what only a simulated machine needs is ignored."""

    name = "rtl"
    timed = True

    def __init__(self, config: MachineConfig, *, verify: bool = False, **_: Any) -> None:
        super().__init__(config, verify=verify)

    def run(self, program: StepProgram, *, trace: bool = False) -> Outcome:  # type: ignore[override]
        tokens = sum(len(chunk.tokens) for chunk in program.chunks)
        return replace(super().run(program, trace=trace), cycles=TOKEN_CYCLES * tokens)
