# SPDX-License-Identifier: Apache-2.0
"""Standard cells: the liberty file, mapping to it, area, and timing that can be added up by hand."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import pytest

from hdl.errors import A3dError
from hdl.flow import asic, opensta
from hdl.flow.asic import AsicSynthesis
from hdl.flow.liberty import Liberty, macro_model
from hdl.flow.mapped import MappedModules, is_sram
from hdl.flow.store import module_texts
from hdl.flow.yosys import SynthError
from tests.support.flow import designs
from tests.support.flow.cells import AREAS, CELLS, CLOCK_TO_Q, SETUP, XOR

needs_sta = pytest.mark.skipif(shutil.which("sta") is None, reason="OpenSTA is not installed")

MEMORY = """\
module sram_w4_d8 (
  input wire clk,
  input wire write_en,
  input wire [2:0] write_addr,
  input wire [3:0] write_data,
  input wire [2:0] read_addr,
  output wire [3:0] read_data
);
  reg [3:0] storage [7:0];
  reg [3:0] held;
  always @(posedge clk) if (write_en) storage[write_addr] <= write_data;
  always @(posedge clk) held <= storage[read_addr];
  assign read_data = held;
endmodule

module user (
  input wire clk,
  input wire [3:0] d,
  output wire [3:0] q
);
  reg [2:0] at = 3'h0;
  wire [3:0] found;
  always @(posedge clk) at <= at ^ found[2:0];
  sram_w4_d8 memory (
    .clk(clk), .write_en(d[0]), .write_addr(at), .write_data(d), .read_addr(at), .read_data(found)
  );
  assign q = found;
endmodule
"""


@pytest.fixture
def liberty(tmp_path: Path) -> Liberty:
    path = tmp_path / "five.lib"
    path.write_text(CELLS)
    return Liberty(path)


def test_name_and_flow(liberty: Liberty, tmp_path: Path) -> None:
    assert (liberty.library, liberty.flow) == ("five_cells", "five_cells")
    path = tmp_path / "other.lib.gz"
    for library, flow in (("sky130_fd_sc_hd__tt", "sky130"), ("NangateOpenCellLibrary", "nangate45")):
        path.write_bytes(gzip.compress(CELLS.replace("five_cells", library).encode()))
        assert Liberty(path).flow == flow


def test_inputs_of_a_module_are_driven_by_a_real_cell(liberty: Liberty, tmp_path: Path) -> None:
    """Else a port that drives a thousand gates is not buffered: each module alone looks fast, the machine is slow."""
    assert liberty.driver == "INV"
    liberty.prepare(tmp_path)
    assert "set_driving_cell INV" in (tmp_path / "cells.constr").read_text()
    path = tmp_path / "sizes.lib"
    inverters = "".join(
        f'  cell ("INV_{size}") {{ area : {size}; pin (Y) {{ direction : output; function : "(!A)"; }} }}\n'
        for size in (4, 2, 3)
    )
    path.write_text(CELLS.replace("  cell (BUF)", f"{inverters}  cell (BUF)"))
    assert Liberty(path).driver == "INV_2"
    path.write_text(CELLS.replace('"!A"', '"A"'))
    assert Liberty(path).driver == ""


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"# Read me\n", "is no liberty file: 'library (NAME) {' is not its first group"),
        (b"", "is no liberty file"),
        (b"\xff\xfe\x00library", "is no liberty file: it is not text"),
        (gzip.compress(CELLS.encode())[:200], "is damaged: gzip cannot unpack it"),
        (b"library (empty) {\n}\n", "library 'empty' has no cell"),
        (CELLS.replace("ff (IQ, IQN)", "latch (IQ, IQN)").encode(), "has no flip-flop"),
    ],
)
def test_no_liberty_file(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.lib"
    path.write_bytes(data)
    with pytest.raises(A3dError) as caught:
        Liberty(path)
    line = str(caught.value)
    assert line.startswith(f"--liberty {path}: ") and message in line and "OpenSTA's public repository" in line
    assert "\n" not in line


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(A3dError, match="cannot be read: No such file"):
        Liberty(tmp_path / "none.lib")
    with pytest.raises(A3dError, match="cannot be read: Is a directory"):
        Liberty(tmp_path)


def test_area_and_cache(liberty: Liberty, tmp_path: Path) -> None:
    texts = module_texts(designs.CHAIN)
    mapped = MappedModules(texts, liberty, cache=tmp_path / "cache")
    assert sorted(mapped.run()) == ["chain", "link", "pair"]
    assert mapped.cells("chain")["DFF"] == 7
    others = {cell: number for cell, number in mapped.cells("chain").items() if cell != "DFF"}
    assert mapped.area("chain") == sum(AREAS[cell] * number for cell, number in mapped.cells("chain").items())
    assert others.keys() <= AREAS.keys() and others["XOR2"] == 5
    again = MappedModules(texts, liberty, cache=tmp_path / "cache")
    assert list(again.run()) == list(texts), "found, in the order of the texts"
    assert again.cells("chain") == mapped.cells("chain") and again.modules == mapped.modules


def test_file_that_yosys_refuses(liberty: Liberty, tmp_path: Path) -> None:
    liberty.text = liberty.text.replace("area : 4.0;", "area : 4.0")[:-400]
    mapped = MappedModules(module_texts(designs.CHAIN), liberty, cache=tmp_path / "cache")
    with pytest.raises(SynthError, match="synthesis of .* failed: Yosys says"):
        list(mapped.run())


def test_which_modules_are_memories() -> None:
    assert is_sram("sram_w64_d64_g32") and is_sram("core0_sram_w7_d64") and is_sram("sram_w34_d32_apart")
    assert not is_sram("sram_fifo_w147_d24") and not is_sram("my_sram_w7_d64_user")


def test_memory_is_a_flip_flop_at_each_pin() -> None:
    model = macro_model(module_texts(MEMORY)["sram_w4_d8"])
    for port, width in (("write_en", 1), ("write_addr", 3), ("write_data", 4), ("read_addr", 3), ("read_data", 4)):
        assert f"reg [{width - 1}:0] at_{port};" in model
    assert "storage" not in model


@pytest.fixture
def by_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the machine from its mapped modules, as a large one is."""
    monkeypatch.setattr(asic, "FLAT_CELLS", 0)


@needs_sta
@pytest.mark.usefixtures("by_modules")
def test_timing_adds_up(liberty: Liberty, tmp_path: Path) -> None:
    machine = AsicSynthesis(module_texts(designs.CHAIN), "chain", liberty, cache=tmp_path / "cache")
    list(machine.mapped.run())
    names = list(machine.time())
    assert set(names) == {"chain", "pair", "link"} and names[-1] == "chain"
    worst = machine.worst
    assert worst is not None and machine.whole
    # Five gates in a row, from a register to the register of the last link; its output port is not later.
    assert worst.ns == pytest.approx(CLOCK_TO_Q + 5 * XOR + SETUP)
    assert worst.start == "held[0]" or worst.start == "held[1]"
    assert (worst.end, worst.block) == ("last.q", "last")
    assert worst.mhz == pytest.approx(1000 / worst.ns)
    blocks = {block.name: block for block in machine.blocks()}
    assert blocks["pair"].instances == 2 and blocks["last"].instances == 1
    alone = blocks["last"].path
    assert alone is not None and alone.ns == pytest.approx(XOR + SETUP), "from a port, which changes with the clock"
    assert blocks["last"].area_um2 == AREAS["DFF"] + AREAS["XOR2"]
    again = AsicSynthesis(module_texts(designs.CHAIN), "chain", liberty, cache=tmp_path / "cache")
    list(again.mapped.run())
    list(again.time())
    assert again.timed == machine.timed


@needs_sta
def test_small_machines_are_mapped_as_a_whole(liberty: Liberty, tmp_path: Path) -> None:
    machine = AsicSynthesis(module_texts(designs.CHAIN), "chain", liberty, cache=tmp_path / "cache")
    list(machine.mapped.run())
    assert machine.flat and list(machine.time())[-1] == "chain"
    worst = machine.worst
    # Five times the same input is once the same input.
    assert worst is not None and worst.ns == pytest.approx(CLOCK_TO_Q + XOR + SETUP) and worst.block == "last"
    assert machine.mapped.cells("chain")["XOR2"] == 5, "what is counted are the modules"


@needs_sta
@pytest.mark.parametrize("most", [0, 1000])
def test_paths_end_at_memories(most: int, liberty: Liberty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asic, "FLAT_CELLS", most)
    machine = AsicSynthesis(module_texts(MEMORY), "user", liberty, cache=tmp_path / "cache")
    list(machine.mapped.run())
    assert machine.cells == machine.mapped.cells("user")["DFF"] + 3, "three exclusive ors; the memory counts nowhere"
    list(machine.time())
    worst = machine.worst
    assert worst is not None and worst.ns == pytest.approx(CLOCK_TO_Q + XOR + SETUP)
    assert worst.end.startswith("at[")
    assert any(path.start.startswith("memory.at_read_data[") for path in machine.ends())
    assert any(path.end.startswith("memory.at_write_addr") for path in machine.ends())


def test_missing_opensta(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opensta.shutil, "which", lambda name: None)
    with pytest.raises(SynthError, match="no program 'sta'; fix: apt-get install opensta"):
        opensta.find_sta()


@needs_sta
def test_failing_opensta(liberty: Liberty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opensta, "_script", lambda modules: "no_such_command\n")
    machine = AsicSynthesis(module_texts(designs.CHAIN), "chain", liberty, cache=tmp_path / "cache")
    list(machine.mapped.run())
    with pytest.raises(SynthError, match="OpenSTA says .*no_such_command"):
        list(machine.time())
