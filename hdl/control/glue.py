# SPDX-License-Identifier: Apache-2.0
"""The gates between the blocks of the machine: what the supervisor and the counters see of all units together."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.common.queues import queue_count
from hdl.config import MachineConfig
from hdl.interfaces import PC_BITS
from hdl.memory.loads import load_stats_layout
from hdl.memory.store import store_stats_layout

__all__ = ["MachineGlue", "load_cycles_layout", "store_cycles_layout"]


def load_cycles_layout() -> data.StructLayout:
    """Return why no beat arrived for a load in this cycle, one bit an engine; at most one field for each is set."""
    return data.StructLayout({"blocked": 2, "starved": 2, "wait": 2, "idle": 2})


def store_cycles_layout() -> data.StructLayout:
    """Return why no beat was written in this cycle; at most one field is set."""
    return data.StructLayout({"blocked": 1, "wait": 1, "busy": 1, "idle": 1})


class MachineGlue(wiring.Component):
    """Reductions over the units' status, and the instruction that a deadlock is blamed on.

    Latency: combinational, but for the instruction to blame, which is found within two rounds over the queues.

    Parameters
    ----------
    config : MachineConfig

    Members
    -------
    soft_reset, restart : In(1) / stream_reset : Out(1)
        Either of them: resets what belongs to one stream.
    all_zero : In(1) / semaphores_left : Out(1)
        The semaphores are zero / are not.
    units_quiet : In(3) / quiet : Out(1)
        No AXI transaction is outstanding in a unit / in any.
    dispatcher_empty : In(1), units_busy : In(tiers + 4) / idle : Out(1)
        Dispatcher empty and no unit (sequencers, loads, store, vector unit, collector) busy.
    loads_waiting : In(3) / loads_pending : Out(1)
        A load is under way or waits in a queue of the dispatcher.
    queue_valid, queue_ready : In(1).array(queue_count), queue_pc : In(PC_BITS).array(queue_count)
        Handshakes of the instruction queues.
    waits : In(queue_count), oldest_pc : In(PC_BITS) / stuck_pc : Out(PC_BITS)
        Units that wait for a semaphore, in the order of the queues; the instruction to blame for a deadlock: the first
        in program order that waits, else the oldest of the dispatcher.
    taken : Out(queue_count)
        An instruction leaves its queue in this cycle.
    loads : In(load_stats_layout()), store : In(store_stats_layout()), store_busy : In(1)
        What the memory units do.
    read_valid, read_ready, write_valid, write_ready : In(2)
        Handshakes of the groups' read and write addresses (loads and stores).
    issued, vector_rows : In(1), rows : In, waves : In(tiers)
        Events of the other units.
    fetch_valid, fetch_ready : In(1)
        Handshake of fetched beats.
    progress : Out(1)
        Something moved in the cycle before.
    last_result, fetch_beats : Out(1), fill_words, loads_left_out, loads_reduced : Out(2)
        Counter events; fill words those of the cycle before.
    load_cycles : Out(load_cycles_layout()), store_cycles : Out(store_cycles_layout())
        Counter events of the cycles in which a memory unit moved no beat: the first that holds of an address or a beat
        that could not go out, missing read data, a wait for a semaphore; ``busy``: the store unit had work
        nevertheless; ``idle``: none of these.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        queues = queue_count(config)
        super().__init__(
            {
                "soft_reset": In(1),
                "restart": In(1),
                "stream_reset": Out(1),
                "all_zero": In(1),
                "semaphores_left": Out(1),
                "units_quiet": In(3),
                "quiet": Out(1),
                "dispatcher_empty": In(1),
                "units_busy": In(config.tiers + 4),
                "idle": Out(1),
                "loads_waiting": In(3),
                "loads_pending": Out(1),
                "queue_valid": In(1).array(queues),
                "queue_ready": In(1).array(queues),
                "queue_pc": In(PC_BITS).array(queues),
                "waits": In(queues),
                "oldest_pc": In(PC_BITS),
                "stuck_pc": Out(PC_BITS),
                "taken": Out(queues),
                "loads": In(load_stats_layout()),
                "store": In(store_stats_layout()),
                "store_busy": In(1),
                "read_valid": In(2),
                "read_ready": In(2),
                "write_valid": In(2),
                "write_ready": In(2),
                "issued": In(1),
                "vector_rows": In(1),
                "rows": In(config.tiers.bit_length()),
                "waves": In(config.tiers),
                "fetch_valid": In(1),
                "fetch_ready": In(1),
                "progress": Out(1),
                "last_result": Out(1),
                "fetch_beats": Out(1),
                "fill_words": Out(2),
                "loads_left_out": Out(2),
                "loads_reduced": Out(2),
                "load_cycles": Out(load_cycles_layout()),
                "store_cycles": Out(store_cycles_layout()),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return f"machine_glue_t{self.config.tiers}"

    def elaborate(self, platform: object) -> Module:
        """Build the reductions, the reasons of idle cycles and the search for the first waiting instruction."""
        m = Module()
        m.d.comb += [
            self.stream_reset.eq(self.soft_reset | self.restart),
            self.semaphores_left.eq(~self.all_zero),
            self.quiet.eq(self.units_quiet.all()),
            self.idle.eq(self.dispatcher_empty & ~self.units_busy.any()),
            self.loads_pending.eq(self.loads_waiting.any()),
            self.fetch_beats.eq(self.fetch_valid & self.fetch_ready),
            self.taken.eq(Cat(self.queue_valid) & Cat(self.queue_ready)),
            self.loads_left_out.eq(self.loads.left_out[0] + self.loads.left_out[1]),
            self.loads_reduced.eq(self.loads.reduced[0] + self.loads.reduced[1]),
            self.last_result.eq(self.rows.any() | self.store.beats.any()),
        ]
        # The loads' arbitration ends in registers.
        words = Signal(2)
        m.d.comb += self.fill_words.eq(words[0] + words[1])
        m.d.sync += [
            words.eq(self.loads.words),
            self.progress.eq(
                self.issued
                | self.loads.beats.any()
                | self.loads.words.any()
                | self.rows.any()
                | self.store.beats.any()
                | self.store.rows
                | self.vector_rows
                | self.fetch_beats
                | self.waves.any()
            ),
        ]
        self._classify(m)
        self._blame(m)
        return m

    def _classify(self, m: Module) -> None:
        """Give each cycle of a memory unit in which no beat moved exactly one reason."""
        out = self.load_cycles
        for group in range(2):
            refused = self.read_valid[group] & ~self.read_ready[group]
            with m.If(self.loads.beats[group]):
                pass
            with m.Elif(self.loads.blocked[group] | refused):
                m.d.comb += out.blocked[group].eq(1)
            with m.Elif(self.loads.starved[group]):
                m.d.comb += out.starved[group].eq(1)
            with m.Elif(self.loads.waiting[group]):
                m.d.comb += out.wait[group].eq(1)
            with m.Else():
                m.d.comb += out.idle[group].eq(1)
        refused = (self.write_valid & ~self.write_ready).any()
        with m.If(self.store.beats.any()):
            pass
        with m.Elif(self.store.blocked | refused):
            m.d.comb += self.store_cycles.blocked.eq(1)
        with m.Elif(self.store.waiting):
            m.d.comb += self.store_cycles.wait.eq(1)
        with m.Elif(self.store_busy):
            m.d.comb += self.store_cycles.busy.eq(1)
        with m.Else():
            m.d.comb += self.store_cycles.idle.eq(1)

    def _blame(self, m: Module) -> None:
        """Find the first instruction that waits, looking at one queue a cycle: a deadlock lasts."""
        queues = queue_count(self.config)
        index = Signal(range(queues))
        best, found = Signal(PC_BITS), Signal()
        start, start_found = Signal(PC_BITS), Signal()
        chosen = Signal(PC_BITS)
        taken = [Signal(PC_BITS, name=f"taken_pc_{queue}") for queue in range(queues)]
        pc, waits = Signal(PC_BITS), Signal()
        for queue in range(queues):
            with m.If(self.queue_valid[queue] & self.queue_ready[queue]):
                m.d.sync += taken[queue].eq(self.queue_pc[queue])
        m.d.comb += [
            pc.eq(Array(taken)[index]),
            waits.eq(self.waits.bit_select(index, 1)),
            start.eq(Mux(index == 0, self.oldest_pc, best)),
            start_found.eq((index != 0) & found),
            chosen.eq(Mux(waits & (~start_found | (pc < start)), pc, start)),
        ]
        m.d.sync += [best.eq(chosen), found.eq(start_found | waits), index.eq(index + 1)]
        with m.If(index == queues - 1):
            m.d.sync += [index.eq(0), self.stuck_pc.eq(chosen)]
