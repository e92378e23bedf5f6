# SPDX-License-Identifier: Apache-2.0
"""What the waits of a stream guarantee, whatever the timing.

A wait is granted when its semaphore's counter has reached the count: some posts have been made, but which? The answer
is a *claim*: for every wait a set of posts that surely come first. A claim may be used to prove itself, by induction
over the grants in the order in which they happen: if, before some moment, every grant came after the posts claimed for
it, then everything that happened so far happened in the order that the claim implies; and if in that order the counter
cannot reach the count without a certain post, the next grant comes after that post too. So a claim holds as soon as the
order that it implies is enough to show it. The first claim is that a wait comes after the posts which satisfy it in
program order; what cannot be shown is taken out until the rest can.

Posts of one unit are made in order, so that a set of them is a number: the first so many.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence

from hdl.isa import Instruction, issue_queues
from sim.golden.order.ordering import Ordering, row_completions

__all__ = ["Semaphores", "overflows", "posts_of", "settle", "waits_of"]

MAX_PASSES = 64

Claim = list[list[dict[str, int]]]
"""For each instruction and each of its waits: how many of a unit's posts come first, by unit."""


def waits_of(instruction: Instruction) -> list[tuple[int, int]]:
    """Return (semaphore, count) of each wait."""
    pairs = [(instruction[f"wait{n}_sem"], instruction[f"wait{n}_count"]) for n in (0, 1)]
    return [(semaphore, count) for semaphore, count in pairs if count]


def posts_of(instruction: Instruction) -> list[int]:
    """Return the semaphores that each completion posts."""
    return [instruction[f"post{n}_sem"] for n in (0, 1) if instruction[f"post{n}_en"]]


class Semaphores:
    """The waits and posts of a stream.

    Parameters
    ----------
    instructions : sequence of Instruction
        The stream.

    Attributes
    ----------
    chains : dict of int to dict of str to list of int
        For each semaphore and unit, the completions that post it, in order.
    waiters : dict of int to dict of str to list of (int, int)
        For each semaphore and queue, the waits for it in order: instruction, and the sum of counts up to it.
    """

    def __init__(self, instructions: Sequence[Instruction]) -> None:
        self.instructions = instructions
        self.waits = [waits_of(i) for i in instructions]
        self.chains: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        self.waiters: dict[int, dict[str, list[tuple[int, int]]]] = defaultdict(lambda: defaultdict(list))
        completion = 0
        for number, instruction in enumerate(instructions):
            for semaphore, count in self.waits[number]:
                queue = self.waiters[semaphore][issue_queues(instruction)[0]]
                queue.append((number, count + (queue[-1][1] if queue else 0)))
            for units in row_completions(instruction):
                for semaphore in posts_of(instruction):
                    self.chains[semaphore][units[0]].append(completion)
                completion += 1

    def in_program_order(self) -> Claim:
        """Return the claim that every wait comes after the posts that satisfy it in program order."""
        posted: dict[int, list[str]] = defaultdict(list)
        taken: dict[int, int] = defaultdict(int)
        used: dict[int, dict[str, int]] = defaultdict(dict)
        claim: Claim = []
        for number, instruction in enumerate(self.instructions):
            claim.append([])
            for semaphore, count in self.waits[number]:
                first = taken[semaphore]
                taken[semaphore] += count
                for unit in posted[semaphore][first : taken[semaphore]]:
                    used[semaphore][unit] = used[semaphore].get(unit, 0) + 1
                claim[-1].append(dict(used[semaphore]))
            for units in row_completions(instruction):
                for semaphore in posts_of(instruction):
                    posted[semaphore].append(units[0])
        return claim

    def order(self, claim: Claim, tag_loads: Sequence[Sequence[int]]) -> Ordering:
        """Return the order that a claim implies."""
        order = Ordering()
        for number, instruction in enumerate(self.instructions):
            waited = [
                self.chains[semaphore][unit][many - 1]
                for (semaphore, _), made in zip(self.waits[number], claim[number], strict=True)
                for unit, many in made.items()
                if many
            ]
            order.add(instruction, waited, tag_loads[number])
        return order

    def shown(self, order: Ordering) -> Claim:
        """Return what can be shown when everything that has happened so far happened in `order`."""
        claim: Claim = []
        for number, waits in enumerate(self.waits):
            granted = order.grants_before_wait[number]
            claim.append([self._without(order, number, semaphore, count, granted) for semaphore, count in waits])
        return claim

    def taken(self, semaphore: int, granted: int) -> int:
        """Return what the waits of a bit set of instructions have taken from a semaphore."""
        return sum(_total(queue, granted) for queue in self.waiters[semaphore].values())

    def _without(self, order: Ordering, waiter: int, semaphore: int, count: int, granted: int) -> dict[str, int]:
        """Return the posts, by unit, without which `count` cannot be reached before the waiter is granted."""
        # What earlier waits have surely taken has been posted too.
        needed = count + self.taken(semaphore, granted)
        # Posts that may come before the grant: not those that follow it.
        possible = {
            unit: bisect_left(chain, True, key=lambda post: bool(order.grants_before[post] >> waiter & 1))
            for unit, chain in self.chains[semaphore].items()
        }
        spare = sum(possible.values()) - needed
        return {unit: many - spare for unit, many in possible.items() if many > spare}


def _total(queue: Sequence[tuple[int, int]], granted: int) -> int:
    """Return the sum of counts of a queue's waits that are in the bit set `granted`, which are the first ones."""
    many = bisect_left(queue, True, key=lambda wait: not granted >> wait[0] & 1)
    return queue[many - 1][1] if many else 0


def settle(instructions: Sequence[Instruction], tag_loads: Sequence[Sequence[int]]) -> Ordering:
    """Return the order that queues, semaphores and tags guarantee.

    Parameters
    ----------
    instructions : sequence of Instruction
        A stream whose waits find their posts in program order.
    tag_loads : sequence of sequences of int
        For each GEMM the loads whose last tile it reads by tag.
    """
    semaphores = Semaphores(instructions)
    claim = semaphores.in_program_order()
    order = semaphores.order(claim, tag_loads)
    for _ in range(MAX_PASSES):
        shown = semaphores.shown(order)
        fewer = [[_both(a, b) for a, b in zip(old, new, strict=True)] for old, new in zip(claim, shown, strict=True)]
        if fewer == claim:
            break
        claim = fewer
        order = semaphores.order(claim, tag_loads)
    else:
        claim = [[{} for _ in waits] for waits in semaphores.waits]  # nothing: this needs no proof
        order = semaphores.order(claim, tag_loads)
        shown = semaphores.shown(order)
    # The claim holds. So does all that it shows, and so on.
    for _ in range(MAX_PASSES):
        if shown == claim:
            break
        claim = shown
        order = semaphores.order(claim, tag_loads)
        shown = semaphores.shown(order)
    return order


def overflows(order: Ordering, most: int) -> list[tuple[int, int]]:
    """Return the semaphores that may count beyond `most`, each with the first instruction that may make it.

    Parameters
    ----------
    order : Ordering
        Of the stream, as :func:`settle` returns it.
    most : int
        What a counter can hold.
    """
    semaphores, found = Semaphores(order.instructions), []
    for semaphore, chains in semaphores.chains.items():
        total = sum(map(len, chains.values()))
        for post in sorted(p for chain in chains.values() for p in chain) if total > most else ():
            later = sum(_not_before(order, chain, post) for chain in chains.values())
            if total - (later - 1) - semaphores.taken(semaphore, order.grants_before[post]) > most:
                found.append((semaphore, order.owner[post][0]))
                break
    return found


def _not_before(order: Ordering, chain: Sequence[int], post: int) -> int:
    """Return how many completions of one unit are `post` or come after it."""
    return len(chain) - bisect_left(chain, True, key=lambda other: bool(order.before[other] >> post & 1))


def _both(a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
    return {unit: min(many, b[unit]) for unit, many in a.items() if unit in b}
