# SPDX-License-Identifier: Apache-2.0
"""What is known to happen before what in a stream, whatever the timing: queues, semaphores and fill tags.

Each instruction has a *grant* (its waits are satisfied), a *start*, and one or more *completions* (the moments at which
it posts: one for a load, a store, a VECTOR or a ROUTE, one per tier that makes rows for a GEMM). The facts used:

- instructions of one queue are granted in order; a gang's waits are granted in its leader's queue, and only its start
  comes after the starts of what precedes it in the queues of the followers;
- a gang with a slot reads the table from its leader's grant on: before its start, and maybe before instructions that
  precede it in the queues of the followers;
- completions of one load engine, of the store unit, of the vector unit and of one row-making tier happen in order; of a
  `scored` PAIR load engine 0 posts, whichever of them reads, so that it is in the order of engine 0's completions only,
  and its data come in no order with those of other loads;
- a completion comes after its instruction's start, and so after every completion that the grant waited for;
- a GEMM that reads the last tile of a load by its tag completes after the load (not those with a slot, which may be
  skipped).

Sets are Python integers used as bit sets, so that streams of thousands of instructions are cheap.
"""

from __future__ import annotations

from collections.abc import Iterable

from hdl.isa import Format, Instruction, Opcode, issue_queues, maker_tiers

__all__ = ["Ordering", "reads_by_importance", "row_completions"]


def row_completions(instruction: Instruction) -> tuple[tuple[str, ...], ...]:
    """Return, for each completion of an instruction, the in-order units that it belongs to."""
    if instruction.opcode == Opcode.GEMM:
        return tuple((f"tier{tier}",) for tier in maker_tiers(instruction))
    queues = issue_queues(instruction)
    if reads_by_importance(instruction):
        return (queues[:1],)
    return (queues,) if queues else ()


def reads_by_importance(instruction: Instruction) -> bool:
    """Return whether either engine may read all of a PAIR load: its slot's importance decides."""
    return bool(instruction.opcode == Opcode.LOAD and instruction["scored"] and instruction["format"] == Format.PAIR)


class Ordering:
    """Grows with the stream, one instruction at a time in program order.

    Attributes
    ----------
    instructions : list of Instruction
        What was added.
    completions : list of list of int
        Completion numbers of each instruction.
    owner : list of (int, str)
        Instruction number and unit (``tier2``, ``load0``, ...) of each completion.
    grants_before_wait : list of int
        Bit set of the instructions whose grant precedes each instruction's by the order of its queues alone.
    before_grant, before_start : list of int
        Bit sets of the completions that precede each instruction's grant, and its start.
    grants_before_grant : list of int
        Bit set of the instructions whose grant precedes each instruction's grant.
    grants_before_start : list of int
        Bit set of the instructions whose grant precedes each instruction's start.
    before : list of int
        Bit set of the completions that precede each completion, itself included.
    grants_before : list of int
        Bit set of the instructions whose grant precedes each completion.
    """

    def __init__(self) -> None:
        self.instructions: list[Instruction] = []
        self.completions: list[list[int]] = []
        self.owner: list[tuple[int, str]] = []
        self.grants_before_wait: list[int] = []
        self.before_grant: list[int] = []
        self.before_start: list[int] = []
        self.grants_before_grant: list[int] = []
        self.grants_before_start: list[int] = []
        self.before: list[int] = []
        self.grants_before: list[int] = []
        self._last_issue: dict[str, int] = {}
        self._last_completion: dict[str, int] = {}

    def preview(self, instruction: Instruction, waited: Iterable[int] = ()) -> tuple[int, int]:
        """Return (completions, grants) that would precede the start of an instruction added now."""
        return self._past(issue_queues(instruction), waited)

    def preview_grant(self, instruction: Instruction, waited: Iterable[int] = ()) -> tuple[int, int]:
        """Return (completions, grants) that would precede the grant of an instruction added now."""
        queues = issue_queues(instruction)
        return self._past(queues[:1] if instruction.opcode == Opcode.GEMM else queues, waited)

    def _past(self, queues: Iterable[str], waited: Iterable[int]) -> tuple[int, int]:
        done, granted = 0, 0
        for queue in queues:
            if queue in self._last_issue:
                last = self._last_issue[queue]
                done |= self.before_start[last]
                granted |= self.grants_before_start[last] | 1 << last
        for completion in waited:
            done |= self.before[completion]
            granted |= self.grants_before[completion]
        return done, granted

    def add(self, instruction: Instruction, waited: Iterable[int] = (), tag_loads: Iterable[int] = ()) -> int:
        """Add an instruction and return its number.

        Parameters
        ----------
        instruction : Instruction
            What is added.
        waited : iterable of int
            Completions that its semaphore waits guarantee.
        tag_loads : iterable of int
            Numbers of the loads whose last tile it reads by tag.
        """
        number = len(self.instructions)
        self.grants_before_wait.append(self.preview_grant(instruction)[1])
        waited = list(waited)
        done, granted = self.preview(instruction, waited)
        asked, granted_first = self.preview_grant(instruction, waited)
        self.before_grant.append(asked)
        self.grants_before_grant.append(granted_first)
        self.instructions.append(instruction)
        self.before_start.append(done)
        self.grants_before_start.append(granted)
        for load in tag_loads:
            for completion in self.completions[load]:
                done |= self.before[completion]
                granted |= self.grants_before[completion]
        numbers = []
        for units in row_completions(instruction):
            completion = len(self.owner)
            past, grants = done | 1 << completion, granted | 1 << number
            for unit in units:
                if unit in self._last_completion:
                    last = self._last_completion[unit]
                    past |= self.before[last]
                    grants |= self.grants_before[last]
            self.owner.append((number, units[0]))
            self.before.append(past)
            self.grants_before.append(grants)
            numbers.append(completion)
            for unit in units:
                self._last_completion[unit] = completion
        self.completions.append(numbers)
        for queue in issue_queues(instruction):
            self._last_issue[queue] = number
        return number

    def done_before(self, done: int, number: int, tier: int | None = None) -> bool:
        """Return whether instruction `number` (of a GEMM: in `tier`, when given) is among the completions `done`."""
        for completion in self.completions[number]:
            matters = tier is None or len(self.completions[number]) == 1 or self.owner[completion][1] == f"tier{tier}"
            if matters and not done >> completion & 1:
                return False
        return True
