# SPDX-License-Identifier: Apache-2.0
"""The vector unit: executes VECTOR instructions on rows of the combine buffer (``docs/vector.md``)."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import or_
from typing import Any, NamedTuple

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hdl.common.semaphore_ports import has_posts
from hdl.common.sram_fifo import TIMING as FIFO_TIMING
from hdl.config import MachineConfig
from hdl.emit.hierarchy import instantiate, parameter_key, parameters
from hdl.interfaces import (
    bank_write_layout,
    error_layout,
    list_entry_layout,
    post_layout,
    queue_entry_layout,
    slot_write_layout,
    wait_layout,
    write_layout,
)
from hdl.isa import Opcode, VectorBits, VectorDest, VectorFn, VectorOp, VectorSum
from hdl.vector.function import FUNCTION_STAGES
from hdl.vector.issue import ADD_PAUSE, OUTPUT_DEPTH, VectorIssue, token_layout
from hdl.vector.lane import LANE_STAGES, STAGE_F, STAGE_X, Phase
from hdl.vector.lanes import LaneGroup, group_size
from hdl.vector.output import VectorOutput
from hdl.vector.reduce import BestTree, SumTree, tree_stages
from hdl.vector.route import RouteUnit, gate_lanes
from hdl.vector.scalars import SCALAR_STAGES, ScalarUnit
from hdl.vector.setup import VectorSetup, job_layout

__all__ = ["VectorTiming", "VectorUnit", "vector_stats_layout", "vector_timing"]

ONE_Q15 = 1 << 15


class VectorTiming(NamedTuple):
    """Cycles of the vector unit, from the start of an instruction on.

    Attributes
    ----------
    issue : int
        From the start to the first request of a row (GATHER: `lookup` more).
    lookup : int
        From the look-up of an index, or the write of the scalar that holds it, to the request of its row.
    row : int
        From the transfer of a request to the first cycle in which the result row can be written.
    scalar : int
        From the transfer of the last request of a vector to the write of its scalar.
    pause : int
        Cycles without a request after each result of ADD.
    next : int
        From an instruction's last request to the start of the next one.
    done : int
        From the last write of an instruction, of a row or of a scalar, to its end.
    post : int
        From there to the post.
    results : int
        Result rows that may be on their way.
    """

    issue: int
    lookup: int
    row: int
    scalar: int
    pause: int
    next: int
    done: int
    post: int
    results: int


def vector_timing(columns: int) -> VectorTiming:
    """Return the cycles of a vector unit of as many lanes.

    A request's row is in the lanes two cycles later; its result goes through a FIFO, or through a tree and the stages
    of the scalars.
    """
    through = 2 + LANE_STAGES
    return VectorTiming(
        issue=1, lookup=2, row=through + FIFO_TIMING.through,
        scalar=through + tree_stages(columns) + 1 + SCALAR_STAGES, pause=ADD_PAUSE, next=1, done=1, post=1,
        results=OUTPUT_DEPTH,
    )  # fmt: skip


def vector_stats_layout() -> data.StructLayout:
    """Return the unit's events of a cycle, exactly one of which is set.

    ``rows``: a row of operand A, or of a ROUTE's gates, was read. ``row_wait``: a row was not granted, or operand B is
    read. ``drain``: an instruction runs and has no row to ask for. ``semaphore``: the next one waits. ``idle``: nothing
    to do.
    """
    return data.StructLayout({"rows": 1, "row_wait": 1, "drain": 1, "semaphore": 1, "idle": 1})


class VectorUnit(wiring.Component):
    """One row per cycle through a pipeline of one lane per column; an instruction begins while the one before drains.

    Latency: a result row is written 15 cycles after its last operand was read, when nothing is in the way; a scalar
    about 26 cycles after the last row of its vector. Throughput: one row of operand A per cycle (MUL: one in two
    cycles, ADD: in 14; ROTATE with tables of one or two rows: the rows of a vector and of its tables, with larger
    tables one row in three cycles), two cycles from the last row of an instruction to the first of the next, which
    waits for what it reads of the one before (`VectorIssue`).

    Members
    -------
    queue : In(stream of queue_entry_layout)
        VECTOR and ROUTE instructions; their fields are legal.
    wait, post : Out(stream of wait_layout / post_layout)
        Semaphores.
    row_read : Out(stream of bank_bits).array(result_lanes), row_data : In(columns signed(32)).array(result_lanes)
        A row of a bank of the combine buffer: the data one cycle after the request was accepted.
    row_write : Out(stream of bank_write_layout).array(result_lanes)
    act_write : Out(stream of write_layout)
        Activation words.
    list_valid, list_ready, list_addr, list_entry, slot_write : see `RouteUnit`
        Token-list entries for all tiers, and the routing table.
    halt : In(1)
        Start nothing more; only a reset ends that.
    busy : Out(1)
        An instruction is held or runs, or a post waits.
    error : Out(error_layout)
        RANGE; level until reset.
    stats : Out(vector_stats_layout)
        Registered.
    begun, ended : Out(1)
        Pulses for traces, registered likewise: an instruction starts, its waits granted; it is complete.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        lanes = config.result_lanes
        super().__init__(
            {
                "queue": In(stream.Signature(queue_entry_layout())),
                "wait": Out(stream.Signature(wait_layout(config))),
                "post": Out(stream.Signature(post_layout(config))),
                "row_read": Out(stream.Signature(config.bank_bits)).array(lanes),
                "row_data": In(data.ArrayLayout(signed(32), config.columns)).array(lanes),
                "row_write": Out(stream.Signature(bank_write_layout(config))).array(lanes),
                "act_write": Out(stream.Signature(write_layout(config))),
                "list_valid": Out(1),
                "list_ready": In(1),
                "list_addr": Out(config.list_bits),
                "list_entry": Out(list_entry_layout()),
                "slot_write": Out(slot_write_layout(config)),
                "slots_ready": Out(1),
                "halt": In(1),
                "busy": Out(1),
                "error": Out(error_layout()),
                "stats": Out(vector_stats_layout()),
                "begun": Out(1),
                "ended": Out(1),
            }
        )

    PARAMETERS = parameters(
        "columns rows tiers",
        RouteUnit.PARAMETERS,
        VectorIssue.PARAMETERS,
        VectorOutput.PARAMETERS,
        VectorSetup.PARAMETERS,
    )
    """What the module depends on."""

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return parameter_key("vector_unit", self.config, self.PARAMETERS)

    def elaborate(self, platform: object) -> Module:
        """Connect setup, issue, lanes, trees, scalars and output."""
        m = Module()
        config = self.config
        setup = instantiate(m, platform, "setup", VectorSetup(config))
        issue = instantiate(m, platform, "issue", VectorIssue(config))
        output = instantiate(m, platform, "results", VectorOutput(config))
        scalars = instantiate(m, platform, "scalars", ScalarUnit(config))
        route = instantiate(m, platform, "route", RouteUnit(config))
        connect(m, setup.start, issue.start)
        connect(m, output.act_write, flipped(self.act_write))
        for bank in range(config.result_lanes):
            connect(m, output.row_write[bank], flipped(self.row_write[bank]))

        # The row's request, and its bank in the cycle after.
        bank_bits = (config.result_lanes - 1).bit_length()
        request_valid, request_row = Signal(), Signal(config.combine_bits)
        m.d.comb += [
            request_valid.eq(issue.request_valid | route.row_valid),
            request_row.eq(Mux(route.row_valid, route.row, issue.request_row)),
        ]
        bank = request_row[:bank_bits]
        came_from = Signal(config.result_lanes)
        ready = []
        for number, read in enumerate(self.row_read):
            mine = bank == number if bank_bits else 1
            m.d.comb += [read.valid.eq(request_valid & mine), read.payload.eq(request_row[bank_bits:])]
            ready.append(read.valid & read.ready)
        m.d.sync += came_from.eq(Cat(ready))
        m.d.comb += [issue.request_ready.eq(Cat(ready).any()), route.row_ready.eq(Cat(ready).any())]
        row = Signal(32 * config.columns)
        m.d.comb += row.eq(reduce(or_, (Mux(came_from[n], d.as_value(), 0) for n, d in enumerate(self.row_data))))

        tokens = self._tokens(m, issue)
        of = self._fields(m, issue, tokens)
        factor, pivot, shift, choice = self._operands(m, of, tokens, scalars)
        groups = self._lanes(m, platform, of, tokens, row, factor, pivot, shift)
        self._reduce(m, platform, of, tokens, groups, issue, scalars, factor, choice)
        self._deliver(m, of, tokens, groups, output, issue)

        # Completion, posts, errors, statistics.
        posting, post = Signal(), Signal(post_layout(config))
        ended: Any = Signal(job_layout(config))
        m.d.comb += ended.eq(Mux(issue.finished_job, issue.jobs[1].as_value(), issue.jobs[0].as_value()))
        m.d.comb += [
            issue.hold.eq(posting),
            self.post.valid.eq(posting | route.post.valid),
            self.post.payload.eq(Mux(route.post.valid, route.post.payload.as_value(), post.as_value())),
            setup.halt.eq(self.halt | self.error.valid),
            issue.halt.eq(self.halt | self.error.valid),
            self.busy.eq(self.queue.valid | setup.held | issue.running | posting | route.busy),
        ]
        with m.If(issue.finished):
            m.d.sync += [post.eq(ended.post), posting.eq(has_posts(ended.post))]
        with m.Elif(self.post.ready):
            m.d.sync += posting.eq(0)
        self._connect_route(m, route, setup, ~(setup.held | issue.running | posting))
        m.d.comb += [
            route.scalar_data.eq(scalars.read_data),
            route.gates.eq(Cat(row.word_select(2 * lane, 16) for lane in range(gate_lanes(config)))),
        ]
        with m.If(~self.error.valid):
            with m.If(issue.error.valid):
                m.d.sync += self.error.eq(issue.error)
            with m.Elif(route.error.valid):
                m.d.sync += self.error.eq(route.error)
            with m.Elif(setup.error.valid):
                m.d.sync += self.error.eq(setup.error)

        m.d.comb += [
            scalars.read_en.eq(issue.scalar_en | route.scalar_en),
            scalars.read_addr.eq(Mux(route.busy, route.scalar_addr, issue.scalar_addr)),
            issue.scalar_data.eq(scalars.read_data),
            issue.room.eq(output.room),
            issue.room_job.eq(output.room_job),
            issue.written.eq(scalars.written),
            issue.written_job.eq(scalars.written_job),
        ]
        stats = Signal(vector_stats_layout(), init={"idle": 1})
        now = Signal(vector_stats_layout())
        m.d.sync += [
            stats.eq(now),
            self.begun.eq((issue.start.valid & issue.start.ready) | route.begun),
            self.ended.eq(issue.finished | route.ended),
        ]
        m.d.comb += self.stats.eq(stats)
        with m.If(request_valid & issue.request_ready & (issue.reads_a | route.row_valid)):
            m.d.comb += now.rows.eq(1)
        with m.Elif(request_valid):
            m.d.comb += now.row_wait.eq(1)
        with m.Elif(issue.running):
            m.d.comb += now.drain.eq(1)
        with m.Elif(setup.waiting | route.waiting):
            m.d.comb += now.semaphore.eq(1)
        with m.Elif(setup.held | posting | route.busy):
            m.d.comb += now.drain.eq(1)
        with m.Else():
            m.d.comb += now.idle.eq(1)
        return m

    def _connect_route(self, m: Module, route: Any, setup: Any, idle: Value) -> None:
        """Give ROUTEs to their unit when nothing else runs, and VECTORs to `setup` when no ROUTE does."""
        head, is_route = self.queue.payload, Signal()
        m.d.comb += [
            is_route.eq(head.word[:6] == Opcode.ROUTE),
            setup.queue.payload.eq(head),
            route.queue.payload.eq(head),
            setup.queue.valid.eq(self.queue.valid & ~is_route & ~route.busy),
            route.queue.valid.eq(self.queue.valid & is_route & idle),
            self.queue.ready.eq(Mux(is_route, route.queue.ready & idle, setup.queue.ready & ~route.busy)),
            self.wait.valid.eq(setup.wait.valid | route.wait.valid),
            self.wait.payload.eq(Mux(route.busy, route.wait.payload.as_value(), setup.wait.payload.as_value())),
            setup.wait.ready.eq(self.wait.ready & ~route.busy),
            route.wait.ready.eq(self.wait.ready),
            route.post.ready.eq(self.post.ready),
            route.halt.eq(self.halt | self.error.valid),
            route.list_ready.eq(self.list_ready),
            self.slots_ready.eq(route.ready),
            *(
                getattr(self, name).eq(getattr(route, name))
                for name in ("list_valid", "list_addr", "list_entry", "slot_write")
            ),
        ]

    def _tokens(self, m: Module, issue: Any) -> list[Any]:
        """Build the tokens' pipeline; token n belongs to the row that was accepted n + 1 cycles ago."""
        length = 1 + LANE_STAGES + tree_stages(self.config.columns)
        tokens: list[Any] = [issue.token]
        for number in range(1, length + 1):
            token: Any = Signal(token_layout(self.config), name=f"token{number}")
            before = tokens[-1]
            m.d.sync += token.valid.eq(before.valid)
            with m.If(before.valid):
                m.d.sync += token.as_value()[1:].eq(before.as_value()[1:])  # all but the valid bit
            tokens.append(token)
        return tokens

    def _fields(self, m: Module, issue: Any, tokens: list[Any]) -> Callable[[int, str], Any]:
        """Return a function that gives a field of the job to which token n belongs.

        Beside the instruction's own fields there is what the lanes want to know of it.
        """
        decoded = []
        for number, job in enumerate(issue.jobs):
            op = job.op
            squares, maps, rotates = op == VectorOp.SUMSQ, op == VectorOp.MAP, op == VectorOp.ROTATE
            fields = {
                "gathers": op == VectorOp.GATHER,
                "adds": op == VectorOp.ADD,
                "maps": maps,
                "rotates": rotates,
                "squares": squares,
                "multiplies": (op == VectorOp.MUL) | rotates,
                "function": Mux(maps, job.fn, VectorFn.IDENTITY),
                "width": Mux(squares, VectorBits.BITS32, job.bits),
                "narrow": job.uses_b & (op != VectorOp.ADD)
                | squares
                | (op == VectorOp.MAX)
                | (op == VectorOp.ARGMAX)
                | (op == VectorOp.GATHER)
                | (maps & (job.fn != VectorFn.IDENTITY)),
                "restricted": (op == VectorOp.ARGMAX) & ~job.first,
                "activation": job.dest_kind == VectorDest.ACTIVATION,
            }
            signals = {}
            for name, value in fields.items():
                signals[name] = Signal(len(Value.cast(value)), name=f"{name}{number}")
                # Registered: a job's first row is at token 0 two cycles after the job is there.
                m.d.sync += signals[name].eq(value)
            decoded.append(signals)

        def of(stage: int, name: str) -> Any:
            first, second = (
                own[name] if name in own else job[name] for own, job in zip(decoded, issue.jobs, strict=True)
            )
            return Mux(tokens[stage].job, second, first)

        return of

    def _operands(self, m: Module, of: Any, tokens: list[Any], scalars: Any) -> tuple[list[Any], Any, Any, Any]:
        """Return what the scalar operand gives: factor by token, pivot and choice in lane stage 3, shift in stage 8."""
        scalar = scalars.read_data  # in the cycle of token 0
        op, fn, first_shift = Signal(VectorOp), Signal(VectorFn), Signal(6)
        m.d.comb += [op.eq(of(0, "op")), fn.eq(of(0, "function")), first_shift.eq(of(0, "shift"))]
        exponent = Signal(signed(9))
        m.d.comb += exponent.eq(scalar[16:22] + first_shift - 32)
        factor0, shift0 = Signal(17), Signal(6)
        m.d.comb += [factor0.eq(of(0, "mult")), shift0.eq(first_shift)]
        with m.Switch(op):
            with m.Case(VectorOp.MAP):
                # Of the sum; rows are multiplied by `mult`.
                m.d.comb += factor0.eq(Mux(fn == VectorFn.EXP2, scalar[16:], ONE_Q15))
            with m.Case(VectorOp.SCALE):
                m.d.comb += [
                    factor0.eq(scalar[:16]),
                    shift0.eq(Mux(exponent < 0, 0, Mux(exponent > 47, 47, exponent))),
                ]
            with m.Case(VectorOp.RESCALE):
                m.d.comb += [factor0.eq(scalar[16:]), shift0.eq(15)]
            with m.Case(VectorOp.MAX):
                m.d.comb += factor0.eq(scalar[:16])
            with m.Case(VectorOp.GATHER):
                m.d.comb += [factor0.eq(1), shift0.eq(0)]
            with m.Case(VectorOp.SUMSQ):
                m.d.comb += shift0.eq(0)
        factor, pivot, shift, choice = [factor0], [scalar[:16]], [shift0], [scalar[16:]]
        for number in range(1, len(tokens)):
            for values, name, until in (
                (factor, "factor", len(tokens)), (pivot, "pivot", 4), (shift, "shift", 9), (choice, "choice", 4)
            ):  # fmt: skip
                if number > until:
                    continue
                register = Signal(len(values[-1]), name=f"{name}{number}")
                with m.If(tokens[number - 1].valid):
                    m.d.sync += register.eq(values[-1])
                values.append(register)
        return factor, pivot[4], shift[9], choice[4]

    def _lanes(
        self,
        m: Module,
        platform: object,
        of: Any,
        tokens: list[Any],
        row: Any,
        factor: list[Any],
        pivot: Any,
        shift: Any,
    ) -> list[Any]:
        """Place the lanes and what all of them share."""
        # Token n + 1 is in stage n of the lanes. What chooses the factors is decided a stage before the multiplier.
        multiplier, use_b, square, rotate = Signal(17), Signal(), Signal(), Signal(2)
        with m.If(tokens[6].valid):
            m.d.sync += [
                multiplier.eq(Mux(of(6, "maps"), of(6, "mult"), factor[6])),
                use_b.eq(of(6, "multiplies")),
                square.eq(of(6, "squares")),
                rotate[0].eq(of(6, "rotates")),
            ]
        with m.If(tokens[7].valid):
            m.d.sync += rotate[1].eq(rotate[0])
        tables = Cat((tokens[6].phase == phase) & of(6, "rotates") for phase in (Phase.B, Phase.C))
        shared = {
            "load": tokens[0].valid,
            "enable": Cat(token.valid for token in tokens[1 : 1 + LANE_STAGES]),
            "takes": tokens[2].phase == Phase.A,
            "in_shift": of(1, "in_shift"),
            "narrow": of(2, "narrow"),
            "fn": Cat(of(STAGE_F + stage + 1, "function") for stage in range(FUNCTION_STAGES)),
            "pivot": pivot,
            "use_b": use_b,
            "square": square,
            "rotate": rotate,
            "keeps": tables,
            "table_write": tokens[6].index,
            "table_read": tokens[7].index,
            "factor": multiplier,
            "shift": shift,
            "add": of(LANE_STAGES, "adds"),
            "bits": of(LANE_STAGES, "width"),
            "count": tokens[LANE_STAGES].count,
        }
        size = group_size(self.config.columns)
        groups: list[Any] = []
        for number in range(self.config.columns // size):
            groups.append(instantiate(m, platform, f"lanes{number}", LaneGroup(self.config.columns)))
            m.d.comb += [groups[-1].first.eq(number * size), groups[-1].data.eq(row.word_select(number, 32 * size))]
        for name, value in shared.items():
            once = Signal(groups[0].signature.members[name].shape, name=f"lane_{name}")
            m.d.comb += [once.eq(value), *(getattr(group, name).eq(once) for group in groups)]
        return groups

    def _reduce(
        self,
        m: Module,
        platform: object,
        of: Any,
        tokens: list[Any],
        groups: list[Any],
        issue: Any,
        scalars: Any,
        factor: list[Any],
        choice: Any,
    ) -> None:
        """Place the trees, and hand their results to the scalar unit."""
        config = self.config
        stages, lane_bits = tree_stages(config.columns), config.columns.bit_length() - 1
        sums = instantiate(m, platform, "sums", SumTree(config.columns))
        best = instantiate(m, platform, "best", BestTree(config.columns))
        at_x, at_result = STAGE_X + 2, LANE_STAGES + 1
        seen = tokens[at_x]
        # ARGMAX goes on after the choice before: lower values, and the same value at higher indices.
        row_before, row_same = Signal(), Signal()
        m.d.comb += [
            row_before.eq(seen.row > choice[lane_bits:]),
            row_same.eq(seen.row == choice[lane_bits:]),
        ]
        for group in groups:
            m.d.comb += [
                group.seen.eq(seen.count),
                group.restricted.eq(of(at_x, "restricted")),
                group.row_before.eq(row_before),
                group.row_same.eq(row_same),
                group.choice.eq(choice[:lane_bits]),
            ]
        m.d.comb += [
            sums.enable.eq(Cat(t.valid for t in tokens[at_result : at_result + stages])),
            sums.row.eq(Cat(group.result.as_value() for group in groups)),
            best.enable.eq(Cat(t.valid for t in tokens[at_x : at_x + stages])),
            best.row.eq(Cat(group.x for group in groups)),
            best.candidates.eq(Cat(group.candidates for group in groups)),
        ]
        # The best waits as long as a sum takes, so that rows come to the scalar unit in the order of their issue.
        found: Value = Cat(best.value, best.lane, best.found)
        for number in range(at_result - at_x):
            later = Signal(len(found), name=f"best{number}")
            with m.If(tokens[at_x + stages + number].valid):
                m.d.sync += later.eq(found)
            found = later
        token = tokens[at_result + stages]
        for makes, job in zip(scalars.jobs, issue.jobs, strict=True):
            square = job.op == VectorOp.SUMSQ
            m.d.comb += [
                makes.sums.eq(job.sums | square),
                makes.best.eq(job.op == VectorOp.MAX),
                makes.choice.eq(job.op == VectorOp.ARGMAX),
                makes.root.eq(square),
                makes.reciprocal.eq(job.sums & (job.sum == VectorSum.SUM_RECIP)),
                makes.first.eq(job.first),
                makes.mult.eq(Mux(square, job.mult, job.imm)),
                makes.eps.eq((job.imm << job.shift)[:48]),
            ]
        m.d.comb += [
            scalars.row_valid.eq(token.valid & token.reduces),
            scalars.row.job.eq(token.job),
            scalars.row.first_row.eq(token.first),
            scalars.row.last_row.eq(token.last),
            scalars.row.row.eq(token.row),
            scalars.row.factor.eq(factor[at_result + stages]),
            scalars.row.scalar.eq(token.scalar),
            scalars.total.eq(sums.total),
            Cat(scalars.value, scalars.lane, scalars.found).eq(found),
        ]

    def _deliver(self, m: Module, of: Any, tokens: list[Any], groups: list[Any], output: Any, issue: Any) -> None:
        """Hand complete result rows to the output."""
        at = LANE_STAGES + 1
        token = tokens[at]
        m.d.comb += [
            output.push.eq(token.valid & token.out),
            output.row.eq(Cat(group.result.as_value() for group in groups)),
            output.dest.eq(token.dest),
            output.half.eq(token.half),
            output.job.eq(token.job),
            output.gather.eq(of(at, "gathers")),
            output.collect.eq(token.valid & of(at, "gathers")),
            output.pick.eq(token.pick),
            output.place.eq(token.place),
            output.activation.eq(of(at, "activation")),
            *(own.eq(job.dest_tiers) for own, job in zip(output.tiers, issue.jobs, strict=True)),
        ]
