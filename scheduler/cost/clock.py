# SPDX-License-Identifier: Apache-2.0
"""A rough forecast of when tiers and vector unit come to what is emitted; it costs less than its emission.

The same functions as the cycle model's say how long an instruction takes. What is left out is what only the whole
stream shows: loads, the dispatcher, who shares the banks. Instructions are rows of a table
(:mod:`scheduler.stream.table`), so that compiled loops which emit can ask as well.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hdl.config import MachineConfig
from hdl.isa import Format, LoadDest, VectorDest, VectorOp, VectorSum
from scheduler.cost.blocks import blocks_of
from scheduler.cost.work import (
    gemm_waves,
    load_cycles,
    load_steps,
    makes_scalars,
    reads_scalars,
    route_work,
    vector_cycles,
)  # fmt: skip
from scheduler.stream.compiled import compiled
from scheduler.stream.table import COL, Rows

__all__ = ["DONE", "FREE", "MEMORY_LATENCY", "Clock", "State", "take_gemm", "take_load", "take_loads", "take_vector"]

State = npt.NDArray[np.int64]
"""Shape [TIERS + tiers]: the forecast."""

FREE, DONE, START, BEFORE, LOW, HIGH, FIRST, SCALARS, CYCLES, VECTORS, ALONE = range(11)
"""Places in `State`: first cycle in which the vector unit's next instruction could ask for a row, if it had to wait for
nothing; first one in which what the last instruction posts can be taken; of the last instruction the first cycle in
which it asks for a row, when the one before it is complete, and what the next one may have to wait for: `LOW` to `HIGH`
are the combine rows that it writes (none: `HIGH` is below), `SCALARS` those that it writes from `FIRST` on, in `CYCLES`
for `VECTORS` vectors; `ALONE`: nothing runs beside it."""

PAUSE, GAP, ROW_DRAIN, SCALAR_DRAIN, TELL, PASS, ROWS, COLUMNS, GROUP_BYTES, LOAD_PASS, LEAD = range(11, 22)
"""Places of what depends on the machine alone."""

LOADS = 22
"""Place of the cycle in which the first load engine's data side can begin something new; the other's follows."""

MEMORY_LATENCY = 40
"""Cycles that a load's first bytes take, by the forecast."""

LOAD_LEAD = 300
"""Cycles by which loads run ahead of the vector unit: they leave the dispatcher earlier."""

TIERS = 24
"""Place of the cycle in which the first tier can begin something new; those of the others follow."""


def _new_state(config: MachineConfig) -> State:
    """Return the forecast of a machine that has had nothing to do."""
    b = blocks_of(config)
    state = np.zeros(TIERS + config.tiers, np.int64)
    tell = b.vector_post + b.posted
    told = b.vector_done + tell
    state[PAUSE], state[GAP] = b.add_pause, b.vector_next + b.vector_issue - 1
    state[ROW_DRAIN], state[SCALAR_DRAIN] = b.row_write + told, b.scalar_write + told
    state[TELL] = tell - 2  # what a VECTOR need not wait for that reads what the one before makes
    state[PASS] = b.result + b.post + b.posted
    state[HIGH], state[VECTORS] = -1, 1
    state[ROWS], state[COLUMNS], state[GROUP_BYTES] = config.rows, config.columns, config.group_bytes
    state[LOAD_PASS] = load_cycles(b, MEMORY_LATENCY, LoadDest.ACTIVATION, Format.BYTES, 1) - 1
    state[LEAD] = LOAD_LEAD
    return state


@compiled
def _scalar(state: State, first: int, count: int, cycles: int) -> int:
    """Return from when on some scalars can be read one after the other as fast as an instruction does."""
    begin = state[FIRST]
    low, high = max(first, begin), min(first + count, begin + state[SCALARS]) - 1
    if low > high:
        return 0
    read, pace, there = cycles / count, state[CYCLES] / state[VECTORS], 0
    for place in (low, high):
        at = int(state[START] + (place - begin + 1) * pace + state[SCALAR_DRAIN] - state[TELL] - (place - first) * read)
        there = max(there, at)
    return there


@compiled
def _reads_rows(state: State, rows: Rows, n: int) -> bool:
    """Return whether the rows from the first to the last that a VECTOR reads overlap those that the last one wrote."""
    op, more = rows[n, COL.op], rows[n, COL.vectors] - 1
    first = rows[n, COL.a_base]
    if first <= state[HIGH] and first + more * rows[n, COL.a_stride] + rows[n, COL.rows] - 1 >= state[LOW]:
        return True
    if op != VectorOp.MUL and op != VectorOp.ROTATE and op != VectorOp.ADD:
        return False
    first, tables = rows[n, COL.b_base], rows[n, COL.b_rows] * (2 if op == VectorOp.ROTATE else 1)
    return bool(first <= state[HIGH] and first + more * rows[n, COL.b_stride] + tables - 1 >= state[LOW])


@compiled
def _after_last(state: State, rows: Rows, n: int, cycles: int) -> int:
    """Return the first cycle in which what a VECTOR reads of the last one is there."""
    if state[ALONE] or (state[HIGH] >= state[LOW] and _reads_rows(state, rows, n)):
        return int(state[DONE] - state[TELL])
    if not state[SCALARS]:
        return 0
    op, vectors, there = rows[n, COL.op], rows[n, COL.vectors], 0
    if reads_scalars(op, rows[n, COL.fn], rows[n, COL.first]):
        span = vectors * (rows[n, COL.length] if op == VectorOp.GATHER else 1)
        there = _scalar(state, rows[n, COL.s_base], span, cycles)
    if op == VectorOp.MAP and rows[n, COL.sum] != VectorSum.NONE and not rows[n, COL.first]:
        there = max(there, _scalar(state, rows[n, COL.d_scalar], vectors, cycles))
    return there


@compiled
def _take(state: State, start: int, cycles: int, drain: int) -> None:
    done = max(start + cycles + drain, state[DONE] + 1)
    state[BEFORE], state[START] = state[DONE], start
    state[FREE], state[DONE] = start + cycles + state[GAP], done


@compiled
def take_vector(state: State, rows: Rows, n: int, ready: int) -> None:
    """Take up the VECTOR in row `n`, whose waits are granted in cycle `ready`.

    It begins to read rows while the one before drains, but waits for what the two have in common.
    """
    op, vectors, height = rows[n, COL.op], rows[n, COL.vectors], rows[n, COL.rows]
    cycles = vector_cycles(state[PAUSE], op, vectors, height, rows[n, COL.b_rows], rows[n, COL.length])
    scalars = makes_scalars(op, rows[n, COL.sum])
    start = max(ready, state[FREE], state[BEFORE] + 1, _after_last(state, rows, n, cycles))
    _take(state, start, cycles, state[SCALAR_DRAIN] if scalars else state[ROW_DRAIN])
    low = rows[n, COL.dest_base]
    state[LOW], state[HIGH] = low, low - 1
    if rows[n, COL.dest_kind] == VectorDest.ROWS:
        state[HIGH] = low + (vectors - 1) * rows[n, COL.dest_stride] + (0 if op == VectorOp.GATHER else height - 1)
    state[FIRST], state[SCALARS] = rows[n, COL.d_scalar], vectors if scalars else 0
    state[CYCLES], state[VECTORS], state[ALONE] = cycles, vectors, 0
    if op == VectorOp.ADD:
        state[FREE] += state[PAUSE]


@compiled
def _take_route(state: State, rows: Rows, n: int, ready: int) -> None:
    """Take up the ROUTE in row `n`, whose waits are granted in cycle `ready`."""
    cycles = route_work(rows, n, rows[n, COL.tokens])
    _take(state, max(ready, state[FREE], state[BEFORE] + 1, state[DONE]), cycles, state[ROW_DRAIN])
    state[LOW], state[HIGH], state[FIRST], state[SCALARS] = 0, -1, 0, 0
    state[CYCLES], state[VECTORS], state[ALONE] = 1, 1, 1


@compiled
def take_load(state: State, rows: Rows, n: int, ready: int) -> int:
    """Let load engines work on the LOAD in row `n`, whose place is free in cycle `ready`; return when it is done."""
    steps = load_steps(
        state[ROWS], state[COLUMNS], state[GROUP_BYTES], rows[n, COL.dest_kind], rows[n, COL.format],
        rows[n, COL.count],
    )  # fmt: skip
    pair = rows[n, COL.format] == Format.PAIR
    low, high = (LOADS, LOADS + 1) if pair else (LOADS + rows[n, COL.group], LOADS + rows[n, COL.group])
    end = max(state[low], state[high], ready - state[LEAD]) + steps
    state[low], state[high] = end, end
    return int(end + state[LOAD_PASS])


@compiled
def take_loads(state: State, rows: Rows, first: int, end: int, ready: int) -> int:
    """Do the same with the LOADs in rows `first` to `end` - 1; return when the last one is done."""
    done = ready
    for n in range(first, end):
        done = take_load(state, rows, n, ready)
    return done


@compiled
def take_gemm(state: State, rows: Rows, n: int, ready: int) -> int:
    """Let a gang's tiers work on the GEMM in row `n`, not before cycle `ready`; return when its rows are there."""
    begin = TIERS + rows[n, COL.tier_base]
    start = ready
    for tier in range(begin, begin + rows[n, COL.tier_count]):
        start = max(start, state[tier])
    end = start + gemm_waves(rows[n, COL.tokens], rows[n, COL.k_slices], rows[n, COL.n_tiles])
    for tier in range(begin, begin + rows[n, COL.tier_count]):
        state[tier] = end
    return int(end + state[PASS])


@compiled
def _take_gemms(state: State, rows: Rows, first: int, end: int, ready: int) -> int:
    """Do the same with the GEMMs in rows `first` to `end` - 1; return when the last one's rows are there."""
    done = ready
    for n in range(first, end):
        done = take_gemm(state, rows, n, ready)
    return done


class Clock:
    """The forecast of a step as it is emitted; it guides the order of emission.

    Attributes
    ----------
    state : State
        For compiled loops.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.state = _new_state(config)

    @property
    def tiers(self) -> list[int]:
        """Cycle in which each tier can begin something new."""
        return self.state[TIERS:].tolist()  # type: ignore[no-any-return]

    @property
    def vector(self) -> int:
        """Cycle in which the vector unit can begin something new."""
        return int(self.state[FREE])

    @property
    def done(self) -> int:
        """Cycle in which what the vector unit was given is complete."""
        return int(self.state[DONE])

    def wait(self, cycle: int) -> None:
        """Let the vector unit wait until a cycle."""
        self.state[FREE] = max(self.vector, cycle)

    def add_vector(self, rows: Rows, n: int) -> None:
        """Let the vector unit work on the VECTOR in row `n`."""
        take_vector(self.state, rows, n, 0)

    def add_route(self, rows: Rows, n: int) -> None:
        """Let the vector unit work on the ROUTE in row `n`."""
        _take_route(self.state, rows, n, 0)

    def add_loads(self, rows: Rows, first: int, end: int) -> int:
        """Let load engines work on the LOADs in rows `first` to `end` - 1; return when the last one is done."""
        return int(take_loads(self.state, rows, first, end, self.vector))

    def add_gemm(self, rows: Rows, n: int, ready: int | None = None, tokens: int | None = None) -> int:
        """Let a gang's tiers work on the GEMM in row `n`; return when its rows are there.

        It begins in cycle `ready` or later; without one, when the vector unit is done. With a slot, `tokens` are those
        that can be expected.
        """
        row = rows[n : n + 1]
        if tokens is not None:
            row = row.copy()
            row[0, COL.tokens] = tokens
        return take_gemm(self.state, row, 0, self.done if ready is None else ready)

    def add_gemms(self, rows: Rows, first: int, end: int) -> int:
        """Let gangs work on the GEMMs in rows `first` to `end` - 1 when the vector unit is done.

        Returns the cycle in which the last one's rows are there.
        """
        return int(_take_gemms(self.state, rows, first, end, self.done))

    @property
    def loads(self) -> int:
        """Cycle in which both load engines can begin something new."""
        return int(max(self.state[LOADS : LOADS + 2]))
