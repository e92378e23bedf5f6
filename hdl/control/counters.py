# SPDX-License-Identifier: Apache-2.0
"""Performance counters: a few bits for each event, and a memory of totals that one adder sweeps."""

from __future__ import annotations

from amaranth.hdl import Array, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.common.sram import Sram
from hdl.config import MachineConfig
from hdl.emit.hierarchy import digest, instantiate
from hdl.emit.memory_contract import Collision
from hdl.regs import COUNTER_BITS, GLOBAL_COUNTERS, TIER_COUNTERS, counter_names

__all__ = ["LONGEST_READ", "CounterBank", "event_layout", "tier_event_layout"]

VISIT_CYCLES = 4
"""Cycles in which one counter is brought up to date: read, take, add, write."""

LONGEST_READ = 2 * VISIT_CYCLES
"""Most cycles from ``ask`` to ``answered``: a visit of the sweep that has just begun, and the one asked for."""

_REGISTERS = ("cycles", "last_result")
"""Counters that are registers: all their bits count, or are set, in one cycle."""

_WIDTHS = {"fill_words": 2, "loads_left_out": 2, "loads_reduced": 2}
"""Bits of the events that can happen more than once a cycle, beside those of result rows."""

_ROWS = ("rows", "rows_activation", "rows_combine", "bus_conflict")


def event_layout(config: MachineConfig) -> data.StructLayout:
    """Return the increments of one cycle of the machine's own counters (``cycles`` counts by itself)."""
    widths = _WIDTHS | dict.fromkeys(_ROWS, config.tiers.bit_length())
    return data.StructLayout({name: widths.get(name, 1) for name, _ in GLOBAL_COUNTERS if name != "cycles"})


def tier_event_layout() -> data.StructLayout:
    """Return the increments of one cycle of one tier's counters."""
    return data.StructLayout({name: 1 for name, _ in TIER_COUNTERS})


class CounterBank(wiring.Component):
    """All performance counters and their read port.

    An event counts in a counter of its own of a few bits. A sweep visits one counter after the other, takes what it
    has counted and adds it to the counter's total in a memory. A counter is wide enough for all that can happen
    between two visits of the sweep, also when each visit in between is followed by one that a read asks for. A read
    is such a visit, so what it answers is exact.

    ``cycles`` and ``last_result``, which samples it, are registers.

    Latency: an event is registered and counts in the cycle after, which keeps paths short. ``answered`` follows
    ``ask`` after at most ``LONGEST_READ`` cycles, if ``clear`` does not come in between.

    Members
    -------
    clear : In(1)
        Set all counters to zero.
    enable : In(1)
        Count.
    events : In(event_layout(config))
        Increments. ``first_issue`` counts the cycles before its first event, and is zero until then; ``last_result``
        is ``cycles`` at its last event.
    tier_events : In(tier_event_layout()).array(tiers)
    ask : In(1)
        The value of counter ``index`` is wanted; both hold until ``answered``.
    index : In(8)
        Counter number in the order of ``counter_names``; must be one of them.
    answered : Out(1)
        Pulse: ``value`` is what was asked for.
    value : Out(COUNTER_BITS)
        Holds until the next answer.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "clear": In(1),
                "enable": In(1),
                "events": In(event_layout(config)),
                "tier_events": In(tier_event_layout()).array(config.tiers),
                "ask": In(1),
                "index": In(8),
                "answered": Out(1),
                "value": Out(COUNTER_BITS),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return f"counter_bank_t{self.config.tiers}_{digest(counter_names(self.config))}"

    def elaborate(self, platform: object) -> Module:
        """Build the counters of events, the sweep and the totals."""
        m = Module()
        names = counter_names(self.config)
        events, before_first = self._events(m)
        index = Signal(range(len(names)))
        take = Signal()

        # What has been counted since the last visit, and whether the memory has a total of this stream.
        recent: list[Value] = []
        fresh = Signal(len(names), init=-1)
        for number, name in enumerate(names):
            if name in _REGISTERS:
                recent.append(Const(0, 1))
                continue
            most = (1 << len(events[name])) - 1
            counted = Signal(range(most * 2 * VISIT_CYCLES * len(names) + 1), name=f"recent_{name}")
            recent.append(counted)
            with m.If(self.clear):
                m.d.sync += counted.eq(0)
            with m.Elif(take & (index == number)):
                m.d.sync += counted.eq(events[name])
            with m.Else():
                m.d.sync += counted.eq(counted + events[name])

        cycles, last_result = Signal(COUNTER_BITS), Signal(COUNTER_BITS)
        with m.If(self.clear):
            m.d.sync += [cycles.eq(0), last_result.eq(0)]
        with m.Elif(events["cycles"]):
            m.d.sync += cycles.eq(cycles + 1)
            with m.If(events["last_result"]):
                m.d.sync += last_result.eq(cycles)

        # A visit: read the total, take what is recent, add, write.
        step = Signal(VISIT_CYCLES, init=1)
        asked = Signal()
        turn = Signal.like(index)
        amount = Signal(max(len(each) for each in recent))
        old, total = Signal(COUNTER_BITS), Signal(COUNTER_BITS)
        totals = instantiate(m, platform, "totals", Sram(COUNTER_BITS, len(names), collision=Collision.NEVER))
        m.d.comb += [
            take.eq(step[1]),
            totals.read_en.eq(step[0]),
            totals.read_addr.eq(index),
            totals.write_en.eq(step[3] & ~self.clear),
            totals.write_addr.eq(index),
            totals.write_data.eq(total),
        ]
        m.d.sync += [
            step.eq(step.rotate_left(1)),
            amount.eq(Array(recent)[index]),
            old.eq(Mux(fresh.bit_select(index, 1), 0, totals.read_data)),
            total.eq(old + amount),
            self.answered.eq(0),
        ]
        with m.If(step[3]):
            m.d.sync += fresh.bit_select(index, 1).eq(0)
            with m.If(asked):
                m.d.sync += [self.answered.eq(1), self.value.eq(total)]
                with m.Switch(index):
                    with m.Case(names.index("cycles")):
                        m.d.sync += self.value.eq(cycles)
                    with m.Case(names.index("last_result")):
                        m.d.sync += self.value.eq(last_result)
                    with m.Case(names.index("first_issue")), m.If(before_first):
                        m.d.sync += self.value.eq(0)
            # A read's visit and one of the sweep's by turns, so that reads do not keep the sweep from a counter.
            with m.If(self.ask & ~asked):
                m.d.sync += [asked.eq(1), index.eq(self.index)]
            with m.Else():
                m.d.sync += [asked.eq(0), index.eq(turn), turn.eq(Mux(turn == len(names) - 1, 0, turn + 1))]
        with m.If(self.clear):
            # The visit under way begins again.
            m.d.sync += [step.eq(1), fresh.eq(-1), self.answered.eq(0)]
        return m

    def _events(self, m: Module) -> tuple[dict[str, Signal], Signal]:
        """Return the increments of the counters by name, a cycle late and zero where nothing counts.

        Also returned: whether there has been no ``first_issue`` yet.
        """
        counted: dict[str, Signal] = {"cycles": Signal(name="event_cycles")}
        m.d.sync += counted["cycles"].eq(self.enable)
        before_first = Signal(init=1)
        for name, _ in GLOBAL_COUNTERS:
            if name == "cycles":
                continue
            event = getattr(self.events, name)
            counted[name] = Signal.like(event, name=f"event_{name}")
            if name == "first_issue":
                m.d.sync += counted[name].eq(self.enable & before_first & ~event)
                with m.If(self.clear):
                    m.d.sync += before_first.eq(1)
                with m.Elif(self.enable & event):
                    m.d.sync += before_first.eq(0)
            else:
                m.d.sync += counted[name].eq(Mux(self.enable, event, 0))
        for tier in range(self.config.tiers):
            for name, _ in TIER_COUNTERS:
                full = f"tier{tier}_{name}"
                counted[full] = Signal(name=f"event_{full}")
                m.d.sync += counted[full].eq(self.enable & getattr(self.tier_events[tier], name))
        return counted, before_first
