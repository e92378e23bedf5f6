# SPDX-License-Identifier: Apache-2.0
"""The boards that there is a bitstream for, and what of a board surrounds `hdl.boards.top`: pins, clock and reset."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from amaranth.hdl import ClockDomain, ClockSignal, Elaboratable, Instance, Module, ResetSignal, Signal
from amaranth.lib import io
from amaranth.lib.cdc import ResetSynchronizer

from hdl.boards.pll import Pll, find_pll, pll_instance
from hdl.boards.top import BOARD_TOP
from hdl.emit.design import EmittedDesign
from hdl.errors import A3dError

__all__ = ["BOARDS", "Board", "BoardWrapper", "platform_of", "pll_of"]


@dataclass(frozen=True, kw_only=True)
class Board:
    """A board of ``amaranth-boards``, which knows its crystal, its part and its pins.

    Attributes
    ----------
    name : str
        What it is called here.
    module, platform : str
        Where its description is.
    light : tuple of str
        Resource and, within it, the part that shows the machine's interrupt.
    program : str
        Command that loads a bitstream.
    port : str
        Where its serial line appears.
    """

    name: str
    module: str
    platform: str
    light: tuple[str, str]
    program: str
    port: str


BOARDS = {
    board.name: board
    for board in (
        Board(
            name="ulx3s_85f", module="amaranth_boards.ulx3s", platform="ULX3S_85F_Platform", light=("led", ""),
            program="openFPGALoader --board ulx3s {}", port="the USB socket US1, an FT231X: /dev/ttyUSB0",
        ),
        Board(
            name="ecpix5_85f", module="amaranth_boards.ecpix5", platform="ECPIX585Platform", light=("rgb_led", "g"),
            program="openFPGALoader --board ecpix5 {}",
            port="the USB socket of the FT2232H, its second line: /dev/ttyUSB1",
        ),
    )
}  # fmt: skip
"""The boards by name."""


def platform_of(board: Board) -> Any:
    """Return a fresh platform of a board.

    Raises
    ------
    A3dError
        ``amaranth-boards`` is missing.
    """
    try:
        module = importlib.import_module(board.module)
    except ModuleNotFoundError as error:
        raise A3dError(
            "Python package 'amaranth-boards' not found: it knows the boards' pins; fix: make setup, or pip install "
            "amaranth-boards"
        ) from error
    return getattr(module, board.platform)()


class BoardWrapper(Elaboratable):
    """Pins, PLL and reset of a board around the emitted Verilog, whose files the platform must have.

    Parameters
    ----------
    board : Board
    design : EmittedDesign
        Of `hdl.boards.top.emit_board`.
    pll : Pll
    """

    def __init__(self, board: Board, design: EmittedDesign, pll: Pll) -> None:
        self.board = board
        self.design = design
        self.pll = pll

    def elaborate(self, platform: Any) -> Module:
        """Ask the platform for the pins, and connect them."""
        m = Module()
        self._clock(m, platform)
        line = platform.request("uart", 0, dir={"rx": "-", "tx": "-"} | self._other_lines(platform))
        m.submodules.rx = rx = io.Buffer("i", line.rx)
        m.submodules.tx = tx = io.Buffer("o", line.tx)
        name, part = self.board.light
        light = platform.request(name, 0, dir="-" if not part else dict.fromkeys("rgb", "-"))
        m.submodules.light = lamp = io.Buffer("o", getattr(light, part) if part else light)
        m.submodules.board = Instance(
            BOARD_TOP, i_clk=ClockSignal(), i_rst=ResetSignal(), i_rx=rx.i, o_tx=tx.o, o_irq=lamp.o
        )
        return m

    def _other_lines(self, platform: Any) -> dict[str, str]:
        return {sub.name: "-" for sub in platform.lookup("uart", 0).ios if sub.name not in ("rx", "tx")}

    def _clock(self, m: Module, platform: Any) -> None:
        """Make the clock from the crystal; the reset ends when the PLL has locked and the board's button is up."""
        m.submodules.crystal = crystal = io.Buffer("i", platform.request(platform.default_clk, dir="-"))
        clock, locked, hold = Signal(name="pll_clock"), Signal(name="pll_locked"), Signal(name="hold")
        m.submodules.pll = pll_instance(self.pll, crystal.i, clock, locked)
        # No constraint: nextpnr derives the PLL's from the crystal's, and the netlist has no net of this name.
        m.d.comb += hold.eq(~locked)
        if platform.default_rst is not None:
            m.submodules.button = button = io.Buffer("i", platform.request(platform.default_rst, dir="-"))
            m.d.comb += hold.eq(~locked | button.i)
        m.domains.sync = ClockDomain("sync")
        m.d.comb += ClockSignal().eq(clock)
        m.submodules.reset = ResetSynchronizer(hold, domain="sync")


def pll_of(board: Board, mhz: float) -> Pll:
    """Return the PLL that gives a board a clock.

    Raises
    ------
    A3dError
        There is none, or ``amaranth-boards`` is missing.
    """
    return find_pll(platform_of(board).default_clk_frequency / 1e6, mhz)
