# SPDX-License-Identifier: Apache-2.0
"""A run that is interrupted, terminated, hung up or killed leaves no process, no file and no scratch folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.small_model import CHECKPOINT, write_checkpoint

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")

ENDS = {
    signal.SIGINT: (130, "interrupted"),
    signal.SIGTERM: (143, "terminated"),
    signal.SIGHUP: (129, "terminated"),
    signal.SIGKILL: (-9, ""),
}
"""Exit status, and the last word, for each signal."""


def signals(*fast: int) -> pytest.MarkDecorator:
    """Run a test for each signal; all but some only among the slow tests."""
    marks = {number: () if number in fast else (pytest.mark.slow,) for number in ENDS}
    return pytest.mark.parametrize("number", [pytest.param(number, marks=marks[number]) for number in ENDS])


def processes(text: str) -> Iterator[int]:
    """Yield the numbers of processes whose environment or command line has a text."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if text.encode() in (path / "environ").read_bytes() + (path / "cmdline").read_bytes():
                yield int(path.name)
        except OSError:
            continue


class Run:
    """A command in a process of its own, with its own place for temporary files."""

    def __init__(self, folder: Path, arguments: Sequence[str], **variables: str) -> None:
        self.mark = f"a3d-signal-test-{os.getpid()}-{folder.name}"
        self.scratch = folder / "scratch"
        self.scratch.mkdir(exist_ok=True)
        # Shells start background jobs with SIGINT ignored, and nohup ignores SIGHUP; children inherit that.
        code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        code += "signal.signal(signal.SIGHUP, signal.SIG_DFL); from sim import cli; sys.exit(cli.main())"
        env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(self.scratch), "MARK": self.mark}
        self.child = subprocess.Popen(
            [sys.executable, "-c", code, *arguments], env=env | variables, cwd=folder, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )  # fmt: skip

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not condition():
            assert self.child.poll() is None, self.child.communicate()[1].decode()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def send(self, number: int) -> None:
        """Send a signal; the child ends with its status and one word, and no process is left."""
        status, word = ENDS[signal.Signals(number)]
        self.child.send_signal(number)
        errors = self.child.communicate(timeout=60)[1].decode()
        assert self.child.returncode == status, errors
        assert "Traceback" not in errors
        if word:
            assert errors.splitlines()[-1] == word
        deadline = time.monotonic() + 10
        while list(processes(self.mark)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not list(processes(self.mark))

    def left(self) -> list[str]:
        return [path.name for path in self.scratch.iterdir()]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "random"
    write_checkpoint(path, CHECKPOINT)
    return path


@signals(signal.SIGINT, signal.SIGKILL)
def test_simulation(model: Path, tmp_path: Path, number: int) -> None:
    arguments = ["run", "--model", str(model), "--config", "tiny", "--prompt", "To be", "--tokens", "58"]
    run = Run(tmp_path, arguments)
    assert run.child.stdout is not None
    seen = b""
    while len(seen) < len("To be") + 2:  # two tokens are there, more than fifty are to come
        byte = run.child.stdout.read(1)
        assert byte, run.child.communicate()[1].decode()
        seen += byte
    assert len(list(processes(run.mark))) >= 2, "the simulator runs beside the child"
    run.send(number)
    if number != signal.SIGKILL:
        assert not (tmp_path / "build" / "run").exists() and not run.left()
        return
    # What nobody could remove, the next command does.
    assert run.left()
    after = Run(tmp_path, ["info"])
    assert not after.child.communicate(timeout=60)[1] and not run.left()


@signals(signal.SIGTERM)
def test_compilation(model: Path, tmp_path: Path, number: int) -> None:
    """``make`` and its compilers end too, and no half entry stays in the cache."""
    run = Run(tmp_path, ["sim", "system", "--config", "nano"], A3D_SIM_CACHE=str(tmp_path / "cache"))

    def compiling() -> bool:
        names = [Path(f"/proc/{n}/cmdline") for n in processes(run.mark)]
        return any(b"cc1plus" in name.read_bytes() for name in names if name.exists())

    run.wait_for(compiling)
    run.send(number)
    left = [path for path in (tmp_path / "cache").iterdir() if path.suffix not in (".lock", ".log")]
    if number == signal.SIGKILL:
        assert [path.name.startswith(".build-") for path in left] == [True]
    else:
        assert not left and not run.left()


@signals(signal.SIGTERM)
def test_generation(tmp_path: Path, number: int) -> None:
    """The generator's own copies end without a word."""
    run = Run(tmp_path, ["generate", "--config", "small", "-o", str(tmp_path / "out")])
    run.wait_for(lambda: len(list(processes(run.mark))) > 1)
    run.send(number)
    assert not (tmp_path / "out").exists() and not run.left()
