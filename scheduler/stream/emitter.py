# SPDX-License-Identifier: Apache-2.0
"""Emits instructions in program order with what they are for; semaphores come by themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hdl.config import MachineConfig
from hdl.isa import Instruction, LoadDest, Opcode, StoreFormat, VectorOp
from hdl.isa.legality import gang_tiers
from scheduler.cost.cycle_model import ROW
from scheduler.cost.vector_timing import VectorTiming
from scheduler.plan.chip import Chip
from scheduler.stream.sync import Synchroniser

__all__ = ["Clock", "Emitter", "Label"]

Images = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]


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


class Clock:
    """A rough forecast of when the vector unit and the tiers come to what is emitted; it guides the order of emission.

    Attributes
    ----------
    vector : int
        Cycle in which the vector unit can begin something new.
    tiers : list of int
        The same for each tier.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.tiers = [0] * config.tiers
        self._vector = VectorTiming()
        self._pass = config.rows + ROW

    @property
    def vector(self) -> int:
        return self._vector.free

    @property
    def done(self) -> int:
        """Cycle in which what the vector unit was given is complete."""
        return self._vector.done

    def wait(self, cycle: int) -> None:
        """Let the vector unit wait until a cycle."""
        self._vector.free = max(self._vector.free, cycle)

    def add_vector(self, instruction: Instruction) -> None:
        """Let the vector unit work on a VECTOR or ROUTE."""
        self._vector.add(instruction)

    def add_gemm(self, instruction: Instruction) -> int:
        """Let the gang's tiers work on an instruction, not before the vector unit; return when its rows are there."""
        tiers = gang_tiers(instruction)
        start = max(self.done, *(self.tiers[tier] for tier in tiers))
        end = start + instruction["tokens"] * instruction["k_slices"] * instruction["n_tiles"]
        for tier in tiers:
            self.tiers[tier] = end
        return end + self._pass


class Emitter:
    """Collects a step's instructions.

    Parameters
    ----------
    chip : Chip
        Where a spare combine row and scalar lie: carriers of waits use them.
    images : tuple of two uint8 arrays
        The groups' memories; token lists must be there when their loads are emitted.
    """

    def __init__(self, chip: Chip, images: Images) -> None:
        self._chip = chip
        self.config: MachineConfig = chip.shape.config
        self.layer = -1
        self.labels: list[Label] = []
        self.clock = Clock(self.config)
        self._sync = Synchroniser(self.config, images, self._carrier)

    def _carrier(self, queue: str) -> dict[str, int]:
        """Return a harmless instruction of a queue; it takes the waits that another has no room for."""
        spare = self._chip.rows["attention"]["spare"]
        if queue == "store":
            return {"format": StoreFormat.DISCARD, "row_base": spare + 2, "rows": 1}
        if queue == "vector":
            scalar = self._chip.scalars["attention"]["spare"]
            return {"op": VectorOp.MAX, "first": 1, "vectors": 1, "rows": 1, "a_base": spare + 2, "d_scalar": scalar}
        group = int(queue == "load1")
        return {"dest_kind": LoadDest.ROWS, "dest_base": spare + group, "count": 1, "group": group}

    def _emit(self, opcode: Opcode, operation: str, fields: dict[str, int]) -> None:
        number = self._sync.emit(opcode, **fields)
        label = Label(self.layer, operation)
        self.labels += [label] * (number + 1 - len(self.labels))  # a carrier belongs to what it carries for

    def load(self, operation: str, **fields: int) -> None:
        """Emit a LOAD."""
        self._emit(Opcode.LOAD, operation, fields)

    def store(self, operation: str, **fields: int) -> None:
        """Emit a STORE."""
        self._emit(Opcode.STORE, operation, fields)

    def gemm(self, operation: str, **fields: int) -> int:
        """Emit a GEMM; return the cycle in which its rows are expected."""
        self._emit(Opcode.GEMM, operation, fields)
        return self.clock.add_gemm(Instruction(Opcode.GEMM, fields))

    def vector(self, operation: str, **fields: int) -> None:
        """Emit a VECTOR."""
        self._emit(Opcode.VECTOR, operation, fields)
        self.clock.add_vector(Instruction(Opcode.VECTOR, fields))

    def route(self, operation: str, **fields: int) -> None:
        """Emit a ROUTE."""
        self._emit(Opcode.ROUTE, operation, fields)
        self.clock.add_vector(Instruction(Opcode.ROUTE, fields))

    def finish(self) -> tuple[Instruction, ...]:
        """Return all instructions with their semaphores, END included."""
        self.labels.append(Label(-1, "end"))
        return (*self._sync.instructions(), Instruction(Opcode.END, {}))
