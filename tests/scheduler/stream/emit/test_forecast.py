# SPDX-License-Identifier: Apache-2.0
"""The emitter's forecast of the vector unit is that of the cost interface, instruction for instruction."""

import random

from hdl.isa import Instruction, Opcode, VectorFn, VectorOp, VectorSum
from scheduler.cost.vector_timing import VectorTiming
from scheduler.stream.emit.forecast import VectorForecast

SMALL = (VectorOp.MAX, VectorOp.SUMSQ, VectorOp.ARGMAX)
TWO = (VectorOp.MUL, VectorOp.ADD, VectorOp.ROTATE)


def draw(rng: random.Random) -> tuple[Opcode, dict[str, int]]:
    """Return an instruction whose operands are near those of the one before."""
    if rng.random() < 0.05:
        return Opcode.ROUTE, {n: rng.randint(1, 8) for n in ("tokens", "choices", "experts")}
    op = rng.choice(list(VectorOp))
    fields = {
        "op": op, "vectors": rng.randint(1, 6), "rows": rng.choice((1, 2, 4)), "a_base": rng.randint(0, 40),
        "a_stride": rng.randint(0, 5), "s_base": rng.randint(0, 20), "d_scalar": rng.randint(0, 20),
        "first": rng.randint(0, 1),
    }  # fmt: skip
    if op in TWO:
        periods = [n for n in (1, 2, 4) if fields["rows"] % n == 0]
        fields |= {"b_base": rng.randint(0, 40), "b_stride": rng.randint(0, 4), "b_rows": rng.choice(periods)}
    if op == VectorOp.GATHER:
        fields["length"] = rng.randint(1, 4)
    if op == VectorOp.MAP:
        fields |= {"fn": rng.choice(list(VectorFn)), "sum": rng.choice(list(VectorSum))}
    if op not in SMALL:
        fields |= {"dest_kind": rng.choice((1, 2)), "dest_base": rng.randint(0, 40), "dest_stride": rng.randint(0, 5)}
    return Opcode.VECTOR, fields


def test_the_forecast_is_the_timing():
    rng = random.Random(4)
    for _ in range(1000):
        timing, forecast = VectorTiming(), VectorForecast()
        for _ in range(8):
            opcode, fields = draw(rng)
            timing.add(Instruction(opcode, fields))
            forecast.add(opcode, fields)
            assert (forecast.free, forecast.done) == (timing.free, timing.done), fields
