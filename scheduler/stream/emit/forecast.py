# SPDX-License-Identifier: Apache-2.0
"""A rough forecast of the vector unit, cheap enough to be asked for every instruction that is emitted.

The same rules as :mod:`scheduler.cost.vector_timing`, on the fields of an instruction and without arrays.
"""

from __future__ import annotations

from collections.abc import Mapping

from hdl.isa import Opcode, VectorDest, VectorFn, VectorOp, VectorSum
from scheduler.cost.vector_timing import GAP, ROW_DRAIN, SCALAR_DRAIN

__all__ = ["VectorForecast"]

Fields = Mapping[str, int]

_TIMES = {int(op): {VectorOp.MUL: 2, VectorOp.ADD: 13}.get(op, 1) for op in VectorOp}
_ROTATE, _GATHER, _MAP, _ADD, _MUL = (
    int(op) for op in (VectorOp.ROTATE, VectorOp.GATHER, VectorOp.MAP, VectorOp.ADD, VectorOp.MUL)
)
_REDUCTIONS = frozenset({int(VectorOp.MAX), int(VectorOp.SUMSQ), int(VectorOp.ARGMAX)})
_TWO_OPERANDS = frozenset({_MUL, _ROTATE, _ADD})
_ROWS, _EXP2, _NO_SUM = int(VectorDest.ROWS), int(VectorFn.EXP2), int(VectorSum.NONE)
_FROM_SCALARS = frozenset({int(VectorOp.SCALE), int(VectorOp.RESCALE), _GATHER})


class _Run:
    """An instruction that the unit was given, as what follows must know it."""

    __slots__ = ("cycles", "done", "high", "low", "route", "scalar", "start", "vectors")

    def __init__(self) -> None:
        self.start = self.done = self.cycles = 0
        self.low, self.high = 0, -1  # rows that it writes
        self.scalar, self.vectors = 0, 0  # scalars that it writes
        self.route = False


class VectorForecast:
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

    def add(self, opcode: Opcode, fields: Fields) -> None:
        """Take up the next instruction, VECTOR or ROUTE."""
        run = _Run()
        get = fields.get
        start = max(self.free, self._before + 1)
        if opcode == Opcode.ROUTE:
            tokens, choices = fields["tokens"], fields["choices"]
            run.route = True
            run.cycles = tokens * choices + 2 * fields["experts"] + tokens + tokens * (choices + 2)
            start = max(start, self._last.done if self._last is not None else 0)
            drain = ROW_DRAIN
        else:
            op, vectors, rows = int(fields["op"]), fields["vectors"], fields["rows"]
            work = vectors * (get("length", 0) if op == _GATHER else rows)
            if op == _ROTATE:
                period = fields["b_rows"]
                run.cycles = work + 2 * period * vectors if period <= 2 else 3 * work
            else:
                run.cycles = _TIMES[op] * work
            sums = op == _MAP and get("sum", 0) != _NO_SUM
            writes = sums or op in _REDUCTIONS
            drain = max(SCALAR_DRAIN, ROW_DRAIN) if writes else ROW_DRAIN
            if writes:
                run.scalar, run.vectors = get("d_scalar", 0), vectors
            if get("dest_kind", 0) == _ROWS:
                run.low = get("dest_base", 0)
                run.high = run.low + (vectors - 1) * get("dest_stride", 0) + (1 if op == _GATHER else rows) - 1
            if self._last is not None:
                start = max(start, self._after_last(op, sums, run.cycles, fields))
        run.start = start
        end = start + run.cycles
        run.done = max(end + drain, self.done + 1)
        self._before = self.done
        self._last = run
        self.free, self.done = end + GAP, run.done

    def _after_last(self, op: int, sums: bool, cycles: int, fields: Fields) -> int:
        """Return the first cycle in which what an instruction reads of the last one is there."""
        last, get = self._last, fields.get
        assert last is not None
        if last.route:
            return last.done
        vectors = fields["vectors"]
        if last.high >= last.low:
            first = get("a_base", 0)
            if first <= last.high and first + (vectors - 1) * get("a_stride", 0) + fields["rows"] - 1 >= last.low:
                return last.done
            if op in _TWO_OPERANDS:
                first, period = get("b_base", 0), fields["b_rows"] * (2 if op == _ROTATE else 1)
                if first <= last.high and first + (vectors - 1) * get("b_stride", 0) + period - 1 >= last.low:
                    return last.done
        if not last.vectors:
            return 0
        ready = 0
        begins = get("first", 0)
        if op in _FROM_SCALARS or (op == _MAP and get("fn", 0) == _EXP2) or (op in _REDUCTIONS and not begins):
            if op != VectorOp.SUMSQ:
                count = vectors * get("length", 0) if op == _GATHER else vectors
                ready = self._scalars(get("s_base", 0), count, cycles)
        if sums and not begins:
            ready = max(ready, self._scalars(get("d_scalar", 0), vectors, cycles))
        return ready

    def _scalars(self, first: int, count: int, cycles: int) -> int:
        """Return from when on some scalars can be read one after the other as fast as the instruction does."""
        last = self._last
        assert last is not None
        low = max(first, last.scalar)
        high = min(first + count, last.scalar + last.vectors) - 1
        if low > high:
            return 0
        written, read = last.cycles / last.vectors, cycles / count
        at = last.start + SCALAR_DRAIN
        return max(
            int(at + (low - last.scalar + 1) * written - (low - first) * read),
            int(at + (high - last.scalar + 1) * written - (high - first) * read),
        )
