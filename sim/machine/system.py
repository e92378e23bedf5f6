# SPDX-License-Identifier: Apache-2.0
"""Runs instruction streams on the generated machine: emission, bench top, simulator, memory images, counters."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hdl.array.tier import Tier
from hdl.config import MachineConfig
from hdl.emit.hierarchy import parameter_key
from hdl.errors import A3dError
from hdl.generate import generate
from hdl.isa import Instruction, encode
from hdl.isa.error_codes import ErrorCode
from hdl.isa.legality import Limits
from hdl.scratch import scratch_folder, whole_file
from scheduler.cost.memory_timing import MemoryTiming
from sim.machine.hbm_record import HbmRecord, read_record
from sim.simulator import runner
from sim.simulator.bench_top import BENCH_TOP, capacity_bits, memory_sources, render_bench
from sim.simulator.hexfile import read_dump, write_hex, write_hex_patches
from sim.view.trace import Trace, read_trace

__all__ = [
    "Job", "JobResult", "MemoryKnobs", "SimulatedMachine", "SystemRunError", "back_door_plusargs", "machine_sources",
    "place_stream", "result_file", "source_folder", "stream_bytes", "write_jobs",
]  # fmt: skip

Bytes = npt.NDArray[np.uint8]


START_S, LONGEST_S = 1200.0, 24 * 3600.0
SLOW_PES_PER_S = 1e7
"""A simulator that is alive simulates more PEs x cycles a second than this: on a core of its own it was 10 times that
for every preset."""

BLOCK_PES = 1 << 16
"""From so many PEs on, Verilator compiles the tier by itself, once for all of them (decision 13)."""

TRACE_FILE = "trace.txt"
"""File in the simulator's directory to which the recorder writes."""


class SystemRunError(A3dError):
    """A simulated machine did something that it must never do: time-out, protocol violation, wrong state."""


def stream_bytes(instructions: Sequence[Instruction]) -> bytes:
    """Return the binary of a stream."""
    return b"".join(encode(instruction) for instruction in instructions)


@dataclass(frozen=True, kw_only=True)
class MemoryKnobs(MemoryTiming):
    """How the simulated memories behave: their timing, and where they answer with an error.

    Attributes
    ----------
    read_error, write_error : (group, first byte, end) or None
        Range that answers SLVERR.
    """

    read_error: tuple[int, int, int] | None = None
    write_error: tuple[int, int, int] | None = None

    @classmethod
    def like(cls, timing: MemoryTiming) -> MemoryKnobs:
        """Return memories that take as long as `timing` says, and answer without errors."""
        return cls(**{part.name: getattr(timing, part.name) for part in fields(timing)})


@dataclass(frozen=True, kw_only=True)
class Job:
    """One stream for the machine.

    Attributes
    ----------
    images : pair of bytes or None
        Initial contents of the two groups' memories (shorter than the memory: the rest is `fill`); None keeps what the
        previous job left.
    patches : sequence of (group, address, bytes)
        Written into the memories after `images`; whole beats.
    stream_base : int
        Byte address of the stream in group 0.
    limits : Limits or None
        Register limits; None allows the whole simulated memory.
    kept_tiles : int
        V-Cache tiles of each tier, from the first on, that `invalidate` leaves valid.
    idle : int
        Cycles that the memories run before the machine starts: where their refreshes fall depends on it.
    invalidate : bool
        Invalidate all V-Cache tiles before the stream; False lets it use what earlier streams loaded.
    watchdog : int
        Cycles without progress that count as deadlock.
    max_cycles : int
        Simulated cycles after which the run is given up.
    dump : bool
        Read both memories back.
    knobs : MemoryKnobs
        Memory behaviour.
    expected : pair of uint8 arrays, optional
        What both memories must hold afterwards (shorter: the rest zero); the bench itself then fails on a difference.
    trace : bool
        Record what each unit does in each cycle.
    record_hbm : bool
        Record what the HBM channels are asked for and do; `knobs` must have them.
    """

    images: tuple[bytes, bytes] | None
    stream_base: int
    limits: Limits | None = None
    patches: Sequence[tuple[int, int, bytes]] = ()
    invalidate: bool = True
    kept_tiles: int = 0
    idle: int = 0
    watchdog: int = 20_000
    max_cycles: int = 2_000_000
    dump: bool = True
    knobs: MemoryKnobs = field(default_factory=MemoryKnobs)
    expected: tuple[Bytes, Bytes] | None = None
    trace: bool = False
    record_hbm: bool = False


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """What one job left behind.

    Attributes
    ----------
    done : bool
        END was reached without error.
    error : ErrorCode or None
    error_pc, error_address : int
    semaphores_left : bool
        END was reached with a semaphore that is not zero.
    counters : dict of str to int
        Performance counters by the names of ``hdl.regs``.
    memory : pair of uint8 arrays or None
        Both memories after the run (with ``dump``).
    wall_s : float
        Wall-clock seconds between start and interrupt.
    trace : Trace or None
        What each unit did in each cycle (with ``trace``).
    hbm : tuple of HbmRecord
        What the first HBM channel of each group did (with ``record_hbm``); the others of a group do the same.
    """

    done: bool
    error: ErrorCode | None
    error_pc: int
    error_address: int
    semaphores_left: bool
    counters: Mapping[str, int]
    memory: tuple[Bytes, Bytes] | None
    wall_s: float
    trace: Trace | None = None
    hbm: tuple[HbmRecord, ...] = ()


class SimulatedMachine:
    """A compiled simulator of one configuration.

    Parameters
    ----------
    config : MachineConfig
    memory_bits : int
        Each group's memory has ``2**memory_bits`` bytes, and at most what the machine can address. The same compiled
        simulator serves all sizes up to `sim.simulator.bench_top.LEAST_CAPACITY_BITS`.
    simulator : {"verilator", "icarus"}
    fast : bool
        False: cocotb's default Verilator build, for comparison.
    waves : bool
        Build with wave recording.
    build_root : path
        Generated Verilog goes to a directory below, named by the configuration.
    model : BuiltModel, optional
        The simulator, already compiled from `machine_sources` of the same configuration and memory.
    announce : callable, optional
        Called before the compiler starts; not where the simulator is there already.
    """

    def __init__(
        self,
        config: MachineConfig,
        *,
        memory_bits: int = 20,
        simulator: str = "verilator",
        fast: bool = True,
        waves: bool = False,
        build_root: Path = Path("build"),
        model: runner.BuiltModel | None = None,
        announce: Callable[[], None] | None = None,
    ) -> None:
        self.config = config
        self.memory_bytes = 1 << min(memory_bits, config.address_bits)
        self.waves = waves
        if model is None:
            sources = machine_sources(config, source_folder(config, build_root), memory_bits, simulator)
            model = runner.build(sources, BENCH_TOP, sim=simulator, fast=fast, waves=waves, announce=announce)
        self.model = model

    def run(
        self, jobs: Sequence[Job], *, work_dir: Path | None = None, timeout_s: float | None = None
    ) -> list[JobResult]:
        """Run jobs one after the other on one machine that is reset once, before the first.

        Parameters
        ----------
        jobs : sequence of Job
        work_dir : path, optional
            Where the simulator runs.
        timeout_s : float, optional
            Seconds after which a simulator that hangs is killed; default: what the jobs' cycles take when it is slow.

        Raises
        ------
        SystemRunError
            A job neither finished nor stopped with an error, or broke the AXI protocol.
        SimulationError
            The simulator itself failed.
        """
        if timeout_s is None:
            cycles = sum(job.max_cycles for job in jobs)
            timeout_s = min(LONGEST_S, START_S + cycles * self.config.pes / SLOW_PES_PER_S)
        with scratch_folder("a3d-jobs-") as folder:
            jobs_file = write_jobs(self.config, self.memory_bytes, jobs, folder)
            runner.run(
                self.model,
                "sim.benches.system",
                env={"A3D_JOBS": str(jobs_file)},
                plusargs=back_door_plusargs(self.config),
                waves=self.waves,
                work_dir=work_dir,
                timeout_s=timeout_s,
                seed=1,
            )
            # A job that timed out is the last one, and `result` says so.
            return [
                self.result(job, json.loads(result_file(folder, index).read_text()), folder, index)
                for index, job in enumerate(jobs)
            ]

    def result(self, job: Job, raw: Mapping[str, Any], folder: Path, index: int) -> JobResult:
        """Return what the bench wrote about job `index`.

        Raises
        ------
        SystemRunError
            It was given up, or the AXI protocol was broken.
        """
        if raw["assert_fail"]:
            raise SystemRunError(f"job {index}: the memory model saw a violation of the AXI protocol; see sim.log")
        if raw["timed_out"]:
            raise SystemRunError(
                f"job {index}: no interrupt after {job.max_cycles} cycles; counters: {raw['counters']}"
            )
        memory = None
        if job.dump:
            memory = tuple(
                read_dump(
                    folder / f"job{index}_group{group}.dump",
                    self.memory_bytes,
                    self.config.channel_bytes,
                    self.config.channels_per_group,
                )
                for group in range(2)
            )
        return JobResult(
            done=raw["done"],
            error=ErrorCode(raw["error_code"]) if raw["error"] else None,
            error_pc=raw["error_pc"],
            error_address=raw["error_address"],
            semaphores_left=raw["semaphores_left"],
            counters=raw["counters"],
            memory=memory,  # type: ignore[arg-type]
            wall_s=raw["wall_s"],
            trace=read_trace(folder / f"job{index}_trace.txt", self.config) if job.trace else None,
            hbm=tuple(read_record(folder / f"job{index}_hbm{group}.txt") for group in range(2 * job.record_hbm)),
        )


def source_folder(config: MachineConfig, build_root: Path = Path("build")) -> Path:
    """Return where a configuration's generated Verilog goes."""
    return build_root / "rtl" / f"{config.name}-{config.digest()[:12]}"


def result_file(folder: Path, index: int) -> Path:
    """Return where the bench writes what it saw of job `index`, as JSON."""
    return folder / f"job{index}_result.json"


def machine_sources(config: MachineConfig, folder: Path, memory_bits: int, simulator: str = "verilator") -> list[Path]:
    """Generate a machine and its bench top into `folder` and return all Verilog files of the simulation.

    Parameters
    ----------
    config : MachineConfig
        The machine.
    folder : path
        Where the files go.
    memory_bits : int
        log2 of the bytes that each group's memory must be able to have; see `sim.simulator.bench_top.capacity_bits`.
    simulator : {"verilator", "icarus"}
    """
    design, _ = generate(config, folder)
    capacity = capacity_bits(config, memory_bits, simulator)
    bench = _written(folder / "bench" / f"bench_{capacity}.v", render_bench(config, design, capacity))
    sources = [*(folder / path for path in design.files), *memory_sources(), bench]
    if simulator == "verilator" and config.pes >= BLOCK_PES:
        text = f'`verilator_config\nhier_block -module "{parameter_key("tier", config, Tier.PARAMETERS)}"\n'
        sources.append(_written(folder / "bench" / "blocks.vlt", text))
    return sources


def _written(path: Path, text: str) -> Path:
    """Make sure that a file has this text, and leave it alone if it has."""
    if not path.is_file() or path.read_bytes() != text.encode():
        with whole_file(path) as scratch:
            scratch.write_text(text, encoding="utf-8")
    return path


def back_door_plusargs(config: MachineConfig) -> list[str]:
    """Return the arguments that name the memory models' and the recorder's files, as the bench expects them."""
    channels = config.channels_per_group
    names = [f"group{g}" if channels == 1 else f"group{g}_{c}" for g in range(2) for c in range(channels)]
    kinds = (("load", "hex"), ("dump", "dump"), ("hbm", "hbm"))
    return [f"+trace={TRACE_FILE}", *(f"+{n}_{kind}={n}.{suffix}" for n in names for kind, suffix in kinds)]


def write_jobs(config: MachineConfig, memory_bytes: int, jobs: Sequence[Job], folder: Path) -> Path:
    """Write the jobs' memory images and description for ``sim.benches.system`` and return the description's path."""
    description = {
        "config": config.to_dict(),
        "memory_bytes": memory_bytes,
        "folder": str(folder),
        "serve": False,
        "jobs": [describe(config, memory_bytes, job, folder, index) for index, job in enumerate(jobs)],
    }
    path = folder / "jobs.json"
    path.write_text(json.dumps(description))
    return path


def describe(config: MachineConfig, memory_bytes: int, job: Job, folder: Path, index: int) -> dict[str, Any]:
    """Write a job's memory images into `folder` and return what ``sim.benches.system`` must know of it."""
    limits = job.limits or Limits((memory_bytes, memory_bytes), ((0, memory_bytes), (0, memory_bytes)))
    files = expected = None
    if job.images is not None:
        files = []
        for group, image in enumerate(job.images):
            path = folder / f"job{index}_group{group}.hex"
            data = _padded(np.frombuffer(image, dtype=np.uint8), memory_bytes, group)
            write_hex(path, data, config.channel_bytes, config.channels_per_group)
            files.append(str(path))
    patches = None
    if job.patches:
        patches = []
        for group in range(2):
            path = folder / f"job{index}_patch{group}.hex"
            parts = [(address, data) for g, address, data in job.patches if g == group]
            write_hex_patches(path, parts, config.channel_bytes, config.channels_per_group)
            patches.append(str(path))
    if job.expected is not None:
        expected = []
        for group, data in enumerate(job.expected):
            path = folder / f"job{index}_expected{group}.npy"
            np.save(path, _padded(data, memory_bytes, group))
            expected.append(str(path))
    knobs = job.knobs
    memory = {
        "mem_latency": knobs.latency,
        "mem_random_latency": knobs.random_latency,
        "mem_stall_rate": knobs.stall_rate,
        "mem_seed": knobs.seed,
        "mem_hbm": int(knobs.hbm is not None),
        "mem_hbm_timing": sum(value << 16 * at for at, value in enumerate(knobs.hbm_parameters().tolist())),
    }
    for kind, error in (("read", knobs.read_error), ("write", knobs.write_error)):
        group, first, end = error or (0, 0, 0)
        memory |= {
            f"mem_{kind}_error_group": group,
            f"mem_{kind}_error_base": first // config.channels_per_group,
            f"mem_{kind}_error_limit": end // config.channels_per_group,
        }
    return {
        "images": files,
        "patches": patches,
        "expected": expected,
        "stream_base": job.stream_base,
        "watchdog": job.watchdog,
        "invalidate": job.invalidate,
        "idle": job.idle,
        "kept_tiles": job.kept_tiles,
        "memory_bytes": list(limits.memory_bytes),
        "simulated_bytes": memory_bytes,
        "window": [list(w) for w in limits.window],
        "max_cycles": job.max_cycles,
        "dump": [str(folder / f"job{index}_group{g}.dump") for g in range(2)] if job.dump else None,
        "memory": memory,
        "trace": str(folder / f"job{index}_trace.txt") if job.trace else None,
        "hbm": [str(folder / f"job{index}_hbm{group}.txt") for group in range(2)] if job.record_hbm else None,
    }


def _padded(data: Bytes, memory_bytes: int, group: int) -> Bytes:
    if data.size > memory_bytes:
        raise SystemRunError(
            f"image of group {group}: {data.size} bytes; the simulated memory has {memory_bytes}: raise memory_bits"
        )
    padded = np.zeros(memory_bytes, dtype=np.uint8)
    padded[: data.size] = data
    return padded


MEMORY_CONTROLS = (
    "mem_latency", "mem_random_latency", "mem_stall_rate", "mem_seed", "mem_hbm", "mem_hbm_timing",
    "mem_read_error_group", "mem_read_error_base", "mem_read_error_limit",
    "mem_write_error_group", "mem_write_error_base", "mem_write_error_limit",
)  # fmt: skip
"""Inputs of the bench's memory model."""


def place_stream(images: tuple[bytearray, bytearray], base: int, instructions: Sequence[Instruction]) -> None:
    """Write a stream's binary into group 0's image at byte address `base`, growing the image as needed."""
    binary = stream_bytes(instructions)
    end = base + len(binary)
    if len(images[0]) < end:
        images[0].extend(bytes(end - len(images[0])))
    images[0][base:end] = binary
