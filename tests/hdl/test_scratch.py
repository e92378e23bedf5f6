# SPDX-License-Identifier: Apache-2.0
"""Scratch folders and files go with their process, and files appear whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hdl.scratch import keep, scratch_folder, sweep_temporary, whole_file

HOLD = """
import sys, time
from pathlib import Path
from hdl.scratch import keep, scratch_folder, whole_file
place = Path(sys.argv[1])
with scratch_folder("a3d-test-", place) as folder, scratch_folder("a3d-test-", place) as kept, \
     whole_file(place / "report.json"):
    (folder / "inner").mkdir()
    keep(kept)
    print("ready", flush=True)
    time.sleep(60)
"""


def test_a_folder_lasts_as_long_as_its_block(tmp_path: Path) -> None:
    with scratch_folder("a3d-test-", tmp_path) as folder:
        (folder / "file").touch()
    assert not folder.exists()
    with pytest.raises(KeyError), scratch_folder("a3d-test-", tmp_path) as folder:
        raise KeyError
    assert not folder.exists()
    with scratch_folder("a3d-test-", tmp_path) as folder:
        keep(folder)
    assert folder.is_dir()
    with scratch_folder("a3d-test-", tmp_path) as folder:
        folder.rename(tmp_path / "moved")
    assert (tmp_path / "moved").is_dir()


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)}
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], env=env, stdout=subprocess.PIPE)
    assert other.stdout is not None and other.stdout.readline() == b"ready\n"
    foreign = tmp_path / "a3d-test-notes"
    foreign.mkdir()
    held = set(tmp_path.iterdir())
    with scratch_folder("a3d-test-", tmp_path), whole_file(tmp_path / "report.json") as file:
        file.write_text("{}")
    assert set(tmp_path.iterdir()) == held | {tmp_path / "report.json"}, "it lives"
    other.send_signal(signal.SIGKILL)
    other.communicate()
    with scratch_folder("a3d-test-", tmp_path):
        pass
    with whole_file(tmp_path / "report.json") as file:
        file.write_text("{}")
    left = {path.name for path in tmp_path.iterdir()} - {"report.json", foreign.name}
    assert len(left) == 1 and left < {path.name for path in held}, "only what was to be kept"


def test_sweep_of_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    dead = subprocess.Popen(["true"])
    dead.wait()
    for name in (
        f"a3d-run-{dead.pid}-x",
        f"a3d-sim_bench-{dead.pid}-x",
        f"b3d-run-{dead.pid}-x",
        f"a3d-run-{os.getpid()}-x",
    ):
        (tmp_path / name).mkdir()
    (tmp_path / f"a3d-run-{dead.pid}-link").symlink_to(tmp_path / f"b3d-run-{dead.pid}-x")
    sweep_temporary()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {f"b3d-run-{dead.pid}-x", f"a3d-run-{os.getpid()}-x", f"a3d-run-{dead.pid}-link"}


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "new" / "deep" / "a b.json"
    with pytest.raises(KeyError), whole_file(target) as scratch:
        scratch.write_text("half")
        raise KeyError
    assert not list(tmp_path.iterdir()), "not even the folders"
    with whole_file(target) as scratch:
        assert scratch.suffix == ".json" and not target.exists()
        scratch.write_text("whole")
    assert target.read_text() == "whole" and os.stat(target).st_mode & 0o444 & ~os.umask(0) == 0o444
    assert [path.name for path in target.parent.iterdir()] == ["a b.json"]


def test_links_are_followed_and_devices_are_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "target.txt"
    target.write_text("old")
    (tmp_path / "link.txt").symlink_to("target.txt")
    with whole_file(tmp_path / "link.txt") as scratch:
        scratch.write_text("new")
    assert target.read_text() == "new" and (tmp_path / "link.txt").is_symlink()
    with whole_file(Path("/dev/null")) as scratch:
        scratch.write_text("gone")
    assert Path("/dev/null").is_char_device()
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["cat", str(tmp_path / "pipe")], stdout=subprocess.PIPE)
    with whole_file(tmp_path / "pipe") as scratch:
        scratch.write_text("through")
    assert reader.communicate(timeout=10)[0] == b"through"
