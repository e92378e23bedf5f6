# SPDX-License-Identifier: Apache-2.0
"""The way to a bitstream: pins and clocks by the board's description, the tools from pip, and what does not fit."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from hdl.boards import build as build_module
from hdl.boards.boards import BOARDS, BoardWrapper, platform_of, pll_of
from hdl.boards.build import SUMMARY, BoardBuild
from hdl.boards.top import BOARD_TOP
from hdl.config import PRESETS
from hdl.emit.design import EmittedDesign
from hdl.emit.rtlil import Memory
from hdl.errors import A3dError, CheckError
from hdl.flow.ecp5 import PARTS
from hdl.flow.nextpnr import PACKAGE

NANO = PRESETS["nano"]
PINS = {
    "ulx3s_85f": {"clk25_0__io": "G2", "uart_0__rx__io": "M1", "uart_0__tx__io": "L4", "led_0__io": "B2"},
    "ecpix5_85f": {
        "clk100_0__io": "K23", "rst_0__io": "AB1", "uart_0__rx__io": "R26", "uart_0__tx__io": "R24",
        "rgb_led_0__g__io": "R21",
    },
}  # fmt: skip

ECHO = f"""
module {BOARD_TOP} (input wire clk, input wire rst, input wire rx, output reg tx, output reg irq);
  reg [31:0] count;
  always @(posedge clk) begin
    tx <= rx;
    count <= rst ? 0 : count + 1;
    irq <= ^(count * count * count);
  end
endmodule
"""
"""A top that takes seconds to place, and has a path of two multipliers."""


def design(text: str = ECHO, memories: tuple[Memory, ...] = ()) -> EmittedDesign:
    return EmittedDesign(BOARD_TOP, {BOARD_TOP: text}, {"rtl/top.v": (BOARD_TOP,)}, (), memories, {BOARD_TOP: 1})


@pytest.mark.parametrize("name", list(BOARDS))
def test_pins_and_clocks(name: str) -> None:
    board, platform = BOARDS[name], platform_of(BOARDS[name])
    assert set(PINS) == set(BOARDS)
    plan = platform.prepare(BoardWrapper(board, design(), pll_of(board, 50.0)), name)
    lpf = plan.files[f"{name}.lpf"]
    assert dict(re.findall(r'LOCATE COMP "(\S+)" SITE "(\S+)";', lpf)) == PINS[name]
    assert "FREQUENCY NET" not in lpf
    crystal = platform.default_clk_frequency
    assert re.search(rf'FREQUENCY PORT "clk\d+_0__io" {crystal} HZ;', lpf)
    netlist = plan.files[f"{name}.il"]
    pll = {key: int(value) for key, value in re.findall(r"parameter \\(CLK\w+_DIV) (\d+)", netlist)}
    assert crystal / pll["CLKI_DIV"] * pll["CLKFB_DIV"] == 50e6


def test_what_cannot_be() -> None:
    board = BOARDS["ulx3s_85f"]
    with pytest.raises(A3dError, match="^memory of a channel group: 98304 bytes; use a power of two"):
        BoardBuild(board, NANO, memory_bytes=96 << 10, baud=1_000_000)
    with pytest.raises(A3dError, match="^baud: 3000000 with a clock of 25 MHz would be off by 4.2%"):
        BoardBuild(board, NANO, memory_bytes=1 << 16, baud=3_000_000)
    with pytest.raises(A3dError, match="^--clock-mhz 500: no divider"):
        BoardBuild(board, NANO, memory_bytes=1 << 16, baud=1_000_000, mhz=500)


def made(monkeypatch: pytest.MonkeyPatch, own: EmittedDesign, mhz: float = 25.0) -> BoardBuild:
    """Return a build of a stand-in for the machine."""
    monkeypatch.setattr(build_module, "emit_board", lambda config, board: own)
    return BoardBuild(BOARDS["ulx3s_85f"], NANO, memory_bytes=1 << 16, baud=1_000_000, mhz=mhz)


def without_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tools be there, whatever is installed."""
    monkeypatch.setattr(build_module, "find_nextpnr", lambda without: "false")
    monkeypatch.setattr(build_module, "_find_ecppack", lambda: "false")


def test_memories_that_are_too_large(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_tools(monkeypatch)
    large = Memory(BOARD_TOP, "storage", 32, 1 << 18, 1, 1, True)
    with pytest.raises(
        A3dError, match="^nano with 2 x 64 KiB on ulx3s_85f does not fit the LFE5U-85F: at least 456 of 208 DP16KD"
    ):
        list(made(monkeypatch, design(memories=(large,))).run(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_design_that_is_too_large(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """After synthesis, before anything slow: what there is too little of, and nothing is left."""
    without_tools(monkeypatch)
    small = PARTS["LFE5U-85F"].has
    part = type(PARTS["LFE5U-85F"])("LFE5U-85F", "--85k", replace(small, dsps=2))
    monkeypatch.setitem(build_module.PARTS, "LFE5U-85F", part)
    with pytest.raises(A3dError, match=r"does not fit the LFE5U-85F: [3-9] of 2 MULT18X18D multipliers; use a smaller"):
        list(made(monkeypatch, design()).run(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(A3dError, match=f"fix: pip install {PACKAGE} \\(it is in the extra 'fpga' of this project\\)$"):
        list(made(monkeypatch, design()).run(tmp_path / "out"))
    monkeypatch.setattr("hdl.boards.boards.BOARDS", {})
    broken = type(BOARDS["ulx3s_85f"])(
        name="x", module="amaranth_boards_absent.x", platform="", light=("", ""), program="", port=""
    )
    with pytest.raises(
        A3dError, match="^Python package 'amaranth-boards' not found: .*; fix: make setup, or pip install"
    ):
        platform_of(broken)


@pytest.mark.slow
def test_the_tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Yosys, nextpnr and ecppack make a bitstream of a small top; a clock that it does not reach leaves none."""
    build_module.find_nextpnr(without="")
    build = made(monkeypatch, design())
    said = list(build.run(tmp_path / "out"))
    assert said[0] == "generating Verilog" and said[-1] == "packing the bitstream"
    assert build.built is not None and build.built.reached_mhz > 25 and build.built.resources["ffs"] > 32
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "ulx3s_85f.bit", "ulx3s_85f.svf", "ulx3s_85f.tim", SUMMARY
    }  # fmt: skip
    assert (tmp_path / "out" / "ulx3s_85f.bit").stat().st_size > 10_000
    with pytest.raises(
        CheckError, match=r"reaches \d+\.\d MHz, 400 are asked for: use --clock-mhz \d+, or another --seed$"
    ):
        list(made(monkeypatch, design(), mhz=400.0).run(tmp_path / "fast"))
    assert list((tmp_path / "fast").iterdir()) == []
