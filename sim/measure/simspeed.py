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

__all__ = ["measure_speed"]

SLOW_FRACTION = 16
"""The default build runs this many times fewer cycles: it is that much slower."""

BUSY_TOKENS = 16


def _speed(config: MachineConfig, cycles: int, fast: bool, announce: Callable[[], None] | None) -> tuple[float, int]:
    machine = SimulatedMachine(config, fast=fast, announce=announce)
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
    fast, fast_cycles = _speed(config, cycles, True, announce)
    default, default_cycles = _speed(config, max(1, cycles // SLOW_FRACTION), False, announce)
    return {
        "cycles_per_s": fast,
        "default_cycles_per_s": default,
        "ratio": fast / default,
        "cycles": fast_cycles,
        "default_cycles": default_cycles,
    }
