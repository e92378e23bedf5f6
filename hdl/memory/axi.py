# SPDX-License-Identifier: Apache-2.0
"""Channel groups: what a unit sees of one (beats as wide as the group), and the AXI4 masters behind it.

A group of ``channels_per_group`` AXI channels runs in lockstep: a group's beat is the channels' beats side by side
(channel 0 lowest), every channel gets the same bursts, and a channel's address is the group's divided by the number of
channels. Bursts are INCR, full width, aligned to a beat, and never cross 4 KiB of a channel.

Read ids: 0 for loads, 1 for instruction fetch; the two may come back interleaved and in any order between them.
Writes use id 0 only.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.common.stream_fifo import TIMING as FIFO_TIMING
from hdl.common.stream_fifo import StreamFifo
from hdl.config import MachineConfig
from hdl.emit.buses import AXI4, BusSignature
from hdl.emit.hierarchy import digest, instantiate

__all__ = [
    "FETCH_ID", "LOAD_ID", "TIMING", "GroupMaster", "MasterTiming", "address_layout", "axi_signature",
    "channel_address_bits", "fetch_buffer_beats", "group_read_signature", "group_write_signature", "read_beat_layout",
    "write_beat_layout",
]  # fmt: skip

LOAD_ID = 0
"""AXI id of load reads and of all writes."""

FETCH_ID = 1
"""AXI id of instruction fetches."""

_FETCH_BUFFER_BYTES = 512


class MasterTiming(NamedTuple):
    """Cycles of a group's masters.

    Attributes
    ----------
    request : int
        From a request or a written beat, read or write, to its channel.
    fetched : int
        From a fetched beat on the channel to the fetch unit; loads see theirs at once.
    """

    request: int
    fetched: int


TIMING: Final = MasterTiming(request=1, fetched=FIFO_TIMING.through)
"""A register on AR, AW and W; the fetch buffer."""


def channel_address_bits(config: MachineConfig) -> int:
    """Return the width of one AXI channel's byte address."""
    return config.address_bits - (config.channels_per_group - 1).bit_length()


def fetch_buffer_beats(config: MachineConfig) -> int:
    """Return how many beats of instructions the group master buffers: what the fetch unit may have outstanding."""
    return max(2, _FETCH_BUFFER_BYTES // config.group_bytes)


def address_layout(config: MachineConfig) -> data.StructLayout:
    """Return a burst request: byte address in the group's memory (aligned to ``group_bytes``) and beats - 1."""
    return data.StructLayout({"addr": config.address_bits, "beats_minus_1": 8})


def read_beat_layout(config: MachineConfig) -> data.StructLayout:
    """Return a beat of read data: ``error`` is set when any channel answered SLVERR or DECERR."""
    return data.StructLayout({"data": 8 * config.group_bytes, "error": 1, "last": 1})


def write_beat_layout(config: MachineConfig) -> data.StructLayout:
    """Return a beat of write data with one strobe a byte."""
    return data.StructLayout({"data": 8 * config.group_bytes, "strobe": config.group_bytes, "last": 1})


def group_read_signature(config: MachineConfig) -> wiring.Signature:
    """Return a unit's read port on one channel group, seen from the unit.

    Members
    -------
    ar : Out(stream of address_layout)
        Bursts of at most ``burst_beats`` beats that do not cross a multiple of ``burst_beats * group_bytes``.
    r : In(stream of read_beat_layout)
        Beats in the order of the requests.
    """
    return wiring.Signature(
        {
            "ar": Out(stream.Signature(address_layout(config))),
            "r": In(stream.Signature(read_beat_layout(config))),
        }
    )


def group_write_signature(config: MachineConfig) -> wiring.Signature:
    """Return a unit's write port on one channel group, seen from the unit.

    Members
    -------
    aw : Out(stream of address_layout)
    w : Out(stream of write_beat_layout)
        Beats of a burst only after the burst's request was accepted.
    b : In(stream of {"error": 1})
        One response a burst, in order.
    """
    return wiring.Signature(
        {
            "aw": Out(stream.Signature(address_layout(config))),
            "w": Out(stream.Signature(write_beat_layout(config))),
            "b": In(stream.Signature(data.StructLayout({"error": 1}))),
        }
    )


def axi_signature(config: MachineConfig) -> wiring.Signature:
    """Return one AXI4 master (one channel of a group), with the standard's signal names, seen from the machine.

    ``araddr`` and ``awaddr`` have :func:`channel_address_bits` bits, data ``8 * channel_bytes``, ids one bit.
    """
    address = channel_address_bits(config)
    width = 8 * config.channel_bytes

    def request(prefix: str) -> dict[str, wiring.Member]:
        return {
            f"{prefix}id": Out(1),
            f"{prefix}addr": Out(address),
            f"{prefix}len": Out(8),
            f"{prefix}size": Out(3),
            f"{prefix}burst": Out(2),
            f"{prefix}lock": Out(1),
            f"{prefix}cache": Out(4),
            f"{prefix}prot": Out(3),
            f"{prefix}qos": Out(4),
            f"{prefix}valid": Out(1),
            f"{prefix}ready": In(1),
        }

    return BusSignature(
        AXI4,
        {
            **request("ar"),
            "rid": In(1),
            "rdata": In(width),
            "rresp": In(2),
            "rlast": In(1),
            "rvalid": In(1),
            "rready": Out(1),
            **request("aw"),
            "wdata": Out(width),
            "wstrb": Out(config.channel_bytes),
            "wlast": Out(1),
            "wvalid": Out(1),
            "wready": In(1),
            "bid": In(1),
            "bresp": In(2),
            "bvalid": In(1),
            "bready": Out(1),
        },
    )


class GroupMaster(wiring.Component):
    """AXI4 masters of one channel group: a read port for loads, one for instruction fetch (`fetch`), a write port.

    Latency: one cycle (a register) on AR, AW and W; none on R and B, except for fetched beats, which go through a
    buffer of :func:`fetch_buffer_beats` (two cycles). Throughput: one transfer per cycle on every channel.

    Fetch requests go before load requests. Fetched beats always find room in their buffer, because the fetch unit never
    has more than :func:`fetch_buffer_beats` outstanding; loads reserve room for theirs before they ask. Read data are
    thus never refused for long, and channels that return the two ids in different orders cannot block each other.

    Parameters
    ----------
    config : MachineConfig
    fetch : bool
        Whether the group has a port for instruction fetch (group 0 does).

    Members
    -------
    load : In(group_read_signature)
    fetch : In(group_read_signature)
        Only with `fetch`.
    store : In(group_write_signature)
    axi : Out(axi_signature).array(channels_per_group)
    """

    def __init__(self, config: MachineConfig, *, fetch: bool) -> None:
        self.config = config
        self.has_fetch = fetch
        ports = {
            "load": In(group_read_signature(config)),
            "store": In(group_write_signature(config)),
            "axi": Out(axi_signature(config)).array(config.channels_per_group),
        }
        if fetch:
            ports["fetch"] = In(group_read_signature(config))
        super().__init__(ports)

    def module_key(self) -> str:
        """Name of the Verilog module."""
        c = self.config
        kind = "fetch" if self.has_fetch else "plain"
        return f"group_master_{kind}_n{c.channels_per_group}_b{c.channel_bytes}_{digest(c.address_bits)}"

    def elaborate(self, platform: object) -> Module:
        """Build the request registers and the lockstep of the channels."""
        m = Module()
        self._read_requests(m)
        self._read_data(m, platform)
        self._writes(m)
        return m

    def _lockstep(self, m: Module, name: str, valid: Value, readies: list[Value]) -> tuple[Value, Value, Signal]:
        """Return (accept, ready, pending) of a register that hands one transfer to every channel, each in its time."""
        pending = Signal(len(readies), name=f"{name}_pending")
        ready = Signal(name=f"{name}_ready")
        accept = Signal(name=f"{name}_accept")
        left = pending & ~Cat(*readies)
        m.d.comb += [ready.eq(left == 0), accept.eq(ready & valid)]
        m.d.sync += pending.eq(left)
        with m.If(accept):
            m.d.sync += pending.eq(~0)
        return accept, ready, pending

    def _fixed(self, m: Module, prefix: str) -> None:
        """Drive the attributes that never change."""
        size = (self.config.channel_bytes - 1).bit_length()
        for axi in self.axi:
            m.d.comb += [
                getattr(axi, f"{prefix}size").eq(size),
                getattr(axi, f"{prefix}burst").eq(1),  # INCR
                getattr(axi, f"{prefix}cache").eq(0b0011),  # normal memory, bufferable, not cached
            ]

    def _channel_address(self, address: Value) -> Value:
        return address >> (self.config.channels_per_group - 1).bit_length()

    def _read_requests(self, m: Module) -> None:
        self._fixed(m, "ar")
        request = Signal(address_layout(self.config))
        chosen = Signal(address_layout(self.config))
        is_fetch = Signal()
        any_valid = Signal()
        m.d.comb += [chosen.eq(self.load.ar.payload), any_valid.eq(self.load.ar.valid)]
        accept, ready, pending = self._lockstep(m, "ar", any_valid, [axi.arready for axi in self.axi])
        if self.has_fetch:
            with m.If(self.fetch.ar.valid):
                m.d.comb += [chosen.eq(self.fetch.ar.payload), any_valid.eq(1)]
            m.d.comb += [self.fetch.ar.ready.eq(ready), self.load.ar.ready.eq(ready & ~self.fetch.ar.valid)]
        else:
            m.d.comb += self.load.ar.ready.eq(ready)
        with m.If(accept):
            m.d.sync += request.eq(chosen)
            if self.has_fetch:
                m.d.sync += is_fetch.eq(self.fetch.ar.valid)
        for i, axi in enumerate(self.axi):
            m.d.comb += [
                axi.arvalid.eq(pending[i]),
                axi.araddr.eq(self._channel_address(request.addr)),
                axi.arlen.eq(request.beats_minus_1),
                axi.arid.eq(is_fetch),
            ]

    def _read_data(self, m: Module, platform: object) -> None:
        width = 8 * self.config.channel_bytes
        is_load = Signal(len(self.axi))
        taken = Signal()
        m.d.comb += [
            is_load.eq(Cat(axi.rvalid & (axi.rid == LOAD_ID if self.has_fetch else 1) for axi in self.axi)),
            self.load.r.valid.eq(is_load.all()),
            taken.eq(is_load.all() & self.load.r.ready),
            self.load.r.payload.data.eq(Cat(axi.rdata for axi in self.axi)),
            self.load.r.payload.error.eq(Cat(axi.rresp[1] for axi in self.axi).any()),
            self.load.r.payload.last.eq(self.axi[0].rlast),
        ]
        if not self.has_fetch:
            for axi in self.axi:
                m.d.comb += axi.rready.eq(taken)
            return
        layout = data.StructLayout({"data": width, "error": 1, "last": 1})
        buffers = []
        for i, axi in enumerate(self.axi):
            buffer = StreamFifo(layout, fetch_buffer_beats(self.config))
            buffers.append(instantiate(m, platform, f"fetch_buffer{i}", buffer))
            m.d.comb += [
                buffer.input.valid.eq(axi.rvalid & (axi.rid == FETCH_ID)),
                buffer.input.payload.data.eq(axi.rdata),
                buffer.input.payload.error.eq(axi.rresp[1]),
                buffer.input.payload.last.eq(axi.rlast),
                axi.rready.eq(taken | (buffer.input.valid & buffer.input.ready)),
            ]
        outputs = [buffer.output for buffer in buffers]
        valid = Signal()
        m.d.comb += [
            valid.eq(Cat(output.valid for output in outputs).all()),
            self.fetch.r.valid.eq(valid),
            self.fetch.r.payload.data.eq(Cat(output.payload.data for output in outputs)),
            self.fetch.r.payload.error.eq(Cat(output.payload.error for output in outputs).any()),
            self.fetch.r.payload.last.eq(outputs[0].payload.last),
        ]
        for output in outputs:
            m.d.comb += output.ready.eq(valid & self.fetch.r.ready)

    def _writes(self, m: Module) -> None:
        self._fixed(m, "aw")
        store = self.store
        accept, ready, aw_pending = self._lockstep(m, "aw", store.aw.valid, [axi.awready for axi in self.axi])
        request = Signal(address_layout(self.config))
        m.d.comb += store.aw.ready.eq(ready)
        with m.If(accept):
            m.d.sync += request.eq(store.aw.payload)
        accept, ready, w_pending = self._lockstep(m, "w", store.w.valid, [axi.wready for axi in self.axi])
        beat = Signal(write_beat_layout(self.config))
        m.d.comb += store.w.ready.eq(ready)
        with m.If(accept):
            m.d.sync += beat.eq(store.w.payload)
        answered = Signal()
        m.d.comb += [
            answered.eq(Cat(axi.bvalid for axi in self.axi).all()),
            store.b.valid.eq(answered),
            store.b.payload.error.eq(Cat(axi.bresp[1] for axi in self.axi).any()),
        ]
        channel_bytes = self.config.channel_bytes
        for i, axi in enumerate(self.axi):
            m.d.comb += [
                axi.awvalid.eq(aw_pending[i]),
                axi.awaddr.eq(self._channel_address(request.addr)),
                axi.awlen.eq(request.beats_minus_1),
                axi.wvalid.eq(w_pending[i]),
                axi.wdata.eq(beat.data.word_select(i, 8 * channel_bytes)),
                axi.wstrb.eq(beat.strobe.word_select(i, channel_bytes)),
                axi.wlast.eq(beat.last),
                axi.bready.eq(answered & store.b.ready),
            ]
