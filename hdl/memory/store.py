# SPDX-License-Identifier: Apache-2.0
"""Store unit: combine-buffer rows to memory."""

from __future__ import annotations

from typing import Final, NamedTuple

from amaranth.hdl import Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.common.semaphore_ports import has_posts
from hdl.common.stream_fifo import TIMING as FIFO_TIMING
from hdl.common.stream_fifo import StreamFifo
from hdl.config import MachineConfig
from hdl.emit.hierarchy import instantiate, parameter_key, parameters
from hdl.interfaces import PC_BITS, error_layout, post_layout, queue_entry_layout, wait_layout
from hdl.isa import StoreFormat
from hdl.isa.error_codes import ErrorCode
from hdl.memory.axi import group_write_signature
from hdl.memory.bursts import BEATS_BITS, BurstSplitter
from hdl.memory.bursts import TIMING as BURST_TIMING
from hdl.memory.jobs import log2
from hdl.memory.store_data import StoreData
from hdl.memory.store_decode import StoreDecode, store_job_layout

__all__ = ["TIMING", "StoreTiming", "StoreUnit", "store_stats_layout", "tracker_depth"]


class StoreTiming(NamedTuple):
    """Cycles of the store unit.

    Attributes
    ----------
    read : int
        From the start of a store to its first request of a row.
    request : int
        From the start to its first write address.
    beat : int
        From a row that is there to its beat.
    next : int
        From the last beat of a store to the start of the next one.
    post : int
        From the last response to the post.
    discard : int
        From the last row of a DISCARD to its end.
    """

    read: int
    request: int
    beat: int
    next: int
    post: int
    discard: int


def tracker_depth(config: MachineConfig) -> int:
    """Return the depth of the FIFO of bursts that wait for their response; one more waits in its output register."""
    return max(2, config.outstanding_bursts)


TIMING: Final = StoreTiming(
    read=1, request=BURST_TIMING.issue + BURST_TIMING.request, beat=2, next=1, post=1, discard=FIFO_TIMING.through
)
"""Registers of the running store, the burst splitter, packed row and beat, ``running``, the post, the tracker."""


def store_stats_layout() -> data.StructLayout:
    """Return the store unit's pulses of a cycle.

    ``beats``: a beat was written (one bit a group). ``rows``: a row was read. ``waiting``: a store waits for a
    semaphore. ``blocked``: a beat waits for the memory.
    """
    return data.StructLayout({"beats": 2, "rows": 1, "waiting": 1, "blocked": 1})


class StoreUnit(wiring.Component):
    """Runs STORE instructions, one after another; the write responses of one overlap with the next.

    Latency: about 5 cycles from ``queue`` to ``write.aw`` and ``store_read``, with ``addr_gap`` one more for each bit
    of ``rows - 1``. Throughput: one beat or one row per cycle, whichever is slower; a few cycles are lost between
    instructions. Rows that lie side by side share beats and long bursts; rows with gaps between them are bursts of
    their own, and about ``outstanding_bursts`` can be on their way.

    Rows are requested as fast as they are taken, without a limit on requests in flight: ``store_read`` and
    ``store_data`` hold back by their ``ready``.

    After ``halt`` or an error of its own it issues no new bursts and reads no rows, completes the beats of the bursts
    on their way with strobes off, and ``quiet`` rises with the last response. Only a reset ends that.

    Parameters
    ----------
    config : MachineConfig

    Members
    -------
    queue : In(stream of queue_entry_layout)
    wait, post : Out(stream)
        Semaphores; posts follow the last write response, DISCARD's the last row.
    store_read : Out(stream of {row, clear})
    store_data : In(stream of columns x int32)
        Rows in the order of the requests.
    write : Out(group_write_signature).array(2)
    window_base, window_limit : In(address_bits + 1).array(2)
        First byte and end of each group's output window; constant while the unit is busy.
    halt : In(1)
    quiet : Out(1)
        No AXI transaction is outstanding.
    busy : Out(1)
        A store is queued here or not finished.
    error : Out(error_layout)
        ADDRESS or AXI_WRITE (with the address of the burst); stays until reset.
    stats : Out(store_stats_layout)
    begun, ended : Out(1)
        Pulses for traces: a store starts, its waits granted; its last write response arrived (DISCARD: its last row).
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "queue": In(stream.Signature(queue_entry_layout())),
                "wait": Out(stream.Signature(wait_layout(config))),
                "post": Out(stream.Signature(post_layout(config))),
                "store_read": Out(stream.Signature(data.StructLayout({"row": 16, "clear": 1}))),
                "store_data": In(stream.Signature(data.ArrayLayout(signed(32), config.columns))),
                "write": Out(group_write_signature(config)).array(2),
                "window_base": In(config.address_bits + 1).array(2),
                "window_limit": In(config.address_bits + 1).array(2),
                "halt": In(1),
                "quiet": Out(1),
                "busy": Out(1),
                "error": Out(error_layout()),
                "stats": Out(store_stats_layout()),
                "begun": Out(1),
                "ended": Out(1),
            }
        )

    PARAMETERS = parameters("outstanding_bursts", StoreDecode.PARAMETERS)
    """What the module depends on."""

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return parameter_key("store_unit", self.config, self.PARAMETERS)

    def elaborate(self, platform: object) -> Module:
        """Build decoding, the bursts, the data side and the responses."""
        m = Module()
        held = Signal(error_layout())
        stop = Signal()
        m.d.comb += [self.error.eq(held), stop.eq(self.halt | held.valid)]

        job = Signal(store_job_layout(self.config))  # the store that runs
        running = Signal()
        done = Signal()
        start = Signal()
        decode = instantiate(m, platform, "decode", StoreDecode(self.config))
        wiring.connect(m, wiring.flipped(self.queue), decode.queue)
        wiring.connect(m, wiring.flipped(self.wait), decode.wait)
        for g in range(2):
            m.d.comb += [
                decode.window_base[g].eq(self.window_base[g]),
                decode.window_limit[g].eq(self.window_limit[g]),
            ]
        m.d.comb += [
            decode.stop.eq(stop),
            decode.job.ready.eq(~running),
            start.eq(decode.job.valid & ~running),
            self.stats.waiting.eq(decode.waiting),
            self.begun.eq(start),
        ]
        with m.If(start):
            m.d.sync += [running.eq(1), job.eq(decode.job.payload)]
        with m.Elif(done):
            m.d.sync += running.eq(0)
        with m.If(decode.error.valid):
            m.d.sync += held.eq(decode.error)

        responses_due = self._run(m, platform, stop, held, job, start, decode.job.payload, running, done)
        m.d.comb += self.busy.eq(self.queue.valid | decode.busy | running | responses_due)
        return m

    def _run(
        self,
        m: Module,
        platform: object,
        stop: Signal,
        held: Value,
        job: Value,
        start: Signal,
        next_job: Value,
        running: Signal,
        done: Signal,
    ) -> Value:
        """Run the store in `job`: bursts, rows, beats, responses; return whether responses or posts are due."""
        config = self.config
        beat_bits = log2(config.group_bytes)
        discard = job.format == StoreFormat.DISCARD
        next_writes = next_job.format != StoreFormat.DISCARD

        # Bursts: each request leaves an entry in the tracker, which waits for its response.
        entry = data.StructLayout(
            {
                "written": 1,
                "last": 1,
                "group": 1,
                "addr": config.address_bits,
                "pc": PC_BITS,
                "post": post_layout(config),
            }
        )
        tracker = instantiate(m, platform, "tracker", StreamFifo(entry, tracker_depth(config)))
        splitter = instantiate(m, platform, "splitter", BurstSplitter(config, 9))
        # A range is all of the store, or one row of it when they lie apart.
        ranges_left = Signal(16)
        range_addr = Signal(config.address_bits)
        range_last = Signal()  # the range in the splitter is the last
        with m.If(splitter.range.valid & splitter.range.ready):
            m.d.sync += [
                ranges_left.eq(Mux(start, Mux(next_job.apart, next_job.rows - 1, 0), ranges_left - 1)),
                range_last.eq(Mux(start, ~next_job.apart | (next_job.rows == 1), ranges_left == 1)),
                range_addr.eq(splitter.range.payload.addr + Mux(start, next_job.addr_step, job.addr_step)),
            ]
        request_ends = Signal()
        with m.If(splitter.issued):
            m.d.sync += request_ends.eq(splitter.ends & range_last)
        aw_ready = Mux(job.group, self.write[1].aw.ready, self.write[0].aw.ready)
        requested = Signal()
        discarded = Signal()  # a DISCARD took its last row
        m.d.comb += [
            splitter.range.valid.eq((start & next_writes) | (ranges_left != 0)),
            splitter.range.payload.addr.eq(Mux(start, next_job.addr, range_addr)),
            splitter.range.payload.beats.eq(
                Mux(start & ~next_job.apart, next_job.beats, Mux(start, next_job.row_beats, job.row_beats) + 1)
            ),
            splitter.enable.eq(~stop),
            splitter.room.eq(~0),
            splitter.request.ready.eq(tracker.input.ready & aw_ready),
            requested.eq(splitter.request.valid & splitter.request.ready),
            tracker.input.valid.eq(requested | discarded),
            tracker.input.payload.written.eq(requested),
            tracker.input.payload.last.eq(discarded | request_ends),
            tracker.input.payload.group.eq(job.group),
            tracker.input.payload.addr.eq(splitter.request.payload.addr),
            tracker.input.payload.pc.eq(job.pc),
            tracker.input.payload.post.eq(job.post),
        ]

        # Rows.
        packer = instantiate(m, platform, "packer", StoreData(config))
        reads_left = Signal(16)
        rows_left = Signal(16)
        row = Signal(16)
        row_taken = Signal()
        m.d.comb += [
            self.store_read.valid.eq((reads_left != 0) & ~stop),
            self.store_read.payload.row.eq(row),
            self.store_read.payload.clear.eq(job.clear),
            packer.start.eq(start),
            packer.place.eq(next_job.place),
            packer.apart.eq(job.apart),
            packer.skip.eq(job.skip),
            packer.format.eq(job.format),
            packer.shift.eq(job.shift),
            packer.rows.payload.eq(self.store_data.payload),
            packer.rows.valid.eq(self.store_data.valid & ~discard),
            packer.last.eq(rows_left == 1),
            self.store_data.ready.eq(Mux(discard, tracker.input.ready | (rows_left != 1), packer.rows.ready)),
            row_taken.eq(self.store_data.valid & self.store_data.ready),
            discarded.eq(discard & running & row_taken & (rows_left == 1)),
        ]
        m.d.sync += [
            reads_left.eq(reads_left - (self.store_read.valid & self.store_read.ready)),
            row.eq(row + Mux(self.store_read.valid & self.store_read.ready, job.row_step, 0)),
            rows_left.eq(rows_left - row_taken),
        ]

        # Beats: only of bursts that were requested; their boundaries follow from the address.
        ahead = Signal(range(config.outstanding_bursts + 3))
        beats_left = Signal(BEATS_BITS)
        place = Signal(max(1, log2(config.burst_beats)))
        row_beats_left = Signal.like(job.row_beats)  # after this one
        row_ends = Signal()
        w_valid = Signal()
        w_last = Signal()
        w_taken = Signal()
        w_ready = Mux(job.group, self.write[1].w.ready, self.write[0].w.ready)
        boundary = (place == config.burst_beats - 1) if config.burst_beats > 1 else 1
        m.d.comb += [
            w_valid.eq((ahead != 0) & (packer.beats.valid | stop)),
            row_ends.eq(job.apart & (row_beats_left == 0)),
            w_last.eq(boundary | row_ends | (beats_left == 1)),
            w_taken.eq(w_valid & w_ready),
            packer.beats.ready.eq((ahead != 0) & w_ready),
            done.eq(discarded | (w_taken & (beats_left == 1))),
            self.stats.rows.eq(row_taken),
            self.stats.blocked.eq(w_valid & ~w_ready),
        ]
        m.d.sync += [
            ahead.eq(ahead + requested - (w_taken & w_last)),
            beats_left.eq(beats_left - w_taken),
            place.eq(place + Mux(w_taken, Mux(row_ends, job.jump, 1), 0)),
            row_beats_left.eq(Mux(w_taken & row_ends, job.row_beats, row_beats_left - w_taken)),
        ]
        with m.If(start):
            m.d.sync += [
                reads_left.eq(next_job.rows),
                rows_left.eq(next_job.rows),
                row.eq(next_job.row),
                beats_left.eq(next_job.beats),
                row_beats_left.eq(next_job.row_beats),
                place.eq(next_job.addr >> beat_bits),
            ]
        for g in range(2):
            write = self.write[g]
            m.d.comb += [
                write.aw.valid.eq(splitter.request.valid & tracker.input.ready & (job.group == g)),
                write.aw.payload.eq(splitter.request.payload),
                write.w.valid.eq(w_valid & (job.group == g)),
                write.w.payload.data.eq(packer.beats.payload.data),
                write.w.payload.strobe.eq(Mux(stop, 0, packer.beats.payload.strobe)),
                write.w.payload.last.eq(w_last),
                self.stats.beats[g].eq(w_taken & (job.group == g)),
            ]
        m.d.comb += self.quiet.eq(~splitter.request.valid & (ahead == 0) & ~tracker.busy)
        return self._responses(m, stop, held, tracker)

    def _responses(self, m: Module, stop: Signal, held: Value, tracker: StreamFifo) -> Value:
        """Take write responses in order and post after each store's last; return whether one is due."""
        head = tracker.output
        post_valid = Signal()
        posts = head.payload.last & has_posts(head.payload.post)
        able = Signal()
        answered = Signal()
        error = Signal()
        m.d.comb += [able.eq(head.valid & (~posts | ~post_valid | stop)), self.post.valid.eq(post_valid)]
        with m.If(~head.payload.written):
            m.d.comb += answered.eq(able)
        for g in range(2):
            response = self.write[g].b
            with m.If(head.payload.written & (head.payload.group == g)):
                m.d.comb += [
                    response.ready.eq(able),
                    answered.eq(able & response.valid),
                    error.eq(response.payload.error),
                ]
        m.d.comb += [head.ready.eq(answered), self.ended.eq(answered & head.payload.last)]
        with m.If(answered & posts & ~error & ~stop):
            m.d.sync += [post_valid.eq(1), self.post.payload.eq(head.payload.post)]
        with m.Elif(self.post.ready):
            m.d.sync += post_valid.eq(0)
        with m.If(answered & error & ~stop):
            m.d.sync += [
                held.valid.eq(1),
                held.code.eq(ErrorCode.AXI_WRITE),
                held.pc.eq(head.payload.pc),
                held.address.eq(head.payload.addr),
            ]
        return tracker.busy | post_valid
