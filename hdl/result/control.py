# SPDX-License-Identifier: Apache-2.0
"""Control of the collector: descriptors, the result bus, posts and the order of combine operations; no row data."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add, or_
from typing import Any, Final, NamedTuple

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.common.sram_fifo import TIMING as FIFO_TIMING
from hdl.common.sram_fifo import SramFifo
from hdl.config import MachineConfig
from hdl.emit.hierarchy import instantiate, parameter_key, parameters
from hdl.interfaces import error_layout, post_layout, row_descriptor_layout
from hdl.isa.error_codes import ErrorCode
from hdl.result.arbiter import BusArbiter
from hdl.result.bank import BankArbiter
from hdl.result.direct_fifo import TIMING as POST_TIMING
from hdl.result.direct_fifo import DirectFifo

__all__ = [
    "STORE_DEPTH", "TIMING", "CollectorControl", "CollectorTiming", "collector_parameters", "collector_stats_layout",
    "store_read_layout",
]  # fmt: skip

POST_DEPTH = 8
"""Posts that can wait for the semaphore unit; a row with a post is not taken off its FIFO without room here."""

STORE_DEPTH = 8
"""Rows that are read ahead of a store; 4 cover the latency."""


class CollectorTiming(NamedTuple):
    """Cycles of the collector.

    Attributes
    ----------
    row : int
        From a row on ``result`` to the first cycle in which the bus can move it.
    combine : int
        From there to its operation in the combine buffer or its write for a tier, which others see in that cycle.
    credit : int
        From there to its credit.
    post : int
        From there to its post.
    store_row : int
        From the transfer of a store's read to the row.
    """

    row: int
    combine: int
    credit: int
    post: int
    store_row: int


TIMING: Final = CollectorTiming(
    row=FIFO_TIMING.through, combine=1, credit=1, post=1 + POST_TIMING.through, store_row=1 + FIFO_TIMING.through
)
"""Row FIFOs, the bus register, the register of the credits, that of a post and its FIFO; the memory and a FIFO."""


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


def collector_parameters(config: MachineConfig) -> tuple[int, ...]:
    """Return the sizes, besides tiers and columns, that the collector depends on."""
    return (
        config.rows,
        config.result_lanes,
        config.row_fifo_depth,
        config.activation_words,
        config.parameter_words,
        config.combine_rows,
        config.semaphores,
    )


class CollectorControl(wiring.Component):
    """Decides which rows move where; see :class:`hdl.result.collector.Collector`, whose ports most of these are.

    Latency: a granted row is popped at once, its descriptor is in ``bus`` one cycle later.

    Parameters
    ----------
    config : MachineConfig

    Members
    -------
    descriptor_valid, descriptor, credit, post, busy, stats, error, store_read
        Ports of the collector.
    row_valid, row_empty : In(tiers)
        Row FIFOs: a row is at the head; nothing is stored.
    pop : Out(tiers)
        The row at the head moves to the bus.
    chosen : Out(tiers).array(result_lanes)
        One-hot: whose row a bus lane takes.
    bus : Out(row_descriptor_layout).array(result_lanes)
        Stage 1: descriptor of the lane's row.
    to_activation : Out(result_lanes), result_tiers : Out(tiers)
        Stage 1: the row goes to activation buffers; their tiers.
    writing : In(result_lanes + 1)
        The lane has a write in stage 2.
    unit_valid, unit_store, unit_clear, unit_accumulate : Out(1).array(result_lanes)
    unit_row, unit_gate : Out .array(result_lanes)
        Operations of the combine units.
    unit_source : Out(result_lanes).array(result_lanes)
        One-hot: the bus lane whose row a combine unit takes.
    unit_read, unit_writing, unit_active : In(result_lanes)
        The units' ``read_valid``, ``writing`` and ``active``.
    vector_read : In(stream of bank_bits).array(result_lanes)
        Port of the collector.
    vector_write_valid : In(result_lanes), vector_write_ready : Out(result_lanes)
    vector_write_row : In(bank_bits).array(result_lanes)
        Handshake and row of the ports ``vector_write``.
    load_valid : In(1), load_ready : Out(1), load_row : In(16)
        Handshake and row of the port ``load_rows``.
    unit_vector_read, unit_write : Out(1).array(result_lanes)
    unit_vector_row, unit_write_row : Out(bank_bits).array(result_lanes)
        Reads and writes of whole rows in the combine units.
    write_source : Out(2).array(result_lanes)
        One-hot: whose row is written, the vector unit's or the loads'.
    stored_push, stored_pop : Out(1), stored_valid : In(1)
        FIFO of rows that were read for a store.
    store_valid : Out(1), store_ready : In(1)
        Handshake of ``store_data``.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        tiers, lanes = config.tiers, config.result_lanes
        super().__init__(
            {
                "descriptor_valid": In(1).array(tiers),
                "descriptor": In(row_descriptor_layout(config)).array(tiers),
                "credit": Out(1).array(tiers),
                "row_valid": In(tiers),
                "row_empty": In(tiers),
                "pop": Out(tiers),
                "chosen": Out(tiers).array(lanes),
                "bus": Out(row_descriptor_layout(config)).array(lanes),
                "to_activation": Out(lanes),
                "result_tiers": Out(tiers),
                "writing": In(lanes + 1),
                "unit_valid": Out(1).array(lanes),
                "unit_store": Out(1).array(lanes),
                "unit_clear": Out(1).array(lanes),
                "unit_accumulate": Out(1).array(lanes),
                "unit_row": Out(config.bank_bits).array(lanes),
                "unit_gate": Out(16).array(lanes),
                "unit_source": Out(lanes).array(lanes),
                "unit_read": In(lanes),
                "unit_writing": In(lanes),
                "unit_active": In(lanes),
                "vector_read": In(stream.Signature(config.bank_bits)).array(lanes),
                "vector_write_valid": In(lanes),
                "vector_write_ready": Out(lanes),
                "vector_write_row": In(config.bank_bits).array(lanes),
                "load_valid": In(1),
                "load_ready": Out(1),
                "load_row": In(16),
                "unit_vector_read": Out(1).array(lanes),
                "unit_vector_row": Out(config.bank_bits).array(lanes),
                "unit_write": Out(1).array(lanes),
                "unit_write_row": Out(config.bank_bits).array(lanes),
                "write_source": Out(2).array(lanes),
                "store_read": In(stream.Signature(store_read_layout())),
                "stored_push": Out(1),
                "stored_pop": Out(1),
                "stored_valid": In(1),
                "store_valid": Out(1),
                "store_ready": In(1),
                "post": Out(stream.Signature(post_layout(config))),
                "busy": Out(1),
                "stats": Out(collector_stats_layout(config)),
                "error": Out(error_layout()),
            }
        )

    PARAMETERS = parameters("activation_words bank_rows combine_rows result_lanes row_fifo_depth rows semaphores tiers")
    """What the module depends on."""

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return parameter_key("collector_control", self.config, self.PARAMETERS)

    def elaborate(self, platform: object) -> Module:
        """Stage 0 is the head of the FIFOs, stage 1 the bus registers."""
        m = Module()
        config = self.config
        tiers, lanes = config.tiers, config.result_lanes

        m.submodules.arbiter = arbiter = BusArbiter(tiers, lanes, tiers + lanes + 1)
        heads, stored = self._fifos(m, platform, arbiter)

        bus_valid = Signal(lanes)
        bus: list[Any] = list(self.bus)
        for lane in range(lanes):
            chosen = self.chosen[lane]
            m.d.comb += chosen.eq(Cat(arbiter.lane[tier][lane] for tier in range(tiers)))
            m.d.sync += bus_valid[lane].eq(chosen.any())
            with m.If(chosen.any()):
                m.d.sync += bus[lane].eq(_select(chosen, [head.as_value() for head in heads]))
        m.d.comb += self.pop.eq(arbiter.grant)
        m.d.sync += Cat(self.credit).eq(arbiter.grant)

        post_waits = self._posts(m, platform, arbiter, heads)
        units_active = self._combine(m, platform, bus_valid, bus)

        to_combine = Signal(lanes)
        m.d.comb += [
            to_combine.eq(bus_valid & Cat(entry.combine for entry in bus)),
            self.to_activation.eq(bus_valid & ~to_combine),
            self.result_tiers.eq(
                reduce(or_, (entry.tiers & self.to_activation[i].replicate(tiers) for i, entry in enumerate(bus)))
            ),
        ]
        m.d.sync += [
            self.stats.rows.eq(_count(arbiter.grant)),
            self.stats.conflicts.eq(_count(arbiter.request & ~arbiter.grant)),
            self.stats.activation.eq(_count(self.to_activation)),
            self.stats.combine.eq(_count(to_combine)),
        ]
        m.d.comb += self.busy.eq(stored | bus_valid.any() | self.writing.any() | post_waits | units_active)
        return m

    def _fifos(self, m: Module, platform: object, arbiter: BusArbiter) -> tuple[list[Any], Value]:
        """Stage 0: descriptors and requests.  Returns the descriptors at the heads, and whether anything is stored."""
        config = self.config
        tiers, lanes = config.tiers, config.result_lanes
        unit_bits = (lanes - 1).bit_length()
        shape = row_descriptor_layout(config)
        heads: list[Any] = []
        stored: list[Value] = [~self.row_empty]
        out_of_range = Signal(tiers)
        for tier in range(tiers):
            descriptor_fifo = SramFifo(shape.size, config.row_fifo_depth)
            instantiate(m, platform, f"descriptors{tier}", descriptor_fifo)
            head: Any = shape(descriptor_fifo.data)
            heads.append(head)
            stored.append(~descriptor_fifo.empty)
            beyond = Mux(
                head.combine, head.addr[config.combine_bits :].any(), head.addr[config.activation_bits :].any()
            )
            needs = arbiter.needs[tier]
            m.d.comb += [
                descriptor_fifo.push.eq(self.descriptor_valid[tier]),
                descriptor_fifo.push_data.eq(self.descriptor[tier]),
                descriptor_fifo.pop.eq(arbiter.grant[tier]),
                arbiter.request[tier].eq(self.row_valid[tier] & descriptor_fifo.valid),
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
        load_beyond = self.load_valid & self.load_row[config.combine_bits :].any()
        m.d.sync += self.error.valid.eq((arbiter.grant & out_of_range).any() | load_beyond)
        m.d.comb += self.error.code.eq(ErrorCode.RANGE)
        return heads, Cat(stored).any()

    def _posts(self, m: Module, platform: object, arbiter: BusArbiter, heads: list[Any]) -> Value:
        """Queue the post of a row that was granted one; return whether any waits.

        The post is registered with the row in stage 1 and offered from stage 2 on, when the row's write is on the bond.
        """
        shape = post_layout(self.config)
        fifo = instantiate(m, platform, "posts", DirectFifo(shape.size, POST_DEPTH))
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
            fifo.push.eq(valid),
            fifo.push_data.eq(post),
            fifo.pop.eq(fifo.valid & self.post.ready),
            self.post.valid.eq(fifo.valid),
            self.post.payload.eq(fifo.data),
        ]
        m.d.sync += valid.eq(posting.any())
        with m.If(posting.any()):
            m.d.sync += post.eq(_select(posting, candidates))
        return valid | fifo.valid

    def _combine(self, m: Module, platform: object, bus_valid: Value, bus: list[Any]) -> Value:
        """Stage 1: result rows to their units, reads and writes to the ports that are left.

        Returns whether any unit is at work.
        """
        lanes = self.config.result_lanes
        unit_bits = (lanes - 1).bit_length()
        read = self.store_read
        read_bank = read.payload.row[:unit_bits]

        # Reads ahead of the store: `reserved` counts from the request to the transfer of the data.
        reserved = Signal(range(STORE_DEPTH + 1))
        room = Signal()
        store_ready = Signal(lanes)
        m.d.comb += [
            room.eq(reserved != STORE_DEPTH),
            read.ready.eq(room & self._pick(store_ready, read_bank)),
            self.stored_push.eq(self.unit_read.any()),
            self.store_valid.eq(self.stored_valid),
            self.stored_pop.eq(self.stored_valid & self.store_ready),
        ]
        m.d.sync += reserved.eq(reserved + (read.valid & read.ready) - self.stored_pop)

        arbiters = []
        for unit in range(lanes):
            bank = instantiate(m, platform, f"bank{unit}", BankArbiter())
            arbiters.append(bank)
            mine = self.unit_source[unit]
            accumulate = _select(mine, [entry.accumulate for entry in bus])
            # Only a row's own product looks at the gate: a single lane's needs no choice before its multiplier.
            gate = _select(mine, [entry.gate for entry in bus]) if lanes > 1 else bus[0].gate
            m.d.comb += [
                mine.eq(Cat(bus_valid[i] & bus[i].combine & (bus[i].addr[:unit_bits] == unit) for i in range(lanes))),
                bank.result.eq(mine.any()),
                bank.accumulate.eq(accumulate),
                bank.store.eq(read.valid & room & (read_bank == unit)),
                bank.clear.eq(read.payload.clear),
                bank.writing.eq(self.unit_writing[unit]),
                bank.clearing.eq(self.unit_writing[unit] & self.unit_read[unit]),
                store_ready[unit].eq(bank.store_ready),
                self.unit_gate[unit].eq(gate),
            ]
            with m.If(bank.result):
                row = _select(mine, [entry.addr[unit_bits:][: len(self.unit_row[unit])] for entry in bus])
                m.d.comb += [
                    self.unit_valid[unit].eq(1),
                    self.unit_row[unit].eq(row),
                    self.unit_accumulate[unit].eq(accumulate),
                ]
            with m.Elif(bank.store & bank.store_ready):
                m.d.comb += [
                    self.unit_valid[unit].eq(1),
                    self.unit_store[unit].eq(1),
                    self.unit_row[unit].eq(read.payload.row[unit_bits:]),
                    self.unit_clear[unit].eq(read.payload.clear),
                ]
        self._rows(m, arbiters)
        return self.unit_active.any() | (reserved != 0)

    def _rows(self, m: Module, arbiters: list[BankArbiter]) -> None:
        """Reads and writes of whole rows by vector unit and loads."""
        config = self.config
        unit_bits = (config.result_lanes - 1).bit_length()
        row = self.load_row
        beyond = row[config.combine_bits :].any()
        load_ready = Signal(config.result_lanes)
        m.d.comb += self.load_ready.eq(beyond | self._pick(load_ready, row[:unit_bits]))
        for unit, bank in enumerate(arbiters):
            read = self.vector_read[unit]
            by_vector = self.vector_write_valid[unit] & bank.vector_write_ready
            by_load = bank.load & bank.load_ready
            m.d.comb += [
                bank.vector_read.eq(read.valid),
                read.ready.eq(bank.vector_read_ready),
                self.unit_vector_read[unit].eq(read.valid & read.ready),
                self.unit_vector_row[unit].eq(read.payload),
                bank.vector_write.eq(self.vector_write_valid[unit]),
                self.vector_write_ready[unit].eq(bank.vector_write_ready),
                bank.load.eq(self.load_valid & ~beyond & (row[:unit_bits] == unit)),
                load_ready[unit].eq(bank.load_ready),
                self.write_source[unit].eq(Cat(by_vector, by_load)),
                self.unit_write[unit].eq(by_vector | by_load),
                self.unit_write_row[unit].eq(
                    Mux(by_load, row[unit_bits : config.combine_bits], self.vector_write_row[unit])
                ),
            ]

    @staticmethod
    def _pick(bits: Value, index: Value) -> Value:
        """Bit `index` of `bits`; `index` may have no width."""
        return bits.bit_select(index, 1) if len(index) else bits[0]
