# SPDX-License-Identifier: Apache-2.0
"""Static checks of an instruction word, in two stages that a register may part.

:class:`InstructionScan` looks at the fields and multiplies; :class:`InstructionVerdict` makes an error code and the
target queues of what it found. ``hdl/isa/legality.py`` states the same rules in Python, and which of them the units
check.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.common.queues import gang_queues, load_queue, queue_count, store_queue, vector_queue
from hdl.config import MachineConfig
from hdl.emit.hierarchy import digest, instantiate
from hdl.isa import (
    INSTRUCTION_BITS,
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
from hdl.isa.error_codes import ErrorCode
from hdl.isa.legality import MAX_ROW_SHIFT
from hdl.isa.slots import MAX_CHOICES
from hdl.isa.vector_access import REDUCTIONS, TWO_OPERANDS
from hdl.isa.vector_legality import INDEX_LIMIT
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

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return f"instruction_scan_{digest(self.config.digest())}"

    def elaborate(self, platform: object) -> Module:
        """Build the checks of the header and of each opcode."""
        m = Module()
        header = data.View(header_layout(), self.word[: header_layout().size])
        header_bad = Signal()
        m.d.comb += header_bad.eq(self._header_bad(header))
        has_semaphores = (header.wait0_count | header.wait1_count).any() | header.post0_en | header.post1_en
        checks: dict[Opcode, Callable[[Any], tuple[Any, Any]]] = {
            Opcode.NOP: lambda _: (has_semaphores, 0),
            Opcode.END: lambda _: (has_semaphores, 0),
            Opcode.LOAD: lambda body: self._load(m, body),
            Opcode.STORE: self._store,
            Opcode.GEMM: lambda body: (self._gemm(body), 0),
            Opcode.VECTOR: lambda body: (self._vector(body), 0),
            Opcode.ROUTE: lambda body: (self._route(body), 0),
        }
        for opcode, check in checks.items():
            body = data.View(instruction_layout(opcode), self.word)
            field, reach = check(body)
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

    def _load(self, m: Module, load: Any) -> tuple[Value, Value]:
        config = self.config
        end = Signal(17, name="load_end")
        size = Signal(17, name="load_size")
        known = Signal(name="load_known")
        rows = load.dest_kind == LoadDest.ROWS
        m.d.comb += end.eq(load.dest_base + load.count)
        sizes = {
            LoadDest.VCACHE: config.vcache_tiles,
            LoadDest.ACTIVATION: config.activation_words,
            LoadDest.LIST: config.list_depth,
            LoadDest.PARAMETER: config.parameter_words,
            LoadDest.ROWS: config.combine_rows,
        }
        with m.Switch(load.dest_kind):
            for kind, words in sizes.items():
                with m.Case(kind):
                    m.d.comb += [size.eq(words), known.eq(1)]
        # The edge feed's banks take whole rows only.
        transposed = (load.format == Format.COLUMNS) if config.stationary_feed == "edge" else 0
        field = (
            ~known
            | transposed
            | (load.count == 0)
            | (rows == load.dest_tiers.any())
            | (load.dest_tiers >> config.tiers).any()
            | ((load.format != Format.BYTES) & (load.dest_kind != LoadDest.VCACHE))
            | (load.shift > Mux(rows, MAX_ROW_SHIFT, 0))
            | (load.slot_en & (load.dest_kind != LoadDest.VCACHE) & (load.dest_kind != LoadDest.PARAMETER))
            | self._slot_bad(load)
        )
        return field, end > size

    def _slot_bad(self, body: Any) -> Value:
        return body.slot_en & (body.slot >> self.config.slot_bits).any()

    def _store(self, store: Any) -> tuple[Value, Value]:
        # The rows as if there were no gaps; where the last one lies with them takes a product.
        end = store.row_base + store.rows
        return store.rows == 0, end > self.config.combine_rows

    def _gemm(self, gemm: Any) -> Value:
        config = self.config
        activation = gemm.dest_kind == Dest.ACTIVATION
        return (
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
            | (gemm.slot_en & ((gemm.tier_count != 1) | ~(gemm.act_list | gemm.dest_list)))
            | self._slot_bad(gemm)
        )

    def _route(self, route: Any) -> Value:
        config = self.config
        return (
            (route.tokens == 0)
            | (route.choices == 0)
            | _above(route.choices, min(MAX_CHOICES, config.columns))
            | (route.experts == 0)
            | _above(route.experts, config.expert_slots)
        )

    def _vector(self, vector: Any) -> Value:
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
        return bad


class InstructionVerdict(wiring.Component):
    """Combinational second stage: is the instruction legal, and which queues does it need?

    Members
    -------
    word : In(256)
    findings : In(findings_layout(config))
        What the scan found in the same word.
    code : Out(5)
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
                "code": Out(5),
                "targets": Out(queue_count(config)),
                "is_end": Out(1),
                "is_gemm": Out(1),
                "is_k": Out(1),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return f"instruction_verdict_{digest(self.config.digest())}"

    def elaborate(self, platform: object) -> Module:
        """Select by opcode."""
        m = Module()
        config = self.config
        found = self.findings
        load = data.View(instruction_layout(Opcode.LOAD), self.word)
        gemm = data.View(instruction_layout(Opcode.GEMM), self.word)
        end = Signal(signed(_rows_bits(config) + FACTOR_BITS + 3))
        gang = Signal(config.tiers)
        m.d.comb += [
            end.eq(found.base + found.low + (found.high << HALF_BITS)),
            gang.eq(gang_queues(config, gemm)),
        ]
        depths = {Opcode.GEMM: config.accumulator_depth, Opcode.STORE: config.combine_rows}
        with m.Switch(load.opcode):
            for opcode in Opcode:
                with m.Case(opcode):
                    reach = found.reach[opcode.name]
                    if opcode in depths:
                        reach |= end > depths[opcode]
                    with m.If(found.field[opcode.name]):
                        m.d.comb += self.code.eq(ErrorCode.ILLEGAL_FIELD)
                    with m.Elif(reach):
                        m.d.comb += self.code.eq(ErrorCode.RANGE)
                    self._target(m, opcode, load, gemm, gang)
            with m.Default():
                m.d.comb += self.code.eq(ErrorCode.ILLEGAL_OPCODE)
        return m

    def _target(self, m: Module, opcode: Opcode, load: Any, gemm: Any, gang: Signal) -> None:
        config, targets = self.config, self.targets
        if opcode == Opcode.LOAD:
            pair = load.format == Format.PAIR
            m.d.comb += [
                targets[load_queue(config, 0)].eq(pair | ~load.group),
                targets[load_queue(config, 1)].eq(pair | load.group),
            ]
        elif opcode == Opcode.STORE:
            m.d.comb += targets[store_queue(config)].eq(1)
        elif opcode == Opcode.GEMM:
            m.d.comb += targets[: config.tiers].eq(gang)
            m.d.comb += [self.is_gemm.eq(1), self.is_k.eq(gemm.mapping == Mapping3D.K)]
        elif opcode in (Opcode.VECTOR, Opcode.ROUTE):
            m.d.comb += targets[vector_queue(config)].eq(1)
        elif opcode == Opcode.END:
            m.d.comb += self.is_end.eq(1)


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
                "code": Out(5),
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
