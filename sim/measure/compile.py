# SPDX-License-Identifier: Apache-2.0
"""What a simulator costs: generating the Verilog, Verilator, the C++ compiler, and how fast it then runs."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hdl.config import MachineConfig
from hdl.scratch import scratch_folder
from sim.machine.system import SimulatedMachine, machine_sources
from sim.measure.simspeed import speed_of
from sim.simulator import tools
from sim.simulator.bench_top import BENCH_TOP
from sim.simulator.compilers import BuildError, BuildRequest, compile_verilator
from sim.simulator.runner import BuiltModel

__all__ = ["Cost", "measure_compile"]


@dataclass(frozen=True)
class Cost:
    """What one step took.

    Attributes
    ----------
    wall_s, cpu_s : float
        Seconds of the clock, and of all its processes.
    peak_bytes : int
        Most memory of one of its processes.
    """

    wall_s: float
    cpu_s: float
    peak_bytes: int


def measure_compile(config: MachineConfig, cycles: int, memory_bits: int) -> dict[str, Any]:
    """Generate and compile a machine's simulator anew, outside the cache, and run it; return the figures as plain data.

    Parameters
    ----------
    config : MachineConfig
        The machine.
    cycles : int
        Simulated cycles, all tiers busy.
    memory_bits : int
        log2 of the bytes that each group's memory can have.

    Raises
    ------
    BuildError
        A compiler failed.
    """
    with scratch_folder("a3d-compile-") as folder:
        started = time.perf_counter()
        sources = machine_sources(config, folder / "rtl", memory_bits)
        generated = time.perf_counter() - started
        costs: list[Cost] = []
        sizes: list[int] = []

        def execute(command: list[str], cwd: Path) -> None:
            costs.append(_timed(command, cwd))
            sizes.append(sum(path.stat().st_size for path in cwd.glob("obj/**/*.cpp")))

        request = BuildRequest(
            sim="verilator", sources=tuple(sources), top=BENCH_TOP, includes=(), defines={}, parameters={}, waves=None,
            fast=True, quick=False, public=(), extra_args=(),
        )  # fmt: skip
        built = folder / "built"
        built.mkdir()
        compile_verilator(request, built, execute)
        program = built / "simulator"
        model = BuiltModel(
            sim="verilator", top=BENCH_TOP, program=program, waves=None, key=request.key(), cached=False, build_s=0.0
        )
        speed, simulated = speed_of(SimulatedMachine(config, memory_bits=memory_bits, model=model), cycles)
        return {
            "config": config.to_dict(),
            "pes": config.pes,
            "generate_s": generated,
            "verilator": asdict(costs[0]),
            "cpp_bytes": sizes[0],
            "compiler": asdict(costs[1]),
            "simulator_bytes": program.stat().st_size,
            "cycles_per_s": speed,
            "cycles": simulated,
        }


def _timed(command: list[str], cwd: Path) -> Cost:
    """Run a command, which must succeed."""
    started = time.perf_counter()
    with (cwd / "log").open("wb") as log:
        env = tools.find_verilator().env()
        process = subprocess.Popen(command, cwd=cwd, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        end = (cwd / "log").read_text(errors="replace").splitlines()[-5:]
        raise BuildError(f"{command[0]} failed:\n" + "\n".join(end))
    # Linux counts the largest resident set in KiB.
    return Cost(time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)
