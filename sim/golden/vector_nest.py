# SPDX-License-Identifier: Apache-2.0
"""VECTOR written out element by element as the contract has it: slow, and independent of the executor."""

from __future__ import annotations

from hdl.isa import Instruction, VectorBits, VectorDest, VectorFn, VectorOp, VectorSum
from hdl.numerics import sigmoid_q16
from hdl.numerics.vector import exp2_q15, float_scale, recip, rsqrt
from sim.golden.state import MachineState

__all__ = ["run_vector"]


def run_vector(machine: MachineState, ins: Instruction) -> None:
    """Apply one VECTOR to the machine's state, vector by vector."""
    for t in range(ins["vectors"]):
        _Vector(machine, ins, t).run()


def _clamp(value: int, bits: int) -> int:
    return max(-(1 << bits - 1), min((1 << bits - 1) - 1, value))


def _shift(value: int, amount: int) -> int:
    return value if amount == 0 else (value + (1 << amount - 1)) >> amount


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> bits - 1 else value


class _Vector:
    def __init__(self, machine: MachineState, ins: Instruction, t: int) -> None:
        self.machine = machine
        self.ins = ins
        self.t = t
        self.columns = machine.config.columns
        self.op = VectorOp(ins["op"])
        self.bits = {VectorBits.BITS8: 8, VectorBits.BITS16: 16, VectorBits.BITS32: 32}[VectorBits(ins["bits"])]
        first = ins["a_base"] + t * ins["a_stride"]
        rows = [[int(v) for v in machine.combine[first + r]] for r in range(ins["rows"])]
        shifted = [_shift(v, ins["in_shift"]) for row in rows for v in row]
        self.x24 = [_clamp(v, 24) for v in shifted]
        self.x16 = [_clamp(v, 16) for v in shifted]
        length = len(shifted)
        if ins["masked"]:
            length = _signed(ins["length"], 16) + t * ins["length_step"]
        self.valid = [i < length for i in range(len(shifted))]

    def scalar(self, offset: int = 0) -> tuple[int, int]:
        """Return the low and the high half of a scalar that is read."""
        value = int(self.machine.scalars[self.ins["s_base"] + offset + self.t])
        return value & 0xFFFF, value >> 16

    def put(self, low: int, high: int) -> None:
        """Write a scalar's halves."""
        self.machine.scalars[self.ins["d_scalar"] + self.t] = (low & 0xFFFF) | (high & 0xFFFF) << 16

    def second(self, i: int, table: int = 0) -> int:
        """Return an element of operand B."""
        ins = self.ins
        row = ins["b_base"] + self.t * ins["b_stride"] + i // self.columns % ins["b_rows"] + table * ins["b_rows"]
        return int(self.machine.combine[row, i % self.columns])

    def run(self) -> None:
        """Do the vector's work."""
        if self.op == VectorOp.MAX:
            self.take_max()
        elif self.op == VectorOp.SUMSQ:
            total = sum(x * x for x, v in zip(self.x16, self.valid, strict=True) if v)
            total = (total + (self.ins["imm"] << self.ins["shift"])) % (1 << 48)
            mantissa, exponent = rsqrt(total)
            self.put(*(int(v) for v in float_scale(mantissa, exponent, self.ins["mult"])))
        elif self.op == VectorOp.ARGMAX:
            self.choose()
        elif self.op == VectorOp.GATHER:
            chosen = [self.x16[self.scalar(j * self.ins["vectors"])[1]] for j in range(self.ins["length"])]
            self.deliver([_clamp(v, self.bits) for v in chosen] + [0] * (self.columns - len(chosen)))
        else:
            result = [_clamp(self.element(i), self.bits) if self.valid[i] else 0 for i in range(len(self.x16))]
            if self.op == VectorOp.MAP and self.ins["sum"] != VectorSum.NONE:
                self.add_up(sum(result))
            self.deliver(result)

    def take_max(self) -> None:
        """MAX."""
        highest = max([-32768] + [x for x, v in zip(self.x16, self.valid, strict=True) if v])
        if self.ins["first"]:
            self.put(highest, 0)
            return
        old = _signed(self.scalar()[0], 16)
        highest = max(old, highest)
        self.put(highest, int(exp2_q15(old - highest)))

    def choose(self) -> None:
        """ARGMAX: sort, drop what comes before the last choice or is it, take the first."""
        order = sorted((-x, i) for i, (x, v) in enumerate(zip(self.x16, self.valid, strict=True)) if v)
        if not self.ins["first"]:
            low, index = self.scalar()
            order = [entry for entry in order if entry > (-_signed(low, 16), index)]
        value, index = order[0] if order else (32768, 65535)
        self.put(-value, index)

    def element(self, i: int) -> int:
        """Return a valid element before saturation."""
        ins, x24, x16 = self.ins, self.x24[i], self.x16[i]
        if self.op == VectorOp.MAP:
            if ins["fn"] == VectorFn.EXP2:
                value = int(exp2_q15(x16 - _signed(self.scalar()[0], 16)))
            else:
                value = int(sigmoid_q16(x16)) if ins["fn"] == VectorFn.SIGMOID else x24
            return _shift(value * ins["mult"], ins["shift"])
        if self.op == VectorOp.SCALE:
            mantissa, exponent = self.scalar()[0], self.scalar()[1] & 63
            return _shift(x24 * mantissa, max(0, min(47, exponent + ins["shift"] - 32)))
        if self.op == VectorOp.RESCALE:
            return _shift(x24 * self.scalar()[1], 15)
        if self.op == VectorOp.ADD:
            return _shift(x24 * ins["mult"], ins["shift"]) + self.second(i)
        product = x16 * _signed(self.second(i), 16)
        if self.op == VectorOp.ROTATE:
            product += self.x16[i ^ 1] * _signed(self.second(i, 1), 16)
        return _shift(product, ins["shift"])

    def add_up(self, total: int) -> None:
        """MAP with a sum."""
        ins = self.ins
        if not ins["first"]:
            old = int(self.machine.scalars[ins["d_scalar"] + self.t])
            total += _shift(old * self.scalar()[1], 15) if ins["fn"] == VectorFn.EXP2 else old
        total %= 1 << 32
        if ins["sum"] == VectorSum.SUM:
            self.put(total & 0xFFFF, total >> 16)
        else:
            mantissa, exponent = recip(total)
            self.put(*(int(v) for v in float_scale(mantissa, exponent, ins["imm"])))

    def deliver(self, result: list[int]) -> None:
        """Write the result rows of the vector."""
        ins, config = self.ins, self.machine.config
        place = ins["dest_base"] + self.t * ins["dest_stride"]
        for r in range(len(result) // self.columns):
            row = result[r * self.columns : (r + 1) * self.columns]
            if ins["dest_kind"] == VectorDest.ROWS:
                self.machine.combine[place + r] = row
            elif ins["dest_kind"] == VectorDest.ACTIVATION:
                byte = r * self.columns
                for tier in range(config.tiers):
                    if ins["dest_tiers"] >> tier & 1:
                        at = byte % config.rows
                        self.machine.activation[tier, place + byte // config.rows, at : at + self.columns] = row
