# SPDX-License-Identifier: Apache-2.0
"""A row of PEs with the memories over it, and the control that a wave brings along.

Theory of operation
-------------------
A *wave* is one small control word that enters row 0 of a tier and moves down one row per cycle, together with the
partial sums.  In cycle ``t`` the row sees the wave on ``wave_in``:

=====  =================================================================================================
t      the V-Cache bank is read (``new``, own bank) and the activation bank is read (own bank)
t+1    the words are there: the PEs' stationary registers load if ``new``, the activation register loads;
       the row below sees the wave
t+2    every PE adds its product to the partial sum from the row above
t+3    the new partial sums are visible on ``psum_out``
=====  =================================================================================================

With links, ``stationary_below`` and ``activation_below`` select the registers of the same row in the tier below
instead of the banks.  That tier got its wave one cycle earlier, so its registers *are* the link registers: a link
costs one multiplexer here and nothing there.

Rows are identical everywhere in the stack, know no operation and keep no state between waves but the stationary word.
A cycle without a valid wave enables no register but the two valid bits, and no memory.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.array.pe import ProcessingElement
from hdl.common.sram import Sram, address_bits
from hdl.emit.hierarchy import instantiate

__all__ = ["ArrayRow", "Row", "row_wave_layout"]


def row_wave_layout(*, activation_words: int, vcache_tiles: int | None, links: bool) -> data.StructLayout:
    """Return the part of a wave that the rows need.

    Parameters
    ----------
    activation_words : int
        Depth of the activation bank.
    vcache_tiles : int or None
        Depth of the V-Cache bank; None for rows without one (edge feed).
    links : bool
        Whether the row can take operands from the tier below.
    """
    fields: dict[str, Any] = {"valid": 1, "new": 1}
    if links and vcache_tiles is not None:
        fields["stationary_below"] = 1
    if links:
        fields["activation_below"] = 1
    if vcache_tiles is not None:
        fields["vcache_addr"] = address_bits(vcache_tiles)
    fields["activation_addr"] = address_bits(activation_words)
    return data.StructLayout(fields)


class ArrayRow(wiring.Component):
    """What rows of both feeds have in common: wave registers, activation bank and PEs.

    Subclasses add the source of the stationary word in :meth:`stationary_source`.

    Parameters
    ----------
    columns : int
        PEs of the row.
    activation_words : int
        Bytes of the activation bank.
    vcache_tiles : int or None
        Words of the V-Cache bank, or None.
    links : bool
        Whether the links to the tier below exist.
    ports : dict
        Members of the subclass.

    Members
    -------
    wave_in : In(row_wave_layout)
        Cycle t.
    wave_out : Out(row_wave_layout)
        The same wave one cycle later, for the next row.
    write_en, write_addr, write_data : In(1), In(address), In(8)
        Write port of the activation bank.
    psum_in : In(32 * columns)
        Partial sums of the row above in cycle t+2; column 0 lowest.
    psum_out : Out(32 * columns)
        Partial sums of this row, visible in cycle t+3.
    activation_below, activation : In(8), Out(8)
        N link, only with `links`: the activation register of the tier below, and the own one.
    """

    def __init__(
        self, columns: int, activation_words: int, vcache_tiles: int | None, links: bool, ports: dict[str, Any]
    ) -> None:
        self.columns = columns
        self.activation_words = activation_words
        self.vcache_tiles = vcache_tiles
        self.links = links
        layout = row_wave_layout(activation_words=activation_words, vcache_tiles=vcache_tiles, links=links)
        members: dict[str, Any] = {
            "wave_in": In(layout),
            "wave_out": Out(layout),
            "write_en": In(1),
            "write_addr": In(address_bits(activation_words)),
            "write_data": In(8),
            "psum_in": In(32 * columns),
            "psum_out": Out(32 * columns),
        }
        if links:
            members |= {"activation_below": In(8), "activation": Out(8)}
        super().__init__(members | ports)

    def stationary_source(self, m: Module, platform: object, wave: Any) -> Value:
        """Return the stationary word (8 x columns bits) that the PEs load in stage t+1, where `wave` is visible."""
        raise NotImplementedError(f"{type(self).__name__} must define stationary_source()")

    def stationary_sink(self, m: Module, stationary: Value) -> None:
        """Use the PEs' stationary registers (8 x columns bits); nothing by default."""

    def elaborate(self, platform: object) -> Module:
        """Build the row."""
        m = Module()
        wave_in, wave = self.wave_in, self.wave_out

        # Stage t+1: the wave, on its way to the next row. Only `valid` moves when there is no wave.
        wave_valid = Signal()
        m.d.sync += wave_valid.eq(wave_in.valid)
        held: dict[str, Signal] = {}
        for field in wave_in.shape().members:
            if field != "valid":
                value = wave_in[field]
                held[field] = Signal(len(value), name=f"wave_{field}", reset_less=True)
                m.d.comb += wave[field].eq(held[field])
        m.d.comb += wave.valid.eq(wave_valid)
        with m.If(wave_in.valid):
            m.d.sync += [register.eq(wave_in[field]) for field, register in held.items()]

        bank = instantiate(m, platform, "activation_bank", Sram(8, self.activation_words))
        own = wave_in.valid & ~wave_in.activation_below if self.links else wave_in.valid
        m.d.comb += [
            bank.write_en.eq(self.write_en),
            bank.write_addr.eq(self.write_addr),
            bank.write_data.eq(self.write_data),
            bank.read_en.eq(own),
            bank.read_addr.eq(wave_in.activation_addr),
        ]
        activation = Signal(signed(8), reset_less=True)
        with m.If(wave_valid):
            if self.links:
                m.d.sync += activation.eq(Mux(wave.activation_below, self.activation_below, bank.read_data))
            else:
                m.d.sync += activation.eq(bank.read_data)
        if self.links:
            m.d.comb += self.activation.eq(activation)

        # Stage t+2: the PEs add.
        compute = Signal()
        load = Signal()
        m.d.sync += compute.eq(wave_valid)
        m.d.comb += load.eq(wave_valid & wave.new)
        word = Signal(8 * self.columns)
        m.d.comb += word.eq(self.stationary_source(m, platform, wave))
        pes = [instantiate(m, platform, f"pe_{column}", ProcessingElement()) for column in range(self.columns)]
        for column, pe in enumerate(pes):
            m.d.comb += [
                pe.load.eq(load),
                pe.stationary_in.eq(word[8 * column : 8 * column + 8]),
                pe.enable.eq(compute),
                pe.activation.eq(activation),
                pe.psum_in.eq(self.psum_in[32 * column : 32 * column + 32]),
            ]
        m.d.comb += self.psum_out.eq(Cat(pe.psum for pe in pes))
        self.stationary_sink(m, Cat(pe.stationary for pe in pes))
        return m


class Row(ArrayRow):
    """Row of the vertical feed: a V-Cache bank over the row hands it a whole stationary word in one cycle.

    Latency: from ``wave_in`` to ``psum_out`` three cycles, to ``wave_out`` one.  Throughput: one wave per cycle, each
    with a new stationary word if it wants one.

    Parameters
    ----------
    columns : int
        PEs of the row.
    vcache_tiles : int
        Words (`columns` bytes) of the V-Cache bank: one per tile.
    activation_words : int
        Bytes of the activation bank.
    links : bool
        Whether the links to the tier below exist.
    column_run : int
        Bytes of the bank's word that a fill word of a transposed tile writes; divides `columns`.

    Members
    -------
    fill_en, fill_addr, fill_data, fill_lane : In(1), In(address), In(8 * columns).array(2), In(1)
        Write port of the V-Cache bank: the data of one of the lanes.
    fill_columns, fill_turned : In(1), In(8 * column_run)
        The word is of a transposed tile: its bytes for this row are these, not ``fill_data``.
    fill_mask : In(columns // column_run)
        Bit i: write the bytes ``i * column_run`` and up, `column_run` of them.
    fill_low : In(1)
        Of these, only the lower four bits.
    stationary_below, stationary : In(8 * columns), Out(8 * columns)
        M link, only with `links`: the stationary registers of the tier below, and the own ones.

    Further members are those of :class:`ArrayRow`.
    """

    def __init__(
        self, columns: int, *, vcache_tiles: int, activation_words: int, links: bool = True, column_run: int = 1
    ) -> None:
        self.column_run = column_run
        ports: dict[str, Any] = {
            "fill_en": In(1),
            "fill_addr": In(address_bits(vcache_tiles)),
            "fill_data": In(8 * columns).array(2),
            "fill_lane": In(1),
            "fill_columns": In(1),
            "fill_turned": In(8 * column_run),
            "fill_mask": In(columns // column_run),
            "fill_low": In(1),
        }
        if links:
            ports |= {"stationary_below": In(8 * columns), "stationary": Out(8 * columns)}
        super().__init__(columns, activation_words, vcache_tiles, links, ports)

    def module_key(self) -> str:
        """Name of the Verilog module."""
        links = "_links" if self.links else ""
        return f"row_c{self.columns}_v{self.vcache_tiles}_a{self.activation_words}_k{self.column_run}{links}"

    def stationary_source(self, m: Module, platform: object, wave: Any) -> Value:
        """Read the V-Cache bank, or take the word of the tier below."""
        assert self.vcache_tiles is not None
        run = self.column_run
        # Two write lanes for each `run` bytes: their lower four bits, then their upper ones.
        memory = Sram(8 * self.columns, self.vcache_tiles, granularity=4 * run)
        bank = instantiate(m, platform, "vcache_bank", memory)
        wave_in = self.wave_in
        own = wave_in.valid & wave_in.new
        data = Mux(self.fill_lane, self.fill_data[1], self.fill_data[0])
        m.d.comb += [
            bank.write_en.eq(self.fill_en),
            bank.write_addr.eq(self.fill_addr),
            bank.write_mask.eq(Cat(Cat(mask, mask & ~self.fill_low) for mask in self.fill_mask)),
            bank.write_data.eq(
                _apart(Mux(self.fill_columns, self.fill_turned.replicate(self.columns // run), data), run)
            ),
            bank.read_en.eq(own & ~wave_in.stationary_below if self.links else own),
            bank.read_addr.eq(wave_in.vcache_addr),
        ]
        word = _together(bank.read_data, run)
        if not self.links:
            return word
        return Mux(wave.stationary_below, self.stationary_below, word)

    def stationary_sink(self, m: Module, stationary: Value) -> None:
        """Offer the stationary registers to the tier above."""
        if self.links:
            m.d.comb += self.stationary.eq(stationary)


def _apart(word: Value, run: int) -> Value:
    """Return, for each `run` bytes of a word, their lower four bits and then their upper ones: wires."""
    size = 2 * run
    places = (size * g + 2 * k + upper for g in range(len(word) // (4 * size)) for upper in (0, 1) for k in range(run))
    return Cat(word.word_select(place, 4) for place in places)


def _together(stored: Value, run: int) -> Value:
    """Return the word that `_apart` makes `stored` of."""
    size = 2 * run
    places = (
        size * g + upper * run + k for g in range(len(stored) // (4 * size)) for k in range(run) for upper in (0, 1)
    )
    return Cat(stored.word_select(place, 4) for place in places)
