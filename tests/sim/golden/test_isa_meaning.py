# SPDX-License-Identifier: Apache-2.0
"""The programs on the instruction pages do what the executor does: random streams leave the same in every memory."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hdl.config import PRESETS
from hdl.emit.isa_pages import PAGES
from hdl.isa import Instruction, Opcode, maker_tiers, tiers_of_mask
from hdl.isa.encoding import fields_of
from hdl.numerics import requant, round_shift, saturate, sigmoid_q16, swiglu, wrap
from hdl.numerics.vector import exp2_q15, float_scale, recip, rsqrt
from sim.golden import executor
from sim.golden.executor import Executor
from sim.golden.state import MachineState
from sim.stimulus.streams import StreamOptions, random_stream

PAGE_FOLDER = Path(__file__).resolve().parents[3] / "docs" / "isa"
MEMORIES = ("vcache", "tags", "activation", "lists", "parameters", "combine", "scalars", "slots", "semaphores")
NANO = PRESETS["nano"]
GANGS = NANO.replace(name="gangs", tiers=3, rows=8, columns=4, row_fifo_depth=64)
"""More than one tier, and rows twice the columns."""


class Fields:
    """An instruction as the pages write it."""

    def __init__(self, instruction: Instruction) -> None:
        self._forms = {field.name: field for field in fields_of(instruction.opcode)}
        self._instruction = instruction

    def __getattr__(self, name: str) -> Any:
        field, value = self._forms[name], self._instruction[name]
        if field.enum is not None:
            return field.enum(value).name
        if field.form == "tiers":
            return tiers_of_mask(value)
        return value - (value >> field.width - 1 << field.width) if field.form == "signed" else value


def integers(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of NumPy as one of integers."""

    def own(*given: Any) -> Any:
        result = function(*(int(value) for value in given))
        return tuple(int(part) for part in result) if isinstance(result, tuple) else int(result)

    return own


NUMERICS = (requant, round_shift, saturate, sigmoid_q16, swiglu, wrap, exp2_q15, float_scale, recip, rsqrt)
NAMES: dict[str, Any] = {each.__name__: integers(each) for each in NUMERICS} | {
    "int16": lambda value: (value & 0xFFFF ^ 0x8000) - 0x8000,
    "pack": lambda low, high: low & 0xFFFF | (high & 0xFFFF) << 16,
}


def program_of(opcode: Opcode) -> Callable[[MachineState, Fields], None]:
    """Return the function on an opcode's page."""
    name = opcode.name.lower()
    (text,) = re.findall(r"^```python\n(.*?)^```$", (PAGE_FOLDER / f"{name}.md").read_text(), re.MULTILINE | re.DOTALL)
    space = NAMES.copy()
    exec(compile(text, f"docs/isa/{name}.md", "exec"), space)
    function = space[name]
    assert callable(function)

    def run(machine: MachineState, fields: Fields) -> None:
        space.update(R=machine.config.rows, C=machine.config.columns)
        function(machine, fields)

    return run


def handler(opcode: Opcode) -> Callable[[MachineState, Instruction, int], int]:
    """Return a page's program in the form of the executor's."""
    program = program_of(opcode)

    def execute(machine: MachineState, instruction: Instruction, pc: int) -> int:
        program(machine, Fields(instruction))
        if opcode == Opcode.GEMM:
            return len(maker_tiers(instruction))
        return int(opcode not in (Opcode.NOP, Opcode.END))

    return execute


@pytest.mark.parametrize("config", [NANO, GANGS], ids=lambda config: config.name)
def test_programs_of_the_pages(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    met: set[Opcode] = set()
    for seed in range(15):
        stream = random_stream(config, seed, options=StreamOptions.everything(slots=True))
        met |= {each.opcode for each in stream.instructions}
        own, other = (Executor(config, stream.images, stream.limits) for _ in range(2))
        own.run(stream.instructions)
        with monkeypatch.context() as patch:
            for opcode in Opcode:
                patch.setitem(executor.HANDLERS, opcode, handler(opcode))  # type: ignore[arg-type]
            other.run(stream.instructions)
        for group in range(2):
            assert np.array_equal(own.memory[group], other.memory[group]), (seed, group)
        for name in MEMORIES:
            assert np.array_equal(getattr(own, name), getattr(other, name)), (seed, name)
    assert met >= {opcode for opcode in Opcode if opcode != Opcode.NOP}


def test_a_wrong_program_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GEMM that makes rows of one more leaves other bytes."""
    monkeypatch.setitem(NAMES, "requant", lambda *given: min(127, int(requant(*given)) + 1))
    wrong, differ = handler(Opcode.GEMM), []
    for seed in range(2):
        stream = random_stream(NANO, seed, options=StreamOptions.everything(slots=True))
        own, other = (Executor(NANO, stream.images, stream.limits) for _ in range(2))
        own.run(stream.instructions)
        with monkeypatch.context() as patch:
            patch.setitem(executor.HANDLERS, Opcode.GEMM, wrong)  # type: ignore[arg-type]
            other.run(stream.instructions)
        differ += [seed for group in range(2) if not np.array_equal(own.memory[group], other.memory[group])]
    assert differ


def test_all_pages_have_a_program() -> None:
    assert all(callable(program_of(opcode)) for opcode in PAGES.values() if opcode is not None)
