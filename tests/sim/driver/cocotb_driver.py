# SPDX-License-Identifier: Apache-2.0
"""cocotb test that `test_driver.py` runs: the C driver, whose register accesses are reads and writes on AXI4-Lite.

The driver runs in a thread of its own. What it calls back runs in the simulator, which it waits for.
"""

import ctypes
import os
from collections.abc import Callable
from typing import Any

import cocotb
import numpy as np
from cocotb.task import bridge, resume
from cocotb.triggers import FallingEdge, RisingEdge, with_timeout

from hdl.isa.asm import assemble, to_binary
from hdl.isa.legality import Limits
from sim.golden.executor import Executor
from sim.stimulus.streams import StreamOptions, illegal_streams, random_stream
from tests.support.foreign.machine import CONFIG
from tests.support.foreign.system import MEMORY_BYTES, ForeignSystem

SLEEP_NS = 200_000


class Device(ctypes.Structure):
    """``a3d_device``."""

    READ = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint32)
    WRITE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32)
    _fields_ = (("read", READ), ("write", WRITE), ("context", ctypes.c_void_p))


class Bench(ctypes.Structure):
    """``session_bench``."""

    CALL = ctypes.CFUNCTYPE(None, ctypes.c_int)
    _fields_ = (("put", CALL), ("compare", CALL), ("sleep", CALL))


class Stream(ctypes.Structure):
    """``session_stream``."""

    _fields_ = (
        ("stream", ctypes.c_uint64), ("bytes", ctypes.c_uint64 * 2), ("base", ctypes.c_uint64 * 2),
        ("limit", ctypes.c_uint64 * 2), ("code", ctypes.c_uint32), ("pc", ctypes.c_uint32),
        ("address", ctypes.c_uint64), ("instructions", ctypes.c_uint32),
    )  # fmt: skip


def stream(base: int, limits: Limits, **expected: int) -> Stream:
    """Return what the session must know of a stream."""
    window = list(zip(*limits.window, strict=True))
    return Stream(
        stream=base, bytes=tuple(limits.memory_bytes), base=tuple(window[0]), limit=tuple(window[1]), **expected
    )


def resident() -> tuple[tuple[bytes, bytes], int, int]:
    """Return memories with two streams, and where these lie: one loads tile 3 and uses it, the other uses it."""
    gemm = "gemm tokens=2 k_slices=1 n_tiles=1 act_stride=1 tag=63 mode=requant16 dest_kind=combine vcache=3"
    first = assemble(
        f"""
        load dest_kind=activation dest_tiers=0 count=2 post=s0
        load dest_kind=parameter dest_tiers=0 count=1 addr=32 post=s0
        load dest_tiers=0 dest=3 count=1 tag=63 addr=64
        {gemm} wait=s0:2 post=s1
        store format=int32 rows=2 addr=512 group=1 wait=s1
        end"""
    )
    again = assemble(f"{gemm} post=s1\nstore format=int32 rows=2 addr=640 group=1 wait=s1\nend")
    data = np.random.default_rng(1).integers(0, 256, 8192, dtype=np.uint8).tobytes()
    image = data + to_binary(first)
    return (image + to_binary(again), bytes(32768)), len(data), len(image)


@cocotb.test()
async def driver(dut: Any) -> None:
    """Run ``session`` of session.c."""
    library = ctypes.CDLL(os.environ["A3D_DRIVER"])
    library.a3d_error_name.restype = ctypes.c_char_p
    system = ForeignSystem(dut, CONFIG)
    await system.reset()

    good = random_stream(CONFIG, 3, options=StreamOptions.everything(slots=True))
    bad = next(one for one in illegal_streams(CONFIG) if one.pc is not None and one.address)
    assert library.a3d_error_name(int(bad.code)) == bad.code.name.encode()
    both, loads, uses = resident()
    whole = Limits((MEMORY_BYTES,) * 2, ((0, MEMORY_BYTES),) * 2)
    streams = (Stream * 4)(
        stream(good.stream_base, good.limits, instructions=len(good.instructions)),
        stream(bad.stream_base, bad.limits, code=int(bad.code), pc=bad.pc, address=bad.address),
        stream(loads, whole),
        stream(uses, whole),
    )
    images = [good.images, bad.images, both, both]
    expected = []
    executor = Executor(CONFIG)
    for start, limits, number in ((good.stream_base, good.limits, 0), (loads, whole, 2), (uses, whole, 3)):
        executor.memory = [np.frombuffer(i.ljust(MEMORY_BYTES, b"\0"), np.uint8).copy() for i in images[number]]
        executor.limits = limits
        executor.run(executor.memory[0][start:].tobytes())
        expected.append([memory.copy() for memory in executor.memory])
    expected.insert(1, [])
    wrong: list[str] = []

    @resume
    async def read(offset: int) -> int:
        return int(await system.registers.read_dword(offset))

    @resume
    async def write(offset: int, value: int) -> None:
        await system.registers.write_dword(offset, value)

    @resume
    async def sleep(level: int) -> None:
        if int(dut.irq.value) != level:
            edge = RisingEdge(dut.irq) if level else FallingEdge(dut.irq)
            await with_timeout(edge, SLEEP_NS, "ns")

    def compare(number: int) -> None:
        for group, (want, got) in enumerate(zip(expected[number], system.contents(), strict=True)):
            differing = np.flatnonzero(want != got)
            if differing.size:
                wrong.append(f"stream {number}, group {group}: {differing.size} bytes, first at {differing[0]:#x}")

    def guarded(call: Callable[..., Any]) -> Callable[..., Any]:
        """ctypes prints the exceptions of what C calls, and goes on."""

        def run(*arguments: int) -> Any:
            try:
                return call(*arguments)
            except Exception as error:
                wrong.append(repr(error))
                return 0

        return run

    device = Device(
        Device.READ(guarded(lambda _, offset: read(offset))),
        Device.WRITE(guarded(lambda _, offset, value: write(offset, value))),
        None,
    )
    bench = Bench(
        Bench.CALL(guarded(lambda number: system.put(images[number]))),
        Bench.CALL(guarded(compare)),
        Bench.CALL(guarded(sleep)),
    )

    @bridge
    def session() -> int:
        return int(library.session(ctypes.byref(device), ctypes.byref(bench), streams))

    line = await session()
    assert (line, wrong) == (0, []), f"session.c, line {line}: {wrong}"
