# SPDX-License-Identifier: Apache-2.0
"""Structural components: any width, whole ports only, and clear refusals."""

from collections.abc import Callable
from pathlib import Path

import pytest
from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from hdl.emit import EmitError, StructuralComponent, Structure
from hdl.emit.files import FILE_LIST
from hdl.emit.hierarchy import mark_used, ports_of
from hdl.emit.lint import check_yosys, lint_verilator
from hdl.emit.verilog import emit, write
from sim.simulator.tools import find_verilator
from tests.support.emit import bench

pytestmark = pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")


class Delay(wiring.Component):
    """One register."""

    def __init__(self, width: int, init: int = 0) -> None:
        self.width, self.init = width, init
        super().__init__({"d": In(width, init=init), "q": Out(width)})

    def module_key(self) -> str:
        return f"delay_{self.width}" + (f"_{self.init}" if self.init else "")

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.sync += self.q.eq(self.d)
        return m


class Mix(StructuralComponent):
    """Slices, concatenations, constants, a reset, an unconnected input, a path from input to output."""

    def __init__(self) -> None:
        pair = data.StructLayout({"low": 3, "high": 5})
        super().__init__(
            {
                "x": In(8),
                "fields": In(pair),
                "clear": In(2),
                "y": Out(8),
                "both": Out(16),
                "through": Out(10),
                "fixed": Out(4),
                "early": Out(8),
                "kept": Out(8, init=0),
                "many": Out(8).array(2),
            }
        )

    def module_key(self) -> str:
        return "mix"

    def structure(self) -> Structure:
        s = Structure(self)
        early = s.add("first", Delay(8))  # comes before the instance whose output it takes
        a = s.add("a", Delay(8), reset=self.clear[1])
        b = s.add("b", Delay(8))
        c = s.add("c", Delay(8, init=0x5A))
        s.connect(early.d, b.q)
        s.connect(self.early, early.q)
        s.connect(a.d, [self.x[4:8], self.x[0:4]])
        s.connect(b.d, Cat(self.fields.high, Const(5, 3)))
        s.connect(self.y, a.q)
        s.connect(self.both, [a.q, b.q])
        s.connect(self.through, Cat(self.x, self.clear))
        s.connect(self.fixed, 9)
        s.connect(self.kept, c.q)
        s.connect(self.many[0], Cat(b.q, a.q)[4:12])
        s.connect(self.many[1], self.fields)
        return s


class Pipe(wiring.Component):
    """A stream register without backpressure storage: enough to link."""

    i: In(stream.Signature(8))
    o: Out(stream.Signature(8))

    def module_key(self) -> str:
        return "pipe"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.i.ready.eq(self.o.ready)
        with m.If(self.o.ready):
            m.d.sync += [self.o.payload.eq(self.i.payload), self.o.valid.eq(self.i.valid)]
        return m


class Pipeline(StructuralComponent):
    """Pipes one after another, linked as interfaces."""

    i: In(stream.Signature(8))
    o: Out(stream.Signature(8))

    def module_key(self) -> str:
        return "pipeline"

    def structure(self) -> Structure:
        s = Structure(self)
        first, second = s.add("first", Pipe()), s.add("second", Pipe())
        s.link(self.i, first.i)
        s.link(first.o, second.i)
        s.link(second.o, self.o)
        return s


class Huge(StructuralComponent):
    """131,072 bits in and as many out: twice Amaranth's limit."""

    def __init__(self) -> None:
        super().__init__({"words": In(1024).array(128), "out": Out(1024).array(128)})

    def module_key(self) -> str:
        return "huge"

    def structure(self) -> Structure:
        s = Structure(self)
        for index in range(128):
            delay = s.add(f"delay_{index}", Delay(1024))
            s.connect(delay.d, self.words[index])
            s.connect(self.out[index], delay.q)
        return s


class HugeTop(StructuralComponent):
    """Two of them in a row: the link between them alone is 131,072 bits."""

    x: In(1024)
    y: Out(1024)

    def module_key(self) -> str:
        return "huge_top"

    def structure(self) -> Structure:
        s = Structure(self)
        a, b = s.add("a", Huge()), s.add("b", Huge())
        for index in range(128):
            s.connect(a.words[index], self.x)
            s.connect(b.words[index], a.out[127 - index])
        s.connect(self.y, b.out[127])
        return s


def test_text_is_readable() -> None:
    assert emit(Pipeline(), "pipeline").modules["pipeline"] == (
        """module pipeline (
  input wire clk,
  input wire rst,
  input wire [7:0] i__payload,
  input wire i__valid,
  output wire i__ready,
  output wire [7:0] o__payload,
  output wire o__valid,
  input wire o__ready
);
  wire [7:0] first__o__payload;
  wire first__o__valid;
  wire second__i__ready;

  pipe first (
    .clk(clk),
    .rst(rst),
    .i__payload(i__payload),
    .i__valid(i__valid),
    .i__ready(i__ready),
    .o__payload(first__o__payload),
    .o__valid(first__o__valid),
    .o__ready(second__i__ready)
  );

  pipe second (
    .clk(clk),
    .rst(rst),
    .i__payload(first__o__payload),
    .i__valid(first__o__valid),
    .i__ready(second__i__ready),
    .o__payload(o__payload),
    .o__valid(o__valid),
    .o__ready(o__ready)
  );

endmodule
"""
    )


@pytest.mark.parametrize("make", [Mix, Pipeline])
def test_the_text_equals_the_plain_form(make: Callable[[], wiring.Component], tmp_path: Path, icarus: str) -> None:
    write(emit(make(), "dut"), tmp_path / "out")
    text = bench.replay(make(), "dut", tmp_path / "out" / FILE_LIST, tmp_path / "work", simulator=icarus)
    assert text == "EQUAL"


def test_more_bits_than_amaranth_can_count(tmp_path: Path) -> None:
    design = emit(HugeTop(), "top")
    write(design, tmp_path)
    assert design.instances == {"delay_1024": 256, "huge": 2, "top": 1}
    huge = Huge()
    mark_used(huge)
    assert sum(port.width for port in ports_of(huge)) == 4 * 65536
    verilator = find_verilator()
    report = lint_verilator(tmp_path / FILE_LIST, "top", verilator=verilator.executable, env=verilator.env())
    assert report.clean, report.messages
    assert check_yosys(tmp_path / FILE_LIST, "top").clean


def test_more_bits_than_amaranth_can_count_simulate_in_the_plain_form() -> None:
    top = HugeTop()

    async def drive(ctx: object) -> None:
        value = int.from_bytes(bytes(range(128)), "little")
        ctx.set(top.x, value)
        await ctx.tick()
        assert ctx.get(top.y) == 0
        await ctx.tick()
        assert ctx.get(top.y) == value

    simulator = Simulator(top)
    simulator.add_clock(1e-6)
    simulator.add_testbench(drive)
    simulator.run()


class Owner(StructuralComponent):
    """Does whatever the test tells it to."""

    x: In(8)
    y: Out(8)
    narrow: In(4)

    def __init__(self, action: Callable[["Owner", Structure], object]) -> None:
        self.action = action
        super().__init__()

    def module_key(self) -> str:
        return "owner"

    def structure(self) -> Structure:
        s = Structure(self)
        self.action(self, s)
        return s


class Keyless(wiring.Component):
    i: In(8)

    def elaborate(self, platform: object) -> Module:
        return Module()


def twice(o: Owner, s: Structure) -> None:
    s.connect(o.y, o.x)
    s.connect(o.y, 3)


def same_name(o: Owner, s: Structure) -> None:
    s.add("a", Delay(8))
    s.add("a", Delay(8))


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (twice, "y of Owner is connected twice in Owner"),
        (same_name, "Owner already has an instance called 'a'"),
        (lambda o, s: s.connect(o.y, o.narrow), "y of Owner has 8 bits but its source in Owner has 4"),
        (lambda o, s: s.connect(o.x, o.y), "x of Owner cannot be driven from inside Owner"),
        (lambda o, s: s.connect(s.add("a", Delay(8)).q, o.x), "q of a cannot be driven from inside Owner"),
        (
            lambda o, s: s.connect(o.y, s.add("a", Delay(8)).d),
            "source of y of Owner in Owner is d of a, which is driven",
        ),
        (lambda o, s: s.connect(o.y, Delay(8).q), "is not a port of the component or of an instance that was added"),
        (lambda o, s: s.connect(o.y[0:4], o.narrow), "is not a whole port"),
        (lambda o, s: s.connect(Signal(8), o.x), "is not a whole port"),
        (lambda o, s: s.connect(o.y, o.x + 1), "contains logic"),
        (lambda o, s: s.connect(o.y, o.x & o.x), "contains logic"),
        (lambda o, s: s.add("x", Delay(8)), "Owner has a port called 'x': choose another instance name"),
        (lambda o, s: s.add("a", Keyless()), "Keyless has no module_key"),
        (lambda o, s: s.add("wire", Delay(8)), "a reserved word"),
        (lambda o, s: s.add("a", Delay(8), reset=o.x), "reset of a in Owner must be one bit wide"),
        (lambda o, s: s.link(s.add("a", Pipe()).o, s.add("b", Pipe()).o), "payload flows the same way on both sides"),
    ],
)
def test_misuse_is_refused(action: Callable[[Owner, Structure], object], message: str) -> None:
    with pytest.raises(EmitError, match=message):
        emit(Owner(action), "top")


def test_a_subclass_without_key_or_structure_says_so() -> None:
    class Empty(StructuralComponent):
        x: In(1)

    with pytest.raises(NotImplementedError, match="Empty must define module_key"):
        Empty().module_key()
    with pytest.raises(NotImplementedError, match="Empty must define structure"):
        emit(Empty(), "top")


def test_a_recursive_structure_is_refused() -> None:
    class Loop(StructuralComponent):
        x: In(1)

        def module_key(self) -> str:
            return "loop"

        def structure(self) -> Structure:
            s = Structure(self)
            s.add("inner", Loop())
            return s

    with pytest.raises(EmitError, match="module 'loop' contains itself: top > loop > loop"):
        emit(Loop(), "top")


def test_names_of_wires_do_not_collide_with_ports_and_instances() -> None:
    class Clash(StructuralComponent):
        a__q: Out(4)
        q: Out(8)
        r: Out(8)

        def module_key(self) -> str:
            return "clash"

        def structure(self) -> Structure:
            s = Structure(self)
            q = s.add("a", Delay(8)).q
            s.connect(self.a__q, q[:4])
            other = self._connect(s)
            s.connect(self.q, other)
            s.connect(self.r, other)
            return s

        def _connect(self, s: Structure) -> Signal:
            return s.add("a__q_w", Delay(8)).q

    text = emit(Clash(), "top").modules["top"]
    assert "wire [7:0] a__q_w_w;" in text and "assign a__q = a__q_w_w[3:0];" in text
    # What is an output as it is has no wire of its own; a second output takes it from the first.
    assert ".q(q)" in text and "assign r = q;" in text and "assign q" not in text
