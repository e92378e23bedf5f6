# SPDX-License-Identifier: Apache-2.0
"""Tasks shared between processes: results in order, failures passed on, nothing left behind."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import pytest

from hdl.config import PRESETS
from hdl.emit import verilog, workers
from hdl.emit.workers import SharedTasks
from hdl.machine import Machine


def run_shared(tasks: Sequence[Callable[[], int]], processes: int) -> list[int]:
    shared: SharedTasks[int] = SharedTasks(processes)
    shared.add(tasks)
    return shared.results()


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_results_come_in_order(processes: int) -> None:
    assert run_shared([lambda n=n: n * n for n in range(50)], processes) == [n * n for n in range(50)]


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_tasks_may_be_added_while_others_run(processes: int) -> None:
    shared: SharedTasks[int] = SharedTasks(processes)
    for first in range(0, 60, 3):
        shared.add(lambda n=n: n * n for n in range(first, first + 3))
    assert shared.results() == [n * n for n in range(60)]
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)  # no child is left


def test_tasks_run_in_several_processes() -> None:
    import time

    pids = run_shared([lambda: (time.sleep(0.02), os.getpid())[1] for _ in range(10)], 2)
    assert len(set(pids)) == 2 and os.getpid() in pids


@pytest.mark.parametrize("processes", [1, 2])
def test_the_first_failure_is_raised(processes: int) -> None:
    def fail(number: int) -> int:
        raise ValueError(f"task {number}")

    tasks = [lambda: 0, lambda: fail(1), lambda: fail(2)]
    with pytest.raises(ValueError, match="task 1"):
        run_shared(tasks, processes)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)  # no child is left


def test_a_child_that_dies_is_reported(capfd: pytest.CaptureFixture[str]) -> None:
    parent = os.getpid()

    def task() -> int:
        import time

        if os.getpid() != parent:
            os._exit(3)
        time.sleep(0.05)
        return 0

    with pytest.raises(RuntimeError, match="without an answer"):
        run_shared([task] * 8, 2)


@pytest.mark.slow
def test_the_machine_is_the_same_text(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = verilog.emit(Machine(PRESETS["nano"]), "top")
    for cores in (1, 4):
        monkeypatch.setattr(workers, "usable_cores", lambda cores=cores: cores)
        other = verilog.emit(Machine(PRESETS["nano"]), "top")
        assert shared.modules == other.modules and shared.memories == other.memories
