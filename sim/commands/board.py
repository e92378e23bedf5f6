# SPDX-License-Identifier: Apache-2.0
"""``a3d board``: a machine on an FPGA board: its bitstream, a check of the board, a simulated one."""

from __future__ import annotations

import argparse
import dataclasses
import threading
from pathlib import Path
from typing import Any

from hdl.boards.boards import BOARDS
from hdl.boards.build import DEFAULT_MHZ, BoardBuild
from hdl.boards.memory import check_memory_bytes
from hdl.boards.top import DEFAULT_BAUD, DEFAULT_MEMORY_BYTES
from hdl.config import load_config
from sim.board.check import check_board
from sim.board.session import BoardSession
from sim.board.simulated import build_simulated_board, simulated_board, simulated_wiring
from sim.commands._board import MOST_BAUD, add_port_options, connect
from sim.commands._common import (
    Parser,
    Subparsers,
    add_config_option,
    add_json_option,
    check_folder,
    count,
    fraction,
    new_parser,
    output_folder,
    print_table,
    write_json,
)  # fmt: skip
from sim.commands._generation import announce_compiling, say
from sim.simulator.tools import require_simulator

DETAILS = """\
build: the bitstream, with tools from pip alone. check: a layer of experts and a small language model on the board at
--port, every byte compared with the instruction executor. sim: a simulated board behind a pseudo terminal, for check
and `a3d run --engine board`. docs/board.md has the rest."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = new_parser(subparsers, "board", "a machine on an FPGA board: bitstream, check, simulated board", DETAILS)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    build = _action(actions, "build", "make a board's bitstream (a quarter of an hour)")
    build.add_argument("--board", choices=list(BOARDS), default=next(iter(BOARDS)), help="default %(default)s")
    _add_memory_option(build)
    build.add_argument(
        "--clock-mhz", type=fraction(0, exclusive=True), default=DEFAULT_MHZ, metavar="F",
        help="clock of the machine: the nearest below that the PLL can make; default %(default)g",
    )  # fmt: skip
    build.add_argument(
        "--baud", type=count(1, MOST_BAUD), default=DEFAULT_BAUD, metavar="N",
        help="of the serial line; default %(default)s",
    )  # fmt: skip
    build.add_argument("--seed", type=count(0), default=1, metavar="N", help="of the placer; default 1")
    build.add_argument("-o", "--out", type=output_folder, metavar="DIR", help="default build/board/BOARD_CONFIG")
    add_json_option(build)
    check = _action(actions, "check", "run a layer and a language model on a board, every byte compared")
    add_port_options(check, required=True)
    check.add_argument("--seed", type=count(0), default=1, metavar="N", help="of what is drawn; default 1")
    add_json_option(check)
    simulate = _action(actions, "sim", "run a simulated board until it is interrupted; prints its port")
    _add_memory_option(simulate)


def _action(actions: Any, name: str, summary: str) -> Parser:
    parser: Parser = actions.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
    add_config_option(parser, "nano")
    return parser


def _add_memory_option(parser: Parser) -> None:
    parser.add_argument(
        "--memory-kib", type=count(1, 1 << 20), default=DEFAULT_MEMORY_BYTES >> 10, metavar="N",
        help="block RAM of each channel group; default %(default)s",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    return {"build": _build, "check": _check, "sim": _simulate}[args.action](args)


def _build(args: argparse.Namespace) -> int:
    config, board = load_config(args.config), BOARDS[args.board]
    build = BoardBuild(
        board, config, memory_bytes=args.memory_kib << 10, mhz=args.clock_mhz, baud=args.baud, seed=args.seed
    )
    out: Path = args.out or check_folder(Path("build") / "board" / f"{board.name}_{config.name}")
    said = ""
    for doing in build.run(out):
        stage = doing.partition(",")[0]
        if stage != said:
            say(f"{board.name}: {doing}")
        said = stage
    built = build.built
    assert built is not None
    taken: list[list[object]] = [
        [name, f"{used:,} of {built.available[name]:,}"] for name, used in built.resources.items()
    ]
    rows: list[list[object]] = [
        ["clock, MHz", built.clock_mhz],
        ["reached by the worst path, MHz", built.reached_mhz],
        *taken,
        ["seconds: synthesis, place and route, packing", f"{built.synth_s:g}, {built.route_s:g}, {built.pack_s:g}"],
        ["bitstream", built.bitstream],
        ["load it with", board.program.format(built.bitstream)],
        ["its line", f"{board.port}, {built.baud} baud"],
    ]
    print_table(rows, ("quantity", "value"), left=("value",), title=build.what)
    write_json(args.json, dataclasses.asdict(built))
    return 0


def _check(args: argparse.Namespace) -> int:
    config = load_config(args.config)
    with connect(args) as link:
        session = BoardSession(link, config)
        say(f"{args.port}: {config.name} at {session.clock_khz / 1000:g} MHz, 2 x {session.memory_bytes >> 10} KiB")
        results = []
        for result in check_board(session, config, args.seed):
            say(f"{result.what}: {result.compared_bytes:,} bytes compared, none differs")
            results.append(result)
    rows = [[r.what, r.cycles, r.compared_bytes, round(r.seconds, 1)] for r in results]
    print_table(rows, ("check", "cycles", "bytes compared", "seconds"), title=f"{config.name} at {args.port}")
    write_json(args.json, {"config": config.name, "port": args.port, "checks": results, "repeated": link.repeated})
    return 0


def _simulate(args: argparse.Namespace) -> int:
    require_simulator("verilator")
    config = load_config(args.config)
    board = simulated_wiring(check_memory_bytes(config, args.memory_kib << 10))
    program = build_simulated_board(config, board, announce=announce_compiling(config))
    with simulated_board(program, board) as port:
        print(port, flush=True)
        say(
            f"{config.name} is at {port} until you interrupt this; a3d board check --config {args.config} --port {port}"
        )
        threading.Event().wait()
    return 0
