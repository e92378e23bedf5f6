# SPDX-License-Identifier: Apache-2.0
"""Collects instructions in program order with what they are for, and forecasts when units come to them."""

from __future__ import annotations

from dataclasses import dataclass

from hdl.config import MachineConfig
from hdl.isa import LoadDest, Opcode, StoreFormat, VectorOp
from scheduler.cost.clock import Clock
from scheduler.plan.places import SPARE_ROWS, SPARE_SCALARS
from scheduler.stream.table import Builder

__all__ = ["Emitter", "Label", "carriers"]


@dataclass(frozen=True)
class Label:
    """What an instruction does for the model.

    Attributes
    ----------
    layer : int
        Decoder layer; -1 before and after all layers.
    operation : str
        Such as ``qkv``, ``scores``, ``expert 5 up``.
    """

    layer: int
    operation: str

    def __str__(self) -> str:
        """Return one text, as timelines show it."""
        return f"L{self.layer} {self.operation}" if self.layer >= 0 else self.operation


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


class Emitter:
    """Collects a step's instructions as if they ran one after the other.

    Parameters
    ----------
    config : MachineConfig

    Attributes
    ----------
    layer : int
        Of the instructions that come now.
    labels : list of Label
        What each instruction is for.
    stream : Builder
        The instructions, without semaphores and END.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.layer = -1
        self.labels: list[Label] = []
        self.stream = Builder()
        self.clock = Clock(config)
        self._known: dict[tuple[int, str], Label] = {}

    def _emit(self, opcode: Opcode, operation: str, fields: dict[str, int]) -> None:
        key = (self.layer, operation)
        label = self._known.get(key)
        if label is None:
            label = self._known[key] = Label(*key)
        self.labels.append(label)
        self.stream.add(opcode, fields)

    def load(self, operation: str, **fields: int) -> None:
        """Emit a LOAD."""
        self._emit(Opcode.LOAD, operation, fields)

    def store(self, operation: str, **fields: int) -> None:
        """Emit a STORE."""
        self._emit(Opcode.STORE, operation, fields)

    def gemm(self, operation: str, **fields: int) -> int:
        """Emit a GEMM; return the cycle in which its rows are expected."""
        self._emit(Opcode.GEMM, operation, fields)
        return self.clock.add_gemm(fields)

    def vector(self, operation: str, **fields: int) -> None:
        """Emit a VECTOR."""
        self._emit(Opcode.VECTOR, operation, fields)
        self.clock.add_vector(fields)

    def route(self, operation: str, **fields: int) -> None:
        """Emit a ROUTE."""
        self._emit(Opcode.ROUTE, operation, fields)
        self.clock.add_route(fields)
