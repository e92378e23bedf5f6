# SPDX-License-Identifier: Apache-2.0
"""What waits guarantee: on streams with arbitrary semaphores, no execution contradicts what was concluded."""

from __future__ import annotations

import random

import pytest

from hdl.isa import Instruction, Opcode, issue_queues
from hdl.isa.asm import assemble
from sim.golden.order.ordering import Ordering, row_completions
from sim.golden.order.settle import posts_of, settle, waits_of

LINES = (
    "load dest_tiers=0 count=1", "load dest_tiers=0 count=1 group=1", "load dest_tiers=0 count=1 format=pair",
    "store rows=1 format=discard", "vector vectors=1 rows=1 dest_kind=rows",
    "gemm tokens=1 k_slices=1 n_tiles=1", "gemm tokens=1 k_slices=1 n_tiles=1 tiers=1",
    "gemm tokens=1 k_slices=1 n_tiles=1 tiers=0..1 mapping=n",
    "gemm tokens=1 k_slices=1 n_tiles=1 tiers=0..1 mapping=k",
)  # fmt: skip


def random_program(rng: random.Random, length: int, semaphores: int) -> list[Instruction]:
    """Return instructions whose waits are satisfied in program order and otherwise mean nothing."""
    values = [0] * semaphores
    program = []
    for _ in range(length):
        text = rng.choice(LINES)
        ready = [s for s in range(semaphores) if values[s]]
        waits = rng.sample(ready, min(len(ready), rng.choice((0, 1, 1, 2))))
        for n, semaphore in enumerate(waits):
            count = rng.randint(1, min(values[semaphore], 3))
            values[semaphore] -= count
            text += f" wait{n}_sem={semaphore} wait{n}_count={count}"
        posts = [rng.randrange(semaphores) for _ in range(rng.choice((0, 1, 1, 2)))]
        for n, semaphore in enumerate(posts):
            text += f" post{n}_en=1 post{n}_sem={semaphore}"
        (instruction,) = assemble(text)
        program.append(instruction)
        for semaphore in posts_of(instruction):
            values[semaphore] += len(row_completions(instruction))
    return program


class Violated(Exception):
    pass


def execute(program: list[Instruction], order: Ordering, rng: random.Random, semaphores: int) -> int:
    """Run the queues in a random order, as far as they go; return the number of facts that were checked.

    An instruction is granted at the head of its queues (a gang: of its leader's), starts at the head of all of them,
    which is when it leaves them, and completes at any later time, but in order within each unit.
    """
    queues: dict[str, list[int]] = {}
    units: dict[str, list[int]] = {}
    owner, number_of = [], 0
    for number, instruction in enumerate(program):
        for queue in issue_queues(instruction):
            queues.setdefault(queue, []).append(number)
        for made in row_completions(instruction):
            owner.append((number, made))
            for unit in made:
                units.setdefault(unit, []).append(number_of)
            number_of += 1
    values = [0] * semaphores
    granted, started, completed, checked = 0, 0, 0, 0
    while True:
        moves: list[tuple[str, int]] = []
        for number in {queue[0] for queue in queues.values() if queue}:
            entered = issue_queues(program[number])
            asking = entered[:1] if program[number].opcode == Opcode.GEMM else entered  # the leader asks for its gang
            if granted >> number & 1:
                if all(queues[q][0] == number for q in entered):
                    moves.append(("start", number))
            elif all(queues[q][0] == number for q in asking):
                if all(values[s] >= count for s, count in waits_of(program[number])):
                    moves.append(("grant", number))
        for completion in {unit[0] for unit in units.values() if unit}:
            number, made = owner[completion]
            if started >> number & 1 and all(units[u][0] == completion for u in made):
                moves.append(("complete", completion))
        if not moves:
            return checked
        kind, what = rng.choice(moves)
        if kind == "grant":
            for semaphore, count in waits_of(program[what]):
                values[semaphore] -= count
            if order.grants_before_grant[what] & ~granted or order.before_grant[what] & ~completed:
                raise Violated(f"grant of {what}")
            granted |= 1 << what
        elif kind == "start":
            if order.before_start[what] & ~completed or order.grants_before_start[what] & ~granted:
                raise Violated(f"start of {what}")
            checked += order.before_start[what].bit_count()
            started |= 1 << what
            for queue in issue_queues(program[what]):
                queues[queue].pop(0)
        else:
            number, made = owner[what]
            if order.before[what] & ~(completed | 1 << what) or order.grants_before[what] & ~granted:
                raise Violated(f"completion {what} of {number}")
            completed |= 1 << what
            for semaphore in posts_of(program[number]):
                values[semaphore] += 1
            for unit in made:
                units[unit].pop(0)


@pytest.mark.parametrize("semaphores", [2, 4, 8])
def test_no_execution_contradicts_the_order(semaphores: int) -> None:
    rng = random.Random(semaphores)
    checked = 0
    for _ in range(150):
        program = random_program(rng, rng.randint(5, 25), semaphores)
        order = settle(program, [[] for _ in program])
        for _ in range(12):
            checked += execute(program, order, rng, semaphores)
    assert checked > 3_000  # the order says something


def test_the_executions_do_contradict_wishes() -> None:
    """The same executions find it out when each wait is simply believed to get its posts of program order."""
    rng = random.Random(1)
    wrong = 0
    for _ in range(50):
        program = random_program(rng, 20, 4)
        order, posts = Ordering(), [[] for _ in range(4)]
        for instruction in program:
            waited = []
            for semaphore, count in waits_of(instruction):
                waited += posts[semaphore][:count]
                posts[semaphore] = posts[semaphore][count:]
            number = order.add(instruction, waited)
            for semaphore in posts_of(instruction):
                posts[semaphore] += order.completions[number]
        try:
            for _ in range(12):
                execute(program, order, rng, 4)
        except Violated:
            wrong += 1
    assert wrong > 10


def test_semaphores_used_in_turns_prove_each_other() -> None:
    """Stores and two load engines hand semaphores round; that each post is the next one rests on all the others."""
    text = "load dest_tiers=0 count=1 post=s0\n"
    for turn in range(20):
        other = 1 - turn % 2
        text += f"store rows=1 format=discard wait=s0 post=s{1 + other}\n"
        text += f"load dest_tiers=0 count=1 group={other} wait=s{1 + other} post=s0\n"
    program = assemble(text)
    order = settle(program, [[] for _ in program])
    for number in range(1, len(program)):
        assert order.before_start[number] == (1 << number) - 1


def test_a_post_that_two_queues_wait_for_is_nobodys() -> None:
    text = "load dest_tiers=0 count=1 post=s0\nstore rows=1 format=discard wait=s0\nload dest_tiers=0 count=1 post=s0\n"
    program = assemble(text + "vector vectors=1 rows=1 dest_kind=rows wait=s0")
    order = settle(program, [[] for _ in program])
    assert order.before_start[1] == 1  # one of the posts must be the first
    assert order.before_start[3] == 1 and not order.grants_before_grant[3] >> 1 & 1
