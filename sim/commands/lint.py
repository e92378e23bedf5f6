# SPDX-License-Identifier: Apache-2.0
"""``a3d lint``: generates a machine and lets Verilator, Yosys and (when installed) Icarus Verilog look at it."""

import argparse

from hdl.config import load_config
from hdl.emit.files import FILE_LIST
from hdl.emit.lint import LintReport, check_yosys, lint_icarus, lint_verilator
from hdl.generate import generate
from sim.commands._common import Subparsers, add_config_option, add_json_option, new_parser, print_table, write_json
from sim.commands._output import add_output_options, verilog_folder
from sim.simulator import tools

FLATTEN_PES = 1024
"""Largest array that the Yosys check flattens to look for loops through several modules."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = new_parser(subparsers, "lint", "check a machine's Verilog with Verilator, Yosys and Icarus Verilog")
    add_config_option(parser)
    add_output_options(parser)
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    config = load_config(args.config)
    out = verilog_folder(args, config)
    verilator = tools.find_verilator()
    icarus = tools.find_icarus()
    design, _ = generate(config, out, prefix=args.prefix)
    file_list = out / FILE_LIST
    reports: list[LintReport] = [
        lint_verilator(file_list, design.top, verilator=verilator.executable, env=verilator.env()),
        check_yosys(file_list, design.top, flatten=config.pes <= FLATTEN_PES),
    ]
    if icarus is not None:
        reports.append(lint_icarus(file_list, design.top))
    for report in reports:
        for line in report.messages:
            print(f"{report.tool}: {line}")
    rows = [[report.tool, "clean" if report.clean else "NOT CLEAN", len(report.messages)] for report in reports]
    if icarus is None:
        rows.append(["icarus", "not installed, skipped", 0])
    print_table(rows, ("tool", "verdict", "findings"), title=f"{config.name}: {file_list}")
    findings = {report.tool: report.messages for report in reports}
    write_json(
        args.json, {"config": config.name, "tools": [[str(c) for c in row] for row in rows], "findings": findings}
    )
    return 0 if all(report.clean for report in reports) else 1
