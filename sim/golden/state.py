# SPDX-License-Identifier: Apache-2.0
"""The state of the modelled machine, and the errors with which the executor stops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hdl.config import MachineConfig
from hdl.errors import A3dError
from hdl.isa import Limits
from hdl.isa.error_codes import ErrorCode

__all__ = ["DeadlockError", "ExecutionError", "MachineState", "UninitialisedError"]


class ExecutionError(A3dError):
    """The machine would stop with an error code.

    Attributes
    ----------
    code : ErrorCode
        Value of the error register.
    pc : int
        Index of the instruction in its stream.
    address : int
        Memory address in bytes, 0 when none is involved.
    """

    def __init__(self, code: ErrorCode, pc: int, address: int, message: str) -> None:
        super().__init__(f"instruction {pc}: {code.name}: {message}")
        self.code = code
        self.pc = pc
        self.address = address


class DeadlockError(A3dError):
    """A wait that the instructions before it do not satisfy (the machine's watchdog would fire)."""


class UninitialisedError(A3dError):
    """An instruction reads something that nothing has written (checked in strict mode only)."""


class MachineState:
    """Memories, semaphores and counters of the machine.

    Parameters
    ----------
    config : MachineConfig
        The machine.
    memory : sequence of two bytes-like, optional
        Initial contents of the two groups' memories; copied.
    limits : Limits, optional
        Memory limits; without them, loads may read all of `memory` and stores may write all of it.
    strict : bool
        Raise `UninitialisedError` when on-chip memory is read that was never written.

    Attributes
    ----------
    memory : list of two uint8 arrays
        The groups' memories.
    vcache : int8 array [tiers, vcache_tiles, rows, columns]
        Stationary tiles.
    tags : int16 array [tiers, vcache_tiles]
        Fill tag, or -1 for an invalid tile.
    activation : int8 array [tiers, activation_words, rows]
        Activation buffers.
    lists : uint16 array [tiers, list_depth, 4]
        Token lists: source, dest, gate, flags (bit 0: drop).
    parameters : uint16 array [tiers, parameter_words, columns]
        Requantisation multipliers.
    combine : int32 array [combine_rows, columns]
        Combine buffer.
    scalars : uint32 array [scalar_depth]
        Scalars of the vector unit.
    slots : int64 array [expert_slots, 4]
        Routing table: tokens, first token-list entry, expert, 1 for the high plane only; zeros where a slot is empty.
    semaphores : int64 array [semaphores]
        Counters.
    counters : Counter
        Performance counters by the names of ``hdl.regs``, those that do not depend on time; and ``macs``,
        ``vector_rows`` (rows of operand A, or of ROUTE's gates, that the vector unit took in),
        ``read_bytes_<format>``, ``write_bytes`` (exact bytes, without the rest of a last beat).
    known : dict of str to bool array
        What has been written, by kind of unit; looked at in strict mode only.
    """

    def __init__(
        self,
        config: MachineConfig,
        memory: Sequence[bytes | npt.NDArray[np.uint8]] = (b"", b""),
        limits: Limits | None = None,
        *,
        strict: bool = False,
    ) -> None:
        c = self.config = config
        self.memory = [np.frombuffer(bytes(m), dtype=np.uint8).copy() for m in memory]
        sizes = (self.memory[0].size, self.memory[1].size)
        self.limits = limits or Limits(sizes, ((0, sizes[0]), (0, sizes[1])))
        self.strict = strict
        self.vcache = np.zeros((c.tiers, c.vcache_tiles, c.rows, c.columns), dtype=np.int8)
        self.tags = np.full((c.tiers, c.vcache_tiles), -1, dtype=np.int16)
        self.activation = np.zeros((c.tiers, c.activation_words, c.rows), dtype=np.int8)
        self.lists = np.zeros((c.tiers, c.list_depth, 4), dtype=np.uint16)
        self.parameters = np.zeros((c.tiers, c.parameter_words, c.columns), dtype=np.uint16)
        self.combine = np.zeros((c.combine_rows, c.columns), dtype=np.int32)
        self.scalars = np.zeros(c.scalar_depth, dtype=np.uint32)
        self.slots = np.zeros((c.expert_slots, 4), dtype=np.int64)
        self.semaphores = np.zeros(c.semaphores, dtype=np.int64)
        self.counters: Counter[str] = Counter()
        self.known = {
            "activation byte": np.zeros(self.activation.shape, dtype=bool),
            "list entry": np.zeros(self.lists.shape[:2], dtype=bool),
            "requantisation word": np.zeros(self.parameters.shape[:2], dtype=bool),
            "combine row": np.zeros(self.combine.shape[:1], dtype=bool),
            "scalar": np.zeros(self.scalars.shape, dtype=bool),
        }

    def need(self, what: str, pc: int, tier: int | None, index: Any) -> None:
        """In strict mode, raise `UninitialisedError` unless all of `index` has been written."""
        if not self.strict:
            return
        known = self.known[what] if tier is None else self.known[what][tier]
        if not known[index].all():
            where = "" if tier is None else f" of tier {tier}"
            raise UninitialisedError(f"instruction {pc}: {what}{where} is read but never written")
