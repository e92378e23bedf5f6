# SPDX-License-Identifier: Apache-2.0
"""The machine under test from reset to interrupt: runs a list of jobs and writes what it saw as JSON.

``sim.machine.system`` prepares the jobs and reads the results; this module runs inside the simulator. The machine runs
alone between start and interrupt: no Python per cycle.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, First, RisingEdge, Timer

from hdl.config import MachineConfig
from hdl.scratch import whole_file
from sim.benches.axil import AxilManager
from sim.golden.executor import Executor
from sim.machine.system import (
    MEMORY_CONTROLS,
    TRACE_FILE,
    Job,
    back_door_plusargs,
    machine_sources,
    result_file,
    write_jobs,
)  # fmt: skip
from sim.measure.crosscheck import random_knobs
from sim.simulator.bench_top import BENCH_TOP
from sim.simulator.hexfile import channel_path, read_dump
from sim.simulator.testbench import Design
from sim.stimulus.streams import random_stream

PERIOD_NS = 2
POLL_S = 0.002

MEMORY_BITS = 18
"""log2 of the bytes of each group's memory in which random streams run, where the machine addresses as many."""


async def strobe(signal: Any, clk: Any) -> None:
    """Hold a control input high for one cycle."""
    signal.value = 1
    await RisingEdge(clk)
    signal.value = 0
    await RisingEdge(clk)


async def wait_ready(axil: AxilManager, clk: Any) -> None:
    """Wait until the machine accepts a start (the tag sweep after reset or an error is over)."""
    for _ in range(10_000):
        if await axil.read("STATUS") & axil.bits("STATUS", "READY"):
            return
        await ClockCycles(clk, 50)
    raise AssertionError("the machine never became ready")


def channel_files(paths: list[str], config: MachineConfig, suffix: str) -> Iterator[tuple[str, str]]:
    """Yield (file of the caller, file that the memory model of a channel uses) for every channel."""
    channels = config.channels_per_group
    for group, path in enumerate(paths):
        for channel in range(channels):
            name = f"group{group}" if channels == 1 else f"group{group}_{channel}"
            yield str(channel_path(Path(path), channel, channels)), f"{name}.{suffix}"


def hbm_files(paths: list[str], config: MachineConfig) -> Iterator[tuple[str, str]]:
    """Yield the same for the record of the first HBM channel of each group."""
    for group, path in enumerate(paths):
        yield path, f"group{group}.hbm" if config.channels_per_group == 1 else f"group{group}_0.hbm"


async def run_job(dut: Any, axil: AxilManager, job: dict[str, Any]) -> dict[str, Any]:
    """Load memories, program the registers, start, wait for the interrupt, read everything back."""
    clk = dut.clk
    knobs = job["memory"]
    for name, value in knobs.items():
        getattr(dut, name).value = value
    dut.mem_bytes.value = job["simulated_bytes"]
    await strobe(dut.mem_rst, clk)
    for files in (job["images"], job["patches"]):
        if files is not None:
            for source, local in channel_files(files, axil.config, "hex"):
                shutil.copyfile(source, local)
            await strobe(dut.mem_load, clk)
    await axil.write_wide("STREAM_BASE", job["stream_base"])
    await axil.write("WATCHDOG", job["watchdog"])
    await axil.write("KEPT_TILES", job["kept_tiles"])
    for group in range(2):
        await axil.write_wide(f"MEMORY{group}_BYTES", job["memory_bytes"][group])
        await axil.write_wide(f"WINDOW{group}_BASE", job["window"][group][0])
        await axil.write_wide(f"WINDOW{group}_LIMIT", job["window"][group][1])
    for register in ("IRQ_PENDING", "IRQ_ENABLE"):
        await axil.write(register, axil.bits(register, "DONE", "ERROR"))
    await wait_ready(axil, clk)
    if job["idle"]:
        await Timer(job["idle"] * PERIOD_NS, unit="ns")
        await RisingEdge(clk)
    if job["trace"]:
        dut.trace_on.value = 1
        await RisingEdge(clk)
    started = time.perf_counter()
    await axil.write("CONTROL", axil.bits("CONTROL", "START", *(["INVALIDATE"] if job["invalidate"] else [])))
    # Not ClockCycles: it wakes Python in every cycle, at a cost of microseconds.
    limit = Timer(job["max_cycles"] * PERIOD_NS, unit="ns")
    fired = await First(RisingEdge(dut.irq), limit)
    wall = time.perf_counter() - started
    result: dict[str, Any] = {"timed_out": fired is limit, "wall_s": wall}
    await wait_ready(axil, clk) if fired is not limit else None
    if job["trace"]:
        dut.trace_on.value = 0
        await ClockCycles(clk, 2)  # the recorder closes the file
        shutil.move(TRACE_FILE, job["trace"])
    status = await axil.read("STATUS")
    result |= {
        "done": bool(status & axil.bits("STATUS", "DONE")),
        "error": bool(status & axil.bits("STATUS", "ERROR")),
        "semaphores_left": bool(status & axil.bits("STATUS", "SEMAPHORES")),
        "error_code": await axil.read("ERROR_CODE"),
        "error_pc": await axil.read("ERROR_PC"),
        "error_address": await axil.read_wide("ERROR_ADDRESS"),
        "counters": await axil.counters(),
        "assert_fail": int(dut.mem_assert_fail.value),
    }
    if job["hbm"]:
        dut.mem_hbm.value = 0
        await strobe(dut.mem_rst, clk)  # the channels close their files
        for target, (_, local) in zip(job["hbm"], hbm_files(job["hbm"], axil.config), strict=True):
            shutil.move(local, target)
    if job["dump"]:
        await strobe(dut.mem_dump, clk)
        for target, local in channel_files(job["dump"], axil.config, "dump"):
            shutil.move(local, target)
        if job["expected"] is not None:
            compare(job, axil.config, result)
    return result


def served(folder: Path, parent: int) -> Iterator[dict[str, Any]]:
    """Yield the jobs that the parent process puts into a folder, until it says that there are no more or is gone."""
    number = 0
    while True:
        path = folder / f"job{number}.json"
        while not path.exists():
            if os.getppid() != parent:
                return
            time.sleep(POLL_S)  # nothing is simulated meanwhile
        job = json.loads(path.read_text())
        if job is None:
            return
        yield job
        number += 1


def compare(job: dict[str, Any], config: MachineConfig, result: dict[str, Any]) -> None:
    """Fail when the run did not end well or a byte of either memory is not what the executor says."""
    assert result["done"], f"the machine stopped with code {result['error_code']} at {result['error_pc']}"
    assert not result["assert_fail"], "the memory model saw a violation of the AXI protocol"
    for group, path in enumerate(job["expected"]):
        expected = np.load(path)
        got = read_dump(Path(job["dump"][group]), expected.size, config.channel_bytes, config.channels_per_group)
        wrong = np.flatnonzero(expected != got)
        assert not wrong.size, (
            f"group {group}: {wrong.size} bytes differ, first at {wrong[0]:#x}: "
            f"expected {expected[wrong[0]]:#04x}, got {got[wrong[0]]:#04x}"
        )


def prepare(config: MachineConfig, folder: Path, simulator: str, seed: int | None = None) -> Design:
    """Generate the machine and ten random streams with their expected memories: those of `seed` and the nine after.

    Without a seed, A3D_STREAM_SEED has it, or it is 0.
    """
    if seed is None:
        seed = int(os.environ.get("A3D_STREAM_SEED", "0"))
    jobs = []
    for index in range(10):
        stream = random_stream(config, seed + index)
        executor = Executor(config, stream.images, stream.limits)
        executor.run(stream.instructions)
        jobs.append(
            Job(
                images=stream.images,
                stream_base=stream.stream_base,
                limits=stream.limits,
                knobs=random_knobs(random.Random(seed + index)),
                expected=(executor.memory[0], executor.memory[1]),
            )
        )
    sources = machine_sources(config, folder / "rtl", MEMORY_BITS, simulator)
    jobs_file = write_jobs(config, 1 << min(MEMORY_BITS, config.address_bits), jobs, folder)
    env = {"A3D_JOBS": str(jobs_file)}
    return Design(sources=tuple(sources), top=BENCH_TOP, env=env, plusargs=tuple(back_door_plusargs(config)))


@cocotb.test()
async def jobs(dut: Any) -> None:
    """Run the jobs named by A3D_JOBS one after the other on one simulated machine."""
    description = json.loads(Path(os.environ["A3D_JOBS"]).read_text())
    config = MachineConfig(**description["config"])
    axil = AxilManager(dut, config)
    axil.idle()
    for name in MEMORY_CONTROLS:
        getattr(dut, name).value = 0
    dut.mem_bytes.value = 0
    dut.mem_rst.value = 0
    dut.mem_load.value = 0
    dut.mem_dump.value = 0
    dut.trace_on.value = 0
    dut.rst.value = 1
    Clock(dut.clk, PERIOD_NS, unit="ns").start()
    await ClockCycles(dut.clk, 4)
    dut.rst.value = 0
    folder = Path(description["folder"])
    parent = description.get("parent", os.getppid())
    for number, job in enumerate(served(folder, parent) if description["serve"] else description["jobs"]):
        result = await run_job(dut, axil, job)
        with whole_file(result_file(folder, number)) as scratch:
            scratch.write_text(json.dumps(result))
        if result["timed_out"]:
            break
