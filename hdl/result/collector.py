# SPDX-License-Identifier: Apache-2.0
"""The collector: takes the tiers' result rows off the bond and moves them to where their descriptors say."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add, or_
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from hdl.config import MachineConfig
from hdl.emit.hierarchy import digest, instantiate
from hdl.errors_hw import ErrorCode
from hdl.interfaces import error_layout, post_layout, result_layout, row_descriptor_layout, write_layout
from hdl.result.arbiter import BusArbiter
from hdl.result.combine import CombineUnit
from hdl.result.fifo import SramFifo

__all__ = ["Collector", "collector_stats_layout", "store_read_layout"]

POST_DEPTH = 8
"""Posts that can wait for the semaphore unit; a row with a post is not taken off its FIFO without room here."""

STORE_DEPTH = 8
"""Rows that are read ahead of a store; 4 cover the latency."""


def store_read_layout() -> data.StructLayout:
    """Return a store's request for one combine-buffer row; ``clear`` sets the row to zero in the same pass."""
    return data.StructLayout({"row": 16, "clear": 1})


def collector_stats_layout(config: MachineConfig) -> data.StructLayout:
    """Return the counts of one cycle: rows moved, of these to activation buffers and combine units; rows that waited.

    ``conflicts`` counts tiers whose row was ready and not moved (no lane, common destination, or no room for a post).
    """
    count = config.tiers.bit_length()
    return data.StructLayout({"rows": count, "activation": count, "combine": count, "conflicts": count})


def _select(onehot: Value, choices: Sequence[Value]) -> Value:
    """AND-OR multiplexer: the choice whose bit in `onehot` is set, else zero."""
    return reduce(or_, (value & onehot[i].replicate(len(value)) for i, value in enumerate(choices)))


def _count(bits: Value) -> Value:
    """Return the number of ones."""
    return reduce(add, (bits[i] for i in range(len(bits))))


class Collector(wiring.Component):
    """Row and descriptor FIFOs of every tier, result bus, activation write lanes, combine units, posts.

    Throughput: ``result_lanes`` rows per cycle as long as no two of a cycle share a destination: the activation write
    port of a tier, the combine unit ``row % result_lanes``, or the post channel (one row with a post per cycle).
    Latency, row on `result` to ``write[lane]``: 4 cycles when nothing is in the way (2 in the FIFO, bus, write
    register); to the combine buffer the same.  `credit` comes in the cycle after the row left its FIFO.

    Order: rows of one tier stay in order.  A post is offered no earlier than the row's activation write is on the bond
    (`write` is the register that launches it) or its combine operation precedes any later store read.

    A row whose address lies outside its memory raises RANGE and is not written.

    Parameters
    ----------
    config : MachineConfig

    Members
    -------
    descriptor_valid : In(1).array(tiers), descriptor : In(row_descriptor_layout).array(tiers)
        What to do with the tier's next row; pushed when its wave is issued.  Credits guarantee space.  ``lane`` must be
        a multiple of the elements of the row (C, or C/2 with ``half``).
    result : In(result_layout).array(tiers)
        Rows off the bond.
    credit : Out(1).array(tiers)
        Pulse: one row of the tier has left its FIFO.
    write : Out(write_layout).array(result_lanes)
        Activation writes to the bond.
    unit_write : In(stream of write_layout)
        Loads for activation buffers and parameter memories.
    unit_lane : Out(write_layout)
        They go to the bond here, when no result is written to one of their tiers in the same cycle.
    store_read : In(stream of store_read_layout), store_data : Out(stream of C signed(32))
        Combine-buffer reads, answered in order; they take cycles in which the row's unit has no result row.
    post : Out(stream of post_layout)
    busy : Out(1)
        A descriptor or row is stored, or in flight here, or a post waits.
    stats : Out(collector_stats_layout)
        Registered.
    error : Out(error_layout)
        Registered pulse.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        tiers = config.tiers
        super().__init__(
            {
                "descriptor_valid": In(1).array(tiers),
                "descriptor": In(row_descriptor_layout(config)).array(tiers),
                "result": In(result_layout(config)).array(tiers),
                "credit": Out(1).array(tiers),
                "write": Out(write_layout(config)).array(config.result_lanes),
                "unit_write": In(stream.Signature(write_layout(config))),
                "unit_lane": Out(write_layout(config)),
                "store_read": In(stream.Signature(store_read_layout())),
                "store_data": Out(stream.Signature(data.ArrayLayout(signed(32), config.columns))),
                "post": Out(stream.Signature(post_layout(config))),
                "busy": Out(1),
                "stats": Out(collector_stats_layout(config)),
                "error": Out(error_layout()),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module: tiers, columns, and a digest of the other sizes it depends on."""
        c = self.config
        rest = (
            c.rows,
            c.result_lanes,
            c.row_fifo_depth,
            c.activation_words,
            c.parameter_words,
            c.combine_rows,
            c.semaphores,
        )
        return f"collector_t{c.tiers}_c{c.columns}_{digest(*rest)}"

    def elaborate(self, platform: object) -> Module:
        """Stage 0 is the head of the FIFOs, stage 1 the bus registers, stage 2 the write registers."""
        m = Module()
        config = self.config
        tiers, lanes = config.tiers, config.result_lanes

        m.submodules.arbiter = arbiter = BusArbiter(tiers, lanes, tiers + lanes + 1)
        heads, rows, stored = self._fifos(m, platform, arbiter)

        bus_valid = Signal(lanes)
        bus = [Signal(row_descriptor_layout(config), name=f"bus{lane}") for lane in range(lanes)]
        bus_row = [Signal(16 * config.columns, name=f"bus_row{lane}") for lane in range(lanes)]
        for lane in range(lanes):
            chosen = Signal(tiers, name=f"chosen{lane}")
            m.d.comb += chosen.eq(Cat(arbiter.lane[tier][lane] for tier in range(tiers)))
            m.d.sync += bus_valid[lane].eq(chosen.any())
            with m.If(chosen.any()):
                m.d.sync += [
                    bus[lane].eq(_select(chosen, [head.as_value() for head in heads])),
                    bus_row[lane].eq(_select(chosen, rows)),
                ]
        m.d.sync += Cat(self.credit).eq(arbiter.grant)

        post_waits = self._posts(m, arbiter, heads)
        self._activation_writes(m, bus_valid, bus, bus_row)
        units_active = self._combine(m, platform, bus_valid, bus, bus_row)

        to_combine = Signal(lanes)
        m.d.comb += to_combine.eq(bus_valid & Cat(entry.combine for entry in bus))
        m.d.sync += [
            self.stats.rows.eq(_count(arbiter.grant)),
            self.stats.conflicts.eq(_count(arbiter.request & ~arbiter.grant)),
            self.stats.activation.eq(_count(bus_valid & ~to_combine)),
            self.stats.combine.eq(_count(to_combine)),
        ]
        writing = Cat(*(lane.valid for lane in self.write), self.unit_lane.valid)
        m.d.comb += self.busy.eq(stored | bus_valid.any() | writing.any() | post_waits | units_active)
        return m

    def _fifos(self, m: Module, platform: object, arbiter: BusArbiter) -> tuple[list[Any], list[Value], Value]:
        """Stage 0: FIFOs and requests.  Returns descriptors and rows at the heads, and whether anything is stored."""
        config = self.config
        tiers, lanes = config.tiers, config.result_lanes
        unit_bits = (lanes - 1).bit_length()
        shape = row_descriptor_layout(config)
        heads: list[Any] = []
        rows: list[Value] = []
        stored: list[Value] = []
        out_of_range = Signal(tiers)
        for tier in range(tiers):
            row_fifo = SramFifo(16 * config.columns, config.row_fifo_depth)
            descriptor_fifo = SramFifo(shape.size, config.row_fifo_depth)
            instantiate(m, platform, f"rows{tier}", row_fifo)
            instantiate(m, platform, f"descriptors{tier}", descriptor_fifo)
            head: Any = shape(descriptor_fifo.data)
            heads.append(head)
            rows.append(row_fifo.data)
            stored += [~row_fifo.empty, ~descriptor_fifo.empty]
            beyond = Mux(
                head.combine, head.addr[config.combine_bits :].any(), head.addr[config.activation_bits :].any()
            )
            needs = arbiter.needs[tier]
            m.d.comb += [
                row_fifo.push.eq(self.result[tier].valid),
                row_fifo.push_data.eq(self.result[tier].data),
                row_fifo.pop.eq(arbiter.grant[tier]),
                descriptor_fifo.push.eq(self.descriptor_valid[tier]),
                descriptor_fifo.push_data.eq(self.descriptor[tier]),
                descriptor_fifo.pop.eq(arbiter.grant[tier]),
                arbiter.request[tier].eq(row_fifo.valid & descriptor_fifo.valid),
                arbiter.needs_lane[tier].eq(~head.drop & ~beyond),
                out_of_range[tier].eq(~head.drop & beyond),
                # One post a cycle: the channel to the semaphore unit takes no more.
                needs[-1].eq(head.op_end & (head.post0_en | head.post1_en)),
            ]
            with m.If(arbiter.needs_lane[tier]):
                with m.If(head.combine):
                    unit = head.addr[:unit_bits]
                    m.d.comb += needs[tiers : tiers + lanes].eq(Cat(unit == u for u in range(lanes)))
                with m.Else():
                    m.d.comb += needs[:tiers].eq(head.tiers)
        m.d.sync += self.error.valid.eq((arbiter.grant & out_of_range).any())
        m.d.comb += self.error.code.eq(ErrorCode.RANGE)
        return heads, rows, Cat(stored).any()

    def _posts(self, m: Module, arbiter: BusArbiter, heads: list[Any]) -> Value:
        """Queue the post of a row that was granted one; return whether any waits.

        The post is registered with the row in stage 1 and offered from stage 2 on, when the row's write is on the bond.
        """
        shape = post_layout(self.config)
        m.submodules.post_fifo = fifo = SyncFIFO(width=shape.size, depth=POST_DEPTH)
        posting = Signal(self.config.tiers)
        valid = Signal()
        post = Signal(shape)
        candidates = [
            Cat(head.post0_en, head.post0_sem, head.post1_en, head.post1_sem) for head in heads
        ]  # the order of post_layout
        m.d.comb += [
            posting.eq(arbiter.grant & Cat(needs[-1] for needs in arbiter.needs)),
            # The row in stage 1 will take a place; stage 0 may follow it if there is another.
            arbiter.blocked[-1].eq(fifo.level + valid >= POST_DEPTH),
            fifo.w_en.eq(valid),
            fifo.w_data.eq(post),
            fifo.r_en.eq(self.post.ready),
            self.post.valid.eq(fifo.r_rdy),
            self.post.payload.eq(fifo.r_data),
        ]
        m.d.sync += valid.eq(posting.any())
        with m.If(posting.any()):
            m.d.sync += post.eq(_select(posting, candidates))
        return valid | fifo.r_rdy

    def _activation_writes(self, m: Module, bus_valid: Value, bus: list[Any], bus_row: list[Signal]) -> None:
        """Stage 1 to 2: bytes into the word, and loads where no result goes."""
        config = self.config
        columns, half = config.columns, config.columns // 2
        result_tiers = Signal(config.tiers)
        targets: list[Value] = []
        for lane, entry in enumerate(bus):
            write = self.write[lane]
            valid = bus_valid[lane] & ~entry.combine
            targets.append(entry.tiers & valid.replicate(config.tiers))
            low = [bus_row[lane].word_select(column, 16)[:8] for column in range(columns)]
            m.d.sync += write.valid.eq(valid)
            with m.If(valid):
                m.d.sync += [write.tiers.eq(entry.tiers), write.addr.eq(entry.addr)]
                # The elements are repeated over the word; the enables select the copy at byte `lane`.
                for byte in range(config.rows):
                    full_here = entry.lane[columns.bit_length() - 1 :] == byte // columns
                    half_here = entry.lane[half.bit_length() - 1 :] == byte // half
                    m.d.sync += [
                        write.data[byte].eq(Mux(entry.half, low[byte % half], low[byte % columns])),
                        write.enable[byte].eq(Mux(entry.half, half_here, full_here)),
                    ]
        m.d.comb += [
            result_tiers.eq(reduce(or_, targets)),
            self.unit_write.ready.eq(~(result_tiers & self.unit_write.payload.tiers).any()),
        ]
        m.d.sync += self.unit_lane.valid.eq(0)
        with m.If(self.unit_write.valid & self.unit_write.ready):
            m.d.sync += [self.unit_lane.eq(self.unit_write.payload), self.unit_lane.valid.eq(1)]

    def _combine(self, m: Module, platform: object, bus_valid: Value, bus: list[Any], bus_row: list[Signal]) -> Value:
        """Stage 1: result rows to their units, store reads to units that have none.  Returns whether any is at work."""
        config = self.config
        lanes, columns = config.result_lanes, config.columns
        unit_bits = (lanes - 1).bit_length()
        row_bits = max(1, config.combine_bits - unit_bits)
        read = self.store_read
        units = [CombineUnit(columns, max(2, config.combine_rows // lanes)) for _ in range(lanes)]

        # Reads ahead of the store: `reserved` counts from the request to the transfer of the data.
        data_fifo = instantiate(m, platform, "store_rows", SramFifo(32 * columns, STORE_DEPTH))
        reserved = Signal(range(STORE_DEPTH + 1))
        unit_free = Signal(lanes)
        m.d.comb += read.ready.eq((reserved != STORE_DEPTH) & self._pick(unit_free, read.payload.row[:unit_bits]))
        m.d.sync += reserved.eq(reserved + (read.valid & read.ready) - (self.store_data.valid & self.store_data.ready))

        for number, unit in enumerate(units):
            instantiate(m, platform, f"combine{number}", unit)
            mine = Signal(lanes, name=f"combine{number}_lanes")
            m.d.comb += [
                mine.eq(Cat(bus_valid[i] & bus[i].combine & (bus[i].addr[:unit_bits] == number) for i in range(lanes))),
                unit_free[number].eq(~mine.any()),
            ]
            with m.If(mine.any()):
                m.d.comb += [
                    unit.valid.eq(1),
                    unit.row.eq(_select(mine, [entry.addr[unit_bits:][:row_bits] for entry in bus])),
                    unit.accumulate.eq(_select(mine, [entry.accumulate for entry in bus])),
                ]
            with m.Elif(read.valid & read.ready & (read.payload.row[:unit_bits] == number)):
                m.d.comb += [
                    unit.valid.eq(1),
                    unit.store.eq(1),
                    unit.row.eq(read.payload.row[unit_bits:]),
                    unit.clear.eq(read.payload.clear),
                ]
            m.d.comb += [
                unit.gate.eq(_select(mine, [entry.gate for entry in bus])),
                unit.data.eq(_select(mine, list(bus_row))),
            ]
        reads = Cat(unit.read_valid for unit in units)
        m.d.comb += [
            data_fifo.push.eq(reads.any()),
            data_fifo.push_data.eq(_select(reads, [unit.read.as_value() for unit in units])),
            data_fifo.pop.eq(self.store_data.valid & self.store_data.ready),
            self.store_data.valid.eq(data_fifo.valid),
            self.store_data.payload.eq(data_fifo.data),
        ]
        return Cat(unit.active for unit in units).any() | (reserved != 0)

    @staticmethod
    def _pick(bits: Value, index: Value) -> Value:
        """Bit `index` of `bits`; `index` may have no width."""
        return bits.bit_select(index, 1) if len(index) else bits[0]
