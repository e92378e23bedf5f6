# SPDX-License-Identifier: Apache-2.0
"""Lint a generated design with tools that had no part in making it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hdl.emit.hierarchy import EmitError, check_identifier
from hdl.emit.waivers import WAIVER_FILE
from hdl.process import guarded

__all__ = ["LintReport", "check_yosys", "lint_icarus", "lint_verilator", "read_file_list"]

_PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class LintReport:
    """What one tool says about a design.

    Attributes
    ----------
    tool : str
        Name of the tool.
    messages : tuple of str
        Warnings and errors, one each; empty for a clean design.
    log : str
        Everything that the tool printed.
    """

    tool: str
    messages: tuple[str, ...]
    log: str

    @property
    def clean(self) -> bool:
        """Whether there is no message."""
        return not self.messages


def read_file_list(file_list: _PathLike) -> list[Path]:
    """Return the Verilog files that a file list names, relative to the list's own directory."""
    path = Path(file_list)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise EmitError(f"file list {os.fspath(file_list)!r} cannot be read: {error.strerror}") from None
    return [path.parent / line.strip() for line in lines if line.strip() and not line.startswith(("//", "#", "+"))]


def _sources(file_list: _PathLike) -> tuple[Path, list[Path]]:
    """Return the folder to run a tool in, and the Verilog files as seen from there.

    Short relative names keep whatever the folder's own path holds (blanks, quotes, ``[``, ``;``) from the tools, each
    of which reads some of it in its own way.
    """
    folder = Path(file_list).parent
    return folder, [
        path.relative_to(folder) if path.is_relative_to(folder) else path for path in read_file_list(file_list)
    ]


def _run(command: Sequence[_PathLike], env: Mapping[str, str] | None, timeout: float, cwd: Path) -> tuple[int, str]:
    tool = os.fspath(command[0])
    if shutil.which(tool) is None:
        raise EmitError(f"lint tool {tool!r} was not found: install it, or pass the path of its executable")
    with tempfile.TemporaryFile() as log:
        own = None if env is None else {**os.environ, **env}
        with guarded(command, cwd=cwd, env=own, stdout=log) as process:
            try:
                status = process.wait(timeout)
            except subprocess.TimeoutExpired:
                raise EmitError(f"lint tool {tool!r} took longer than {timeout:g} s: pass a larger timeout") from None
        log.seek(0)
        return status, log.read().decode(errors="replace")


def _report(tool: str, code: int, log: str, pattern: str) -> LintReport:
    messages = [line.strip() for line in log.splitlines() if re.search(pattern, line)]
    if code and not messages:
        messages = [log.strip().splitlines()[-1] if log.strip() else f"{tool} ended with status {code}"]
    return LintReport(tool, tuple(dict.fromkeys(messages)), log)


def lint_verilator(
    file_list: _PathLike,
    top: str,
    *,
    verilator: _PathLike = "verilator",
    env: Mapping[str, str] | None = None,
    waivers: _PathLike | None = None,
    timeout: float = 600,
) -> LintReport:
    """Run ``verilator --lint-only -Wall``.

    Parameters
    ----------
    file_list : path
        ``a3d.f`` of a design; the waivers are the ``waivers.vlt`` beside it if there is one.
    top : str
        Name of the top module.
    verilator : path
        The executable.
    env : mapping, optional
        Environment variables in addition to the present ones.
    waivers : path, optional
        Another waiver file.
    timeout : float
        Seconds.
    """
    folder, files = _sources(file_list)
    config = Path(waivers).resolve() if waivers is not None else folder / WAIVER_FILE
    command: list[_PathLike] = [verilator, "--lint-only", "-Wall", "--top-module", check_identifier(top, "top module")]
    command += [config if waivers is not None else WAIVER_FILE] if config.exists() else []
    code, log = _run([*command, *files], env, timeout, folder)
    return _report("verilator", code, log, r"^%(Warning|Error)")


def lint_icarus(
    file_list: _PathLike,
    top: str,
    *,
    iverilog: _PathLike = "iverilog",
    env: Mapping[str, str] | None = None,
    timeout: float = 600,
) -> LintReport:
    """Run ``iverilog -g2005 -Wall`` without producing anything; arguments as for :func:`lint_verilator`.

    A missing time scale is not reported: the design has no delays.
    """
    folder, files = _sources(file_list)
    command = [iverilog, "-g2005", "-Wall", "-Wno-timescale", "-t", "null", "-s", check_identifier(top, "top module")]
    code, log = _run([*command, *files], env, timeout, folder)
    return _report("icarus", code, log, r"(warning|error|sorry):")


def check_yosys(
    file_list: _PathLike,
    top: str,
    *,
    flatten: bool = True,
    python: _PathLike = sys.executable,
    timeout: float = 600,
) -> LintReport:
    """Let Yosys (from ``pyosys``) look for latches, combinational loops, several drivers and undriven wires.

    Parameters
    ----------
    file_list : path
        ``a3d.f`` of a design.
    top : str
        Name of the top module.
    flatten : bool
        Also look for loops that pass through several modules.  Takes time and memory in proportion to the number of
        instances: leave it out for arrays of more than some thousand processing elements.
    python : path
        Interpreter with ``pyosys``.  It runs in a process of its own, because Yosys ends the process on an error.
    timeout : float
        Seconds.
    """
    folder, files = _sources(file_list)
    latches = "t:$dlatch t:$adlatch t:$dlatchsr t:$sr"
    check_identifier(top, "top module")
    passes = [
        *(f"read_verilog {_quote(path)}" for path in files),
        f"hierarchy -check -top {top}",
        "proc",
        # Memories become cells whose ports `check` understands; unread and constant logic must not hide a finding.
        "memory_collect",
        f"select -assert-none {latches}",
        *(["flatten"] if flatten else []),
        "check -assert",
    ]
    # One pass after another: a ';' or a blank in a path would otherwise be taken for the end of a command.
    program = "import sys; from pyosys import libyosys as ys; d = ys.Design()\nfor p in sys.argv[1:]: ys.run_pass(p, d)"
    # -P: a folder in the output directory must not hide a package.
    code, log = _run([python, "-P", "-c", program, *passes], None, timeout, folder)
    return _report("yosys", code, log, r"^(Warning|ERROR)|: (Warning|ERROR):|^Latch inferred")


def _quote(path: Path) -> str:
    text = os.fspath(path)
    return f'"{text}"' if re.search(r"\s", text) else text
