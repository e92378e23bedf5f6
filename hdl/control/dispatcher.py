# SPDX-License-Identifier: Apache-2.0
"""Instruction decode: static checks, then in-order dispatch into the per-unit queues."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.config import MachineConfig
from hdl.emit.hierarchy import digest, instantiate
from hdl.errors_hw import ErrorCode
from hdl.interfaces import PC_BITS, error_layout, queue_entry_layout
from hdl.isa import (
    Dest,
    Format,
    LoadDest,
    Mapping3D,
    Mode,
    Opcode,
    Order,
    header_layout,
    instruction_layout,
)
from hdl.memory.fifo import StreamFifo

__all__ = ["Dispatcher", "InstructionChecker"]

MAX_SHIFT = 47


class InstructionChecker(wiring.Component):
    """Combinational: is a 256-bit word a legal instruction for this configuration, and which queues does it need?

    Members
    -------
    word : In(256)
    code : Out(5)
        0 when legal, else the `ErrorCode`.
    targets : Out(tiers + 3)
        Queues: tiers from bit 0, then load 0, load 1, store. Zero for NOP and END.
    is_end, is_gemm, is_k : Out(1)
        The word is END / a GEMM / a GEMM with mapping K.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "word": In(256),
                "code": Out(5),
                "targets": Out(config.tiers + 3),
                "is_end": Out(1),
                "is_gemm": Out(1),
                "is_k": Out(1),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return f"instruction_checker_{digest(self.config.digest())}"

    def elaborate(self, platform: object) -> Module:
        """Build one checker per opcode and select by opcode."""
        m = Module()
        config = self.config
        header = data.View(header_layout(), self.word[: header_layout().size])
        header_bad = Signal()
        both_wait = (header.wait0_count != 0) & (header.wait1_count != 0)
        m.d.comb += header_bad.eq(
            header.reserved.any()
            | ((header.wait0_count != 0) & (header.wait0_sem >= config.semaphores))
            | ((header.wait1_count != 0) & (header.wait1_sem >= config.semaphores))
            | (both_wait & (header.wait0_sem == header.wait1_sem))
            | (header.post0_en & (header.post0_sem >= config.semaphores))
            | (header.post1_en & (header.post1_sem >= config.semaphores))
        )
        body: dict[Opcode, data.View] = {}
        field_bad: dict[Opcode, Signal] = {}
        range_bad: dict[Opcode, Signal] = {}
        for opcode in Opcode:
            layout = instruction_layout(opcode)
            body[opcode] = data.View(layout, self.word)
            field_bad[opcode] = Signal(name=f"{opcode.name.lower()}_field_bad")
            range_bad[opcode] = Signal(name=f"{opcode.name.lower()}_range_bad")

        pad_bad = {op: body[op]["_pad"].any() for op in Opcode}
        has_semaphores = (header.wait0_count | header.wait1_count).any() | header.post0_en | header.post1_en
        for opcode in (Opcode.NOP, Opcode.END):
            m.d.comb += field_bad[opcode].eq(header_bad | pad_bad[opcode] | has_semaphores)
        self._check_load(m, body[Opcode.LOAD], header_bad | pad_bad[Opcode.LOAD], field_bad, range_bad)
        self._check_store(m, body[Opcode.STORE], header_bad | pad_bad[Opcode.STORE], field_bad, range_bad)
        self._check_gemm(m, body[Opcode.GEMM], header_bad | pad_bad[Opcode.GEMM], field_bad, range_bad)

        tiers = config.tiers
        load, gemm = body[Opcode.LOAD], body[Opcode.GEMM]
        gang = Signal(tiers)
        m.d.comb += gang.eq(
            Cat((tier >= gemm.tier_base) & (tier < gemm.tier_base + gemm.tier_count) for tier in range(tiers))
        )
        with m.Switch(header.opcode):
            for opcode in Opcode:
                with m.Case(opcode):
                    with m.If(field_bad[opcode]):
                        m.d.comb += self.code.eq(ErrorCode.ILLEGAL_FIELD)
                    with m.Elif(range_bad[opcode]):
                        m.d.comb += self.code.eq(ErrorCode.RANGE)
                    if opcode == Opcode.LOAD:
                        pair = load.format == Format.PAIR
                        m.d.comb += self.targets[tiers : tiers + 2].eq(Cat(pair | ~load.group, pair | load.group))
                    elif opcode == Opcode.STORE:
                        m.d.comb += self.targets[tiers + 2].eq(1)
                    elif opcode == Opcode.GEMM:
                        m.d.comb += [
                            self.targets[:tiers].eq(gang),
                            self.is_gemm.eq(1),
                            self.is_k.eq(gemm.mapping == Mapping3D.K),
                        ]
                    elif opcode == Opcode.END:
                        m.d.comb += self.is_end.eq(1)
            with m.Default():
                m.d.comb += self.code.eq(ErrorCode.ILLEGAL_OPCODE)
        return m

    def _check_load(
        self,
        m: Module,
        load: data.View,
        common: object,
        field_bad: dict[Opcode, Signal],
        range_bad: dict[Opcode, Signal],
    ) -> None:
        config = self.config
        end = Signal(17, name="load_end")
        size = Signal(17, name="load_size")
        m.d.comb += end.eq(load.dest_base + load.count)
        sizes = {
            LoadDest.VCACHE: config.vcache_tiles,
            LoadDest.ACTIVATION: config.activation_words,
            LoadDest.LIST: config.list_depth,
            LoadDest.PARAMETER: config.parameter_words,
        }
        with m.Switch(load.dest_kind):
            for kind, words in sizes.items():
                with m.Case(kind):
                    m.d.comb += size.eq(words)
        m.d.comb += [
            field_bad[Opcode.LOAD].eq(
                common
                | (load.format == 3)
                | (load.count == 0)
                | (load.dest_tiers == 0)
                | (load.dest_tiers >> config.tiers).any()
                | ((load.format != Format.BYTES) & (load.dest_kind != LoadDest.VCACHE))
            ),
            range_bad[Opcode.LOAD].eq(end > size),
        ]

    def _check_store(
        self,
        m: Module,
        store: data.View,
        common: object,
        field_bad: dict[Opcode, Signal],
        range_bad: dict[Opcode, Signal],
    ) -> None:
        end = Signal(17, name="store_end")
        m.d.comb += [
            end.eq(store.row_base + store.rows),
            field_bad[Opcode.STORE].eq(common | (store.rows == 0)),
            range_bad[Opcode.STORE].eq(end > self.config.combine_rows),
        ]

    def _check_gemm(
        self,
        m: Module,
        gemm: data.View,
        common: object,
        field_bad: dict[Opcode, Signal],
        range_bad: dict[Opcode, Signal],
    ) -> None:
        config = self.config
        last = Signal(5, name="gang_end")
        accumulators = Signal(20, name="accumulator_rows")
        activation = gemm.dest_kind == Dest.ACTIVATION
        m.d.comb += last.eq(gemm.tier_base + gemm.tier_count)
        with m.If(gemm.order == Order.N_INNER):
            m.d.comb += accumulators.eq(gemm.tokens * gemm.n_tiles)
        with m.Else():
            m.d.comb += accumulators.eq(gemm.tokens)
        bad_gang = (gemm.tier_count == 0) | (last > config.tiers)
        if not config.vertical_links:
            bad_gang = bad_gang | (gemm.tier_count > 1)
        m.d.comb += [
            field_bad[Opcode.GEMM].eq(
                common
                | bad_gang
                | ((gemm.mapping == Mapping3D.ALONE) & (gemm.tier_count != 1))
                | (gemm.tokens == 0)
                | (gemm.k_slices == 0)
                | (gemm.n_tiles == 0)
                | (gemm.mode == 3)
                | (gemm.shift > MAX_SHIFT)
                | (gemm.post_shift > MAX_SHIFT)
                | (activation & (gemm.mode == Mode.REQUANT16))
                | (~activation & (gemm.mode == Mode.SWIGLU))
                | (gemm.dest_tiers >> config.tiers).any()
            ),
            range_bad[Opcode.GEMM].eq(accumulators > config.accumulator_depth),
        ]


class Dispatcher(wiring.Component):
    """Checks each instruction and puts it into the queues of all its units at once, in program order.

    One instruction per cycle when the queues have room. An instruction enters all its queues in the same cycle, so that
    queues agree on the order of instructions they share. At END it waits; the supervisor decides when all is done.

    Members
    -------
    instructions : In(stream of queue entries)
    queue : Out(stream of queue entries).array(tiers + 3)
        Heads of the queues: tiers, load 0, load 1, store.
    halt : In(1)
        Accept and dispatch nothing.
    ended : Out(1)
        END was reached (level until reset).
    empty : Out(1)
        Nothing waits here or in any queue.
    waiting : Out(tiers + 3)
        Queues that hold an instruction.
    error : Out(error_layout())
    oldest_pc : Out(PC_BITS)
        Instruction held at dispatch (for the watchdog's report).
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
                "queue": Out(entry).array(config.tiers + 3),
                "halt": In(1),
                "ended": Out(1),
                "empty": Out(1),
                "waiting": Out(config.tiers + 3),
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
        """Build checker, holding register and queues."""
        m = Module()
        config = self.config
        queues = config.tiers + 3
        fifos = [
            instantiate(m, platform, f"queue{index}", StreamFifo(queue_entry_layout(), config.queue_depth))
            for index in range(queues)
        ]
        checker = instantiate(m, platform, "legality", InstructionChecker(config))

        held = Signal(queue_entry_layout())
        held_valid = Signal()
        fire = Signal()
        rooms = Signal(queues)
        dispatch = Signal()
        m.d.comb += [
            checker.word.eq(held.word),
            rooms.eq(Cat(~checker.targets[i] | fifos[i].input.ready for i in range(queues))),
            fire.eq(held_valid & ~self.halt & ~self.ended & ~checker.code.any()),
            dispatch.eq(fire & rooms.all()),
            self.instructions.ready.eq((~held_valid | dispatch) & ~self.halt & ~self.ended),
            self.oldest_pc.eq(held.pc),
            self.error.valid.eq(held_valid & ~self.halt & ~self.ended & checker.code.any()),
            self.error.code.eq(checker.code),
            self.error.pc.eq(held.pc),
            self.enter_valid.eq(dispatch & checker.is_gemm),
            self.enter_tiers.eq(checker.targets[: config.tiers]),
            self.enter_k.eq(checker.is_k),
            self.issued.eq(dispatch),
            self.full.eq(fire & ~rooms.all()),
            self.starved.eq(~held_valid & ~self.ended),
        ]
        with m.If(dispatch):
            m.d.sync += held_valid.eq(0)
        with m.If(self.instructions.valid & self.instructions.ready & ~(dispatch & checker.is_end)):
            m.d.sync += [held.eq(self.instructions.payload), held_valid.eq(1)]
        with m.If(dispatch & checker.is_end):
            m.d.sync += self.ended.eq(1)
        for index, fifo in enumerate(fifos):
            m.d.comb += [
                fifo.input.valid.eq(dispatch & checker.targets[index]),
                fifo.input.payload.eq(held),
            ]
            wiring.connect(m, fifo.output, wiring.flipped(self.queue[index]))
            m.d.comb += self.waiting[index].eq(fifo.busy)
        m.d.comb += self.empty.eq(~self.waiting.any() & ~held_valid)
        return m
