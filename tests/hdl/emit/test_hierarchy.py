# SPDX-License-Identifier: Apache-2.0
"""Each distinct module is emitted once; misuse is refused with one clear line."""

import gc
import re
import time
import warnings
from pathlib import Path

import pytest
from amaranth.hdl import Module, ResetInserter, Signal
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from hdl.emit import EmitError, Emitter, Hierarchical, digest, instantiate
from hdl.emit.files import FILE_LIST
from hdl.emit.hierarchy import ports_of
from hdl.emit.verilog import emit, write
from tests.support.emit import bench
from tests.support.emit.examples import Chain, Filter, Pe, Row, Stack

# Half of these tests build components only to see them refused.
pytestmark = pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")


class Counter(wiring.Component):
    """Counts; parameters choose the step, the key and the width."""

    def __init__(self, step: int = 1, key: str = "counter", width: int = 8) -> None:
        self.step, self.key = step, key
        super().__init__({"enable": In(1), "count": Out(width)})

    def module_key(self) -> str:
        return self.key

    def elaborate(self, platform: object) -> Module:
        m = Module()
        with m.If(self.enable):
            m.d.sync += self.count.eq(self.count + self.step)
        return m


class Plain(wiring.Component):
    """Holds other components, and offers no key."""

    def __init__(self, *children: wiring.Component, reset: bool = False) -> None:
        self.children, self.reset = children, reset
        super().__init__({"clear": In(1), "total": Out(12)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        total = 0
        for index, child in enumerate(self.children):
            instantiate(m, platform, f"child_{index}", child, reset=self.clear if self.reset else None)
            if hasattr(child, "count"):
                m.d.comb += child.enable.eq(1)
                total += child.count
            else:
                total += child.total
        m.d.comb += self.total.eq(total)
        return m


def test_a_key_that_is_used_many_times_is_emitted_once() -> None:
    design = emit(Stack(2, 4, 4), "top")
    assert list(design.modules) == ["pe", "row_c4_d8", "tier_r4_c4_d8", "top"]
    assert design.instances == {"pe": 32, "row_c4_d8": 8, "tier_r4_c4_d8": 2, "top": 1}
    assert list(design.files) == ["rtl/pe.v", "rtl/row_c4_d8.v", "rtl/tier_r4_c4_d8.v", "rtl/top.v"]
    for name, text in design.modules.items():
        assert text.count("\nendmodule") == 1
        assert text.startswith(f"module {name} (\n  input wire clk,\n  input wire rst,\n")


def test_children_are_built_once_per_key_not_once_per_instance() -> None:
    Pe.elaborated = Pe.constructed = 0
    emit(Stack(4, 16, 16), "top")
    assert (Pe.elaborated, Pe.constructed) == (1, 16)


def test_private_submodules_are_prefixed_and_equal_ones_are_merged() -> None:
    design = emit(Chain(), "top")
    assert list(design.modules) == ["filter__first", "filter", "rename", "top"]
    assert design.files["rtl/filter.v"] == ("filter__first", "filter")
    assert "filter__first first (" in design.modules["filter"]
    assert "filter__first second (" in design.modules["filter"]
    assert design.instances["filter__first"] == 4


class TwoFifos(wiring.Component):
    """Inline FIFOs that differ only in a number."""

    def __init__(self, first: int, second: int) -> None:
        self.depths = first, second
        super().__init__({"i": In(stream.Signature(8)), "o": Out(stream.Signature(8))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        source = wiring.flipped(self.i)
        for index, depth in enumerate(self.depths):
            m.submodules[f"fifo_{index}"] = part = fifo.SyncFIFOBuffered(width=8, depth=depth)
            wiring.connect(m, source, part.w_stream)
            source = part.r_stream
        wiring.connect(m, source, wiring.flipped(self.o))
        return m


def test_only_equal_submodules_are_merged() -> None:
    assert list(emit(TwoFifos(6, 6), "top").modules) == ["top__fifo_0", "top"]
    assert list(emit(TwoFifos(6, 7), "top").modules) == ["top__fifo_0", "top__fifo_1", "top"]


def test_a_component_without_a_key_stays_inline() -> None:
    design = emit(Plain(Plain(Counter(), Counter()), Counter()), "top")
    assert sorted(design.modules) == ["counter", "top", "top__child_0"]
    assert design.instances == {"counter": 3, "top__child_0": 1, "top": 1}


def test_a_component_of_wires_only_is_a_module_too() -> None:
    assert "assign o = { i[3:0], i[7:4] };" in emit(Chain(), "top").modules["rename"]


def test_generated_text_has_no_escaped_names_sources_or_generator() -> None:
    text = "".join(emit(Chain(), "top").modules.values()) + "".join(emit(Row(4, 8), "row").modules.values())
    assert "\\" not in text
    assert "src" not in text
    assert "Yosys" not in text and "verilog_backend" not in text and "generator" not in text
    assert '(* ram_style = "distributed" *)' in text  # what a designer asked for stays


def test_memories_are_listed_and_zeros_do_not_take_a_line_each() -> None:
    design = emit(Stack(1, 2, 2, depth=4096), "top")
    (bank,) = design.memories
    assert (bank.module, bank.name, bank.width, bank.depth, bank.read_ports, bank.write_ports) == (
        "row_c2_d4096",
        "bank",
        16,
        4096,
        1,
        1,
    )
    assert len(design.modules["row_c2_d4096"]) < 6000
    rom = next(memory for memory in emit(Filter(), "top").memories if memory.name == "rom")
    assert (rom.width, rom.depth, rom.write_ports, rom.zero) == (8, 4, 0, False)


def test_reset_of_a_child_resets_it_in_the_plain_form() -> None:
    m = Module()
    clear = Signal()
    counter = instantiate(m, None, "counter", Counter(), reset=clear)

    async def bench(ctx: object) -> None:
        ctx.set(counter.enable, 1)
        await ctx.tick().repeat(5)
        assert ctx.get(counter.count) == 5
        ctx.set(clear, 1)
        await ctx.tick()
        assert ctx.get(counter.count) == 0

    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


def test_reset_of_a_child_drives_the_rst_of_the_instance() -> None:
    text = emit(Plain(Counter(), reset=True), "top").modules["top"]
    (wire,) = re.findall(r"assign (\w+) = rst \| clear;", text)
    assert f".rst({wire})" in text


def test_keys_that_leave_out_a_parameter_are_found() -> None:
    children = (Counter(step=1), Counter(step=2))
    assert emit(Plain(*children), "top").instances["counter"] == 2  # not seen without the check
    with pytest.raises(EmitError, match="module key 'counter' of Counter names two different circuits"):
        emit(Plain(Counter(step=1), Counter(step=2)), "top", verify_keys=True)
    for top in (Stack(2, 2, 2), Chain(), Plain(Counter(), Counter())):
        emit(top, "top", verify_keys=True)


class Other(Counter):
    """Another class with the same key."""


class Asynchronous(Counter):
    """Uses a clock domain that does not cross module boundaries."""

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.fast += self.count.eq(self.count + 1)
        return m


class Wide(wiring.Component):
    """Too wide for Amaranth."""

    def __init__(self, member: object) -> None:
        super().__init__({"wide": member})

    def module_key(self) -> str:
        return "wide"

    def elaborate(self, platform: object) -> Module:
        return Module()


class Parent(wiring.Component):
    """Places one child."""

    def __init__(self, child: wiring.Component, name: str = "child") -> None:
        self.child, self.name = child, name
        super().__init__({"unused": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        instantiate(m, platform, self.name, self.child)
        return m


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Plain(Counter(), Other()), "module key 'counter' is used by both Counter and Other"),
        (lambda: Plain(Counter(), Counter(width=4)), "names two signatures, which differ in count"),
        (
            lambda: Plain(Counter(key="8_counters")),
            "module_key.. of Counter is '8_counters', which is no Verilog ident",
        ),
        (lambda: Plain(Counter(key="module")), "module_key.. of Counter is 'module', a reserved word"),
        (lambda: Plain(Counter(key="top")), "module key 'top' of Counter is also the name of the top module"),
        (lambda: Plain(Plain(Counter()), reset=True), "the reset would not reach its instance of counter"),
        (lambda: Parent(Asynchronous()), "Asynchronous uses the clock domain 'fast', but only 'sync' crosses"),
        (lambda: Parent(Wide(In(65536))), "inputs of Wide have 65538 bits, more than Amaranth's 65536"),
        (lambda: Parent(Wide(Out(65537))), "output wide of Wide .instance 'child'. has 65537 bits"),
        (lambda: Parent(Counter(), name="a.b"), "name of an instance is 'a.b', which is no Verilog identifier"),
    ],
)
def test_misuse_is_refused(make: object, message: str) -> None:
    with pytest.raises(EmitError, match=message):
        emit(make(), "top")


class ManyOutputs(wiring.Component):
    """More outputs than Amaranth counts for one cell."""

    x: In(8)
    y: Out(1024).array(130)

    def module_key(self) -> str:
        return "many_outputs"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for index, y in enumerate(self.y):
            m.d.sync += y.eq(self.x + index)
        return m


class Selects(wiring.Component):
    """Ordinary logic above it."""

    x: In(8)
    low: Out(8)
    high: Out(8)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        many = instantiate(m, platform, "many", ManyOutputs())
        m.d.comb += [many.x.eq(self.x), self.low.eq(many.y[0] ^ many.y[60]), self.high.eq(many.y[100] ^ many.y[129])]
        return m


def test_an_instance_may_have_more_outputs_than_amaranth_counts(tmp_path: Path, icarus: str) -> None:
    design = emit(Selects(), "dut")
    assert design.instances == {"many_outputs": 1, "dut": 1}
    assert "outputs_" not in design.modules["dut"].replace("many_outputs", "")
    write(design, tmp_path / "out")
    result = bench.replay(
        Selects(), "dut", tmp_path / "out" / FILE_LIST, tmp_path / "work", simulator=icarus, cycles=80
    )
    assert result == "EQUAL"


@pytest.mark.parametrize("name", ["clk", "rst", "wire"])
def test_ports_with_taken_names_are_refused(name: str) -> None:
    class Bad(wiring.Component):
        def __init__(self) -> None:
            super().__init__({name: In(1)})

        def elaborate(self, platform: object) -> Module:
            return Module()

    with pytest.raises(EmitError, match=name):
        emit(Bad(), "top")


def test_ports_without_width_are_left_out() -> None:
    class Narrow(wiring.Component):
        nothing: In(0)
        something: In(range(3), init=2)

        def elaborate(self, platform: object) -> Module:
            return Module()

    (port,) = ports_of(Narrow())
    assert (port.name, port.width, port.init) == ("something", 2, 2)
    assert "nothing" not in emit(Narrow(), "top").modules["top"]


def test_components_that_serve_as_wires_are_not_reported_as_unused() -> None:
    gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        emit(Stack(2, 2, 2), "top")
        emit(Chain(), "top")
        gc.collect()
    assert not caught


def test_the_protocol_describes_the_components() -> None:
    assert isinstance(Counter(), Hierarchical)
    assert not isinstance(Plain(), Hierarchical)
    assert not hasattr(Emitter(), "get_memory")  # the library must not take it for a board


def test_digest_depends_on_values_only() -> None:
    assert digest(1, "a") == digest(1, "a") != digest(1, "b")
    with pytest.raises(EmitError, match="memory address"):
        digest(object())


def test_a_reset_inserter_around_a_leaf_still_works() -> None:
    m = Module()
    m.submodules.counter = ResetInserter(Signal(name="clear"))(Counter())
    Simulator(m)


@pytest.mark.parametrize(
    ("shape", "seconds", "size"),
    [((1, 4, 4), 5, 50_000), ((2, 8, 8), 5, 100_000), ((4, 16, 16), 5, 200_000), ((4, 128, 128, 1024), 15, 2_000_000)],
)
def test_emission_stays_within_its_budget(shape: tuple[int, ...], seconds: float, size: int) -> None:
    start = time.monotonic()
    design = emit(Stack(*shape), "top")
    assert time.monotonic() - start < seconds
    assert sum(map(len, design.modules.values())) < size
    tiers, rows, columns = shape[:3]
    assert design.instances["pe"] == tiers * rows * columns
