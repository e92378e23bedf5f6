# SPDX-License-Identifier: Apache-2.0
"""A block with assumptions on its inputs, claims about what it does, and covers that show the claims are not empty."""

from __future__ import annotations

from typing import Any, TypeVar

from amaranth.back import rtlil
from amaranth.hdl import Cat, ClockDomain, Module, Mux, Signal, Value
from amaranth.lib import wiring

from hdl.emit.amaranth_internals import mark_used
from hdl.emit.hierarchy import ports_of

__all__ = ["Bench"]

ComponentT = TypeVar("ComponentT", bound=wiring.Component)


class Bench:
    """Collects what a proof says, and writes it as one circuit.

    Every output bit of the circuit is a claim that failed in this cycle, or a cover that was reached, and each is low
    from the first cycle on in which an assumption did not hold. The inputs of the blocks are free in every cycle but
    for those that the harness drives. The circuit starts in the state that a reset leaves behind.

    Attributes
    ----------
    m : Module
        Where the harness adds what it needs to watch the block.
    claims, covers : dict of str to Value
        By name, in the order of the circuit's outputs: claims first.
    """

    def __init__(self) -> None:
        self.m = Module()
        mark_used(self.m)
        self.claims: dict[str, Value] = {}
        self.covers: dict[str, Value] = {}
        self._assumed: list[Value] = []
        self._inputs: list[Signal] = []
        self._driven: set[int] = set()
        self._count = 0

    def _name(self, what: str) -> str:
        self._count += 1
        return f"{what}_{self._count}"

    def place(self, block: ComponentT, name: str = "block") -> ComponentT:
        """Put a block below the harness; what is not driven of its inputs is free."""
        mark_used(block)  # a bench that is only asked for its claims is never elaborated
        self.m.submodules[name] = block
        self._inputs += [port.value for port in ports_of(block) if port.direction == "input"]
        return block

    def drive(self, target: Any, value: Any) -> None:
        """Connect an input of a block, which is then not free."""
        self._driven.add(id(Value.cast(target)))
        self.m.d.comb += target.eq(value)

    def free(self, name: str, shape: Any = 1) -> Any:
        """Return a signal that may have any value in any cycle."""
        signal = Signal(shape, name=name.replace(" ", "_"))
        self._inputs.append(Value.cast(signal))  # type: ignore[arg-type]
        return signal

    def constant(self, name: str, shape: Any = 1) -> Any:
        """Return a signal that may have any value, the same in every cycle."""
        choice, held, started = self.free(name, shape), Signal(shape, name=f"{name}_held"), Signal()
        value = Signal(shape, name=f"{name}_value")
        self.m.d.comb += value.eq(Mux(started, held, choice))
        self.m.d.sync += [held.eq(value), started.eq(1)]
        return value

    def past(self, value: Any, init: int = 0) -> Signal:
        """Return what a value was in the cycle before."""
        cast = Value.cast(value)
        signal = Signal(cast.shape(), name=self._name("past"), init=init)
        self.m.d.sync += signal.eq(cast)
        return signal

    def wire(self, value: Any) -> Signal:
        """Return a signal that carries a value: an expression that is used often is built once."""
        cast = Value.cast(value)
        signal = Signal(cast.shape(), name=self._name("wire"))
        self.m.d.comb += signal.eq(cast)
        return signal

    def count(self, bits: int, up: Any, down: Any = 0) -> Signal:
        """Return a counter: how often (or by how much) `up` exceeds `down` in the cycles before, modulo its width."""
        signal = Signal(bits, name=self._name("count"))
        self.m.d.sync += signal.eq(signal + up - down)
        return signal

    def assume(self, condition: Any) -> None:
        """Look only at what happens while this holds."""
        self._assumed.append(Value.cast(condition).any())

    def claim(self, name: str, condition: Any) -> None:
        """State that this holds in every cycle."""
        assert name not in self.claims
        self.claims[name] = Value.cast(condition).any()

    def cover(self, name: str, condition: Any) -> None:
        """State that this can happen."""
        assert name not in self.covers
        self.covers[name] = Value.cast(condition).any()

    def hold(self, name: str, valid: Any, ready: Any, payload: Any) -> None:
        """Claim that what is offered stays as it is until it is taken."""
        waited = self.past(Value.cast(valid) & ~Value.cast(ready))
        self.claim(f"{name} stays offered", ~waited | valid)
        self.claim(f"{name} keeps its payload", ~waited | (self.past(payload) == Value.cast(payload)))

    def assume_hold(self, valid: Any, ready: Any, payload: Any) -> None:
        """Assume that what is offered to the block stays as it is until the block takes it."""
        waited = self.past(Value.cast(valid) & ~Value.cast(ready))
        self.assume(~waited | (Value.cast(valid) & (self.past(payload) == Value.cast(payload))))

    def circuit(self) -> str:
        """Return the RTLIL text of the module ``top``."""
        m = self.m
        fine, so_far = Signal(), Signal(init=1)
        m.d.comb += fine.eq(so_far & Cat(*self._assumed, 1).all())
        m.d.sync += so_far.eq(fine)
        failed, reached = Signal(len(self.claims), name="failed"), Signal(len(self.covers), name="reached")
        m.d.comb += [
            failed.eq(Cat(fine & ~claim for claim in self.claims.values())),
            reached.eq(Cat(fine & cover for cover in self.covers.values())),
        ]
        domain = ClockDomain("sync", reset_less=True)
        m.domains += domain
        inputs = [signal for signal in self._inputs if id(signal) not in self._driven]
        for number, signal in enumerate(inputs):
            signal.name = f"in{number}_{signal.name}"  # ports of two blocks may have one name
        return rtlil.convert(m, ports=[domain.clk, *inputs, failed, reached], name="top", emit_src=False)
