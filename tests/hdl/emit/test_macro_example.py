# SPDX-License-Identifier: Apache-2.0
"""The example of a macro in a memory's place: it compiles within the machine, and keeps the memory's contract."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from hdl.config import PRESETS
from hdl.emit.lint import lint_verilator, read_file_list
from hdl.generate import TOP, generate
from sim.simulator import tools

EXAMPLE = Path(__file__).resolve().parents[3] / "docs" / "examples" / "sram_macro"
NAME = "sram_w128_d256"

BENCH = f"""module bench;
  reg clk = 0, write_en = 0, read_en = 0;
  reg [7:0] write_addr = 0, read_addr = 0;
  reg [127:0] write_data = 0;
  wire [127:0] expected, found;
  {NAME}_generated one(.clk(clk), .rst(1'b0), .write_en(write_en), .write_addr(write_addr), .write_data(write_data),
                       .read_en(read_en), .read_addr(read_addr), .read_data(expected));
  {NAME} two(.clk(clk), .rst(1'b0), .write_en(write_en), .write_addr(write_addr), .write_data(write_data),
             .read_en(read_en), .read_addr(read_addr), .read_data(found));
  integer i, met = 0, reads = 0;
  initial begin
    for (i = 0; i < 20000; i = i + 1) begin
      // First all words are written; then few addresses, so that reads and writes meet often.
      write_en = i < 256 || $random % 2;
      write_addr = i < 256 ? i : $random & 3;
      write_data = {{$random, $random, $random, $random}};
      read_en = i >= 256 && $random % 2;
      read_addr = $random & 3;
      met = met + (write_en && read_en && write_addr == read_addr);
      #1 clk = 1;
      #1 clk = 0;
      if (read_en) reads = reads + 1;
      if (reads != 0 && found !== expected) begin
        $display("DIFFERENT at %0d: %h, expected %h", i, found, expected);
        $finish;
      end
    end
    $display("EQUAL, %0d met", met);
    $finish;
  end
endmodule
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nano")
    generate(PRESETS["nano"], folder)
    return folder


def test_the_machine_compiles_with_the_macro(machine: Path, tmp_path: Path) -> None:
    generated = [path for path in read_file_list(machine / "a3d.f") if path.name != f"{NAME}.v"]
    (tmp_path / "a3d.f").write_text("".join(f"{path}\n" for path in (*sorted(EXAMPLE.glob("*.v")), *generated)))
    verilator = tools.find_verilator()
    report = lint_verilator(
        tmp_path / "a3d.f", TOP, verilator=verilator.executable, env=verilator.env(), waivers=machine / "waivers.vlt"
    )
    assert report.messages == ()
    assert len(generated) == len(read_file_list(machine / "a3d.f")) - 1


def compared(machine: Path, folder: Path, wrapper: str) -> str:
    """Return what the bench says that compares a wrapper with the generated memory."""
    generated = (machine / "rtl" / f"{NAME}.v").read_text().replace(f"module {NAME} ", f"module {NAME}_generated ")
    for name, text in (("generated", generated), ("wrapper", wrapper), ("bench", BENCH)):
        (folder / f"{name}.v").write_text(text)
    files = [folder / "generated.v", folder / "wrapper.v", folder / "bench.v", EXAMPLE / "example_macro_256x32.v"]
    subprocess.run(["iverilog", "-g2005", "-o", folder / "bench.vvp", "-s", "bench", *files], check=True, timeout=60)
    return subprocess.run(["vvp", folder / "bench.vvp"], capture_output=True, text=True, check=True, timeout=60).stdout


def test_the_wrapper_keeps_the_contract(machine: Path, tmp_path: Path, icarus: str) -> None:
    found = re.fullmatch(r"EQUAL, (\d+) met\n", compared(machine, tmp_path, (EXAMPLE / f"{NAME}.v").read_text()))
    assert found and int(found[1]) > 1000


def test_a_macro_alone_would_not(machine: Path, tmp_path: Path, icarus: str) -> None:
    text = (EXAMPLE / f"{NAME}.v").read_text()
    bare = text.replace("waiting_data[32*i", "write_data[32*i").replace("waiting_addr)", "write_addr)")
    bare = bare.replace("!waiting)", "!write_en)").replace(
        "wire meets = waiting && waiting_addr == read_addr", "wire meets = 0"
    )
    assert "DIFFERENT" in compared(machine, tmp_path, bare)
