# SPDX-License-Identifier: Apache-2.0
"""Proves, before a stream runs, that no timing of the machine's queues can change what it computes.

What is checked, statically, on the stream as it is:

- every instruction is legal, and the stream ends with END;
- **no deadlock**: in program order every wait finds its posts, and the waits on one semaphore are granted in program
  order whatever the timing. Then the oldest unfinished instruction can always go on: all that its queues hold before
  it is finished, so it has been dispatched however short the queues are, its posts have been made and nobody else can
  have consumed them, and the loads whose tags it needs are older;
- no semaphore can overflow;
- **no race**: any two instructions that touch the same V-Cache tile, activation word, token-list entry,
  requantisation word, combine row, scalar or memory byte (one of them writing) are ordered by queues, semaphores or
  fill tags;
- a GEMM finds its tiles filled with its tag;
- all of that holds for whatever routing a ROUTE of the stream finds.

Not proved: that the indices which GATHER takes from scalars lie inside its vector (ARGMAX makes them so as long as an
element is left to choose), nor that a ROUTE finds experts among its choices; the machine checks each.

What a semaphore wait guarantees is worked out conservatively (:mod:`scheduler.stream.claims`): of the posts that may
come before it, those without which the count could not be reached. Nothing that is reported as proved depends on
timing; a correct stream that relies on subtler reasoning is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hdl.config import MachineConfig
from hdl.errors import A3dError
from hdl.isa import Opcode
from hdl.isa.legality import Limits
from scheduler.stream.alone import FOUND, examine
from scheduler.stream.blocks import most_blocks
from scheduler.stream.claims import Numbers, deadlock, overflows, semaphores_of, settle, stolen
from scheduler.stream.clocks import Clocks, new_clocks
from scheduler.stream.conflicts import Loads, new_cells
from scheduler.stream.legal import illegal, limits_of, why_illegal
from scheduler.stream.lists import Memory, token_lists
from scheduler.stream.machine import Machine, machine_of
from scheduler.stream.races import find_races
from scheduler.stream.segments import Segments, segments_of
from scheduler.stream.table import COL, Table
from scheduler.stream.touched import Touched, new_touched, touch
from scheduler.stream.words import what_is_wrong, what_races

__all__ = ["Finding", "StreamError", "check", "prove"]

MOST_RACES = 1 << 14
"""Races after which no more are looked for."""


class StreamError(A3dError):
    """A stream that may deadlock, race or stop with an error."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a stream.

    Attributes
    ----------
    kind : str
        ``illegal``, ``deadlock``, ``stolen`` (two waits whose order is open), ``overflow``, ``race`` or ``miss``.
    instructions : tuple of int
        Indices of the instructions at fault.
    message : str
        One line that names them.
    """

    kind: str
    instructions: tuple[int, ...]
    message: str


def check(
    table: Table,
    config: MachineConfig,
    memory: Memory,
    limits: Limits | None = None,
    tags: npt.NDArray[np.int16] | None = None,
) -> None:
    """Raise when :func:`prove` finds anything.

    Raises
    ------
    StreamError
        One line with the first finding and the number of findings.
    """
    findings = prove(table, config, memory, limits, tags)
    if findings:
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        raise StreamError(f"stream: {findings[0].message}{more}")


def prove(
    table: Table,
    config: MachineConfig,
    memory: Memory,
    limits: Limits | None = None,
    tags: npt.NDArray[np.int16] | None = None,
) -> list[Finding]:
    """Return what is wrong with a stream; an empty list is the proof.

    What depends on something that is wrong is not looked at: deadlocks only in a stream of legal instructions, and so
    on. Of races the first few thousand are found.

    Parameters
    ----------
    table : Table
        The stream, END included.
    config : MachineConfig
        The machine.
    memory : Memory
        Where token lists are read from.
    limits : Limits, optional
        Memory limits; default: all that the machine can address.
    tags : int16 array [tiers, vcache_tiles], optional
        Fill tags that an earlier stream left (-1: not valid); default: none.

    Raises
    ------
    ListError
        A load of a list reads bytes that `memory` does not have.
    """
    limits = limits or Limits.whole(config)
    findings = _illegal(table, config, limits)
    if findings:
        return findings
    return _Proof(table, config, memory, limits, tags).findings()


def _illegal(table: Table, config: MachineConfig, limits: Limits) -> list[Finding]:
    findings = []
    for number in illegal(table, config, limits).tolist():
        text = f"instruction {number}: {why_illegal(table, number, config, limits)}"
        findings.append(Finding("illegal", (number,), text))
    ends = np.flatnonzero(table.rows[:, COL.opcode] == Opcode.END).tolist()
    if ends != [len(table) - 1]:
        where = f"at {', '.join(map(str, ends))}" if ends else "nowhere"
        text = f"END stands {where}; a stream of {len(table)} instructions has it once, as the last"
        findings.append(Finding("illegal", tuple(ends), text))
    return findings


class _Proof:
    """The proof of a stream of legal instructions."""

    def __init__(
        self,
        table: Table,
        config: MachineConfig,
        memory: Memory,
        limits: Limits,
        tags: npt.NDArray[np.int16] | None,
    ) -> None:
        self._table = table
        self._rows = table.rows
        self._config = config
        self._memory = memory
        self._limits = limits
        self._tags = np.full(config.tiers * config.vcache_tiles, -1, np.int32)
        if tags is not None:
            self._tags[:] = tags.reshape(-1)
        self._machine: Machine = machine_of(config)
        gangs = self._rows[self._rows[:, COL.opcode] == Opcode.GEMM, COL.tier_count]
        self._clocks: Clocks = new_clocks(len(table), len(table) + int(gangs.sum()))
        self._segments: Segments = segments_of(self._rows, self._machine)

    def findings(self) -> list[Finding]:
        """Return what is wrong."""
        clocks, rows = self._clocks, self._rows
        findings = self._deadlock()
        if findings:
            return findings
        tagged, tagged_at, findings = self._examine()
        if findings:
            return findings
        semaphores = semaphores_of(rows, clocks, self._config.semaphores)
        settle(rows, clocks, semaphores, tagged, tagged_at)
        for earlier, later, semaphore in stolen(clocks, semaphores):
            text = (
                f"instructions {earlier} and {later} both wait for semaphore {semaphore} and nothing orders "
                f"them: either may take the other's posts"
            )
            findings.append(Finding("stolen", (earlier, later), text))
        most = (1 << self._config.semaphore_bits) - 1
        for semaphore, number in overflows(clocks, semaphores, most):
            text = f"semaphore {semaphore} may count beyond {most} at instruction {number}"
            findings.append(Finding("overflow", (number,), text))
        return findings + self._races()

    def _deadlock(self) -> list[Finding]:
        values = np.zeros(self._config.semaphores, np.int32)
        number, semaphore, count = deadlock(self._rows, self._clocks, values)
        if number < 0:
            return []
        text = (
            f"instruction {number} ({Opcode(int(self._rows[number, COL.opcode])).name}) waits for {count} of semaphore "
            f"{semaphore}; the instructions before it leave {values[semaphore]}: deadlock"
        )
        return [Finding("deadlock", (number,), text)]

    def _parts(self) -> Iterator[Touched]:
        """Yield what the instructions touch, part by part: the same arrays each time."""
        lists, touched = token_lists(self._table, self._machine, self._memory), new_touched(self._machine)
        most, end = most_blocks(self._machine), len(self._rows)
        while not touched.part[2] and touched.part[1] < end:
            touch(self._rows, touched.part[1], end, self._machine, lists, most, touched)
            yield touched

    def _examine(self) -> tuple[Loads, Numbers, list[Finding]]:
        """Return the loads that GEMMs wait for by their tags, and what is wrong with instructions on their own."""
        rows, machine, limits = self._rows, self._machine, limits_of(self._limits)
        cells, stamps = new_cells(rows[:0], machine, self._tags), np.zeros(machine.cells + 1, np.int32)
        tagged, found = np.zeros(2 * len(rows) + machine.vcache_tiles, np.int32), np.zeros((64, 5), np.int64)
        tagged_at, progress = np.zeros(len(rows) + 1, np.int32), np.zeros(2, np.int64)
        for touched in self._parts():
            number = touched.part[0]
            while True:
                number = examine(
                    rows, number, machine, limits, touched, self._clocks, cells, self._segments, self._tags, stamps,
                    tagged, tagged_at, found, progress,
                )  # fmt: skip
                if number < 0 or number == touched.part[1]:
                    break
                tagged, found = np.append(tagged, np.zeros_like(tagged)), np.append(found, np.zeros_like(found), axis=0)
            if number < 0:
                break
        self._segments.trees[:] = 0
        words = what_is_wrong(self._table, found[: progress[FOUND]], self._config, self._limits)
        return tagged, tagged_at, [Finding(kind, (number,), text) for kind, number, text in words]

    def _races(self) -> list[Finding]:
        rows, machine = self._rows, self._machine
        cells, races, many = new_cells(rows, machine, self._tags), np.zeros((64, 7), np.int64), np.zeros(1, np.int64)
        for touched in self._parts():
            number = touched.part[0]
            while number < touched.part[1]:
                number = find_races(rows, number, machine, touched, self._clocks, cells, self._segments, races, many)
                if number < touched.part[1]:
                    if len(races) >= MOST_RACES:
                        break
                    races = np.append(races, np.zeros_like(races), axis=0)
            else:
                continue
            break
        words = what_races(self._table, races[: many[0]], self._clocks, self._config, machine)
        return [Finding("race", (earlier, later), text) for earlier, later, text in words]
