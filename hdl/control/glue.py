# SPDX-License-Identifier: Apache-2.0
"""The gates between the blocks of the machine: what the supervisor and the counters see of all units together."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Const, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.config import MachineConfig
from hdl.interfaces import PC_BITS

__all__ = ["MachineGlue"]


class MachineGlue(wiring.Component):
    """Reductions over the units' status, and the instruction that a deadlock is blamed on.

    Latency: combinational, but for the index of the instruction that each queue handed out last (one cycle).

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
    dispatcher_empty : In(1), units_busy : In(tiers + 3) / idle : Out(1)
        Dispatcher empty and no unit (sequencers, loads, store, collector) busy.
    loads_waiting : In(3) / loads_pending : Out(1)
        A load is under way or waits in a queue of the dispatcher.
    queue_valid, queue_ready : In(1).array(tiers + 3), queue_pc : In(PC_BITS).array(tiers + 3)
        Handshakes of the instruction queues.
    waits : In(tiers + 3), oldest_pc : In(PC_BITS) / stuck_pc : Out(PC_BITS)
        Units that wait for a semaphore, in the order of the queues; the instruction to blame for a deadlock: the first
        in program order that waits, else the oldest of the dispatcher.
    issued, store_rows : In(1), load_beats, load_words, store_beats : In(2), rows : In, waves : In(tiers)
        Events of the units.
    fetch_valid, fetch_ready : In(1)
        Handshake of fetched beats.
    progress : Out(1)
        Something moved in this cycle.
    last_result, fetch_beats : Out(1), fill_words : Out(2)
        Counter events.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        queues = config.tiers + 3
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
                "units_busy": In(queues),
                "idle": Out(1),
                "loads_waiting": In(3),
                "loads_pending": Out(1),
                "queue_valid": In(1).array(queues),
                "queue_ready": In(1).array(queues),
                "queue_pc": In(PC_BITS).array(queues),
                "waits": In(queues),
                "oldest_pc": In(PC_BITS),
                "stuck_pc": Out(PC_BITS),
                "issued": In(1),
                "load_beats": In(2),
                "load_words": In(2),
                "store_beats": In(2),
                "store_rows": In(1),
                "rows": In(config.tiers.bit_length()),
                "waves": In(config.tiers),
                "fetch_valid": In(1),
                "fetch_ready": In(1),
                "progress": Out(1),
                "last_result": Out(1),
                "fetch_beats": Out(1),
                "fill_words": Out(2),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return f"machine_glue_t{self.config.tiers}"

    def elaborate(self, platform: object) -> Module:
        """Build the reductions and the search for the first waiting instruction."""
        m = Module()
        m.d.comb += [
            self.stream_reset.eq(self.soft_reset | self.restart),
            self.semaphores_left.eq(~self.all_zero),
            self.quiet.eq(self.units_quiet.all()),
            self.idle.eq(self.dispatcher_empty & ~self.units_busy.any()),
            self.loads_pending.eq(self.loads_waiting.any()),
            self.fetch_beats.eq(self.fetch_valid & self.fetch_ready),
            self.fill_words.eq(self.load_words[0] + self.load_words[1]),
            self.last_result.eq(self.rows.any() | self.store_beats.any()),
            self.progress.eq(
                self.issued
                | self.load_beats.any()
                | self.load_words.any()
                | self.rows.any()
                | self.store_beats.any()
                | self.store_rows
                | self.fetch_beats
                | self.waves.any()
            ),
        ]
        best: Any = self.oldest_pc
        found: Any = Const(0)
        for index in range(self.config.tiers + 3):
            taken = Signal(PC_BITS, name=f"taken_pc_{index}")
            with m.If(self.queue_valid[index] & self.queue_ready[index]):
                m.d.sync += taken.eq(self.queue_pc[index])
            chosen = Signal(PC_BITS, name=f"stuck_pc_{index}")
            any_found = Signal(name=f"stuck_found_{index}")
            m.d.comb += [chosen.eq(best), any_found.eq(found | self.waits[index])]
            with m.If(self.waits[index] & (~found | (taken < best))):
                m.d.comb += chosen.eq(taken)
            best, found = chosen, any_found
        m.d.comb += self.stuck_pc.eq(best)
        return m
