# SPDX-License-Identifier: Apache-2.0
"""Run Yosys passes (``pyosys``) in a process of their own and report each finished job."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hdl.errors import A3dError
from hdl.flow.yosys_worker import DONE, MISSING
from hdl.process import guarded

__all__ = ["Job", "SynthError", "run_jobs"]

_WORKER = Path(__file__).with_name("yosys_worker.py")


class SynthError(A3dError):
    """A design cannot be synthesised, or the tool for it is missing."""


@dataclass(frozen=True)
class Job:
    """Passes to run on an empty design.

    Attributes
    ----------
    name : str
        What the job is about, for error messages.
    passes : tuple of str
        One command each, as one would type them into Yosys.
    """

    name: str
    passes: tuple[str, ...]


def run_jobs(
    jobs: Sequence[Job],
    folder: Path,
    *,
    python: str | os.PathLike[str] = sys.executable,
    timeout: float = 3600,
) -> Iterator[Job]:
    """Run `jobs` one after the other in one process, and yield each when it is done.

    Parameters
    ----------
    jobs : sequence of Job
        The jobs.
    folder : Path
        Working directory: relative file names in the passes refer to it.
    python : path
        Interpreter with ``pyosys``.
    timeout : float
        Seconds for all jobs together.

    Raises
    ------
    SynthError
        If the interpreter or ``pyosys`` is missing, a pass fails (the message is what Yosys says), or time runs out.
    """
    if not jobs:
        return
    if shutil.which(python) is None:
        raise SynthError(f"Python {os.fspath(python)!r} for Yosys cannot be run: no such program")
    description = folder / "jobs.json"
    description.write_text(json.dumps([[job.name, job.passes] for job in jobs]), encoding="utf-8")
    # -P: with the worker's own folder on the path, its neighbours could hide modules of the same name.
    command = [python, "-P", _WORKER, description.absolute()]
    expired = threading.Event()
    log: deque[str] = deque(maxlen=200)
    position = 0
    # Yosys hands the names of its temporary files to ABC without quotes: none of them may hold a blank.
    env = {**os.environ, "TMPDIR": "."}
    # A group of its own: ABC ends with the process that called it.
    with guarded(command, cwd=folder, env=env, stdout=subprocess.PIPE) as process:

        def expire() -> None:
            expired.set()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(timeout, expire)
        timer.daemon = True
        timer.start()
        try:
            assert process.stdout is not None
            with process.stdout:
                for raw in process.stdout:
                    line = raw.decode(errors="replace")
                    if line.startswith(DONE):
                        log.clear()
                        position += 1
                        yield jobs[position - 1]
                    else:
                        log.append(line.rstrip())
            process.wait()
        finally:
            timer.cancel()
    if position == len(jobs):
        return
    if MISSING in log:
        raise SynthError(
            f"Yosys not found: {os.fspath(python)} has no package 'pyosys'; fix: make setup, or pip install pyosys"
        )
    name = jobs[position].name
    if expired.is_set():
        raise SynthError(f"synthesis of {name!r} was not finished after {timeout:g} s: pass a larger timeout")
    said = [line for line in log if re.search(r"\bERROR:", line)] or [line for line in log if line.strip()]
    reason = said[-1].strip() if said else f"ended with status {process.returncode}"
    raise SynthError(f"synthesis of {name!r} failed: Yosys says {reason!r}")
