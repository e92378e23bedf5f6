# SPDX-License-Identifier: Apache-2.0
"""The command line ``a3d``.

Exit status: 0 all is well, 1 a check failed, 2 bad input or a missing tool, 130 interrupted.
"""

import argparse
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence

from hdl.errors import A3dError

__all__ = ["COMMANDS", "main", "make_parser"]

COMMANDS = (
    "demo",
    "info",
    "generate",
    "lint",
    "synth",
    "sim",
    "schedule",
    "asm",
    "disasm",
    "run",
    "bench",
    "report",
)
"""The subcommands in the order of ``a3d --help``; ``sim.commands`` has one module for each."""


def make_parser(commands: Sequence[str] = COMMANDS) -> argparse.ArgumentParser:
    """Return the parser with the given subcommands."""
    parser = argparse.ArgumentParser(
        prog="a3d",
        description="A3D-MoE: generate, schedule, simulate and measure a 3D-stacked Mixture-of-Experts accelerator.",
        epilog="`a3d COMMAND --help` explains a command.",
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in commands:
        # Looked up first, so that an import that fails *inside* a command is not mistaken for a missing command.
        if importlib.util.find_spec(f"sim.commands.{name}") is not None:
            module = importlib.import_module(f"sim.commands.{name}")
            module.add_parser(subparsers)
            subparsers.choices[name].set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``a3d`` with these arguments, or those of the process, and return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Only the command that was asked for is imported: the others would cost a second of start-up.
    named = arguments[0] if arguments and arguments[0] in COMMANDS else None
    args = make_parser([named] if named else COMMANDS).parse_args(arguments)
    try:
        return int(args.run(args))
    except A3dError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Somebody closed the pipe (`a3d ... | head`); nothing more can be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
