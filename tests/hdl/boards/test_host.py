# SPDX-License-Identifier: Apache-2.0
"""The engine on the board, byte by byte: right requests, and every wrong one the protocol has an answer for."""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.sim import Simulator

from hdl.boards.host import HostEngine
from hdl.boards.memory import GroupMemory
from hdl.boards.protocol import (
    ANSWER_START,
    COMMANDS,
    IDENTITY,
    MOST_WORDS,
    REQUEST_START,
    STATUSES,
    Command,
    Status,
    checksum,
    describe_protocol,
)  # fmt: skip
from hdl.config import PRESETS
from hdl.control.csr import CsrBlock
from hdl.regs import register_map

ROOT = Path(__file__).resolve().parents[3]
NANO = PRESETS["nano"]
MEMORY = 4096
GAP = 200
WORDS = tuple(range(0x1000, 0x1000 + len(IDENTITY)))
REGISTERS = {register.name: register for register in register_map(NANO)}


class Board:
    """The engine with a real register block and real memories, and bytes instead of a line."""

    def __init__(self) -> None:
        self.module = m = Module()
        m.submodules.host = self.host = HostEngine(WORDS, MEMORY, GAP)
        m.submodules.csr = self.csr = CsrBlock(NANO)
        wiring.connect(m, self.host.axil, self.csr.axil)
        for group in range(2):
            memory = GroupMemory(NANO, MEMORY)
            m.submodules[f"memory{group}"] = memory
            wiring.connect(m, self.host.memory[group], memory.host)
        self.resets = 0

    def run(self, bench: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
        async def watch(ctx: Any) -> None:
            while True:
                await ctx.tick()
                self.resets += ctx.get(self.host.machine_reset)

        simulator = Simulator(self.module)
        simulator.add_clock(1e-6)
        simulator.add_testbench(bench)
        simulator.add_testbench(watch, background=True)
        simulator.run()

    async def send(self, ctx: Any, data: bytes, broken: int | None = None) -> None:
        for place, byte in enumerate(data):
            ctx.set(self.host.receive_valid, 1)
            ctx.set(self.host.receive_data, byte)
            ctx.set(self.host.receive_broken, place == broken)
            await ctx.tick()
            ctx.set(self.host.receive_valid, 0)
            for _ in range(12):
                await ctx.tick()

    async def answer(self, ctx: Any) -> bytes:
        """Return the bytes of an answer: those that come with pauses of less than a thousand cycles."""
        found, pause = b"", 0
        ctx.set(self.host.send.ready, 1)
        while pause < 1000 + GAP:
            pause += 1
            taken = ctx.get(self.host.send.valid)
            if taken:
                found += bytes([ctx.get(self.host.send.payload)])
                pause = 0
            await ctx.tick()
            if taken:  # as the line does
                ctx.set(self.host.send.ready, 0)
                for _ in range(12):
                    await ctx.tick()
                ctx.set(self.host.send.ready, 1)
        ctx.set(self.host.send.ready, 0)
        return found

    async def ask(self, ctx: Any, command: int, address: int, words: int, data: bytes = b"") -> tuple[Status, bytes]:
        await self.send(ctx, frame(command, address, words, data))
        return check(await self.answer(ctx))


def frame(command: int, address: int, words: int, data: bytes = b"", number: int = 7) -> bytes:
    body = bytes([command, number]) + address.to_bytes(4, "little") + words.to_bytes(2, "little") + data
    return bytes([REQUEST_START]) + body + checksum(body)


def check(answer: bytes, number: int | None = 7) -> tuple[Status, bytes]:
    """Return status and data of an answer that is as it should be."""
    assert answer[0] == ANSWER_START and checksum(answer[1:-4]) == answer[-4:]
    assert number is None or answer[2] == number
    data = answer[5:-4]
    assert len(data) == 4 * int.from_bytes(answer[3:5], "little")
    return Status(answer[1]), data


def test_memories_registers_and_identity() -> None:
    board, rng = Board(), random.Random(1)
    blocks = [rng.randbytes(4 * MOST_WORDS) for _ in range(2)]

    async def bench(ctx: Any) -> None:
        for command, block in zip((Command.WRITE_MEMORY0, Command.WRITE_MEMORY1), blocks, strict=True):
            assert await board.ask(ctx, command, MEMORY - len(block), MOST_WORDS, block) == (Status.OK, b"")
        for command, block in zip((Command.READ_MEMORY0, Command.READ_MEMORY1), blocks, strict=True):
            assert await board.ask(ctx, command, MEMORY - len(block), MOST_WORDS) == (Status.OK, block)
            assert await board.ask(ctx, command, MEMORY - 4, 1) == (Status.OK, block[-4:])
            assert await board.ask(ctx, command, 0, 2) == (Status.OK, bytes(8))
        base = REGISTERS["STREAM_BASE_LO"].offset
        assert await board.ask(ctx, Command.WRITE_REGISTERS, base, 2, b"\x40\0\0\0\0\0\0\0") == (Status.OK, b"")
        assert ctx.get(board.csr.stream_base) == 0x40
        assert await board.ask(ctx, Command.READ_REGISTERS, base, 1) == (Status.OK, b"\x40\0\0\0")
        status, data = await board.ask(ctx, Command.READ_REGISTERS, 0, 1)
        assert status == Status.OK and int.from_bytes(data, "little") == REGISTERS["ID"].value
        expected = b"".join(word.to_bytes(4, "little") for word in WORDS)
        assert await board.ask(ctx, Command.READ_IDENTITY, 0, len(WORDS)) == (Status.OK, expected)
        assert board.resets == 0
        assert await board.ask(ctx, Command.RESET, 0, 0) == (Status.OK, b"")
        assert board.resets >= 4

    board.run(bench)


WRONG = [
    (0x04, 0, 1, Status.COMMAND),
    (0x40, 0, 1, Status.COMMAND),
    (Command.READ_MEMORY0, 0, 0, Status.LENGTH),
    (Command.READ_MEMORY0, 0, MOST_WORDS + 1, Status.LENGTH),
    (Command.READ_MEMORY0, 2, 1, Status.ADDRESS),
    (Command.READ_MEMORY1, MEMORY, 1, Status.ADDRESS),
    (Command.READ_MEMORY1, MEMORY - 4, 2, Status.ADDRESS),
    (Command.READ_MEMORY1, 0xFFFF_FFFC, 2, Status.ADDRESS),
    (Command.READ_REGISTERS, 4096, 1, Status.ADDRESS),
    (Command.READ_IDENTITY, 4, len(WORDS), Status.ADDRESS),
    (Command.READ_REGISTERS, 0xFFC, 1, Status.REGISTER),
]


def test_requests_that_cannot_be_done() -> None:
    board = Board()

    async def bench(ctx: Any) -> None:
        for command, address, words, status in WRONG:
            assert await board.ask(ctx, command, address, words) == (status, b""), (command, address, words)
        read_only = REGISTERS["ID"].offset
        assert await board.ask(ctx, Command.WRITE_REGISTERS, read_only, 1, bytes(4)) == (Status.REGISTER, b"")
        # What the engine cannot buffer is refused when all of it has come.
        long = bytes(4 * (MOST_WORDS + 1))
        assert await board.ask(ctx, Command.WRITE_MEMORY0, 0, MOST_WORDS + 1, long) == (Status.LENGTH, b"")
        assert (await board.ask(ctx, Command.READ_MEMORY0, 0, 1))[0] == Status.OK

    board.run(bench)


@pytest.mark.parametrize("place", range(1, 17, 3))
def test_a_damaged_request_does_nothing(place: int) -> None:
    board = Board()
    good = frame(Command.WRITE_MEMORY0, 0, 1, b"\x11\x22\x33\x44")

    async def bench(ctx: Any) -> None:
        bad = bytearray(good)
        bad[place] ^= 0x10
        await board.send(ctx, bytes(bad))
        status, _ = check(await board.answer(ctx), None)
        # Where the number of words is wrong, the board waits for more, or takes what follows for a request.
        assert status in (Status.DAMAGED, Status.INCOMPLETE)
        await board.send(ctx, good, broken=place)
        assert check(await board.answer(ctx), None) == (Status.DAMAGED, b"")
        assert await board.ask(ctx, Command.READ_MEMORY0, 0, 1) == (Status.OK, bytes(4))
        await board.send(ctx, good)
        assert check(await board.answer(ctx)) == (Status.OK, b"")
        assert await board.ask(ctx, Command.READ_MEMORY0, 0, 1) == (Status.OK, good[9:13])

    board.run(bench)


def test_a_request_that_ends_early_and_noise() -> None:
    board = Board()
    good = frame(Command.READ_MEMORY0, 0, 1)

    async def bench(ctx: Any) -> None:
        for end in (1, 5, len(good) - 1):
            await board.send(ctx, good[:end])
            assert check(await board.answer(ctx), None) == (Status.INCOMPLETE, b"")
        await board.send(ctx, b"\x00\xff\x3a\x55")  # no start among them
        assert await board.answer(ctx) == b""
        await board.send(ctx, good)
        assert check(await board.answer(ctx)) == (Status.OK, bytes(4))

    board.run(bench)


def test_the_page_has_everything() -> None:
    """`a3d report --board` was run after the last change of the protocol."""
    text = "\n".join(describe_protocol())
    assert text in (ROOT / "docs" / "board.md").read_text(encoding="utf-8"), "run: a3d report --board"
    assert set(COMMANDS) == set(Command) and set(STATUSES) == set(Status)
    assert all(f"`{item.name}`" in text for item in (*Command, *Status)) and all(name in text for name, _ in IDENTITY)
