# SPDX-License-Identifier: Apache-2.0
"""The drain of a tier: a fixed-latency pipeline that turns finished accumulator rows into result rows."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.common.requant import REQUANT_STAGES, RequantLane
from hdl.common.sram import Sram
from hdl.config import MachineConfig
from hdl.drain.swiglu import STAGE_MULT, SWIGLU_STAGES, SwigluPair
from hdl.emit.hierarchy import instantiate
from hdl.interfaces import result_layout
from hdl.isa import Mode, swiglu_channels

__all__ = ["Drain"]


class Drain(wiring.Component):
    """Requantise a tier's finished rows, optionally through SwiGLU.

    Latency: :attr:`LATENCY` cycles from `row_valid` to ``result.valid``, in every mode.  Throughput: one row per cycle,
    modes mixed at will.  There is no back-pressure: the sequencer took a credit before it issued the row's last wave.

    Results are ``hdl.numerics.requant`` (REQUANT8, REQUANT16) of every column, or ``hdl.numerics.swiglu`` of columns
    ``0..C/2-1`` (gate) and ``C/2..C-1`` (up) in lanes ``0..C/2-1`` with the other lanes zero.

    Multipliers: per column 17 x 16 and 15 x 16; per pair of columns 12 x 8, three times 16 x 16 and 17 x 16.

    Parameters
    ----------
    config : MachineConfig

    Members
    -------
    row_valid : In(1)
        A row is presented this cycle.
    row : In(C signed(32))
        Accumulators.
    mode : In(2), param_addr : In, shift : In(6), post_mult : In(16), post_shift : In(6)
        What to do with it (``hdl.isa.Mode``), aligned with `row_valid`.
    param_write : In(1)
        Write one part of a requantisation word.  A row presented in a later cycle uses it.
    param_write_addr : In
        Word x ``parameter_parts`` + part; a part is R bytes.
    param_write_data : In(8*R)
        Little-endian uint16 multipliers.
    result : Out(result_layout)
    """

    LATENCY = REQUANT_STAGES + SWIGLU_STAGES
    """Cycles from `row_valid` to ``result.valid``: requantisation, then SwiGLU or passing it."""

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        part_bits = (config.parameter_parts - 1).bit_length()
        super().__init__(
            {
                "row_valid": In(1),
                "row": In(data.ArrayLayout(signed(32), config.columns)),
                "mode": In(2),
                "param_addr": In(config.parameter_bits),
                "shift": In(6),
                "post_mult": In(16),
                "post_shift": In(6),
                "param_write": In(1),
                "param_write_addr": In(config.parameter_bits + part_bits),
                "param_write_data": In(8 * config.rows),
                "result": Out(result_layout(config)),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module: columns, bytes of a write, parameter words."""
        return f"drain_c{self.config.columns}_r{self.config.rows}_p{self.config.parameter_words}"

    def elaborate(self, platform: object) -> Module:
        """Build the control delay lines, the parameter memory and the lanes."""
        m = Module()
        config = self.config

        def delayed(value: Value, name: str, cycles: int) -> list[Value]:
            """Return `value` now and after 1 to `cycles` cycles."""
            taps = [value]
            for i in range(1, cycles + 1):
                tap = Signal(value.shape(), name=f"{name}_{i}")
                m.d.sync += tap.eq(taps[-1])
                taps.append(tap)
            return taps

        valid = delayed(self.row_valid, "valid", self.LATENCY)
        swiglu = delayed(self.mode == Mode.SWIGLU, "swiglu", self.LATENCY - 1)
        narrow = delayed(self.mode == Mode.REQUANT8, "narrow", REQUANT_STAGES - 1)
        shift = delayed(self.shift, "shift", REQUANT_STAGES - 2)
        post_mult = delayed(self.post_mult, "post_mult", REQUANT_STAGES + STAGE_MULT)
        post_shift = delayed(self.post_shift, "post_shift", REQUANT_STAGES + STAGE_MULT + 2)

        parts = config.parameter_parts
        part_bits = (parts - 1).bit_length()
        memory = Sram(16 * config.columns, config.parameter_words, granularity=8 * config.rows if parts > 1 else None)
        instantiate(m, platform, "parameters", memory)
        m.d.comb += [
            memory.write_en.eq(self.param_write),
            memory.write_addr.eq(self.param_write_addr[part_bits:]),
            memory.write_data.eq(self.param_write_data.replicate(parts)),
            memory.read_en.eq(self.row_valid),
            memory.read_addr.eq(self.param_addr),
        ]
        if parts > 1:
            for part in range(parts):
                m.d.comb += memory.write_mask[part].eq(self.param_write_addr[:part_bits] == part)

        lanes = [instantiate(m, platform, f"requant{column}", RequantLane()) for column in range(config.columns)]
        for column, lane in enumerate(lanes):
            m.d.comb += [
                lane.enable.eq(Cat(valid[:REQUANT_STAGES])),
                lane.acc.eq(self.row[column]),
                lane.mult.eq(memory.read_data.word_select(column, 16)),
                lane.shift.eq(shift[-1]),
                lane.narrow.eq(narrow[-1]),
            ]

        gates, ups = swiglu_channels(config.columns)
        results = list(self.result.data)
        for column, (gate, up) in enumerate(zip(lanes[gates], lanes[ups], strict=True)):
            pair = instantiate(m, platform, f"swiglu{column}", SwigluPair())
            m.d.comb += [
                pair.enable.eq(Cat(valid[REQUANT_STAGES : self.LATENCY])),
                pair.swiglu.eq(Cat(swiglu[REQUANT_STAGES : self.LATENCY])),
                pair.gate.eq(gate.result),
                pair.up.eq(up.result),
                pair.post_mult.eq(post_mult[-1]),
                pair.post_shift.eq(post_shift[-1]),
                results[gates][column].eq(pair.low),
                results[ups][column].eq(pair.high),
            ]
        m.d.comb += self.result.valid.eq(valid[self.LATENCY])
        return m
