# SPDX-License-Identifier: Apache-2.0
"""Cuts a contiguous range of memory into bursts that obey AXI's rules and the room that is left for them."""

from __future__ import annotations

from typing import Final, NamedTuple

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.config import MachineConfig
from hdl.emit.hierarchy import digest
from hdl.memory.axi import address_layout

__all__ = ["BEATS_BITS", "TIMING", "BurstSplitter", "BurstTiming", "range_layout"]

BEATS_BITS = 32
"""Width of a beat count: 65,535 items of at most 64 KiB fit."""


class BurstTiming(NamedTuple):
    """Cycles of the burst splitter.

    Attributes
    ----------
    issue : int
        From a range's transfer to the first cycle in which its first burst can be made (``issued``).
    request : int
        From there to ``request``.
    """

    issue: int
    request: int


TIMING: Final = BurstTiming(issue=1, request=1)
"""The range is registered, and so is the request."""


def range_layout(config: MachineConfig) -> data.StructLayout:
    """Return a range to read or write: byte address (aligned to ``group_bytes``) and beats, 1 or more."""
    return data.StructLayout({"addr": config.address_bits, "beats": BEATS_BITS})


class BurstSplitter(wiring.Component):
    """Issues the bursts of one range after another.

    A burst ends at the next multiple of ``longest`` beats, so none crosses 4 KiB of a channel
    (``burst_beats * channel_bytes`` is at most 4 KiB).

    Latency: two cycles from ``range`` to ``request``. Throughput: one burst per cycle, also from one range to the next.

    Parameters
    ----------
    config : MachineConfig
    room_bits : int
        Width of ``room``.
    longest : int, optional
        Beats of the longest burst, a power of two up to ``burst_beats`` (the default).

    Members
    -------
    range : In(stream of range_layout)
    request : Out(stream of address_layout)
        Stays valid with the same payload until it is taken, also when ``enable`` falls.
    enable : In(1)
        New bursts may be made; low when the limit of outstanding bursts is reached, or to stop.
    room : In(room_bits)
        A burst is made only when it has at most this many beats.
    abandon : In(1)
        Forget the rest of the range.
    issued : Out(1)
        A burst of ``length`` beats is made in this cycle (``request`` shows it from the next cycle on).
    length : Out(9)
    ends : Out(1)
        It is the last burst of its range.
    blocked : Out(1)
        A burst is due, but ``enable`` or ``room`` forbids it.
    busy : Out(1)
        A range is not finished, or a request is not yet taken.
    """

    def __init__(self, config: MachineConfig, room_bits: int, longest: int | None = None) -> None:
        self.config = config
        self.longest = config.burst_beats if longest is None else longest
        self.room_bits = room_bits
        super().__init__(
            {
                "range": In(stream.Signature(range_layout(config))),
                "request": Out(stream.Signature(address_layout(config))),
                "enable": In(1),
                "room": In(room_bits),
                "abandon": In(1),
                "issued": Out(1),
                "length": Out(9),
                "ends": Out(1),
                "blocked": Out(1),
                "busy": Out(1),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        c = self.config
        return f"burst_splitter_{digest(c.group_bytes, c.address_bits, self.longest, self.room_bits)}"

    def elaborate(self, platform: object) -> Module:
        """Build the cursor and the request register."""
        m = Module()
        beat_bits = (self.config.group_bytes - 1).bit_length()
        burst_bits = (self.longest - 1).bit_length()

        active = Signal()
        beat = Signal(self.config.address_bits - beat_bits)
        left = Signal(BEATS_BITS)
        waiting = Signal()  # the request register is taken
        to_boundary = Signal(9)
        allowed = Signal()
        m.d.comb += [
            to_boundary.eq(self.longest - beat[:burst_bits]),
            self.ends.eq(left <= to_boundary),
            self.length.eq(Mux(self.ends, left[:9], to_boundary)),
            allowed.eq(self.enable & (self.length <= self.room)),
            self.issued.eq(active & allowed & (~waiting | self.request.ready)),
            self.blocked.eq(active & ~allowed),
            self.busy.eq(active | waiting),
            self.range.ready.eq(~active | (self.issued & self.ends)),
            self.request.valid.eq(waiting),
        ]
        with m.If(self.issued):
            m.d.sync += [
                waiting.eq(1),
                self.request.payload.addr.eq(beat << beat_bits),
                self.request.payload.beats_minus_1.eq(self.length - 1),
                beat.eq(beat + self.length),
                left.eq(left - self.length),
                active.eq(~self.ends),
            ]
        with m.Elif(self.request.ready):
            m.d.sync += waiting.eq(0)
        with m.If(self.abandon):
            m.d.sync += active.eq(0)
        with m.Elif(self.range.valid & self.range.ready):
            m.d.sync += [active.eq(1), beat.eq(self.range.payload.addr >> beat_bits), left.eq(self.range.payload.beats)]
        return m
