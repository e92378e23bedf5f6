# SPDX-License-Identifier: Apache-2.0
"""The command line: errors are one line with the right exit status, JSON is written whole."""

import argparse
import json
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from hdl.errors import A3dError, CheckError
from sim import cli
from sim.commands import info
from sim.commands._common import print_table, progress, write_json


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", "--config", "nano"]) == 0
    printed = capsys.readouterr().out
    assert "amaranth" in printed and "vcache_tiles" in printed


def test_info_json(tmp_path: Path) -> None:
    assert cli.main(["info", "--config", "tiny", "--json", str(tmp_path / "sub" / "info.json")]) == 0
    written = json.loads((tmp_path / "sub" / "info.json").read_text())
    assert written["config"]["name"] == "tiny"
    assert written["tools"]["cocotb"].startswith("2.")


def test_json_to_standard_output_is_only_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["config"] is None


def test_bad_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", "--config", "huge"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and "'huge'" in captured.err and "tiny" in captured.err
    assert captured.err.count("\n") == 1


def test_unknown_bench(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sim", "absent_bench"]) == 2
    assert capsys.readouterr().err.startswith("error: TEST = 'absent_bench': no such bench; there is ")


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (A3dError("field = 3: at most 2"), 2, "error: field = 3: at most 2\n"),
        (CheckError("2 of 3 differ"), 1, "error: 2 of 3 differ\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_exit_status(
    error: BaseException,
    status: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(args: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr(info, "run", fail)
    assert cli.main(["info"]) == status
    assert capsys.readouterr().err == message


def test_defects_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(args: argparse.Namespace) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(info, "run", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["info"])


def test_help_and_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["--help"])
    assert left.value.code == 0
    assert "info" in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        cli.main(["absent"])
    assert left.value.code == 2


@dataclass
class Point:
    x: int


def test_json_of_everything_that_results_hold(tmp_path: Path) -> None:
    value = {"p": Point(1), "n": np.int64(3), "a": np.arange(2), "s": {2, 1}, "d": Path("a/b"), "f": np.float32(0.5)}
    write_json(tmp_path / "x.json", value)
    assert json.loads((tmp_path / "x.json").read_text()) == {
        "p": {"x": 1}, "n": 3, "a": [0, 1], "s": [1, 2], "d": "a/b", "f": 0.5,
    }  # fmt: skip
    assert stat.S_IMODE((tmp_path / "x.json").stat().st_mode) & 0o400


def test_failed_json_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", [1])
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", [object()])
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    with pytest.raises(A3dError, match="cannot write"):
        write_json(tmp_path / "x.json" / "below", [1])


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("a[b]", 1234567, 0.123456, None), ("c", np.int64(5), 123456.7, True)]
    print_table(rows, ("name", "cycles", "ratio", "ok"), title="Title")
    printed = capsys.readouterr().out
    for text in ("Title", "a[b]", "1,234,567", "0.1235", "123,457", "yes", "-"):
        assert text in printed


def test_progress_is_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress(range(3), "working")) == [0, 1, 2]
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
