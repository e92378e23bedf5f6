# SPDX-License-Identifier: Apache-2.0
"""A stream as one array, a row an instruction and a column a field: what is done to every instruction is fast there."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from hdl.isa import BODIES, INSTRUCTION_BITS, Instruction, IsaError, Opcode, encode, fields_of
from scheduler.stream.compiled import compiled

__all__ = ["COL", "COLUMNS", "Builder", "Columns", "Rows", "Table", "pattern_of", "tops"]

COLUMNS: tuple[str, ...] = tuple(
    dict.fromkeys(field.name for opcode in BODIES for field in fields_of(opcode) if field.name != "reserved")
)
"""Names of the columns: all fields of all opcodes, each once. A field that an opcode does not have is 0."""

COL: Any = namedtuple("COL", COLUMNS)(*range(len(COLUMNS)))
"""Numbers of the columns by name, as constants that compiled functions can use: ``rows[n, COL.tokens]``."""

Rows = npt.NDArray[np.int64]
"""Instructions: shape [instructions, len(COLUMNS)]."""

Columns = dict[int, int | npt.NDArray[np.int64]]
"""Fields of instructions by their columns: one value for all, or one for each."""

_WORDS = INSTRUCTION_BITS // 64
_NUMBER = {name: number for number, name in enumerate(COLUMNS)}


def tops() -> Rows:
    """Return, for each opcode and column, one more than the largest value that can be encoded.

    Returns
    -------
    int64 array [opcodes, len(COLUMNS)]
        1 where an opcode does not have a field; 0 for opcodes that do not exist.
    """
    result = np.zeros((max(Opcode) + 1, len(COLUMNS)), dtype=np.int64)
    for opcode in BODIES:
        result[opcode] = 1
        for field in fields_of(opcode):
            if field.name != "reserved":  # values of an enumeration are all the numbers from its first on
                result[opcode, _NUMBER[field.name]] = 1 << field.width if field.enum is None else max(field.enum) + 1
    return result


def pattern_of(opcode: Opcode, many: int = 1, **fields: int | npt.NDArray[np.int64]) -> Rows:
    """Return `many` instructions with some fields, others 0, for :meth:`Builder.add_like`."""
    rows = np.zeros((many, len(COLUMNS)), np.int64)
    rows[:, COL.opcode] = opcode
    for name, values in fields.items():
        rows[:, _NUMBER[name]] = values
    return rows


def _layout() -> tuple[Rows, Rows, Rows]:
    """Return column and first bit of the fields of all opcodes, where each opcode's begin, and `tops`."""
    fields, begins = [], np.zeros(max(Opcode) + 2, dtype=np.int64)
    for opcode in range(max(Opcode) + 1):
        position = 0
        for field in fields_of(Opcode(opcode)) if opcode in list(Opcode) else ():
            if field.name != "reserved":
                fields.append((_NUMBER[field.name], position))
            position += field.width
        begins[opcode + 1] = len(fields)
    return np.array(fields, dtype=np.int64), begins, tops()


@compiled
def _pack(rows: Rows, fields: Rows, begins: Rows, most: Rows, words: npt.NDArray[np.uint64]) -> int:
    """Encode instructions into words of zeros; return the first one that has a value that does not fit, or -1."""
    for n in range(len(rows)):
        opcode = rows[n, COL.opcode]
        if opcode < 0 or opcode >= len(most):
            return n
        for place in range(begins[opcode], begins[opcode + 1]):
            value, position = rows[n, fields[place, 0]], fields[place, 1]
            if value < 0 or value >= most[opcode, fields[place, 0]]:
                return n
            word, shift = position >> 6, position & 63
            words[n, word] |= np.uint64(value) << np.uint64(shift)
            if shift and value >> (64 - shift):
                words[n, word + 1] |= np.uint64(value >> (64 - shift))
        if begins[opcode] == begins[opcode + 1]:
            return n
    return -1


class Table:
    """A stream.

    Parameters
    ----------
    rows : int64 array [instructions, len(COLUMNS)]
        Field values.
    """

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    @staticmethod
    def of(instructions: Iterable[Instruction]) -> Table:
        """Return the table of some instructions."""
        builder = Builder()
        for instruction in instructions:
            builder.add(instruction.opcode, instruction.values)
        return builder.table()

    def instructions(self) -> tuple[Instruction, ...]:
        """Return the instructions, without the fields that are zero."""
        names = {
            opcode: [f.name for f in fields_of(opcode) if f.name not in ("opcode", "reserved")] for opcode in BODIES
        }
        columns = {opcode: [_NUMBER[name] for name in own] for opcode, own in names.items()}
        result = []
        for row in self.rows:
            opcode = Opcode(int(row[COL.opcode]))
            values = row[columns[opcode]].tolist()
            result.append(Instruction(opcode, {n: v for n, v in zip(names[opcode], values, strict=True) if v}))
        return tuple(result)

    def to_binary(self) -> bytes:
        """Return the 32 bytes of each instruction, one after the other.

        Raises
        ------
        IsaError
            A value that does not fit its field; names the first such instruction.
        """
        words = np.zeros((len(self), _WORDS), dtype=np.uint64)
        number = _pack(self.rows, *_layout(), words)
        if number >= 0:
            row = self.rows[number]
            if int(row[COL.opcode]) not in list(Opcode):
                names = ", ".join(f"{opcode.name}={int(opcode)}" for opcode in Opcode)
                raise IsaError(f"instruction {number}: opcode {row[COL.opcode]} is not defined; use {names}")
            known = {f.name for f in fields_of(Opcode(int(row[COL.opcode])))}
            try:
                encode(
                    Instruction(Opcode(int(row[COL.opcode])), {n: int(row[_NUMBER[n]]) for n in known - {"reserved"}})
                )
            except IsaError as error:
                raise IsaError(f"instruction {number}: {error}") from None
        return words.astype("<u8").tobytes()

    @staticmethod
    def from_binary(data: bytes) -> Table:
        """Return the table of encoded instructions; they must be legal encodings (see :func:`hdl.isa.decode`)."""
        words = np.frombuffer(data, dtype="<u8").reshape(-1, _WORDS)
        rows = np.zeros((len(words), len(COLUMNS)), dtype=np.int64)
        codes = (words[:, 0] & np.uint64(0x3F)).astype(np.int64)
        for opcode in BODIES:
            at = np.flatnonzero(codes == opcode)
            position = 0
            for field in fields_of(opcode):
                word, shift = divmod(position, 64)
                bits = words[at, word] >> np.uint64(shift)
                if shift + field.width > 64:
                    bits = bits | words[at, word + 1] << np.uint64(64 - shift)
                if field.name != "reserved":
                    rows[at, _NUMBER[field.name]] = (bits & np.uint64((1 << field.width) - 1)).astype(np.int64)
                position += field.width
        return Table(rows)


class Builder:
    """Collects instructions in program order, in rows that compiled loops can write as well.

    Attributes
    ----------
    rows : int64 array [room, len(COLUMNS)]
        The instructions, then rows of zeros.
    marks : int64 array [room]
        A number that whoever adds an instruction gives it.
    count : int
        Instructions.
    """

    def __init__(self) -> None:
        self.rows: Rows = np.zeros((64, len(COLUMNS)), np.int64)
        self.marks: npt.NDArray[np.int64] = np.zeros(64, np.int64)
        self.count = 0
        self._known: dict[tuple[str, ...], npt.NDArray[np.intp]] = {}  # the same fields are named again and again

    def __len__(self) -> int:
        return self.count

    @staticmethod
    def of(table: Table) -> Builder:
        """Return a copy of a table that can grow."""
        builder = Builder()
        builder.reserve(len(table) + len(table) // 8 + 64)
        builder.rows[: len(table)] = table.rows
        builder.count = len(table)
        return builder

    def grow(self) -> None:
        """Make room for more; see :meth:`reserve`."""
        self.reserve(len(self.marks) + max(1024, len(self.marks) // 4))

    def reserve(self, room: int) -> None:
        """Make room for at least so many; rows that someone holds are no longer those of the stream then."""
        if room > len(self.marks):
            # In place: the system moves large arrays without a copy, and fresh memory is what costs most.
            self.rows.resize((room, len(COLUMNS)), refcheck=False)
            self.marks.resize(room, refcheck=False)

    def add(self, opcode: Opcode, values: Mapping[str, int], mark: int = 0) -> int:
        """Add an instruction, its fields by name, and return its number."""
        number = self.count
        if number == len(self.marks):
            self.grow()
        names = tuple(values)
        columns = self._known.get(names)
        if columns is None:
            columns = self._known[names] = np.array([_NUMBER[name] for name in names], np.intp)
        row = self.rows[number]
        row[columns] = list(values.values())
        row[COL.opcode] = opcode
        self.marks[number] = mark
        self.count += 1
        return number

    def add_like(self, pattern: Rows, fields: Columns, mark: int = 0) -> int:
        """Add instructions, and return the first one's number.

        Parameters
        ----------
        pattern : int64 array [instructions, len(COLUMNS)]
            They are like these: see :func:`pattern_of`.
        fields : Columns
            What differs from it.
        mark : int
        """
        first, many = self.count, len(pattern)
        self.count += many
        while self.count > len(self.marks):
            self.grow()
        rows = self.rows[first : self.count]
        rows[:] = pattern
        for column, values in fields.items():
            rows[:, column] = values
        self.marks[first : self.count] = mark
        return first

    def repeat(self, columns: Mapping[str, npt.NDArray[np.int64]]) -> None:
        """Add the last instruction again and again, so that all of them, itself included, have these fields."""
        first, many = self.count - 1, len(next(iter(columns.values())))
        self.count += many - 1
        while self.count > len(self.marks):
            self.grow()
        self.rows[first + 1 : self.count] = self.rows[first]
        self.marks[first + 1 : self.count] = self.marks[first]
        for name, column in columns.items():
            self.rows[first : self.count, _NUMBER[name]] = column

    def table(self) -> Table:
        """Return what was collected."""
        return Table(self.rows[: self.count])
