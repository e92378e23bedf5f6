# SPDX-License-Identifier: Apache-2.0
"""The shortcuts taken while Amaranth builds a netlist change neither the netlist nor its checks."""

import contextlib

import pytest
from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, signed
from amaranth.hdl import _nir as nir
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.emit import Emitter
from hdl.emit import rtlil as rtlil_module
from hdl.emit.verilog import emit
from tests.support.emit.examples import Chain, Filter, Row

pytestmark = pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")


class Mixture(wiring.Component):
    """Constants, selections by a variable, partial assignments, signs."""

    x: In(signed(12))
    index: In(4)
    y: Out(64)
    z: Out(signed(20))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.z.eq(
            Cat(self.x.bit_select(self.index, 5), self.x.word_select(self.index[:2], 4), Const(-3, 9))
        )
        with m.If(self.index[0]):
            for byte in range(8):
                with m.If(self.index == byte):
                    m.d.sync += self.y.word_select(byte, 8).eq(self.x >> byte)
            m.d.sync += self.y[3:11].eq(Mux(self.index[1], self.x, 0x5A))
        with m.Else():
            m.d.sync += self.y.word_select(self.index, 4).eq(Array([1, 2, 3, Signal(4)])[self.index])
        return m


class Cycle(wiring.Component):
    """A combinational cycle, through whatever the test chooses."""

    i: In(2)
    o: Out(8)

    def __init__(self, kind: str) -> None:
        self.kind = kind
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bus, word = Signal(32), Signal(8)
        m.d.comb += [self.o.eq(word), bus[:8].eq(3)]
        match self.kind:
            case "selection":
                m.d.comb += [word.eq(bus.word_select(self.i, 8)), bus[8:].eq(word)]
            case "one bit":
                m.d.comb += [word.eq(bus.word_select(self.i, 8)), bus[19].eq(word[3])]
            case "sign":
                m.d.comb += [word.eq(bus.as_signed().bit_select(self.i, 8)), bus[31].eq(word[0])]
            case "partial":
                with m.If(self.i[0]):
                    m.d.comb += bus[16:24].eq(word)
                m.d.comb += word.eq(bus[16:24])
            case "condition":
                with m.If(word[0]):
                    m.d.comb += bus[8:16].eq(1)
                m.d.comb += word.eq(bus[8:16])
            case "neighbour":  # no cycle: bit 1 of the word from bit 0, which comes from elsewhere
                m.d.comb += [word[0].eq(bus[24]), word[1].eq(word[0]), bus[24].eq(self.i[0])]
        return m


@pytest.mark.parametrize("make", [Mixture, Chain, Filter, lambda: Row(4, 16)])
def test_the_netlist_is_the_same(make: object, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = [module.text for module in rtlil_module.convert(make(), "top", Emitter())]
    monkeypatch.setattr(rtlil_module, "_fast_netlist", contextlib.nullcontext)
    assert [module.text for module in rtlil_module.convert(make(), "top", Emitter())] == fast


@pytest.mark.parametrize("kind", ["selection", "one bit", "sign", "partial", "condition"])
def test_combinational_cycles_are_still_found(kind: str) -> None:
    with pytest.raises(nir.CombinationalCycle):
        emit(Cycle(kind), "top")


def test_what_is_no_cycle_passes() -> None:
    emit(Cycle("neighbour"), "top")


def test_amaranth_is_left_as_it_was() -> None:
    def state() -> list[object]:
        return [
            nir.Value.__dict__["__new__"],
            nir.Value.__dict__["from_const"],
            nir.Part.__dict__["comb_edges_to"],
            nir.AssignmentList.__dict__["comb_edges_to"],
        ]

    before = state()
    emit(Mixture(), "top")
    with pytest.raises(nir.CombinationalCycle):
        emit(Cycle("selection"), "top")
    assert state() == before
    with pytest.raises(AssertionError):
        nir.Value([1])
