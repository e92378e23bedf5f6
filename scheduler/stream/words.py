# SPDX-License-Identifier: Apache-2.0
"""What the proof of a stream found, in words."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from hdl.config import MachineConfig
from hdl.isa import Instruction, Opcode, StoreFormat
from hdl.isa.legality import (
    Limits,
    beats,
    check_load_addresses,
    load_groups,
    load_item_bytes,
    store_span,
    store_step,
)
from hdl.isa.slots import has_two_addresses, slot_load, slot_loads
from scheduler.stream.alone import (
    CHANGED_LIST,
    EXPERT,
    IN_PLACE,
    NO_HIGH,
    NO_ROUTE,
    OPERAND_B,
    OUTSIDE,
    OWN_READS,
    SCALARS,
    STORED,
    TWICE,
    WRONG_SLOT,
    WRONG_TAG,
)
from scheduler.stream.blocks import KINDS
from scheduler.stream.clocks import Clocks, done_before
from scheduler.stream.machine import SPACES, Machine
from scheduler.stream.races import CELL, EARLIER, EARLIER_KIND, LATER, LATER_KIND, MEMORY, WHERE, Races
from scheduler.stream.table import COL, Table

__all__ = ["what_is_wrong", "what_races"]

_KIND = {NO_ROUTE: "illegal", EXPERT: "illegal", WRONG_SLOT: "miss", WRONG_TAG: "miss", NO_HIGH: "miss"}


def what_is_wrong(
    table: Table, found: npt.NDArray[np.int64], config: MachineConfig, limits: Limits
) -> Iterator[tuple[str, int, str]]:
    """Yield kind, instruction and message of what :func:`scheduler.stream.alone.examine` found."""
    for code, number, *more in found.tolist():
        yield (
            _KIND.get(code, "race"),
            number,
            _sentence(_instruction(table, number), code, number, more, config, limits),
        )


def _instruction(table: Table, number: int) -> Instruction:
    (instruction,) = Table(table.rows[number : number + 1]).instructions()
    return instruction


def _sentence(
    instruction: Instruction, code: int, number: int, more: list[int], config: MachineConfig, limits: Limits
) -> str:
    first, second, third = more
    name = f"instruction {number} ({instruction.opcode.name})"
    if code == EXPERT:
        wrong = check_load_addresses(slot_load(instruction, first), config, limits)
        if wrong is None and has_two_addresses(instruction):
            wrong = check_load_addresses(slot_load(instruction, first, high_only=True), config, limits)
        assert wrong is not None
        return f"instruction {number}, expert {first}: {wrong.code.name}: {wrong.message}"
    if code == WRONG_TAG:
        has = "no valid fill" if third < 0 else f"tag {third}"
        return f"{name} needs tag {instruction['tag']} in tile {second} of tier {first}, which has {has}"
    if code == NO_HIGH:
        has, what = "no valid fill" if third < 0 else f"tag {third}", f"a low plane with tag {instruction['tag']}"
        return f"{name} adds {what} to tile {second} of tier {first}, which has {has}"
    return {
        OUTSIDE: f"{name}: it {KINDS[first % 3]}s beyond the {SPACES[first // 3 % 7]} memory through its token list",
        TWICE: f"{name}: two of its rows overwrite the same {SPACES[first % 7]} cell",
        OWN_READS: f"{name}: it writes {SPACES[first % 7]} words that it also reads",
        IN_PLACE: f"{name}: it writes rows that it also reads, other than in place",
        OPERAND_B: f"{name}: it writes rows of its operand B",
        SCALARS: f"{name}: it writes scalars that it also reads, other than in place",
        CHANGED_LIST: f"instruction {number} loads a token list from memory that the stream stores: not checkable",
        STORED: f"instruction {number} loads from memory that the stream stores, by whichever engine its slot's "
        "importance decides: not checkable",
        NO_ROUTE: f"{name} has a slot that no ROUTE before it in the stream writes: not checkable",
        WRONG_SLOT: f"{name} needs tile {second} of tier {first}, which is filled only if slot {third} is not empty: "
        "use the same slot, and no ROUTE that writes it between",
    }[code]


def what_races(
    table: Table, races: Races, clocks: Clocks, config: MachineConfig, machine: Machine
) -> Iterator[tuple[int, int, str]]:
    """Yield both instructions and message of each race that :func:`scheduler.stream.races.find_races` found."""
    begins = (
        machine.vcache, machine.activation, machine.lists, machine.parameter, machine.combine, machine.scalar,
        machine.slots,
    )  # fmt: skip
    memory = _Memory(table, clocks, config)
    for race in races:
        later, space = int(race[LATER]), int(race[WHERE])
        if space == MEMORY:
            pairs = list(memory.races(later))
        else:
            kinds = KINDS[race[LATER_KIND]], KINDS[race[EARLIER_KIND]]
            what = f"{kinds[0]}s {SPACES[space]} cell {race[CELL] - begins[space]} after its {kinds[1]}"
            pairs = [(int(race[EARLIER]), what)]
        for earlier, what in pairs:
            names = " and ".join(Opcode(int(table.rows[n, COL.opcode])).name for n in (earlier, later))
            yield earlier, later, f"instructions {earlier} and {later} ({names}) race: {later} {what} by {earlier}"


class _Memory:
    """Which instructions touch the same bytes of memory."""

    def __init__(self, table: Table, clocks: Clocks, config: MachineConfig) -> None:
        self._table = table
        self._clocks = clocks
        self._config = config
        opcodes = table.rows[:, COL.opcode]
        self._routes = np.flatnonzero(opcodes == Opcode.ROUTE)
        self._spans: dict[Opcode, npt.NDArray[np.int64]] = {}

    def races(self, number: int) -> Iterator[tuple[int, str]]:
        """Yield the latest earlier instruction that meets each span of an instruction, if that is a race, and how."""
        load = self._table.rows[number, COL.opcode] == Opcode.LOAD
        text = "reads memory that was stored" if load else "overwrites memory that is loaded"
        earlier = self._all(Opcode.STORE if load else Opcode.LOAD)
        earlier = earlier[earlier[:, 0] < number]
        for span in self._of(number):
            _, group, begin, end, _, _ = span
            near = earlier[(earlier[:, 1] == group) & (earlier[:, 2] < end) & (earlier[:, 3] > begin)]
            gaps, whole = (near, span) if load else (np.array([span]), None)
            first, last = (whole[2], whole[3]) if whole else (near[:, 2], near[:, 3])
            # The first run that ends after the whole span begins must begin before that ends, and exist.
            start, stop, step, width = gaps[:, 2], gaps[:, 3], gaps[:, 4], gaps[:, 5]
            run = start + np.maximum((first - start - width) // step + 1, 0) * step
            meets = near[(run < last) & (run < stop)]
            if len(meets) and not done_before(self._clocks, number, int(meets[-1, 0]), -1):
                yield int(meets[-1, 0]), f"{text} (group {group}, byte {max(int(meets[-1, 2]), begin):#x})"

    def _all(self, opcode: Opcode) -> npt.NDArray[np.int64]:
        if opcode not in self._spans:
            numbers = np.flatnonzero(self._table.rows[:, COL.opcode] == opcode).tolist()
            spans = [span for number in numbers for span in self._of(number)]
            self._spans[opcode] = np.array(spans, dtype=np.int64).reshape(-1, 6)
        return self._spans[opcode]

    def _of(self, number: int) -> list[tuple[int, int, int, int, int, int]]:
        """Return instruction, group, begin, end, step and width of each span of an instruction."""
        instruction, config = _instruction(self._table, number), self._config
        if instruction.opcode == Opcode.STORE:
            if instruction["format"] == StoreFormat.DISCARD:
                return []
            width, step = store_step(instruction, config)
            start, end = store_span(instruction, config)
            return [(number, instruction["group"], start, end, step, width)]
        loads = [instruction]
        if instruction["slot_en"]:
            before, slot = self._routes[self._routes < number], instruction["slot"]
            first, many = (self._table.rows[before, column] for column in (COL.slot_base, COL.experts))
            own = many[(first <= slot) & (slot < first + many)]
            experts = int(own[-1]) if own.size else config.expert_slots
            loads = slot_loads(instruction, experts)
        size = beats(instruction["count"] * load_item_bytes(instruction, config), config) * config.group_bytes
        return [(number, group, at, at + size, size, size) for load in loads for group, at in load_groups(load)]
