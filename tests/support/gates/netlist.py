# SPDX-License-Identifier: Apache-2.0
"""The ECP5 netlist of the machine and models of its cells, for a simulation of what place and route gets."""

from __future__ import annotations

from pathlib import Path

import pyosys

from hdl.config import PRESETS
from hdl.flow.ecp5 import write_netlist
from hdl.generate import TOP, generate
from sim.simulator import runner
from sim.simulator.bench_top import BENCH_TOP, capacity_bits, memory_sources, render_bench

__all__ = ["CONFIG", "MEMORY_BITS", "build_bench", "cell_models", "make_netlist"]

CONFIG = PRESETS["nano"]
MEMORY_BITS = 18
SYNTHESIS_S = 1800.0

CELLS = Path(__file__).with_name("ecp5_cells.v")
"""Those of this project: of these Yosys has black boxes."""

LATTICE = Path(pyosys.__file__).parent / "share" / "lattice"
"""Yosys' own models of the others."""


def cell_models(folder: Path) -> list[Path]:
    """Return the Verilog files of all cells that `synth_lattice` makes; one is written into `folder`."""
    yosys = folder / "yosys_cells.v"
    yosys.write_text('`include "common_sim.vh"\n`include "ccu2c_sim.vh"\n')
    return [yosys, CELLS]


def make_netlist(folder: Path) -> Path:
    """Map the machine to the cells of the ECP5, flat as for place and route, and return the Verilog."""
    design, _ = generate(CONFIG, folder / "rtl")
    return write_netlist(design.modules, TOP, folder, timeout=SYNTHESIS_S)


def build_bench(netlist: Path, folder: Path) -> runner.BuiltModel:
    """Compile the bench of the system with the netlist in the machine's place."""
    design, _ = generate(CONFIG, folder / "rtl")
    bench = folder / "bench.v"
    bench.write_text(render_bench(CONFIG, design, capacity_bits(CONFIG, MEMORY_BITS, "verilator")))
    sources = [netlist, *cell_models(folder), *memory_sources(), bench]
    return runner.build(sources, BENCH_TOP, includes=[LATTICE], quick=True)
