# SPDX-License-Identifier: Apache-2.0
"""A stream as one array, a row an instruction and a column a field: what is done to every instruction is fast there."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from hdl.isa import BODIES, INSTRUCTION_BITS, Instruction, IsaError, Opcode, encode, fields_of

__all__ = ["COL", "COLUMNS", "Builder", "Rows", "Table"]

COLUMNS: tuple[str, ...] = tuple(
    dict.fromkeys(field.name for opcode in BODIES for field in fields_of(opcode) if field.name != "reserved")
)
"""Names of the columns: all fields of all opcodes, each once. A field that an opcode does not have is 0."""

COL: Any = namedtuple("COL", COLUMNS)(*range(len(COLUMNS)))
"""Numbers of the columns by name, as constants that compiled functions can use: ``rows[n, COL.tokens]``."""

Rows = npt.NDArray[np.int64]
_WORDS = INSTRUCTION_BITS // 64
_NUMBER = {name: number for number, name in enumerate(COLUMNS)}


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
        wrong = np.zeros(len(self), dtype=np.bool_)
        for opcode in BODIES:
            at = np.flatnonzero(self.rows[:, COL.opcode] == opcode)
            if not at.size:
                continue
            own, position = self.rows[at], 0
            for field in fields_of(opcode):
                value = own[:, _NUMBER[field.name]] if field.name != "reserved" else np.zeros(len(at), np.int64)
                allowed = (value >= 0) & (value < 1 << field.width)
                if field.enum is not None:
                    allowed &= np.isin(value, [int(v) for v in field.enum])
                wrong[at] |= ~allowed
                word, shift = divmod(position, 64)
                bits = value.astype(np.uint64)
                words[at, word] |= bits << np.uint64(shift)
                if shift + field.width > 64:
                    words[at, word + 1] |= bits >> np.uint64(64 - shift)
                position += field.width
        wrong |= ~np.isin(self.rows[:, COL.opcode], [int(v) for v in BODIES])
        if wrong.any():
            number = int(np.flatnonzero(wrong)[0])
            row = self.rows[number]
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
    """Collects instructions in program order.

    A row is a dictionary until :meth:`table` is asked for: fields are given by name.
    """

    def __init__(self) -> None:
        self._opcodes: list[int] = []
        self._values: list[Mapping[str, int]] = []

    def __len__(self) -> int:
        return len(self._opcodes)

    def add(self, opcode: Opcode, values: Mapping[str, int]) -> int:
        """Add an instruction, its fields by name, and return its number."""
        self._opcodes.append(opcode)
        self._values.append(values)
        return len(self._opcodes) - 1

    def table(self) -> Table:
        """Return what was collected."""
        rows = np.zeros((len(self), len(COLUMNS)), dtype=np.int64)
        rows[:, COL.opcode] = self._opcodes
        lengths = np.fromiter(map(len, self._values), np.int64, len(self))
        at = np.repeat(np.arange(len(self)) * len(COLUMNS), lengths)
        count = len(at)
        at += np.fromiter(map(_NUMBER.__getitem__, chain.from_iterable(self._values)), np.int64, count)
        rows.reshape(-1)[at] = np.fromiter(chain.from_iterable(v.values() for v in self._values), np.int64, count)
        return Table(rows)
