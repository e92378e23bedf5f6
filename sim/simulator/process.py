# SPDX-License-Identifier: Apache-2.0
"""Runs a command with its output in a log, and leaves no process behind."""

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from hdl.process import guarded

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
    when another thread sets `stop`, when this function is left by an exception, Ctrl-C included, and when this process
    is killed.
    """
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(log.open("ab"))
        copying = stack.enter_context(contextlib.ExitStack())
        process = stack.enter_context(guarded(command, cwd=cwd, env=env, stdout=subprocess.PIPE if echo else output))
        if echo:
            copier = threading.Thread(target=_copy, args=(process.stdout, output), daemon=True)
            copier.start()
            copying.callback(copier.join)  # when the command has been killed: its output has come to its end
        try:
            return process.wait(timeout_s) if stop is None else _wait(process, timeout_s, stop)
        except subprocess.TimeoutExpired:
            return TIMED_OUT


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
    with source:
        for line in source:
            log.write(line)
            sys.stdout.write(line.decode(errors="replace"))
            sys.stdout.flush()
