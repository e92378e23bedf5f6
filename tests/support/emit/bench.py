# SPDX-License-Identifier: Apache-2.0
"""Run a component in Amaranth's simulator and replay the same stimuli on its emitted Verilog."""

from __future__ import annotations

import random
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from amaranth.hdl import ClockDomain, Module
from amaranth.lib import wiring
from amaranth.sim import Simulator

from hdl.emit.hierarchy import ports_of
from hdl.emit.lint import read_file_list
from sim.simulator.tools import find_verilator


def reference(component: wiring.Component, cycles: int, seed: int) -> tuple[list[str], list[str]]:
    """Simulate the plain form on random inputs; return the words of inputs (with rst on top) and outputs per cycle."""
    generator = random.Random(seed)
    ports = ports_of(component)
    m = Module()
    m.domains.sync = sync = ClockDomain()
    m.submodules.dut = component
    stimuli: list[str] = []
    responses: list[str] = []

    async def drive(ctx: Any) -> None:
        for cycle in range(cycles):
            word = ""
            for port in ports:
                if port.direction == "input":
                    value = generator.getrandbits(port.width)
                    ctx.set(port.value, value - (1 << port.width) if port.signed and value >> port.width - 1 else value)
                    word = f"{value:0{port.width}b}" + word
            reset = cycle % 50 == 40
            ctx.set(sync.rst, reset)
            stimuli.append(f"{reset:b}" + word)
            word = ""
            for port in ports:
                if port.direction == "output":
                    word = f"{ctx.get(port.value) & ((1 << port.width) - 1):0{port.width}b}" + word
            responses.append(word)
            await ctx.tick()

    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(drive)
    simulator.run()
    return stimuli, responses


def testbench(component: wiring.Component, top: str, stimuli: list[str], responses: list[str], skip: int) -> str:
    """Verilog that plays the stimuli and compares; the first `skip` cycles only play (memories have no read yet)."""
    ports = ports_of(component)
    lines = [f"  reg [{len(stimuli[0]) - 1}:0] stimuli [0:{len(stimuli) - 1}];"]
    lines += [f"  reg [{len(responses[0]) - 1}:0] responses [0:{len(stimuli) - 1}];"]
    lines += [f"  reg [{len(stimuli[0]) - 1}:0] in = 0;", f"  wire [{len(responses[0]) - 1}:0] out;"]
    lines += ["  reg clk = 0;", "  integer n, bad;"]
    offsets = {"input": 0, "output": 0}
    pins = [".clk(clk)", f".rst(in[{len(stimuli[0]) - 1}])"]
    for port in ports:
        low = offsets[port.direction]
        offsets[port.direction] += port.width
        bus = "in" if port.direction == "input" else "out"
        pins.append(f".{port.name}({bus}[{low + port.width - 1}:{low}])")
    lines += [f"  {top} dut ({', '.join(pins)});"]
    return (
        "`timescale 1ns/1ps\nmodule bench;\n"
        + "\n".join(lines)
        + f"""
  initial begin
    $readmemb("stimuli.txt", stimuli);
    $readmemb("responses.txt", responses);
    bad = 0;
    for (n = 0; n < {len(stimuli)}; n = n + 1) begin
      in = stimuli[n];
      #1;
      if (n >= {skip} && out !== responses[n]) begin
        bad = bad + 1;
        if (bad < 5) $display("cycle %0d: %h instead of %h", n, out, responses[n]);
      end
      #1 clk = 1;
      #1 clk = 0;
    end
    if (bad == 0) $display("EQUAL"); else $display("DIFFERENT in %0d cycles", bad);
    $finish;
  end
endmodule
"""
    )


def replay(
    component: wiring.Component,
    top: str,
    file_list: Path,
    work: Path,
    *,
    simulator: str,
    cycles: int = 300,
    skip: int = 3,
) -> str:
    """Compare the Verilog of `file_list` with the plain form of `component`; return what the simulation printed."""
    stimuli, responses = reference(component, cycles, seed=1)
    work.mkdir(parents=True, exist_ok=True)
    (work / "stimuli.txt").write_text("\n".join(stimuli) + "\n")
    (work / "responses.txt").write_text("\n".join(responses) + "\n")
    (work / "bench.v").write_text(testbench(component, top, stimuli, responses, skip))
    files = [str(path.resolve()) for path in read_file_list(file_list)]
    if simulator == "icarus":
        command = ["iverilog", "-g2005", "-o", "bench.vvp", "-s", "bench", "bench.v", *files]
        subprocess.run(command, cwd=work, check=True, timeout=120)
        run = ["vvp", "-n", "bench.vvp"]
    else:
        verilator = find_verilator()
        if verilator.root is not None:
            pytest.skip("in a path with blanks only sim.simulator.runner can compile Verilator's models")
        command = [
            str(verilator.executable),
            "--binary",
            "--timing",
            "-Wno-fatal",
            "-Wno-lint",
            "--top-module",
            "bench",
        ]
        command += ["-Mdir", "obj", "-MAKEFLAGS", "OPT_FAST=-O0", "bench.v", *files]
        subprocess.run(command, cwd=work, check=True, timeout=280, env=verilator.env(), capture_output=True)
        run = ["obj/Vbench"]
    done = subprocess.run(run, cwd=work, check=True, timeout=120, capture_output=True, text=True)
    return "\n".join(line for line in done.stdout.splitlines() if re.match(r"cycle|EQUAL|DIFFERENT", line))
