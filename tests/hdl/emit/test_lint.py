# SPDX-License-Identifier: Apache-2.0
"""Lint passes what is emitted, and catches what is planted."""

import re
from pathlib import Path

import pytest

from hdl.emit import EmitError
from hdl.emit.files import FILE_LIST, write
from hdl.emit.lint import LintReport, check_yosys, lint_icarus, lint_verilator
from hdl.emit.verilog import emit
from hdl.emit.waivers import render_waivers
from sim.simulator.tools import find_icarus, find_verilator
from tests.support.emit.examples import Chain, Stack

LATCH = "module top(input wire clk, input wire a, input wire b, output reg q);\n  always @* if (a) q = b;\nendmodule\n"
LOOP = """module inv(input wire a, output wire b);
  assign b = ~a;
endmodule
module top(input wire clk, input wire a, input wire b, output wire q);
  wire x, y;
  inv inv(.a(x), .b(y));
  assign x = y & a;
  assign q = x ^ b;
endmodule
"""
DRIVERS = """module top(input wire clk, input wire a, input wire b, output reg q);
  always @(posedge clk) q <= a;
  always @(posedge clk) q <= b;
endmodule
"""
UNDRIVEN = "module top(input wire clk, input wire a, output wire q);\n  wire u;\n  assign q = a ^ u;\nendmodule\n"
MISSING = "module top(input wire clk, input wire a, output wire q);\n  ghost ghost(.a(a), .q(q));\nendmodule\n"
SYNTAX = "module top(input wire clk, input wire a output wire q);\nendmodule\n"


def plant(text: str, tmp_path: Path) -> Path:
    (tmp_path / "with space").mkdir()
    (tmp_path / "with space" / "top.v").write_text(text)
    (tmp_path / "waivers.vlt").write_text(render_waivers())
    (tmp_path / FILE_LIST).write_text("// planted\nwith space/top.v\n")
    return tmp_path / FILE_LIST


def verilate(file_list: Path) -> LintReport:
    verilator = find_verilator()
    return lint_verilator(file_list, "top", verilator=verilator.executable, env=verilator.env())


@pytest.mark.parametrize("make", [Chain, lambda: Stack(2, 4, 4)])
def test_what_is_emitted_is_clean(make: object, tmp_path: Path) -> None:
    out = tmp_path / '-o "it\'s" 50%, [a]*;#$x'
    write(emit(make(), "top"), out)
    reports = [verilate(out / FILE_LIST), check_yosys(out / FILE_LIST, "top")]
    if find_icarus() is not None:
        reports.append(lint_icarus(out / FILE_LIST, "top"))
    for report in reports:
        assert report.clean, report.log


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LATCH, "[Ll]atch"),
        (LOOP, "logic loop"),
        (DRIVERS, "multiple conflicting drivers"),
        (UNDRIVEN, "has no driver"),
        (MISSING, "ghost"),
        (SYNTAX, "syntax error"),
    ],
)
def test_yosys_catches_what_is_planted(text: str, message: str, tmp_path: Path) -> None:
    report = check_yosys(plant(text, tmp_path), "top")
    assert any(re.search(message, line) for line in report.messages), report.log


def test_a_loop_through_modules_needs_flattening(tmp_path: Path) -> None:
    assert check_yosys(plant(LOOP, tmp_path), "top", flatten=False).clean


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (LATCH, "LATCH"),
        (LOOP, "UNOPTFLAT"),
        # Two clocked drivers pass Verilator if they share a clock: that is what the check with Yosys is for.
        (UNDRIVEN, "UNDRIVEN"),
        (MISSING, "ghost"),
        (SYNTAX, "syntax error"),
    ],
)
def test_verilator_catches_what_is_planted(text: str, rule: str, tmp_path: Path) -> None:
    report = verilate(plant(text, tmp_path))
    assert any(rule in line for line in report.messages), report.log


def test_icarus_catches_what_is_planted(tmp_path: Path, icarus: str) -> None:
    assert not lint_icarus(plant(SYNTAX, tmp_path), "top").clean


def test_missing_tools_and_files_are_one_clear_line(tmp_path: Path) -> None:
    file_list = plant(LATCH, tmp_path)
    with pytest.raises(EmitError, match="lint tool '/nowhere/verilator' was not found"):
        lint_verilator(file_list, "top", verilator="/nowhere/verilator")
    with pytest.raises(EmitError, match="cannot be read: No such file"):
        check_yosys(tmp_path / "missing.f", "top")
    with pytest.raises(EmitError, match="top module is 'a b'"):
        check_yosys(file_list, "a b")
