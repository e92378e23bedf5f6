# SPDX-License-Identifier: Apache-2.0
"""Instruction fetch: prefetches the stream from group 0 and hands instructions out in order."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.config import INSTRUCTION_BYTES, MachineConfig
from hdl.emit.hierarchy import digest, instantiate
from hdl.interfaces import PC_BITS, error_layout, queue_entry_layout
from hdl.isa import INSTRUCTION_BITS, Opcode
from hdl.isa.error_codes import ErrorCode
from hdl.memory.axi import fetch_buffer_beats, group_read_signature
from hdl.memory.bursts import BurstSplitter
from hdl.memory.jobs import log2

__all__ = ["FetchUnit"]


class FetchUnit(wiring.Component):
    """Prefetches instructions and stops by itself at END.

    The group master's fetch buffer (512 bytes, at least two beats) is the prefetch buffer: the unit asks for no more
    than fits. It reads whole beats below ``limit`` and may read past END; what is wrong there never matters: an error
    is raised only when all instructions before the faulty one were handed out and none of them was END.

    Latency: three cycles from ``start`` to ``read.ar``, two from the last beat of an instruction at ``read.r`` to
    ``instructions``. Throughput: one instruction per cycle, or per ``32 / group_bytes`` cycles on narrower groups.

    Parameters
    ----------
    config : MachineConfig

    Members
    -------
    start : In(1)
        Pulse, while nothing runs: fetch from ``base``, once what is left of the stream before is dropped; the first
        instruction has index (pc) 0.
    base : In(address_bits)
        Byte address in group 0, aligned to ``max(32, group_bytes)``; constant from ``start`` on.
    limit : In(address_bits + 1)
        Bytes of group 0's memory; constant while the unit runs.
    instructions : Out(stream of queue_entry_layout)
    stop : In(1)
        Pulse or level: fetch no more and drop what is buffered (END does so without it).
    halt : In(1)
        As ``stop``, and hand out nothing more.
    quiet : Out(1)
        No AXI transaction is outstanding and the buffer is empty.
    read : Out(group_read_signature)
    error : Out(error_layout)
        ADDRESS or AXI_FETCH; stays until reset or the next start.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "start": In(1),
                "base": In(config.address_bits),
                "limit": In(config.address_bits + 1),
                "instructions": Out(stream.Signature(queue_entry_layout())),
                "stop": In(1),
                "halt": In(1),
                "quiet": Out(1),
                "read": Out(group_read_signature(config)),
                "error": Out(error_layout()),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        c = self.config
        return f"fetch_unit_{digest(c.group_bytes, c.address_bits, c.burst_beats)}"

    def elaborate(self, platform: object) -> Module:
        """Build prefetch (bursts), assembly (words) and the checks between them."""
        m = Module()
        running = Signal()
        held = Signal(error_layout())
        dead = Signal()  # beats are dropped
        m.d.comb += [self.error.eq(held), dead.eq(~running | self.halt | held.valid)]

        # A start waits until the beats of the stream before are gone.
        starting = Signal()
        begin = Signal()
        aligned = Signal()
        m.d.comb += [
            aligned.eq(self.base[: log2(max(INSTRUCTION_BYTES, self.config.group_bytes))] == 0),
            begin.eq(starting & self.quiet & ~self.halt),
        ]
        exhausted = self._prefetch(m, platform, dead, begin & aligned)

        # The output register. `load` is the moment at which the next instruction is needed: the one before it was
        # handed out and was not END.
        pc = Signal(PC_BITS)
        address = Signal(self.config.address_bits + 1)  # of instruction `pc`
        valid = Signal()
        is_end = Signal()
        needed = Signal()
        out = self.instructions
        m.d.comb += [
            is_end.eq(out.payload.word[:6] == Opcode.END),
            out.valid.eq(valid & ~dead),
            needed.eq(~dead & (~valid | (out.ready & ~is_end))),
        ]
        word, word_valid, word_error = self._assemble(m, dead, needed, address)
        with m.If(out.valid & out.ready):
            m.d.sync += valid.eq(0)
            with m.If(is_end):
                m.d.sync += running.eq(0)
        with m.If(needed):
            with m.If(word_valid & ~word_error):
                m.d.sync += [
                    valid.eq(1),
                    out.payload.word.eq(word),
                    out.payload.pc.eq(pc),
                    pc.eq(pc + 1),
                    address.eq(address + INSTRUCTION_BYTES),
                ]
            with m.Elif(word_valid):
                m.d.sync += self._report(held, ErrorCode.AXI_FETCH, pc, address)
            with m.Elif(exhausted & ~valid & out.ready):
                m.d.sync += self._report(held, ErrorCode.ADDRESS, pc, address)
        with m.If(self.stop):
            m.d.sync += [running.eq(0), starting.eq(0), valid.eq(0)]
        with m.If(self.start):
            m.d.sync += [starting.eq(1), running.eq(0), valid.eq(0), held.eq(0)]
        with m.Elif(begin):
            m.d.sync += [starting.eq(0), running.eq(1), valid.eq(0), pc.eq(0), address.eq(self.base)]
            with m.If(~aligned):
                m.d.sync += self._report(held, ErrorCode.ADDRESS, 0, self.base)
        return m

    def _report(self, held: Value, code: ErrorCode, pc: object, address: object) -> list[object]:
        return [held.valid.eq(1), held.code.eq(code), held.pc.eq(pc), held.address.eq(address)]

    def _prefetch(self, m: Module, platform: object, dead: Signal, start: Value) -> Value:
        """Issue bursts into the buffer's free room; return whether nothing more will come from below the limit."""
        config = self.config
        beat_bits = log2(config.group_bytes)
        depth = fetch_buffer_beats(config)
        # Bursts of half the buffer, so that one is on its way while the other is used.
        longest = min(config.burst_beats, depth // 2)
        splitter = BurstSplitter(config, (depth + 1).bit_length(), longest)
        instantiate(m, platform, "splitter", splitter)
        wiring.connect(m, splitter.request, wiring.flipped(self.read.ar))

        total = Signal(config.address_bits + 1 - beat_bits)  # whole beats below the limit
        first = Signal(config.address_bits - beat_bits)
        free = Signal(range(depth + 1), init=depth)
        begin = Signal()  # one cycle after `start`, when `dead` is low
        begun = Signal()
        m.d.comb += [
            total.eq(self.limit >> beat_bits),
            first.eq(self.base >> beat_bits),
            splitter.range.valid.eq(begin & (first < total)),
            splitter.range.payload.addr.eq(self.base),
            splitter.range.payload.beats.eq(total - first),
            splitter.room.eq(free),
            splitter.enable.eq(~dead),
            splitter.abandon.eq(dead),
            self.quiet.eq((free == depth) & ~splitter.busy),
        ]
        m.d.sync += [
            begin.eq(start),
            free.eq(free - Mux(splitter.issued, splitter.length, 0) + (self.read.r.valid & self.read.r.ready)),
        ]
        with m.If(start):
            m.d.sync += begun.eq(0)
        with m.Elif(begin):
            m.d.sync += begun.eq(1)
        return begun & ~splitter.busy & (free == depth)

    def _assemble(self, m: Module, dead: Signal, needed: Signal, address: Signal) -> tuple[Value, Value, Value]:
        """Return (word, valid, error) of the next instruction; its last beat is taken when it is ``needed``."""
        beat = self.read.r.payload
        if self.config.group_bytes >= INSTRUCTION_BYTES:
            per_beat = self.config.group_bytes // INSTRUCTION_BYTES
            taken = needed & ~beat.error
            if per_beat == 1:
                word: Value = beat.data
            else:
                index = address[log2(INSTRUCTION_BYTES) : log2(self.config.group_bytes)]
                word = beat.data.word_select(index, INSTRUCTION_BITS)
                taken &= index == per_beat - 1
            m.d.comb += self.read.r.ready.eq(dead | taken)
            return word, self.read.r.valid, beat.error
        beats = INSTRUCTION_BYTES // self.config.group_bytes
        parts = Signal(INSTRUCTION_BITS - 8 * self.config.group_bytes)
        count = Signal(range(beats))
        failed = Signal()
        ends = Signal()
        m.d.comb += [ends.eq(count == beats - 1), self.read.r.ready.eq(dead | ~ends | needed)]
        with m.If(dead):
            m.d.sync += [count.eq(0), failed.eq(0)]
        with m.Elif(self.read.r.valid & self.read.r.ready):
            m.d.sync += [
                count.eq(Mux(ends, 0, count + 1)),
                failed.eq(~ends & (failed | beat.error)),
                parts.eq(Cat(parts, beat.data)[8 * self.config.group_bytes :]),
            ]
        return Cat(parts, beat.data), self.read.r.valid & ends, failed | beat.error
