# SPDX-License-Identifier: Apache-2.0
"""A program that grows instruction by instruction, with the semaphores that its hazards need."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from hdl.config import MachineConfig
from hdl.isa import Instruction, Limits, Opcode, check_instruction
from hdl.isa.asm import to_binary
from sim.golden.executor import ExecutionError, Executor
from sim.golden.order.footprint import Lists, footprint
from sim.golden.order.hazards import HazardTracker, self_conflict
from sim.golden.order.ordering import Ordering, row_completions

__all__ = ["OrderedProgram", "StuckError", "instruction_of"]

MOST_WAITS = 31
"""Largest count of one wait."""


class StuckError(Exception):
    """The last instructions of a stream found no free semaphore: draw another stream."""


def instruction_of(opcode: Opcode, values: dict[str, int]) -> Instruction:
    """Return an instruction without its zero fields."""
    return Instruction(opcode, {k: v for k, v in values.items() if v})


class OrderedProgram:
    """Collects instructions; whatever two of them share is ordered by semaphores inserted here.

    Parameters
    ----------
    config : MachineConfig
        The machine.
    rng : random.Random
        Source of choices.
    images : list of two uint8 arrays
        Memories at the start.
    limits : Limits
        Memory limits.
    words, rows : int
        Activation words and combine rows of the working set: list-driven accesses beyond it are refused.

    Attributes
    ----------
    instructions : list of Instruction
        The program so far.
    model : Executor
        The state after it.
    finishing : bool
        Set it before the last instructions, for which some semaphores are kept.
    """

    def __init__(
        self,
        config: MachineConfig,
        rng: random.Random,
        images: list[npt.NDArray[np.uint8]],
        limits: Limits,
        words: int,
        rows: int,
    ) -> None:
        self.config = config
        self.random = rng
        self.limits = limits
        self.words = words
        self.rows = rows
        self.order = Ordering()
        self.hazards = HazardTracker(config, self.order)
        self.lists = Lists(config)
        self.instructions: list[Instruction] = []
        # A semaphore is used for one wait at a time: the number of the last waiter, once there was one.
        self.last_waiter: dict[int, int] = {}
        self.reserved = min(config.semaphores // 3, 2 * config.tiers + 4)  # semaphores kept for the last instructions
        self.finishing = False
        self.most = min(MOST_WAITS, (1 << config.semaphore_bits) - 1)  # a semaphore can hold no more
        self.model = Executor(config, images, limits, strict=True)
        # With more words, an address behind a tier's last word is not taken for one of the next tier.
        self.wide = config.replace(activation_words=max(config.activation_words, 1 << 12))

    def must(self, instruction: Instruction) -> None:
        """Append an instruction, or raise `StuckError`."""
        if not self.emit(instruction):
            raise StuckError

    def emit(self, instruction: Instruction) -> bool:
        """Append an instruction if it is legal and can be ordered; return whether it was."""
        if check_instruction(instruction, self.config, self.limits) is not None:
            return False
        if instruction.opcode == Opcode.NOP:
            self.instructions.append(instruction)
            self.order.add(instruction)
            return True
        touched = footprint(instruction, self.config, self.lists)
        if not self._addresses_fit(instruction) or self_conflict(instruction, touched, self.config) is not None:
            return False
        done, asked = self.order.preview(instruction)[0], self.order.preview_grant(instruction)[0]
        needed = {c.earlier for c in self.hazards.conflicts(instruction, touched, done, asked) if not c.ordered}
        needed = {self._poster(number) for number in needed}
        for number in sorted(needed):
            others = [self.order.before[e] for n in needed - {number} for e in self.order.completions[n]]
            if any(all(past >> e & 1 for e in self.order.completions[number]) for past in others):
                needed.discard(number)
        waits = self._connect(instruction, sorted(needed))
        if waits is None:
            return False
        values = dict(instruction.values)
        for n, (semaphore, count) in enumerate(waits):
            values |= {f"wait{n}_sem": semaphore, f"wait{n}_count": count}
        number = len(self.instructions)
        instruction = instruction_of(instruction.opcode, values)
        self.instructions.append(instruction)
        waited = [e for earlier in needed for e in self.order.completions[earlier]]
        self.order.add(instruction, waited, self.hazards.tag_loads(touched))
        self.hazards.record(number, touched)
        for semaphore, _ in waits:
            self.last_waiter[semaphore] = number
        self.lists.apply(instruction, (self.model.memory[0], self.model.memory[1]))
        self._run_model(instruction, number)
        return True

    def _poster(self, number: int) -> int:
        """Return `number`, or when it has no post to spare, a later instruction that completes after it."""
        wanted = self.order.completions[number]
        for later in range(number, len(self.instructions)):
            past = 0
            for completion in self.order.completions[later]:
                past |= self.order.before[completion]
            if all(past >> e & 1 for e in wanted) and not self.instructions[later]["post1_en"]:
                return later
        return number

    def _run_model(self, instruction: Instruction, number: int) -> None:
        self.model.semaphores[:] = MOST_WAITS  # the model is here for memory and tags only
        try:
            self.model.step(to_binary([instruction]), number)
        except ExecutionError as error:
            raise AssertionError(f"the generator made an illegal instruction: {error}") from error

    def _addresses_fit(self, instruction: Instruction) -> bool:
        """Keep list-driven accesses inside the working set."""
        c = self.wide
        for access in footprint(instruction, c, self.lists).accesses:
            if access.space == "combine" and access.cells.size and access.cells.max() >= self.rows:
                return False
            if access.space == "activation" and access.cells.size:
                word = access.cells // (2 * c.rows // c.columns) % c.activation_words
                if word.max() >= 2 * self.words:
                    return False
        return True

    def _connect(self, instruction: Instruction, needed: list[int]) -> list[tuple[int, int]] | None:
        """Post semaphores from the instructions `needed`; return the waits, or None when that is not possible."""
        granted = self.order.preview_grant(instruction)[1]
        if not needed:
            return []
        groups = [needed]
        if len(needed) > 1 and self.random.random() < 0.5:
            cut = self.random.randrange(1, len(needed))
            groups = [needed[:cut], needed[cut:]]
        waits: list[tuple[int, int]] = []
        for group in groups:
            count = sum(len(row_completions(self.instructions[n])) for n in group)
            semaphore = self._free_semaphore(group, [s for s, _ in waits], granted)
            if count > self.most or semaphore is None:
                return None
            if any(self.instructions[n]["post0_en"] and self.instructions[n]["post1_en"] for n in group):
                return None
            waits.append((semaphore, count))
        for group, (semaphore, _) in zip(groups, waits, strict=True):
            for n in group:
                slot = 1 if self.instructions[n]["post0_en"] else 0
                posts = {f"post{slot}_en": 1, f"post{slot}_sem": semaphore}
                self.instructions[n] = replace(self.instructions[n], values={**self.instructions[n].values, **posts})
        return waits

    def _free_semaphore(self, group: Sequence[int], taken: Sequence[int], granted: int) -> int | None:
        """Return a semaphore whose last waiter is granted before the new one, and before any of `group` completes."""
        usable = self.config.semaphores - (0 if self.finishing else self.reserved)
        candidates = [s for s in range(usable) if s not in taken]
        self.random.shuffle(candidates)
        for semaphore in candidates:
            waiter = self.last_waiter.get(semaphore)
            if waiter is None:
                return semaphore
            completions = [e for n in group for e in self.order.completions[n]]
            before = granted >> waiter & 1
            if before and all(self.order.grants_before[e] >> waiter & 1 for e in completions):
                return semaphore
        return None
