# SPDX-License-Identifier: Apache-2.0
"""The instruction executor: what a stream does, one instruction at a time in program order, in NumPy.

It knows nothing of time. The machine runs its queues concurrently; for a stream whose hazards are ordered by
semaphores and tags (``scheduler.stream.prove`` proves that) memory ends up byte for byte as this model leaves it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from hdl.isa import (
    INSTRUCTION_BITS,
    TWO_OPERANDS,
    Instruction,
    Opcode,
    VectorDest,
    VectorOp,
    Violation,
    a_rows,
    b_rows,
    c_rows,
    dest_bytes,
    dest_rows,
    read_word,
    row_count,
    scalars_read,
    scalars_written,
    tiers_of_mask,
)
from hdl.isa.asm import split_words, to_binary
from hdl.isa.error_codes import ErrorCode
from sim.golden.gemm import execute_gemm
from sim.golden.route import execute_route, load_of_slot
from sim.golden.state import DeadlockError, ExecutionError, MachineState, UninitialisedError
from sim.golden.transfer import execute_load, execute_store
from sim.golden.vector import VectorRangeError, execute_vector

__all__ = ["DeadlockError", "ExecutionError", "Executor", "RunReport", "UninitialisedError"]


@dataclass(frozen=True)
class RunReport:
    """What a run left behind beside memory.

    Attributes
    ----------
    instructions : int
        Instructions executed, END included.
    semaphores_left : dict of int to int
        Semaphores that are not zero at END, with their counts: a hint of a post that nobody waited for.
    """

    instructions: int
    semaphores_left: dict[int, int]


class Executor(MachineState):
    """The machine's state, and its instructions."""

    def run(self, stream: bytes | Iterable[Instruction]) -> RunReport:
        """Execute a stream up to its END; on-chip memories keep their contents from earlier runs.

        Raises
        ------
        ExecutionError
            What the machine reports; a stream without END runs into zero words (ILLEGAL_OPCODE).
        DeadlockError
            A wait that is not satisfied in program order.
        """
        words = split_words(stream if isinstance(stream, bytes) else to_binary(stream))
        self.semaphores[:] = 0
        pc = 0
        while True:
            word = words[pc] if pc < len(words) else bytes(INSTRUCTION_BITS // 8)
            try:
                if self.step(word, pc):
                    break
            except ExecutionError:
                self.tags[:] = -1  # the soft reset sweeps the tags; memories stay
                self.slots[:] = 0
                raise
            pc += 1
        left = {int(s): int(self.semaphores[s]) for s in np.flatnonzero(self.semaphores)}
        return RunReport(pc + 1, left)

    def step(self, word: bytes, pc: int) -> bool:
        """Execute one instruction; return True for END."""
        instruction = read_word(word, self.config, self.limits)
        if isinstance(instruction, Violation):
            raise ExecutionError(instruction.code, pc, instruction.address, instruction.message)
        self.counters["instructions"] += 1
        self._wait(instruction, pc)
        self._post(instruction, pc, HANDLERS[instruction.opcode](self, instruction, pc))
        return instruction.opcode == Opcode.END

    def _wait(self, instruction: Instruction, pc: int) -> None:
        for n in (0, 1):
            semaphore, count = instruction[f"wait{n}_sem"], instruction[f"wait{n}_count"]
            if count and self.semaphores[semaphore] < count:
                raise DeadlockError(
                    f"instruction {pc} ({instruction.opcode.name}) waits for {count} of semaphore {semaphore}, which "
                    f"holds {self.semaphores[semaphore]}: nothing before it in the stream posts the rest"
                )
            if count:
                self.semaphores[semaphore] -= count

    def _post(self, instruction: Instruction, pc: int, times: int) -> None:
        for n in (0, 1):
            if instruction[f"post{n}_en"]:
                semaphore = instruction[f"post{n}_sem"]
                self.semaphores[semaphore] += times
                if self.semaphores[semaphore] >> self.config.semaphore_bits:
                    most = (1 << self.config.semaphore_bits) - 1
                    raise ExecutionError(ErrorCode.SEMAPHORE, pc, 0, f"semaphore {semaphore} counts beyond {most}")


def _load(machine: MachineState, instruction: Instruction, pc: int) -> int:
    load = load_of_slot(machine, instruction, pc)
    if load is None:
        machine.counters["loads_left_out"] += 1
        return 1
    machine.counters["loads_reduced"] += load["format"] != instruction["format"]
    execute_load(machine, load, pc)
    return 1


def _store(machine: MachineState, instruction: Instruction, pc: int) -> int:
    execute_store(machine, instruction, pc)
    return 1


def _route(machine: MachineState, instruction: Instruction, pc: int) -> int:
    execute_route(machine, instruction, pc)
    return 1


def _vector(machine: MachineState, instruction: Instruction, pc: int) -> int:
    if machine.strict:
        machine.need("combine row", pc, None, a_rows(instruction))
        if instruction["op"] in TWO_OPERANDS:
            machine.need("combine row", pc, None, b_rows(instruction))
        if instruction["op"] == VectorOp.ROTATE:
            machine.need("combine row", pc, None, c_rows(instruction))
        machine.need("scalar", pc, None, scalars_read(instruction))
    try:
        execute_vector(instruction, machine.config, machine.combine, machine.scalars, machine.activation)
    except VectorRangeError as error:
        raise ExecutionError(ErrorCode.RANGE, pc, 0, str(error)) from None
    machine.known["scalar"][scalars_written(instruction)] = True
    if instruction["dest_kind"] == VectorDest.ROWS:
        machine.known["combine row"][dest_rows(instruction)] = True
    elif instruction["dest_kind"] == VectorDest.ACTIVATION:
        words, places = dest_bytes(instruction, machine.config)
        for tier in tiers_of_mask(instruction["dest_tiers"]):
            machine.known["activation byte"][tier, words, places] = True
    machine.counters["vector_rows"] += row_count(instruction)
    return 1


HANDLERS: Mapping[Opcode, Callable[[MachineState, Instruction, int], int]] = {
    Opcode.NOP: lambda machine, instruction, pc: 0,
    Opcode.END: lambda machine, instruction, pc: 0,
    Opcode.LOAD: _load,
    Opcode.STORE: _store,
    Opcode.GEMM: execute_gemm,
    Opcode.VECTOR: _vector,
    Opcode.ROUTE: _route,
}
"""What executes the instructions of each opcode: given the machine and the instruction's index, returns its posts."""
