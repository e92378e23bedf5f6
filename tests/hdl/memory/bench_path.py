# SPDX-License-Identifier: Apache-2.0
"""cocotb side of `test_path_verilog.py`: the memory path on `axi_memory.v`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, FallingEdge, RisingEdge

from hdl.config import MachineConfig
from hdl.isa import Format, Instruction, LoadDest, Opcode
from hdl.isa.error_codes import ErrorCode
from tests.support.memory.environment import Environment, apply_stores, entry
from tests.support.memory.programs import random_loads, random_memory, random_stores
from tests.support.memory.simulate import channel_views
from tests.support.memory.verilog_top import SETTINGS, memory_names, read_dump, write_hex

CONFIG = MachineConfig(**json.loads(os.environ["PATH_CONFIG"]))
FOLDER = Path(os.environ["PATH_FOLDER"])
NAMES = memory_names(CONFIG)


class Machine:
    """The device and its memories."""

    def __init__(self, dut: Any, memory: list[np.ndarray], **settings: int) -> None:
        self.dut = dut
        self.memory = memory
        self.handles: dict[str, Any] = {}
        self.settings = {"read_latency": 4, "write_latency": 4, "seed": 1} | settings

    async def start(self) -> None:
        dut = self.dut
        for name, view in zip(NAMES, self._views(self.memory), strict=True):
            write_hex(FOLDER / f"{name}.hex", view)
        Clock(dut.clk, 10, "ns").start()
        for name in SETTINGS:
            getattr(dut, f"mem_{name}").value = self.settings.get(name, 0)
        dut.rst.value = 1  # until the first cycle of `play`
        await ClockCycles(dut.clk, 2)
        dut.mem_load.value = 1
        await ClockCycles(dut.clk, 3)

    def _views(self, memory: list[np.ndarray]) -> list[np.ndarray]:
        return [view for group in memory for view in channel_views(CONFIG, group)]

    def get(self, name: str) -> int:
        if name not in self.handles:
            self.handles[name] = getattr(self.dut, name)
        value = self.handles[name].value
        if not value.is_resolvable:  # Icarus: a memory's output register before its first read
            assert name.endswith("payload"), f"{name} is {value}"
            return 0
        return int(value)

    async def play(self, env: Environment, until: Callable[[], bool] | None = None, cycles: int = 60_000) -> None:
        before: dict[str, int] = {}
        self.dut.rst.value = 0
        for _ in range(cycles):
            for name, value in env.drive().items():
                if before.get(name) != value:
                    before[name] = value
                    getattr(self.dut, name).value = int(value)
            await FallingEdge(self.dut.clk)
            env.observe(self.get)
            done = until() if until else env.finished(self.get)
            await RisingEdge(self.dut.clk)
            if done:
                return
        raise AssertionError(f"not finished after {cycles} cycles; errors: {env.log.errors}")

    async def dump(self) -> list[np.ndarray]:
        """Return the groups' memories as the simulator holds them, and check that no AXI rule was broken."""
        self.dut.mem_dump.value = 1
        await ClockCycles(self.dut.clk, 3)
        groups = [np.zeros_like(group) for group in self.memory]
        for name, view in zip(NAMES, self._views(groups), strict=True):
            assert not int(getattr(self.dut, f"{name}_assert_fail").value), f"{name}: an AXI rule was broken"
            view[:] = read_dump(FOLDER / f"{name}.out", CONFIG.channel_bytes)
        return groups


def combine_rows(seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    rows = generator.integers(-(1 << 31), 1 << 31, (CONFIG.combine_rows, CONFIG.columns), np.int64)
    return (rows >> generator.integers(0, 28, rows.shape)).astype(np.int32)


async def traffic(dut: Any, seed: int, loads: int, stores: int, stall: float, **settings: int) -> None:
    """Loads, stores and an instruction stream at the same time."""
    memory = random_memory(seed)
    combine = combine_rows(seed)
    store_list = random_stores(seed, CONFIG, stores)
    # Loads stay in the lower half, stores in the upper: what a load reads must not change.
    load_list = [i for i in random_loads(seed, CONFIG, 2 * loads) if max(i["addr"], i["addr_low"]) < 500][:loads]
    program = random_program(seed, 60)
    memory[0][: program.size] = program
    machine = Machine(dut, memory, seed=seed, **settings)
    await machine.start()
    env = Environment(
        CONFIG, memory, load_list, store_list, combine=combine, seed=seed, stall=stall, wait_delay=int(4 * stall)
    )
    env.start = 0
    want_memory, want_combine = [group.copy() for group in memory], combine.copy()
    apply_stores(CONFIG, store_list, want_combine, want_memory)
    await machine.play(env, lambda: env.finished(machine.get) and len(env.log.instructions) == 60)
    env.check_loads()
    assert not env.log.errors
    assert np.array_equal(combine, want_combine)
    for pc, (_, got_pc, word) in enumerate(env.log.instructions):
        assert got_pc == pc and word == int.from_bytes(program[32 * pc : 32 * pc + 32].tobytes(), "little")
    got = await machine.dump()
    for g in range(2):
        assert np.array_equal(got[g], want_memory[g]), f"group {g}"


def random_program(seed: int, count: int) -> np.ndarray:
    """Return instructions whose opcodes are not END but for the last's."""
    generator = np.random.default_rng(seed)
    words = generator.integers(0, 256, (count, 32), np.uint8)
    words[:, 0] = words[:, 0] & 0xC0 | Opcode.LOAD
    words[-1, 0] = Opcode.END
    return words.reshape(-1)


@cocotb.test()
async def random_traffic_without_stalls(dut: Any) -> None:
    await traffic(dut, 1, 25, 8, 0.0)


@cocotb.test()
async def random_traffic_with_stalls(dut: Any) -> None:
    rates = {f"stall_{channel}": 80 for channel in ("ar", "r", "aw", "w", "b")}
    await traffic(dut, 2, 25, 8, 0.3, jitter=40, reorder=1, **rates)


def stream_of_loads(form: Format, tiles: int, total: int, split_tiers: bool) -> list[Instruction]:
    """Return V-Cache loads of `tiles` tiles each that bring `total` tiles (PAIR) or `total` per group."""
    loads = []
    size = (CONFIG.tile_bytes if form in (Format.BYTES, Format.COLUMNS) else CONFIG.plane_bytes) * tiles
    for n in range(total // tiles):
        for group in (0,) if form == Format.PAIR else (0, 1):
            values = {
                "format": form, "group": group if form != Format.PAIR else n % 2, "dest_kind": LoadDest.VCACHE,
                "dest_base": n * tiles % (CONFIG.vcache_tiles - tiles + 1), "count": tiles, "tag": n % 64,
                "dest_tiers": 1 << (group % CONFIG.tiers if split_tiers else 0),
                "addr": (n * size % 0xC000) // 32, "addr_low": (n * size % 0xC000) // 32 + 32,
                "post0_en": 1, "post0_sem": 1,
            }  # fmt: skip
            loads.append(Instruction(Opcode.LOAD, values))
    return loads


class Meter:
    """Feeds queues at full speed and counts, with as few accesses a cycle as possible."""

    def __init__(self, dut: Any) -> None:
        self.dut = dut

    def idle(self) -> None:
        """Everything ready, nothing offered."""
        for name in ("load_post__0", "load_post__1", "load_wait__0", "load_wait__1", "load_bus_write",
                     "load_row_write", "store_post", "store_wait", "store_store_read",
                     "fetch_instructions"):  # fmt: skip
            getattr(self.dut, f"{name}__ready").value = 1
        for name in ("load_queue__0", "load_queue__1", "store_queue", "store_store_data"):
            getattr(self.dut, f"{name}__valid").value = 0
        for name in ("load_halt", "store_halt", "fetch_halt", "fetch_start", "fetch_stop"):
            getattr(self.dut, name).value = 0
        for g in range(2):
            for name in ("load_limit", "store_window_limit"):
                getattr(self.dut, f"{name}__{g}").value = 1 << 16
            getattr(self.dut, f"store_window_base__{g}").value = 0
        self.dut.rst.value = 0

    async def run(self, queues: dict[str, list[Instruction]], signal: Any, mask: int, want: int) -> int:
        """Run instructions until `want` bits of `signal & mask` were set; return the cycles from first to last."""
        left = {name: [entry(i, 0) for i in reversed(items)] for name, items in queues.items()}
        ports = {n: [getattr(self.dut, f"{n}__{x}") for x in ("valid", "ready", "payload")] for n in queues}
        seen = cycles = 0
        changed = set(queues)
        for _ in range(50_000):
            for name in changed:
                ports[name][0].value = bool(left[name])
                if left[name]:
                    ports[name][2].value = left[name][-1]
            await FallingEdge(self.dut.clk)
            changed = {name for name in queues if left[name] and int(ports[name][1].value)}
            for name in changed:
                left[name].pop()
            seen += (int(signal.value) & mask).bit_count()
            cycles += seen > 0
            await RisingEdge(self.dut.clk)
            if seen >= want:
                break
        assert seen == want, f"{seen} of {want}"
        for name in queues:
            ports[name][0].value = 0
        await ClockCycles(self.dut.clk, 60)
        return cycles

    async def loads(self, loads: list[Instruction], signal: Any, mask: int, want: int) -> int:
        """Run loads in the queues that they belong to."""
        return await self.run(
            {f"load_queue__{g}": [i for i in loads if i["group"] == g or i["format"] == Format.PAIR] for g in range(2)},
            signal,
            mask,
            want,
        )


@cocotb.test(skip="PATH_BANDWIDTH" not in os.environ)
async def bandwidth(dut: Any) -> None:
    """Fill words of long and of short loads against the peak, with a fixed latency of 40 cycles and no stalls."""
    machine = Machine(dut, random_memory(3), read_latency=40, write_latency=40)
    await machine.start()
    meter = Meter(dut)
    meter.idle()
    results = {}
    words_field = 0b1100  # load_stats.words
    for form, peak in ((Format.PAIR, 1), (Format.HIGH, 2), (Format.BYTES, 1), (Format.COLUMNS, 1)):
        for tiles in (16, 1):
            loads = stream_of_loads(form, tiles, max(32, 1024 // CONFIG.fill_words), True)
            words = sum(i["count"] for i in loads) * CONFIG.fill_words
            cycles = await meter.loads(loads, dut.load_stats, words_field, words)
            results[f"{form.name} x{tiles}"] = {"words": words, "cycles": cycles, "share": words / cycles / peak}
    kinds = {
        LoadDest.ACTIVATION: (CONFIG.activation_words // 2, dut.load_bus_write__valid),
        LoadDest.LIST: (CONFIG.list_depth // 2, dut.load_list_write_valid),
        LoadDest.ROWS: (min(512, CONFIG.combine_rows) // 2, dut.load_row_write__valid),
    }
    # Both engines share the row port, and an engine needs `beats_per_row` beats for a row.
    beats_per_row = max(1, 2 * CONFIG.columns // CONFIG.group_bytes)
    for kind, (items, signal) in kinds.items():
        loads = [
            Instruction(
                Opcode.LOAD,
                {"group": g, "dest_kind": kind, "count": items, "dest_tiers": int(kind != LoadDest.ROWS),
                 "dest_base": g * items, "shift": 4 * (kind == LoadDest.ROWS)},
            )
            for g in range(2)
        ]  # fmt: skip
        peak = min(1, 2 / beats_per_row) if kind == LoadDest.ROWS else 1
        cycles = await meter.loads(loads, signal, 1, 2 * items)
        share = 2 * items / cycles / peak
        results[f"{kind.name} both groups"] = {"words": 2 * items, "cycles": cycles, "share": share}
    (FOLDER / "bandwidth.json").write_text(json.dumps(results))
    await machine.dump()


@cocotb.test(skip="PATH_BANDWIDTH" not in os.environ)
async def store_bandwidth(dut: Any) -> None:
    """Beats of two stores, one after another, with rows always there."""
    machine = Machine(dut, random_memory(4), read_latency=40, write_latency=40)
    await machine.start()
    meter = Meter(dut)
    meter.idle()
    rows = min(CONFIG.combine_rows // 2, 16384 // (4 * CONFIG.columns))
    stores = [
        Instruction(Opcode.STORE, {"format": 2, "rows": rows, "addr": n * rows * CONFIG.columns * 4 // 32})
        for n in range(2)
    ]
    dut.store_store_data__valid.value = 1
    beats = 2 * rows * 4 * CONFIG.columns // CONFIG.group_bytes
    cycles = await meter.run({"store_queue": stores}, dut.store_stats, 3, beats)
    share = beats / cycles
    (FOLDER / "store_bandwidth.json").write_text(json.dumps({"beats": beats, "cycles": cycles, "share": share}))


@cocotb.test()
async def read_error_stops_cleanly(dut: Any) -> None:
    """An error response to a load: reported with its beat's address; everything on its way finishes."""
    memory = random_memory(5)
    loads = [
        Instruction(
            Opcode.LOAD,
            {"group": 1, "dest_kind": LoadDest.ACTIVATION, "count": 16, "dest_tiers": 1, "dest_base": 16 * n,
             "addr": n * 16 * max(32, CONFIG.rows) // 32},
        )
        for n in range(4)
    ]  # fmt: skip
    bad = loads[2]["addr"] * 32 + CONFIG.group_bytes
    first = bad // CONFIG.channels_per_group
    machine = Machine(dut, memory, read_latency=30, read_error_first=first, read_error_end=first + 1, stall_r=60)
    await machine.start()
    env = Environment(CONFIG, memory, loads, limit=[1 << 16, 1 << 16])
    await machine.play(env, lambda: bool(env.log.errors) and bool(machine.get("load_quiet")))
    assert env.log.errors["load"] == (ErrorCode.AXI_READ, 2, bad)
    env.check_done(loads[0])
    env.check_done(loads[1])
    await machine.dump()
