# SPDX-License-Identifier: Apache-2.0
"""Address side of a load engine: decodes, checks, waits, and issues bursts ahead of the data."""

from __future__ import annotations

from typing import Final, NamedTuple

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.common.semaphore_ports import assign_posts, assign_waits, has_waits
from hdl.common.slot_table import SlotTable
from hdl.common.stream_fifo import TIMING as FIFO
from hdl.common.stream_fifo import StreamFifo
from hdl.config import ADDRESS_UNIT, MachineConfig
from hdl.emit.hierarchy import instantiate, parameter_key, parameters
from hdl.interfaces import PC_BITS, error_layout, post_layout, queue_entry_layout, slot_write_layout, wait_layout
from hdl.isa import LIST_ENTRY_BYTES, Format, LoadDest, Opcode, field_widths, instruction_layout
from hdl.isa.error_codes import ErrorCode
from hdl.memory.axi import address_layout
from hdl.memory.bursts import BEATS_BITS, BurstSplitter, range_layout
from hdl.memory.jobs import LOAD_KIND_BITS, ROW_SHIFT_BITS, LoadKind, job_layout, log2

__all__ = ["TIMING", "LoadAddress", "LoadAddressTiming"]


class LoadAddressTiming(NamedTuple):
    """Cycles of a load engine's address side.

    Attributes
    ----------
    decode : int
        From an instruction's transfer to the first cycle in which it asks for semaphores, or begins without.
    grant : int
        From the grant, or from the start of a PAIR load in both engines, to the begin.
    ranges : int
        Loads whose data are not asked for yet that the front lets pass.
    queued : int
        From the begin of such a load to the first cycle in which the burst splitter takes it.
    slot : int
        Cycles that a look-up of the slot adds.
    """

    decode: int
    grant: int
    ranges: int
    queued: int
    slot: int


RANGES: Final = 4
"""Loads whose bursts wait for those of the loads before them, beside one in the FIFO's register."""

TIMING: Final = LoadAddressTiming(decode=2, grant=1, ranges=RANGES + 1, queued=FIFO.through, slot=4)
"""Two stages; with a slot: table, product, sum, check."""

_BYTE_ADDRESS_BITS = 34 + log2(ADDRESS_UNIT)
"""Wide enough for an expert's address, which may be beyond what the field holds."""


class LoadAddress(wiring.Component):
    """Two pipeline stages (decode; check and wait) in front of a burst splitter.

    Latency: four cycles from ``queue`` to ``request`` without waits. Throughput: one instruction per cycle (PAIR and
    waiting ones: one per two cycles), one burst per cycle; decoding, checking and waiting overlap with the bursts of
    the instruction before. A burst is issued only when the skew FIFO has room for all of it. A load with a slot looks
    the slot up when its waits are granted, which takes four cycles more.

    Parameters
    ----------
    config : MachineConfig
    group : int
        Channel group of this engine, 0 or 1. Engine 0 does the waits of PAIR loads.

    Members
    -------
    queue : In(stream of queue_entry_layout)
    wait : Out(stream of wait_layout)
    jobs : Out(stream of job_layout)
    request : Out(stream of address_layout)
    slot_write : In
        The routing table, see `SlotTable`.
    limit : In(address_bits + 1)
        Bytes of the group's memory.
    stop : In(1)
        Issue no new bursts.
    released : In(1)
        A beat left the skew FIFO.
    answered : In(1)
        The last beat of a burst arrived.
    pair_here : Out(1) / partner_here : In(1)
        A PAIR load with a legal address is ready to start here / in the other engine.
    pair_go : Out(1) / partner_go : In(1)
        Engine 0 starts the PAIR load of both engines / engine 1 is told so.
    pair_held : Out(1) / partner_held : In(1)
        A PAIR load, good or bad, has not started here / in the other engine.
    pair_bad_high : Out(1) / partner_bad_high : In(1)
        Its plane here / there is the high one and has an illegal address: reported before the low plane's.
    accepted : Out(1)
        An instruction was taken from the queue.
    begun : Out(1)
        An instruction, its waits granted, starts to ask for data.
    left_out, reduced : Out(1)
        Pulses: a load begins whose slot has no tokens (PAIR: engine 0 says so), or wants no low plane (LOW), or (engine
        0) a PAIR load of which only the high plane is read.
    outstanding : Out(1)
        A burst is requested or on its way.
    fault : Out(error_layout)
        ADDRESS; stays.
    waiting : Out(1)
        Held up by a semaphore (or by the partner's part of a PAIR load).
    blocked : Out(1)
        Held up by the skew FIFO or by the limit of outstanding bursts.
    """

    def __init__(self, config: MachineConfig, group: int) -> None:
        self.config = config
        self.group = group
        super().__init__(
            {
                "queue": In(stream.Signature(queue_entry_layout())),
                "wait": Out(stream.Signature(wait_layout(config))),
                "jobs": Out(stream.Signature(job_layout(config))),
                "request": Out(stream.Signature(address_layout(config))),
                "slot_write": In(slot_write_layout(config)),
                "limit": In(config.address_bits + 1),
                "stop": In(1),
                "released": In(1),
                "answered": In(1),
                "pair_here": Out(1),
                "partner_here": In(1),
                "pair_go": Out(1),
                "partner_go": In(1),
                "pair_held": Out(1),
                "partner_held": In(1),
                "pair_bad_high": Out(1),
                "partner_bad_high": In(1),
                "accepted": Out(1),
                "begun": Out(1),
                "left_out": Out(1),
                "reduced": Out(1),
                "outstanding": Out(1),
                "fault": Out(error_layout()),
                "waiting": Out(1),
                "blocked": Out(1),
            }
        )

    PARAMETERS = parameters(
        "address_bits burst_beats columns expert_slots group_bytes list_depth outstanding_bursts "
        "position_bits rows semaphores skew_fifo_beats tiers"
    )
    """What the module depends on."""

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return parameter_key(f"load_address_{self.group}", self.config, self.PARAMETERS)

    def _stage_layout(self) -> data.StructLayout:
        config = self.config
        return data.StructLayout(
            {
                "kind": LOAD_KIND_BITS,
                "high": 1,
                "slot_en": 1,
                "slot": config.slot_bits,
                "scored": 1,
                "stride": 24,
                "other": _BYTE_ADDRESS_BITS,
                "has_wait": 1,
                "tiers": config.tiers,
                "position": config.position_bits,
                "words": job_layout(config)["words"].width,
                **field_widths(Opcode.LOAD, "tag"),
                "shift": ROW_SHIFT_BITS,
                "pc": PC_BITS,
                "addr": _BYTE_ADDRESS_BITS,
                "beats": BEATS_BITS,
                "wait": wait_layout(config),
                "post": post_layout(config),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the stages."""
        m = Module()
        config = self.config
        splitter = instantiate(m, platform, "splitter", BurstSplitter(config, (config.skew_fifo_beats).bit_length()))

        ranges = instantiate(m, platform, "ranges", StreamFifo(range_layout(config), RANGES))

        first_valid = Signal()
        first = Signal(self._stage_layout())
        second_valid = Signal()
        second = Signal(self._stage_layout())
        bad = Signal()
        granted = Signal()
        move_first = Signal()
        move_second = Signal()

        # Stage 1: decode. The queue's head is a register of the dispatcher's FIFO.
        m.d.comb += [
            self.queue.ready.eq((~first_valid | move_first) & ~self.stop),
            self.accepted.eq(self.queue.valid & self.queue.ready),
            move_first.eq(first_valid & (~second_valid | move_second)),
        ]
        with m.If(self.accepted):
            m.d.sync += first_valid.eq(1)
            self._decode(m, first)
        with m.Elif(move_first):
            m.d.sync += first_valid.eq(0)

        # Stage 2: checked; waits for its semaphores and, if it is a PAIR, for the other engine.
        is_pair = second.kind == LoadKind.FILL_PAIR
        with m.If(move_first):
            m.d.sync += [
                second_valid.eq(1),
                second.eq(first),
                bad.eq(self._is_bad(first) & ~first.slot_en),
                granted.eq(~first.has_wait & (first.kind != LoadKind.FILL_PAIR)),
            ]
        with m.Elif(move_second):
            m.d.sync += second_valid.eq(0)
        looked, empty, reduced = self._look_up(m, platform, second, second_valid & granted, move_second, bad)
        idle_pair = Signal()
        m.d.comb += [
            # (A bad one with a slot has been granted.)
            idle_pair.eq(second_valid & is_pair & (~granted | bad)),
            self.pair_held.eq(idle_pair),
            self.pair_here.eq(idle_pair & ~bad),
            self.pair_bad_high.eq(idle_pair & bad & second.high),
            self.wait.payload.eq(second.wait),
            self.waiting.eq(second_valid & ~granted & ~bad),
        ]
        if self.group == 0:
            pair_waits = self.pair_here & self.partner_here
            m.d.comb += [
                self.wait.valid.eq(
                    second_valid & second.has_wait & ~granted & ~bad & ~self.stop & (~is_pair | self.partner_here)
                ),
                self.pair_go.eq(pair_waits & ~self.stop & (~second.has_wait | self.wait.ready)),
            ]
        else:
            m.d.comb += self.wait.valid.eq(second_valid & second.has_wait & ~granted & ~bad & ~self.stop & ~is_pair)
        with m.If((self.wait.valid & self.wait.ready) | self.pair_go | self.partner_go):
            m.d.sync += granted.eq(1)

        # A PAIR load is reported once both engines hold it, the high plane's address first.
        m.d.comb += [
            # With a slot, both know their addresses in the same cycle.
            self.fault.valid.eq(
                second_valid & bad & (~is_pair | ((self.partner_held | second.slot_en) & ~self.partner_bad_high))
            ),
            self.fault.code.eq(ErrorCode.ADDRESS),
            self.fault.pc.eq(second.pc),
            self.fault.address.eq(second.addr),
        ]

        # Start: the job and the range enter their queues together. Ranges that wait leave the front to PAIR loads, for
        # which the other engine needs it.
        start, room, direct, own = Signal(), Signal(), Signal(), Signal(range_layout(config))
        m.d.comb += [
            start.eq(second_valid & granted & ~bad & ~self.stop & (looked | ~second.slot_en)),
            move_second.eq(start & self.jobs.ready & (room | empty)),
            self.begun.eq(move_second),
            self.jobs.valid.eq(start & (room | empty)),
            own.addr.eq(second.addr),
            own.beats.eq(second.beats),
            direct.eq(splitter.range.ready & ~ranges.busy),
            room.eq(direct | ranges.input.ready),
            ranges.input.valid.eq(start & self.jobs.ready & ~empty & ~direct),
            ranges.input.payload.eq(own),
            ranges.output.ready.eq(splitter.range.ready),
            splitter.range.valid.eq(ranges.output.valid | (start & self.jobs.ready & ~empty & direct)),
            splitter.range.payload.eq(Mux(ranges.output.valid, ranges.output.payload, own)),
        ]
        for name in ("high", "tiers", "position", "tag", "shift", "pc", "addr", "post"):
            m.d.comb += self.jobs.payload[name].eq(second[name])
        # Of a PAIR load with the high plane only each engine runs its part for itself, and engine 0 posts.
        m.d.comb += [
            self.jobs.payload.empty.eq(empty),
            self.jobs.payload.words.eq(Mux(empty, 1, second.words)),
            self.jobs.payload.kind.eq(Mux(reduced, LoadKind.FILL_HIGH, second.kind)),
            self.jobs.payload.alone.eq(reduced),
            self.left_out.eq(move_second & empty & ~reduced & (~is_pair | (self.group == 0))),
            self.reduced.eq(move_second & reduced & (self.group == 0)),
        ]
        if self.group:
            with m.If(reduced):
                m.d.comb += [self.jobs.payload.post.en0.eq(0), self.jobs.payload.post.en1.eq(0)]
        wiring.connect(m, splitter.request, wiring.flipped(self.request))
        self._credits(m, splitter)
        return m

    def _look_up(
        self, m: Module, platform: object, second: data.View, may_look: Value, done: Signal, bad: Signal
    ) -> tuple[Signal, Signal, Signal]:
        """Build the look-up of a slot's expert and its address.

        Returns
        -------
        looked, empty, reduced : Signal
            It is known; there is nothing to read here; of a PAIR load only the high plane is wanted.
        """
        table = instantiate(m, platform, "slots", SlotTable(self.config))
        is_pair = second.kind == LoadKind.FILL_PAIR
        step = Signal(range(5))
        expert, empty, reduced = Signal(self.config.slot_bits), Signal(), Signal()
        place, address = Signal(24 + self.config.slot_bits), Signal(_BYTE_ADDRESS_BITS)
        looks = Signal()
        m.d.comb += [
            looks.eq(may_look & second.slot_en & (step != 4)),
            table.write.eq(self.slot_write),
            table.read_en.eq(looks & (step == 0)),
            table.slot.eq(second.slot),
            expert.eq(Mux(is_pair, table.expert >> 1, table.expert)),
        ]
        # An odd expert's planes lie the other way round.
        swap = is_pair & table.expert[0]
        m.d.comb += address.eq(Mux(swap, second.other, second.addr) + (place << log2(ADDRESS_UNIT)))
        high_only = second.scored & table.high_only
        half = Mux(high_only & ~is_pair, second.stride >> 1, 0)  # to the parameters of the high plane alone
        nothing = (table.count == 0) | (high_only & (second.kind == LoadKind.FILL_LOW))
        with m.If(done):
            m.d.sync += [step.eq(0), empty.eq(0), reduced.eq(0)]
        with m.Elif(looks):
            m.d.sync += step.eq(step + 1)
            with m.Switch(step):
                with m.Case(1):
                    m.d.sync += [place.eq(expert * second.stride + half), empty.eq(nothing)]
                with m.Case(2):
                    m.d.sync += [second.addr.eq(address), second.high.eq(second.high ^ swap)]
                    with m.If(high_only & is_pair & ~empty):
                        m.d.sync += [reduced.eq(1), empty.eq(second.high == swap)]
                with m.Case(3):
                    m.d.sync += bad.eq(self._is_bad(second) & ~empty)
        looked = Signal()
        m.d.comb += looked.eq(step == 4)
        return looked, empty, reduced

    def _decode(self, m: Module, stage: data.View) -> None:
        """Assign a stage register from the queue's head."""
        config = self.config
        load = data.View(instruction_layout(Opcode.LOAD), self.queue.payload.word)
        is_pair = load.format == Format.PAIR
        mine_is_high = load.group == self.group
        items: Value = load.count
        position: Value = load.dest_base
        fill_shift = log2(config.fill_words)
        part_shift = log2(config.parameter_parts)
        m.d.sync += [
            stage.high.eq(mine_is_high),
            stage.tiers.eq(load.dest_tiers),
            stage.tag.eq(load.tag),
            stage.shift.eq(load.shift),
            stage.pc.eq(self.queue.payload.pc),
            stage.addr.eq(Mux(is_pair & ~mine_is_high, load.addr_low, load.addr) << log2(ADDRESS_UNIT)),
            stage.other.eq(Mux(mine_is_high, load.addr_low, load.addr) << log2(ADDRESS_UNIT)),
            stage.slot_en.eq(load.slot_en),
            stage.slot.eq(load.slot),
            stage.scored.eq(load.scored),
            stage.stride.eq(load.slot_stride),
            stage.has_wait.eq(has_waits(load)),
            *assign_waits(stage.wait, load),
            *assign_posts(stage.post, load),
        ]

        def beats(item_bytes: int) -> Value:
            if item_bytes >= config.group_bytes:
                return items << log2(item_bytes // config.group_bytes)
            ratio = config.group_bytes // item_bytes
            return (items + (ratio - 1)) >> log2(ratio)

        def shifted(kind: LoadKind, item_bytes: int, shift: int) -> list[object]:
            return [
                stage.kind.eq(kind),
                stage.beats.eq(beats(item_bytes)),
                stage.words.eq(items << shift),
                stage.position.eq(position << shift),
            ]

        with m.Switch(load.dest_kind):
            with m.Case(LoadDest.VCACHE):
                with m.Switch(load.format):
                    with m.Case(Format.BYTES):
                        m.d.sync += shifted(LoadKind.FILL_BYTES, config.tile_bytes, fill_shift)
                    with m.Case(Format.PAIR):
                        m.d.sync += shifted(LoadKind.FILL_PAIR, config.plane_bytes, fill_shift)
                    with m.Case(Format.HIGH):
                        m.d.sync += shifted(LoadKind.FILL_HIGH, config.plane_bytes, fill_shift)
                    with m.Case(Format.COLUMNS):
                        m.d.sync += shifted(LoadKind.FILL_COLUMNS, config.tile_bytes, fill_shift)
                    with m.Case(Format.LOW):
                        m.d.sync += shifted(LoadKind.FILL_LOW, config.plane_bytes, fill_shift)
            with m.Case(LoadDest.ACTIVATION):
                m.d.sync += shifted(LoadKind.ACTIVATION, config.rows, 0)
            with m.Case(LoadDest.LIST):
                m.d.sync += shifted(LoadKind.LIST, LIST_ENTRY_BYTES, 0)
            with m.Case(LoadDest.PARAMETER):
                m.d.sync += shifted(LoadKind.PARAMETER, 2 * config.columns, part_shift)
            with m.Case(LoadDest.ROWS):
                m.d.sync += shifted(LoadKind.ROWS, 2 * config.columns, 0)

    def _is_bad(self, stage: data.View) -> Value:
        """Whether the address is not aligned to a beat, or the last beat ends above the limit."""
        beat_bits = log2(self.config.group_bytes)
        end = (stage.addr >> beat_bits) + stage.beats
        return (stage.addr[:beat_bits] != 0) | (end > (self.limit >> beat_bits))

    def _credits(self, m: Module, splitter: BurstSplitter) -> None:
        """Count the free beats of the skew FIFO and the bursts that are not answered yet."""
        depth = self.config.skew_fifo_beats
        free = Signal(range(depth + 1), init=depth)
        bursts = Signal(range(self.config.outstanding_bursts + 1))
        released = Signal.like(self.released)  # what is released is known last in a cycle
        m.d.sync += [
            released.eq(self.released),
            free.eq(free - Mux(splitter.issued, splitter.length, 0) + released),
            bursts.eq(bursts + splitter.issued - self.answered),
        ]
        m.d.comb += [
            splitter.room.eq(free),
            splitter.enable.eq((bursts != self.config.outstanding_bursts) & ~self.stop),
            self.outstanding.eq(bursts != 0),
            self.blocked.eq(splitter.blocked),
        ]
