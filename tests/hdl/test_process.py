# SPDX-License-Identifier: Apache-2.0
"""Guarded commands end with the block, and with the process that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hdl.process import guarded

FAMILY = "sleep 61 & sleep 62 & echo started; wait"
"""A command with two children."""

HOLD = """
import subprocess, sys, time
from pathlib import Path
from hdl.process import guarded
with guarded(["sh", "-c", sys.argv[1]], cwd=Path("."), stdout=subprocess.PIPE) as process:
    print(process.pid, process.stdout.readline(), flush=True)
    time.sleep(60)
"""


def group(leader: int) -> list[int]:
    """Return the processes of a process group that are alive."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, number = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(number) == leader and state != "Z":
            found.append(int(path.parent.name))
    return found


def wait_for_the_end(leader: int) -> None:
    """Wait until a killed group is gone, which the kernel does in its own time."""
    deadline = time.monotonic() + 10
    while group(leader) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not group(leader)


def test_output_status_and_no_input(tmp_path: Path) -> None:
    with guarded(["sh", "-c", "cat; pwd; exit 7"], cwd=tmp_path, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with process.stdout:
            assert process.stdout.read().decode() == f"{tmp_path}\n"
        assert process.wait() == 7


def test_arguments_are_taken_as_they_are(tmp_path: Path) -> None:
    odd = ["a b", "$HOME", "'", '"', "*", "", "\n", "-x", "ü"]
    with guarded(["printf", "%s|", *odd], cwd=tmp_path, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with process.stdout:
            assert process.stdout.read().decode() == "".join(f"{text}|" for text in odd)


def test_a_missing_program_is_a_status(tmp_path: Path) -> None:
    with guarded(["/no/such/program"], cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
        assert process.wait() == 127


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_leaving_the_block_ends_the_family(tmp_path: Path) -> None:
    with pytest.raises(KeyError), guarded(["sh", "-c", FAMILY], cwd=tmp_path, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"started\n"
        assert len(group(process.pid)) >= 3, "the command, two children, the guard"
        raise KeyError
    wait_for_the_end(process.pid)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_killed_process_takes_the_family_along(tmp_path: Path) -> None:
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, "-c", HOLD, FAMILY], env=env, cwd=tmp_path, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    leader = int(parent.stdout.readline().split()[0])
    assert len(group(leader)) >= 3
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    wait_for_the_end(leader)
