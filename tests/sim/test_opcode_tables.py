# SPDX-License-Identifier: Apache-2.0
"""Executor and timeline have a handler for every opcode and every vector operation."""

from __future__ import annotations

from hdl.isa import OPCODES, REDUCTIONS, VectorOp
from sim.golden.executor import HANDLERS
from sim.golden.vector import ROW_HANDLERS, SCALAR_HANDLERS
from sim.view.timeline import KIND_OF


def test_every_opcode_has_its_handlers() -> None:
    assert set(HANDLERS) == set(OPCODES)
    assert set(KIND_OF) == {opcode for opcode, about in OPCODES.items() if not about.immediate}


def test_every_vector_operation_makes_rows_or_scalars() -> None:
    assert set(SCALAR_HANDLERS) == REDUCTIONS
    assert set(ROW_HANDLERS) == set(VectorOp) - REDUCTIONS
