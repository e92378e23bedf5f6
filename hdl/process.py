# SPDX-License-Identifier: Apache-2.0
"""External commands that end with the process that started them, together with everything that they started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

__all__ = ["guarded"]

_GUARD = 'exec 3<&0; (read _ <&3; kill -9 0) >/dev/null 2>&1 & exec "$@" </dev/null 3<&-'
"""Starts the command "$@" beside a reader of a pipe that nobody writes to. The pipe ends when the process at its other
end does, even by SIGKILL, and then the reader kills the whole process group, such as ``make`` with its compilers."""


@contextlib.contextmanager
def guarded(
    command: Sequence[str | os.PathLike[str]],
    *,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    stdout: int | IO[Any],
    stderr: int | IO[Any] = subprocess.STDOUT,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a process group of its own; leaving the block kills what is left of the group.

    Who asks for pipes reads them to their end, which comes with the group's, and closes them.

    Parameters
    ----------
    command : sequence of str or path
        Program and arguments. The program gets an empty standard input.
    cwd : path
        Where it runs.
    env : mapping, optional
        Its whole environment; default: that of this process.
    stdout, stderr : int or file
        As for `subprocess.Popen`.

    Raises
    ------
    FileNotFoundError
        `cwd` does not exist. A program that does not exist is exit status 127, as in a shell.
    """
    process = subprocess.Popen(
        ["/bin/sh", "-c", _GUARD, "sh", *(os.fspath(part) for part in command)],
        cwd=cwd,
        env=None if env is None else dict(env),
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdin is not None
        process.stdin.close()
