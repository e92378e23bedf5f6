# SPDX-License-Identifier: Apache-2.0
"""Requests and answers on a serial line, as ``hdl.boards.protocol`` says: checksums, time limits, repetitions."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol

import numpy as np
import numpy.typing as npt

from hdl.boards.memory import WORD_BYTES
from hdl.boards.protocol import (
    ANSWER,
    ANSWER_START,
    CHECKSUM_BYTES,
    IDENTITY,
    MAGIC,
    MOST_WORDS,
    REQUEST,
    REQUEST_START,
    STATUSES,
    Command,
    Status,
    checksum,
)  # fmt: skip
from hdl.errors import A3dError

__all__ = ["BoardError", "Link", "Transport", "open_port"]

ATTEMPTS = 3
"""Times that a request is sent before it is given up."""

ANSWER_S = 2.0
"""Seconds without a byte after which no answer is coming."""

QUIET_S = 0.1
"""Seconds without a byte after which the board has given up what came to it, and the line is empty."""


class BoardError(A3dError):
    """The board is not there, does not answer, or answers what it should not."""


class Transport(Protocol):
    """A serial line: the part of pyserial's ``Serial`` that is used here."""

    timeout: float | None

    def read(self, size: int = 1) -> bytes:
        """Return up to `size` bytes, fewer when `timeout` seconds pass."""

    def write(self, data: bytes) -> int | None:
        """Send bytes."""

    def close(self) -> None:
        """Leave the line."""


def open_port(port: str, baud: int) -> Transport:
    """Open a serial port.

    Raises
    ------
    BoardError
        pyserial is missing, or there is no device at the port.
    """
    try:
        import serial
    except ImportError:
        raise BoardError(
            "Python package 'pyserial' not found: the engine board needs it; fix: pip install 'a3d-moe[boards]', or "
            "pip install pyserial"
        ) from None
    try:
        line: Transport = serial.Serial(port, baud, timeout=ANSWER_S, write_timeout=ANSWER_S, exclusive=True)
    except (serial.SerialException, ValueError, OSError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise BoardError(
            f"--port {port}: no device can be opened there ({why}); plug the board in and name its port, as "
            "`python -m serial.tools.list_ports` lists them"
        ) from error
    return line


class _Unanswered(Exception):
    """No answer came, or one that cannot be used; says why."""


class Link:
    """The board at the other end of a line; a context manager, which closes it.

    Parameters
    ----------
    line : Transport
    name : str
        What to call it in messages.
    answer_s : float
        Seconds without a byte after which no answer is coming.
    """

    def __init__(self, line: Transport, name: str, *, answer_s: float = ANSWER_S) -> None:
        self.name = name
        self._line = line
        self._answer_s = answer_s
        self._number = 0
        self.repeated = 0

    def __enter__(self) -> Link:
        """Return the link."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the line."""
        self._line.close()

    def identify(self) -> dict[str, int]:
        """Return the words of the identity by name, after whatever is left on the line has gone.

        Raises
        ------
        BoardError
            What answers is no board of this project, or of another version, or nothing does.
        """
        self._drain()
        words = self.read(Command.READ_IDENTITY, 0, len(IDENTITY)).tolist()
        identity = {name: int(word) for (name, _), word in zip(IDENTITY, words, strict=True)}
        if identity["magic"] != MAGIC:
            raise BoardError(
                f"{self.name}: says it is {identity['magic']:#010x}, this program speaks to {MAGIC:#010x}: build the "
                "board again with `a3d board build` of this version"
            )
        return identity

    def reset(self) -> None:
        """Reset the machine."""
        self._ask(Command.RESET, 0, 0, b"", repeat=True)

    def read(self, command: Command, address: int, words: int) -> npt.NDArray[np.uint32]:
        """Return words from a byte address on, in as many requests as that takes."""
        parts = []
        for first in range(0, words, MOST_WORDS):
            count = min(MOST_WORDS, words - first)
            data = self._ask(command, address + first * WORD_BYTES, count, b"", repeat=True)
            parts.append(np.frombuffer(data, "<u4"))
        return np.concatenate(parts) if parts else np.zeros(0, np.uint32)

    def write(self, command: Command, address: int, words: npt.NDArray[np.uint32] | Sequence[int]) -> None:
        """Write words from a byte address on.

        A write of registers whose answer does not come is not repeated: it may have started the machine.
        """
        data = np.asarray(words, "<u4").tobytes()
        step = MOST_WORDS * WORD_BYTES
        repeat = command != Command.WRITE_REGISTERS
        for first in range(0, len(data), step):
            part = data[first : first + step]
            self._ask(command, address + first, len(part) // WORD_BYTES, part, repeat=repeat)

    def _ask(self, command: Command, address: int, words: int, data: bytes, *, repeat: bool) -> bytes:
        """Send a request and return the words of its answer; `repeat`: it may be done twice."""
        reason = ""
        for attempt in range(ATTEMPTS):
            self._number = (self._number + 1) & 0xFF
            values = {"command": command, "number": self._number, "address": address, "words": words}
            body = b"".join(values[field.name].to_bytes(field.size, "little") for field in REQUEST) + data
            try:
                self._send(bytes([REQUEST_START]) + body + checksum(body))
                status, answer = self._receive(0 if data else words)
                again = status.unread
                reason = f"says {status.name}, {STATUSES[status]}"
            except _Unanswered as error:
                again, reason = repeat, str(error)
            else:
                if status == Status.OK:
                    return answer
                if not again:
                    break
            if not again:
                reason += "; it is not known whether the request was done: reset the board"
                break
            self.repeated += attempt + 1 < ATTEMPTS
            self._drain()
        what = f"{command.name} of {words} words at {address:#x}"
        raise BoardError(
            f"{self.name}: {what}: {reason} ({attempt + 1} of {ATTEMPTS} attempts); check port, baud rate and cable, "
            "and that the board holds a bitstream of `a3d board build`"
        )

    def _send(self, frame: bytes) -> None:
        try:
            self._line.write(frame)
        except OSError as error:  # pyserial's exceptions are such
            raise self._gone(error) from error

    def _take(self, size: int) -> bytes:
        """Return as many bytes of an answer."""
        self._line.timeout = self._answer_s
        found = b""
        while len(found) < size:
            try:
                part = self._line.read(size - len(found))
            except OSError as error:
                raise self._gone(error) from error
            if not part:
                if not found:
                    raise _Unanswered(f"no answer within {self._answer_s:g} s")
                raise _Unanswered(f"an answer that ends after {len(found)} of {size} bytes")
            found += part
        return found

    def _receive(self, words: int) -> tuple[Status, bytes]:
        """Return status and words of an answer that may have `words` of them."""
        start = self._take(1)[0]
        if start != ANSWER_START:
            raise _Unanswered(f"an answer that begins with {start:#04x}, not {ANSWER_START:#04x}")
        header = self._take(sum(field.size for field in ANSWER))
        values, at = {}, 0
        for field in ANSWER:
            values[field.name] = int.from_bytes(header[at : at + field.size], "little")
            at += field.size
        if values["words"] not in (0, words):
            raise _Unanswered(f"an answer of {values['words']} words to a request of {words}")
        data = self._take(values["words"] * WORD_BYTES) if values["words"] else b""
        if self._take(CHECKSUM_BYTES) != checksum(header + data):
            raise _Unanswered("an answer whose checksum is wrong")
        if values["status"] not in set(Status):
            raise _Unanswered(f"an answer with status {values['status']}, which there is none of")
        status = Status(values["status"])
        if not status.unread and values["number"] != self._number:
            raise _Unanswered(f"the answer to request {values['number']}, not {self._number}")
        if status == Status.OK and values["words"] != words:
            raise _Unanswered(f"an answer of no words to a request of {words}")
        return status, data

    def _gone(self, error: OSError) -> BoardError:
        return BoardError(f"{self.name}: the line is gone ({error}); plug the board in again")

    def _drain(self) -> None:
        """Wait until nothing comes any more."""
        self._line.timeout = QUIET_S
        try:
            while self._line.read(MOST_WORDS):
                pass
        except OSError as error:
            raise self._gone(error) from error
