# SPDX-License-Identifier: Apache-2.0
"""The protocol of the serial line, said once: the engine on the board, the host's code and the page derive from it.

The host asks, the board answers, one request at a time. Numbers are little-endian, addresses count bytes, data are
32-bit words. A request takes effect only when all of it has come and its checksum is right.
"""

from __future__ import annotations

import zlib
from enum import IntEnum
from typing import Final, NamedTuple

__all__ = [
    "ANSWER", "ANSWER_START", "CHECKSUM_BYTES", "COMMANDS", "IDENTITY", "MAGIC", "MOST_WORDS", "REQUEST",
    "REQUEST_START", "RESIDUE", "STATUSES", "Command", "Field", "Space", "Status", "checksum", "describe_protocol",
]  # fmt: skip

VERSION = 1
MAGIC = 0xA3D0_0000 | VERSION
"""Word 0 of the identity."""

REQUEST_START, ANSWER_START = 0xA3, 0x3A
"""First byte of a request, and of an answer; not part of the checksum."""

MOST_WORDS = 256
"""Most words of a request or an answer: what the board buffers."""

CHECKSUM_BYTES = 4
RESIDUE = 0xDEBB20E3
"""What the register of the CRC holds after a frame and its right checksum."""

WRITE = 0x80
"""Bit of a command that writes; the others read."""


class Field(NamedTuple):
    """A field of a frame: its bytes, and what it is."""

    name: str
    size: int
    doc: str


REQUEST: Final = (
    Field("command", 1, "what to do"),
    Field("number", 1, "any; the answer has the same"),
    Field("address", 4, "byte address of the first word, a multiple of 4"),
    Field("words", 2, f"how many words are read or written, 1 to {MOST_WORDS}; 0 with RESET"),
)
"""Between the start byte and the data of a write."""

ANSWER: Final = (
    Field("status", 1, "how it went"),
    Field("number", 1, "of the request; any where the request was damaged"),
    Field("words", 2, "how many words follow: those that were asked for, or none"),
)
"""Between the start byte and the data of a read."""


class Space(IntEnum):
    """What addresses point into."""

    IDENTITY = 0
    REGISTERS = 1
    MEMORY0 = 2
    MEMORY1 = 3


class Command(IntEnum):
    """First byte of a request: a space, and whether it is written."""

    READ_IDENTITY = Space.IDENTITY
    READ_REGISTERS = Space.REGISTERS
    READ_MEMORY0 = Space.MEMORY0
    READ_MEMORY1 = Space.MEMORY1
    RESET = WRITE | Space.IDENTITY
    WRITE_REGISTERS = WRITE | Space.REGISTERS
    WRITE_MEMORY0 = WRITE | Space.MEMORY0
    WRITE_MEMORY1 = WRITE | Space.MEMORY1

    @property
    def writes(self) -> bool:
        """Whether the request brings words."""
        return bool(self & WRITE) and self != Command.RESET


COMMANDS: Final = {
    Command.READ_IDENTITY: "read what the board is, see below",
    Command.READ_REGISTERS: "read registers of the machine, counters among them",
    Command.READ_MEMORY0: "read the memory of channel group 0",
    Command.READ_MEMORY1: "read the memory of channel group 1",
    Command.RESET: "reset the machine; memories keep their contents",
    Command.WRITE_REGISTERS: "write registers of the machine, which starts it too",
    Command.WRITE_MEMORY0: "write the memory of channel group 0",
    Command.WRITE_MEMORY1: "write the memory of channel group 1",
}


class Status(IntEnum):
    """First byte of an answer after its start."""

    OK = 0
    DAMAGED = 1
    INCOMPLETE = 2
    COMMAND = 3
    LENGTH = 4
    ADDRESS = 5
    REGISTER = 6

    @property
    def unread(self) -> bool:
        """Whether the board knows nothing of the request, which may then be sent again, whatever it was."""
        return self in (Status.DAMAGED, Status.INCOMPLETE)


STATUSES: Final = {
    Status.OK: "done",
    Status.DAMAGED: "the checksum is wrong, or a stop bit was: nothing was done",
    Status.INCOMPLETE: "the rest of the request did not come: nothing was done",
    Status.COMMAND: "no such command",
    Status.LENGTH: f"not 1 to {MOST_WORDS} words",
    Status.ADDRESS: "the address is no multiple of 4, or the words reach beyond the end of what is addressed",
    Status.REGISTER: "a register refused: there is none, or it cannot be written; those before it were written",
}

IDENTITY: Final = (
    ("magic", f"{MAGIC:#010x}: the board and version {VERSION} of this protocol"),
    ("config_low", "first 4 bytes of the SHA-256 of the machine's configuration, without its name"),
    ("config_high", "the next 4"),
    ("memory_bytes", "size of each channel group's memory"),
    ("clock_khz", "clock of the machine"),
)
"""Words of the identity."""


def checksum(data: bytes) -> bytes:
    """Return the checksum of what follows a start byte: the CRC-32 of zlib, Ethernet and PNG."""
    return zlib.crc32(data).to_bytes(CHECKSUM_BYTES, "little")


def describe_protocol() -> list[str]:
    """Return the protocol as lines of Markdown."""

    def frame(start: int, fields: tuple[Field, ...], data: str) -> list[str]:
        rows = [("start", 1, f"`{start:#04x}`"), *fields, ("data", "4 each", data)]
        rows.append(("checksum", CHECKSUM_BYTES, "CRC-32 (as in zlib) of all bytes but the start"))
        return ["| field | bytes | |", "| --- | --- | --- |", *(f"| {n} | {s} | {d} |" for n, s, d in rows), ""]

    lines = ["A request:", "", *frame(REQUEST_START, REQUEST, "with a command that writes")]
    lines += ["Its answer:", "", *frame(ANSWER_START, ANSWER, "with a command that read")]
    lines += ["| command | byte | |", "| --- | --- | --- |"]
    lines += [f"| `{command.name}` | `{command:#04x}` | {doc} |" for command, doc in COMMANDS.items()]
    lines += ["", "| status | byte | |", "| --- | --- | --- |"]
    lines += [f"| `{status.name}` | {status:d} | {doc} |" for status, doc in STATUSES.items()]
    lines += ["", "| word of the identity | address | |", "| --- | --- | --- |"]
    lines += [f"| `{name}` | {4 * place} | {doc} |" for place, (name, doc) in enumerate(IDENTITY)]
    return lines
