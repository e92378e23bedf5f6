# SPDX-License-Identifier: Apache-2.0
"""Runs a command with its output in a log, and leaves no process behind."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

__all__ = ["TIMED_OUT", "run_logged"]

TIMED_OUT = 124
"""Exit status that `run_logged` reports for a command that it had to kill, as timeout(1) does."""

POLL_S = 0.05


def run_logged(
    command: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    log: Path,
    timeout_s: float | None = None,
    echo: bool = False,
    stop: threading.Event | None = None,
) -> int:
    """Run `command`, append its output (both streams) to `log`, and return its exit status.

    The command and everything it starts are killed when `timeout_s` seconds pass (the status is then `TIMED_OUT`),
    when another thread sets `stop`, and when this function is left by an exception, Ctrl-C included.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if echo else output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # its own process group, so that its children can be killed with it
        )
        copier = threading.Thread(target=_copy, args=(process.stdout, output), daemon=True) if echo else None
        try:
            if copier is not None:
                copier.start()
            status = process.wait(timeout_s) if stop is None else _wait(process, timeout_s, stop)
        except subprocess.TimeoutExpired:
            status = TIMED_OUT
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if copier is not None:
                copier.join()
    return status


def _wait(process: subprocess.Popen[bytes], timeout_s: float | None, stop: threading.Event) -> int:
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        try:
            return process.wait(POLL_S)
        except subprocess.TimeoutExpired:
            if stop.is_set() or (deadline is not None and time.monotonic() > deadline):
                raise


def _copy(source: IO[bytes] | None, log: IO[bytes]) -> None:
    assert source is not None
    for line in source:
        log.write(line)
        sys.stdout.write(line.decode(errors="replace"))
        sys.stdout.flush()
