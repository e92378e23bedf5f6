# SPDX-License-Identifier: Apache-2.0
"""Puts semaphores into a stream that was written as if instructions ran one after the other.

A lowering emits instructions in program order with nothing but their work. What each touches is known
(:mod:`sim.golden.order.footprint`), and so is what queues and fill tags order by themselves
(:mod:`sim.golden.order.ordering`). For every pair of instructions that conflict and are not ordered yet, the earlier
one gets a post and the later one a wait.

Two kinds of semaphores:

- one for each pair of a completing unit (a tier, a load engine, the stores, the vector unit) and a waiting queue. Posts
  come in order and are taken in order, one at a time, so it never has to be given back;
- a pool for gangs, whose tiers each post. One of these is used again only by a gang that starts after the last wait for
  it was granted, and for a waiter that asks after that.

What comes out is what :func:`sim.golden.order.verify.verify_stream` proves free of races and deadlocks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hdl.config import MachineConfig
from hdl.errors import A3dError
from hdl.isa import Format, Instruction, Opcode
from sim.golden.order.footprint import Footprint, Lists, footprint
from sim.golden.order.hazards import Conflict, HazardTracker
from sim.golden.order.ordering import Ordering, issue_queues, row_completions
from sim.golden.order.settle import overflows, posts_of, settle

__all__ = ["SyncError", "Synchroniser"]

Images = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]
Carrier = Callable[[str], dict[str, int]]
SLOTS = 2
"""Waits, and posts, of an instruction."""
CARRIERS = ("vector", "store", "load0", "load1")
"""Queues that can take a harmless instruction."""
RELAY = "store"
"""Queue of the carriers that wait in the place of GEMMs, whose own queues take none."""


class SyncError(A3dError):
    """A stream that needs more semaphores, waits or posts than the machine has."""


@dataclass(eq=False)
class _Entry:
    opcode: Opcode
    values: dict[str, int]
    waits: list[tuple[int, int]] = field(default_factory=list)
    posts: list[int] = field(default_factory=list)

    def build(self) -> Instruction:
        values = dict(self.values)
        for n, (semaphore, count) in enumerate(self.waits):
            values |= {f"wait{n}_sem": semaphore, f"wait{n}_count": count}
        for n, semaphore in enumerate(self.posts):
            values |= {f"post{n}_sem": semaphore, f"post{n}_en": 1}
        return Instruction(self.opcode, {k: int(v) for k, v in values.items() if v})


class Synchroniser:
    """Collects instructions in program order and orders them.

    Parameters
    ----------
    config : MachineConfig
        The machine.
    images : tuple of two uint8 arrays
        Memories of the groups, from which token lists are read as LIST loads are emitted.
    carrier : callable, optional
        ``carrier(queue)`` returns the fields of a harmless instruction of a queue (``load0``, ``load1``, ``store`` or
        ``vector``); it carries waits that an instruction has no room for. None: such an instruction is an error.
    """

    def __init__(self, config: MachineConfig, images: Images, carrier: Carrier | None = None) -> None:
        self.config = config
        self._images = images
        self._carrier = carrier
        self._order = Ordering()
        self._tracker = HazardTracker(config, self._order)
        self._lists = Lists(config)
        self._entries: list[_Entry] = []
        self._pairs: dict[tuple[str, tuple[str, ...]], int] = {}
        self._pool: dict[int, list[int]] = {}  # semaphore: numbers of the instructions that waited for it
        self._last_posted: dict[int, list[int]] = {}
        self._used = 0
        self._tag_loads: list[list[int]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def emit(self, opcode: Opcode, **values: int) -> int:
        """Add an instruction and return its number.

        Raises
        ------
        SyncError
            The machine has too few semaphores, or another instruction too few posts.
        """
        plain = Instruction(opcode, {k: int(v) for k, v in values.items() if v})
        touched = footprint(plain, self.config, self._lists)
        entry = _Entry(opcode, dict(plain.values))
        queue = _consumer(plain)
        carried = len(queue) == 1 and queue[0] in CARRIERS
        waited: list[int] = []
        open_ = self._open(plain, touched, waited)
        while open_:
            number = self._poster(max(open_, key=lambda c: (c.earlier, c.tier)).earlier)
            if carried and len(entry.waits) == SLOTS:
                self._add_carrier(queue[0], entry.waits)
                entry.waits = []
                waited = []  # the queue's order brings what the carrier waited for
            last = not carried and len(entry.waits) == SLOTS - 1
            if last and self._open(plain, touched, [*waited, *self._order.completions[number]]):
                number = self._relay(plain, touched, waited, entry.waits)
            completions, wait = self._post(number, plain, entry.waits)
            _add_wait(entry.waits, wait)
            waited += completions
            open_ = self._open(plain, touched, waited)
        self._add(entry, plain, waited)
        self._lists.apply(plain, self._images)
        return len(self._entries) - 1

    def _open(self, plain: Instruction, touched: Footprint, waited: Sequence[int]) -> list[Conflict]:
        """Return the conflicts of an instruction that are not ordered when it has waited for some completions."""
        done, _ = self._order.preview(plain, waited)
        return [c for c in self._tracker.conflicts(plain, touched, done) if not c.ordered]

    def instructions(self) -> tuple[Instruction, ...]:
        """Return the stream so far, with waits and posts.

        Raises
        ------
        SyncError
            A unit may run so far ahead of those that wait for it that a counter of ``semaphore_bits`` overflows.
        """
        stream = tuple(entry.build() for entry in self._entries)
        most = (1 << self.config.semaphore_bits) - 1
        posts = Counter[int]()
        for instruction in stream:
            for semaphore in posts_of(instruction):
                posts[semaphore] += len(row_completions(instruction))
        # The proof takes time, and a counter of the usual size has room for all the posts of most steps.
        if max(posts.values(), default=0) > most and overflows(settle(stream, self._tag_loads), most):
            raise SyncError(
                f"semaphores: one may count beyond {most}, the most that semaphore_bits of "
                f"{self.config.semaphore_bits} can hold; raise semaphore_bits, or run fewer tokens in a step"
            )
        return stream

    def _add(self, entry: _Entry, plain: Instruction, waited: Iterable[int]) -> None:
        touched = footprint(plain, self.config, self._lists)
        self._tag_loads.append(self._tracker.tag_loads(touched))
        number = self._order.add(plain, waited, self._tag_loads[-1])
        self._tracker.record(number, touched)
        self._entries.append(entry)
        for semaphore, _ in entry.waits:
            if semaphore in self._pool:
                self._pool[semaphore].append(number)

    def _relay(
        self, plain: Instruction, touched: Footprint, waited: Sequence[int], own: Sequence[tuple[int, int]]
    ) -> int:
        """Let another queue wait for all that an instruction, whose own takes no carriers, has yet to wait for.

        It has some waits of its own, whose semaphores nobody else may take meanwhile. Returns the number of the
        instruction whose completion says so.
        """
        carrier = self._harmless(RELAY)
        waits: list[tuple[int, int]] = []
        reached, relayed = list(waited), list[int]()
        while open_ := self._open(plain, touched, reached):
            worst = max(open_, key=lambda c: (c.earlier, c.tier)).earlier
            if self._order.done_before(self._order.preview(carrier, relayed)[0], worst):
                # The relay's queue has waited for it; a post for it once more would be another's.
                reached += self._order.completions[worst]
                continue
            if len(waits) == SLOTS:
                self._add_carrier(RELAY, waits)
                waits, relayed = [], []
            completions, wait = self._post(self._poster(worst), carrier, [*own, *waits])
            _add_wait(waits, wait)
            reached += completions
            relayed += completions
        return self._add_carrier(RELAY, waits)

    def _harmless(self, queue: str) -> Instruction:
        if self._carrier is None:
            raise SyncError(f"instruction {len(self._entries)}: the semaphores need a carrier in queue {queue}")
        opcode = {"store": Opcode.STORE, "vector": Opcode.VECTOR}.get(queue, Opcode.LOAD)
        return Instruction(opcode, {k: int(v) for k, v in self._carrier(queue).items() if v})

    def _add_carrier(self, queue: str, waits: list[tuple[int, int]]) -> int:
        """Add a harmless instruction to a queue and return its number."""
        carrier = self._harmless(queue)
        waited = [c for s, _ in waits for c in self._last_posted[s]]
        self._add(_Entry(carrier.opcode, dict(carrier.values), waits), carrier, waited)
        return len(self._entries) - 1

    def _post(
        self, number: int, plain: Instruction, waits: Sequence[tuple[int, int]]
    ) -> tuple[list[int], tuple[int, int]]:
        """Make an instruction post to another, which has some waits; return (completions waited for, its next wait)."""
        completions = self._order.completions[number]
        if len(completions) == 1:
            semaphore = self._pair(self._order.owner[completions[0]][1], _consumer(plain))
        else:
            semaphore = self._from_pool(number, plain, [semaphore for semaphore, _ in waits])
        self._entries[number].posts.append(semaphore)
        self._last_posted[semaphore] = list(completions)
        return list(completions), (semaphore, len(completions))

    def _poster(self, earlier: int) -> int:
        """Return the first instruction with a post to spare whose completion comes after all of `earlier`'s."""
        wanted = sum(1 << c for c in self._order.completions[earlier])
        for number in range(earlier, len(self._entries)):
            done = self._order.completions[number]
            if len(self._entries[number].posts) == SLOTS or not done:
                continue
            if number == earlier or (len(done) == 1 and self._order.before[done[0]] & wanted == wanted):
                return number
        for queue in CARRIERS:  # a unit that has come past it already
            ends = (d for d in reversed(range(len(self._order.owner))) if self._order.owner[d][1] == queue)
            last = next(ends, None)
            if last is not None and self._order.before[last] & wanted == wanted:
                return self._add_carrier(queue, [])
        raise SyncError(f"instruction {earlier} has to post to more than {SLOTS} units: split the work differently")

    def _pair(self, unit: str, consumer: tuple[str, ...]) -> int:
        key = (unit, consumer)
        if key not in self._pairs:
            self._pairs[key] = self._new(f"from {unit} to {'+'.join(consumer)}")
        return self._pairs[key]

    def _from_pool(self, number: int, plain: Instruction, taken: Sequence[int]) -> int:
        """Return a semaphore for gang `number` whose earlier waiters can neither take its posts nor lose theirs."""
        surely = self._order.grants_before_start[number] & self._order.preview_grant(plain)
        for semaphore, waiters in self._pool.items():
            if semaphore not in taken and all(surely >> waiter & 1 for waiter in waiters):
                return semaphore
        semaphore = self._new("a gang's results")
        self._pool[semaphore] = []
        return semaphore

    def _new(self, what: str) -> int:
        if self._used == self.config.semaphores:
            raise SyncError(
                f"semaphores: {self.config.semaphores} are not enough ({what} needs another one); raise semaphores"
            )
        self._used += 1
        return self._used - 1


def _add_wait(waits: list[tuple[int, int]], wait: tuple[int, int]) -> None:
    """Add a wait; two for posts of one unit are one for as many as both."""
    for number, (semaphore, count) in enumerate(waits):
        if semaphore == wait[0]:
            waits[number] = semaphore, count + wait[1]
            return
    waits.append(wait)


def _consumer(instruction: Instruction) -> tuple[str, ...]:
    """Return the queue at whose head an instruction waits (a gang: its leader's; a PAIR load: both)."""
    queues = issue_queues(instruction)
    pair = instruction.opcode == Opcode.LOAD and instruction["format"] == Format.PAIR
    return queues if pair else queues[:1]


def summary(entries: Sequence[Instruction]) -> dict[str, int]:
    """Return how many waits and posts a stream has."""
    return {
        "waits": sum(bool(i[f"wait{n}_count"]) for i in entries for n in (0, 1)),
        "posts": sum(bool(i[f"post{n}_en"]) for i in entries for n in (0, 1)),
    }
