# SPDX-License-Identifier: Apache-2.0
"""Small components to emit: a miniature of the array, and corner cases."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, enum, fifo, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.emit import StructuralComponent, Structure, instantiate


class Pe(wiring.Component):
    """One multiply-accumulate with a stationary operand; `elaborated` counts how often it is really built."""

    elaborated = 0
    constructed = 0

    def __init__(self) -> None:
        type(self).constructed += 1
        super().__init__(
            {
                "load": In(1),
                "weight": In(signed(8)),
                "weight_out": Out(signed(8)),
                "act": In(signed(8)),
                "psum": In(signed(32)),
                "psum_out": Out(signed(32)),
            }
        )

    def module_key(self) -> str:
        return "pe"

    def elaborate(self, platform: object) -> Module:
        type(self).elaborated += 1
        m = Module()
        with m.If(self.load):
            m.d.sync += self.weight_out.eq(self.weight)
        m.d.sync += self.psum_out.eq(self.psum + self.act * self.weight_out)
        return m


class Row(wiring.Component):
    """PEs with the bank of stationary words over them."""

    def __init__(self, columns: int, depth: int) -> None:
        self.columns, self.depth = columns, depth
        super().__init__(
            {
                "load": In(1),
                "address": In(range(depth)),
                "from_below": In(1),
                "below": In(8 * columns),
                "above": Out(8 * columns),
                "act": In(signed(8)),
                "psum": In(32 * columns),
                "psum_out": Out(32 * columns),
                "fill": In(1),
                "fill_address": In(range(depth)),
                "fill_data": In(8 * columns),
                "load_out": Out(1),
                "address_out": Out(range(depth)),
            }
        )

    def module_key(self) -> str:
        return f"row_c{self.columns}_d{self.depth}"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.bank = bank = memory.Memory(shape=unsigned(8 * self.columns), depth=self.depth, init=[])
        read, write = bank.read_port(), bank.write_port()
        m.d.comb += [
            read.addr.eq(self.address),
            write.addr.eq(self.fill_address),
            write.data.eq(self.fill_data),
            write.en.eq(self.fill),
        ]
        m.d.sync += [self.load_out.eq(self.load), self.address_out.eq(self.address)]
        word = Signal(8 * self.columns)
        m.d.comb += word.eq(Mux(self.from_below, self.below, read.data))
        for column in range(self.columns):
            pe = instantiate(m, platform, f"pe_{column}", Pe())
            m.d.comb += [
                pe.load.eq(self.load_out),
                pe.weight.eq(word.word_select(column, 8)),
                self.above.word_select(column, 8).eq(pe.weight_out),
                pe.act.eq(self.act),
                pe.psum.eq(self.psum.word_select(column, 32)),
                self.psum_out.word_select(column, 32).eq(pe.psum_out),
            ]
        return m


class Tier(StructuralComponent):
    """Rows, wired as text: its vertical links would not fit through an Amaranth module at 128 x 128."""

    def __init__(self, rows: int, columns: int, depth: int) -> None:
        self.rows, self.columns, self.depth = rows, columns, depth
        super().__init__(
            {
                "load": In(1),
                "address": In(range(depth)),
                "from_below": In(rows),
                "below": In(8 * columns).array(rows),
                "above": Out(8 * columns).array(rows),
                "act": In(8 * rows),
                "psum": In(32 * columns),
                "psum_out": Out(32 * columns),
                "fill": In(rows),
                "fill_address": In(range(depth)),
                "fill_data": In(8 * columns),
            }
        )

    def module_key(self) -> str:
        return f"tier_r{self.rows}_c{self.columns}_d{self.depth}"

    def structure(self) -> Structure:
        s = Structure(self)
        load, address, psum = self.load, self.address, self.psum
        for index in range(self.rows):
            row = s.add(f"row_{index}", Row(self.columns, self.depth))
            s.connect(row.load, load)
            s.connect(row.address, address)
            s.connect(row.psum, psum)
            s.connect(row.from_below, self.from_below[index])
            s.connect(row.below, self.below[index])
            s.connect(self.above[index], row.above)
            s.connect(row.act, self.act.word_select(index, 8))
            s.connect(row.fill, self.fill[index])
            s.connect(row.fill_address, self.fill_address)
            s.connect(row.fill_data, self.fill_data)
            load, address, psum = row.load_out, row.address_out, row.psum_out
        s.connect(self.psum_out, psum)
        return s


class Stack(StructuralComponent):
    """Tiers with the vertical link between them."""

    def __init__(self, tiers: int, rows: int, columns: int, depth: int = 8) -> None:
        self.tiers, self.rows, self.columns, self.depth = tiers, rows, columns, depth
        super().__init__(
            {
                "load": In(1),
                "address": In(range(depth)),
                "from_below": In(rows * tiers),
                "act": In(8 * rows),
                "psum": In(32 * columns),
                "psum_out": Out(32 * columns),
                "fill": In(rows * tiers),
                "fill_address": In(range(depth)),
                "fill_data": In(8 * columns),
            }
        )

    def module_key(self) -> str:
        return f"stack_t{self.tiers}_r{self.rows}_c{self.columns}_d{self.depth}"

    def structure(self) -> Structure:
        s = Structure(self)
        psum, below = self.psum, None
        for index in range(self.tiers):
            tier = s.add(f"tier_{index}", Tier(self.rows, self.columns, self.depth))
            for name in ("load", "address", "act", "fill_address", "fill_data"):
                s.connect(getattr(tier, name), getattr(self, name))
            mine = slice(index * self.rows, (index + 1) * self.rows)
            s.connect(tier.from_below, self.from_below[mine])
            s.connect(tier.fill, self.fill[mine])
            s.connect(tier.psum, psum)
            if below is not None:
                for row in range(self.rows):
                    s.connect(tier.below[row], below[row])
            psum, below = tier.psum_out, tier.above
        s.connect(self.psum_out, psum)
        return s


class Op(enum.Enum, shape=2):
    NOP = 0
    ADD = 1
    XOR = 3


class Packet(data.Struct):
    op: Op
    value: signed(6)
    pair: data.ArrayLayout(unsigned(4), 2)


class Filter(wiring.Component):
    """Struct payloads, two equal library FIFOs, an FSM, a ROM: what ordinary blocks are made of."""

    i: In(stream.Signature(Packet))
    o: Out(stream.Signature(Packet))
    state: Out(3)

    def module_key(self) -> str:
        return "filter"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.first = first = fifo.SyncFIFOBuffered(width=16, depth=4)
        m.submodules.second = second = fifo.SyncFIFOBuffered(width=16, depth=4)
        head = data.View(Packet, second.r_data)
        m.submodules.rom = rom = memory.Memory(shape=8, depth=4, init=[1, 2, 7], attrs={"ram_style": "distributed"})
        look = rom.read_port(domain="comb")
        count = Signal(3)
        m.d.sync += count.eq(count + 1)
        m.d.comb += [
            first.w_data.eq(self.i.payload),
            first.w_en.eq(self.i.valid),
            self.i.ready.eq(first.w_rdy),
            second.w_data.eq(first.r_data),
            second.w_en.eq(first.r_rdy),
            first.r_en.eq(second.w_rdy),
            second.r_en.eq(self.o.ready),
            self.o.valid.eq(second.r_rdy),
            look.addr.eq(count),
            # Only what is valid may show: Amaranth's simulator clears the read register of a memory on reset, while
            # its Verilog (rightly, for block RAM) keeps it.
            self.o.payload.pair.eq(Mux(self.o.valid, head.pair.as_value(), 0)),
        ]
        with m.FSM():
            for index, name in enumerate("ABC"):
                with m.State(name):
                    m.d.comb += self.state.eq(index ^ look.data)
                    with m.If(self.o.valid), m.Switch(head.op):
                        with m.Case(Op.ADD):
                            m.d.comb += self.o.payload.value.eq(head.value + count + index)
                        with m.Case(Op.XOR):
                            m.d.comb += self.o.payload.value.eq(head.value ^ count)
                    with m.If(self.o.valid & self.o.ready):
                        m.next = "BCA"[index]
        return m


class Rename(wiring.Component):
    """Only wires: no cell at all."""

    i: In(8)
    o: Out(8)

    def module_key(self) -> str:
        return "rename"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.o.eq(Cat(self.i[4:], self.i[:4]))
        return m


class Chain(wiring.Component):
    """Two filters in a row, one with a reset of its own, and a constant output bit."""

    i: In(stream.Signature(Packet))
    o: Out(stream.Signature(Packet))
    clear: In(1)
    states: Out(8)
    swapped: Out(8)

    def module_key(self) -> str:
        return "chain"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        a = instantiate(m, platform, "a", Filter())
        b = instantiate(m, platform, "b", Filter(), reset=self.clear)
        swap = instantiate(m, platform, "swap", Rename())
        wiring.connect(m, wiring.flipped(self.i), a.i)
        wiring.connect(m, a.o, b.i)
        wiring.connect(m, b.o, wiring.flipped(self.o))
        m.d.comb += [
            self.states.eq(Cat(a.state, b.state)),
            self.states[7].eq(1),
            swap.i.eq(self.states),
            self.swapped.eq(swap.o),
        ]
        return m
