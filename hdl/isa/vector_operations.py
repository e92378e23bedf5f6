# SPDX-License-Identifier: Apache-2.0
"""The operations of VECTOR: one table of what each reads and makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum

__all__ = [
    "REDUCTIONS", "TWO_OPERANDS", "VECTOR_OPERATIONS", "ScalarRead", "VectorBits", "VectorDest", "VectorFn", "VectorOp",
    "VectorOperation", "VectorSum",
]  # fmt: skip


class VectorOp(IntEnum):
    """What a VECTOR instruction does with each of its vectors (``docs/vector.md``)."""

    MAP = 0
    SCALE = 1
    RESCALE = 2
    MUL = 3
    ROTATE = 4
    ADD = 5
    MAX = 6
    SUMSQ = 7
    ARGMAX = 8
    GATHER = 9


class VectorFn(IntEnum):
    """Function that MAP applies to each element before it is scaled."""

    IDENTITY = 0
    EXP2 = 1
    SIGMOID = 2


class VectorSum(IntEnum):
    """What MAP does with the sum of its results."""

    NONE = 0
    SUM = 1
    SUM_RECIP = 2


class VectorDest(IntEnum):
    """Where a VECTOR's result rows go."""

    NONE = 0
    ROWS = 1
    ACTIVATION = 2


class VectorBits(IntEnum):
    """Width to which a VECTOR's results are saturated."""

    BITS8 = 0
    BITS16 = 1
    BITS32 = 2


class ScalarRead(Enum):
    """When an operation reads the scalars from ``s_base``."""

    NEVER = 0
    ALWAYS = 1
    UNLESS_FIRST = 2
    """Unless ``first`` starts the recurrence."""
    WITH_EXP2 = 3
    """With the function EXP2, which subtracts the running maximum."""


@dataclass(frozen=True)
class VectorOperation:
    """One operation.

    Attributes
    ----------
    words : str
        What it does; its vectors follow.
    reads_scalar : ScalarRead
        When it reads scalars.
    tables : int
        Sets of ``b_rows`` rows that operand B has for each vector: 0 where there is no operand B, 2 for ROTATE.
    makes_rows : bool
        Whether it makes result rows; a reduction makes a scalar only.
    """

    words: str
    reads_scalar: ScalarRead = ScalarRead.NEVER
    tables: int = 0
    makes_rows: bool = True


VECTOR_OPERATIONS: Mapping[VectorOp, VectorOperation] = {
    VectorOp.MAP: VectorOperation("applies a function to", ScalarRead.WITH_EXP2),
    VectorOp.SCALE: VectorOperation("multiplies by a scalar", ScalarRead.ALWAYS),
    VectorOp.RESCALE: VectorOperation("multiplies by the maximum's correction", ScalarRead.ALWAYS),
    VectorOp.MUL: VectorOperation("multiplies by operand B", tables=1),
    VectorOp.ROTATE: VectorOperation("rotates pairs of elements of", tables=2),
    VectorOp.ADD: VectorOperation("scales and adds operand B to", tables=1),
    VectorOp.MAX: VectorOperation("takes the running maximum of", ScalarRead.UNLESS_FIRST, makes_rows=False),
    VectorOp.SUMSQ: VectorOperation("takes one over the root of the sum of squares of", makes_rows=False),
    VectorOp.ARGMAX: VectorOperation("takes the next largest element of", ScalarRead.UNLESS_FIRST, makes_rows=False),
    VectorOp.GATHER: VectorOperation("gathers chosen elements of", ScalarRead.ALWAYS),
}
"""All operations."""

REDUCTIONS = frozenset(op for op, about in VECTOR_OPERATIONS.items() if not about.makes_rows)
"""Operations that make a scalar and no rows."""

TWO_OPERANDS = frozenset(op for op, about in VECTOR_OPERATIONS.items() if about.tables)
"""Operations that read operand B."""
