# SPDX-License-Identifier: Apache-2.0
"""Simulated cycles per second with all PEs busy: this project's Verilator build against cocotb's default one."""

from __future__ import annotations

from typing import Any

from hdl.config import MachineConfig
from hdl.isa import Mapping3D
from sim.bench.programs import resident_images, resident_program
from sim.bench.utilisation import active_cycles
from sim.system import Job, SimulatedMachine, place_stream

__all__ = ["measure_speed"]

SLOW_FRACTION = 16
"""The default build runs this many times fewer cycles: it is that much slower."""

BUSY_TOKENS = 16


def _speed(config: MachineConfig, cycles: int, fast: bool) -> tuple[float, int]:
    machine = SimulatedMachine(config, fast=fast)
    image0, image1, setup = resident_images(config)
    base = -(-len(image0) // 4096) * 4096
    place_stream((image0, image1), base, resident_program(config, Mapping3D.ALONE, BUSY_TOKENS, cycles))
    jobs = [
        Job(images=(bytes(image0), bytes(image1)), stream_base=setup, dump=False),
        Job(images=None, stream_base=base, invalidate=False, dump=False, max_cycles=4 * cycles),
    ]
    result = machine.run(jobs)[1]
    active_cycles(result)
    return result.counters["cycles"] / result.wall_s, result.counters["cycles"]


def measure_speed(config: MachineConfig, cycles: int) -> dict[str, Any]:
    """Return cycles per second of both builds, from start to interrupt, one run each.

    Parameters
    ----------
    config : MachineConfig
    cycles : int
        Simulated cycles of the fast run, all tiers busy.
    """
    fast, fast_cycles = _speed(config, cycles, True)
    default, default_cycles = _speed(config, cycles // SLOW_FRACTION, False)
    return {
        "cycles_per_s": fast,
        "default_cycles_per_s": default,
        "ratio": fast / default,
        "cycles": fast_cycles,
        "default_cycles": default_cycles,
    }
