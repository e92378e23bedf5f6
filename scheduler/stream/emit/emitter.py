# SPDX-License-Identifier: Apache-2.0
"""Collects instructions in program order with what they are for, and forecasts when units come to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from hdl.config import MachineConfig
from hdl.isa import LoadDest, Opcode, StoreFormat, VectorOp
from scheduler.cost.clock import Clock
from scheduler.plan.places import SPARE_ROWS, SPARE_SCALARS
from scheduler.stream.emit.labels import Labels
from scheduler.stream.table import COLUMNS, Builder, Columns, Rows

__all__ = ["Emitter", "carriers"]


def carriers(config: MachineConfig) -> dict[str, dict[str, int]]:
    """Return a harmless instruction of each queue that can have one; it takes waits that another has no room for."""
    spare, scalar = config.combine_rows - SPARE_ROWS, config.scalar_depth - SPARE_SCALARS
    loads = {
        f"load{group}": {"dest_kind": LoadDest.ROWS, "dest_base": spare + group, "count": 1, "group": group}
        for group in (0, 1)
    }
    return {
        "store": {"format": StoreFormat.DISCARD, "row_base": spare + 2, "rows": 1},
        "vector": {
            "op": VectorOp.MAX, "first": 1, "vectors": 1, "rows": 1, "a_base": spare + 2, "d_scalar": scalar
        },
        **loads,
    }  # fmt: skip


def _token_parts(fields: Mapping[str, int], size: int) -> Iterator[dict[str, int]]:
    """Yield a GEMM's fields for at most `size` of its tokens at a time, of about the same number each."""
    tokens = fields["tokens"]
    count = -(-tokens // size)
    for number in range(count):
        first = number * tokens // count
        part = dict(fields) | {"tokens": (number + 1) * tokens // count - first}
        if fields.get("act_list") or fields.get("dest_list"):
            part["list_base"] = fields.get("list_base", 0) + first
        if not fields.get("act_list"):
            part["act_base"] = fields["act_base"] + first * fields["act_stride"]
        if not fields.get("dest_list"):
            part["dest_base"] = fields["dest_base"] + first * fields["dest_stride"]
        yield part


class Emitter:
    """Collects a step's instructions as if they ran one after the other.

    Parameters
    ----------
    config : MachineConfig
    labels : Labels, optional
    stream : Builder, optional
        Those of the step.
    times_loads : bool
        Whether the forecast knows loads.

    Attributes
    ----------
    layer : int
        Of the instructions that come now.
    labels : Labels
        What marks of instructions mean.
    stream : Builder
        The instructions, without semaphores and END.
    clock : Clock
    most_waves : int
        Most waves of one GEMM, which is cut by tokens else; 0: it does not matter.
    """

    def __init__(
        self, config: MachineConfig, labels: Labels | None = None, stream: Builder | None = None,
        times_loads: bool = True,
    ) -> None:  # fmt: skip
        self.layer = -1
        self.labels = Labels() if labels is None else labels
        self.stream = Builder() if stream is None else stream
        self.clock = Clock(config)
        self.most_waves = 0
        self._times_loads = times_loads

    def _emit(self, opcode: Opcode, operation: str, fields: dict[str, int]) -> int:
        return self.stream.add(opcode, fields, self.labels.mark(self.layer, operation))

    def load(self, operation: str, **fields: int) -> int:
        """Emit a LOAD; return the cycle in which it is expected to be done."""
        number = self._emit(Opcode.LOAD, operation, fields)
        return self.clock.add_loads(self.stream.rows, number, number + 1) if self._times_loads else 0

    def loads(self, operation: str, columns: Mapping[str, npt.NDArray[np.int64]], **fields: int) -> int:
        """Emit LOADs that are alike but for some fields, which `columns` have; return when they are expected."""
        number = self._emit(Opcode.LOAD, operation, fields)
        self.stream.repeat(columns)
        return self.clock.add_loads(self.stream.rows, number, self.stream.count) if self._times_loads else 0

    def loads_like(self, operation: str, pattern: Rows, fields: Columns) -> None:
        """Emit LOADs that differ from a pattern in some columns."""
        number = self.stream.add_like(pattern, fields, self.labels.mark(self.layer, operation))
        if self._times_loads:
            self.clock.add_loads(self.stream.rows, number, self.stream.count)

    def gemms(self, operation: str, columns: Mapping[str, npt.NDArray[np.int64]], **fields: int) -> int:
        """Emit GEMMs that are alike but for some fields, which `columns` have; return when the last one is done.

        Each begins when the vector unit is done.
        """
        if self.most_waves:
            done, names = 0, tuple(columns)
            for values in zip(*(columns[name].tolist() for name in names), strict=True):
                done = self.gemm(operation, **fields, **dict(zip(names, values, strict=True)))
            return done
        number = self._emit(Opcode.GEMM, operation, fields)
        self.stream.repeat(columns)
        return self.clock.add_gemms(self.stream.rows, number, self.stream.count)

    def gemm_like(self, operation: str, pattern: Rows, fields: Columns) -> None:
        """Emit a GEMM that differs from a pattern, one row, in some columns; it begins when the vector unit is done."""
        if self.most_waves:
            values = dict(zip(COLUMNS, pattern[0].tolist(), strict=True))
            values |= {COLUMNS[column]: int(value) for column, value in fields.items()}
            self.gemm(operation, **values)
            return
        number = self.stream.add_like(pattern, fields, self.labels.mark(self.layer, operation))
        self.clock.add_gemm(self.stream.rows, number, None, None)

    def store(self, operation: str, **fields: int) -> None:
        """Emit a STORE."""
        self._emit(Opcode.STORE, operation, fields)

    def gemm(self, operation: str, ready: int | None = None, expected: int | None = None, **fields: int) -> int:
        """Emit a GEMM that can begin in cycle `ready`; return the cycle in which its rows are expected.

        Without `ready` it begins when the vector unit is done. With a slot, `expected` are its tokens.
        """
        whole = not self.most_waves or fields.get("slot_en")  # the machine says how many tokens there are
        size = 0 if whole else self.most_waves // (fields["k_slices"] * fields["n_tiles"])
        if whole or fields["tokens"] <= max(1, size):
            number = self._emit(Opcode.GEMM, operation, fields)
            return self.clock.add_gemm(self.stream.rows, number, ready, expected)
        done = 0
        for part in _token_parts(fields, max(1, size)):
            number = self._emit(Opcode.GEMM, operation, part)
            done = self.clock.add_gemm(self.stream.rows, number, ready, None)
        return done

    def vector(self, operation: str, **fields: int) -> None:
        """Emit a VECTOR."""
        number = self._emit(Opcode.VECTOR, operation, fields)
        self.clock.add_vector(self.stream.rows, number)

    def route(self, operation: str, **fields: int) -> None:
        """Emit a ROUTE."""
        number = self._emit(Opcode.ROUTE, operation, fields)
        self.clock.add_route(self.stream.rows, number)
