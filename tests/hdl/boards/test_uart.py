# SPDX-License-Identifier: Apache-2.0
"""The serial line: what is sent comes, at rates that are a little off too, and what is no byte is none."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from amaranth.hdl import Module
from amaranth.sim import Simulator

from hdl.boards.uart import BITS, UartReceiver, UartTransmitter, clocks_per_bit
from hdl.errors import A3dError


def bits_of(byte: int, stop: int = 1) -> list[int]:
    return [0, *(byte >> n & 1 for n in range(8)), stop]


def receive(line: list[int], divisor: int) -> list[tuple[int, int]]:
    """Return bytes and whether they were broken, of a line given clock by clock."""
    dut, found = UartReceiver(divisor), []

    async def bench(ctx: Any) -> None:
        for level in (*line, *[1] * (2 * BITS * divisor)):
            ctx.set(dut.line, level)
            await ctx.tick()
            if ctx.get(dut.valid):
                found.append((ctx.get(dut.data), ctx.get(dut.broken)))

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return found


@pytest.mark.parametrize("divisor", [2, 4, 7, 25])
def test_bytes_one_after_the_other(divisor: int) -> None:
    m, rng = Module(), random.Random(divisor)
    m.submodules.sender = sender = UartTransmitter(divisor)
    m.submodules.receiver = receiver = UartReceiver(divisor)
    m.d.comb += receiver.line.eq(sender.line)
    sent = [0, 255, *(rng.randrange(256) for _ in range(20))]
    found: list[int] = []
    taken: list[int] = []

    async def send(ctx: Any) -> None:
        clock = 0
        for byte in sent:
            ctx.set(sender.valid, 1)
            ctx.set(sender.data, byte)
            while not ctx.get(sender.ready):
                await ctx.tick()
                clock += 1
            taken.append(clock)
            await ctx.tick()
            clock += 1
            ctx.set(sender.valid, 0)

    async def take(ctx: Any) -> None:
        for _ in range((len(sent) + 2) * BITS * divisor):
            await ctx.tick()
            if ctx.get(receiver.valid):
                assert not ctx.get(receiver.broken)
                found.append(ctx.get(receiver.data))

    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(send)
    simulator.add_testbench(take)
    simulator.run()
    assert found == sent
    assert [b - a for a, b in itertools.pairwise(taken)] == [BITS * divisor] * (len(sent) - 1), "no pauses"


@pytest.mark.parametrize("off", [-0.03, -0.02, 0.02, 0.03])
def test_a_rate_that_is_off(off: float) -> None:
    rng = random.Random(1)
    sent = [0x55, 0x00, 0xFF, *(rng.randrange(256) for _ in range(10))]
    bits = [bit for byte in sent for bit in bits_of(byte)]
    period = 25 * (1 + off)
    line = [bits[int(clock / period)] for clock in range(int(len(bits) * period))]
    assert receive(line, 25) == [(byte, 0) for byte in sent]


def test_no_stop_bit_and_no_start_bit() -> None:
    line = [bit for bit in bits_of(0x5A, stop=0) for _ in range(8)] + [1] * 40
    assert receive(line, 8) == [(0x5A, 1)]
    assert receive([1] * 5 + [0] * 2 + [1] * 100, 8) == [], "a pulse of a quarter of a bit"


def test_rates_that_a_clock_cannot_make() -> None:
    assert clocks_per_bit(25e6, 1_000_000) == 25
    assert clocks_per_bit(100e6 / 3, 1_000_000) == 33
    with pytest.raises(A3dError, match="^baud: 20000000 with a clock of 25 MHz; .*: use 381 to 6250000$"):
        clocks_per_bit(25e6, 20_000_000)
    with pytest.raises(
        A3dError, match=r"^baud: 4600000 with .* would be off by 8.7%, at most 2% is allowed: use 5000000"
    ):
        clocks_per_bit(25e6, 4_600_000)
