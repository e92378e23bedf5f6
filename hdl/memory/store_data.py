# SPDX-License-Identifier: Apache-2.0
"""Data side of the store unit: rounds, saturates and packs combine rows into beats."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.config import MachineConfig
from hdl.emit.hierarchy import digest
from hdl.isa import StoreFormat
from hdl.legality import element_bytes
from hdl.memory.jobs import log2

__all__ = ["StoreData", "round_and_saturate"]

_WRITTEN = (StoreFormat.INT8, StoreFormat.INT16, StoreFormat.INT32)


def round_and_saturate(m: Module, value: Value, shift: Value, name: str) -> Value:
    """Return ``(value + half) >> shift`` (round half up) of an int32, with 33 bits so that nothing is lost."""
    # (value >> (shift - 1) + 1) >> 1 is the same and needs one shifter of one bit more.
    doubled = Signal(signed(33), name=f"{name}_doubled")
    rounded = Signal(signed(33), name=f"{name}_rounded")
    m.d.comb += [doubled.eq((value << 1) >> shift), rounded.eq((doubled + 1) >> 1)]
    return rounded


def _saturate(value: Value, bits: int) -> Value:
    top = 1 << (bits - 1)
    return Mux(value >= top, top - 1, Mux(value < -top, -top, value))[:bits]


class StoreData(wiring.Component):
    """Rows of ``columns`` int32 in, beats of ``group_bytes`` out.

    Latency: two cycles from a row to its first beat. Throughput: one row or one beat per cycle, whichever is slower.

    Members
    -------
    format : In(2) / shift : In(5)
        Of the rows that enter; constant while ``busy``.
    rows : In(stream of columns x int32)
    last : In(1)
        The row at ``rows`` is the last: its beat goes out even if it is not full.
    beats : Out(stream of {data, strobe})
        Strobes cover the bytes of rows.
    busy : Out(1)
        A row or beat is held.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        group_bytes = config.group_bytes
        super().__init__(
            {
                "format": In(2),
                "shift": In(5),
                "rows": In(stream.Signature(data.ArrayLayout(signed(32), config.columns))),
                "last": In(1),
                "beats": Out(stream.Signature(data.StructLayout({"data": 8 * group_bytes, "strobe": group_bytes}))),
                "busy": Out(1),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return f"store_data_{digest(self.config.columns, self.config.group_bytes)}"

    def elaborate(self, platform: object) -> Module:
        """Build the packed-row register and the beat register behind it."""
        m = Module()
        config = self.config
        group_bytes = config.group_bytes
        row_bytes = {f: config.columns * element_bytes(f) for f in _WRITTEN}
        slices = {f: max(1, row_bytes[f] // group_bytes) for f in _WRITTEN}  # beats of a row
        per_beat = {f: max(1, group_bytes // row_bytes[f]) for f in _WRITTEN}  # rows of a beat

        packed = Signal(32 * config.columns)
        packed_valid = Signal()
        packed_last = Signal()
        packed_done = Signal()
        m.d.comb += self.rows.ready.eq(~packed_valid | packed_done)
        rounded = [round_and_saturate(m, self.rows.payload[i], self.shift, f"lane{i}") for i in range(config.columns)]
        with m.If(self.rows.valid & self.rows.ready):
            m.d.sync += [packed_valid.eq(1), packed_last.eq(self.last)]
            with m.Switch(self.format):
                with m.Case(StoreFormat.INT8):
                    m.d.sync += packed.eq(Cat(_saturate(value, 8) for value in rounded))
                with m.Case(StoreFormat.INT16):
                    m.d.sync += packed.eq(Cat(_saturate(value, 16) for value in rounded))
                with m.Default():
                    m.d.sync += packed.eq(Cat(value[:32] for value in rounded))
        with m.Elif(packed_done):
            m.d.sync += packed_valid.eq(0)

        # One step moves a slice of the row (or all of it) into the beat register.
        sub = Signal(range(max(2, *slices.values())))
        place = Signal(range(max(2, *per_beat.values())))
        piece = Signal(8 * group_bytes)
        lane_bytes = min(row_bytes[StoreFormat.INT8], group_bytes)  # the least that a step writes
        lanes = group_bytes // lane_bytes
        mask = Signal(lanes)
        row_ends = Signal()
        beat_ends = Signal()
        with m.Switch(self.format):
            for f in _WRITTEN:
                with m.Case(f):
                    if slices[f] > 1:
                        m.d.comb += piece.eq(packed.word_select(sub[: log2(slices[f])], 8 * group_bytes))
                    else:
                        m.d.comb += piece.eq(packed[: 8 * row_bytes[f]].replicate(per_beat[f]))
                    each = lanes // per_beat[f]
                    m.d.comb += [
                        mask.eq(Cat((place == i).replicate(each) for i in range(per_beat[f]))),
                        row_ends.eq(sub == slices[f] - 1),
                        beat_ends.eq((place == per_beat[f] - 1) | packed_last),
                    ]
        full = Signal()
        step = Signal()
        m.d.comb += [
            step.eq(packed_valid & (~full | self.beats.ready)),
            packed_done.eq(step & row_ends),
            self.beats.valid.eq(full),
            self.busy.eq(packed_valid | full),
        ]
        beat = self.beats.payload
        written = Signal(lanes)
        m.d.comb += beat.strobe.eq(Cat(lane.replicate(lane_bytes) for lane in written))
        started = Signal()  # the beat register holds rows of an unfinished beat
        with m.If(step):
            m.d.sync += [
                sub.eq(Mux(row_ends, 0, sub + 1)),
                place.eq(Mux(beat_ends, 0, place + 1)),
                full.eq(beat_ends),
                started.eq(~beat_ends),
                written.eq(Mux(started, written, 0) | mask),
            ]
            for i in range(lanes):
                with m.If(mask[i]):
                    width = 8 * lane_bytes
                    m.d.sync += beat.data.word_select(i, width).eq(piece.word_select(i, width))
        with m.Elif(self.beats.ready):
            m.d.sync += full.eq(0)
        return m
