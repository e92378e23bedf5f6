# SPDX-License-Identifier: Apache-2.0
"""Shares independent tasks between this process and forked copies of it, which see all that it has prepared."""

from __future__ import annotations

import os
import pickle
import struct
import traceback
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

__all__ = ["run_shared", "usable_cores"]

Result = TypeVar("Result")

MOST_WORKERS = 4
_NUMBER = struct.Struct("<H")
MOST_TASKS = 16_384
"""Their numbers must fit a pipe's buffer."""


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def run_shared(tasks: Sequence[Callable[[], Result]], workers: int | None = None) -> list[Result]:
    """Run tasks and return their results, in order.

    Each process takes the next task that nobody has taken, so that tasks of one process run in order.

    Parameters
    ----------
    tasks : sequence of callables
        Independent of one another; results must be picklable.
    workers : int, optional
        Processes, this one included; default: one for each core, at most four. 1, or a platform without ``fork``: all
        tasks run here.

    Raises
    ------
    Exception
        What the first failing task raised.
    """
    count = min(workers or min(usable_cores(), MOST_WORKERS), len(tasks))
    if count < 2 or not hasattr(os, "fork") or len(tasks) > MOST_TASKS:
        return [task() for task in tasks]
    numbers, feed = os.pipe()
    os.write(feed, b"".join(_NUMBER.pack(n) for n in range(len(tasks))))
    os.close(feed)
    children: list[tuple[int, int]] = []
    try:
        for _ in range(count - 1):
            children.append(_fork(tasks, numbers))
        done = _take(tasks, numbers)
        for _, answer in children:
            with os.fdopen(os.dup(answer), "rb") as stream:
                done |= _received(stream.read())
    finally:
        os.close(numbers)
        for pid, answer in children:
            os.close(answer)
            # Only a child that is still at work after an exception here is stopped by this.
            _stop(pid)
    for number in range(len(tasks)):
        if isinstance(done[number], _Failure):
            raise done[number].error
    return [done[number] for number in range(len(tasks))]


class _Failure:
    """What a task raised."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def _take(tasks: Sequence[Callable[[], Any]], numbers: int) -> dict[int, Any]:
    """Run tasks until none is left; return results by number."""
    done: dict[int, Any] = {}
    while data := os.read(numbers, _NUMBER.size):
        number = _NUMBER.unpack(data)[0]
        try:
            done[number] = tasks[number]()
        except Exception as error:  # raised again by run_shared
            done[number] = _Failure(error)
    return done


def _fork(tasks: Sequence[Callable[[], Any]], numbers: int) -> tuple[int, int]:
    """Start a copy of this process that takes tasks; return its number and the pipe with its results."""
    answer, into = os.pipe()
    pid = os.fork()
    if pid:
        os.close(into)
        return pid, answer
    status = 1
    try:
        os.close(answer)
        data = pickle.dumps(_take(tasks, numbers), protocol=pickle.HIGHEST_PROTOCOL)
        with os.fdopen(into, "wb") as stream:
            stream.write(data)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)  # nothing of the copied process must run on


def _received(data: bytes) -> dict[int, Any]:
    if not data:
        raise RuntimeError("a worker process ended without an answer; its message is above")
    answer: dict[int, Any] = pickle.loads(data)
    return answer


def _stop(pid: int) -> None:
    try:
        os.kill(pid, 9)
    except ProcessLookupError:
        pass
    os.waitpid(pid, 0)
