# SPDX-License-Identifier: Apache-2.0
"""The whole machine: base die (control, memory engines, vector unit, result bus) and the stack of array tiers.

Structure only: a module of logic would spend most of the conversion on the wide buses that only pass through it.  The
few gates between the blocks are in :class:`hdl.control.glue.MachineGlue`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from amaranth.hdl import Cat
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.array.stack import Stack
from hdl.common.queues import load_queue, store_queue, vector_queue
from hdl.config import MachineConfig
from hdl.control.counters import CounterBank, event_layout, tier_event_layout
from hdl.control.csr import CsrBlock, axil_signature
from hdl.control.dispatcher import Dispatcher
from hdl.control.glue import MachineGlue, load_cycles_layout, store_cycles_layout
from hdl.control.reset import ResetRegister
from hdl.control.semaphores import SemaphoreUnit
from hdl.control.sequencers import SequencerBlock
from hdl.control.supervisor import Supervisor
from hdl.emit.hierarchy import digest
from hdl.emit.structural import StructuralComponent, Structure, struct_of
from hdl.interfaces import trace_layout
from hdl.memory.axi import GroupMaster, axi_signature
from hdl.memory.fetch import FetchUnit
from hdl.memory.loads import LoadUnit
from hdl.memory.store import StoreUnit
from hdl.regs import traced_counters
from hdl.result.collector import Collector
from hdl.vector.unit import VectorUnit, vector_stats_layout

__all__ = ["Machine"]

BlockT = TypeVar("BlockT", bound=wiring.Component)


@dataclass
class _Blocks:
    """The blocks of a machine that is being described."""

    csr: CsrBlock
    supervisor: Supervisor
    counters: CounterBank
    glue: MachineGlue
    fetch: FetchUnit
    dispatcher: Dispatcher
    semaphores: SemaphoreUnit
    sequencers: SequencerBlock
    loads: LoadUnit
    store: StoreUnit
    vector: VectorUnit
    collector: Collector
    masters: list[GroupMaster]
    stack: Stack


class Machine(StructuralComponent):
    """Top level of the generator: everything between the AXI ports.

    Members
    -------
    s_axil : In(axil_signature())
        AXI4-Lite registers (``hdl.regs``).
    irq : Out(1)
        Level interrupt.
    m_axi_g<group>_c<channel> : Out(axi_signature())
        One AXI4 manager per channel of the two channel groups.
    trace_out : Out(trace_layout(config))
        What a recorder of traces needs; leave it open otherwise.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        members: dict[str, Any] = {
            "s_axil": In(axil_signature()),
            "irq": Out(1),
            "trace_out": Out(trace_layout(config)),
        }
        for group in range(2):
            for channel in range(config.channels_per_group):
                members[f"m_axi_g{group}_c{channel}"] = Out(axi_signature(config))
        super().__init__(members)

    def module_key(self) -> str:
        """Name of the Verilog module, whose register block depends on the whole configuration."""
        return f"a3d_machine_{digest(self.config.digest())}"

    def structure(self) -> Structure:
        """Place the blocks and connect them."""
        s = Structure(self)
        config = self.config
        csr = s.add("csr", CsrBlock(config))
        supervisor = s.add("supervisor", Supervisor(config))
        glue = s.add("glue", MachineGlue(config))
        soft_reset, stream_reset = supervisor.soft_reset, glue.stream_reset

        def add(name: str, component: BlockT, request: Any = 0) -> BlockT:
            """Add a block with a reset of its own, which follows the common one and `request` by a cycle."""
            own = s.add(f"{name}_reset", ResetRegister())
            s.connect(own.request, request)
            return s.add(name, component, reset=own.reset, alone=True)

        loads_reset = s.add("loads_soft_reset", ResetRegister())
        s.connect(loads_reset.request, soft_reset)
        b = _Blocks(
            csr=csr,
            supervisor=supervisor,
            glue=glue,
            counters=add("counters", CounterBank(config)),
            fetch=add("fetch", FetchUnit(config), stream_reset),
            dispatcher=add("dispatcher", Dispatcher(config), stream_reset),
            semaphores=add("semaphores", SemaphoreUnit(config), stream_reset),
            sequencers=add("sequencers", SequencerBlock(config), soft_reset),
            loads=add("loads", LoadUnit(config)),
            store=add("store", StoreUnit(config), soft_reset),
            vector=add("vector", VectorUnit(config), soft_reset),
            collector=add("collector", Collector(config), soft_reset),
            masters=[add(f"group{g}", GroupMaster(config, fetch=g == 0)) for g in range(2)],
            stack=add("stack", Stack(config), soft_reset),
        )
        s.connect(b.loads.soft_reset, loads_reset.reset)
        self._connect_memory(s, b)
        self._connect_instructions(s, b)
        self._connect_semaphores(s, b)
        self._connect_stack(s, b)
        self._supervise(s, b)
        self._count(s, b)
        return s

    def _connect_memory(self, s: Structure, b: _Blocks) -> None:
        for group, master in enumerate(b.masters):
            s.link(b.loads.read[group], master.load)
            s.link(b.store.write[group], master.store)
            for channel in range(self.config.channels_per_group):
                s.link(master.axi[channel], getattr(self, f"m_axi_g{group}_c{channel}"))
            s.connect(b.loads.limit[group], b.csr.memory_bytes[group])
            s.connect(b.store.window_base[group], b.csr.window_base[group])
            s.connect(b.store.window_limit[group], b.csr.window_limit[group])
        s.link(b.fetch.read, b.masters[0].fetch)
        s.connect(b.fetch.limit, b.csr.memory_bytes[0])
        s.connect(b.fetch.base, b.csr.stream_base)
        s.link(b.store.store_read, b.collector.store_read)
        s.link(b.collector.store_data, b.store.store_data)

    def _connect_instructions(self, s: Structure, b: _Blocks) -> None:
        config, queue = self.config, b.dispatcher.queue
        s.link(b.fetch.instructions, b.dispatcher.instructions)
        s.connect(b.fetch.stop, b.dispatcher.ended)
        for tier in range(config.tiers):
            s.link(queue[tier], b.sequencers.queue[tier])
        for group in range(2):
            s.link(queue[load_queue(config, group)], b.loads.queue[group])
        s.link(queue[store_queue(config)], b.store.queue)
        s.link(queue[vector_queue(config)], b.vector.queue)
        s.connect(b.sequencers.loads_pending, b.glue.loads_pending)
        for name in ("enter_valid", "enter_tiers", "enter_k"):
            s.connect(getattr(b.sequencers, name), getattr(b.dispatcher, name))

    def _connect_semaphores(self, s: Structure, b: _Blocks) -> None:
        config, wait = self.config, b.semaphores.wait
        for tier in range(config.tiers):
            s.link(b.sequencers.wait[tier], wait[tier])
        for group in range(2):
            s.link(b.loads.wait[group], wait[load_queue(config, group)])
        s.link(b.store.wait, wait[store_queue(config)])
        s.link(b.vector.wait, wait[vector_queue(config)])
        for index, post in enumerate((b.collector.post, *b.loads.post, b.store.post, b.vector.post)):
            s.link(post, b.semaphores.post[index])

    def _connect_stack(self, s: Structure, b: _Blocks) -> None:
        config = self.config
        for tier in range(config.tiers):
            s.connect(b.stack.dispatch[tier], b.sequencers.dispatch[tier])
            s.connect(b.collector.descriptor_valid[tier], b.sequencers.descriptor_valid[tier])
            s.connect(b.collector.descriptor[tier], b.sequencers.descriptor[tier])
            s.connect(b.sequencers.credit[tier], b.collector.credit[tier])
            s.connect(b.collector.result[tier], b.stack.result[tier])
        for group in range(2):
            s.connect(b.stack.fill_control[group], b.loads.fill_control[group])
            s.connect(b.sequencers.fill_control[group], b.loads.fill_control[group])
            s.connect(b.sequencers.fill_tag[group], b.loads.fill_tag[group])
            for part in range(config.fill_rows):
                s.connect(b.stack.fill_data[group][part], b.loads.fill_data[group][part])
        for lane in range(config.result_lanes):
            s.connect(b.stack.write[lane], b.collector.write[lane])
        s.connect(b.stack.write[config.result_lanes], b.collector.load_lane)
        s.link(b.loads.bus_write, b.collector.bus_write)
        s.link(b.loads.row_write, b.collector.load_rows)
        for bank in range(config.result_lanes):
            s.link(b.vector.row_read[bank], b.collector.vector_read[bank])
            s.connect(b.vector.row_data[bank], b.collector.vector_data[bank])
            s.link(b.vector.row_write[bank], b.collector.vector_write[bank])
        s.link(b.vector.act_write, b.collector.vector_act)
        for name in ("valid", "addr", "entry"):
            s.connect(getattr(b.sequencers, f"route_{name}"), getattr(b.vector, f"list_{name}"))
        s.connect(b.vector.list_ready, b.sequencers.route_ready)
        for unit in (b.sequencers, b.loads):
            s.connect(unit.slot_write, b.vector.slot_write)
        for name in ("list_write_valid", "list_write_tiers", "list_write_addr", "list_write_entry"):
            s.connect(getattr(b.sequencers, name), getattr(b.loads, name))

    def _supervise(self, s: Structure, b: _Blocks) -> None:
        csr, supervisor, glue = b.csr, b.supervisor, b.glue
        sources: list[Any] = [b.dispatcher, b.sequencers, b.collector, b.loads, b.store, b.vector, b.fetch]
        for index, source in enumerate(sources):
            s.connect(supervisor.error[index], source.error)
        for name in ("ready", "busy", "done", "failed"):
            s.connect(getattr(csr, name), getattr(supervisor, name))
        s.connect(csr.error, supervisor.report)
        s.connect(csr.semaphores_left, glue.semaphores_left)
        for name in ("start", "invalidate", "kept_tiles", "watchdog"):
            s.connect(getattr(supervisor, name), getattr(csr, name))
        s.connect(supervisor.overflow, b.semaphores.overflow)
        s.connect(supervisor.ended, b.dispatcher.ended)
        s.connect(supervisor.tags_ready, b.sequencers.tags_ready)
        s.connect(supervisor.slots_ready, b.vector.slots_ready)
        for name in ("quiet", "idle", "progress", "stuck_pc"):
            s.connect(getattr(supervisor, name), getattr(glue, name))
        s.connect(b.fetch.start, supervisor.fetch_start)
        s.connect(b.sequencers.tags_clear, supervisor.tags_clear)
        s.connect(b.sequencers.tags_first, supervisor.tags_first)
        for unit in (b.dispatcher, b.sequencers, b.loads, b.store, b.vector, b.fetch):
            s.connect(unit.halt, supervisor.halt)
        s.connect(self.irq, csr.irq)
        s.link(self.s_axil, csr.axil)

        s.connect(glue.soft_reset, supervisor.soft_reset)
        s.connect(glue.restart, supervisor.restart)
        s.connect(glue.all_zero, b.semaphores.all_zero)
        s.connect(glue.units_quiet, [b.loads.quiet, b.store.quiet, b.fetch.quiet])
        s.connect(glue.dispatcher_empty, b.dispatcher.empty)
        first = load_queue(self.config, 0)
        s.connect(glue.loads_waiting, [b.loads.pending, b.dispatcher.waiting[first : first + 2]])
        s.connect(glue.units_busy, [*b.sequencers.busy, b.loads.pending, b.store.busy, b.vector.busy, b.collector.busy])
        waits = [*b.sequencers.wait, *b.loads.wait, b.store.wait, b.vector.wait]
        receivers = [*b.sequencers.queue, *b.loads.queue, b.store.queue, b.vector.queue]
        s.connect(glue.waits, [wait.valid for wait in waits])
        s.connect(glue.oldest_pc, b.dispatcher.oldest_pc)
        for index, (queue, receiver) in enumerate(zip(b.dispatcher.queue, receivers, strict=True)):
            s.connect(glue.queue_valid[index], queue.valid)
            s.connect(glue.queue_ready[index], receiver.ready)
            s.connect(glue.queue_pc[index], queue.payload.pc)

    def _count(self, s: Structure, b: _Blocks) -> None:
        counters, glue, stats = b.counters, b.glue, b.collector.stats
        s.connect(glue.issued, b.dispatcher.issued)
        s.connect(glue.loads, b.loads.stats)
        s.connect(glue.store, b.store.stats)
        s.connect(glue.store_busy, b.store.busy)
        s.connect(glue.read_valid, [port.ar.valid for port in b.loads.read])
        s.connect(glue.read_ready, [master.load.ar.ready for master in b.masters])
        s.connect(glue.write_valid, [port.aw.valid for port in b.store.write])
        s.connect(glue.write_ready, [master.store.aw.ready for master in b.masters])
        s.connect(glue.rows, stats.rows)
        s.connect(glue.fetch_valid, b.masters[0].fetch.r.valid)
        s.connect(glue.fetch_ready, b.fetch.read.r.ready)
        s.connect(glue.waves, [b.sequencers.stats[tier].wave for tier in range(self.config.tiers)])

        s.connect(counters.clear, b.supervisor.clear_counters)
        s.connect(counters.enable, b.supervisor.running)
        s.connect(counters.ask, b.csr.counter_ask)
        s.connect(counters.index, b.csr.counter_index)
        s.connect(b.csr.counter_answered, counters.answered)
        s.connect(b.csr.counter_value, counters.value)
        events = {
            "first_issue": b.dispatcher.issued,
            "instructions": b.dispatcher.issued,
            "dispatch_full": b.dispatcher.full,
            "dispatch_starved": b.dispatcher.starved,
            "last_result": glue.last_result,
            "fetch_beats": glue.fetch_beats,
            "fill_words": glue.fill_words,
            "loads_left_out": glue.loads_left_out,
            "loads_reduced": glue.loads_reduced,
            "rows": stats.rows,
            "rows_activation": stats.activation,
            "rows_combine": stats.combine,
            "bus_conflict": stats.conflicts,
        }
        for group in range(2):
            events |= {
                f"read_beats_{group}": b.loads.stats.beats[group],
                f"write_beats_{group}": b.store.stats.beats[group],
            }
            events |= {
                f"load_{name}_{group}": getattr(glue.load_cycles, name)[group] for name, _ in load_cycles_layout()
            }
        events |= {f"store_{name}": getattr(glue.store_cycles, name) for name, _ in store_cycles_layout()}
        events |= {f"vector_{name}": getattr(b.vector.stats, name) for name in vector_stats_layout().members}
        s.connect(glue.vector_rows, b.vector.stats.rows)
        s.connect(counters.events, struct_of(event_layout(self.config), events))
        for tier in range(self.config.tiers):
            tier_stats = b.sequencers.stats[tier]
            one = {name: getattr(tier_stats, name) for name, _ in tier_event_layout()}
            s.connect(counters.tier_events[tier], struct_of(tier_event_layout(), one))
            events |= {f"tier{tier}_{name}": event for name, event in one.items()}
        self._trace(s, b, events)

    def _trace(self, s: Structure, b: _Blocks, events: dict[str, Any]) -> None:
        """Lead out what a recorder of traces needs, `events` being those of the counters by name."""
        stats = b.sequencers.stats
        names = [name for unit in traced_counters(self.config).values() for name in unit]
        fields = {
            "running": b.supervisor.running,
            "taken": b.glue.taken,
            "begin": Cat(*(tier.op_first for tier in stats), b.loads.begun, b.store.begun, b.vector.begun),
            "end": Cat(*(tier.op_last for tier in stats), b.loads.ended[:2], b.store.ended, b.vector.ended),
            "pair_end": b.loads.ended[2],
            "activity": Cat(*(events[name] for name in names)),
        }
        s.connect(self.trace_out, struct_of(trace_layout(self.config), fields))
