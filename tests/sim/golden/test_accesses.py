# SPDX-License-Identifier: Apache-2.0
"""What an opcode is said to read and write is what its instructions read and write: found by changing memories."""

from __future__ import annotations

import copy
from collections import defaultdict

import numpy as np
import numpy.typing as npt

from hdl.config import PRESETS
from hdl.isa import OPCODES, Instruction, Memory, Opcode
from sim.golden.executor import HANDLERS, Executor
from sim.golden.state import ExecutionError
from sim.stimulus.streams import StreamOptions, random_stream

TINY = PRESETS["tiny"].replace(name="access", vcache_tiles=64, combine_rows=128, activation_words=128)
SEEDS = 16
PATTERN = {1: 0x2B, 2: 0x2A55, 4: 0x0001_2A55}
"""What words of some bytes are changed by."""


def arrays(machine: Executor, memory: Memory) -> list[npt.NDArray[np.generic]]:
    """Return the arrays that hold a memory's contents."""
    one = {
        Memory.VCACHE: machine.vcache,
        Memory.ACTIVATION: machine.activation,
        Memory.LIST: machine.lists,
        Memory.PARAMETER: machine.parameters,
        Memory.COMBINE: machine.combine,
        Memory.SCALAR: machine.scalars,
        Memory.SLOTS: machine.slots,
    }
    return list(machine.memory) if memory == Memory.EXTERNAL else [one[memory]]


def change(machine: Executor, memory: Memory) -> None:
    """Change every word of a memory."""
    for array in arrays(machine, memory):
        if memory == Memory.SLOTS:
            array[...] = 0  # all slots empty
        else:
            array[...] ^= np.array(PATTERN[array.itemsize]).astype(array.dtype)


def run(machine: Executor, instruction: Instruction) -> bool:
    """Execute an instruction; return whether it worked."""
    try:
        HANDLERS[instruction.opcode](machine, instruction, 0)
    except ExecutionError:
        return False
    return True


def test_accesses_are_what_instructions_do() -> None:
    reads: dict[Opcode, set[Memory]] = defaultdict(set)
    writes: dict[Opcode, set[Memory]] = defaultdict(set)
    for seed in range(SEEDS):
        stream = random_stream(TINY, seed, 40, StreamOptions.everything(slots=True))
        machine = Executor(TINY, stream.images, stream.limits)
        for instruction in stream.instructions:
            before = copy.deepcopy(machine)
            run(machine, instruction)
            opcode = instruction.opcode
            for memory in Memory:
                pairs = zip(arrays(before, memory), arrays(machine, memory), strict=True)
                if any((old != new).any() for old, new in pairs):
                    writes[opcode].add(memory)
                if memory not in reads[opcode] and _depends(before, machine, instruction, memory):
                    reads[opcode].add(memory)
    for opcode, about in OPCODES.items():
        assert writes[opcode] == {a.memory for a in about.accesses if a.kind in ("write", "add")}, opcode.name
        assert reads[opcode] == {a.memory for a in about.accesses if a.kind in ("read", "add")}, opcode.name


def _depends(before: Executor, after: Executor, instruction: Instruction, changed: Memory) -> bool:
    """Return whether an instruction does something else when a memory had other contents."""
    other = copy.deepcopy(before)
    change(other, changed)
    start = copy.deepcopy(other)
    if not run(other, instruction):
        return True
    for memory in Memory:
        quartets = zip(*(arrays(m, memory) for m in (before, after, start, other)), strict=True)
        for old, new, other_old, other_new in quartets:
            # Either the same result, or not written in both.
            same = (new == other_new) | ((old == new) & (other_old == other_new))
            if not same.all():
                return True
    return False
