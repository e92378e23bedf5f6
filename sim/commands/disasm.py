# SPDX-License-Identifier: Apache-2.0
"""``a3d disasm``: a binary stream or a program directory as assembler text, explained and checked if wanted."""

import argparse
import sys
from pathlib import Path

import numpy as np

from hdl.config import load_config
from hdl.errors import A3dError, CheckError
from hdl.isa.asm import to_text
from hdl.isa.explain import explain
from scheduler.stream.program import Program
from scheduler.stream.prove import prove
from scheduler.stream.table import Table
from sim.commands._common import Subparsers, add_config_option, new_parser, read_stream


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = new_parser(
        subparsers,
        "disasm",
        "show a stream as assembler text",
        "FILE is a binary stream, or a program directory, which brings its own configuration and symbols.",
    )
    parser.add_argument("file", metavar="FILE", help="binary stream or program directory")
    parser.add_argument("--explain", action="store_true", help="say in words what each instruction does")
    parser.add_argument(
        "--verify", action="store_true", help="prove that no timing can make the stream deadlock or race (directories)"
    )
    add_config_option(parser)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    path = Path(args.file)
    program = Program.load(path) if path.is_dir() else None
    if program is not None:
        config, instructions = program.config, list(program.instructions)
        symbols = {(s.group, s.address): name for name, s in program.symbols.items()}
    else:
        config, symbols = load_config(args.config), {}
        instructions = read_stream(path)
    sys.stdout.write(explain(instructions, config, symbols) if args.explain else to_text(instructions, symbols))
    if args.verify:
        if program is None:
            raise A3dError("--verify needs a program directory: token lists lie in its memory images")
        images = (np.asarray(program.images[0]), np.asarray(program.images[1]))
        findings = prove(Table.of(instructions), config, images, program.limits)
        for finding in findings:
            print(f"; {finding.kind}: {finding.message}")
        if findings:
            raise CheckError(f"{path}: {len(findings)} findings; the first: {findings[0].message}")
        print("; verified: no deadlock, no race, no semaphore overflow, whatever the timing")
    return 0
