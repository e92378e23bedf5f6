# SPDX-License-Identifier: Apache-2.0
"""The block RAM memory: AXI bursts of reads and writes and the host's words at the same time, against NumPy."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator

from hdl.boards.memory import GroupMemory, check_memory_bytes
from hdl.config import PRESETS, MachineConfig
from hdl.emit.verilog import emit
from hdl.errors import A3dError

NANO = PRESETS["nano"]
CONFIGS = {
    "nano": NANO,
    "wide": PRESETS["tiny"].replace(name="wide", channel_bytes=16),
    "channels": PRESETS["tiny"].replace(name="channels", channels_per_group=4),
    "both": PRESETS["small"].replace(name="both", channels_per_group=2, channel_bytes=16),
}
SIZE = 1 << 14


class Bench:
    """A group's memory, and what it should hold."""

    def __init__(self, config: MachineConfig, seed: int) -> None:
        self.config, self.rng = config, random.Random(seed)
        self.dut = GroupMemory(config, SIZE)
        self.content = np.zeros(SIZE, np.uint8)

    def run(self, *benches: Any) -> None:
        simulator = Simulator(self.dut)
        simulator.add_clock(1e-6)
        for bench in benches:
            simulator.add_testbench(bench)
        simulator.run()

    def burst(self, low: int, high: int) -> tuple[int, int]:
        """Return channel-local address and beats of a burst between two beats, within 4 KiB."""
        first = self.rng.randrange(low, high)
        most = 4096 // self.config.channel_bytes
        return first, self.rng.randint(1, min(16, high - first, most - first % most))

    def place(self, beat: int, channel: int) -> slice:
        """Return where a channel's beat lies in the group's memory."""
        size = self.config.channel_bytes
        first = (beat * self.config.channels_per_group + channel) * size
        return slice(first, first + size)

    async def write(self, ctx: Any, channel: int, first: int, beats: int) -> None:
        axi, size = self.dut.axi[channel], self.config.channel_bytes
        for name, value in (("awaddr", first * size), ("awlen", beats - 1), ("awid", beats & 1), ("awvalid", 1)):
            ctx.set(getattr(axi, name), value)
        await ctx.tick().until(axi.awready)
        ctx.set(axi.awvalid, 0)
        for beat in range(first, first + beats):
            while self.rng.random() < 0.2:
                await ctx.tick()
            data, strobe = self.rng.randbytes(size), self.rng.getrandbits(size)
            ctx.set(axi.wdata, int.from_bytes(data, "little"))
            ctx.set(axi.wstrb, strobe)
            ctx.set(axi.wlast, beat == first + beats - 1)
            ctx.set(axi.wvalid, 1)
            await ctx.tick().until(axi.wready)
            ctx.set(axi.wvalid, 0)
            if (first + beats) * size * self.config.channels_per_group <= SIZE:
                mask = np.array([strobe >> n & 1 for n in range(size)], bool)
                self.content[self.place(beat, channel)][mask] = np.frombuffer(data, np.uint8)[mask]
        ctx.set(axi.bready, 1)
        response, number = await ctx.tick().sample(axi.bresp, axi.bid).until(axi.bvalid)
        ctx.set(axi.bready, 0)
        assert number == beats & 1
        assert response == (0 if self.inside(first, beats) else 3)

    def inside(self, first: int, beats: int) -> bool:
        return (first + beats) * self.config.group_bytes <= SIZE

    async def read(self, ctx: Any, channel: int, first: int, beats: int, *, hurry: bool = False) -> int:
        """Read a burst, compare it, and return the cycles from its address to its last beat."""
        axi, size, cycles = self.dut.axi[channel], self.config.channel_bytes, 0
        for name, value in (("araddr", first * size), ("arlen", beats - 1), ("arid", beats & 1), ("arvalid", 1)):
            ctx.set(getattr(axi, name), value)
        await ctx.tick().until(axi.arready)
        ctx.set(axi.arvalid, 0)
        for beat in range(first, first + beats):
            while not hurry and self.rng.random() < 0.3:
                await ctx.tick()
            ctx.set(axi.rready, 1)
            while True:
                values = [ctx.get(signal) for signal in (axi.rvalid, axi.rdata, axi.rresp, axi.rlast, axi.rid)]
                await ctx.tick()
                cycles += 1
                if values[0]:
                    break
            ctx.set(axi.rready, 0)
            _, data, response, last, number = values
            assert (last, number) == (beat == first + beats - 1, beats & 1)
            assert response == (0 if self.inside(first, beats) else 3)
            if self.inside(first, beats):
                assert data.to_bytes(size, "little") == self.content[self.place(beat, channel)].tobytes()
        return cycles

    async def host(self, ctx: Any, address: int, value: int | None = None) -> int:
        port = self.dut.host
        ctx.set(port.enable, 1)
        ctx.set(port.write, value is not None)
        ctx.set(port.addr, address // 4)
        ctx.set(port.write_data, value or 0)
        await ctx.tick()
        ctx.set(port.enable, 0)
        return int(ctx.get(port.read_data))


@pytest.mark.parametrize("name", list(CONFIGS))
def test_bursts_beside_the_host(name: str) -> None:
    """The lower half of the memory is the bursts', the upper half the host's, who reads all of it at the end."""
    bench = Bench(CONFIGS[name], 1)
    beats = SIZE // bench.config.group_bytes
    done = [False]

    async def bursts(ctx: Any) -> None:
        for _ in range(40):
            channel = bench.rng.randrange(bench.config.channels_per_group)
            await bench.write(ctx, channel, *bench.burst(0, beats // 2))
            await bench.read(ctx, channel, *bench.burst(0, beats // 2))
        done[0] = True

    async def host(ctx: Any) -> None:
        rng = random.Random(2)
        while not done[0]:
            address = rng.randrange(SIZE // 2, SIZE, 4)
            if rng.random() < 0.5:
                value = rng.getrandbits(32)
                await bench.host(ctx, address, value)
                bench.content[address : address + 4] = np.frombuffer(value.to_bytes(4, "little"), np.uint8)
            else:
                assert await bench.host(ctx, address) == int.from_bytes(
                    bench.content[address : address + 4].tobytes(), "little"
                )
            for _ in range(rng.choice((0, 0, 1, 5))):
                await ctx.tick()
        for address in range(0, SIZE, 4):
            assert await bench.host(ctx, address) == int.from_bytes(
                bench.content[address : address + 4].tobytes(), "little"
            )

    bench.run(bursts, host)


def test_a_beat_a_cycle() -> None:
    bench = Bench(NANO, 1)

    async def bursts(ctx: Any) -> None:
        assert await bench.read(ctx, 0, 16, 16, hurry=True) <= 18

    bench.run(bursts)


def test_beyond_the_end() -> None:
    """Both paths answer DECERR, and nothing is written where the address would wrap to."""
    bench = Bench(NANO, 1)
    end = SIZE // bench.config.group_bytes

    async def bursts(ctx: Any) -> None:
        await bench.write(ctx, 0, end, 4)
        await bench.read(ctx, 0, end, 4)
        await bench.read(ctx, 0, 0, 4)  # still zero

    bench.run(bursts)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_modules_are_named_by_all_that_makes_them(name: str) -> None:
    channels = CONFIGS[name].channels_per_group
    design = emit(GroupMemory(CONFIGS[name], SIZE), "group", verify_keys=True)
    assert [n for module, n in design.instances.items() if module.startswith("board_memory")] == [channels]


def test_sizes_that_cannot_be() -> None:
    assert check_memory_bytes(NANO, 1 << 16) == 1 << 16
    for size in (3 << 14, 2048, 1 << 25):
        with pytest.raises(
            A3dError, match=f"^memory of a channel group: {size} bytes; use a power of two from 4096 to"
        ):
            check_memory_bytes(NANO, size)
