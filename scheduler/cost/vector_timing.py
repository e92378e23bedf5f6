# SPDX-License-Identifier: Apache-2.0
"""When the vector unit takes up its instructions, and when each is complete; ``hdl/vector`` as ``docs/vector.md`` says.

An instruction begins to read rows while the one before drains, but waits for what the two have in common.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hdl.isa import Instruction, Opcode, VectorDest, VectorOp
from hdl.isa.vector_access import (
    TWO_OPERANDS,
    a_rows,
    b_rows,
    c_rows,
    dest_rows,
    has_sum,
    reads_scalar,
    row_count,
    scalar_span,
    writes_scalar,
)

__all__ = ["ROW_DRAIN", "SCALAR_DRAIN", "VectorTiming", "vector_cycles"]

GAP = 2
"""From an instruction's last row to the next one's first."""
ROW_DRAIN = 17
"""From a row that is read to the result that can be read."""
SCALAR_DRAIN = 26
"""From the last row of a vector to its scalar."""


def vector_cycles(instruction: Instruction) -> int:
    """Return the cycles in which a VECTOR asks for rows of the combine buffer, or in which a ROUTE works."""
    if instruction.opcode == Opcode.ROUTE:
        tokens, choices = instruction["tokens"], instruction["choices"]
        return tokens * choices + 2 * instruction["experts"] + tokens + tokens * (choices + 2)
    op = VectorOp(instruction["op"])
    rows = row_count(instruction)
    if op == VectorOp.ROTATE:  # small tables stay in the lanes for a vector
        small = instruction["b_rows"] <= 2
        return rows + 2 * instruction["b_rows"] * instruction["vectors"] if small else 3 * rows
    return {VectorOp.MUL: 2, VectorOp.ADD: 13}.get(op, 1) * rows


@dataclass(frozen=True)
class _Run:
    """An instruction that was taken up in cycle `start`, and is complete in cycle `done`."""

    instruction: Instruction
    start: int
    done: int


class VectorTiming:
    """The instructions of a vector unit, one after the other.

    Attributes
    ----------
    free : int
        First cycle in which the next instruction could ask for a row, if it had to wait for nothing.
    done : int
        Cycle in which the last instruction is complete.
    """

    def __init__(self) -> None:
        self.free = 0
        self.done = 0
        self._last: _Run | None = None
        self._before = 0  # when the one before the last one is complete

    def add(self, instruction: Instruction, ready: int = 0) -> tuple[int, int, int]:
        """Take up the next instruction.

        Parameters
        ----------
        instruction : Instruction
            VECTOR or ROUTE.
        ready : int
            The cycle in which its waits are granted.

        Returns
        -------
        start, end, done : int
            Cycles in which it asks for its first row, has had its last one, and is complete.
        """
        cycles = vector_cycles(instruction)
        start = max(ready, self.free, self._before + 1, self._after_last(instruction))
        end = start + cycles
        done = max(end + (SCALAR_DRAIN if instruction.opcode == Opcode.VECTOR and writes_scalar(instruction) else 0),
                   end + ROW_DRAIN, self.done + 1)  # fmt: skip
        self._before = self.done
        self._last = _Run(instruction, start, done)
        self.free, self.done = end + GAP, done
        return start, end, done

    def _after_last(self, new: Instruction) -> int:
        """Return the first cycle in which what an instruction reads of the last one is there."""
        if self._last is None:
            return 0
        old = self._last.instruction
        if Opcode.ROUTE in (old.opcode, new.opcode) or _reads_rows(new, old):
            return self._last.done
        return max((self._scalar(new, first, count) for first, count in _scalars(new)), default=0)

    def _scalar(self, new: Instruction, first: int, count: int) -> int:
        """Return from when on some scalars can be read one after the other as fast as the instruction does."""
        assert self._last is not None
        old = self._last.instruction
        if not writes_scalar(old):
            return 0
        low = max(first, old["d_scalar"])
        high = min(first + count, old["d_scalar"] + old["vectors"]) - 1
        if low > high:
            return 0
        written, read = vector_cycles(old) / old["vectors"], vector_cycles(new) / count
        return max(
            int(self._last.start + (place - old["d_scalar"] + 1) * written + SCALAR_DRAIN - (place - first) * read)
            for place in (low, high)
        )


def _scalars(instruction: Instruction) -> list[tuple[int, int]]:
    """Return (first, count) of the scalars that an instruction reads."""
    spans = [(instruction["s_base"], scalar_span(instruction))] if reads_scalar(instruction) else []
    if has_sum(instruction) and not instruction["first"]:
        spans.append((instruction["d_scalar"], instruction["vectors"]))
    return spans


def _reads_rows(new: Instruction, old: Instruction) -> bool:
    """Return whether the rows from the first to the last that one reads overlap those that the other writes."""
    if old["dest_kind"] != VectorDest.ROWS:
        return False
    written, reads = dest_rows(old), [a_rows(new)]
    if new["op"] in TWO_OPERANDS:
        reads.append(np.stack([b_rows(new), c_rows(new) if new["op"] == VectorOp.ROTATE else b_rows(new)]))
    return any(bool(read.min() <= written.max() and read.max() >= written.min()) for read in reads)
