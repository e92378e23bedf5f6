# SPDX-License-Identifier: Apache-2.0
"""The command line ``a3d``; `sim.net` has the exit statuses."""

import contextlib
import importlib
import importlib.metadata
import json
import sys
from collections.abc import Sequence
from typing import Any, TextIO

from hdl.scratch import sweep_temporary
from sim.net import run_program

__all__ = ["COMMANDS", "main", "make_parser"]

COMMANDS = (
    "demo", "info", "generate", "lint", "synth", "sim", "asm", "disasm", "schedule", "time", "run", "board", "bench",
    "report",
)  # fmt: skip
"""The subcommands in the order of ``a3d --help``; ``sim.commands`` has one module for each."""


def make_parser(commands: Sequence[str] = COMMANDS) -> Any:
    """Return the parser with the given subcommands.

    Raises
    ------
    ModuleNotFoundError
        ``sim.commands`` has no module for one of them.
    """
    from sim.commands._common import Parser

    parser = Parser(
        prog="a3d",
        description="A3D-MoE: generate, schedule, simulate and measure a 3D-stacked Mixture-of-Experts accelerator.",
        epilog="`a3d COMMAND --help` explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"a3d-moe {_version()}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in commands:
        module = importlib.import_module(f"sim.commands.{name}")
        module.add_parser(subparsers)
        subparsers.choices[name].set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``a3d`` with these arguments, or those of the process, and return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    json_only = any(a == "--json=-" or arguments[i : i + 2] == ["--json", "-"] for i, a in enumerate(arguments))
    output: TextIO | None = None
    args = None

    def work() -> int:
        nonlocal args, output
        output = sys.stdout
        from sim.commands._common import check_demo_model, check_distinct

        # Only the command that was asked for is imported: the others would cost a second of start-up.
        named = arguments[0] if arguments and arguments[0] in COMMANDS else None
        args = make_parser([named] if named else COMMANDS).parse_args(arguments)
        check_distinct(args)
        check_demo_model(args)
        sweep_temporary()
        # With --json -, standard output has the JSON and nothing else, whoever prints.
        with contextlib.redirect_stdout(sys.stderr) if json_only else contextlib.nullcontext():
            return int(args.run(args))

    def tell(line: str, status: int) -> None:
        if json_only and output is not None and not getattr(getattr(args, "json", None), "written", False):
            output.write(json.dumps({"error": line, "status": status}) + "\n")
            output.flush()

    return run_program(work, own=argv is None, on_error=tell)


def _version() -> str:
    try:
        return importlib.metadata.version("a3d-moe")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed: make setup)"


if __name__ == "__main__":
    sys.exit(main())
