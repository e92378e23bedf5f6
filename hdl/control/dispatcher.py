# SPDX-License-Identifier: Apache-2.0
"""Instruction decode: static checks, then in-order dispatch into the per-unit queues."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.common.queues import queue_count
from hdl.common.stream_fifo import StreamFifo
from hdl.config import MachineConfig
from hdl.control.checker import InstructionChecker, InstructionScan, InstructionVerdict, findings_layout
from hdl.emit.hierarchy import digest, instantiate
from hdl.interfaces import PC_BITS, error_layout, queue_entry_layout

__all__ = ["Dispatcher", "InstructionChecker"]


class Dispatcher(wiring.Component):
    """Checks each instruction and puts it into the queues of all its units at once, in program order.

    Latency: an instruction taken in cycle t enters its queues in cycle t + 3 at the earliest; its checks take two of
    these cycles. Throughput: one instruction per cycle when the queues have room. An instruction enters all its queues
    in the same cycle, so that queues agree on the order of instructions they share. One that is not legal stops at the
    end of the checks: those before it have entered, those after it never do. At END it waits; the supervisor decides
    when all is done.

    Members
    -------
    instructions : In(stream of queue entries)
    queue : Out(stream of queue entries).array(queue_count)
        Heads of the queues: tiers, load 0, load 1, store, vector.
    halt : In(1)
        Accept and dispatch nothing.
    ended : Out(1)
        END was reached (level until reset).
    empty : Out(1)
        Nothing waits here or in any queue.
    waiting : Out(queue_count)
        Queues that hold an instruction.
    error : Out(error_layout())
    oldest_pc : Out(PC_BITS)
        Instruction held at dispatch, or the last one that was (for the watchdog's report).
    enter_valid, enter_tiers, enter_k : Out
        A GEMM enters the queues of these tiers in this cycle; its mapping is K.
    issued, full, starved : Out(1)
        Events: an instruction dispatched / held by a full queue / nothing to dispatch.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        entry = stream.Signature(queue_entry_layout())
        super().__init__(
            {
                "instructions": In(entry),
                "queue": Out(entry).array(queue_count(config)),
                "halt": In(1),
                "ended": Out(1),
                "empty": Out(1),
                "waiting": Out(queue_count(config)),
                "error": Out(error_layout()),
                "oldest_pc": Out(PC_BITS),
                "enter_valid": Out(1),
                "enter_tiers": Out(config.tiers),
                "enter_k": Out(1),
                "issued": Out(1),
                "full": Out(1),
                "starved": Out(1),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return f"dispatcher_{digest(self.config.digest())}"

    def elaborate(self, platform: object) -> Module:
        """Build the stages of the checks and the queues."""
        m = Module()
        config = self.config
        queues = queue_count(config)
        fifos = [
            instantiate(m, platform, f"queue{index}", StreamFifo(queue_entry_layout(), config.queue_depth))
            for index in range(queues)
        ]
        scan = instantiate(m, platform, "scan", InstructionScan(config))
        verdict = instantiate(m, platform, "verdict", InstructionVerdict(config))

        # Three registers: the word, what the scan found in it, what follows from that. Each passes its instruction on
        # when the next one is free or becomes so.
        word, scanned, held = (Signal(queue_entry_layout(), name=name) for name in ("word", "scanned", "held"))
        word_valid, scanned_valid, held_valid = Signal(), Signal(), Signal()
        findings = Signal(findings_layout(config))
        code = Signal(len(verdict.code))
        targets = Signal(queues)
        is_end, is_gemm, is_k = Signal(), Signal(), Signal()

        running = Signal()
        fire = Signal()
        rooms = Signal(queues)
        dispatch = Signal()
        word_moves, scanned_moves = Signal(), Signal()
        m.d.comb += [
            scan.word.eq(word.word),
            verdict.word.eq(scanned.word),
            verdict.findings.eq(findings),
            running.eq(~self.halt & ~self.ended),
            rooms.eq(Cat(~targets[i] | fifos[i].input.ready for i in range(queues))),
            fire.eq(held_valid & running & ~code.any()),
            dispatch.eq(fire & rooms.all()),
            scanned_moves.eq(~held_valid | dispatch),
            word_moves.eq(~scanned_valid | scanned_moves),
            self.instructions.ready.eq((~word_valid | word_moves) & running),
            self.oldest_pc.eq(held.pc),
            self.error.valid.eq(held_valid & running & code.any()),
            self.error.code.eq(code),
            self.error.pc.eq(held.pc),
            self.enter_valid.eq(dispatch & is_gemm),
            self.enter_tiers.eq(targets[: config.tiers]),
            self.enter_k.eq(is_k),
            self.issued.eq(dispatch),
            self.full.eq(fire & ~rooms.all()),
            self.starved.eq(~held_valid & ~self.ended),
        ]
        with m.If(~word_valid | word_moves):
            m.d.sync += [word.eq(self.instructions.payload), word_valid.eq(self.instructions.valid & running)]
        with m.If(word_moves):
            m.d.sync += [scanned.eq(word), scanned_valid.eq(word_valid), findings.eq(scan.findings)]
        with m.If(scanned_moves):
            m.d.sync += [
                held_valid.eq(scanned_valid),
                code.eq(verdict.code),
                targets.eq(verdict.targets),
                is_end.eq(verdict.is_end),
                is_gemm.eq(verdict.is_gemm),
                is_k.eq(verdict.is_k),
            ]
            # The last one stays named while nothing follows it.
            with m.If(scanned_valid):
                m.d.sync += held.eq(scanned)
        with m.If(dispatch & is_end):
            # Nothing after END counts.
            m.d.sync += [self.ended.eq(1), word_valid.eq(0), scanned_valid.eq(0), held_valid.eq(0)]
        for index, fifo in enumerate(fifos):
            m.d.comb += [
                fifo.input.valid.eq(dispatch & targets[index]),
                fifo.input.payload.eq(held),
            ]
            wiring.connect(m, fifo.output, wiring.flipped(self.queue[index]))
            m.d.comb += self.waiting[index].eq(fifo.busy)
        m.d.comb += self.empty.eq(~self.waiting.any() & ~word_valid & ~scanned_valid & ~held_valid)
        return m
