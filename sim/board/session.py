# SPDX-License-Identifier: Apache-2.0
"""Jobs on a board: memories and registers written over its line, the machine started and asked until it is done."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hdl.boards.memory import WORD_BYTES
from hdl.boards.protocol import Command
from hdl.boards.top import config_words
from hdl.config import MachineConfig
from hdl.errors import A3dError
from hdl.isa.error_codes import ErrorCode
from hdl.isa.legality import Limits
from hdl.regs import counter_names, register_map
from sim.board.link import BoardError, Link
from sim.machine.system import Job, JobResult

__all__ = ["BoardSession", "check_images"]

READ_MEMORY = (Command.READ_MEMORY0, Command.READ_MEMORY1)
WRITE_MEMORY = (Command.WRITE_MEMORY0, Command.WRITE_MEMORY1)

STREAM_S = 120.0
"""Seconds after which a stream counts as hung; the machine's own watchdog is faster."""

Bytes = npt.NDArray[np.uint8]


def check_images(sizes: Sequence[int], memory_bytes: int, what: str = "the model") -> None:
    """Refuse images that a board's memories do not hold.

    Raises
    ------
    A3dError
        Names the larger one and both sizes.
    """
    for group, size in enumerate(sizes):
        if size > memory_bytes:
            raise A3dError(
                f"memory of channel group {group}: {what} takes {size:,} bytes, the board has {memory_bytes:,}: use a "
                "smaller model, batch or prompt, or build the board with a larger --memory-kib"
            )


class BoardSession:
    """Runs jobs on a board, in the way of `sim.machine.session.MachineSession`.

    Parameters
    ----------
    link : Link
        The board.
    config : MachineConfig
        What the machine on it must be.
    stream_s : float
        Seconds after which a stream counts as hung.

    Raises
    ------
    BoardError
        Another machine is on the board, or none.
    """

    def __init__(self, link: Link, config: MachineConfig, *, stream_s: float = STREAM_S) -> None:
        self._link = link
        self._config = config
        self._stream_s = stream_s
        self._registers = {register.name: register for register in register_map(config)}
        self._job: Job | None = None
        self._sizes: tuple[int, ...] = ()
        identity = link.identify()
        found, expected = (identity["config_low"], identity["config_high"]), config_words(config)
        if found != expected:
            raise BoardError(
                f"{link.name}: the machine on the board is of configuration {_digest(found)}, {config.name} is "
                f"{_digest(expected)}: name the board's with --config, or build the board with {config.name}"
            )
        self.memory_bytes = identity["memory_bytes"]
        self.clock_khz = identity["clock_khz"]
        link.reset()

    def run(self, job: Job) -> JobResult:
        """Run a job and return what it left.

        Raises
        ------
        BoardError
            The board stopped answering, or the stream did not come to its end.
        A3dError
            The job's images are larger than the memories.
        """
        self.submit(job)
        return self.collect()

    def submit(self, job: Job) -> None:
        """Bring a job to the board and start it; `collect` waits for it."""
        assert self._job is None
        if job.images is not None:
            self._sizes = tuple(_padded(len(image)) for image in job.images)
            check_images(self._sizes, self.memory_bytes)
            for command, image in zip(WRITE_MEMORY, job.images, strict=True):
                self._link.write(command, 0, _words(image))
        for group, address, data in job.patches:
            self._patch(group, address, data)
        limits = job.limits or Limits((self.memory_bytes,) * 2, ((0, self.memory_bytes),) * 2)
        self._write_wide("STREAM_BASE", job.stream_base)
        self._write("WATCHDOG", job.watchdog)
        self._write("KEPT_TILES", job.kept_tiles)
        for group in range(2):
            self._write_wide(f"MEMORY{group}_BYTES", limits.memory_bytes[group])
            self._write_wide(f"WINDOW{group}_BASE", limits.window[group][0])
            self._write_wide(f"WINDOW{group}_LIMIT", limits.window[group][1])
        status = self._registers["STATUS"]
        self._wait(status["READY"].mask, status["READY"].mask)
        control = self._registers["CONTROL"]
        self._write("CONTROL", control.mask("START", *(["INVALIDATE"] if job.invalidate else [])))
        self._job, self._started = job, time.perf_counter()

    def collect(self) -> JobResult:
        """Wait for the job that was submitted and return what it left; raises as `run` does."""
        job, self._job = self._job, None
        assert job is not None
        fields = self._registers["STATUS"]
        ended = fields.mask("DONE", "ERROR")
        status = self._wait(fields.mask("BUSY", "READY"), fields["READY"].mask)
        wall = time.perf_counter() - self._started
        if not status & ended:
            raise BoardError(f"{self._link.name}: the stream neither ended nor failed: STATUS is {status:#x}")
        memory = None
        if job.dump:
            dumps = (
                self._link.read(command, 0, size // WORD_BYTES)
                for command, size in zip(READ_MEMORY, self._sizes, strict=True)
            )
            memory = tuple(dump.view(np.uint8) for dump in dumps)
        failed = bool(status & fields["ERROR"].mask)
        return JobResult(
            done=not failed and bool(status & fields["DONE"].mask),
            error=ErrorCode(self._read("ERROR_CODE")) if failed else None,
            error_pc=self._read("ERROR_PC"),
            error_address=self._read_wide("ERROR_ADDRESS"),
            semaphores_left=bool(status & fields["SEMAPHORES"].mask),
            counters=self.counters(),
            memory=memory,  # type: ignore[arg-type]
            wall_s=wall,
        )

    def counters(self) -> dict[str, int]:
        """Return all performance counters by name."""
        names = counter_names(self._config)
        first = self._registers[f"COUNT_{names[0].upper()}_LO"].offset
        words = self._link.read(Command.READ_REGISTERS, first, 2 * len(names)).tolist()
        return {name: words[2 * n] | words[2 * n + 1] << 32 for n, name in enumerate(names)}

    def _patch(self, group: int, address: int, data: bytes) -> None:
        """Write bytes anywhere: words of which a part is written are read first."""
        first = address // WORD_BYTES * WORD_BYTES
        end = _padded(address + len(data))
        if first != address or end != address + len(data):
            whole = self._link.read(READ_MEMORY[group], first, (end - first) // WORD_BYTES).tobytes()
            data = whole[: address - first] + data + whole[address - first + len(data) :]
        self._link.write(WRITE_MEMORY[group], first, _words(data))

    def _wait(self, mask: int, value: int) -> int:
        """Return STATUS once some of its bits are as they should be."""
        deadline = time.monotonic() + self._stream_s
        while True:
            status = self._read("STATUS")
            if status & mask == value:
                return status
            if time.monotonic() > deadline:
                raise BoardError(
                    f"{self._link.name}: the machine is still not ready after {self._stream_s:g} s: STATUS is "
                    f"{status:#x}; reset the board"
                )

    def _read(self, name: str) -> int:
        return int(self._link.read(Command.READ_REGISTERS, self._registers[name].offset, 1)[0])

    def _read_wide(self, name: str) -> int:
        low, high = self._link.read(Command.READ_REGISTERS, self._registers[f"{name}_LO"].offset, 2).tolist()
        return int(low | high << 32)

    def _write(self, name: str, value: int) -> None:
        self._link.write(Command.WRITE_REGISTERS, self._registers[name].offset, [value])

    def _write_wide(self, name: str, value: int) -> None:
        words = [value & 0xFFFF_FFFF, value >> 32]
        self._link.write(Command.WRITE_REGISTERS, self._registers[f"{name}_LO"].offset, words)


def _padded(size: int) -> int:
    return -(-size // WORD_BYTES) * WORD_BYTES


def _words(data: bytes) -> npt.NDArray[np.uint32]:
    return np.frombuffer(data + bytes(_padded(len(data)) - len(data)), "<u4")


def _digest(words: tuple[int, int]) -> str:
    return b"".join(word.to_bytes(4, "little") for word in words).hex()
