# SPDX-License-Identifier: Apache-2.0
"""The emitted machine as the top of other people's projects: Verilator, Icarus, slang, and names that tools infer."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from hdl.capabilities import MAGIC
from hdl.config import PRESETS
from hdl.emit.design import EmittedDesign
from hdl.emit.files import FILE_LIST
from hdl.emit.lint import lint_icarus, lint_verilator
from hdl.emit.waivers import WAIVER_FILE
from hdl.generate import TOP, generate
from sim.simulator import tools
from tests.support.emit.self_reads import blocks, self_reads

MAIN = f"""#include "V{TOP}.h"
#include <cstdio>
int main() {{
  VerilatedContext context;
  V{TOP} top{{&context}};
  auto edge = [&] {{ top.clk = 0; top.eval(); top.clk = 1; top.eval(); }};
  top.rst = 1;
  for (int i = 0; i < 4; i++) edge();
  top.rst = 0;
  top.s_axil_araddr = 0;
  top.s_axil_arvalid = top.s_axil_rready = 1;
  for (int i = 0; i < 100; i++) {{
    if (top.s_axil_rvalid) return std::printf("%08x", top.s_axil_rdata), 0;
    bool taken = top.s_axil_arready;
    edge();
    if (taken) top.s_axil_arvalid = 0;
  }}
  return 1;
}}
"""
"""Reads register ID through the ports of the machine."""

AXI4_LITE_SIGNALS = {
    "awaddr", "awprot", "awvalid", "awready", "wdata", "wstrb", "wvalid", "wready", "bresp", "bvalid", "bready",
    "araddr", "arprot", "arvalid", "arready", "rdata", "rresp", "rvalid", "rready",
}  # fmt: skip
AXI4_SIGNALS = AXI4_LITE_SIGNALS | {"wlast", "rlast", "bid", "rid"} | {
    f"a{way}{name}" for way in "rw" for name in ("id", "len", "size", "burst", "lock", "cache", "qos")
}  # fmt: skip
"""What the standard calls the signals: not taken from the generator."""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> tuple[EmittedDesign, Path]:
    folder = tmp_path_factory.mktemp("nano")
    return generate(PRESETS["nano"], folder)[0], folder


def verilate(folder: Path, work: Path, *options: str) -> None:
    """Write C++ of the machine and a program that uses it into `work`."""
    verilator = tools.find_verilator()
    main = work / "main.cpp"
    main.write_text(MAIN)
    command = [verilator.executable, "--cc", "--top-module", TOP, "--Mdir", work / "obj", WAIVER_FILE, "-F", FILE_LIST]
    done = subprocess.run(
        [*command, "--exe", main, *options], cwd=folder, env=verilator.env(), capture_output=True, text=True,
        check=False, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_ports_have_the_names_of_the_standards(machine: tuple[EmittedDesign, Path]) -> None:
    names = {port.name for port in machine[0].ports}
    buses = {"s_axil": AXI4_LITE_SIGNALS, "m_axi_g0_c0": AXI4_SIGNALS, "m_axi_g1_c0": AXI4_SIGNALS}
    expected = {f"{bus}_{signal}" for bus, signals in buses.items() for signal in signals}
    assert names == expected | {"irq", "trace_out"}
    assert "X_INTERFACE" not in machine[0].modules[TOP], "an option asks for attributes"


def test_verilator_makes_a_class_of_it(machine: tuple[EmittedDesign, Path], tmp_path: Path) -> None:
    """A port with the name of a member of every model (``trace``) is an error of the C++ compiler."""
    verilate(machine[1], tmp_path)
    made = (tmp_path / "obj" / f"V{TOP}.mk").read_text()
    root = Path(re.findall(r"^VERILATOR_ROOT = (.+)$", made, flags=re.MULTILINE)[0], "include")
    command = ["g++", "-std=c++20", "-fsyntax-only", f"-I{root}", f"-I{root / 'vltstd'}", f"-I{tmp_path / 'obj'}"]
    done = subprocess.run([*command, tmp_path / "main.cpp"], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_verilator_builds_a_program_that_reads_a_register(machine: tuple[EmittedDesign, Path], tmp_path: Path) -> None:
    verilate(machine[1], tmp_path, "--build", "-CFLAGS", "-O0")
    program = tmp_path / "obj" / f"V{TOP}"
    done = subprocess.run([program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == f"{MAGIC:08x}"


def test_verilator_and_icarus_take_it_as_top(machine: tuple[EmittedDesign, Path]) -> None:
    verilator = tools.find_verilator()
    file_list = machine[1] / FILE_LIST
    assert lint_verilator(file_list, TOP, verilator=verilator.executable, env=verilator.env()).messages == ()
    if tools.find_icarus() is not None:
        assert lint_icarus(file_list, TOP).messages == ()


def slang(folder: Path) -> list[tuple[str, bool]]:
    """Return the diagnostics of slang, each with whether it is an error."""
    pyslang = pytest.importorskip("pyslang", reason="no wheel of slang for this Python")
    driver = pyslang.driver.Driver()
    driver.addStandardArgs()
    assert driver.parseCommandLine(f'slang --top {TOP} -F "{folder / FILE_LIST}"')
    assert driver.processOptions() and driver.parseAllSources()
    compilation = driver.createCompilation()
    engine = pyslang.DiagnosticEngine(compilation.sourceManager)
    return [(engine.formatMessage(d), d.isError()) for d in compilation.getAllDiagnostics()]


def test_slang_takes_it_as_top(machine: tuple[EmittedDesign, Path]) -> None:
    assert [text for text, error in slang(machine[1]) if error] == []


def test_slang_catches_what_is_planted(tmp_path: Path) -> None:
    (tmp_path / "top.v").write_text(f"module {TOP}(input wire a, output wire q);\n  assign q = b;\nendmodule\n")
    (tmp_path / FILE_LIST).write_text("top.v\n")
    assert ["'b'" in text for text, error in slang(tmp_path) if error] == [True]


def test_no_combinational_block_reads_what_it_writes(machine: tuple[EmittedDesign, Path], tmp_path: Path) -> None:
    designs = [machine[0], generate(PRESETS["tiny"], tmp_path)[0]]
    for design in designs:
        count = sum(len(blocks(text)) for text in design.modules.values())
        assert count == sum(len(re.findall(r"always @\*", text)) for text in design.modules.values()) > 500
        assert {name: found for name, text in design.modules.items() if (found := self_reads(text))} == {}


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("    a = b;\n    a[3] = c;\n", set()),
        ("    a = 2'h0;\n    casez (b)\n      1'h1:\n          a = c;\n    endcase\n", set()),
        ("    a[1] = b;\n    a[0] = a[1] & c;\n", {"a"}),
        ("    { a[1], d } = b;\n    c = d;\n", {"d"}),
        ("    casez (a[0])\n      1'h1:\n          a[1] = c;\n    endcase\n", {"a"}),
    ],
)
def test_self_reads_are_found(body: str, found: set[str]) -> None:
    assert self_reads(f"  always @* begin\n{body}  end\n") == found
