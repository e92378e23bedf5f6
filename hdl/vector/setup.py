# SPDX-License-Identifier: Apache-2.0
"""The vector unit's next instruction: decoded, checked against the sizes of all memories, its semaphores granted."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.common.semaphore_ports import assign_posts, assign_waits, has_waits
from hdl.config import MachineConfig
from hdl.emit.hierarchy import parameter_key, parameters
from hdl.interfaces import PC_BITS, error_layout, post_layout, queue_entry_layout, wait_layout
from hdl.isa import (
    REDUCTIONS,
    TWO_OPERANDS,
    VECTOR_OPERATIONS,
    Opcode,
    ScalarRead,
    VectorDest,
    VectorFn,
    VectorOp,
    VectorSum,
    body_layout,
    instruction_layout,
)
from hdl.isa.error_codes import ErrorCode

__all__ = ["TIMING", "VectorSetup", "VectorSetupTiming", "job_layout"]

CHECKS = 5
"""Products that the check needs, one a cycle."""


class VectorSetupTiming(NamedTuple):
    """Cycles of the vector unit's setup.

    Attributes
    ----------
    check : int
        From an instruction's transfer to the first cycle in which it asks for semaphores, or is offered without.
    grant : int
        From the grant to the offer.
    """

    check: int
    grant: int


TIMING: Final = VectorSetupTiming(check=CHECKS + 2, grant=1)
"""The holding register, the products, and the comparison of the last one."""


def job_layout(config: MachineConfig) -> data.StructLayout:
    """Return a checked instruction: its fields, its index, its posts, and what follows from its fields.

    ``a_last``, ``b_last``, ``dest_last``: the last row that it reads or writes; ``d_end``: the scalar after the last
    one that it writes. ``uses_b``: it has an operand B. ``scalars``: it reads a scalar for every vector; ``reduces``:
    it writes one; ``sums``: by summing.
    """
    derived = {
        "a_last": 16, "b_last": 16, "dest_last": 16, "d_end": 13, "uses_b": 1, "scalars": 1, "reduces": 1, "sums": 1,
    }  # fmt: skip
    return data.StructLayout(
        {**body_layout(Opcode.VECTOR).members, **derived, "pc": PC_BITS, "post": post_layout(config)}
    )


class VectorSetup(wiring.Component):
    """Holds the next instruction while the one before it runs.

    Latency: 8 cycles from the queue to `start`, and the wait for semaphores. One instruction in 9 cycles.

    Members
    -------
    queue : In(stream of queue_entry_layout)
        VECTOR instructions whose fields are legal.
    wait : Out(stream of wait_layout)
        Semaphores; a transfer is the grant.
    start : Out(stream of job_layout)
        The instruction, ready to run.
    halt : In(1)
        Ask for nothing, start nothing.
    held, waiting : Out(1)
        An instruction is here; it asks for semaphores.
    error : Out(error_layout)
        RANGE: level, and the instruction is never offered.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "queue": In(stream.Signature(queue_entry_layout())),
                "wait": Out(stream.Signature(wait_layout(config))),
                "start": Out(stream.Signature(job_layout(config))),
                "halt": In(1),
                "held": Out(1),
                "waiting": Out(1),
                "error": Out(error_layout()),
            }
        )

    PARAMETERS = parameters("activation_words columns combine_rows rows scalar_depth semaphores")
    """What the module depends on."""

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return parameter_key("vector_setup", self.config, self.PARAMETERS)

    def elaborate(self, platform: object) -> Module:
        """Build the holding register, the checks and the semaphore request."""
        m = Module()
        word = Signal(queue_entry_layout())
        held, granted = Signal(), Signal()
        ins = data.View(instruction_layout(Opcode.VECTOR), word.word)
        m.d.comb += [self.queue.ready.eq(~held & ~self.halt), self.held.eq(held)]
        with m.If(self.queue.valid & self.queue.ready):
            m.d.sync += [word.eq(self.queue.payload), held.eq(1), granted.eq(0)]
        checked, bad = self._check(m, ins, held, self.start.payload)

        needed = has_waits(ins)
        m.d.comb += [
            self.waiting.eq(held & needed & ~granted & ~self.error.valid),
            self.wait.valid.eq(checked & ~bad & needed & ~granted & ~self.halt),
            *assign_waits(self.wait.payload, ins),
            self.start.valid.eq(checked & ~bad & (granted | ~needed) & ~self.halt),
        ]
        with m.If(self.wait.valid & self.wait.ready):
            m.d.sync += granted.eq(1)
        with m.If(self.start.valid & self.start.ready):
            m.d.sync += held.eq(0)
        job = self.start.payload
        m.d.comb += [job[name].eq(ins[name]) for name, _ in body_layout(Opcode.VECTOR)]
        m.d.comb += [
            job.pc.eq(word.pc),
            *assign_posts(job.post, ins),
        ]
        with m.If(checked & bad & ~self.error.valid):
            m.d.sync += [self.error.valid.eq(1), self.error.code.eq(ErrorCode.RANGE), self.error.pc.eq(word.pc)]
        return m

    def _check(self, m: Module, ins: data.View, held: Signal, job: Any) -> tuple[Signal, Signal]:
        """Build the range check, a product and a comparison a cycle; return (checked, out of range).

        What it finds out about the instruction goes into `job`.
        """
        config = self.config
        gather = ins.op == VectorOp.GATHER
        two = Cat(ins.op == op for op in sorted(TWO_OPERANDS)).any()
        reduction = Cat(ins.op == op for op in sorted(REDUCTIONS)).any()
        with_sum = (ins.op == VectorOp.MAP) & (ins.sum != VectorSum.NONE)
        reads = Signal()
        conditions: dict[ScalarRead, Any] = {
            ScalarRead.NEVER: 0,
            ScalarRead.ALWAYS: 1,
            ScalarRead.UNLESS_FIRST: ~ins.first,
            ScalarRead.WITH_EXP2: ins.fn == VectorFn.EXP2,
        }
        with m.Switch(ins.op):
            for op, about in VECTOR_OPERATIONS.items():
                with m.Case(op):
                    m.d.comb += reads.eq(conditions[about.reads_scalar])
        lasts = [Signal(16, name=f"{name}_last") for name in ("a", "b", "dest")]
        m.d.comb += [
            *(job[f"{name}_last"].eq(last) for name, last in zip(("a", "b", "dest"), lasts, strict=True)),
            job.d_end.eq(ins.d_scalar + ins.vectors),
            job.uses_b.eq(two),
            job.scalars.eq(reads),
            job.reduces.eq(reduction | with_sum),
            job.sums.eq(with_sum),
        ]

        step = Signal(range(CHECKS + 3))
        product, bad, checked = Signal(20), Signal(), Signal()
        start, extent, limit, applies = Signal(16), Signal(11), Signal(17), Signal()
        factor_a, factor_b = Signal(10), Signal(10)
        end = Signal(22)
        ratio = (config.rows // config.columns).bit_length() - 1
        last_row = Signal(9)
        m.d.comb += last_row.eq(ins.rows - 1)
        vectors_left = Signal(10)
        m.d.comb += vectors_left.eq(ins.vectors - 1)
        # Step n multiplies, step n + 1 adds and compares what step n has prepared.
        m.d.comb += [factor_a.eq(vectors_left), end.eq(start + product + extent)]
        with m.Switch(step):
            with m.Case(0):  # operand A
                m.d.comb += factor_b.eq(ins.a_stride)
            with m.Case(1):  # operand B and the second table
                m.d.comb += factor_b.eq(ins.b_stride)
            with m.Case(2):  # destination
                m.d.comb += factor_b.eq(ins.dest_stride)
            with m.Case(3):  # scalars that are read
                m.d.comb += [factor_a.eq(Mux(gather, ins.vectors, 0)), factor_b.eq(ins.length[:10])]
        with m.If(held & ~checked):
            m.d.sync += [step.eq(step + 1), product.eq(factor_a * factor_b)]
            with m.If((step != 0) & applies & (end >= limit)):
                m.d.sync += bad.eq(1)
            for number, last in enumerate(lasts):
                with m.If(step == number + 1):
                    m.d.sync += last.eq(end)
            with m.If(step == CHECKS):
                m.d.sync += checked.eq(1)
            with m.Switch(step):
                with m.Case(0):
                    m.d.sync += [start.eq(ins.a_base), extent.eq(last_row), limit.eq(config.combine_rows)]
                    m.d.sync += applies.eq(1)
                with m.Case(1):
                    tables = Mux(ins.op == VectorOp.ROTATE, ins.b_rows << 1, ins.b_rows)
                    m.d.sync += [start.eq(ins.b_base), extent.eq(tables - 1), applies.eq(two)]
                with m.Case(2):
                    rows = ins.dest_kind == VectorDest.ROWS
                    m.d.sync += [
                        start.eq(ins.dest_base),
                        extent.eq(Mux(gather, 0, Mux(rows, last_row, last_row >> ratio))),
                        limit.eq(Mux(rows, config.combine_rows, config.activation_words)),
                        applies.eq(ins.dest_kind != VectorDest.NONE),
                    ]
                with m.Case(3):
                    # GATHER reads length x vectors scalars: the product is one too many.
                    m.d.sync += [start.eq(ins.s_base), extent.eq(Mux(gather, 0, ins.vectors)), applies.eq(reads)]
                    m.d.sync += limit.eq(config.scalar_depth + 1)
                with m.Case(4):
                    m.d.sync += [start.eq(ins.d_scalar), extent.eq(ins.vectors), applies.eq(reduction | with_sum)]
        with m.If(self.start.valid & self.start.ready):
            m.d.sync += [step.eq(0), checked.eq(0), bad.eq(0), applies.eq(0)]
        return checked, bad
