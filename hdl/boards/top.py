# SPDX-License-Identifier: Apache-2.0
"""All of a board but what depends on the board: machine, memories, serial line. What is built is what is simulated."""

from __future__ import annotations

from dataclasses import dataclass

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.boards.host import HostEngine
from hdl.boards.memory import GroupMemory, check_memory_bytes
from hdl.boards.protocol import MAGIC
from hdl.boards.uart import BITS, UartReceiver, UartTransmitter, clocks_per_bit
from hdl.config import MachineConfig
from hdl.emit.design import EmittedDesign
from hdl.emit.hierarchy import instantiate
from hdl.emit.verilog import emit
from hdl.machine import Machine

__all__ = ["BOARD_TOP", "DEFAULT_BAUD", "DEFAULT_MEMORY_BYTES", "BoardTop", "Wiring", "config_words", "emit_board"]

BOARD_TOP = "a3d_board"
"""Name of the Verilog module."""

DEFAULT_MEMORY_BYTES = 128 << 10
DEFAULT_BAUD = 1_000_000
"""What the USB bridges of both boards make exactly."""

GAP_S = 0.05
"""How long a request may pause: USB bridges send every few milliseconds."""

LEAST_GAP_BYTES = 100


@dataclass(frozen=True, kw_only=True)
class Wiring:
    """What a board is beside its machine.

    Attributes
    ----------
    memory_bytes : int
        Of each channel group.
    clock_hz : int
        Clock of everything.
    baud : int
        Of the serial line.
    bit_clocks : int, optional
        Clocks of a bit, for simulations; default: what clock and rate give.
    """

    memory_bytes: int = DEFAULT_MEMORY_BYTES
    clock_hz: int
    baud: int = DEFAULT_BAUD
    bit_clocks: int | None = None

    @property
    def divisor(self) -> int:
        """Clocks of a bit; raises `A3dError` where the clock cannot make the rate."""
        return self.bit_clocks or clocks_per_bit(self.clock_hz, self.baud)

    @property
    def gap(self) -> int:
        """Clocks without a byte after which a request is given up."""
        return max(round(self.clock_hz * GAP_S), LEAST_GAP_BYTES * BITS * self.divisor)


def config_words(config: MachineConfig) -> tuple[int, int]:
    """Return the words of the identity that stand for a configuration."""
    digest = bytes.fromhex(config.digest())
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:8], "little")


class BoardTop(wiring.Component):
    """Machine, both groups' memories, and the engine on the serial line.

    Parameters
    ----------
    config : MachineConfig
    board : Wiring

    Members
    -------
    rx : In(1)
        Serial line from the host; idle high.
    tx : Out(1)
        Serial line to the host.
    irq : Out(1)
        The machine's interrupt, for a light.
    """

    def __init__(self, config: MachineConfig, board: Wiring) -> None:
        self.config = config
        self.board = board
        check_memory_bytes(config, board.memory_bytes)
        self.divisor = board.divisor
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1), "irq": Out(1)})

    @property
    def identity(self) -> tuple[int, ...]:
        """Words of the identity, in the order of the protocol's table."""
        board = self.board
        return (MAGIC, *config_words(self.config), board.memory_bytes, round(board.clock_hz / 1000))

    def elaborate(self, platform: object) -> Module:
        """Place the parts."""
        m = Module()
        config, board = self.config, self.board
        receiver = instantiate(m, platform, "receiver", UartReceiver(self.divisor))
        transmitter = instantiate(m, platform, "transmitter", UartTransmitter(self.divisor))
        host = instantiate(m, platform, "host", HostEngine(self.identity, board.memory_bytes, board.gap))
        machine = instantiate(m, platform, "machine", Machine(config), reset=host.machine_reset)
        m.d.comb += [
            receiver.line.eq(self.rx),
            host.receive_valid.eq(receiver.valid),
            host.receive_data.eq(receiver.data),
            host.receive_broken.eq(receiver.broken),
            transmitter.valid.eq(host.send.valid),
            transmitter.data.eq(host.send.payload),
            host.send.ready.eq(transmitter.ready),
            self.tx.eq(transmitter.line),
            self.irq.eq(machine.irq),
        ]
        wiring.connect(m, host.axil, machine.s_axil)
        for group in range(2):
            part = GroupMemory(config, board.memory_bytes)
            memory = instantiate(m, platform, f"memory{group}", part, reset=host.machine_reset)
            wiring.connect(m, host.memory[group], memory.host)
            for channel in range(config.channels_per_group):
                wiring.connect(m, getattr(machine, f"m_axi_g{group}_c{channel}"), memory.axi[channel])
        return m


def emit_board(config: MachineConfig, board: Wiring) -> EmittedDesign:
    """Return the Verilog of everything that does not depend on the board; its top is `BOARD_TOP`.

    Raises
    ------
    A3dError
        The memory or the clock cannot be.
    """
    return emit(BoardTop(config, board), BOARD_TOP)
