# SPDX-License-Identifier: Apache-2.0
"""The loop nest of a GEMM as counters: tokens innermost, then k-slices and output tiles in either order."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.config import MachineConfig
from hdl.control.operation import TOKEN_BITS, loop_layout, operation_layout, row_offset, start_layout
from hdl.emit.hierarchy import parameter_key, parameters
from hdl.isa import Mode

__all__ = ["LoopNest", "loop_wave_layout"]


def loop_wave_layout(config: MachineConfig) -> data.StructLayout:
    """Return the addresses and flags of one wave, before the token-list entry is added.

    ``act``/``dest``: activation word / destination row or word without the list's part. ``first``/``last``: slice of
    the reduction. ``op_first``/``op_last``: of the operation.
    """
    return data.StructLayout(
        {
            "tile": config.vcache_bits,
            "new": 1,
            "act": 17,
            "list": config.list_bits,
            "acc": config.accumulator_bits,
            "first": 1,
            "last": 1,
            "param": config.parameter_bits,
            "n_global": TOKEN_BITS,
            "dest": 18,
            "op_first": 1,
            "op_last": 1,
        }
    )


class LoopNest(wiring.Component):
    """Walks a tier's loop nest; no multiplier and no division, every address is a running sum.

    ``wave`` belongs to the current position; ``advance`` steps to the next one. The operation after it is accepted in
    the cycle in which the last wave advances, so that waves follow each other without a gap.

    Members
    -------
    start : In(stream of start_layout)
    valid : Out(1)
        ``op`` and ``wave`` hold a wave.
    op : Out(operation_layout)
    wave : Out(loop_wave_layout)
    advance : In(1)
        Step; only when ``valid``.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "start": In(stream.Signature(start_layout(config))),
                "valid": Out(1),
                "op": Out(operation_layout(config)),
                "wave": Out(loop_wave_layout(config)),
                "advance": In(1),
            }
        )

    PARAMETERS = parameters("accumulator_depth columns list_depth parameter_words rows semaphores tiers vcache_tiles")
    """What the module depends on."""

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return parameter_key("loop_nest", self.config, self.PARAMETERS)

    def elaborate(self, platform: object) -> Module:
        """Build the counters."""
        m = Module()
        config = self.config
        loop = Signal(loop_layout(config))
        tokens_left, k_left, n_left = Signal(10), Signal(10), Signal(10)
        token_first, k_first, op_first = Signal(), Signal(), Signal()
        tile = Signal(config.vcache_bits)
        act_k, act_t = Signal(16), Signal(16)
        entry = Signal(config.list_bits)
        acc = Signal(config.accumulator_bits)
        param = Signal(config.parameter_bits)
        n_global = Signal(TOKEN_BITS)
        dest = Signal(17)

        token_end, k_end, n_end = Signal(), Signal(), Signal()
        k_step, n_step, op_last = Signal(), Signal(), Signal()
        m.d.comb += [
            token_end.eq(tokens_left == 0),
            k_end.eq(k_left == 0),
            n_end.eq(n_left == 0),
            # The inner tile loop steps with every tile, the outer one when the inner one is through.
            k_step.eq(token_end & (~loop.n_inner | n_end)),
            n_step.eq(token_end & (loop.n_inner | k_end)),
            op_last.eq(token_end & k_end & n_end),
        ]
        wave = self.wave
        m.d.comb += [
            wave.tile.eq(tile),
            wave.new.eq(token_first),
            wave.act.eq(act_k + act_t),
            wave.list.eq(entry),
            wave.acc.eq(acc),
            wave.first.eq(k_first),
            wave.last.eq(k_end),
            wave.param.eq(param),
            wave.n_global.eq(n_global),
            wave.dest.eq(dest + row_offset(config, n_global, self.op.combine, self.op.mode == Mode.SWIGLU)),
            wave.op_first.eq(op_first),
            wave.op_last.eq(op_last),
        ]

        # What is loaded does not depend on `advance`, which comes late: it only enables.
        fresh, enable = Signal(), Signal()
        m.d.comb += [
            fresh.eq(~self.valid | op_last),
            enable.eq(Mux(self.valid, self.advance, self.start.valid)),
            self.start.ready.eq(~self.valid | (self.advance & op_last)),
        ]
        with m.If(enable & fresh):
            begin = self.start.payload.loop
            m.d.sync += [
                self.valid.eq(self.start.valid),
                self.op.eq(self.start.payload.op),
                loop.eq(begin),
                tokens_left.eq(begin.tokens_left),
                k_left.eq(begin.k_left),
                n_left.eq(begin.n_left),
                token_first.eq(1),
                k_first.eq(1),
                op_first.eq(1),
                tile.eq(begin.tile),
                act_k.eq(begin.act),
                act_t.eq(0),
                entry.eq(begin.list),
                acc.eq(0),
                param.eq(begin.param),
                n_global.eq(begin.n_global),
                dest.eq(begin.dest),
            ]
        with m.Elif(enable):
            # Accumulator addresses count on over the tiles of an N-inner pass, whose rows all stay open.
            acc_reset = token_end & (~loop.n_inner | n_end)
            m.d.sync += [
                op_first.eq(0),
                token_first.eq(token_end),
                tokens_left.eq(Mux(token_end, loop.tokens_left, tokens_left - 1)),
                act_t.eq(Mux(token_end, 0, act_t + loop.act_stride)),
                entry.eq(Mux(token_end, loop.list, entry + 1)),
                dest.eq(Mux(token_end, loop.dest, dest + loop.dest_stride)),
                tile.eq(tile + token_end),
                acc.eq(Mux(acc_reset, 0, acc + 1)),
            ]
            with m.If(k_step):
                m.d.sync += [
                    k_left.eq(Mux(k_end, loop.k_left, k_left - 1)),
                    k_first.eq(k_end),
                    act_k.eq(Mux(k_end, loop.act, act_k + 1)),
                ]
            with m.If(n_step):
                m.d.sync += [
                    n_left.eq(Mux(n_end, loop.n_left, n_left - 1)),
                    param.eq(Mux(n_end, loop.param, param + ~loop.param_hold)),
                    n_global.eq(Mux(n_end, loop.n_global, n_global + 1)),
                ]
        return m
