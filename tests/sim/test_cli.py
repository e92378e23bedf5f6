# SPDX-License-Identifier: Apache-2.0
"""The command line: errors are one line with the right exit status, JSON is written whole."""

import argparse
import importlib
import json
import os
import pkgutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import sim.commands
from hdl.errors import A3dError, CheckError
from sim import cli
from sim.commands import info
from sim.commands._common import JsonTarget, output_file, output_folder, picture_file, print_table, progress, write_json
from sim.net import DEBUG_VARIABLE
from tests.support.small_model import CHECKPOINT, write_checkpoint


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


def let_info_fail(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(args: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr(info, "run", fail)


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
    let_info_fail(monkeypatch, error)
    assert cli.main(["info"]) == status
    assert capsys.readouterr().err == message


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ZeroDivisionError("division by zero"), 3, "fault of this program: ZeroDivisionError: division by zero"),
        (AssertionError(), 3, "fault of this program: AssertionError: no message"),
        (FileNotFoundError(2, "No such file or directory", "a b.txt"), 2, "a b.txt: No such file or directory"),
        (OSError(28, "No space left on device"), 2, "operating system: No space left on device"),
        (MemoryError(), 2, "out of memory; use a smaller model, batch or machine"),
        (RecursionError("maximum recursion depth"), 2, "the input is nested too deeply"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), 2, "text that cannot be read or shown: "),
        (ModuleNotFoundError("No module named 'x'", name="x"), 2, "Python package 'x' is missing or broken; fix: make"),
    ],
)
def test_the_last_net(
    error: Exception,
    status: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    let_info_fail(monkeypatch, error)
    assert cli.main(["info", "--json", "-"]) == status
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {line}") and captured.err.count("\n") == 1
    assert f"{DEBUG_VARIABLE}=1" in captured.err
    told = json.loads(captured.out)
    assert told["status"] == status and captured.err == f"error: {told['error']}\n"
    monkeypatch.setenv(DEBUG_VARIABLE, "1")
    assert cli.main(["info"]) == status
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_nothing_follows_the_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(args: argparse.Namespace) -> int:
        write_json(args.json, {"value": float("inf"), "none": np.float64("nan")})
        print("a table")
        raise CheckError("a check failed")

    monkeypatch.setattr(info, "run", fail)
    assert cli.main(["info", "--json", "-"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"value": None, "none": None}
    assert captured.err == "a table\nerror: a check failed\n"


def test_output_that_the_terminal_cannot_show() -> None:
    code = "import sys; from sim import cli; from sim.commands import info; "
    code += "info.run = lambda args: print('caf' + chr(233)) or 0; sys.exit(cli.main(['info']))"
    for ascii in (
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""},
    ):
        env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | ascii
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"caf\\xe9\n", b"")


@pytest.mark.parametrize(
    ("streams", "status", "line"),
    [
        (">&-", 0, ""),
        ("2>&- >/dev/null", 0, ""),
        (">/dev/full", 2, "error: operating system: No space left on device; A3D_DEBUG=1 shows where\n"),
        ("| true", 141, ""),
        ("2>&1 >/dev/null | true", 0, ""),
        ("--json - >&- 2>/dev/null", 0, ""),
        ("2>/dev/full >/dev/null", 0, ""),
        ("--json - 2>&1 >out.json | true; python3 -m json.tool out.json /dev/null", 0, ""),
    ],
)
def test_odd_standard_streams(tmp_path: Path, streams: str, status: int, line: str) -> None:
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    script = f"set -o pipefail; '{sys.executable}' -m sim.cli info {streams}"
    done = subprocess.run(["bash", "-c", script], env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", line)


def test_every_command_exists() -> None:
    """A command without a module is an error, and so is a module without a command."""
    modules = {m.name for m in pkgutil.iter_modules(sim.commands.__path__) if not m.name.startswith("_")}
    assert modules == set(cli.COMMANDS)
    with pytest.raises(ModuleNotFoundError):
        cli.make_parser(["absent"])


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith("a3d-moe 0.")


REQUIRED = ("system", "in.asm", "--model", "m", "--steps", "s", "--port", "p")
"""Words of the commands below that are no names of commands."""

OUTPUTS = [
    (["info"], "--json"),
    (["generate"], "--json"),
    (["generate"], "-o"),
    (["lint"], "--json"),
    (["lint"], "-o"),
    (["synth"], "--json"),
    (["synth"], "-o"),
    (["sim", "system"], "--json"),
    (["sim", "system"], "--work-dir"),
    (["schedule", "--model", "m", "--steps", "s"], "--json"),
    (["schedule", "--model", "m", "--steps", "s"], "-o"),
    (["time", "s"], "--json"),
    (["time", "s"], "--picture"),
    (["run"], "--json"),
    (["run"], "--trace"),
    (["run"], "-o"),
    (["demo"], "--json"),
    (["demo"], "--trace"),
    (["demo"], "-o"),
    (["bench", "utilisation"], "--json"),
    (["bench", "utilisation"], "--picture"),
    (["bench", "hbm"], "--json"),
    (["bench", "hbm"], "--picture"),
    (["bench", "experts"], "--json"),
    (["bench", "simspeed"], "--json"),
    (["bench", "compile"], "--json"),
    (["bench", "generate"], "--json"),
    (["bench", "quality"], "--json"),
    (["bench", "quality"], "--picture"),
    (["bench", "quality"], "--save-precision"),
    (["bench", "exactness"], "--json"),
    (["bench", "model"], "--json"),
    (["bench", "cycle-model"], "--json"),
    (["bench", "primitives"], "--json"),
    (["bench", "primitives"], "--picture"),
    (["bench", "layers"], "--json"),
    (["bench", "scheduler"], "--json"),
    (["bench", "fusion"], "--json"),
    (["bench", "fusion"], "--picture"),
    (["bench", "scheduler"], "--picture"),
    (["bench", "fusion-shapes"], "--json"),
    (["bench", "fusion-shapes"], "--picture"),
    (["bench", "residency"], "--json"),
    (["bench", "residency"], "--picture"),
    (["bench", "prefix"], "--json"),
    (["bench", "prefix"], "--picture"),
    (["bench", "bytes"], "--json"),
    (["bench", "bytes"], "--picture"),
    (["bench", "together"], "--json"),
    (["bench", "together"], "--picture"),
    (["bench", "together-shapes"], "--json"),
    (["bench", "balance"], "--json"),
    (["bench", "energy"], "--json"),
    (["bench", "energy"], "--picture"),
    (["bench", "flows"], "--json"),
    (["bench", "flows"], "--picture"),
    (["bench", "serving"], "--json"),
    (["bench", "serving"], "--picture"),
    (["board", "build"], "--json"),
    (["board", "build"], "-o"),
    (["board", "check", "--port", "p"], "--json"),
    (["report"], "--docs"),
    (["asm", "in.asm"], ""),
]
"""Every option that names something to write."""


@pytest.mark.parametrize(("command", "option"), OUTPUTS)
def test_outputs_are_checked_first(
    command: list[str], option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be written is refused before any work: the commands' own functions are not even called."""

    def work(args: argparse.Namespace) -> int:
        raise AssertionError("work began")

    monkeypatch.setattr(importlib.import_module(f"sim.commands.{command[0]}"), "run", work)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    folder = option in ("-o", "--work-dir", "--docs", "--save-precision")
    for bad in ("file/below", "a\0b", "loop/x", "/proc/x/y", "file" if folder else "folder"):
        assert cli.main([*command, *([option] if option else []), bad]) == 2, bad
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1
        assert (
            f": {bad}: cannot write: " in captured.err
            and f"name a writable {'fol' if folder else 'fi'}" in captured.err
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "loop"]


def test_files_are_distinct(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file is not written twice, and not read and written: the first would be lost without a word."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.txt").write_text("To be")
    (tmp_path / "link.txt").symlink_to("p.txt")
    (tmp_path / "s.asm").write_text("end\n")
    (tmp_path / "c.toml").write_text('preset = "nano"\n')
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    twice, over = "two results would be written to this file", "is read, and would be written over"
    for command, message in (
        (["run", "--trace", "t.json", "--json", "./t.json"], twice),
        (["run", "-o", "out", "--json", "out/steps.png"], twice),
        (["run", "-o", "out", "--json", "out/run.trace.json"], twice),
        (["demo", "-o", "out", "--trace", "out/utilisation.png"], twice),
        (["run", "--prompt-file", "p.txt", "--json", "link.txt"], over),
        (["run", "--calibration", "p.txt", "--json", "p.txt"], over),
        (["asm", "s.asm", "s.asm"], over),
        (["schedule", "--model", "model", "--steps", "p.txt", "--json", "p.txt"], over),
        (["schedule", "--model", "c.toml", "--steps", "p.txt", "--json", "c.toml"], over),
        (["time", "s.asm", "--json", "s.asm"], over),
        (["info", "--config", "c.toml", "--json", "c.toml"], over),
        (["run", "--model", "model", "--json", "model/config.json"], over),
        (["bench", "primitives", "--picture", "x.png", "--json", "x.png"], twice),
    ):
        assert cli.main(command) == 2, command
        assert message in capsys.readouterr().err
    assert cli.main(["info", "--json", "/dev/null"]) == 0


def test_results_of_an_earlier_run_are_replaced(tmp_path: Path) -> None:
    """What lies in an output folder is not read, so that a command can be given again."""
    command = ["run", "--config", "tiny", "--engine", "isa", "--tokens", "1", "--prompt", "x", "-o", str(tmp_path)]
    model = tmp_path / "model"
    write_checkpoint(model, CHECKPOINT)
    for more in ([], [], ["--json", str(tmp_path / "report.json")]):
        assert cli.main([*command, "--model", str(model), *more]) == 0


def test_files_in_the_output_folder_are_checked_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("report.json", "steps.png", "run.trace.json", "timeline_decode.png"):
        (tmp_path / name / name).mkdir(parents=True)
        assert cli.main(["run", "-o", str(tmp_path / name)]) == 2
        assert f"{name}: cannot write: is a directory" in capsys.readouterr().err


def test_pictures_have_names_of_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "primitives", "--picture", "a.xyz"]) == 2
    assert capsys.readouterr().err.startswith("error: --picture: a.xyz: no picture; use a name that ends in .png")


def test_options_are_written_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", "--jso", "-"]) == 2
    assert "unrecognized arguments: --jso" in capsys.readouterr().err


def test_endless_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["run", "--engine", "isa", "-o", str(tmp_path), "--prompt-file", "/dev/zero"]
    for command in (["asm", "/dev/zero", str(tmp_path / "x")], ["disasm", "/dev/zero"], run):
        assert cli.main(command) == 2
        assert "more than" in capsys.readouterr().err


def test_every_output_option_is_listed() -> None:
    """A new option that names a file or a folder must be checked too, or be one that is read."""
    read = {
        "--config",
        "--model",
        "--prompt-file",
        "--requests",
        "--calibration",
        "--energy",
        "--routing",
        "--frontier",
        "--precision",
        "--liberty",
        "--before",
        "--build",
        "--docs",
        "--schedule",
        "--steps",
        "path",
    }
    found = set()
    for name, parser in _parsers(cli.make_parser(), ()):
        for action in parser._actions:
            if action.type is Path and action.dest != "help":
                option = (action.option_strings or [action.dest])[-1]
                assert option in read, f"{' '.join(name)} {option}: use output_file or output_folder"
            if action.type in (output_file, output_folder, picture_file, JsonTarget):
                found.add((name, action.option_strings[0] if action.option_strings else ""))
    listed = {(tuple(word for word in command if word not in REQUIRED), option) for command, option in OUTPUTS}
    assert found == listed


def _parsers(
    parser: argparse.ArgumentParser, name: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    yield name, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, inner in action.choices.items():
                yield from _parsers(inner, (*name, word))


def test_help_and_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["--help"])
    assert left.value.code == 0
    assert "info" in capsys.readouterr().out
    assert cli.main(["absent"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "'absent'" in error and "'generate'" in error
    assert cli.main(["info", "--absent"]) == 2
    assert capsys.readouterr().err == "error: unrecognized arguments: --absent; see a3d --help\n"


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
