# SPDX-License-Identifier: Apache-2.0
"""Performance counters: one adder per event, cleared at start, frozen when the stream ends."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.config import MachineConfig
from hdl.emit.hierarchy import digest
from hdl.regs import COUNTER_BITS, GLOBAL_COUNTERS, TIER_COUNTERS, counter_names

__all__ = ["CounterBank", "event_layout", "tier_event_layout"]

SAMPLED = ("first_issue", "last_result")
"""Counters that hold a sample of ``cycles`` instead of counting."""


def event_layout() -> data.StructLayout:
    """Return the increments of one cycle of the machine's own counters (``cycles`` counts by itself)."""
    return data.StructLayout({name: 4 for name, _ in GLOBAL_COUNTERS if name != "cycles"})


def tier_event_layout() -> data.StructLayout:
    """Return the increments of one cycle of one tier's counters."""
    return data.StructLayout({name: 1 for name, _ in TIER_COUNTERS})


class CounterBank(wiring.Component):
    """All performance counters and their read port.

    Latency: an event is registered and counts in the cycle after, which keeps paths short; ``value``
    follows ``index`` by one cycle.

    Members
    -------
    clear : In(1)
        Set all counters to zero.
    enable : In(1)
        Count.
    events : In(event_layout())
        Increments; a non-zero ``first_issue`` samples ``cycles`` once, ``last_result`` every time.
    tier_events : In(tier_event_layout()).array(tiers)
    index : In(8)
        Counter number in the order of ``counter_names``.
    value : Out(COUNTER_BITS)
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "clear": In(1),
                "enable": In(1),
                "events": In(event_layout()),
                "tier_events": In(tier_event_layout()).array(config.tiers),
                "index": In(8),
                "value": Out(COUNTER_BITS),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return f"counter_bank_t{self.config.tiers}_{digest(counter_names(self.config))}"

    def elaborate(self, platform: object) -> Module:
        """Build the counters."""
        m = Module()
        counters = [Signal(COUNTER_BITS, name=f"count_{name}") for name in counter_names(self.config)]
        by_name = dict(zip(counter_names(self.config), counters, strict=True))
        cycles = by_name["cycles"]
        sampled_first = Signal()
        enable = Signal()
        events = Signal(event_layout())
        tier_events = [Signal(tier_event_layout(), name=f"tier_events_{t}") for t in range(self.config.tiers)]
        m.d.sync += [enable.eq(self.enable), events.eq(self.events)]
        m.d.sync += [held.eq(now) for held, now in zip(tier_events, self.tier_events, strict=True)]
        with m.If(self.clear):
            m.d.sync += [counter.eq(0) for counter in counters]
            m.d.sync += sampled_first.eq(0)
        with m.Elif(enable):
            m.d.sync += cycles.eq(cycles + 1)
            for name, _ in GLOBAL_COUNTERS:
                if name == "cycles":
                    continue
                event = getattr(events, name)
                counter = by_name[name]
                if name == "first_issue":
                    with m.If(event.any() & ~sampled_first):
                        m.d.sync += [counter.eq(cycles), sampled_first.eq(1)]
                elif name == "last_result":
                    with m.If(event.any()):
                        m.d.sync += counter.eq(cycles)
                else:
                    m.d.sync += counter.eq(counter + event)
            for tier in range(self.config.tiers):
                for name, _ in TIER_COUNTERS:
                    counter = by_name[f"tier{tier}_{name}"]
                    m.d.sync += counter.eq(counter + getattr(tier_events[tier], name))
        with m.Switch(self.index):
            for number, counter in enumerate(counters):
                with m.Case(number):
                    m.d.sync += self.value.eq(counter)
            with m.Default():
                m.d.sync += self.value.eq(0)
        return m
