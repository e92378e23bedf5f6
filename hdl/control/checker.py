# SPDX-License-Identifier: Apache-2.0
"""Static checks of an instruction word, in two stages that a register may part.

:class:`InstructionScan` looks at the fields and multiplies; :class:`InstructionVerdict` makes an error code and the
target queues of what it found. ``hdl/isa/legality.py`` states the same rules in Python, and which of them the units
check.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.common.queues import gang_queues, load_queue, queue_count, store_queue, vector_queue
from hdl.common.semaphore_ports import has_waits
from hdl.config import MachineConfig
from hdl.emit.hierarchy import digest, instantiate, parameter_key, parameters
from hdl.isa import (
    INDEX_LIMIT,
    INSTRUCTION_BITS,
    LOAD_TARGETS,
    MAX_CHOICES,
    MAX_ROW_SHIFT,
    MEMORIES,
    REDUCTIONS,
    SLOT_DESTS,
    TWO_OPERANDS,
    Dest,
    Format,
    LoadDest,
    Mapping3D,
    Mode,
    Opcode,
    Order,
    VectorBits,
    VectorDest,
    VectorFn,
    VectorOp,
    VectorSum,
    header_layout,
    instruction_layout,
)
from hdl.isa.error_codes import ERROR_CODE_BITS, ErrorCode
from hdl.numerics import MAX_SHIFT

__all__ = ["InstructionChecker", "InstructionScan", "InstructionVerdict", "findings_layout"]

FACTOR_BITS = 10
"""Width of GEMM's tokens and n_tiles, and of STORE's row_gap."""

HALF_BITS = FACTOR_BITS // 2


def _rows_bits(config: MachineConfig) -> int:
    """Return the width of the rows of a product: as many as either memory can have."""
    return max(FACTOR_BITS, min(16, config.combine_bits + 1))


def findings_layout(config: MachineConfig) -> data.StructLayout:
    """Return what the scan finds.

    ``field``: a field that is not legal, for each opcode. ``reach``: an address outside its memory, likewise, as far as
    that takes no product. ``base`` plus ``low`` plus 32 times ``high``: how many accumulator rows a GEMM needs, or the
    end of the combine rows that a STORE reads.
    """
    each = data.StructLayout({opcode.name: 1 for opcode in Opcode})
    part = _rows_bits(config) + HALF_BITS
    return data.StructLayout({"field": each, "reach": each, "base": signed(18), "low": part, "high": part})


def _above(field: Value, limit: int) -> Value:
    """Return whether a field is above a limit; a limit that it cannot exceed costs no comparison."""
    return field > limit if limit < (1 << len(field)) - 1 else Const(0)


class InstructionScan(wiring.Component):
    """Combinational first stage: looks at every field as each opcode would have it.

    Members
    -------
    word : In(256)
    findings : Out(findings_layout(config))
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__({"word": In(INSTRUCTION_BITS), "findings": Out(findings_layout(config))})

    PARAMETERS = parameters(
        "activation_words columns combine_rows expert_slots list_depth parameter_words semaphores "
        "stationary_feed tiers vcache_tiles vertical_links"
    )
    """What the module depends on."""

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return parameter_key("instruction_scan", self.config, self.PARAMETERS)

    def elaborate(self, platform: object) -> Module:
        """Build the checks of the header and of each opcode."""
        m = Module()
        header = data.View(header_layout(), self.word[: header_layout().size])
        header_bad = Signal()
        m.d.comb += header_bad.eq(self._header_bad(header))
        for opcode, check in SCANS.items():
            body = data.View(instruction_layout(opcode), self.word)
            field, reach = check(self, m, body)
            m.d.comb += [
                self.findings.field[opcode.name].eq(header_bad | body["_pad"].any() | field),
                self.findings.reach[opcode.name].eq(reach),
            ]
        self._multiply(m)
        return m

    def _multiply(self, m: Module) -> None:
        """Build the product that GEMM and STORE need, in two halves: tokens and tiles, or rows and gap."""
        gemm = data.View(instruction_layout(Opcode.GEMM), self.word)
        store = data.View(instruction_layout(Opcode.STORE), self.word)
        is_store = store.opcode == Opcode.STORE
        # More rows than this width holds are out of reach in any case.
        rows = Signal(_rows_bits(self.config))
        factor = Signal(FACTOR_BITS)
        m.d.comb += [
            rows.eq(Mux(is_store, store.rows, gemm.tokens)),
            factor.eq(Mux(is_store, store.row_gap, Mux(gemm.order == Order.N_INNER, gemm.n_tiles, 1))),
            self.findings.low.eq(rows * factor[:HALF_BITS]),
            self.findings.high.eq(rows * factor[HALF_BITS:]),
            # row_base + rows + (rows - 1) * row_gap
            self.findings.base.eq(Mux(is_store, store.row_base + store.rows - store.row_gap, 0)),
        ]

    def _header_bad(self, header: data.View) -> Value:
        number = self.config.semaphores
        both_wait = (header.wait0_count != 0) & (header.wait1_count != 0)
        return (
            header.reserved.any()
            | ((header.wait0_count != 0) & (header.wait0_sem >= number))
            | ((header.wait1_count != 0) & (header.wait1_sem >= number))
            | (both_wait & (header.wait0_sem == header.wait1_sem))
            | (header.post0_en & (header.post0_sem >= number))
            | (header.post1_en & (header.post1_sem >= number))
        )

    def _immediate(self, m: Module, body: Any) -> tuple[Value, Value]:
        """Check NOP or END, which enter no queue: nothing could wait or post."""
        return has_waits(body) | body.post0_en | body.post1_en, Const(0)

    def _load(self, m: Module, load: Any) -> tuple[Value, Value]:
        config = self.config
        end = Signal(17, name="load_end")
        size = Signal(17, name="load_size")
        known = Signal(name="load_known")
        rows = load.dest_kind == LoadDest.ROWS
        m.d.comb += end.eq(load.dest_base + load.count)
        with m.Switch(load.dest_kind):
            for kind, target in LOAD_TARGETS.items():
                with m.Case(kind):
                    m.d.comb += [size.eq(MEMORIES[target.memory].depth(config)), known.eq(1)]
        # The edge feed's banks take whole rows only.
        no_rows = (Format.COLUMNS, Format.LOW) if config.stationary_feed == "edge" else ()
        odd = Cat(load.format == form for form in no_rows).any() | (load.format > max(Format))
        field = (
            ~known
            | odd
            | (load.count == 0)
            | (rows == load.dest_tiers.any())
            | (load.dest_tiers >> config.tiers).any()
            | ((load.format != Format.BYTES) & (load.dest_kind != LoadDest.VCACHE))
            | (load.shift > Mux(rows, MAX_ROW_SHIFT, 0))
            | (load.slot_en & ~Cat(load.dest_kind == kind for kind in SLOT_DESTS).any())
            | (load.scored & ~self._may_be_scored(load))
            | self._slot_bad(load)
        )
        return field, end > size

    @staticmethod
    def _may_be_scored(load: Any) -> Value:
        planes = (load.format == Format.PAIR) | (load.format == Format.LOW)
        return load.slot_en & ((load.dest_kind == LoadDest.PARAMETER) | planes)

    def _slot_bad(self, body: Any) -> Value:
        return body.slot_en & (body.slot >> self.config.slot_bits).any()

    def _store(self, m: Module, store: Any) -> tuple[Value, Value]:
        # The rows as if there were no gaps; where the last one lies with them takes a product.
        end = store.row_base + store.rows
        return store.rows == 0, end > self.config.combine_rows

    def _gemm(self, m: Module, gemm: Any) -> tuple[Value, Value]:
        config = self.config
        activation = gemm.dest_kind == Dest.ACTIVATION
        field = (
            (gemm.tier_count == 0)
            | (gemm.tier_base + gemm.tier_count > config.tiers)
            | ((gemm.tier_count > 1) & ((gemm.mapping == Mapping3D.ALONE) | (not config.vertical_links)))
            | (gemm.tokens == 0)
            | (gemm.k_slices == 0)
            | (gemm.n_tiles == 0)
            | (gemm.mode == len(Mode))
            | (gemm.shift > MAX_SHIFT)
            | (gemm.post_shift > MAX_SHIFT)
            | (activation & (gemm.mode == Mode.REQUANT16))
            | (~activation & (gemm.mode == Mode.SWIGLU))
            | (gemm.dest_tiers >> config.tiers).any()
            | (gemm.slot_en & (gemm.tier_count > 1) & (gemm.mapping != Mapping3D.N))
            | (gemm.slot_en & ~(gemm.act_list | gemm.dest_list))
            | self._slot_bad(gemm)
        )
        return field, Const(0)

    def _route(self, m: Module, route: Any) -> tuple[Value, Value]:
        config = self.config
        field = (
            (route.tokens == 0)
            | (route.choices == 0)
            | _above(route.choices, min(MAX_CHOICES, config.columns))
            | (route.experts == 0)
            | _above(route.slot_base + route.experts, config.expert_slots)
        )
        return field, Const(0)

    def _vector(self, m: Module, vector: Any) -> tuple[Value, Value]:
        config = self.config

        def is_one_of(ops: frozenset[VectorOp]) -> Value:
            return Cat(vector.op == op for op in sorted(ops)).any()

        is_map, gather = vector.op == VectorOp.MAP, vector.op == VectorOp.GATHER
        reduction = is_one_of(REDUCTIONS)
        none = vector.dest_kind == VectorDest.NONE
        activation = vector.dest_kind == VectorDest.ACTIVATION
        # Periods are powers of two, which divide `rows` when its bits below theirs are zero.
        below = (vector.b_rows - 1)[: len(vector.b_rows)]
        bad_period = (vector.b_rows == 0) | (vector.b_rows & below).any() | (vector.rows & below).any()
        bad = (
            (vector.op >= len(VectorOp))
            | (vector.fn >= len(VectorFn))
            | (vector.sum >= len(VectorSum))
            | (vector.dest_kind >= len(VectorDest))
            | (vector.bits >= len(VectorBits))
            | (vector.vectors == 0)
            | (vector.rows == 0)
            | (~is_map & (vector.fn.any() | vector.sum.any()))
            | (is_one_of(TWO_OPERANDS) & bad_period)
            | (gather & ((vector.length == 0) | (vector.length > config.columns) | vector.masked | activation))
            | (reduction & ~none)
            | (~reduction & none & ~(is_map & (vector.sum != VectorSum.NONE)))
            | (activation != vector.dest_tiers.any())
            | (activation & (vector.bits != VectorBits.BITS8))
            | (vector.dest_tiers >> config.tiers).any()
        )
        longest = INDEX_LIMIT // config.columns
        if longest < 1 << len(vector.rows):
            bad |= (gather | (vector.op == VectorOp.ARGMAX)) & (vector.rows > longest)
        return bad, Const(0)


SCANS: Mapping[Opcode, Callable[[InstructionScan, Module, Any], tuple[Value, Value]]] = {
    Opcode.NOP: InstructionScan._immediate,
    Opcode.END: InstructionScan._immediate,
    Opcode.LOAD: InstructionScan._load,
    Opcode.STORE: InstructionScan._store,
    Opcode.GEMM: InstructionScan._gemm,
    Opcode.VECTOR: InstructionScan._vector,
    Opcode.ROUTE: InstructionScan._route,
}
"""What looks at the fields of each opcode: returns whether a field is not legal, and whether an address is."""


class InstructionVerdict(wiring.Component):
    """Combinational second stage: is the instruction legal, and which queues does it need?

    Members
    -------
    word : In(256)
    findings : In(findings_layout(config))
        What the scan found in the same word.
    code : Out(ERROR_CODE_BITS)
        0 when legal, else the `ErrorCode`.
    targets : Out(queue_count)
        Queues, see ``hdl/common/queues.py``. Zero for NOP and END.
    is_end, is_gemm, is_k : Out(1)
        The word is END / a GEMM / a GEMM with mapping K.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "word": In(INSTRUCTION_BITS),
                "findings": In(findings_layout(config)),
                "code": Out(ERROR_CODE_BITS),
                "targets": Out(queue_count(config)),
                "is_end": Out(1),
                "is_gemm": Out(1),
                "is_k": Out(1),
            }
        )

    PARAMETERS = parameters("accumulator_depth combine_rows tiers")
    """What the module depends on."""

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return parameter_key("instruction_verdict", self.config, self.PARAMETERS)

    def elaborate(self, platform: object) -> Module:
        """Select by opcode."""
        m = Module()
        config = self.config
        found = self.findings
        end = Signal(signed(_rows_bits(config) + FACTOR_BITS + 3))
        m.d.comb += end.eq(found.base + found.low + (found.high << HALF_BITS))
        depths = {Opcode.GEMM: config.accumulator_depth, Opcode.STORE: config.combine_rows}
        with m.Switch(data.View(header_layout(), self.word[: header_layout().size]).opcode):
            for opcode, target in TARGETS.items():
                body = data.View(instruction_layout(opcode), self.word)
                with m.Case(opcode):
                    reach = found.reach[opcode.name]
                    if opcode in depths:
                        reach |= end > depths[opcode]
                    with m.If(found.field[opcode.name]):
                        m.d.comb += self.code.eq(ErrorCode.ILLEGAL_FIELD)
                    with m.Elif(reach):
                        m.d.comb += self.code.eq(ErrorCode.RANGE)
                    target(self, m, body)
            with m.Default():
                m.d.comb += self.code.eq(ErrorCode.ILLEGAL_OPCODE)
        return m

    def _nop(self, m: Module, body: Any) -> None:
        """Send it nowhere."""

    def _end(self, m: Module, body: Any) -> None:
        m.d.comb += self.is_end.eq(1)

    def _load(self, m: Module, load: Any) -> None:
        pair = load.format == Format.PAIR
        for group, mine in enumerate((~load.group, load.group)):
            m.d.comb += self.targets[load_queue(self.config, group)].eq(pair | mine)

    def _store(self, m: Module, store: Any) -> None:
        m.d.comb += self.targets[store_queue(self.config)].eq(1)

    def _gemm(self, m: Module, gemm: Any) -> None:
        m.d.comb += [
            self.targets[: self.config.tiers].eq(gang_queues(self.config, gemm)),
            self.is_gemm.eq(1),
            self.is_k.eq(gemm.mapping == Mapping3D.K),
        ]

    def _vector(self, m: Module, body: Any) -> None:
        m.d.comb += self.targets[vector_queue(self.config)].eq(1)


TARGETS: Mapping[Opcode, Callable[[InstructionVerdict, Module, Any], None]] = {
    Opcode.NOP: InstructionVerdict._nop,
    Opcode.END: InstructionVerdict._end,
    Opcode.LOAD: InstructionVerdict._load,
    Opcode.STORE: InstructionVerdict._store,
    Opcode.GEMM: InstructionVerdict._gemm,
    Opcode.VECTOR: InstructionVerdict._vector,
    Opcode.ROUTE: InstructionVerdict._vector,
}
"""What sends the instructions of each opcode to their queues."""


class InstructionChecker(wiring.Component):
    """Both stages without the registers that the dispatcher has between them: what it decides about a word.

    Members
    -------
    word : In(256)
    code, targets, is_end, is_gemm, is_k : Out
        As of `InstructionVerdict`, combinational.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "word": In(INSTRUCTION_BITS),
                "code": Out(ERROR_CODE_BITS),
                "targets": Out(queue_count(config)),
                "is_end": Out(1),
                "is_gemm": Out(1),
                "is_k": Out(1),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return f"instruction_checker_{digest(self.config.digest())}"

    def elaborate(self, platform: object) -> Module:
        """Connect the stages."""
        m = Module()
        scan = instantiate(m, platform, "scan", InstructionScan(self.config))
        verdict = instantiate(m, platform, "verdict", InstructionVerdict(self.config))
        m.d.comb += [scan.word.eq(self.word), verdict.word.eq(self.word), verdict.findings.eq(scan.findings)]
        m.d.comb += [getattr(self, n).eq(getattr(verdict, n)) for n in ("code", "targets", "is_end", "is_gemm", "is_k")]
        return m
