# SPDX-License-Identifier: Apache-2.0
"""The whole machine: base die (control, memory engines, result bus) and the stack of array tiers."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hdl.array.stack import Stack
from hdl.config import MachineConfig
from hdl.control.counters import CounterBank
from hdl.control.csr import CsrBlock, axil_signature
from hdl.control.dispatcher import Dispatcher
from hdl.control.semaphores import SemaphoreUnit
from hdl.control.sequencers import SequencerBlock
from hdl.control.supervisor import Supervisor
from hdl.emit.hierarchy import digest, instantiate
from hdl.interfaces import PC_BITS
from hdl.memory.axi import GroupMaster, axi_signature
from hdl.memory.fetch import FetchUnit
from hdl.memory.loads import LoadUnit
from hdl.memory.store import StoreUnit
from hdl.regs import TIER_COUNTERS
from hdl.result.collector import Collector

__all__ = ["Machine"]


class Machine(wiring.Component):
    """Top level of the generator: everything between the AXI ports.

    Members
    -------
    s_axil : In(axil_signature())
        AXI4-Lite registers (``hdl.regs``).
    irq : Out(1)
        Level interrupt.
    m_axi_g<group>_c<channel> : Out(axi_signature())
        One AXI4 manager per channel of the two channel groups.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        members: dict[str, Any] = {"s_axil": In(axil_signature()), "irq": Out(1)}
        for group in range(2):
            for channel in range(config.channels_per_group):
                members[f"m_axi_g{group}_c{channel}"] = Out(axi_signature(config))
        super().__init__(members)

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return f"a3d_machine_{digest(self.config.digest())}"

    def elaborate(self, platform: object) -> Module:
        """Place the blocks and connect them."""
        m = Module()
        config = self.config
        tiers = config.tiers
        soft_reset = Signal()
        restart = Signal()

        def place(name: str, component: Any, reset: Any = soft_reset) -> Any:
            return instantiate(m, platform, name, component, reset=reset)

        csr = place("csr", CsrBlock(config), None)
        supervisor = place("supervisor", Supervisor(config), None)
        counters = place("counters", CounterBank(config), None)
        fetch = place("fetch", FetchUnit(config), soft_reset | restart)
        dispatcher = place("dispatcher", Dispatcher(config), soft_reset | restart)
        semaphores = place("semaphores", SemaphoreUnit(config), soft_reset | restart)
        sequencers = place("sequencers", SequencerBlock(config))
        loads = place("loads", LoadUnit(config), None)
        store = place("store", StoreUnit(config))
        collector = place("collector", Collector(config))
        masters = [place(f"group{g}", GroupMaster(config, fetch=g == 0), None) for g in range(2)]
        stack = place("stack", Stack(config))

        m.d.comb += [
            soft_reset.eq(supervisor.soft_reset),
            restart.eq(supervisor.restart),
            loads.soft_reset.eq(soft_reset),
        ]
        self._connect_memory(m, masters, fetch, loads, store, csr)
        connect(m, fetch.instructions, dispatcher.instructions)
        m.d.comb += fetch.stop.eq(dispatcher.ended)
        for tier in range(tiers):
            connect(m, dispatcher.queue[tier], sequencers.queue[tier])
        for group in range(2):
            connect(m, dispatcher.queue[tiers + group], loads.queue[group])
        connect(m, dispatcher.queue[tiers + 2], store.queue)
        self._connect_semaphores(m, semaphores, sequencers, loads, store, collector)
        self._connect_stack(m, stack, sequencers, loads, collector)
        connect(m, store.store_read, collector.store_read)
        connect(m, collector.store_data, store.store_data)
        m.d.comb += [
            sequencers.loads_pending.eq(loads.pending | dispatcher.waiting[tiers : tiers + 2].any()),
            sequencers.enter_valid.eq(dispatcher.enter_valid),
            sequencers.enter_tiers.eq(dispatcher.enter_tiers),
            sequencers.enter_k.eq(dispatcher.enter_k),
        ]
        self._supervise(m, csr, supervisor, fetch, dispatcher, semaphores, sequencers, loads, store, collector)
        self._count(m, csr, counters, supervisor, fetch, dispatcher, sequencers, loads, store, collector)
        return m

    def _connect_memory(self, m: Module, masters: Any, fetch: Any, loads: Any, store: Any, csr: Any) -> None:
        for group, master in enumerate(masters):
            connect(m, loads.read[group], master.load)
            connect(m, store.write[group], master.store)
            for channel in range(self.config.channels_per_group):
                connect(m, master.axi[channel], flipped(getattr(self, f"m_axi_g{group}_c{channel}")))
            m.d.comb += [
                loads.limit[group].eq(csr.memory_bytes[group]),
                store.window_base[group].eq(csr.window_base[group]),
                store.window_limit[group].eq(csr.window_limit[group]),
            ]
        connect(m, fetch.read, masters[0].fetch)
        m.d.comb += [fetch.limit.eq(csr.memory_bytes[0]), fetch.base.eq(csr.stream_base)]

    def _connect_semaphores(
        self, m: Module, semaphores: Any, sequencers: Any, loads: Any, store: Any, collector: Any
    ) -> None:
        tiers = self.config.tiers
        for tier in range(tiers):
            connect(m, sequencers.wait[tier], semaphores.wait[tier])
        for group in range(2):
            connect(m, loads.wait[group], semaphores.wait[tiers + group])
            connect(m, loads.post[group], semaphores.post[1 + group])
        connect(m, store.wait, semaphores.wait[tiers + 2])
        connect(m, collector.post, semaphores.post[0])
        connect(m, store.post, semaphores.post[3])

    def _connect_stack(self, m: Module, stack: Any, sequencers: Any, loads: Any, collector: Any) -> None:
        config = self.config
        for tier in range(config.tiers):
            m.d.comb += [
                stack.dispatch[tier].eq(sequencers.dispatch[tier]),
                collector.descriptor_valid[tier].eq(sequencers.descriptor_valid[tier]),
                collector.descriptor[tier].eq(sequencers.descriptor[tier]),
                sequencers.credit[tier].eq(collector.credit[tier]),
                collector.result[tier].eq(stack.result[tier]),
            ]
        for group in range(2):
            m.d.comb += [
                stack.fill_control[group].eq(loads.fill_control[group]),
                sequencers.fill_control[group].eq(loads.fill_control[group]),
                sequencers.fill_tag[group].eq(loads.fill_tag[group]),
            ]
            for part in range(config.fill_rows):
                m.d.comb += stack.fill_data[group][part].eq(loads.fill_data[group][part])
        for lane in range(config.result_lanes):
            m.d.comb += stack.write[lane].eq(collector.write[lane])
        m.d.comb += stack.write[config.result_lanes].eq(collector.unit_lane)
        connect(m, loads.unit_write, collector.unit_write)
        m.d.comb += [
            sequencers.list_write_valid.eq(loads.list_write_valid),
            sequencers.list_write_tiers.eq(loads.list_write_tiers),
            sequencers.list_write_addr.eq(loads.list_write_addr),
            sequencers.list_write_entry.eq(loads.list_write_entry),
        ]

    def _supervise(
        self,
        m: Module,
        csr: Any,
        supervisor: Any,
        fetch: Any,
        dispatcher: Any,
        semaphores: Any,
        sequencers: Any,
        loads: Any,
        store: Any,
        collector: Any,
    ) -> None:
        sources = [dispatcher, sequencers, collector, loads, store, fetch]
        for index, source in enumerate(sources):
            m.d.comb += supervisor.error[index].eq(source.error)
        halt = supervisor.halt
        m.d.comb += [
            csr.ready.eq(supervisor.ready),
            csr.busy.eq(supervisor.busy),
            csr.done.eq(supervisor.done),
            csr.failed.eq(supervisor.failed),
            csr.error.eq(supervisor.report),
            csr.semaphores_left.eq(~semaphores.all_zero),
            supervisor.start.eq(csr.start),
            supervisor.invalidate.eq(csr.invalidate),
            supervisor.watchdog.eq(csr.watchdog),
            supervisor.overflow.eq(semaphores.overflow),
            supervisor.ended.eq(dispatcher.ended),
            supervisor.tags_ready.eq(sequencers.tags_ready),
            supervisor.quiet.eq(loads.quiet & store.quiet & fetch.quiet),
            supervisor.idle.eq(
                dispatcher.empty & ~Cat(sequencers.busy).any() & ~loads.pending & ~store.busy & ~collector.busy
            ),
            fetch.start.eq(supervisor.fetch_start),
            sequencers.tags_clear.eq(supervisor.tags_clear),
            dispatcher.halt.eq(halt),
            sequencers.halt.eq(halt),
            loads.halt.eq(halt),
            store.halt.eq(halt),
            fetch.halt.eq(halt),
            self.irq.eq(csr.irq),
        ]
        connect(m, flipped(self.s_axil), csr.axil)

        # A deadlock is blamed on the first instruction in program order that waits for a semaphore.
        waits = [*sequencers.wait, *loads.wait, store.wait]
        taken: list[Signal] = []
        for index, queue in enumerate(dispatcher.queue):
            pc = Signal(PC_BITS, name=f"taken_pc_{index}")
            with m.If(queue.valid & queue.ready):
                m.d.sync += pc.eq(queue.payload.pc)
            taken.append(pc)
        best: Any = dispatcher.oldest_pc
        found: Any = Const(0)
        for index, (wait, pc) in enumerate(zip(waits, taken, strict=True)):
            chosen = Signal(PC_BITS, name=f"stuck_pc_{index}")
            any_found = Signal(name=f"stuck_found_{index}")
            better = wait.valid & (~found | (pc < best))
            m.d.comb += [chosen.eq(best), any_found.eq(found | wait.valid)]
            with m.If(better):
                m.d.comb += chosen.eq(pc)
            best, found = chosen, any_found
        m.d.comb += supervisor.stuck_pc.eq(best)

    def _count(
        self,
        m: Module,
        csr: Any,
        counters: Any,
        supervisor: Any,
        fetch: Any,
        dispatcher: Any,
        sequencers: Any,
        loads: Any,
        store: Any,
        collector: Any,
    ) -> None:
        events = counters.events
        m.d.comb += [
            counters.clear.eq(supervisor.clear_counters),
            counters.enable.eq(supervisor.running),
            counters.index.eq(csr.counter_index),
            csr.counter_value.eq(counters.value),
            events.first_issue.eq(dispatcher.issued),
            events.instructions.eq(dispatcher.issued),
            events.dispatch_full.eq(dispatcher.full),
            events.dispatch_starved.eq(dispatcher.starved),
            events.last_result.eq(collector.stats.rows.any() | store.stats.beats.any()),
            events.fetch_beats.eq(fetch.read.r.valid & fetch.read.r.ready),
            events.fill_words.eq(loads.stats.words[0] + loads.stats.words[1]),
            events.rows.eq(collector.stats.rows),
            events.rows_activation.eq(collector.stats.activation),
            events.rows_combine.eq(collector.stats.combine),
            events.bus_conflict.eq(collector.stats.conflicts),
        ]
        for group in range(2):
            m.d.comb += [
                getattr(events, f"read_beats_{group}").eq(loads.stats.beats[group]),
                getattr(events, f"write_beats_{group}").eq(store.stats.beats[group]),
                getattr(events, f"load_wait_{group}").eq(loads.stats.waiting[group]),
            ]
        m.d.comb += supervisor.progress.eq(
            dispatcher.issued
            | loads.stats.beats.any()
            | loads.stats.words.any()
            | collector.stats.rows.any()
            | store.stats.beats.any()
            | store.stats.rows
            | events.fetch_beats.any()
            | Cat(stats.wave for stats in sequencers.stats).any()
        )
        for tier in range(self.config.tiers):
            for name, _ in TIER_COUNTERS:
                m.d.comb += getattr(counters.tier_events[tier], name).eq(getattr(sequencers.stats[tier], name))
