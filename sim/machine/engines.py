# SPDX-License-Identifier: Apache-2.0
"""What runs a step's stream: the instruction executor alone, or the RTL simulation checked against it byte for byte."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np
import numpy.typing as npt

from hdl.config import MachineConfig
from hdl.errors import CheckError
from hdl.isa import Instruction, Opcode, StoreFormat, store_span, store_step
from hdl.isa.legality import Limits
from scheduler.cost.memory_timing import MemoryTiming
from scheduler.memory.image import Symbol
from scheduler.stream.emit.labels import Label
from scheduler.stream.prove import check
from scheduler.stream.table import Table
from sim.golden.executor import Executor
from sim.machine.session import MachineSession, Session
from sim.machine.system import Job, JobResult, MemoryKnobs, SimulatedMachine
from sim.measure.crosscheck import MismatchError, compare_counters
from sim.view.trace import Trace

__all__ = [
    "ENGINES",
    "Engine",
    "IsaEngine",
    "Memory",
    "Outcome",
    "RtlEngine",
    "Step",
    "find_writer",
    "simulated_memory_bits",
]

ENGINES = ("rtl", "isa")
"""Names of the engines that need no hardware."""

LEAST_MEMORY_BITS = 18
"""Simulated memories have at least 256 KiB: runs of small models share one compiled simulator."""

MOST_CYCLES = 50_000_000
MOST_WRONG_BYTES = 1000
"""Differing bytes of which the writer is looked for."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a step left behind.

    Attributes
    ----------
    logits : int16 array [sequences, vocabulary]
        Read from the machine's memory.
    counters : dict of str to int
        Performance counters by the names of ``hdl.regs``; the executor has only those that do not depend on time.
    cycles : int or None
        From start to done; None where time is not modelled.
    compared_bytes, mismatched_bytes : int
        Bytes of memory that were compared with the executor's, and how many of them differed.
    wall_s : float
        Wall-clock seconds of the simulation between start and interrupt.
    trace : Trace or None
        What each unit did in each cycle, where that was asked for and the engine has time.
    """

    logits: npt.NDArray[np.int16]
    counters: Mapping[str, int]
    cycles: int | None
    compared_bytes: int
    mismatched_bytes: int
    wall_s: float
    trace: Trace | None = None


class Memory(Protocol):
    """The memories of both groups; the host changes them before each step where the step says."""

    @property
    def images(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """The memories."""


class Step(Protocol):
    """What an engine must know of a step: a `StepProgram`, or one that was read from a file."""

    @property
    def table(self) -> Table:
        """The stream, END included."""

    @property
    def instructions(self) -> tuple[Instruction, ...]:
        """The same, one instruction after the other."""

    @property
    def labels(self) -> tuple[Label, ...]:
        """What each instruction is for."""

    @property
    def stream_base(self) -> int:
        """Byte address of the stream in group 0."""

    @property
    def patch(self) -> Symbol:
        """The part of memory that the host writes for the step."""

    @property
    def window(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Output windows of the groups: first byte and end."""

    @property
    def kept_tiles(self) -> int:
        """V-Cache tiles of each tier, from the first on, that the step before has left for this one."""

    def read_logits(self, memory: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.int16]:
        """Return the logits [sequences, vocabulary] after the step."""


class Engine(Protocol):
    """Runs the steps of one batch in order; a context manager.

    Attributes
    ----------
    name : str
    timed : bool
        Whether it says how many cycles a step takes.
    """

    name: str
    timed: bool

    def start(self, memory: Memory) -> None:
        """Give the machine its memory; called once, before the first step."""

    def run(self, program: Step, *, trace: bool = False) -> Outcome:
        """Run a step whose stream and lists lie in the step area of the memory given to `start`."""


class IsaEngine:
    """The instruction executor.

    Parameters
    ----------
    config : MachineConfig
        The machine.
    verify : bool
        Prove every stream free of races, deadlocks and illegal fields before it runs.
    """

    name = "isa"
    timed = False

    def __init__(self, config: MachineConfig, *, verify: bool = True) -> None:
        self.config = config
        self.verify = verify
        self._memory: Memory | None = None
        self._executor: Executor | None = None

    def __enter__(self) -> IsaEngine:
        """Return the engine."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing: nothing is open."""

    @property
    def contents(self) -> list[npt.NDArray[np.uint8]]:
        """Both groups' memories."""
        assert self._executor is not None
        return self._executor.memory

    def start(self, memory: Memory) -> None:
        """Give the machine its memory."""
        self._memory = memory
        self._executor = Executor(self.config, memory.images)

    def limits(self, program: Step) -> Limits:
        """Return the register limits of a step."""
        assert self._memory is not None
        return Limits((self._memory.images[0].size, self._memory.images[1].size), program.window)

    def run(self, program: Step, *, trace: bool = False) -> Outcome:
        """Run a step.

        Raises
        ------
        ExecutionError, DeadlockError
            What the machine would report.
        StreamError
            With `verify`: the stream could race, deadlock or stop.
        """
        assert self._memory is not None and self._executor is not None
        limits = self.limits(program)
        executor, patch = self._executor, program.patch
        executor.tags[:, program.kept_tiles :] = -1  # as the start with INVALIDATE leaves them
        if self.verify:
            check(program.table, self.config, self._memory.images, limits, executor.tags)
        span = slice(patch.address, patch.address + patch.size)
        executor.memory[patch.group][span] = self._memory.images[patch.group][span]
        executor.limits = limits
        executor.counters.clear()
        executor.run(program.instructions)
        return Outcome(program.read_logits(executor.memory), dict(executor.counters), None, 0, 0, 0.0)


class RtlEngine:
    """The simulated RTL; after every step each byte of both memories must be what the executor says.

    Parameters
    ----------
    config : MachineConfig
        The machine.
    machine : SimulatedMachine, optional
        A compiled simulator of the configuration with enough memory; default: one is made when the engine starts.
    waves : bool
        Record waves into `work_dir`.
    work_dir : path, optional
        Where the simulator runs.
    verify : bool
        Prove every stream free of races while the simulation runs.
    build_root : path
        Where the generated Verilog goes.
    announce : callable, optional
        Called before a simulator is compiled.
    timing : MemoryTiming, optional
        How the simulated memories behave.
    """

    name = "rtl"
    timed = True
    idle = 0
    """Cycles that the memories run before each step: where their refreshes fall depends on it."""

    def __init__(
        self,
        config: MachineConfig,
        *,
        machine: SimulatedMachine | None = None,
        waves: bool = False,
        work_dir: Path | None = None,
        verify: bool = True,
        build_root: Path = Path("build"),
        announce: Callable[[], None] | None = None,
        timing: MemoryTiming | None = None,
    ) -> None:
        self.config = config
        self._knobs = MemoryKnobs.like(timing or MemoryTiming())
        self._machine = machine
        self._waves = waves
        self._work_dir = work_dir
        self._build_root = build_root
        self._announce = announce
        self._memory: Memory | None = None
        self._reference = IsaEngine(config, verify=verify)
        self._session: Session | None = None
        self._steps = 0
        self._stack = ExitStack()

    def __enter__(self) -> RtlEngine:
        """Return the engine; the simulator starts with the first step."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the simulator, by force when an exception is the reason."""
        self._session = None
        self._stack.__exit__(kind, error, trace)

    def start(self, memory: Memory) -> None:
        """Compile the simulator (minutes, once for a configuration) and start it."""
        self._memory = memory
        self._reference.start(memory)
        self._session = self._open(memory, self._stack)

    def _open(self, memory: Memory, stack: ExitStack) -> Session:
        """Return what runs jobs, which ends with `stack`."""
        machine = self._machine
        if machine is None:
            bits = simulated_memory_bits(memory)
            machine = SimulatedMachine(
                self.config, memory_bits=bits, waves=self._waves, build_root=self._build_root, announce=self._announce
            )
        return stack.enter_context(MachineSession(machine, work_dir=self._work_dir))

    def run(self, program: Step, *, trace: bool = False) -> Outcome:
        """Run a step on the simulation and on the executor, and compare them.

        Raises
        ------
        MismatchError
            A byte or a counter differs; names the instruction whose store should have written the byte.
        CheckError
            The machine stopped with an error.
        StreamError
            The stream could race, deadlock or stop (with `verify`).
        """
        assert self._session is not None
        self._session.submit(self._job(program, trace))
        expected = self._reference.run(program)  # meanwhile
        result = self._session.collect()
        differing = self._check(program, expected, result)
        self._steps += 1
        assert result.memory is not None
        return Outcome(
            program.read_logits(result.memory), dict(result.counters), result.counters["cycles"],
            sum(image.size for image in result.memory), differing, result.wall_s, result.trace,
        )  # fmt: skip

    def _job(self, program: Step, trace: bool) -> Job:
        """Return the simulator's job: the whole memory once, then what the host writes for each step."""
        assert self._memory is not None
        images, patch = self._memory.images, program.patch
        data = images[patch.group][patch.address : patch.address + patch.size].tobytes()
        first = self._steps == 0
        return Job(
            images=(images[0].tobytes(), images[1].tobytes()) if first else None,
            patches=() if first else [(patch.group, patch.address, data)],
            stream_base=program.stream_base, limits=self._reference.limits(program), max_cycles=MOST_CYCLES,
            trace=trace, knobs=self._knobs, kept_tiles=program.kept_tiles, idle=self.idle,
        )  # fmt: skip

    def _check(self, program: Step, expected: Outcome, result: JobResult) -> int:
        """Return the number of differing bytes, which is 0: anything else is an error."""
        where = f"step {self._steps}"
        if not result.done:
            number = result.error_pc
            label = program.labels[number] if number < len(program.labels) else "?"
            error = "no error code" if result.error is None else result.error.name
            raise CheckError(
                f"{where}: the machine stopped with {error} at instruction {number} ({label}), address "
                f"{result.error_address:#x}"
            )
        assert result.memory is not None
        wrong: list[tuple[int, int, int, int]] = []
        count = 0
        for group, (want, got) in enumerate(zip(self._reference.contents, result.memory, strict=True)):
            places = np.flatnonzero(want != got[: want.size])
            beyond = want.size + np.flatnonzero(got[want.size :])
            count += places.size + beyond.size
            wrong += [(group, int(a), int(want[a]), int(got[a])) for a in places[:MOST_WRONG_BYTES]]
            wrong += [(group, int(a), 0, int(got[a])) for a in beyond[:MOST_WRONG_BYTES]]
        if wrong:
            raise MismatchError(f"{where}: {describe_mismatch(program, self.config, wrong, count)}")
        lines = compare_counters(self.config, dict(expected.counters), result)
        if lines:
            raise MismatchError(f"{where}: {lines[0]} ({len(lines)} counters are wrong)")
        return count


def simulated_memory_bits(memory: Memory) -> int:
    """Return log2 of the simulated memories' size that a model needs."""
    return max(LEAST_MEMORY_BITS, (max(image.size for image in memory.images) - 1).bit_length())


def find_writer(program: Step, config: MachineConfig, group: int, address: int) -> int | None:
    """Return the number of the last instruction of a step that writes a byte of memory, or None."""
    return _writers(program, config, [(group, address)])[0]


def _writers(program: Step, config: MachineConfig, places: list[tuple[int, int]]) -> list[int | None]:
    found: list[int | None] = [None] * len(places)
    for number, instruction in enumerate(program.instructions):
        if instruction.opcode != Opcode.STORE or instruction["format"] == StoreFormat.DISCARD:
            continue
        (start, end), (width, step) = store_span(instruction, config), store_step(instruction, config)
        for index, (group, address) in enumerate(places):
            if group == instruction["group"] and start <= address < end and (address - start) % step < width:
                found[index] = number
    return found


def describe_mismatch(program: Step, config: MachineConfig, wrong: list[tuple[int, int, int, int]], count: int) -> str:
    """Return one line about wrong bytes (group, address, expected, got): the one that was written first."""
    writers = _writers(program, config, [(group, address) for group, address, _, _ in wrong])
    order = [len(program.instructions) if writer is None else writer for writer in writers]
    first = int(np.argmin(order))
    group, address, want, got = wrong[first]
    writer = writers[first]
    if writer is None:
        who = "no instruction of the step writes there"
    else:
        who = f"written by instruction {writer} ({program.labels[writer]})"
    return (
        f"group {group}, address {address:#x}: expected {want:#04x}, got {got:#04x}, {who}; "
        f"{count} bytes of both memories differ from the executor's"
    )
