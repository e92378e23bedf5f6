# SPDX-License-Identifier: Apache-2.0
"""Data path of the store unit, in slices that are emitted once: conversion of an element, and a part of a beat."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.isa import StoreFormat

__all__ = ["WRITTEN", "BeatLane", "PackedRow", "StoreElement"]

WRITTEN = (StoreFormat.INT8, StoreFormat.INT16, StoreFormat.INT32)
"""Formats that are written to memory."""


def _saturate(value: Value, bits: int) -> Value:
    top = 1 << (bits - 1)
    return Mux(value >= top, top - 1, Mux(value < -top, -top, value))[:bits]


class StoreElement(wiring.Component):
    """Rounds one element (half up) and saturates it to each format.

    Latency: combinational.

    Members
    -------
    value : In(signed(32)) / shift : In(5)
    int8 : Out(8) / int16 : Out(16) / int32 : Out(32)
    """

    def __init__(self) -> None:
        super().__init__({"value": In(signed(32)), "shift": In(5), "int8": Out(8), "int16": Out(16), "int32": Out(32)})

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return "store_element"

    def elaborate(self, platform: object) -> Module:
        """Build the shifter and the comparisons."""
        m = Module()
        # (value + half) >> shift in 33 bits, so that nothing is lost: (value >> (shift - 1) + 1) >> 1 is the same and
        # needs one shifter of one bit more.
        doubled = Signal(signed(33))
        rounded = Signal(signed(33))
        m.d.comb += [
            doubled.eq((self.value << 1) >> self.shift),
            rounded.eq((doubled + 1) >> 1),
            self.int8.eq(_saturate(rounded, 8)),
            self.int16.eq(_saturate(rounded, 16)),
            self.int32.eq(rounded[:32]),
        ]
        return m


class PackedRow(wiring.Component):
    """Register of a row in its format, the elements side by side from bit 0.

    Latency: one cycle.

    Parameters
    ----------
    columns : int
        Elements of a row.

    Members
    -------
    load : In(1) / format : In(2)
    int8 : In(8 * columns) / int16 : In(16 * columns) / int32 : In(32 * columns)
        The row in every format.
    row : Out(32 * columns)
    """

    def __init__(self, columns: int) -> None:
        self.columns = columns
        super().__init__(
            {
                "load": In(1),
                "format": In(2),
                "int8": In(8 * columns),
                "int16": In(16 * columns),
                "int32": In(32 * columns),
                "row": Out(32 * columns),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return f"packed_row_c{self.columns}"

    def elaborate(self, platform: object) -> Module:
        """Build the register."""
        m = Module()
        with m.If(self.load), m.Switch(self.format):
            with m.Case(StoreFormat.INT8):
                m.d.sync += self.row.eq(self.int8)
            with m.Case(StoreFormat.INT16):
                m.d.sync += self.row.eq(self.int16)
            with m.Default():
                m.d.sync += self.row.eq(self.int32)
        return m


class BeatLane(wiring.Component):
    """Register of a part of the beat, the least that a step writes.

    Latency: one cycle.

    Parameters
    ----------
    width : int
        Bytes of the part.
    slices : tuple of int
        For INT8, INT16, INT32: beats of a row, a power of two.

    Members
    -------
    format : In(2) / sub : In
        Format, and which beat of the row.
    int8, int16, int32 : In(8 * width * slices)
        The row's bytes that come to this place in each beat of the row.
    load : In(1) / data : Out(8 * width)
    written : In(1) / strobe : Out(width)
        The part holds bytes of rows.
    """

    def __init__(self, width: int, slices: tuple[int, int, int], sub_bits: int) -> None:
        self.width = width
        self.slices = slices
        self.sub_bits = sub_bits
        super().__init__(
            {
                "format": In(2),
                "sub": In(sub_bits),
                "int8": In(8 * width * slices[0]),
                "int16": In(8 * width * slices[1]),
                "int32": In(8 * width * slices[2]),
                "load": In(1),
                "data": Out(8 * width),
                "written": In(1),
                "strobe": Out(width),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return f"beat_lane_b{self.width}_" + "_".join(map(str, self.slices))

    def elaborate(self, platform: object) -> Module:
        """Build the choice and the register."""
        m = Module()
        m.d.comb += self.strobe.eq(self.written.replicate(self.width))
        with m.If(self.load), m.Switch(self.format):
            for f, source, count in zip(WRITTEN, (self.int8, self.int16, self.int32), self.slices, strict=True):
                with m.Case(f):
                    m.d.sync += self.data.eq(
                        source if count == 1 else source.word_select(self.sub[: count.bit_length() - 1], 8 * self.width)
                    )
        return m
