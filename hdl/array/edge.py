# SPDX-License-Identifier: Apache-2.0
"""The plain array's stationary feed: weights shift in from the top edge, overlapped with the previous tile's waves.

Theory of operation
-------------------
Rows have no V-Cache bank.  Each holds a ``front`` word beside the PEs' stationary registers; the fronts form a shift
register down the tier.  The V-Cache of the tier is ``fill_rows`` banks: tile row ``r`` is word ``r // fill_rows`` of
the tile in bank ``r % fill_rows``, so that a fill word is one row in every bank, the same rate as in the vertical feed.
A fill word of a transposed tile (``columns``) would write some bytes of several words of each bank in one cycle; it is
not legal in a machine with this feed.

A tile request in cycle ``q`` makes the :class:`EdgeFeeder` read the rows R-1 .. 0 in the cycles ``q .. q+R-1``.  With
relative cycle ``c = cycle - (q + 1)``, row R-1-c enters row 0's front at the end of ``c``; row ``r`` shifts in the
relative cycles ``r .. R-1`` only, and then holds tile row ``r``.  The rows below keep the old fronts a little longer,
just long enough for the previous tile's ``new`` wave, which moves down at one row per cycle as well: its stage t+1 may
coincide with relative cycle 0.  So a request may come every R cycles, and a ``new`` wave R cycles after its request.

The shift enable moves down the rows with one flip-flop each and is cut in all rows at once by ``shift_on``, which the
feeder raises in the relative cycles 1 .. R-1.

M mapping: with ``edge_below`` the words come from the tier below's feeder; the word that enters its row 0 is registered
on the way.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.array.row import ArrayRow
from hdl.common.sram import Sram, address_bits
from hdl.emit.hierarchy import instantiate

__all__ = ["EdgeBank", "EdgeFeeder", "EdgeRow"]


class EdgeRow(ArrayRow):
    """Row of the edge feed.

    Latency: from ``wave_in`` to ``psum_out`` three cycles, to ``wave_out`` one.  Throughput: one wave per cycle.

    Parameters
    ----------
    columns : int
        PEs of the row.
    activation_words : int
        Bytes of the activation bank.
    links : bool
        Whether the activation link to the tier below exists (the stationary link is the feeders').

    Members
    -------
    front_in, front_out : In(8 * columns), Out(8 * columns)
        Shift register of stationary words, from the row above to the row below.
    shift_in, shift_out : In(1), Out(1)
        The front takes a word this cycle; the same for the next row, one cycle later.
    shift_on : In(1)
        Common to all rows: 0 ends the shifting of every row but row 0.

    Further members are those of :class:`hdl.array.row.ArrayRow`.
    """

    def __init__(self, columns: int, *, activation_words: int, links: bool = True) -> None:
        width = 8 * columns
        super().__init__(
            columns,
            activation_words,
            None,
            links,
            {
                "front_in": In(width),
                "front_out": Out(width),
                "shift_in": In(1),
                "shift_out": Out(1),
                "shift_on": In(1),
            },
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        links = "_links" if self.links else ""
        return f"edge_row_c{self.columns}_a{self.activation_words}{links}"

    def stationary_source(self, m: Module, platform: object, wave: Any) -> Value:
        """Build the front register."""
        front = Signal(8 * self.columns, reset_less=True)
        shifted = Signal()
        m.d.sync += shifted.eq(self.shift_in)
        with m.If(self.shift_in):
            m.d.sync += front.eq(self.front_in)
        m.d.comb += [self.front_out.eq(front), self.shift_out.eq(shifted & self.shift_on)]
        return front


class EdgeBank(wiring.Component):
    """One V-Cache bank of the edge feed, behind its :class:`~hdl.array.fill_slice.FillSlice`.

    Latency: ``read_data`` one cycle after ``read_en``.  Throughput: one fill and one read per cycle.

    Parameters
    ----------
    columns : int
        Bytes of a tile row.
    vcache_tiles : int
        Tiles.
    fill_words : int
        Words of a tile in this bank.

    Members
    -------
    fill_select, fill_tile, fill_data : In(fill_words), In(address), In(8 * columns)
        Fill: the word (one bit set, or none), the tile, the row of this bank.
    read_en, read_tile, read_word, read_data : In(1), In(address), In(address), Out(8 * columns)
        Read port.
    """

    def __init__(self, columns: int, *, vcache_tiles: int, fill_words: int) -> None:
        self.columns = columns
        self.vcache_tiles = vcache_tiles
        self.fill_words = fill_words
        super().__init__(
            {
                "fill_select": In(fill_words),
                "fill_tile": In(address_bits(vcache_tiles)),
                "fill_data": In(8 * columns),
                "read_en": In(1),
                "read_tile": In(address_bits(vcache_tiles)),
                "read_word": In(address_bits(fill_words)),
                "read_data": Out(8 * columns),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return f"edge_bank_c{self.columns}_v{self.vcache_tiles}_w{self.fill_words}"

    def elaborate(self, platform: object) -> Module:
        """Build the bank; addresses are tile x fill_words + word."""
        m = Module()
        bank = instantiate(m, platform, "vcache_bank", Sram(8 * self.columns, self.vcache_tiles * self.fill_words))
        word = Signal(range(self.fill_words))
        for index in range(self.fill_words):
            with m.If(self.fill_select[index]):
                m.d.comb += word.eq(index)
        m.d.comb += [
            bank.write_en.eq(self.fill_select.any()),
            bank.write_addr.eq(self.fill_tile * self.fill_words + word),
            bank.write_data.eq(self.fill_data),
            bank.read_en.eq(self.read_en),
            bank.read_addr.eq(self.read_tile * self.fill_words + self.read_word),
            self.read_data.eq(bank.read_data),
        ]
        return m


class EdgeFeeder(wiring.Component):
    """Turns tile requests into a stream of stationary words for row 0, from R-1 down to 0.

    Latency: a request in cycle ``q`` puts its first word on ``front`` in ``q + 1`` (``q`` at this tier also for
    ``edge_below``: the tier below had the same request one cycle earlier).  Throughput: a tile every `rows` cycles.

    Parameters
    ----------
    rows, columns : int
        PE rows and columns of the tier; at least 2 rows.
    vcache_tiles : int
        Tiles.
    banks : int
        Rows of a fill word; divides `rows`.
    links : bool
        Whether words can come from the tier below.

    Members
    -------
    load, from_below, tile : In(1), In(1), In(address)
        Request; at most one every `rows` cycles.
    read_en, read_tile, read_word : Out(banks), Out(address), Out(address)
        To the banks.
    read_data : In(8 * columns).array(banks)
    front, shift, shift_on : Out(8 * columns), Out(1), Out(1)
        To row 0 (``front_in``, ``shift_in``) and to all rows (``shift_on``).
    below, above : In(8 * columns), Out(8 * columns)
        M link, only with `links`: the words entering row 0 of the tier below, and of this tier, one cycle later.
    """

    def __init__(self, rows: int, columns: int, *, vcache_tiles: int, banks: int, links: bool = True) -> None:
        self.rows = rows
        self.columns = columns
        self.vcache_tiles = vcache_tiles
        self.banks = banks
        self.links = links
        width = 8 * columns
        members: dict[str, Any] = {
            "load": In(1),
            "from_below": In(1),
            "tile": In(address_bits(vcache_tiles)),
            "read_en": Out(banks),
            "read_tile": Out(address_bits(vcache_tiles)),
            "read_word": Out(address_bits(rows // banks)),
            "read_data": In(width).array(banks),
            "front": Out(width),
            "shift": Out(1),
            "shift_on": Out(1),
        }
        if links:
            members |= {"below": In(width), "above": Out(width)}
        super().__init__(members)

    def module_key(self) -> str:
        """Name of the Verilog module."""
        links = "_links" if self.links else ""
        return f"edge_feeder_r{self.rows}_c{self.columns}_v{self.vcache_tiles}_b{self.banks}{links}"

    def elaborate(self, platform: object) -> Module:
        """Build the row counter and the bank multiplexer."""
        m = Module()
        width = 8 * self.columns

        # Read stage: the first row is read in the cycle of the request, the others follow from the counter.
        row = Signal(range(self.rows))  # next row to be read, when `reading`
        reading = Signal()
        tile = Signal.like(self.tile, reset_less=True)
        from_below = Signal(reset_less=True)
        current_row = Signal.like(row)
        current_below = Signal()
        m.d.comb += [
            current_row.eq(Mux(self.load, self.rows - 1, row)),
            current_below.eq(Mux(self.load, self.from_below, from_below)),
        ]
        with m.If(self.load):
            m.d.sync += [tile.eq(self.tile), from_below.eq(self.from_below), reading.eq(1), row.eq(self.rows - 2)]
        with m.Elif(reading):
            m.d.sync += [row.eq(row - 1), reading.eq(row != 0)]
        active = Signal()
        m.d.comb += [
            active.eq(self.load | reading),
            self.read_tile.eq(Mux(self.load, self.tile, tile)),
        ]
        # With a power of two of banks these divisions are wires; the counter steps them for any other number.
        bank, word = _divide(m, current_row, self.rows, self.banks)
        m.d.comb += self.read_word.eq(word)
        own = active & ~current_below if self.links else active
        for index in range(self.banks):
            m.d.comb += self.read_en[index].eq(own & (bank == index))

        # Shift stage, one cycle later.
        shift = Signal()
        shift_on = Signal()
        below_shifting = Signal(reset_less=True)
        bank_shifting = Signal(self.banks, reset_less=True)
        m.d.sync += [shift.eq(active), shift_on.eq(reading)]
        with m.If(active):
            m.d.sync += below_shifting.eq(current_below)
        for index in range(self.banks):
            with m.If(active):
                m.d.sync += bank_shifting[index].eq(own & (bank == index))
        chosen: Any = 0
        for index in range(self.banks):
            chosen = chosen | Mux(bank_shifting[index], self.read_data[index], 0)
        if self.links:
            chosen = chosen | Mux(below_shifting, self.below, 0)
            above = Signal(width, reset_less=True)
            with m.If(shift):
                m.d.sync += above.eq(self.front)
            m.d.comb += self.above.eq(above)
        m.d.comb += [self.front.eq(chosen), self.shift.eq(shift), self.shift_on.eq(shift_on)]
        return m


def _divide(m: Module, row: Signal, rows: int, banks: int) -> tuple[Value, Value]:
    """Return ``row % banks`` and ``row // banks``: wires for powers of two, a table else."""
    if banks & (banks - 1) == 0:
        bits = banks.bit_length() - 1
        return (row[:bits] if bits else Signal(1, name="only_bank")), row[bits:]
    bank = Signal(range(banks))
    word = Signal(range(max(2, rows // banks)))
    with m.Switch(row):
        for index in range(rows):
            with m.Case(index):
                m.d.comb += [bank.eq(index % banks), word.eq(index // banks)]
    return bank, word
