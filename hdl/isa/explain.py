# SPDX-License-Identifier: Apache-2.0
"""Says in plain words what each instruction of a stream does: shapes, bytes, multiply-accumulates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hdl.config import MachineConfig
from hdl.isa.asm import disassemble
from hdl.isa.fields import Instruction
from hdl.isa.registry import OPCODES

__all__ = ["describe", "explain"]


def describe(instruction: Instruction, config: MachineConfig) -> str:
    """Return one sentence on what an instruction does, with its semaphores."""
    text = OPCODES[instruction.opcode].explain(instruction, config)
    for n in (0, 1):
        if instruction[f"wait{n}_count"]:
            text += f"; waits for {instruction[f'wait{n}_count']} of semaphore {instruction[f'wait{n}_sem']}"
    for n in (0, 1):
        if instruction[f"post{n}_en"]:
            text += f"; posts semaphore {instruction[f'post{n}_sem']}"
    return text


def explain(
    instructions: Iterable[Instruction], config: MachineConfig, symbols: Mapping[tuple[int, int], str] | None = None
) -> str:
    """Return a stream as assembler text with a comment of plain words above each instruction, and totals at the end."""
    lines = []
    totals = {"instructions": 0, "bytes loaded": 0, "bytes stored": 0, "MACs": 0, "vector rows": 0}
    for number, instruction in enumerate(instructions):
        lines += [f"; {number}: {describe(instruction, config)}", disassemble(instruction, symbols)]
        work = OPCODES[instruction.opcode].work(instruction, config)
        for name, amount in (
            ("instructions", 1),
            ("bytes loaded", work.bytes_loaded),
            ("bytes stored", work.bytes_stored),
            ("MACs", work.macs),
            ("vector rows", work.vector_rows),
        ):
            totals[name] += amount
    if not totals["vector rows"]:
        del totals["vector rows"]
    lines.append("; total: " + ", ".join(f"{value:,} {name}" for name, value in totals.items()))
    return "\n".join(lines) + "\n"
