# SPDX-License-Identifier: Apache-2.0
"""A simulated machine that stays alive between jobs: each job may depend on what the one before left behind.

The simulator runs in a process of its own and takes its jobs from a folder, as files; that costs a few milliseconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from hdl.scratch import scratch_folder
from sim.machine.system import (
    Job,
    JobResult,
    SimulatedMachine,
    SystemRunError,
    back_door_plusargs,
    describe,
    result_file,
)  # fmt: skip
from sim.simulator import runner

__all__ = ["MachineSession", "Session"]

POLL_S = 0.002


class Session(Protocol):
    """Runs jobs on one machine, in order."""

    def submit(self, job: Job) -> None:
        """Start a job."""

    def collect(self) -> JobResult:
        """Wait for the job that was submitted and return what it left."""


class MachineSession:
    """Runs jobs on one machine that is reset once; a context manager.

    Leaving it ends the simulator: gently, or by force when an exception (Ctrl-C included) is the reason.

    Parameters
    ----------
    machine : SimulatedMachine
        The compiled simulator.
    work_dir : path, optional
        Directory to run in (waves appear there).
    timeout_s : float
        Wall-clock limit of the whole session.
    """

    def __init__(self, machine: SimulatedMachine, *, work_dir: Path | None = None, timeout_s: float = 24 * 3600.0):
        self._machine = machine
        self._work_dir = work_dir
        self._timeout_s = timeout_s
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._stack = contextlib.ExitStack()
        self._folder = Path()
        self._jobs = 0
        self._running: Job | None = None

    def __enter__(self) -> MachineSession:
        """Start the simulator."""
        folder = self._folder = self._stack.enter_context(scratch_folder("a3d-session-"))
        description = {
            "config": self._machine.config.to_dict(),
            "memory_bytes": self._machine.memory_bytes,
            "folder": str(folder),
            "serve": True,
            "parent": os.getpid(),
            "jobs": [],
        }
        (folder / "jobs.json").write_text(json.dumps(description))
        self._thread = threading.Thread(target=self._simulate, args=(folder / "jobs.json",), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the simulator."""
        assert self._thread is not None
        try:
            if kind is None:
                self._hand_over(None)
                self._thread.join()
                if self._failure is not None:
                    raise self._failure
        finally:
            self._stop.set()
            self._thread.join()
            self._stack.close()

    def run(self, job: Job) -> JobResult:
        """Run a job and return what it left.

        Raises
        ------
        SystemRunError
            It neither finished nor stopped with an error, or broke the AXI protocol.
        SimulationError
            The simulator itself failed.
        """
        self.submit(job)
        return self.collect()

    def submit(self, job: Job) -> None:
        """Start a job; `collect` waits for it. One at a time."""
        assert self._running is None
        self._hand_over(describe(self._machine.config, self._machine.memory_bytes, job, self._folder, self._jobs))
        self._running = job
        self._jobs += 1

    def collect(self) -> JobResult:
        """Wait for the job that was submitted and return what it left; raises as `run` does."""
        assert self._thread is not None and self._running is not None
        job, self._running = self._running, None
        folder, index = self._folder, self._jobs - 1
        results = result_file(folder, index)
        while True:
            alive = self._thread.is_alive()
            if results.exists():
                break
            if not alive:
                raise self._failure or SystemRunError(f"job {index}: the simulator ended without a result; see sim.log")
            time.sleep(POLL_S)
        try:
            return self._machine.result(job, json.loads(results.read_text()), folder, index)
        finally:
            for path in (*folder.glob(f"job{index}_*"), folder / f"job{index}.json"):
                path.unlink(missing_ok=True)

    def _hand_over(self, job: dict[str, Any] | None) -> None:
        path = self._folder / f"job{self._jobs}.json"
        scratch = path.with_suffix(".tmp")
        scratch.write_text(json.dumps(job))
        os.replace(scratch, path)

    def _simulate(self, jobs_file: Path) -> None:
        machine = self._machine
        try:
            runner.run(
                machine.model,
                "sim.benches.system",
                env={"A3D_JOBS": str(jobs_file)},
                plusargs=back_door_plusargs(machine.config),
                waves=machine.waves,
                work_dir=self._work_dir,
                timeout_s=self._timeout_s,
                seed=1,
                stop=self._stop,
            )
        except BaseException as error:  # handed to the thread that waits for the job
            if not self._stop.is_set():
                self._failure = error
