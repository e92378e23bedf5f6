# SPDX-License-Identifier: Apache-2.0
"""A rough forecast of when tiers and vector unit come to what is emitted; it costs microseconds an instruction.

The same functions as the cycle model's say how long an instruction takes. What is left out is what only the whole
stream shows: loads, the dispatcher, who shares the banks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hdl.config import MachineConfig
from hdl.isa import VectorDest, VectorOp, VectorSum
from scheduler.cost.blocks import blocks_of
from scheduler.cost.work import gemm_waves, makes_scalars, reads_scalars, route_work, vector_cycles

__all__ = ["Clock", "VectorClock"]

_TWO_OPERANDS = (VectorOp.MUL, VectorOp.ROTATE, VectorOp.ADD)


@dataclass(frozen=True, slots=True)
class _Job:
    """An instruction of the vector unit, taken up in cycle `start`: what the next one may have to wait for.

    `low` to `high` are the combine rows that it writes (none: `high` is below), `scalars` those that it writes from
    `first` on, one in `pace` cycles. `alone`: nothing runs beside it.
    """

    start: int
    low: int
    high: int
    first: int
    scalars: int
    pace: float
    alone: bool


class VectorClock:
    """When the vector unit takes up its instructions, one after the other, and when each is complete.

    An instruction begins to read rows while the one before drains, but waits for what the two have in common.

    Attributes
    ----------
    free : int
        First cycle in which the next instruction could ask for a row, if it had to wait for nothing.
    done : int
        First cycle in which what the last instruction posts can be taken.
    """

    def __init__(self, config: MachineConfig) -> None:
        b = blocks_of(config)
        self.free = 0
        self.done = 0
        self._pause = b.add_pause
        self._gap = b.vector_next + b.vector_issue - 1
        told = b.vector_done + b.vector_post + b.posted
        self._row_drain = b.row_write + told
        self._scalar_drain = b.scalar_write + told
        self._last = _Job(0, 0, -1, 0, 0, 1.0, False)
        self._before = 0  # when the one before the last one is complete

    def add_route(self, fields: Mapping[str, int], ready: int = 0) -> tuple[int, int, int]:
        """Take up a ROUTE; parameters and result as of :meth:`add`."""
        get = fields.get
        tokens = get("tokens", 0)
        cycles = route_work(tokens, get("choices", 0), get("experts", 0), tokens)
        start = max(ready, self.free, self._before + 1, self.done)
        return self._take(cycles, False, _Job(start, 0, -1, 0, 0, 1.0, True))

    def add(self, fields: Mapping[str, int], ready: int = 0) -> tuple[int, int, int]:
        """Take up a VECTOR.

        Parameters
        ----------
        fields : mapping of str to int
            Its fields; those that are not there are zero.
        ready : int
            The cycle in which its waits are granted.

        Returns
        -------
        start, end, done : int
            Cycles in which it asks for its first row, has had its last one, and is complete.
        """
        get = fields.get
        op, vectors, rows = int(get("op", 0)), get("vectors", 0), get("rows", 0)  # an enum costs compiled code 100 us
        cycles = vector_cycles(self._pause, op, vectors, rows, get("b_rows", 0), get("length", 0))
        scalars = makes_scalars(op, int(get("sum", 0)))
        start = max(ready, self.free, self._before + 1, self._after_last(fields, cycles))
        low = high = get("dest_base", 0)
        if get("dest_kind", 0) == VectorDest.ROWS:
            high += (vectors - 1) * get("dest_stride", 0) + (0 if op == VectorOp.GATHER else rows - 1)
        else:
            high = low - 1
        job = _Job(start, low, high, get("d_scalar", 0), vectors if scalars else 0, cycles / vectors, False)
        taken = self._take(cycles, scalars, job)
        if op == VectorOp.ADD:
            self.free += self._pause
        return taken

    def _take(self, cycles: int, scalars: bool, job: _Job) -> tuple[int, int, int]:
        end = job.start + cycles
        done = max(end + (self._scalar_drain if scalars else self._row_drain), self.done + 1)
        self._before = self.done
        self._last = job
        self.free, self.done = end + self._gap, done
        return job.start, end, done

    def _after_last(self, fields: Mapping[str, int], cycles: int) -> int:
        """Return the first cycle in which what an instruction reads of the last one is there."""
        last, get = self._last, fields.get
        if last.alone or (last.high >= last.low and self._reads_rows(fields)):
            return self.done
        if not last.scalars:
            return 0
        op, vectors = int(get("op", 0)), get("vectors", 0)
        there = 0
        if reads_scalars(op, int(get("fn", 0)), get("first", 0)):
            span = vectors * (get("length", 0) if op == VectorOp.GATHER else 1)
            there = self._scalar(get("s_base", 0), span, cycles)
        if op == VectorOp.MAP and get("sum", 0) != VectorSum.NONE and not get("first", 0):
            there = max(there, self._scalar(get("d_scalar", 0), vectors, cycles))
        return there

    def _scalar(self, first: int, count: int, cycles: int) -> int:
        """Return from when on some scalars can be read one after the other as fast as an instruction does."""
        last = self._last
        low, high = max(first, last.first), min(first + count, last.first + last.scalars) - 1
        if low > high:
            return 0
        read = cycles / count
        return max(
            int(last.start + (place - last.first + 1) * last.pace + self._scalar_drain - (place - first) * read)
            for place in (low, high)
        )

    def _reads_rows(self, fields: Mapping[str, int]) -> bool:
        """Return whether the rows from the first to the last that a VECTOR reads overlap those that the last wrote."""
        last, get = self._last, fields.get
        op, more = get("op", 0), get("vectors", 0) - 1
        first = get("a_base", 0)
        if first <= last.high and first + more * get("a_stride", 0) + get("rows", 0) - 1 >= last.low:
            return True
        if op not in _TWO_OPERANDS:
            return False
        first, tables = get("b_base", 0), get("b_rows", 0) * (2 if op == VectorOp.ROTATE else 1)
        return first <= last.high and first + more * get("b_stride", 0) + tables - 1 >= last.low


class Clock:
    """The forecast of a step as it is emitted; it guides the order of emission.

    Attributes
    ----------
    tiers : list of int
        Cycle in which each tier can begin something new.
    """

    def __init__(self, config: MachineConfig) -> None:
        b = blocks_of(config)
        self.tiers = [0] * config.tiers
        self._vector = VectorClock(config)
        self._pass = b.result + b.post + b.posted

    @property
    def vector(self) -> int:
        """Cycle in which the vector unit can begin something new."""
        return self._vector.free

    @property
    def done(self) -> int:
        """Cycle in which what the vector unit was given is complete."""
        return self._vector.done

    def wait(self, cycle: int) -> None:
        """Let the vector unit wait until a cycle."""
        self._vector.free = max(self._vector.free, cycle)

    def add_vector(self, fields: Mapping[str, int]) -> None:
        """Let the vector unit work on a VECTOR."""
        self._vector.add(fields)

    def add_route(self, fields: Mapping[str, int]) -> None:
        """Let the vector unit work on a ROUTE."""
        self._vector.add_route(fields)

    def add_gemm(self, fields: Mapping[str, int]) -> int:
        """Let a gang's tiers work on a GEMM, not before the vector unit; return when its rows are there."""
        base = fields.get("tier_base", 0)
        tiers = range(base, base + fields["tier_count"])
        start = max(self.done, *(self.tiers[tier] for tier in tiers))
        end = start + gemm_waves(fields["tokens"], fields["k_slices"], fields["n_tiles"])
        for tier in tiers:
            self.tiers[tier] = end
        return end + self._pass
