# SPDX-License-Identifier: Apache-2.0
"""Issues the rows of the running instruction: which row of the combine buffer next, and what goes with it."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.config import MachineConfig
from hdl.emit.hierarchy import digest, instantiate
from hdl.interfaces import error_layout
from hdl.isa import VectorDest, VectorOp
from hdl.isa.error_codes import ErrorCode
from hdl.vector.lane import LANE_STAGES, Phase
from hdl.vector.lookup import IndexLookup
from hdl.vector.setup import job_layout

__all__ = ["JOBS", "OUTPUT_DEPTH", "VectorIssue", "token_layout"]

OUTPUT_DEPTH = 24
"""Result rows that may be in the pipeline or wait for their write."""

JOBS = 2
"""Instructions that may be under way: one issues its rows while the one before it drains."""

_MOST_UNDER_WAY = 64
"""More result rows and scalars of an instruction than the pipeline and the output can hold."""


def token_layout(config: MachineConfig) -> data.StructLayout:
    """Return what accompanies a row through the pipeline.

    ``job``: which instruction's it is. ``phase``: operand. ``count``: valid elements, 0 to C. ``out``: a result row
    leaves. ``reduces``: it counts for a scalar. ``dest``: combine row or activation word, ``half``: which half of the
    word. ``row``, ``first``, ``last``: its place in the vector. ``index``: which row of ROTATE's tables it is or takes.
    ``scalar``: the scalar that the vector writes. ``pick``, ``place``: GATHER's lanes.
    """
    lane_bits = config.columns.bit_length() - 1
    return data.StructLayout(
        {
            "valid": 1,
            "job": 1,
            "phase": 2,
            "count": lane_bits + 1,
            "out": 1,
            "reduces": 1,
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

    Two instructions may be under way: when all rows of one are issued, the next begins while the one before drains.
    What it reads is what the one before leaves: as long as that is not there, it waits. It waits for a scalar until it
    is written, and for rows until the instruction before is complete, if the rows from its first to its last overlap
    those that the other writes.

    Throughput: one row per cycle while requests are accepted and there is room for results; two cycles from an
    instruction's last row to the first of the next. MUL: one result in two cycles, ADD: in 13. ROTATE reads its tables
    once a vector when they have one or two rows each (``b_rows``), else before every row: one result in three cycles.

    Members
    -------
    start : In(stream of job_layout)
        The next instruction; accepted when the last row of the one before is issued and the one before that complete.
    jobs : Out(job_layout).array(2)
        The instructions under way.
    running : Out(1)
        There are some.
    hold : In(1)
        Complete nothing in this cycle.
    finished : Out(1), finished_job : Out(1)
        Pulse: an instruction is complete; they are in program order.
    halt : In(1)
    request_valid : Out(1), request_row : Out(combine_bits), request_ready : In(1)
        Row of the combine buffer.
    reads_a : Out(1)
        It is a row of operand A.
    token : Out(token_layout)
        Registered: what goes with the row that was accepted in the cycle before.
    scalar_en : Out(1), scalar_addr : Out(scalar_bits), scalar_data : In(32)
        Read of the row's scalar operand, in the cycle of the request.
    room, room_job : In(1)
        A result row of that job has left.
    written, written_job : In(1)
        A scalar of that job has been written.
    error : Out(error_layout)
        RANGE: an index of GATHER; level.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "start": In(stream.Signature(job_layout(config))),
                "jobs": Out(job_layout(config)).array(JOBS),
                "running": Out(1),
                "hold": In(1),
                "finished": Out(1),
                "finished_job": Out(1),
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
                "room_job": In(1),
                "written": In(1),
                "written_job": In(1),
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
        issuing, which = Signal(), Signal()  # a job issues rows; which one, or which did last
        job: Any = Signal(job_layout(config), name="issued")
        m.d.comb += job.eq(Mux(which, self.jobs[1].as_value(), self.jobs[0].as_value()))
        gather, rotate, add = (Signal(name=name) for name in ("gather", "rotate", "add"))
        m.d.comb += [
            gather.eq(job.op == VectorOp.GATHER),
            rotate.eq(job.op == VectorOp.ROTATE),
            add.eq(job.op == VectorOp.ADD),
        ]

        # Loop state.
        vector, row, phase, element = Signal(10), Signal(9), Signal(2), Signal(lane_bits)
        a_vector, b_vector, dest_vector = Signal(16), Signal(16), Signal(16)
        table = Signal(3)  # row of the table that ROTATE reads
        left = Signal(signed(18))  # valid elements from the present row on
        length = Signal(signed(17))
        scalar, d_scalar = Signal(12), Signal(12)
        credits = Signal(range(OUTPUT_DEPTH + 1), init=OUTPUT_DEPTH)

        starts = Signal()
        new = self.start.payload
        accepted, out, writes = Signal(), Signal(), Signal()
        live, pending, blocked = self._jobs(m, job, starts, which, issuing, accepted, out, writes)
        m.d.comb += [
            self.start.ready.eq(~issuing & ~Mux(which, live[0], live[1]) & ~self.halt),
            starts.eq(self.start.valid & self.start.ready),
        ]
        with m.If(starts):
            first_length = new.length.as_signed()
            m.d.sync += [
                issuing.eq(1), which.eq(~which), vector.eq(0), row.eq(0), phase.eq(0), element.eq(0),
                a_vector.eq(new.a_base), b_vector.eq(new.b_base), dest_vector.eq(new.dest_base),
                length.eq(first_length), left.eq(first_length), scalar.eq(new.s_base), d_scalar.eq(new.d_scalar),
                table.eq(0),
            ]  # fmt: skip
            with m.If(new.op == VectorOp.ROTATE):
                m.d.sync += phase.eq(Phase.B)

        # GATHER looks its indices up before it can ask for rows.
        lookup = instantiate(m, platform, "lookup", IndexLookup(config))
        index = lookup.index
        outside = Signal()
        m.d.comb += [
            lookup.start.eq(starts & (new.op == VectorOp.GATHER)),
            lookup.base.eq(new.s_base),
            lookup.vectors.eq(job.vectors),
            lookup.length.eq(job.length[: lane_bits + 1]),
            lookup.halt.eq(self.halt | pending(lookup.address)),
            lookup.data.eq(self.scalar_data[16:]),
            lookup.take.eq(accepted & gather),
            outside.eq(lookup.valid & (index[lane_bits:] >= job.rows)),
        ]
        with m.If(issuing & outside & ~self.error.valid):
            m.d.sync += [self.error.valid.eq(1), self.error.code.eq(ErrorCode.RANGE), self.error.pc.eq(job.pc)]

        # The request.
        last_phase = Mux(job.uses_b & ~rotate, Phase.B, Phase.A)
        many, table_end = Signal(), Signal()  # tables that do not fit the lanes; the last row of one
        m.d.comb += [many.eq(job.b_rows > 2), table_end.eq(many | (table + 1 == job.b_rows))]
        last_row, last_element = Signal(), Signal()
        final, period = Signal(), Signal(3)
        pause = Signal(range(LANE_STAGES + 4))  # ADD: until the row before has its sum
        a_row, b_row = Signal(16), Signal(16)
        waits = Signal()
        m.d.comb += [
            last_row.eq(row + 1 == job.rows),
            last_element.eq(element + 1 == job.length[: lane_bits + 1]),
            final.eq(phase == last_phase),
            period.eq(job.b_rows - 1),
            a_row.eq(a_vector + Mux(gather, index[lane_bits:], row)),
            b_row.eq(b_vector + Mux(rotate & ~many, table, row[:3] & period) + Mux(phase == Phase.C, job.b_rows, 0)),
            self.reads_a.eq(phase == Phase.A),
            self.request_row.eq(Mux(phase == Phase.A, a_row, b_row)),
            # A sum reads the scalar that it writes; the instruction before may be the one that makes it.
            waits.eq(blocked | (job.scalars & ~gather & pending(scalar)) | (job.sums & ~job.first & pending(d_scalar))),
            self.request_valid.eq(
                issuing
                & ~self.halt
                & ~self.error.valid
                & (credits != 0)
                & (pause == 0)
                & ~waits
                & (~gather | (lookup.valid & ~outside))
            ),
            accepted.eq(self.request_valid & self.request_ready),
            self.scalar_en.eq(Mux(gather, lookup.read, accepted)),
            self.scalar_addr.eq(Mux(gather, lookup.address, scalar)),
            out.eq(final & (job.dest_kind != VectorDest.NONE) & (~gather | last_element)),
            writes.eq(final & job.reduces & last_row),
        ]
        m.d.sync += credits.eq(credits - (accepted & out) + self.room)
        with m.If(pause != 0):
            m.d.sync += pause.eq(pause - 1)

        with m.If(accepted):
            m.d.sync += phase.eq(Mux(final, Phase.A, phase + 1))
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
                m.d.sync += element.eq(element + 1)
            with m.Elif(final):
                m.d.sync += [row.eq(row + 1), left.eq(left - columns), element.eq(0)]
                with m.If(last_row | gather):
                    m.d.sync += [
                        row.eq(0), vector.eq(vector + 1), a_vector.eq(a_vector + job.a_stride),
                        b_vector.eq(b_vector + job.b_stride), dest_vector.eq(dest_vector + job.dest_stride),
                        length.eq(length + job.length_step), left.eq(length + job.length_step), scalar.eq(scalar + 1),
                        d_scalar.eq(d_scalar + 1),
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
                token.job.eq(which),
                token.phase.eq(phase),
                token.count.eq(count),
                token.out.eq(out),
                token.reduces.eq(final & job.reduces),
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
        return m

    def _jobs(
        self,
        m: Module,
        job: Any,
        starts: Value,
        which: Value,
        issuing: Value,
        accepted: Value,
        out: Value,
        writes: Value,
    ) -> tuple[list[Signal], Any, Signal]:
        """Keep the instructions under way, and what of each is still to come.

        Returns the jobs' live bits; a function that says whether the scalar at an address is still to be written by
        the job before the issuing one; and whether that job is still to write rows that the issuing one may read.
        """
        new = self.start.payload
        live = [Signal(name=f"live{number}") for number in range(JOBS)]
        under_way = [Signal(range(_MOST_UNDER_WAY), name=f"under_way{number}") for number in range(JOBS)]
        next_scalar = [Signal(13, name=f"next_scalar{number}") for number in range(JOBS)]
        ends = [Signal(name=f"ends{number}") for number in range(JOBS)]
        for number in range(JOBS):
            m.d.sync += under_way[number].eq(
                under_way[number]
                + (accepted & out & (which == number))
                + (accepted & writes & (which == number))
                - (self.room & (self.room_job == number))
                - (self.written & (self.written_job == number))
            )
            with m.If(self.written & (self.written_job == number)):
                m.d.sync += next_scalar[number].eq(next_scalar[number] + 1)
            # The job that issues ends after the other one.
            last = Mux(which == number, ~issuing & ~live[1 - number], 1)
            m.d.comb += ends[number].eq(live[number] & last & (under_way[number] == 0) & ~self.hold & ~self.halt)
            with m.If(ends[number]):
                m.d.sync += live[number].eq(0)
            with m.If(starts & (which != number)):
                m.d.sync += [self.jobs[number].eq(new), live[number].eq(1), next_scalar[number].eq(new.d_scalar)]
        m.d.comb += [
            self.running.eq(Cat(live).any()),
            self.finished.eq(Cat(ends).any()),
            self.finished_job.eq(ends[1]),
        ]

        # The one before the new job is `job`, which has issued last; the one before the issuing job is the other one.
        read = ((new.a_base <= job.dest_last) & (new.a_last >= job.dest_base)) | (
            new.uses_b & (new.b_base <= job.dest_last) & (new.b_last >= job.dest_base)
        )
        blocked = Signal()
        with m.If(starts):
            stays = Mux(which, live[1] & ~ends[1], live[0] & ~ends[0])
            m.d.sync += blocked.eq(stays & (job.dest_kind == VectorDest.ROWS) & read)
        with m.Elif(self.finished):
            m.d.sync += blocked.eq(0)

        writing = Mux(which, live[0] & self.jobs[0].reduces, live[1] & self.jobs[1].reduces)
        low, high = Mux(which, next_scalar[0], next_scalar[1]), Mux(which, self.jobs[0].d_end, self.jobs[1].d_end)

        def pending(address: Value) -> Value:
            return writing & (address >= low) & (address < high)

        return live, pending, blocked
