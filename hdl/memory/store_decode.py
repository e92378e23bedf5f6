# SPDX-License-Identifier: Apache-2.0
"""Front of the store unit: decodes, checks and waits, ahead of the store that runs."""

from __future__ import annotations

from typing import Final, NamedTuple

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.common.semaphore_ports import assign_posts, assign_waits, has_waits
from hdl.config import ADDRESS_UNIT, MachineConfig
from hdl.emit.hierarchy import parameter_key, parameters
from hdl.interfaces import PC_BITS, error_layout, post_layout, queue_entry_layout, wait_layout
from hdl.isa import Opcode, StoreFormat, element_bytes, field_widths, instruction_layout
from hdl.isa.error_codes import ErrorCode
from hdl.memory.bursts import BEATS_BITS
from hdl.memory.jobs import log2
from hdl.memory.store_slice import WRITTEN

__all__ = ["GAP_BITS", "TIMING", "StoreDecode", "StoreDecodeTiming", "store_job_layout"]

_ADDRESS_BITS = 32 + log2(ADDRESS_UNIT)
GAP_BITS = 16
"""Width of ``addr_gap``."""


class StoreDecodeTiming(NamedTuple):
    """Cycles of the store unit's front.

    Attributes
    ----------
    check : int
        From an instruction's transfer to the first cycle in which it asks for semaphores, or is offered without; with
        ``addr_gap`` one more for each bit of ``rows - 1``.
    grant : int
        From the grant to the offer.
    """

    check: int
    grant: int


TIMING: Final = StoreDecodeTiming(check=2, grant=1)
"""The holding register and the check; the extent is known after the first cycle."""


def _row_bytes(config: MachineConfig, form: StoreFormat) -> int:
    return config.columns * element_bytes(form)


def store_job_layout(config: MachineConfig) -> data.StructLayout:
    """Return a decoded and checked store.

    ``row_step``: from one combine row to the next. ``apart``: rows lie apart in memory, each in beats of its own.
    ``addr``: byte address of the first row. ``addr_step``: bytes from one row to the next. ``beats``: of the whole
    store. ``row_beats``: of one row (with ``apart``), minus 1; ``jump``: beats from the last beat of a row to the first
    of the next (with ``apart``), modulo ``burst_beats``. ``place``: where in its beat the first row begins, in rows;
    ``skip``: rows between two rows (both modulo the rows of a beat).
    """
    rows_per_beat = max(1, config.group_bytes // _row_bytes(config, StoreFormat.INT8))
    most_beats = max(1, _row_bytes(config, StoreFormat.INT32) // config.group_bytes)
    place_bits = max(1, log2(rows_per_beat))
    return data.StructLayout(
        {
            **field_widths(Opcode.STORE, "format", "group", "shift", "clear"),
            "row": 16,
            "row_step": 11,
            "rows": 16,
            "apart": 1,
            "addr": _ADDRESS_BITS,
            "addr_step": GAP_BITS + 1 + log2(_row_bytes(config, StoreFormat.INT32)),
            "beats": BEATS_BITS,
            "row_beats": max(1, log2(most_beats)),
            "jump": max(1, log2(config.burst_beats)),
            "place": place_bits,
            "skip": place_bits,
            "pc": PC_BITS,
            "post": post_layout(config),
        }
    )


class StoreDecode(wiring.Component):
    """Decodes STORE instructions, checks their addresses and asks for their semaphores.

    Latency: three cycles from ``queue`` to ``job`` without waits; with ``addr_gap``, one more for each bit of
    ``rows - 1``. Throughput: one store in flight here.

    Parameters
    ----------
    config : MachineConfig

    Members
    -------
    queue : In(stream of queue_entry_layout)
    wait : Out(stream of wait_layout)
    job : Out(stream of store_job_layout)
    window_base, window_limit : In(address_bits + 1).array(2)
    stop : In(1)
        Take and offer nothing.
    busy : Out(1)
        A store is held.
    waiting : Out(1)
        It waits for a semaphore.
    error : Out(error_layout)
        ADDRESS; for as long as the store is held and ``stop`` is low.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "queue": In(stream.Signature(queue_entry_layout())),
                "wait": Out(stream.Signature(wait_layout(config))),
                "job": Out(stream.Signature(store_job_layout(config))),
                "window_base": In(config.address_bits + 1).array(2),
                "window_limit": In(config.address_bits + 1).array(2),
                "stop": In(1),
                "busy": Out(1),
                "waiting": Out(1),
                "error": Out(error_layout()),
            }
        )

    PARAMETERS = parameters("address_bits burst_beats columns group_bytes semaphores")
    """What the module depends on."""

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return parameter_key("store_decode", self.config, self.PARAMETERS)

    def elaborate(self, platform: object) -> Module:
        """Build the registers of the store and the steps that it takes: extent, check, wait."""
        m = Module()
        config = self.config
        store = data.View(instruction_layout(Opcode.STORE), self.queue.payload.word)
        job = self.job.payload
        valid = Signal()
        checked = Signal()
        granted = Signal()
        bad = Signal()
        ready = Signal()
        m.d.comb += [self.queue.ready.eq(~valid & ~self.stop), self.busy.eq(valid)]
        with m.If(self.queue.valid & self.queue.ready):
            m.d.sync += [
                valid.eq(1),
                checked.eq(0),
                granted.eq(~has_waits(store)),
                job.format.eq(store.format),
                job.group.eq(store.group),
                job.shift.eq(store.shift),
                job.clear.eq(store.clear),
                job.row.eq(store.row_base),
                job.row_step.eq(store.row_gap + 1),
                job.rows.eq(store.rows),
                job.apart.eq((store.addr_gap != 0) & (store.format != StoreFormat.DISCARD)),
                job.addr.eq(Cat(store.offset, store.addr)),
                job.pc.eq(self.queue.payload.pc),
                *assign_waits(self.wait.payload, store),
                *assign_posts(job.post, store),
            ]
        with m.Elif(self.job.ready & self.job.valid):
            m.d.sync += valid.eq(0)

        extent, extent_known = self._places(m, store)
        # A cycle of its own for the check: two additions and comparisons as wide as an address.
        with m.If(valid & extent_known):
            base = Mux(job.group, self.window_base[1], self.window_base[0])
            limit = Mux(job.group, self.window_limit[1], self.window_limit[0])
            misaligned = Signal()
            with m.Switch(job.format):
                for f in WRITTEN:
                    with m.Case(f):
                        m.d.comb += misaligned.eq(job.addr[: log2(min(_row_bytes(config, f), config.group_bytes))] != 0)
            m.d.sync += [
                checked.eq(1),
                bad.eq(
                    (job.format != StoreFormat.DISCARD) & (misaligned | (job.addr < base) | (job.addr + extent > limit))
                ),
            ]
        m.d.comb += [
            ready.eq(valid & checked & ~bad & ~self.stop),
            self.wait.valid.eq(ready & ~granted),
            self.waiting.eq(self.wait.valid & ~self.wait.ready),
            self.job.valid.eq(ready & granted),
            self.error.valid.eq(valid & checked & bad & ~self.stop),
            self.error.code.eq(ErrorCode.ADDRESS),
            self.error.pc.eq(job.pc),
            self.error.address.eq(job.addr),
        ]
        with m.If(self.wait.valid & self.wait.ready):
            m.d.sync += granted.eq(1)
        return m

    def _places(self, m: Module, store: data.View) -> tuple[Signal, Value]:
        """Find out how far the store reaches, and where its rows and beats lie; return (bytes, whether known)."""
        config = self.config
        job = self.job.payload
        beat_bits = log2(config.group_bytes)
        row_bits = log2(_row_bytes(config, StoreFormat.INT32))
        # Bytes from the first to the end of the last row. With gaps: one row and (rows - 1) steps, added bit by bit.
        extent = Signal(16 + GAP_BITS + 1 + row_bits)
        addend = Signal(len(extent))
        left = Signal(16)
        shared = ~job.apart & (job.format != StoreFormat.DISCARD)
        with m.If(self.queue.valid & self.queue.ready):
            m.d.sync += left.eq(Mux(store.addr_gap != 0, store.rows - 1, 0))
            with m.Switch(store.format):
                for f in WRITTEN:
                    size = _row_bytes(config, f)
                    beats = max(1, size // config.group_bytes)
                    with m.Case(f):
                        step = (store.addr_gap + 1) << log2(size)
                        m.d.sync += [
                            extent.eq(Mux(store.addr_gap != 0, size, store.rows << log2(size))),
                            addend.eq(step),
                            job.addr_step.eq(step),
                            job.beats.eq(store.rows << log2(beats)),
                            job.row_beats.eq(beats - 1),
                            job.jump.eq((store.addr_gap << log2(beats)) + 1),
                            job.place.eq(Cat(store.offset, store.addr)[log2(size) : max(beat_bits, log2(size))]),
                            job.skip.eq(store.addr_gap),
                        ]
                with m.Default():
                    m.d.sync += [extent.eq(0), left.eq(0), job.beats.eq(0), job.place.eq(0), job.skip.eq(0)]
        with m.Else():
            with m.If(left != 0):
                m.d.sync += [extent.eq(extent + Mux(left[0], addend, 0)), left.eq(left >> 1), addend.eq(addend << 1)]
            with m.Elif(shared):
                # Rows side by side: the first of them may begin inside a beat.
                m.d.sync += job.beats.eq((job.addr[:beat_bits] + extent + (config.group_bytes - 1)) >> beat_bits)
        return extent, left == 0
