# SPDX-License-Identifier: Apache-2.0
"""A channel group's memory in block RAM: an AXI4 subordinate for each channel, and a port for the host.

The host's accesses go first: they come a word at a time, many cycles apart, and cost the machine a cycle each.
"""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.common.sram import Sram, address_bits
from hdl.config import MachineConfig
from hdl.emit.hierarchy import instantiate
from hdl.errors import A3dError
from hdl.memory.axi import axi_signature

__all__ = ["WORD_BYTES", "AxiMemory", "GroupMemory", "check_memory_bytes", "host_port"]

WORD_BYTES = 4
"""Bytes of a host's word."""

OKAY, DECERR = 0, 3
LEAST_BYTES = 4096
"""A burst does not cross 4 KiB: in a memory of whole 4 KiB it lies inside or outside."""


def check_memory_bytes(config: MachineConfig, size: int) -> int:
    """Return the size of a group's memory, if there can be one of it.

    Raises
    ------
    A3dError
        It is no power of two, too small, or more than the machine can address.
    """
    least, most = LEAST_BYTES * config.channels_per_group, min(1 << config.address_bits, 1 << 32)
    if size & (size - 1) or not least <= size <= most:
        raise A3dError(f"memory of a channel group: {size} bytes; use a power of two from {least} to {most}")
    return size


def host_port(memory_bytes: int) -> wiring.Signature:
    """Return the host's port on a group's memory, seen from the host.

    Members
    -------
    enable : Out(1)
        Read, or with `write` write, the word.
    write : Out(1)
    addr : Out
        Number of the word, in the group's addresses.
    write_data : Out(32)
    read_data : In(32)
        The word, in the cycle after it was asked for.
    """
    return wiring.Signature(
        {
            "enable": Out(1),
            "write": Out(1),
            "addr": Out(address_bits(memory_bytes // WORD_BYTES)),
            "write_data": Out(8 * WORD_BYTES),
            "read_data": In(8 * WORD_BYTES),
        }
    )


class AxiMemory(wiring.Component):
    """One AXI channel's memory.

    A burst at a time on each path, its first beat two cycles after its address; one beat a cycle, except where the host
    has the cycle. Addresses beyond the end answer DECERR, and are not written. Bursts are INCR and full width, as the
    machine's are; a read that meets a write of the same beat in the same cycle gets the old one.

    Parameters
    ----------
    config : MachineConfig
        Gives the port.
    size : int
        Bytes of this channel, a power of two.

    Members
    -------
    axi : In(axi_signature(config))
    host_enable, host_write : In(1)
    host_addr : In
        Number of the beat.
    host_lane : In
        Number of the word in the beat.
    host_write_data : In(32)
    host_read_data : Out
        The whole beat, in the cycle after it was asked for.
    """

    def __init__(self, config: MachineConfig, size: int) -> None:
        self.config = config
        self.size = size
        self.beats = size // config.channel_bytes
        self.lanes = config.channel_bytes // WORD_BYTES
        width = 8 * config.channel_bytes
        super().__init__(
            {
                "axi": In(axi_signature(config)),
                "host_enable": In(1),
                "host_write": In(1),
                "host_addr": In(address_bits(self.beats)),
                "host_lane": In(max(1, (self.lanes - 1).bit_length())),
                "host_write_data": In(8 * WORD_BYTES),
                "host_read_data": Out(width),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        c = self.config
        return f"board_memory_b{c.channel_bytes}_n{c.channels_per_group}_a{c.address_bits}_s{self.size}"

    def elaborate(self, platform: object) -> Module:
        """Build the storage, and the two paths."""
        m = Module()
        width = 8 * self.config.channel_bytes
        storage = instantiate(m, platform, "storage", Sram(width, self.beats, granularity=8))
        self._read(m, storage)
        self._write(m, storage)
        return m

    def _beat(self, address: Value) -> tuple[Value, Value]:
        """Return the number of an address's beat, and whether it lies beyond the memory."""
        shift = (self.config.channel_bytes - 1).bit_length()
        bits = address_bits(self.beats)
        return address[shift : shift + bits], address[shift + bits :].any()

    def _read(self, m: Module, storage: Sram) -> None:
        axi, width = self.axi, len(self.axi.rdata)
        active, last, beyond = Signal(), Signal(), Signal()
        left, beat = Signal(8), Signal(address_bits(self.beats))
        fresh, held, taken = Signal(), Signal(width), Signal()
        host = self.host_enable & ~self.host_write
        # A beat waits in `held` while the channel does not take it: the host may read meanwhile.
        m.d.comb += [
            taken.eq(active & ~host & (~axi.rvalid | axi.rready)),
            last.eq(left == 0),
            axi.arready.eq(~active | (taken & last)),
            storage.read_en.eq(host | taken),
            storage.read_addr.eq(Mux(host, self.host_addr, beat)),
            self.host_read_data.eq(storage.read_data),
            axi.rdata.eq(Mux(fresh, storage.read_data, held)),
        ]
        m.d.sync += fresh.eq(taken)
        with m.If(fresh):
            m.d.sync += held.eq(storage.read_data)
        with m.If(axi.rready):
            m.d.sync += axi.rvalid.eq(0)
        with m.If(taken):
            m.d.sync += [axi.rvalid.eq(1), axi.rlast.eq(last), axi.rresp.eq(Mux(beyond, DECERR, OKAY))]
            m.d.sync += [beat.eq(beat + 1), left.eq(left - 1), active.eq(~last)]
        number, outside = self._beat(axi.araddr)
        identity = Signal(len(axi.rid))
        with m.If(taken):
            m.d.sync += axi.rid.eq(identity)
        with m.If(axi.arvalid & axi.arready):
            m.d.sync += [active.eq(1), beat.eq(number), left.eq(axi.arlen), beyond.eq(outside), identity.eq(axi.arid)]

    def _write(self, m: Module, storage: Sram) -> None:
        axi = self.axi
        active, beyond, taken = Signal(), Signal(), Signal()
        beat = Signal(address_bits(self.beats))
        host = self.host_enable & self.host_write
        lanes = Signal(len(storage.write_mask))
        m.d.comb += [
            axi.awready.eq(~active & ~axi.bvalid),
            axi.wready.eq(active & ~host),
            taken.eq(axi.wvalid & axi.wready),
            lanes.eq(((1 << WORD_BYTES) - 1) << (self.host_lane * WORD_BYTES if self.lanes > 1 else 0)),
            storage.write_en.eq(host | (taken & ~beyond)),
            storage.write_addr.eq(Mux(host, self.host_addr, beat)),
            storage.write_data.eq(Mux(host, self.host_write_data.replicate(self.lanes), axi.wdata)),
            storage.write_mask.eq(Mux(host, lanes, axi.wstrb)),
        ]
        with m.If(axi.bready):
            m.d.sync += axi.bvalid.eq(0)
        with m.If(taken):
            m.d.sync += beat.eq(beat + 1)
            with m.If(axi.wlast):
                m.d.sync += [active.eq(0), axi.bvalid.eq(1)]
        number, outside = self._beat(axi.awaddr)
        with m.If(axi.awvalid & axi.awready):
            m.d.sync += [active.eq(1), beat.eq(number), beyond.eq(outside)]
            m.d.sync += [axi.bid.eq(axi.awid), axi.bresp.eq(Mux(outside, DECERR, OKAY))]


class GroupMemory(wiring.Component):
    """The memory of a channel group: its channels' beats side by side, as the machine stripes them.

    Parameters
    ----------
    config : MachineConfig
    memory_bytes : int
        Of the whole group, a power of two.

    Members
    -------
    axi : In(axi_signature(config)).array(channels_per_group)
    host : In(host_port(memory_bytes))
    """

    def __init__(self, config: MachineConfig, memory_bytes: int) -> None:
        self.config = config
        self.memory_bytes = check_memory_bytes(config, memory_bytes)
        channels = config.channels_per_group
        super().__init__({"axi": In(axi_signature(config)).array(channels), "host": In(host_port(memory_bytes))})

    def module_key(self) -> str:
        """Name of the Verilog module."""
        c = self.config
        return f"board_group_b{c.channel_bytes}_n{c.channels_per_group}_a{c.address_bits}_s{self.memory_bytes}"

    def elaborate(self, platform: object) -> Module:
        """Place the channels and share the host's port out."""
        m = Module()
        config, host = self.config, self.host
        channels, lanes = config.channels_per_group, config.channel_bytes // WORD_BYTES
        lane_bits, channel_bits = (lanes - 1).bit_length(), (channels - 1).bit_length()
        lane, channel = host.addr[:lane_bits], host.addr[lane_bits : lane_bits + channel_bits]
        beats = []
        for number in range(channels):
            part = AxiMemory(config, self.memory_bytes // channels)
            memory = instantiate(m, platform, f"channel{number}", part)
            wiring.connect(m, wiring.flipped(self.axi[number]), memory.axi)
            m.d.comb += [
                memory.host_enable.eq(host.enable & (channel == number if channels > 1 else 1)),
                memory.host_write.eq(host.write),
                memory.host_addr.eq(host.addr[lane_bits + channel_bits :]),
                memory.host_lane.eq(lane),
                memory.host_write_data.eq(host.write_data),
            ]
            beats.append(memory.host_read_data)
        place = Signal(max(1, lane_bits + channel_bits))
        with m.If(host.enable):
            m.d.sync += place.eq(Cat(lane, channel))
        words = Array(Cat(beats)[8 * WORD_BYTES * n : 8 * WORD_BYTES * (n + 1)] for n in range(lanes * channels))
        m.d.comb += host.read_data.eq(words[place])
        return m
