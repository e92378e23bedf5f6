# SPDX-License-Identifier: Apache-2.0
"""Data path of a load engine, in slices that are emitted once: the gearbox of fill words, and that of other items."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.config import MachineConfig
from hdl.isa import LIST_ENTRY_BYTES
from hdl.memory.jobs import LoadKind, item_bytes, kind_item_bytes, log2
from hdl.memory.nibbles import merge_planes
from hdl.numerics import LOW_MISSING

__all__ = ["FillGearbox", "ItemGearbox", "beats_per_word", "words_per_beat"]


def beats_per_word(config: MachineConfig, kind: LoadKind) -> int:
    """Return how many beats an output word takes, at least 1."""
    return max(1, kind_item_bytes(config, kind) // config.group_bytes)


def words_per_beat(config: MachineConfig, kind: LoadKind) -> int:
    """Return how many output words a beat holds, at least 1."""
    return max(1, config.group_bytes // kind_item_bytes(config, kind))


class FillGearbox(wiring.Component):
    """Some bytes of the beats, and twice as many bytes of the output register.

    Latency: one cycle. Throughput: one beat per cycle.

    Parameters
    ----------
    width : int
        Bytes of a beat in this slice.
    partner : bool
        Merge with the beats of the other plane (engine 0); without, only the high plane comes.
    item : int
        Low bytes of the output that items are written to; 0 = none.

    Members
    -------
    beat : In(8 * width) / partner : In(8 * width)
        This engine's beat; the other engine's, with `partner`.
    take : In(1) / previous : Out(8 * width)
        Keep the beat; the one kept last.
    bytes : In(16 * width)
        This slice of {newest beat, the one before it}.
    item : In(8 * item)
    load_fill, load_item : In(1)
        Write the output with a fill word / an item.
    merge : In(1)
        The fill word is made of planes, else of bytes.
    pair, high : In(1)
        With `partner`: there are two planes, and this engine's is the high one.
    low : In(1)
        The beat is a low plane alone; the upper four bits of each byte do not matter then.
    out : Out(16 * width)
    """

    def __init__(self, width: int, *, partner: bool, item: int) -> None:
        self.width = width
        self.has_partner = partner
        self.item_width = item
        ports = {
            "beat": In(8 * width),
            "take": In(1),
            "previous": Out(8 * width),
            "bytes": In(16 * width),
            "load_fill": In(1),
            "merge": In(1),
            "low": In(1),
            "out": Out(16 * width),
        }
        if item:
            ports |= {"load_item": In(1), "item": In(8 * item)}
        if partner:
            ports |= {"partner": In(8 * width), "pair": In(1), "high": In(1)}
        super().__init__(ports)

    def module_key(self) -> str:
        """Name of the Verilog module."""
        kind = "pair" if self.has_partner else "single"
        return f"fill_gearbox_{kind}_b{self.width}_i{self.item_width}"

    def elaborate(self, platform: object) -> Module:
        """Build the registers and the merge."""
        m = Module()
        with m.If(self.take):
            m.d.sync += self.previous.eq(self.beat)
        # Planes of the weights; Signals, because an expression that is used twice is emitted twice.
        high, low = Signal(8 * self.width), Signal(8 * self.width)
        m.d.comb += [
            high.eq(self.beat),
            low.eq(Mux(self.low, self.beat, Const(LOW_MISSING, 4).replicate(2 * self.width))),
        ]
        if self.has_partner:
            with m.If(self.pair):
                m.d.comb += low.eq(Mux(self.high, self.partner, self.beat))
                with m.If(~self.high):
                    m.d.comb += high.eq(self.partner)
        merged = Signal(16 * self.width)
        m.d.comb += merged.eq(merge_planes(high, low))
        with m.If(self.load_fill):
            m.d.sync += self.out.eq(Mux(self.merge, merged, self.bytes))
        if self.item_width:
            with m.If(self.load_item):
                m.d.sync += self.out[: 8 * self.item_width].eq(self.item)
        return m


class ItemGearbox(wiring.Component):
    """Units, combine rows and list entries out of beats.

    Latency: ``item`` is combinational, ``rest`` takes one cycle. Throughput: one beat per cycle.

    Parameters
    ----------
    config : MachineConfig

    Members
    -------
    beat, previous : In(8 * group_bytes)
        The newest beat, and the one that was kept before.
    take : In(1)
        Keep the beat.
    sub : In
        Number of the word in the beat.
    list, row : In(1)
        A list entry / a row of 2 x columns bytes, else a bus word.
    load_item : In(1)
        Write the output.
    item : Out(8 * item_bytes)
    rest : Out
        Register of the bytes of ``item`` beyond a fill word, if there are any.
    """

    def __init__(self, config: MachineConfig, sub_bits: int) -> None:
        self.config = config
        self.sub_bits = sub_bits
        width = 8 * config.group_bytes
        ports = {
            "beat": In(width),
            "previous": In(width),
            "take": In(1),
            "sub": In(sub_bits),
            "list": In(1),
            "row": In(1),
            "load_item": In(1),
            "item": Out(8 * item_bytes(config)),
        }
        if self.rest_bytes:
            ports["rest"] = Out(8 * self.rest_bytes)
        super().__init__(ports)

    @property
    def rest_bytes(self) -> int:
        """Bytes of an item beyond a fill word."""
        return max(0, item_bytes(self.config) - self.config.fill_bytes)

    def module_key(self) -> str:
        """Name of the Verilog module."""
        c = self.config
        return f"item_gearbox_b{c.group_bytes}_r{c.rows}_c{c.columns}_s{self.sub_bits}"

    def elaborate(self, platform: object) -> Module:
        """Build the selection, and registers for items of more than two beats."""
        m = Module()
        config = self.config
        kinds = (LoadKind.ACTIVATION, LoadKind.LIST, LoadKind.ROWS)
        beats = {kind: beats_per_word(config, kind) for kind in kinds}
        words = {kind: words_per_beat(config, kind) for kind in kinds}
        recent: list[Value] = [self.beat, self.previous]
        older = [Signal(8 * config.group_bytes, name=f"older{i}") for i in range(max(beats.values()) - 2)]
        with m.If(self.take):
            m.d.sync += [new.eq(old) for new, old in zip(older, [self.previous, *older], strict=False)]
        recent += older

        def gathered(kind: LoadKind) -> Value:
            if beats[kind] > 1:
                return Cat(*reversed(recent[: beats[kind]]))
            if words[kind] == 1:
                return self.beat
            return self.beat.word_select(self.sub[: log2(words[kind])], len(self.beat) // words[kind])

        # A row is as long as a bus word (R = 2C) or twice that; then its lower half shares the bus word's multiplexer.
        word, row = LoadKind.ACTIVATION, LoadKind.ROWS
        if beats[row] > beats[word]:
            newest = Cat(*reversed(recent[: beats[word]]))
            before = Cat(*reversed(recent[beats[word] : beats[row]]))
            m.d.comb += self.item.eq(Cat(Mux(self.row, before, newest), newest))
        elif words[row] < words[word]:
            width = len(self.beat) // words[word]
            index = Signal(log2(words[word]))
            m.d.comb += index.eq(Mux(self.row, self.sub << 1, self.sub))
            odd = Cat(self.beat.word_select(2 * i + 1, width) for i in range(words[row]))
            upper = odd.word_select(index[1:], width) if words[row] > 1 else odd
            m.d.comb += self.item.eq(Cat(self.beat.word_select(index, width), upper))
        else:
            m.d.comb += self.item.eq(gathered(word))
        with m.If(self.list):
            m.d.comb += self.item[: 8 * LIST_ENTRY_BYTES].eq(gathered(LoadKind.LIST))
        if self.rest_bytes:
            with m.If(self.load_item):
                m.d.sync += self.rest.eq(self.item[8 * config.fill_bytes :])
        return m
