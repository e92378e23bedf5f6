# SPDX-License-Identifier: Apache-2.0
"""The vector unit's scalar memory, and what turns the sums and maxima of rows into scalars."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.common.requant import partial_products
from hdl.common.sram import Sram
from hdl.config import MachineConfig
from hdl.emit.hierarchy import instantiate
from hdl.isa import VectorFn
from hdl.vector.floating import FLOAT_STAGES, STAGE_MULT, FloatUnit
from hdl.vector.function import FUNCTION_STAGES, FunctionLane

__all__ = ["SCALAR_STAGES", "ScalarUnit", "reduction_layout", "scalar_job_layout"]

LOWEST = -32768
_GRAND_BITS = 48

_SUM_STAGES = 3
_BEST_STAGES = 1 + FUNCTION_STAGES

SCALAR_STAGES = _SUM_STAGES + FLOAT_STAGES
"""Stages from a vector's complete sum or maximum to its scalar, whichever kind it is."""


def scalar_job_layout() -> data.StructLayout:
    """Return what an instruction makes.

    ``sums``: a sum (squares or MAP); ``best``: a MAXCORR; ``choice``: a CHOICE; ``root``, ``reciprocal``: of a sum the
    reciprocal square root, the reciprocal. ``first``: do not read what was there. ``mult``: factor of the FLOAT;
    ``eps``: what is added to a sum of squares.
    """
    return data.StructLayout(
        {"sums": 1, "best": 1, "choice": 1, "root": 1, "reciprocal": 1, "first": 1, "mult": 16, "eps": _GRAND_BITS}
    )


def reduction_layout(config: MachineConfig) -> data.StructLayout:
    """Return what accompanies a row to its reduction.

    Which job it belongs to, its place in its vector, the scalar operand, the scalar to write.
    """
    return data.StructLayout(
        {"job": 1, "first_row": 1, "last_row": 1, "row": 9, "factor": 17, "scalar": config.scalar_bits}
    )


class ScalarUnit(wiring.Component):
    """Accumulates over the rows of a vector, makes its scalar, and writes it.

    Latency from a vector's last row to the written scalar: ``SCALAR_STAGES + 2`` cycles for every kind, so that scalars
    are written in the order of the vectors, also across instructions. Throughput: one row per cycle. Multipliers:
    17 x 17, 15 x 17, and those of the two function units.

    Members
    -------
    jobs : In(scalar_job_layout).array(2)
        What the two instructions make that can be under way.
    row_valid : In(1), row : In(reduction_layout)
        A row's reduction is there.
    total : In(signed), value : In(signed(16)), lane : In, found : In(1)
        Its sum; its best element.
    read_en : In(1), read_addr : In(scalar_bits), read_data : Out(32)
        Read of a scalar for the issue; data in the next cycle, held until the next read.
    written : Out(1), written_job : Out(1)
        Pulse: the next scalar of that job is being written; a read sees it from the next cycle on.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        lane_bits = config.columns.bit_length() - 1
        super().__init__(
            {
                "jobs": In(scalar_job_layout()).array(2),
                "row_valid": In(1),
                "row": In(reduction_layout(config)),
                "total": In(signed(32 + lane_bits)),
                "value": In(signed(16)),
                "lane": In(lane_bits),
                "found": In(1),
                "read_en": In(1),
                "read_addr": In(config.scalar_bits),
                "read_data": Out(32),
                "written": Out(1),
                "written_job": Out(1),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return f"vector_scalar_unit_c{self.config.columns}_s{self.config.scalar_depth}"

    def elaborate(self, platform: object) -> Module:
        """Build accumulators, the three ways to a scalar, and the memory."""
        m = Module()
        config = self.config
        operands = instantiate(m, platform, "operands", Sram(32, config.scalar_depth))
        results = instantiate(m, platform, "results", Sram(32, config.scalar_depth))
        row = self.row

        # Accumulate; a vector is complete with its last row.
        total = Signal(_GRAND_BITS)
        highest, index, found = Signal(signed(16)), Signal(16), Signal()
        complete, factor, place, job = Signal(), Signal(17), Signal(config.scalar_bits), Signal()
        better = self.found & (row.first_row | ~found | (self.value > highest))
        m.d.sync += complete.eq(self.row_valid & row.last_row)
        with m.If(self.row_valid):
            m.d.sync += [
                total.eq(Mux(row.first_row, 0, total) + self.total),
                factor.eq(row.factor),
                place.eq(row.scalar),
                job.eq(row.job),
                found.eq(self.found | (found & ~row.first_row)),
            ]
            with m.If(better):
                m.d.sync += [highest.eq(self.value), index.eq(Cat(self.lane, row.row))]
            with m.Elif(row.first_row):
                m.d.sync += [highest.eq(LOWEST), index.eq(0xFFFF)]
        m.d.comb += [results.read_en.eq(self.row_valid & row.last_row), results.read_addr.eq(row.scalar)]

        # Stages after the accumulator: valid bits, the scalar's number, its job.
        valid = Signal(SCALAR_STAGES + 1)
        places, owners = [place], [job]
        m.d.comb += valid[0].eq(complete)
        for stage in range(SCALAR_STAGES):
            places.append(Signal(config.scalar_bits, name=f"place{stage + 1}"))
            owners.append(Signal(name=f"owner{stage + 1}"))
            m.d.sync += valid[stage + 1].eq(valid[stage])
            with m.If(valid[stage]):
                m.d.sync += [places[stage + 1].eq(places[stage]), owners[stage + 1].eq(owners[stage])]

        def of(stage: int, field: str) -> Value:
            """Return a field of the job whose vector is in a stage."""
            first, second = (job[field] for job in self.jobs)
            return Mux(owners[stage], second, first)

        grand = self._sums(m, valid, of, total, factor, results.read_data)
        corrected = self._maxima(m, platform, valid, of, highest, factor)
        floats = instantiate(m, platform, "floats", FloatUnit())
        at = _SUM_STAGES

        def early(stage: int, field: str) -> Value:
            """Return the same, decided in the stage before."""
            decided = Signal(len(self.jobs[0][field]), name=f"{field}{stage}")
            with m.If(valid[stage - 1]):
                m.d.sync += decided.eq(of(stage - 1, field))
            return decided

        root, reciprocal = ([early(at + n, name) for n in range(FLOAT_STAGES + 1)] for name in ("root", "reciprocal"))
        floating = [root[stage] | reciprocal[stage] for stage in range(FLOAT_STAGES + 1)]
        m.d.comb += [
            floats.enable.eq(Cat(valid[at + stage] & floating[stage] for stage in range(FLOAT_STAGES))),
            floats.root.eq(Cat(root[:3])),
            floats.value.eq(grand),
            floats.mult.eq(early(at + STAGE_MULT, "mult")),
        ]

        # What is no FLOAT waits as long as one takes.
        chosen = Mux(found, Cat(highest, index), Const((0xFFFF << 16) | (LOWEST & 0xFFFF), 32))
        plain: list[Value] = [chosen]
        for stage in range(SCALAR_STAGES):
            now = plain[-1]
            if stage == _SUM_STAGES:
                now = Mux(of(stage, "sums"), grand[:32], now)
            if stage == _BEST_STAGES:
                now = Mux(of(stage, "best"), corrected, now)
            held = Signal(32, name=f"plain{stage + 1}")
            with m.If(valid[stage]):
                m.d.sync += held.eq(now)
            plain.append(held)
        for memory in (operands, results):
            m.d.comb += [
                memory.write_en.eq(valid[SCALAR_STAGES]),
                memory.write_addr.eq(places[SCALAR_STAGES]),
                memory.write_data.eq(Mux(floating[FLOAT_STAGES], Cat(floats.mantissa, floats.exponent), plain[-1])),
            ]
        m.d.comb += [
            operands.read_en.eq(self.read_en),
            operands.read_addr.eq(self.read_addr),
            self.read_data.eq(operands.read_data),
            self.written.eq(valid[SCALAR_STAGES]),
            self.written_job.eq(owners[SCALAR_STAGES]),
        ]
        return m

    def _sums(self, m: Module, valid: Value, of: Any, total: Value, factor: Value, old: Value) -> Value:
        """Add what was there, times the correction; return the sum, in stage `_SUM_STAGES`."""
        *parts, by = partial_products(old, factor)
        low, high = Signal(34), Signal(32)
        carried, partial, partial1 = Signal(34), Signal(_GRAND_BITS), Signal(_GRAND_BITS)
        with m.If(valid[0]):
            first = of(0, "first")
            m.d.sync += [low.eq(Mux(first, 0, parts[0])), high.eq(Mux(first, 0, parts[1])), partial.eq(total)]
        with m.If(valid[1]):
            m.d.sync += [carried.eq((low + (high << by) + (1 << 14)) >> 15), partial1.eq(partial)]
        grand = Signal(_GRAND_BITS)
        with m.If(valid[2]):
            with m.If(of(2, "root")):
                m.d.sync += grand.eq(partial1 + of(2, "eps"))
            with m.Else():
                m.d.sync += grand.eq((partial1 + carried)[:32])
        return grand

    def _maxima(self, m: Module, platform: object, valid: Value, of: Any, highest: Value, factor: Value) -> Value:
        """Correct by the power of two by which the maximum has grown; return the MAXCORR, in stage `_BEST_STAGES`."""
        powers = instantiate(m, platform, "powers", FunctionLane())
        old, above = Signal(signed(16)), Signal(signed(16))
        before = Mux(of(0, "first"), LOWEST, factor[:16].as_signed())
        with m.If(valid[0] & of(0, "best")):
            m.d.sync += [old.eq(before), above.eq(Mux(highest > before, highest, before))]
        m.d.comb += [
            powers.fn.eq(Cat(Const(VectorFn.EXP2.value, 2) for _ in range(FUNCTION_STAGES))),
            powers.enable.eq(Cat(valid[stage] & of(stage, "best") for stage in range(1, _BEST_STAGES))),
            powers.x.eq(old),
            powers.pivot.eq(above),
        ]
        maxima = [above, *(Signal(16, name=f"maximum{n}") for n in range(1, FUNCTION_STAGES + 1))]
        for stage in range(FUNCTION_STAGES):
            with m.If(valid[1 + stage] & of(1 + stage, "best")):
                m.d.sync += maxima[stage + 1].eq(maxima[stage])
        return Cat(maxima[FUNCTION_STAGES], Mux(of(_BEST_STAGES, "first"), 0, powers.f[:16]))
