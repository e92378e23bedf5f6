# SPDX-License-Identifier: Apache-2.0
"""``a3d time``: how long a stream or a schedule takes by the cycle model."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hdl.config import MachineConfig, load_config
from hdl.errors import A3dError
from hdl.isa.asm import from_binary
from scheduler.cost.model import simulate
from scheduler.schedule.files import load_schedule
from scheduler.stream.table import Table
from sim.commands._common import (
    Subparsers,
    add_config_option,
    add_json_option,
    new_parser,
    print_table,
    progress,
    read_limited,
    write_json,
)  # fmt: skip
from sim.commands._schedule import STEP_COLUMNS, step_rows

DETAILS = """\
PATH is a schedule's directory (a3d schedule), which brings its own configuration, or a binary stream. The model's error
against the simulated RTL is what `a3d bench cycle-model` measures. A stream whose routing the machine finds takes as
long as its slots' largest counts."""

UNIT_COLUMNS = ("unit", "busy", "of it")


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = new_parser(subparsers, "time", "forecast a stream's or a schedule's cycles with the cycle model", DETAILS)
    parser.add_argument("path", type=Path, metavar="PATH", help="schedule directory or binary stream")
    add_config_option(parser)
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    if args.path.is_dir():
        result = _schedule(args.path)
        print_table(step_rows(result["steps"]), STEP_COLUMNS, title=f"{result['model']} on {result['config']['name']}")
    else:
        config = load_config(args.config)
        stream = from_binary(read_limited(args.path, f"{args.path}: cannot read"))
        if not stream:
            raise A3dError(f"{args.path}: no instructions; name a binary stream or a schedule's directory")
        result = {"config": config.to_dict(), "instructions": len(stream), **_time(config, Table.of(stream))}
        print(f"{result['cycles']:,} cycles on {config.name}, {len(stream):,} instructions")
        rows = [[name, busy, f"{100 * busy / result['cycles']:.1f} %"] for name, busy in result["busy"].items()]
        print_table(rows, UNIT_COLUMNS, title="busy cycles")
    if args.json:
        write_json(args.json, result)
    return 0


def _time(config: MachineConfig, table: Table) -> dict[str, Any]:
    """Return a stream's cycles, the busy cycles of each unit, and why each stood still."""
    forecast = simulate(config, table)
    return {"cycles": forecast.cycles, "busy": forecast.busy(), "stalls": forecast.stalls()}


def _schedule(folder: Path) -> dict[str, Any]:
    saved = load_schedule(folder)
    entries: list[dict[str, Any]] = []

    def each() -> Iterator[None]:
        for number in range(len(saved)):
            step = saved.step(number)
            entries.append({**step.about, **_time(saved.config, step.table)})
            yield

    for _ in progress(each(), "timing steps", len(saved)):
        pass
    return {"config": saved.config.to_dict(), "model": saved.about["model"]["name"], "steps": entries}
