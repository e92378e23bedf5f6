# SPDX-License-Identifier: Apache-2.0
"""Vector clocks of what waits guarantee: the sets of the reference, and nothing that an execution contradicts."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest

from hdl.isa import Instruction
from scheduler.stream.claims import deadlock, overflows, semaphores_of, settle, stolen
from scheduler.stream.clocks import (
    ASKED,
    BEFORE,
    FIRST,
    GRANT,
    GRANTED,
    GRANTS,
    LOOKED,
    QUEUE_HIGH,
    QUEUE_LOW,
    START,
    UNIT_HIGH,
    UNIT_LOW,
    UNITS,
    Clocks,
    new_clocks,
)
from scheduler.stream.table import Table
from sim.golden.order import settle as old
from sim.golden.order.settle import settle as reference
from tests.sim.golden.order.test_settle import execute, random_program

SEMAPHORES = 64


def settled(program: list[Instruction], tags: list[list[int]]) -> tuple[Clocks, object]:
    """Return clocks and semaphores of a program."""
    rows = Table.of(program).rows
    clocks = new_clocks(len(program), 8 * len(program))
    assert deadlock(rows, clocks, np.zeros(SEMAPHORES, np.int32))[0] < 0
    semaphores = semaphores_of(rows, clocks, SEMAPHORES)
    loads = np.array([load for own in tags for load in own], np.int32)
    settle(rows, clocks, semaphores, loads, np.cumsum([0, *map(len, tags)]).astype(np.int32))
    return clocks, semaphores


def as_sets(program: list[Instruction], clocks: Clocks) -> SimpleNamespace:
    """Return clocks as bit sets of instructions and of completions."""
    steps, entered, completed = clocks.steps, [[] for _ in range(UNITS)], [[] for _ in range(UNITS)]
    owners = []
    for n, instruction in enumerate(program):
        for queue in range(steps[n, QUEUE_LOW], steps[n, QUEUE_HIGH] + 1):
            entered[queue].append(n)
        for unit in range(steps[n, UNIT_LOW], steps[n, UNIT_HIGH] + 1):
            completed[unit].append(int(steps[n, FIRST]) + unit - int(steps[n, UNIT_LOW]))
            owners.append(n)
        if instruction["format"] == 1 and steps[n, QUEUE_HIGH] == 1:  # a PAIR load counts in both engines
            completed[1].append(int(steps[n, FIRST]))

    def sets(clock: np.ndarray, chains: list[list[int]]) -> int:
        return sum(1 << c for c in {c for unit in range(UNITS) for c in chains[unit][: clock[unit]]})

    def of(column: int, chains: list[list[int]]) -> list[int]:
        return [sets(steps[n, column : column + UNITS], chains) for n in range(len(program))]

    ends = clocks.ends[: len(owners)]
    return SimpleNamespace(
        grants_before_wait=of(ASKED, entered), grants_before_grant=of(GRANT, entered),
        before_grant=of(LOOKED, completed), before_start=of(START, completed),
        grants_before_start=[s & ~(1 << n) for n, s in enumerate(of(GRANTED, entered))],
        before=[sets(end[BEFORE : BEFORE + UNITS], completed) for end in ends],
        grants_before=[sets(end[GRANTS : GRANTS + UNITS], entered) for end in ends],
    )  # fmt: skip


@pytest.mark.parametrize("semaphores", [1, 2, 4, 8])
def test_the_sets_are_the_references(semaphores: int) -> None:
    rng, facts = random.Random(semaphores), 0
    for _ in range(60):
        program = random_program(rng, rng.randint(1, 40), semaphores)
        loads = [n for n, i in enumerate(program) if i.opcode == 3]
        tags = [
            sorted(rng.sample([x for x in loads if x < n], min(rng.choice((0, 1, 2)), sum(x < n for x in loads))))
            if program[n].opcode == 5 else []
            for n in range(len(program))
        ]  # fmt: skip
        wanted, (clocks, _) = reference(program, tags), settled(program, tags)
        got = as_sets(program, clocks)
        for name, sets in vars(got).items():
            assert sets == getattr(wanted, name), name
        facts += sum(s.bit_count() for s in got.before_start)
    assert facts > 90


@pytest.mark.parametrize("semaphores", [2, 4, 8])
def test_no_execution_contradicts_the_order(semaphores: int) -> None:
    rng = random.Random(semaphores)
    checked = 0
    for _ in range(60):
        program = random_program(rng, rng.randint(5, 25), semaphores)
        got = as_sets(program, settled(program, [[] for _ in program])[0])
        for _ in range(12):
            checked += execute(program, got, rng, semaphores)
    assert checked > 1_000


def test_thefts_and_overflows_are_the_references() -> None:
    rng, thefts, beyond = random.Random(9), 0, 0
    for _ in range(60):
        program = random_program(rng, 40, 3)
        order, (clocks, semaphores) = reference(program, [[] for _ in program]), settled(program, [[] for _ in program])
        last: dict[int, int] = {}
        wanted = []
        for n, instruction in enumerate(program):
            for semaphore, _ in old.waits_of(instruction):
                if semaphore in last and not order.grants_before_grant[n] >> last[semaphore] & 1:
                    wanted.append((last[semaphore], n, semaphore))
                last[semaphore] = n
        assert stolen(clocks, semaphores) == wanted
        thefts += len(wanted)
        for most in (1, 3, 5, 9):
            found = overflows(clocks, semaphores, most)
            assert found == old.overflows(order, most)
            beyond += len(found)
    assert thefts > 50 and beyond > 100
