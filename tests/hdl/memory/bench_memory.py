# SPDX-License-Identifier: Apache-2.0
"""cocotb side of `test_axi_memory.py`: what `sim/rtl/axi_memory.v` promises."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, FallingEdge, RisingEdge

from scheduler.cost.hbm.timing import HBM3, T, parameters_of
from tests.scheduler.cost.hbm.rules import Request, commands_of
from tests.support.memory.verilog_top import read_dump

WIDTH = 8
SIZE = 1 << 14
QUIET = (
    "arid araddr arlen arburst arvalid rready awid awaddr awlen awburst awvalid wdata wstrb wlast wvalid bready "
    "jitter reorder hbm hbm_timing stall_ar stall_r stall_aw stall_w stall_b read_error_first read_error_end "
    "write_error_first write_error_end size load dump dump_first"
).split()


class Bus:
    """A master that does one thing per cycle: `step` returns what was transferred."""

    def __init__(self, dut: Any) -> None:
        self.dut = dut
        self.cycle = 0
        self.reads: list[tuple[int, int, int]] = []  # (id, address, beats)
        self.writes: list[tuple[int, bytes, int]] = []  # (address, data, strobes of every beat)
        self.read_log: list[tuple[int, int, int, int, int]] = []  # (cycle, id, data, resp, last)
        self.ar_log: list[int] = []
        self.w_log: list[int] = []
        self.b_log: list[tuple[int, int]] = []
        self.pending_w: list[tuple[int, int, int]] = []  # (data, strobes, last)

    async def reset(self, **settings: int) -> None:
        dut = self.dut
        Clock(dut.clk, 10, "ns").start()
        for name in QUIET:
            getattr(dut, name).value = 0
        dut.arsize.value = dut.awsize.value = 3
        dut.arburst.value = dut.awburst.value = 1
        dut.seed.value = 1
        dut.read_latency.value = dut.write_latency.value = 10
        dut.dump_last.value = SIZE // WIDTH - 1
        for name, value in settings.items():
            getattr(dut, name).value = value
        dut.rst.value = 1
        await ClockCycles(dut.clk, 2)
        dut.load.value = 1
        await ClockCycles(dut.clk, 2)
        dut.rst.value = 0
        dut.rready.value = dut.bready.value = 1
        await RisingEdge(dut.clk)

    async def run(self, cycles: int) -> None:
        """Play the queued requests for some cycles."""
        dut = self.dut
        for _ in range(cycles):
            dut.arvalid.value = bool(self.reads)
            if self.reads:
                dut.arid.value, dut.araddr.value, dut.arlen.value = (
                    self.reads[0][0],
                    self.reads[0][1],
                    self.reads[0][2] - 1,
                )
            dut.awvalid.value = bool(self.writes)
            if self.writes:
                address, data, _ = self.writes[0]
                dut.awaddr.value, dut.awlen.value = address, len(data) // WIDTH - 1
            dut.wvalid.value = bool(self.pending_w)
            if self.pending_w:
                dut.wdata.value, dut.wstrb.value, dut.wlast.value = self.pending_w[0]
            await FallingEdge(dut.clk)
            if self.reads and int(dut.arready.value):
                self.reads.pop(0)
                self.ar_log.append(self.cycle)
            if self.writes and int(dut.awready.value):
                _, data, strobe = self.writes.pop(0)
                words = [int.from_bytes(data[i : i + WIDTH], "little") for i in range(0, len(data), WIDTH)]
                self.pending_w += [(word, strobe, i == len(words) - 1) for i, word in enumerate(words)]
            if int(dut.wvalid.value) and int(dut.wready.value):
                self.pending_w.pop(0)
                self.w_log.append(self.cycle)
            if int(dut.rvalid.value):
                self.read_log.append(
                    (self.cycle, int(dut.rid.value), int(dut.rdata.value), int(dut.rresp.value), int(dut.rlast.value))
                )
            if int(dut.bvalid.value):
                self.b_log.append((self.cycle, int(dut.bresp.value)))
            await RisingEdge(dut.clk)
            self.cycle += 1

    async def dump(self) -> np.ndarray:
        self.dut.dump.value = 1
        await ClockCycles(self.dut.clk, 3)
        return read_dump(Path(os.environ["MEMORY_FOLDER"]) / "out.hex", WIDTH).reshape(-1)


def image() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, SIZE, np.uint8)


def word(memory: np.ndarray, address: int) -> int:
    return int.from_bytes(memory[address : address + WIDTH].tobytes(), "little")


@cocotb.test()
async def reads_have_the_latency_and_no_bubbles(dut: Any) -> None:
    bus = Bus(dut)
    await bus.reset(read_latency=17)
    memory = image()
    bus.reads = [(0, 256 * n, 16) for n in range(8)] + [(1, 8 * n, 1) for n in range(9)]
    await bus.run(200)
    cycles = [cycle for cycle, *_ in bus.read_log]
    assert cycles[0] == bus.ar_log[0] + 17
    assert cycles == list(range(cycles[0], cycles[0] + 8 * 16 + 9)), "a bubble on R"
    wanted = [256 * n + 8 * i for n in range(8) for i in range(16)] + [8 * n for n in range(9)]
    assert [data for _, _, data, _, _ in bus.read_log] == [word(memory, address) for address in wanted]
    assert [last for *_, last in bus.read_log] == ([0] * 15 + [1]) * 8 + [1] * 9
    assert int(dut.beats_read.value) == len(wanted) and not int(dut.assert_fail.value)


@cocotb.test()
async def writes_have_no_bubbles_and_obey_strobes(dut: Any) -> None:
    bus = Bus(dut)
    await bus.reset(write_latency=12)
    memory = image()
    rng = random.Random(1)
    for n in range(6):
        data, strobe = rng.randbytes(64), rng.randrange(256)
        bus.writes.append((128 * n, data, strobe))
        for i in range(64):
            if strobe >> (i % WIDTH) & 1:
                memory[128 * n + i] = data[i]
    await bus.run(100)
    assert bus.w_log == list(range(bus.w_log[0], bus.w_log[0] + 48)), "a bubble on W"
    assert [cycle for cycle, _ in bus.b_log] == [bus.w_log[8 * n + 7] + 12 for n in range(6)]
    assert int(dut.beats_written.value) == 48 and not int(dut.assert_fail.value)
    assert np.array_equal(await bus.dump(), memory)


@cocotb.test()
async def stalls_and_reordering_keep_each_id_in_order(dut: Any) -> None:
    bus = Bus(dut)
    rates = {f"stall_{channel}": 90 for channel in ("ar", "r", "aw", "w", "b")}
    await bus.reset(jitter=60, reorder=1, seed=5, **rates)
    memory = image()
    order = [(n % 2, 128 * n, 1 + n % 8) for n in range(60)]
    bus.reads = list(order)
    bus.writes = [(8192 + 64 * n, bytes([n] * 64), 255) for n in range(20)]
    await bus.run(1500)
    ids = [id for _, id, *_ in bus.read_log]
    for id in (0, 1):
        wanted = [address + 8 * i for i_, address, beats in order if i_ == id for i in range(beats)]
        assert [data for _, i, data, _, _ in bus.read_log if i == id] == [word(memory, address) for address in wanted]
    assert ids != [id for id, _, beats in order for _ in range(beats)], "nothing was reordered"
    inside = sum(1 for a, b in zip(bus.read_log, bus.read_log[1:], strict=False) if a[1] != b[1] and not a[4])
    assert inside, "no burst was interleaved with another id's"
    assert len(bus.b_log) == 20 and not int(dut.assert_fail.value)
    got = await bus.dump()
    assert all(got[8192 + 64 * n] == n for n in range(20))


HBM = parameters_of(HBM3, 800.0)
PACKED = sum(int(value) << 16 * at for at, value in enumerate(HBM))


@cocotb.test()
async def an_hbm_channel_says_when_beats_are_read(dut: Any) -> None:
    """As long after each command of the specification as data, controller and interface take."""
    bus = Bus(dut)
    await bus.reset(hbm=1, hbm_timing=PACKED, stall_ar=40)
    memory, rng = image(), random.Random(2)
    order = [(rng.randrange(2), 128 * rng.randrange(128), rng.choice((1, 3, 16))) for _ in range(60)]
    bus.reads = list(order)
    await bus.run(2600)
    assert len(bus.ar_log) == 60 and not int(dut.assert_fail.value)
    for id in (0, 1):
        wanted = [address + 8 * i for i_, address, beats in order if i_ == id for i in range(beats)]
        assert [data for _, i, data, _, _ in bus.read_log if i == id] == [word(memory, address) for address in wanted]
    asked = zip(bus.ar_log, order, strict=True)
    requests = [Request(cycle + 2, id, address // WIDTH, beats) for cycle, (id, address, beats) in asked]
    columns = [one for one in commands_of(HBM, requests) if one[1]]
    assert [one[2] for one in columns] == [id for _, id, *_ in bus.read_log]
    after = {seen - one[0] for (seen, *_), one in zip(bus.read_log, columns, strict=True)}
    assert after == {int(HBM[T.cl] + HBM[T.ccd_s] + HBM[T.path])}


@cocotb.test()
async def an_hbm_channel_answers_a_write_when_its_last_beat_is_written(dut: Any) -> None:
    bus = Bus(dut)
    await bus.reset(hbm=1, hbm_timing=PACKED)
    bus.writes = [(256 * n, bytes([n] * 64), 255) for n in range(3)]
    await bus.run(200)
    requests = [Request(bus.w_log[8 * n + 7] + 2, 2, 32 * n, 8) for n in range(3)]
    ends = [one[0] for one in commands_of(HBM, requests) if one[1] and one[3]]
    assert {seen - end for (seen, _), end in zip(bus.b_log, ends, strict=True)} == {1}
    assert ends[0] > bus.w_log[7] + int(HBM[T.rcd_wr])


@cocotb.test()
async def an_hbm_channel_takes_writes_and_reads_on_stalled_buses(dut: Any) -> None:
    bus = Bus(dut)
    rates = {f"stall_{channel}": 90 for channel in ("ar", "r", "aw", "w", "b")}
    await bus.reset(hbm=1, hbm_timing=PACKED, seed=3, **rates)
    memory = image()
    order = [(n % 2, 128 * n, 1 + n % 8) for n in range(60)]
    bus.reads = list(order)
    bus.writes = [(8192 + 64 * n, bytes([n] * 64), 255) for n in range(40)]
    await bus.run(4000)
    for id in (0, 1):
        wanted = [address + 8 * i for i_, address, beats in order if i_ == id for i in range(beats)]
        assert [data for _, i, data, _, _ in bus.read_log if i == id] == [word(memory, address) for address in wanted]
    assert len(bus.b_log) == 40 and not int(dut.assert_fail.value)
    got = await bus.dump()
    assert all((got[8192 + 64 * n :][:64] == n).all() for n in range(40))


@cocotb.test()
async def errors_where_asked_for(dut: Any) -> None:
    bus = Bus(dut)
    await bus.reset(read_error_first=72, read_error_end=80, write_error_first=520, write_error_end=521)
    memory = image()
    bus.reads = [(0, 64, 4)]
    bus.writes = [(512, bytes(32), 255), (1024, bytes(32), 255)]
    await bus.run(60)
    assert [resp for _, _, _, resp, _ in bus.read_log] == [0, 2, 0, 0]
    assert [resp for _, resp in bus.b_log] == [2, 0]
    memory[512:544] = 0
    memory[520:528] = image()[520:528]
    memory[1024:1056] = 0
    assert np.array_equal(await bus.dump(), memory), "the bad beat must not be written, its neighbours must"
    assert not int(dut.assert_fail.value)


@cocotb.test()
async def size_is_given_at_run_time(dut: Any) -> None:
    """A smaller memory ends where it says: reads answer DECERR, writes too and change nothing."""
    bus = Bus(dut)
    await bus.reset(size=SIZE // 4)
    memory = image()
    bus.reads = [(0, SIZE // 4 - 8, 1), (0, SIZE // 4, 1), (0, SIZE // 2 - 8, 1)]
    bus.writes = [(SIZE // 4 - 8, bytes(8), 255), (SIZE // 4, bytes(8), 255)]
    await bus.run(60)
    memory[SIZE // 4 - 8 : SIZE // 4] = 0
    assert [resp for _, _, _, resp, _ in bus.read_log] == [0, 3, 3]
    assert [resp for _, resp in bus.b_log] == [0, 3]
    assert int(dut.assert_fail.value), "a burst that leaves the memory breaks a rule"
    assert np.array_equal(await bus.dump(), memory)


async def breaks(dut: Any, what: str) -> bool:
    bus = Bus(dut)
    await bus.reset(stall_ar=255, stall_aw=255, stall_w=255)
    dut.arlen.value = dut.awlen.value = 0
    kind = "aw" if "aw" in what else "ar"
    if what.endswith("burst"):
        getattr(dut, f"{kind}burst").value = 2
    elif what.endswith("size"):
        getattr(dut, f"{kind}size").value = 2
    elif what.endswith("aligned"):
        getattr(dut, f"{kind}addr").value = 4
    elif what.endswith("4k"):
        getattr(dut, f"{kind}addr").value, getattr(dut, f"{kind}len").value = 4096 - 8, 1
    elif what.endswith("range"):
        getattr(dut, f"{kind}addr").value = SIZE
    stable = what.endswith(("withdrawn", "changed"))
    if not stable:
        for name in ("stall_ar", "stall_aw", "stall_w"):
            getattr(dut, name).value = 0
    valid = "wvalid" if what.startswith("w ") else f"{kind}valid"
    if what == "w last":
        dut.awlen.value, dut.awvalid.value, dut.wvalid.value, dut.wlast.value = 1, 1, 1, 1
    getattr(dut, valid).value = 1
    await ClockCycles(dut.clk, 2)
    if what.endswith("withdrawn"):
        getattr(dut, valid).value = 0
    elif what.endswith("changed"):
        (dut.wdata if what.startswith("w ") else getattr(dut, f"{kind}addr")).value = 8
    await ClockCycles(dut.clk, 6)
    failed = bool(int(dut.assert_fail.value))
    for name in ("arvalid", "awvalid", "wvalid"):
        getattr(dut, name).value = 0
    await ClockCycles(dut.clk, 2)
    return failed


@cocotb.test()
@cocotb.parametrize(
    what=["ar fine", "aw fine"]
    + [f"{kind} {rule}" for kind in ("ar", "aw") for rule in ("burst", "size", "aligned", "4k", "range")]
    + [f"{kind} {rule}" for kind in ("ar", "aw", "w") for rule in ("withdrawn", "changed")]
    + ["w last"]
)
async def broken_rules_are_noticed(dut: Any, what: str) -> None:
    assert await breaks(dut, what) == (not what.endswith("fine"))
