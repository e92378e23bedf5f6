# SPDX-License-Identifier: Apache-2.0
"""Data side of the store unit: rounds, saturates and packs combine rows into beats."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.config import MachineConfig
from hdl.emit.hierarchy import digest
from hdl.emit.structural import StructuralComponent, Structure
from hdl.isa.legality import element_bytes
from hdl.memory.store_slice import WRITTEN, BeatLane, PackedRow, StoreElement

__all__ = ["StoreData"]


def _row_bytes(config: MachineConfig) -> list[int]:
    """Return the bytes of a row in each of the formats that are written."""
    return [config.columns * element_bytes(f) for f in WRITTEN]


def _slices(config: MachineConfig) -> list[int]:
    """Return, for each format, how many beats a row takes, at least 1."""
    return [max(1, size // config.group_bytes) for size in _row_bytes(config)]


def _lane_bytes(config: MachineConfig) -> int:
    """Return the least that a step writes."""
    return min(_row_bytes(config)[0], config.group_bytes)


def _sub_bits(config: MachineConfig) -> int:
    return max(1, (max(_slices(config)) - 1).bit_length())


def _place_bits(config: MachineConfig) -> int:
    """Return the width of a row's place in its beat."""
    return max(1, (config.group_bytes // _row_bytes(config)[0] - 1).bit_length())


class StoreControl(wiring.Component):
    """Counters of the data side; see :class:`StoreData`.

    Parameters
    ----------
    config : MachineConfig

    Members
    -------
    format : In(2)
    start, place, apart, skip : In
        As of :class:`StoreData`.
    row_valid : In(1) / row_ready : Out(1) / last : In(1)
        Handshake of ``rows``.
    load : Out(1)
        The packed-row register takes the row.
    sub : Out
        Which beat of the packed row is moved.
    lane_load, written : Out(lanes)
        The parts of the beat register that are written in this cycle; those that hold bytes of rows.
    beat_valid : Out(1) / beat_ready : In(1)
    busy : Out(1)
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        lanes = config.group_bytes // _lane_bytes(config)
        super().__init__(
            {
                "format": In(2),
                "start": In(1),
                "place": In(_place_bits(config)),
                "apart": In(1),
                "skip": In(_place_bits(config)),
                "row_valid": In(1),
                "row_ready": Out(1),
                "last": In(1),
                "load": Out(1),
                "sub": Out(_sub_bits(config)),
                "lane_load": Out(lanes),
                "written": Out(lanes),
                "beat_valid": Out(1),
                "beat_ready": In(1),
                "busy": Out(1),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return f"store_control_{digest(self.config.columns, self.config.group_bytes)}"

    def elaborate(self, platform: object) -> Module:
        """Build the states of the packed-row register and of the beat register behind it."""
        m = Module()
        config = self.config
        slices = _slices(config)
        per_beat = [max(1, config.group_bytes // size) for size in _row_bytes(config)]  # rows of a beat
        packed_valid = Signal()
        packed_last = Signal()
        packed_done = Signal()
        m.d.comb += [
            self.row_ready.eq(~packed_valid | packed_done),
            self.load.eq(self.row_valid & self.row_ready),
        ]
        with m.If(self.load):
            m.d.sync += [packed_valid.eq(1), packed_last.eq(self.last)]
        with m.Elif(packed_done):
            m.d.sync += packed_valid.eq(0)

        # One step moves a slice of the row (or all of it) into the beat register.
        sub = Signal(_sub_bits(config))
        place = Signal(_place_bits(config))
        next_place = Signal(_place_bits(config))
        lanes = len(self.written)
        mask = Signal(lanes)
        row_ends = Signal()
        beat_ends = Signal()
        with m.Switch(self.format):
            for f, beats, rows in zip(WRITTEN, slices, per_beat, strict=True):
                with m.Case(f):
                    each = lanes // rows
                    m.d.comb += [
                        mask.eq(Cat((place == i).replicate(each) for i in range(rows))),
                        row_ends.eq(sub == beats - 1),
                        beat_ends.eq((place == rows - 1) | packed_last | self.apart),
                        next_place.eq((place + 1 + self.skip) & (rows - 1)),
                    ]
        full = Signal()
        step = Signal()
        m.d.comb += [
            step.eq(packed_valid & (~full | self.beat_ready)),
            packed_done.eq(step & row_ends),
            self.beat_valid.eq(full),
            self.busy.eq(packed_valid | full),
            self.sub.eq(sub),
            self.lane_load.eq(Mux(step, mask, 0)),
        ]
        started = Signal()  # the beat register holds rows of an unfinished beat
        with m.If(step):
            m.d.sync += [
                sub.eq(Mux(row_ends, 0, sub + 1)),
                place.eq(next_place),
                full.eq(beat_ends),
                started.eq(~beat_ends),
                self.written.eq(Mux(started, self.written, 0) | mask),
            ]
        with m.Elif(self.beat_ready):
            m.d.sync += full.eq(0)
        with m.If(self.start):
            m.d.sync += place.eq(self.place)
        return m


class StoreData(StructuralComponent):
    """Rows of ``columns`` int32 in, beats of ``group_bytes`` out.

    Latency: two cycles from a row to its first beat. Throughput: one row or one beat per cycle, whichever is slower.

    Members
    -------
    format : In(2) / shift : In(5)
        Of the rows that enter; constant while ``busy``.
    start : In(1) / place : In
        The next row is the first of a store and begins at this place of its beat, in rows; only while not ``busy``.
    apart : In(1) / skip : In
        Each row has beats of its own; rows between it and the next, modulo the rows of a beat. Constant while ``busy``;
        ``skip`` is 0 without ``apart``.
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
                "start": In(1),
                "place": In(_place_bits(config)),
                "apart": In(1),
                "skip": In(_place_bits(config)),
                "rows": In(stream.Signature(data.ArrayLayout(signed(32), config.columns))),
                "last": In(1),
                "beats": Out(stream.Signature(data.StructLayout({"data": 8 * group_bytes, "strobe": group_bytes}))),
                "busy": Out(1),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return f"store_data_{digest(self.config.columns, self.config.group_bytes)}"

    def structure(self) -> Structure:
        """Place the conversion of each element, the packed-row register and the parts of the beat register."""
        s = Structure(self)
        config = self.config
        control = s.add("control", StoreControl(config))
        for name in ("format", "start", "place", "apart", "skip"):
            s.connect(getattr(control, name), getattr(self, name))
        s.connect(control.row_valid, self.rows.valid)
        s.connect(self.rows.ready, control.row_ready)
        s.connect(control.last, self.last)
        s.connect(self.beats.valid, control.beat_valid)
        s.connect(control.beat_ready, self.beats.ready)
        s.connect(self.busy, control.busy)

        elements = []
        for column in range(config.columns):
            element = s.add(f"element_{column}", StoreElement())
            s.connect(element.value, self.rows.payload[column])
            s.connect(element.shift, self.shift)
            elements.append(element)
        packed = s.add("packed_row", PackedRow(config.columns))
        s.connect(packed.load, control.load)
        s.connect(packed.format, self.format)
        for name in ("int8", "int16", "int32"):
            s.connect(getattr(packed, name), [getattr(element, name) for element in elements])

        row_bytes, slices, width = _row_bytes(config), _slices(config), _lane_bytes(config)
        parts = []
        for lane in range(config.group_bytes // width):
            part = s.add(f"beat_{lane}", BeatLane(width, (slices[0], slices[1], slices[2]), _sub_bits(config)))
            s.connect(part.format, self.format)
            s.connect(part.sub, control.sub)
            s.connect(part.load, control.lane_load[lane])
            s.connect(part.written, control.written[lane])
            for name, size, count in zip(("int8", "int16", "int32"), row_bytes, slices, strict=True):
                # Rows shorter than a beat are repeated over it.
                first = [(beat * config.group_bytes + lane * width) % size for beat in range(count)]
                s.connect(getattr(part, name), [packed.row[8 * at : 8 * (at + width)] for at in first])
            parts.append(part)
        s.connect(self.beats.payload, [*(part.data for part in parts), *(part.strobe for part in parts)])
        return s
