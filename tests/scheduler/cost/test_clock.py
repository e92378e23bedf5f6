# SPDX-License-Identifier: Apache-2.0
"""The emitter's forecast beside the cycle model: close enough to order by, and from the same functions."""

from __future__ import annotations

import pytest

from hdl.config import PRESETS
from hdl.isa import Instruction, Opcode, VectorDest, VectorOp
from scheduler.cost.blocks import blocks_of
from scheduler.cost.clock import Clock
from scheduler.cost.model import simulate
from scheduler.cost.work import gemm_cycles
from scheduler.stream.table import Table

SMALL = PRESETS["small"]
ROWS = {"vectors": 8, "rows": 4, "a_stride": 4, "dest_kind": VectorDest.ROWS, "dest_base": 256, "dest_stride": 4}
PROGRAMS = {
    "one after the other": [{"op": VectorOp.SCALE, **ROWS}] * 3,
    "reads what the one before wrote": [{"op": VectorOp.SCALE, **ROWS}, {"op": VectorOp.SCALE, **ROWS, "a_base": 256}],
    "reads its scalars": [
        {"op": VectorOp.SUMSQ, "vectors": 8, "rows": 4, "a_stride": 4},
        {"op": VectorOp.SCALE, **ROWS},
    ],
    "behind ADD": [{"op": VectorOp.ADD, **ROWS, "b_base": 64, "b_rows": 4}, {"op": VectorOp.SCALE, **ROWS}],
}


@pytest.mark.parametrize("name", list(PROGRAMS))
def test_vector_instructions_one_after_the_other(name: str) -> None:
    program = PROGRAMS[name]
    table = Table.of([Instruction(Opcode.VECTOR, fields) for fields in program])
    clock, alone = Clock(SMALL), Clock(SMALL)
    for number in range(len(table)):
        clock.add_vector(table.rows, number)
    alone.add_vector(table.rows, 0)
    both, one = (simulate(SMALL, Table(own)) for own in (table.rows, table.rows[:1]))
    assert abs((clock.done - alone.done) - (both.done[-1] - one.done[0])) <= 3


def test_rows_of_a_gemm_are_expected_when_the_model_says() -> None:
    clock, b = Clock(SMALL), blocks_of(SMALL)
    fields = {"tier_base": 1, "tier_count": 1, "tokens": 4, "k_slices": 2, "n_tiles": 3}
    table = Table.of([Instruction(Opcode.GEMM, fields)])
    assert clock.add_gemm(table.rows, 0) == gemm_cycles(b, 4, 2, 3, 0, 1, 0) + 1
    assert clock.tiers == [0, 24] + [0] * (SMALL.tiers - 2)
