# SPDX-License-Identifier: Apache-2.0
"""Issues the rows of the running instruction: which row of the combine buffer next, and what goes with it."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.config import MachineConfig
from hdl.emit.hierarchy import digest
from hdl.errors_hw import ErrorCode
from hdl.interfaces import error_layout
from hdl.isa import VectorDest, VectorOp
from hdl.vector.lane import LANE_STAGES, Phase
from hdl.vector.setup import job_layout

__all__ = ["OUTPUT_DEPTH", "VectorIssue", "token_layout"]

OUTPUT_DEPTH = 24
"""Result rows that may be in the pipeline or wait for their write."""


def token_layout(config: MachineConfig) -> data.StructLayout:
    """Return what accompanies a row through the pipeline.

    ``phase``: operand. ``final``: with this row the result is complete. ``count``: valid elements, 0 to C. ``out``: a
    result row leaves. ``dest``: combine row or activation word, ``half``: which half of the word. ``row``, ``first``,
    ``last``: its place in the vector. ``index``: which row of ROTATE's tables it is or takes. ``scalar``: the scalar
    that the vector writes. ``pick``, ``place``: GATHER's lanes.
    """
    lane_bits = config.columns.bit_length() - 1
    return data.StructLayout(
        {
            "valid": 1,
            "phase": 2,
            "final": 1,
            "count": lane_bits + 1,
            "out": 1,
            "dest": 16,
            "half": 1,
            "row": 9,
            "first": 1,
            "last": 1,
            "index": 1,
            "scalar": config.scalar_bits,
            "pick": lane_bits,
            "place": lane_bits,
        }
    )


class VectorIssue(wiring.Component):
    """Runs the loops over vectors, rows and operands.

    Throughput: one row per cycle while requests are accepted and there is room for results; MUL one result in two
    cycles, ADD in 13, GATHER one element in 4. ROTATE reads its tables once a vector when they have one or two rows
    each (``b_rows``), else before every row: one result in three cycles.

    Members
    -------
    start : In(stream of job_layout)
        The next instruction; accepted when nothing runs.
    job : Out(job_layout)
        The running instruction.
    running : Out(1)
        An instruction runs (until `done`).
    done : In(1)
        The pipeline behind is empty; looked at when everything is issued.
    finished : Out(1)
        Pulse: the instruction is complete.
    halt : In(1)
    request_valid : Out(1), request_row : Out(combine_bits), request_ready : In(1)
        Row of the combine buffer.
    reads_a : Out(1)
        It is a row of operand A.
    token : Out(token_layout)
        Registered: what goes with the row that was accepted in the cycle before.
    scalar_en : Out(1), scalar_addr : Out(scalar_bits), scalar_data : In(32)
        Read of the row's scalar operand, in the cycle of the request.
    room : In(1)
        A result row has left.
    error : Out(error_layout)
        RANGE: an index of GATHER; level.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "start": In(stream.Signature(job_layout(config))),
                "job": Out(job_layout(config)),
                "running": Out(1),
                "done": In(1),
                "finished": Out(1),
                "halt": In(1),
                "request_valid": Out(1),
                "request_row": Out(config.combine_bits),
                "request_ready": In(1),
                "reads_a": Out(1),
                "token": Out(token_layout(config)),
                "scalar_en": Out(1),
                "scalar_addr": Out(config.scalar_bits),
                "scalar_data": In(32),
                "room": In(1),
                "error": Out(error_layout()),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return f"vector_issue_{digest(self.config.digest())}"

    def elaborate(self, platform: object) -> Module:
        """Build the loops."""
        m = Module()
        config = self.config
        columns = config.columns
        lane_bits = columns.bit_length() - 1
        ratio = (config.rows // config.columns).bit_length() - 1
        job = self.job
        running, issuing = Signal(), Signal()
        gather, rotate, add = (Signal(name=name) for name in ("gather", "rotate", "add"))
        two = Signal()
        m.d.comb += [
            self.running.eq(running),
            gather.eq(job.op == VectorOp.GATHER),
            rotate.eq(job.op == VectorOp.ROTATE),
            add.eq(job.op == VectorOp.ADD),
            two.eq(rotate | add | (job.op == VectorOp.MUL)),
        ]

        # Loop state.
        vector, row, phase, element = Signal(10), Signal(9), Signal(2), Signal(lane_bits)
        a_vector, b_vector, dest_vector = Signal(16), Signal(16), Signal(16)
        table = Signal(3)  # row of the table that ROTATE reads
        left = Signal(signed(18))  # valid elements from the present row on
        length = Signal(signed(17))
        scalar, gather_scalar, d_scalar = Signal(12), Signal(12), Signal(12)
        credits = Signal(range(OUTPUT_DEPTH + 1), init=OUTPUT_DEPTH)

        m.d.comb += self.start.ready.eq(~running & ~self.halt)
        new = self.start.payload
        with m.If(self.start.valid & self.start.ready):
            first_length = new.length.as_signed()
            m.d.sync += [
                job.eq(new), running.eq(1), issuing.eq(1), vector.eq(0), row.eq(0), phase.eq(0), element.eq(0),
                a_vector.eq(new.a_base), b_vector.eq(new.b_base), dest_vector.eq(new.dest_base),
                length.eq(first_length), left.eq(first_length), scalar.eq(new.s_base), gather_scalar.eq(new.s_base),
                d_scalar.eq(new.d_scalar), table.eq(0),
            ]  # fmt: skip
            with m.If(new.op == VectorOp.ROTATE):
                m.d.sync += phase.eq(Phase.B)

        # GATHER looks its index up before it can ask for the row.
        index, looked = Signal(16), Signal(2)
        index_here = looked == 2
        with m.If(issuing & gather & (looked != 2)):
            m.d.sync += looked.eq(looked + 1)
            with m.If(looked == 1):
                m.d.sync += index.eq(self.scalar_data[16:])
        outside = Signal()
        m.d.comb += outside.eq(gather & index_here & (index[lane_bits:] >= job.rows))
        with m.If(issuing & outside & ~self.error.valid):
            m.d.sync += [self.error.valid.eq(1), self.error.code.eq(ErrorCode.RANGE), self.error.pc.eq(job.pc)]

        # The request.
        last_phase = Mux(two & ~rotate, Phase.B, Phase.A)
        many, table_end = Signal(), Signal()  # tables that do not fit the lanes; the last row of one
        m.d.comb += [many.eq(job.b_rows > 2), table_end.eq(many | (table + 1 == job.b_rows))]
        last_row, last_element = Signal(), Signal()
        final, period = Signal(), Signal(3)
        pause = Signal(range(LANE_STAGES + 4))  # ADD: until the row before has its sum
        a_row, b_row = Signal(16), Signal(16)
        has_rows = job.dest_kind != VectorDest.NONE
        accepted = Signal()
        m.d.comb += [
            last_row.eq(row + 1 == job.rows),
            last_element.eq(element + 1 == job.length[: lane_bits + 1]),
            final.eq(phase == last_phase),
            period.eq(job.b_rows - 1),
            a_row.eq(a_vector + Mux(gather, index[lane_bits:], row)),
            b_row.eq(b_vector + Mux(rotate & ~many, table, row[:3] & period) + Mux(phase == Phase.C, job.b_rows, 0)),
            self.reads_a.eq(phase == Phase.A),
            self.request_row.eq(Mux(phase == Phase.A, a_row, b_row)),
            self.request_valid.eq(
                issuing
                & ~self.halt
                & ~self.error.valid
                & (credits != 0)
                & (pause == 0)
                & (~gather | (index_here & ~outside))
            ),
            accepted.eq(self.request_valid & self.request_ready),
            self.scalar_en.eq(Mux(gather, issuing & (looked == 0), accepted)),
            self.scalar_addr.eq(Mux(gather, gather_scalar, scalar)),
        ]
        out = Signal()
        m.d.comb += out.eq(final & has_rows & (~gather | last_element))
        m.d.sync += credits.eq(credits - (accepted & out) + self.room)
        with m.If(pause != 0):
            m.d.sync += pause.eq(pause - 1)

        with m.If(accepted):
            m.d.sync += [phase.eq(Mux(final, Phase.A, phase + 1)), looked.eq(0)]
            with m.If(rotate):
                with m.If(phase == Phase.A):
                    m.d.sync += phase.eq(Mux(many | last_row, Phase.B, Phase.A))
                with m.Elif(table_end):
                    m.d.sync += [table.eq(0), phase.eq(Mux(phase == Phase.B, Phase.C, Phase.A))]
                with m.Else():
                    m.d.sync += [table.eq(table + 1), phase.eq(phase)]
            with m.If(add & final):
                m.d.sync += pause.eq(LANE_STAGES + 2)
            with m.If(gather & ~last_element):
                m.d.sync += [element.eq(element + 1), gather_scalar.eq(gather_scalar + job.vectors)]
            with m.Elif(final):
                m.d.sync += [row.eq(row + 1), left.eq(left - columns), element.eq(0)]
                with m.If(last_row | gather):
                    m.d.sync += [
                        row.eq(0), vector.eq(vector + 1), a_vector.eq(a_vector + job.a_stride),
                        b_vector.eq(b_vector + job.b_stride), dest_vector.eq(dest_vector + job.dest_stride),
                        length.eq(length + job.length_step), left.eq(length + job.length_step), scalar.eq(scalar + 1),
                        gather_scalar.eq(scalar + 1), d_scalar.eq(d_scalar + 1),
                    ]  # fmt: skip
                    with m.If(vector + 1 == job.vectors):
                        m.d.sync += issuing.eq(0)

        # What goes with the row.
        token = self.token
        count = Signal(lane_bits + 1)
        with m.If(~job.masked | (left >= columns)):
            m.d.comb += count.eq(columns)
        with m.Elif(left > 0):
            m.d.comb += count.eq(left)
        activation = job.dest_kind == VectorDest.ACTIVATION
        m.d.sync += token.valid.eq(accepted)
        with m.If(accepted):
            m.d.sync += [
                token.phase.eq(phase),
                token.final.eq(final),
                token.count.eq(count),
                token.out.eq(out),
                token.dest.eq(dest_vector + Mux(gather, 0, Mux(activation, row >> ratio, row))),
                token.half.eq(row[0] if ratio else 0),
                token.row.eq(row),
                token.first.eq(row == 0),
                token.last.eq(last_row),
                token.index.eq(~many & Mux(phase == Phase.A, row[0] & period[0], table[0])),
                token.scalar.eq(d_scalar),
                token.pick.eq(index[:lane_bits]),
                token.place.eq(element),
            ]

        # Complete when the last token has left the pipeline; the token register itself is not part of `done`.
        settled = Signal()
        m.d.sync += settled.eq(running & ~issuing & ~token.valid)
        m.d.comb += self.finished.eq(running & ~issuing & settled & self.done & ~self.halt)
        with m.If(self.finished):
            m.d.sync += [running.eq(0), settled.eq(0)]
        return m
