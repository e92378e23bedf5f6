# SPDX-License-Identifier: Apache-2.0
"""The one memory wrapper of the machine: a static RAM with one write and one synchronous read port.

Every memory array of the project is an :class:`Sram`.  It becomes one Verilog module per shape, which holds nothing
but the storage, so that an ASIC macro or an FPGA block RAM can take the module's place without touching anything else.
"""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hdl.emit.memory_contract import Collision
from hdl.errors import A3dError

__all__ = ["Collision", "Sram", "SramError", "address_bits"]


class SramError(A3dError):
    """A memory has a shape that cannot be built."""


def address_bits(depth: int) -> int:
    """Return the width in bits of an address below `depth` (at least 1)."""
    return max(1, (depth - 1).bit_length())


class Sram(wiring.Component):
    """Static RAM with one write port and one read port, both on the clock of the ``sync`` domain.

    Latency: ``read_data`` shows the addressed word in the cycle after ``read_en`` and holds it until the next enabled
    read.  Throughput: one read and one write per cycle, at any addresses.

    A read and a write of the same address in the same cycle: the read returns the OLD data, or the user promises that
    there is none (`collision`).  A user that needs the new data bypasses it outside (as the accumulators do).  Contents
    are not reset and are undefined before the first write (zero in simulation).  Addresses at or above `depth` are not
    allowed when `depth` is no power of two.

    Parameters
    ----------
    width : int
        Bits of a word, at least 1.
    depth : int
        Words, at least 2.
    granularity : int, optional
        Bits of one write lane; must divide `width`.  None: words are written whole and there is no ``write_mask``.
    collision : Collision
        What a read gets that meets a write; ``NEVER`` is for users that can prove that none does, such as queues.  It
        lets tools leave out what keeps the old word, and simulations of the Verilog stop when it is not so.

    Members
    -------
    write_en : In(1)
        Write this cycle.
    write_addr : In(address_bits(depth))
    write_data : In(width)
    write_mask : In(width // granularity)
        Bit i lets lane i (bits ``i * granularity`` and up) be written; only with `granularity`.
    read_en : In(1)
        Read this cycle.
    read_addr : In(address_bits(depth))
    read_data : Out(width)
        Word of the last enabled read.

    Raises
    ------
    SramError
        For a shape that is not allowed.
    """

    def __init__(
        self, width: int, depth: int, *, granularity: int | None = None, collision: Collision = Collision.OLD
    ) -> None:
        if width < 1:
            raise SramError(f"Sram width: {width}; use at least 1 bit")
        if depth < 2:
            raise SramError(f"Sram depth: {depth}; use at least 2 words (for one word, use a register)")
        if granularity is not None and (granularity < 1 or width % granularity):
            raise SramError(f"Sram granularity: {granularity} does not divide the width {width}; use a divisor of it")
        self.width = width
        self.depth = depth
        self.granularity = granularity
        self.collision = collision
        ports = {
            "write_en": In(1),
            "write_addr": In(address_bits(depth)),
            "write_data": In(width),
            "read_en": In(1),
            "read_addr": In(address_bits(depth)),
            "read_data": Out(width),
        }
        if granularity is not None:
            ports["write_mask"] = In(width // granularity)
        super().__init__(ports)

    def module_key(self) -> str:
        """Name of the Verilog module: the shape and the promise."""
        lanes = "" if self.granularity is None else f"_g{self.granularity}"
        promise = "_apart" if self.collision is Collision.NEVER else ""
        return f"sram_w{self.width}_d{self.depth}{lanes}{promise}"

    def elaborate(self, platform: object) -> Module:
        """Build the storage from an inferred memory."""
        m = Module()
        # Yosys's word for: leave out the logic around a memory whose own collisions give something else.
        attributes = {"no_rw_check": 1} if self.collision is Collision.NEVER else {}
        m.submodules.storage = storage = Memory(shape=self.width, depth=self.depth, init=[], attrs=attributes)
        write = storage.write_port(granularity=self.granularity)
        # Not transparent: the old word is what single-port-pair macros and block RAMs give.
        read = storage.read_port(transparent_for=())
        enable = self.write_en if self.granularity is None else self.write_mask & self.write_en.replicate(len(write.en))
        m.d.comb += [
            write.en.eq(enable),
            write.addr.eq(self.write_addr),
            write.data.eq(self.write_data),
            read.en.eq(self.read_en),
            read.addr.eq(self.read_addr),
            self.read_data.eq(read.data),
        ]
        return m
