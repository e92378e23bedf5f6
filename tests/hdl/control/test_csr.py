# SPDX-License-Identifier: Apache-2.0
"""AXI4-Lite registers, performance counters and the supervisor, each on its own."""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from amaranth.hdl import Shape
from amaranth.sim import Simulator

from hdl.capabilities import MAGIC, config_from_capabilities
from hdl.config import PRESETS
from hdl.control.counters import LONGEST_READ, CounterBank, event_layout, tier_event_layout
from hdl.control.csr import CsrBlock
from hdl.control.supervisor import SETTLE_CYCLES, Supervisor
from hdl.isa.error_codes import ErrorCode
from hdl.regs import COUNTER_BASE, counter_names, register_map

NANO, TINY = PRESETS["nano"], PRESETS["tiny"]
OKAY, SLVERR = 0, 2


def simulate(dut: Any, *benches: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
    """Run testbenches on a component with a clock."""
    sim = Simulator(dut)
    sim.add_clock(1e-8)
    for bench in benches:
        sim.add_testbench(bench)
    sim.run()


async def write(ctx: Any, port: Any, address: int, value: int, strobe: int = 15) -> int:
    """Write one register, with the address a cycle before the data; return the response."""
    ctx.set(port.awaddr, address)
    ctx.set(port.awvalid, 1)
    await ctx.tick()
    ctx.set(port.wdata, value)
    ctx.set(port.wstrb, strobe)
    ctx.set(port.wvalid, 1)
    await ctx.tick().until(port.awready & port.wready)
    ctx.set(port.awvalid, 0)
    ctx.set(port.wvalid, 0)
    ctx.set(port.bready, 1)
    response = await ctx.tick().sample(port.bresp).until(port.bvalid)
    ctx.set(port.bready, 0)
    return int(response[0])


async def read(ctx: Any, port: Any, address: int) -> tuple[int, int]:
    """Read one register; return value and response."""
    ctx.set(port.araddr, address)
    ctx.set(port.arvalid, 1)
    await ctx.tick().until(port.arready)
    ctx.set(port.arvalid, 0)
    ctx.set(port.rready, 1)
    data, response = await ctx.tick().sample(port.rdata, port.rresp).until(port.rvalid)
    ctx.set(port.rready, 0)
    return int(data), int(response)


def test_capabilities_and_storage() -> None:
    """Constants read as declared; 64-bit pairs are stored; unmapped, read-only and partial writes answer SLVERR."""
    dut = CsrBlock(NANO)
    registers = {r.name: r for r in register_map(NANO)}

    async def bench(ctx: Any) -> None:
        for register in registers.values():
            if register.reset is not None:
                assert await read(ctx, dut.axil, register.offset) == (register.reset, OKAY), register.name
        assert registers["ID"].value == MAGIC
        assert await write(ctx, dut.axil, registers["ID"].offset, 1) == SLVERR
        assert await write(ctx, dut.axil, 0xFFC, 1) == SLVERR
        assert (await read(ctx, dut.axil, 0xFFC))[1] == SLVERR
        assert await write(ctx, dut.axil, registers["WATCHDOG"].offset, 77) == OKAY
        assert await write(ctx, dut.axil, registers["WATCHDOG"].offset, 99, strobe=3) == SLVERR
        assert await read(ctx, dut.axil, registers["WATCHDOG"].offset) == (77, OKAY)
        assert ctx.get(dut.watchdog) == 77
        for value, kept in ((5, 5), (NANO.vcache_tiles, NANO.vcache_tiles), (1 << 20, NANO.vcache_tiles)):
            assert await write(ctx, dut.axil, registers["KEPT_TILES"].offset, value) == OKAY
            assert ctx.get(dut.kept_tiles) == kept
        assert await write(ctx, dut.axil, registers["WINDOW1_LIMIT_LO"].offset, 0x1234) == OKAY
        assert ctx.get(dut.window_limit[1]) == 0x1234
        # A limit beyond the address width saturates rather than wraps.
        assert await write(ctx, dut.axil, registers["WINDOW1_LIMIT_HI"].offset, 1) == OKAY
        assert ctx.get(dut.window_limit[1]) == (1 << (NANO.address_bits + 1)) - 1

    simulate(dut, bench)


@pytest.mark.parametrize("changes", [{}, {"stationary_feed": "edge", "vertical_links": False, "address_bits": 37}])
def test_software_finds_the_configuration(changes: dict[str, Any]) -> None:
    """What is read over the bus gives the configuration of the machine, all of it."""
    config = NANO.replace(**changes)
    dut = CsrBlock(config)
    values: dict[str, int] = {}

    async def bench(ctx: Any) -> None:
        for register in register_map(config):
            if register.value is not None:
                values[register.name], response = await read(ctx, dut.axil, register.offset)
                assert response == OKAY

    simulate(dut, bench)
    assert config_from_capabilities(values, config.name) == config


def test_start_interrupt_and_error_report() -> None:
    """START only pulses when ready; DONE and ERROR set status, error registers and enabled interrupts."""
    dut = CsrBlock(NANO)
    registers = {r.name: r for r in register_map(NANO)}
    offset = {name: r.offset for name, r in registers.items()}
    # Enables and pending bits are compared bit by bit.
    assert [(f.name, f.bits) for f in registers["IRQ_ENABLE"].fields] == [
        (f.name, f.bits) for f in registers["IRQ_PENDING"].fields
    ]
    pulses: list[int] = []

    async def watch(ctx: Any) -> None:
        async for _, _, start, invalidate in ctx.tick().sample(dut.start, dut.invalidate):
            if start:
                pulses.append(int(invalidate))

    async def bench(ctx: Any) -> None:
        assert await write(ctx, dut.axil, offset["CONTROL"], 1) == OKAY
        ctx.set(dut.ready, 1)
        assert await write(ctx, dut.axil, offset["CONTROL"], 3) == OKAY
        assert await write(ctx, dut.axil, offset["IRQ_ENABLE"], 2) == OKAY
        ctx.set(dut.done, 1)
        await ctx.tick()
        ctx.set(dut.done, 0)
        await ctx.tick()
        assert await read(ctx, dut.axil, offset["STATUS"]) == (0b00101, OKAY)
        assert not ctx.get(dut.irq), "DONE is not enabled"
        ctx.set(dut.error, {"valid": 1, "code": int(ErrorCode.AXI_READ), "pc": 12, "address": 0x12_3456_7890})
        ctx.set(dut.failed, 1)
        await ctx.tick()
        ctx.set(dut.failed, 0)
        await ctx.tick()
        assert ctx.get(dut.irq)
        assert await read(ctx, dut.axil, offset["ERROR_CODE"]) == (ErrorCode.AXI_READ, OKAY)
        assert await read(ctx, dut.axil, offset["ERROR_PC"]) == (12, OKAY)
        assert await read(ctx, dut.axil, offset["ERROR_ADDRESS_LO"]) == (0x3456_7890, OKAY)
        assert await read(ctx, dut.axil, offset["ERROR_ADDRESS_HI"]) == (0x12, OKAY)
        assert await write(ctx, dut.axil, offset["IRQ_PENDING"], 2) == OKAY
        assert not ctx.get(dut.irq)
        assert await read(ctx, dut.axil, offset["IRQ_PENDING"]) == (1, OKAY)

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(bench)
    sim.add_testbench(watch, background=True)
    sim.run()
    assert pulses == [1], "one START while ready, with INVALIDATE"


async def look_up(ctx: Any, dut: CounterBank, index: int) -> int:
    """Ask for one counter; return its value, which must come in time."""
    ctx.set(dut.index, index)
    ctx.set(dut.ask, 1)
    for _ in range(LONGEST_READ):
        await ctx.tick()
        if ctx.get(dut.answered):
            break
    else:
        raise AssertionError(f"counter {index}: no answer in {LONGEST_READ} cycles")
    ctx.set(dut.ask, 0)
    return int(ctx.get(dut.value))


@pytest.mark.parametrize("asking", [False, True])
@pytest.mark.parametrize("rate", ["random", "all"])
def test_counters_count_sample_and_freeze(rate: str, asking: bool) -> None:
    """Events against a Python count over many sweeps, also when all happen in each cycle and reads never stop."""
    dut = CounterBank(TINY)
    names = counter_names(TINY)
    rng = random.Random(3)
    expected = dict.fromkeys(names, 0)
    state = {"sampled": False, "over": False}
    cycles, first, last = 4000, 10, 3900

    def count(events: dict[str, int]) -> None:
        for name, value in events.items():
            if name == "first_issue":
                if value and not state["sampled"]:
                    expected[name], state["sampled"] = expected["cycles"], True
            elif name == "last_result":
                expected[name] = expected["cycles"] if value else expected[name]
            else:
                expected[name] += value
        expected["cycles"] += 1

    async def stream(ctx: Any) -> None:
        for cycle in range(cycles):
            enable = first <= cycle < last
            ctx.set(dut.enable, enable)
            events = {}
            for name, shape in event_layout(TINY).members.items():
                most = (1 << Shape.cast(shape).width) - 1
                if rate == "all":
                    events[name] = most
                else:
                    events[name] = rng.randint(0, most) * rng.choice([0, 1]) * (name != "first_issue" or cycle > 500)
            state["over"] = cycle > cycles - 2 * LONGEST_READ
            ctx.set(dut.events, events)
            for tier in range(TINY.tiers):
                each = {name: 1 if rate == "all" else rng.randrange(2) for name in tier_event_layout().members}
                ctx.set(dut.tier_events[tier], each)
                events |= {f"tier{tier}_{name}": value for name, value in each.items()}
            if enable:
                count(events)
            await ctx.tick()

    async def reader(ctx: Any) -> None:
        """Read while it counts: never less than before, never more than cycles allow."""
        before = dict.fromkeys(names, 0)
        while asking and not state["over"]:
            index = rng.randrange(len(names))
            value = await look_up(ctx, dut, index)
            name = names[index]
            assert before[name] <= value <= 3 * expected["cycles"], name
            before[name] = value

    async def bench(ctx: Any) -> None:
        await stream(ctx)
        for index, name in enumerate(names):
            assert await look_up(ctx, dut, index) == expected[name], name
        # A read that has begun when all counters are cleared reads zero, and nothing of the old totals comes back.
        for wait in range(LONGEST_READ):
            ctx.set(dut.index, names.index("rows"))
            ctx.set(dut.ask, 1)
            for _ in range(wait):
                await ctx.tick()
            ctx.set(dut.clear, 1)
            await ctx.tick()
            ctx.set(dut.clear, 0)
            assert await look_up(ctx, dut, names.index("rows")) == 0
        for _ in range(2):
            for index, name in enumerate(names):
                assert await look_up(ctx, dut, index) == 0, name

    simulate(dut, bench, reader)
    assert COUNTER_BASE + 8 * len(names) <= 0x1000


@pytest.mark.parametrize("asked", [None, "rows", "rows_combine"])
def test_clear_while_counting(asked: str | None) -> None:
    """A second stream begins at any step of the sweep: it counts its own events only, read as they come."""
    dut = CounterBank(NANO)
    names = counter_names(NANO)

    async def bench(ctx: Any) -> None:
        for offset in range(4 * len(names) + 5):
            ctx.set(dut.enable, 1)
            ctx.set(dut.events, {"rows": 1, "rows_combine": 1})
            for _ in range(offset % 37 + 40):
                await ctx.tick()
            if asked is not None:
                assert await look_up(ctx, dut, names.index(asked)) > 0
            ctx.set(dut.enable, 0)
            ctx.set(dut.clear, 1)
            await ctx.tick()
            ctx.set(dut.clear, 0)
            ctx.set(dut.enable, 1)
            for _ in range(offset):
                await ctx.tick()
            ctx.set(dut.enable, 0)
            await ctx.tick()
            await ctx.tick()
            for name in ("cycles", "rows", "rows_combine", "instructions", "first_issue"):
                value = offset if name in ("cycles", "rows", "rows_combine") else 0
                assert await look_up(ctx, dut, names.index(name)) == value, (name, offset)

    simulate(dut, bench)


@pytest.mark.parametrize("source", [0, 3, "overflow", "watchdog"])
def test_supervisor_stops_cleanly(source: int | str) -> None:
    """An error halts, waits for quiet, reports once with the first error's code, resets and becomes ready again."""
    dut = Supervisor(NANO)
    seen: list[int] = []

    async def watch(ctx: Any) -> None:
        async for _, _, failed, code in ctx.tick().sample(dut.failed, dut.report.code):
            if failed:
                seen.append(int(code))

    async def bench(ctx: Any) -> None:
        ctx.set(dut.tags_ready, 1)
        ctx.set(dut.slots_ready, 1)
        ctx.set(dut.quiet, 1)
        ctx.set(dut.watchdog, 50 if source == "watchdog" else 0)
        await ctx.tick().until(dut.ready)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        await ctx.tick().until(dut.running)
        ctx.set(dut.quiet, 0)
        if isinstance(source, int):
            ctx.set(dut.error[source], {"valid": 1, "code": int(ErrorCode.RANGE), "pc": 5, "address": 0})
        elif source == "overflow":
            ctx.set(dut.overflow, 1)
        await ctx.tick().until(dut.halt)
        for _ in range(100):
            await ctx.tick()
            assert ctx.get(dut.halt), "not before the last transaction has ended"
            assert not ctx.get(dut.soft_reset)
        ctx.set(dut.quiet, 1)
        if isinstance(source, int):
            ctx.set(dut.error[source].valid, 0)
        ctx.set(dut.overflow, 0)
        await ctx.tick().until(dut.soft_reset)
        await ctx.tick().until(dut.ready)

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(bench)
    sim.add_testbench(watch, background=True)
    sim.run()
    code = {"overflow": ErrorCode.SEMAPHORE, "watchdog": ErrorCode.WATCHDOG}.get(str(source), ErrorCode.RANGE)
    assert seen == [code]


def test_supervisor_finishes_after_everything_is_idle() -> None:
    """END alone is not the end: all units must have been idle for SETTLE_CYCLES."""
    dut = Supervisor(NANO)

    async def bench(ctx: Any) -> None:
        ctx.set(dut.tags_ready, 1)
        ctx.set(dut.slots_ready, 1)
        ctx.set(dut.quiet, 1)
        await ctx.tick().until(dut.ready)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        await ctx.tick().until(dut.running)
        ctx.set(dut.ended, 1)
        for _ in range(60):
            await ctx.tick()
            assert ctx.get(dut.busy)
        ctx.set(dut.idle, 1)
        for _ in range(SETTLE_CYCLES - 1):
            await ctx.tick()
            assert not ctx.get(dut.done)
        await ctx.tick().until(dut.done)
        await ctx.tick()
        assert ctx.get(dut.ready)

    simulate(dut, bench)
