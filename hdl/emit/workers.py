# SPDX-License-Identifier: Apache-2.0
"""Shares independent tasks between this process and forked copies of it, which see all that it has prepared."""

from __future__ import annotations

import os
import pickle
import select
import signal
import struct
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, NoReturn, TypeVar

__all__ = ["SharedTasks", "usable_cores"]

Result = TypeVar("Result")

MOST_WORKERS = 4
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_NUMBER = struct.Struct("<H")
MOST_TASKS = 16_384
"""Their numbers must fit a pipe's buffer."""

FEW_TASKS = 8
"""Fewer are not worth a copy while more may come."""


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


class SharedTasks(Generic[Result]):
    """Independent tasks that are run while more of them are still being prepared.

    A copy of this process is forked as soon as there is a core for it and enough to do; it knows the tasks that there
    are by then. Each process takes the next task that nobody has taken: tasks of one process run in order.

    Parameters
    ----------
    workers : int, optional
        Processes, this one included; default: one for each core, at most four. 1, or a platform without ``fork``: all
        tasks run here.
    """

    def __init__(self, workers: int | None = None) -> None:
        self._copies = (workers or min(usable_cores(), MOST_WORKERS)) - 1 if hasattr(os, "fork") else 0
        self._tasks: list[Callable[[], Result]] = []
        self._fed = 0  # tasks whose numbers are in a pipe
        self._numbers: list[int] = []  # read ends of these pipes
        self._children: list[tuple[int, int]] = []  # process, read end of the pipe with its results

    def add(self, tasks: Iterable[Callable[[], Result]]) -> None:
        """Add tasks, whose results must be picklable; start a copy for them if a core is free."""
        self._tasks += tasks
        if FEW_TASKS <= len(self._tasks) - self._fed <= MOST_TASKS and self._idle():
            self._feed()
            self._fork()

    def results(self) -> list[Result]:
        """Run what is left, and return all results in the order of the tasks.

        Raises
        ------
        Exception
            What the first failing task raised.
        RuntimeError
            A copy of this process died.
        """
        done: dict[int, Any] = {}
        try:
            if len(self._tasks) - self._fed <= MOST_TASKS:
                self._feed()
            helpers = min(self._copies, len(self._tasks) - 1)  # that know all tasks
            for numbers in self._numbers:
                while data := os.read(numbers, _NUMBER.size):
                    number = _NUMBER.unpack(data)[0]
                    while helpers > 0 and self._idle() and number + 1 < len(self._tasks):
                        helpers -= 1
                        self._fork()
                    done[number] = _outcome(self._tasks[number])
            done |= {n: _outcome(self._tasks[n]) for n in range(self._fed, len(self._tasks))}
            for _, answer in self._children:
                with os.fdopen(os.dup(answer), "rb") as stream:
                    done |= _received(stream.read())
        finally:
            self.stop()
        for number in range(len(self._tasks)):
            if isinstance(done[number], _Failure):
                raise done[number].error
        return [done[number] for number in range(len(self._tasks))]

    def stop(self) -> None:
        """End the copies; what they have not delivered is lost."""
        # Forgotten first: whoever interrupts this, and calls it again, must not close them twice.
        pipes, self._numbers = self._numbers, []
        children, self._children = self._children, []
        for numbers in pipes:
            os.close(numbers)
        for pid, answer in children:
            os.close(answer)
            _stop(pid)

    def _idle(self) -> bool:
        """Return whether there may be one more copy; one that delivers its results has nothing to do any more."""
        if not self._copies:
            return False
        answers = [answer for _, answer in self._children]
        delivering = select.select(answers, [], [], 0)[0] if answers else []
        return len(answers) - len(delivering) < self._copies

    def _feed(self) -> None:
        """Put the tasks that are in no pipe yet into one."""
        numbers, feed = os.pipe()
        os.write(feed, b"".join(_NUMBER.pack(n) for n in range(self._fed, len(self._tasks))))
        os.close(feed)
        self._fed = len(self._tasks)
        self._numbers.append(numbers)

    def _fork(self) -> None:
        """Start a copy, which knows the tasks that there are."""
        self._children.append(_fork(self._tasks, self._numbers))


class _Failure:
    """What a task raised."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def _outcome(task: Callable[[], Any]) -> Any:
    try:
        return task()
    except Exception as error:  # raised again where all results are there
        return _Failure(error)


def _take(tasks: Sequence[Callable[[], Any]], pipes: Sequence[int], parent: int) -> dict[int, Any]:
    """Run tasks until none is left in the pipes, or the parent is gone; return results by number."""
    done: dict[int, Any] = {}
    for numbers in pipes:
        while os.getppid() == parent and (data := os.read(numbers, _NUMBER.size)):
            number = _NUMBER.unpack(data)[0]
            done[number] = _outcome(tasks[number])
    return done


def _fork(tasks: Sequence[Callable[[], Any]], numbers: Sequence[int]) -> tuple[int, int]:
    """Start a copy of this process that takes tasks; return its number and the pipe with its results."""
    answer, into = os.pipe()
    parent = os.getpid()
    # An exception out of a signal's handler would be lost among the functions that Python calls at a fork.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        pid = os.fork()
        if not pid:
            _be_copy(tasks, numbers, answer, into, parent)
        os.close(into)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid, answer


def _be_copy(
    tasks: Sequence[Callable[[], Any]], numbers: Sequence[int], answer: int, into: int, parent: int
) -> NoReturn:
    """Be the copy: take tasks, deliver, end."""
    status = 1
    try:
        # Ctrl-C reaches the whole process group; the parent hears it, and ends its copies.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        os.close(answer)
        data = pickle.dumps(_take(tasks, numbers, parent), protocol=pickle.HIGHEST_PROTOCOL)
        with os.fdopen(into, "wb") as stream:
            stream.write(data)
        status = 0
    except BrokenPipeError:
        pass  # nobody waits for it any more
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
