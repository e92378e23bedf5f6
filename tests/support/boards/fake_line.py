# SPDX-License-Identifier: Apache-2.0
"""A board in Python at the end of a line that can go wrong: it speaks the protocol, and faults are put into its way."""

from __future__ import annotations

from collections.abc import Callable

from hdl.boards.protocol import ANSWER_START, IDENTITY, MAGIC, REQUEST_START, Command, Status, checksum
from hdl.boards.top import config_words
from hdl.config import MachineConfig

Fault = Callable[[bytes], bytes]
"""Changes what the board sends; an empty answer is none."""


class FakeLine:
    """A line with a board that has two memories and no machine."""

    def __init__(self, config: MachineConfig, memory_bytes: int = 4096) -> None:
        values = {"magic": MAGIC, "memory_bytes": memory_bytes, "clock_khz": 25_000}
        values["config_low"], values["config_high"] = config_words(config)
        self.timeout: float | None = None
        self.identity = [values[name] for name, _ in IDENTITY]
        self.memory = [bytearray(memory_bytes), bytearray(memory_bytes)]
        self.registers: dict[int, int] = {}
        self.asked: list[Command] = []
        self.faults: list[Fault | None] = []
        self.statuses: list[Status] = []
        self.gone = False
        self._pending = b""

    def write(self, data: bytes) -> int:
        if self.gone:
            raise OSError("device reports readiness to read but returned no data")
        body, check = data[1:-4], data[-4:]
        assert data[0] == REQUEST_START and check == checksum(body)
        command, number = Command(body[0]), body[1]
        self.asked.append(command)
        status = self.statuses.pop(0) if self.statuses else Status.OK
        words = b"" if status else self._do(command, int.from_bytes(body[2:6], "little"), body[6:8], body[8:])
        answer = bytes([status, number]) + (len(words) // 4).to_bytes(2, "little") + words
        answer = bytes([ANSWER_START]) + answer + checksum(answer)
        fault = self.faults.pop(0) if self.faults else None
        self._pending += answer if fault is None else fault(answer)
        return len(data)

    def _do(self, command: Command, address: int, words: bytes, data: bytes) -> bytes:
        size = 4 * int.from_bytes(words, "little")
        if command == Command.READ_IDENTITY:
            return b"".join(word.to_bytes(4, "little") for word in self.identity)
        if command in (Command.READ_MEMORY0, Command.READ_MEMORY1):
            return bytes(self.memory[command & 1][address : address + size])
        if command in (Command.WRITE_MEMORY0, Command.WRITE_MEMORY1):
            self.memory[command & 1][address : address + size] = data
        if command == Command.WRITE_REGISTERS:
            self.registers[address] = int.from_bytes(data, "little")
        return b""

    def read(self, size: int = 1) -> bytes:
        if self.gone:
            raise OSError("device reports readiness to read but returned no data")
        found, self._pending = self._pending[:size], self._pending[size:]
        return found

    def close(self) -> None:
        self.gone = True
