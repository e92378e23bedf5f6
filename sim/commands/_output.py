# SPDX-License-Identifier: Apache-2.0
"""Options of the subcommands that write a machine's Verilog: where it goes, and what its names begin with."""

import argparse
from pathlib import Path

from hdl.config import MachineConfig
from hdl.emit.hierarchy import check_prefix
from sim.commands._common import check_folder, output_folder

__all__ = ["add_output_options", "verilog_folder"]


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--out`` and ``--prefix``."""
    parser.add_argument(
        "-o",
        "--out",
        type=output_folder,
        metavar="DIR",
        help="output directory; default build/rtl/NAME, with a prefix build/rtl/PREFIX_NAME",
    )
    parser.add_argument(
        "--prefix",
        default="",
        metavar="PREFIX",
        help="begin the name of every module, Verilog file, C macro and the header with PREFIX_, for several machines "
        "in one project: lower-case letters, digits, single '_'",
    )


def verilog_folder(args: argparse.Namespace, config: MachineConfig) -> Path:
    """Return where the Verilog goes: by default two prefixes do not replace each other's output.

    Raises
    ------
    A3dError
        The prefix is none, or the folder cannot be written.
    """
    stem = check_prefix(args.prefix)
    out: Path = args.out or check_folder(Path("build") / "rtl" / f"{stem}{config.name}")
    return out
