# SPDX-License-Identifier: Apache-2.0
"""Simulated cycles per second with all PEs busy: this project's Verilator build against cocotb's default one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hdl.config import MachineConfig
from hdl.isa import Mapping3D
from sim.machine.system import SimulatedMachine
from sim.measure.programs import Residents, resident_program
from sim.measure.utilisation import resident_jobs, run_repeated

__all__ = ["measure_speed", "speed_of"]

SLOW_FRACTION = 16
"""The default build runs this many times fewer cycles: it is that much slower."""

BUSY_TOKENS = 16


def speed_of(machine: SimulatedMachine, cycles: int) -> tuple[float, int]:
    """Return cycles per second from start to interrupt, and the cycles: about `cycles`, all PEs busy."""
    config = machine.config
    residents = Residents.of(config)
    tokens = min(BUSY_TOKENS, config.accumulator_depth)
    program = resident_program(config, residents, Mapping3D.ALONE, tokens, cycles)
    setup, jobs = resident_jobs(config, residents, [program])
    _, wall, simulated = run_repeated(machine, [setup], jobs)[0]
    return simulated / wall, simulated


def measure_speed(config: MachineConfig, cycles: int, *, announce: Callable[[], None] | None = None) -> dict[str, Any]:
    """Return cycles per second of both builds, from start to interrupt, one run each.

    Parameters
    ----------
    config : MachineConfig
    cycles : int
        Simulated cycles of the fast run, all tiers busy.
    announce : callable, optional
        Called before a simulator is compiled.
    """
    fast, fast_cycles = speed_of(SimulatedMachine(config, announce=announce), cycles)
    control = SimulatedMachine(config, fast=False, announce=announce)
    default, default_cycles = speed_of(control, max(1, cycles // SLOW_FRACTION))
    return {
        "cycles_per_s": fast,
        "default_cycles_per_s": default,
        "ratio": fast / default,
        "cycles": fast_cycles,
        "default_cycles": default_cycles,
    }
