# SPDX-License-Identifier: Apache-2.0
"""``a3d asm``: assembler text to a binary stream."""

import argparse
from pathlib import Path

from hdl.config import load_config
from hdl.errors import A3dError
from hdl.isa.asm import assemble, to_binary
from hdl.isa.legality import Limits, check_instruction
from hdl.scratch import whole_file
from sim.commands._common import Subparsers, add_config_option, new_parser, output_file, read_limited


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = new_parser(
        subparsers,
        "asm",
        "translate assembler text to a binary stream",
        "Every instruction is checked against the configuration: a stream that assembles is one the machine takes.",
    )
    parser.add_argument("source", metavar="SOURCE", help="assembler text, one instruction per line")
    parser.add_argument("output", type=output_file, metavar="OUTPUT", help="binary stream to write")
    parser.add_argument("--unchecked", action="store_true", help="write instructions that the machine would refuse too")
    add_config_option(parser)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    config = load_config(args.config)
    data = read_limited(Path(args.source), f"{args.source}: cannot read")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise A3dError(f"{args.source}: is not text; to read a binary stream use a3d disasm") from error
    instructions = assemble(text)
    for number, instruction in enumerate(instructions):
        wrong = None if args.unchecked else check_instruction(instruction, config, Limits.whole(config))
        if wrong is not None:
            raise A3dError(f"instruction {number}: {wrong.message} (--unchecked writes it all the same)")
    with whole_file(args.output) as scratch:
        scratch.write_bytes(to_binary(instructions))
    print(f"{len(instructions)} instructions written to {args.output}")
    return 0
