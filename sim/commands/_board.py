# SPDX-License-Identifier: Apache-2.0
"""What commands that speak to a board share: its options, and the way to it."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator

from hdl.boards.top import DEFAULT_BAUD
from hdl.config import MachineConfig
from hdl.errors import A3dError
from sim.board.engine import BoardEngine
from sim.board.link import Link, open_port
from sim.board.session import BoardSession
from sim.commands._common import count

__all__ = ["add_port_options", "check_board_options", "connect", "open_board"]

MOST_BAUD = 100_000_000


def add_port_options(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """Add ``--port`` and ``--baud``."""
    parser.add_argument(
        "--port", required=required, metavar="DEV",
        help="serial port of the board, such as /dev/ttyUSB0" + ("" if required else ", for the engine board"),
    )  # fmt: skip
    parser.add_argument(
        "--baud", type=count(1, MOST_BAUD), metavar="N",
        help=f"rate of the serial line, that of the bitstream; default {DEFAULT_BAUD}",
    )  # fmt: skip


def check_board_options(args: argparse.Namespace) -> None:
    """Check that a port goes with the engine board, and with it alone.

    Raises
    ------
    A3dError
        It does not.
    """
    if args.engine == "board":
        if args.port is None:
            raise A3dError("--engine board: needs the board's port; add --port DEV, such as --port /dev/ttyUSB0")
        return
    for name in ("port", "baud"):
        if getattr(args, name, None) is not None:
            raise A3dError(f"--{name}: the engine {args.engine} has no port; leave it out, or use --engine board")


def connect(args: argparse.Namespace) -> Link:
    """Return the link to the board at the port.

    Raises
    ------
    BoardError
        There is none.
    """
    return Link(open_port(args.port, args.baud or DEFAULT_BAUD), args.port)


@contextlib.contextmanager
def open_board(args: argparse.Namespace, config: MachineConfig) -> Iterator[BoardEngine]:
    """Give the engine of the board at the port, for the block.

    Raises
    ------
    BoardError
        There is none, or another machine is on it.
    """
    with connect(args) as link:
        yield BoardEngine(config, BoardSession(link, config))
