# SPDX-License-Identifier: Apache-2.0
"""A decoded GEMM as one tier's sequencer runs it, and the setup stage that decodes the next one.

The setup stage works while the previous operation issues its waves: it takes the instruction from the queue, has its
semaphore waits granted, multiplies out starting addresses and checks that no address leaves its memory. The loop nest
then needs only incremental adders.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from amaranth.hdl import Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.common.queues import gang_queues
from hdl.common.semaphore_ports import assign_waits, has_waits
from hdl.common.slot_table import SlotTable
from hdl.config import MachineConfig
from hdl.emit.hierarchy import instantiate, parameter_key, parameters
from hdl.interfaces import PC_BITS, error_layout, queue_entry_layout, slot_write_layout, wait_layout
from hdl.isa import Dest, Mapping3D, Mode, Opcode, Order, field_widths, instruction_layout
from hdl.isa.error_codes import ErrorCode

__all__ = [
    "TIER_INDEX_BITS", "TIMING", "OperationSetup", "SetupTiming", "loop_layout", "operation_layout", "start_layout",
]  # fmt: skip

TIER_INDEX_BITS = 3
"""Width of a tier number."""

TOKEN_BITS = 13
"""Width of a token or output-tile number across a gang of eight tiers."""


class SetupTiming(NamedTuple):
    """Cycles of a sequencer's setup stage.

    Attributes
    ----------
    setup : int
        From an instruction's transfer to the first cycle in which it is offered to the loop nest.
    ask : int
        From its transfer to the first cycle in which it asks for semaphores.
    grant : int
        From the grant to the offer, at the earliest.
    slot : int
        Cycles that a look-up of the slot adds after the grant.
    lag : int
        From a leader's look-up of a slot to those of its followers.
    """

    setup: int
    ask: int
    grant: int
    slot: int
    lag: int


TIMING: Final = SetupTiming(setup=6, ask=1, grant=1, slot=2, lag=1)
"""Five steps of address arithmetic after the holding register."""


def operation_layout(config: MachineConfig) -> data.StructLayout:
    """Return what stays the same for all waves of an operation in one tier.

    ``leads``: this tier is the lowest of the gang. ``follows``: another tier leads (M or N mapping) and this one issues
    in the same cycle; ``follows_k``: likewise for K, a fixed time later. ``above``/``above_k``: the tier above is in
    the gang. ``gang``: its tiers. ``makes_rows``: this tier accumulates (false below the top of a K gang).
    ``chained``: the instruction before in the queues of *all* tiers of the gang was a K GEMM of the same gang.
    ``skipped``: its slot has no tokens for it: one wave that needs no tile and whose row is dropped.
    """
    return data.StructLayout(
        {
            "pc": PC_BITS,
            "chained": 1,
            "skipped": 1,
            "leads": 1,
            "follows": 1,
            "follows_k": 1,
            "above": 1,
            "above_k": 1,
            "gang": config.tiers,
            "makes_rows": 1,
            "stationary_below": 1,
            "activation_below": 1,
            **field_widths(Opcode.GEMM, "tag", "act_list", "dest_list", "mode", "shift", "post_mult", "post_shift"),
            "combine": 1,
            "accumulate": 1,
            "tiers": config.tiers,
            "post0_en": 1,
            "post0_sem": config.semaphore_id_bits,
            "post1_en": 1,
            "post1_sem": config.semaphore_id_bits,
        }
    )


def loop_layout(config: MachineConfig) -> data.StructLayout:
    """Return the bounds, starting addresses and strides of a tier's loop nest.

    ``*_left``: iterations less one. Strides are zero where the token list gives the address. ``dest`` includes the
    offset of this tier's first token, ``n_global`` is the global number of its first output tile. ``param_hold``: all
    output tiles use the requantisation word ``param``.
    """
    return data.StructLayout(
        {
            "tokens_left": 10,
            "k_left": 10,
            "n_left": 10,
            "n_inner": 1,
            "tile": config.vcache_bits,
            "act": 16,
            **field_widths(Opcode.GEMM, "act_stride"),
            "list": config.list_bits,
            "param": config.parameter_bits,
            "param_hold": 1,
            "n_global": TOKEN_BITS,
            "dest": 16,
            **field_widths(Opcode.GEMM, "dest_stride"),
        }
    )


def start_layout(config: MachineConfig) -> data.StructLayout:
    """Return what the setup stage hands to the loop nest; ``tiles``: stationary tiles of the operation."""
    return data.StructLayout({"op": operation_layout(config), "loop": loop_layout(config), "tiles": 17})


class OperationSetup(wiring.Component):
    """Holds a tier's next instruction: decode, semaphore waits, starting addresses, range checks.

    Latency: an instruction taken from the queue in cycle t is offered in cycle t + `LATENCY` at the earliest, whatever
    its fields are (the tiers of a gang rely on that); later if its waits are granted later. One with a slot looks the
    slot up after that: two more cycles. The followers of a gang, who ask for no semaphores, look it up a cycle after
    their leader. The next instruction is taken in the cycle after the offer is accepted: one instruction per `LATENCY`
    + 1 cycles.

    Members
    -------
    index : In(3)
        Number of this tier (a constant outside).
    queue : In(stream of queue_entry_layout)
        Head of the tier's instruction queue; GEMMs only.
    chained : In(1)
        Belongs to the head of the queue, see `operation_layout`.
    wait : Out(stream of wait_layout)
        Semaphore waits, by the leader only; a transfer is the grant.
    hold : In(1)
        Ask for no semaphores and look no slot up: an earlier operation of a gang has not begun.
    slot_write : In
        The routing table, see `SlotTable`.
    slot_opens : Out(tiers)
        Followers of the gang whose slot this tier, its leader, looks up in this cycle.
    slot_wanted : Out(tiers)
        One-hot: the leader of the gang whose slot this tier, a follower, is to look up; zero: of none.
    slot_open : In(1)
        That leader has looked it up; the look-up begins.
    start : Out(stream of start_layout)
        The operation, ready to run.
    held : Out(1)
        An instruction is held here.
    waiting : Out(1)
        Its semaphores are not granted yet.
    error : Out(error_layout())
        RANGE or ILLEGAL_FIELD (semaphore number); level, and the operation is never offered.
    """

    LATENCY = TIMING.setup

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "index": In(TIER_INDEX_BITS),
                "queue": In(stream.Signature(queue_entry_layout())),
                "chained": In(1),
                "wait": Out(stream.Signature(wait_layout(config))),
                "hold": In(1),
                "slot_write": In(slot_write_layout(config)),
                "slot_opens": Out(config.tiers),
                "slot_wanted": Out(config.tiers),
                "slot_open": In(1),
                "start": Out(stream.Signature(start_layout(config))),
                "held": Out(1),
                "waiting": Out(1),
                "error": Out(error_layout()),
            }
        )

    PARAMETERS = parameters(
        "accumulator_depth activation_words columns combine_rows expert_slots list_depth parameter_words rows "
        "semaphores tiers vcache_tiles"
    )
    """What the module depends on."""

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return parameter_key("operation_setup", self.config, self.PARAMETERS)

    def elaborate(self, platform: object) -> Module:
        """Build the holding register, the semaphore request and the address arithmetic."""
        m = Module()
        config = self.config
        entry = Signal(queue_entry_layout())
        chained = Signal()
        held = Signal()
        granted = Signal()
        m.d.comb += [self.queue.ready.eq(~held), self.held.eq(held)]
        with m.If(self.queue.valid & ~held):
            m.d.sync += [entry.eq(self.queue.payload), chained.eq(self.chained), held.eq(1), granted.eq(0)]
        gemm = data.View(instruction_layout(Opcode.GEMM), entry.word)

        # Position in the gang.
        relative = Signal(TIER_INDEX_BITS)
        leads = Signal()
        below_top = Signal()
        gang = Signal(config.tiers)
        mapping_k = gemm.mapping == Mapping3D.K
        m.d.comb += [
            relative.eq(self.index - gemm.tier_base),
            leads.eq(relative == 0),
            below_top.eq(relative + 1 < gemm.tier_count),
            gang.eq(gang_queues(config, gemm)),
        ]
        makes_rows = ~mapping_k | ~below_top
        combine = gemm.dest_kind == Dest.COMBINE

        # Semaphores. Numbers beyond the configuration are an error, not a request.
        needed = leads & has_waits(gemm)
        bad_semaphore = Signal()
        if config.semaphores < 64:
            m.d.comb += bad_semaphore.eq(
                (gemm.wait0_count.any() & (gemm.wait0_sem >= config.semaphores))
                | (gemm.wait1_count.any() & (gemm.wait1_sem >= config.semaphores))
                | (gemm.post0_en & (gemm.post0_sem >= config.semaphores))
                | (gemm.post1_en & (gemm.post1_sem >= config.semaphores))
            )
        m.d.comb += [
            self.waiting.eq(held & needed & ~granted),
            self.wait.valid.eq(self.waiting & ~bad_semaphore & ~self.hold),
            *assign_waits(self.wait.payload, gemm),
        ]
        with m.If(self.wait.valid & self.wait.ready):
            m.d.sync += granted.eq(1)

        start = self.start.payload
        may_look = held & (granted | ~needed) & ~bad_semaphore
        # A follower asks for no semaphores: the table is what it has to be once its leader looks it up.
        look = Mux(leads, may_look & ~self.hold, self.slot_open)
        step, first_entry, tokens_left = self._slot(m, platform, gemm, look)
        looked = step == 2
        m.d.comb += [
            self.slot_opens.eq(Mux(leads & look & (step == 0) & gemm.slot_en, gang, 0)),
            self.slot_wanted.eq(Mux(~leads & held & (step == 0) & gemm.slot_en, Const(1) << gemm.tier_base, 0)),
        ]
        ready, bad = self._addresses(m, gemm, held, relative, combine, makes_rows)
        loop = start.loop
        # Not `start.op.skipped`: a block that reads a field of what it writes is a loop to tools that see words only.
        skipped = Signal()
        m.d.comb += skipped.eq(gemm.slot_en & tokens_left[-1])
        with m.If(gemm.slot_en):
            m.d.comb += [loop.list.eq(first_entry), loop.tokens_left.eq(tokens_left)]
        with m.If(skipped):
            m.d.comb += [loop.tokens_left.eq(0), loop.k_left.eq(0), loop.n_left.eq(0), start.tiles.eq(1)]
        m.d.comb += [
            start.op.skipped.eq(skipped),
            self.start.valid.eq(ready & ~bad & may_look & (looked | ~gemm.slot_en)),
            self.error.valid.eq(held & (bad_semaphore | (ready & bad))),
            self.error.code.eq(Mux(bad_semaphore, ErrorCode.ILLEGAL_FIELD, ErrorCode.RANGE)),
            self.error.pc.eq(entry.pc),
        ]
        with m.If(self.start.valid & self.start.ready):
            m.d.sync += held.eq(0)

        op = start.op
        m.d.comb += [
            op.pc.eq(entry.pc),
            op.chained.eq(chained),
            op.leads.eq(leads),
            op.follows.eq(~leads & ~mapping_k),
            op.follows_k.eq(~leads & mapping_k),
            op.above.eq(below_top & ~mapping_k),
            op.above_k.eq(below_top & mapping_k),
            op.gang.eq(gang),
            op.makes_rows.eq(makes_rows),
            op.stationary_below.eq(~leads & (gemm.mapping == Mapping3D.M)),
            op.activation_below.eq(~leads & (gemm.mapping == Mapping3D.N)),
            op.tag.eq(gemm.tag),
            op.act_list.eq(gemm.act_list & ~skipped),
            op.dest_list.eq(gemm.dest_list & ~skipped),
            op.mode.eq(gemm.mode),
            op.shift.eq(gemm.shift),
            op.post_mult.eq(gemm.post_mult),
            op.post_shift.eq(gemm.post_shift),
            op.combine.eq(combine),
            op.accumulate.eq(gemm.accumulate),
            op.post0_en.eq(gemm.post0_en),
            op.post0_sem.eq(gemm.post0_sem),
            op.post1_en.eq(gemm.post1_en),
            op.post1_sem.eq(gemm.post1_sem),
        ]
        with m.If(combine):
            m.d.comb += op.tiers.eq(0)
        with m.Elif(gemm.dest_tiers == 0):
            m.d.comb += op.tiers.eq(Const(1, config.tiers) << self.index)
        with m.Else():
            m.d.comb += op.tiers.eq(gemm.dest_tiers)
        return m

    def _slot(self, m: Module, platform: object, gemm: data.View, look: Value) -> tuple[Signal, Signal, Signal]:
        """Build the look-up of the slot.

        Returns
        -------
        step, first_entry, tokens_left : Signal
            0: it may begin, 2: it is done; first list entry; tokens less one, negative for none.
        """
        table = instantiate(m, platform, "slots", SlotTable(self.config))
        step = Signal(2)
        first_entry = Signal(self.config.list_bits)
        left = Signal(signed(14))
        tokens_left = Signal(signed(14))
        # A count is at most 4,096, list_base at most 4,095.
        m.d.comb += [
            table.write.eq(self.slot_write),
            table.read_en.eq(look & (step == 0)),
            table.slot.eq(gemm.slot),
            left.eq(table.count - gemm.list_base - 1),
        ]
        with m.If(self.start.valid & self.start.ready):
            m.d.sync += step.eq(0)
        with m.Elif(table.read_en | (step == 1)):
            m.d.sync += step.eq(step + 1)
        with m.If(step == 1):
            m.d.sync += [
                first_entry.eq(table.base + gemm.list_base),
                tokens_left.eq(Mux(left < gemm.tokens, left, gemm.tokens - 1)),
            ]
        return step, first_entry, tokens_left

    def _addresses(
        self,
        m: Module,
        gemm: data.View,
        held: Signal,
        relative: Signal,
        combine: Signal,
        makes_rows: Signal,
    ) -> tuple[Signal, Signal]:
        """Build the arithmetic: two multipliers used three times each; return (ready, out of range)."""
        config = self.config
        loop = self.start.payload.loop
        tokens_left = gemm.tokens - 1
        act_stride = Mux(gemm.act_list, 0, gemm.act_stride)
        dest_stride = Mux(gemm.dest_list, 0, gemm.dest_stride)
        # M mapping: tokens are numbered across the gang unless the rows stay in the tier's own buffer. (Where the list
        # gives the address, the stride is zero.)
        spread = (gemm.mapping == Mapping3D.M) & (combine | gemm.dest_tiers.any())

        step = Signal(3)
        first_token = Signal(TOKEN_BITS)
        first_tile = Signal(TOKEN_BITS)
        factor_a, factor_b = Signal(10), Signal(TOKEN_BITS)
        other_a, other_b = Signal(10), Signal(10)
        product_a, product_b = Signal(20), Signal(TOKEN_BITS + 10)
        tiles = Signal(20)
        tile_end, act_end, param_end, list_end = Signal(21), Signal(22), Signal(14), Signal(14)
        act_slices = Signal(17)
        dest = Signal(24)
        dest_end = Signal(25)
        n_part = Signal(TOKEN_BITS)
        rows = Signal(20)
        ready, bad = Signal(), Signal()

        m.d.sync += [product_a.eq(factor_a * other_a), product_b.eq(factor_b * other_b)]
        with m.If(held & ~ready):
            m.d.sync += step.eq(step + 1)
        with m.Switch(step):
            with m.Case(0):
                m.d.comb += [factor_a.eq(gemm.k_slices), other_a.eq(gemm.n_tiles)]
                m.d.comb += [factor_b.eq(tokens_left), other_b.eq(act_stride)]
                m.d.sync += [
                    first_token.eq(Mux(spread, relative * gemm.tokens, 0)),
                    first_tile.eq(Mux(gemm.mapping == Mapping3D.N, relative * gemm.n_tiles, 0)),
                    act_slices.eq(gemm.act_base + gemm.k_slices),
                    param_end.eq(gemm.param_base + Mux(gemm.param_hold, 1, gemm.n_tiles)),
                    list_end.eq(Mux(gemm.act_list | gemm.dest_list, gemm.list_base + gemm.tokens, 0)),
                ]
            with m.Case(1):
                m.d.comb += [factor_a.eq(gemm.tokens), other_a.eq(Mux(gemm.order == Order.N_INNER, gemm.n_tiles, 1))]
                m.d.comb += [factor_b.eq(first_token), other_b.eq(dest_stride)]
                m.d.sync += [
                    tiles.eq(product_a),
                    tile_end.eq(gemm.vcache_base + product_a),
                    act_end.eq(act_slices + product_b),
                    n_part.eq(self._n_offset(first_tile + gemm.n_tiles - 1, combine, gemm.mode == Mode.SWIGLU)),
                ]
            with m.Case(2):
                m.d.comb += [factor_b.eq(tokens_left), other_b.eq(dest_stride)]
                m.d.sync += [rows.eq(product_a), dest.eq(gemm.dest_base + product_b)]
            with m.Case(3):
                m.d.sync += dest_end.eq(dest + product_b + n_part)
            with m.Case(4):
                dest_limit = Mux(combine, config.combine_rows, config.activation_words)
                m.d.sync += ready.eq(1)
                m.d.sync += bad.eq(
                    (tile_end > config.vcache_tiles)
                    | (act_end > config.activation_words)
                    | (rows > config.accumulator_depth)
                    | (list_end > config.list_depth)
                    | (makes_rows & (param_end > config.parameter_words))
                    | (makes_rows & (dest_end >= dest_limit))
                )
        with m.If(self.start.valid & self.start.ready):
            m.d.sync += [step.eq(0), ready.eq(0)]
        m.d.comb += [
            self.start.payload.tiles.eq(tiles),
            loop.tokens_left.eq(tokens_left),
            loop.k_left.eq(gemm.k_slices - 1),
            loop.n_left.eq(gemm.n_tiles - 1),
            loop.n_inner.eq(gemm.order == Order.N_INNER),
            loop.tile.eq(gemm.vcache_base),
            loop.act.eq(gemm.act_base),
            loop.act_stride.eq(act_stride),
            loop.list.eq(gemm.list_base),
            loop.param.eq(gemm.param_base),
            loop.param_hold.eq(gemm.param_hold),
            loop.n_global.eq(first_tile),
            loop.dest.eq(dest),
            loop.dest_stride.eq(dest_stride),
        ]
        return ready, bad

    def _n_offset(self, n_tile: Signal, combine: Signal, swiglu: Signal) -> Signal:
        return row_offset(self.config, n_tile, combine, swiglu)


def row_offset(config: MachineConfig, n_tile: Signal, combine: Signal, half: Signal) -> Signal:
    """Return what an output tile's number adds to a row's destination address.

    Combine rows: the number itself. Activation words: ``number * elements // rows``, ``elements`` being `columns`, or
    half of it with `half`; both are powers of two.
    """
    shift = (config.rows // config.columns).bit_length() - 1
    return Mux(combine, n_tile, Mux(half, n_tile >> (shift + 1), n_tile >> shift))


def row_byte(config: MachineConfig, n_tile: Signal, half: Signal) -> Signal:
    """Return the first byte of a row within its activation word: ``number * elements % rows``."""
    byte_bits = max(1, (config.rows - 1).bit_length())
    elements = config.columns.bit_length() - 1
    whole = (n_tile << elements)[:byte_bits]
    halves = (n_tile << (elements - 1))[:byte_bits]
    return Mux(half, halves, whole)
