# SPDX-License-Identifier: Apache-2.0
"""``a3d time``: how long a stream or a schedule takes by the cycle model."""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hdl.errors import A3dError, one_line
from hdl.isa import Opcode
from hdl.isa.legality import Limits
from scheduler.cost.model import simulate
from scheduler.schedule.files import load_schedule
from scheduler.stream.legal import illegal, why_illegal
from scheduler.stream.table import COL, Table
from scheduler.system import SystemConfig, load_system
from sim.commands._common import (
    Subparsers,
    add_config_option,
    add_json_option,
    new_parser,
    print_table,
    progress,
    read_stream,
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
        _say_times(result["system"]["clock_mhz"], {entry["name"]: entry["ms"] for entry in result["steps"]})
    else:
        system = load_system(args.config)
        config = system.machine
        stream = read_stream(args.path)
        if not stream:
            raise A3dError(f"{args.path}: no instructions; name a binary stream or a schedule's directory")
        result = {
            "config": config.to_dict(), "system": system.to_dict(), "instructions": len(stream),
            **_time(system, Table.of(stream), args.path),
        }  # fmt: skip
        print(f"{result['cycles']:,} cycles on {config.name}, {len(stream):,} instructions")
        _say_times(system.clock_mhz, {str(args.path): result["ms"]})
        rows = [[name, busy, f"{100 * busy / result['cycles']:.1f} %"] for name, busy in result["busy"].items()]
        print_table(rows, UNIT_COLUMNS, title="busy cycles")
    if args.json:
        write_json(args.json, result)
    return 0


def _say_times(clock_mhz: float | None, times: Mapping[str, float]) -> None:
    if clock_mhz is not None:
        print(f"at {clock_mhz:g} MHz: " + ", ".join(f"{name} {ms:.4g} ms" for name, ms in times.items()))


def _time(system: SystemConfig, table: Table, path: Path, stream_base: int = 0) -> dict[str, Any]:
    """Return a stream's cycles, its time if the system has a clock, and each unit's busy cycles and stalls.

    Raises
    ------
    A3dError
        An instruction that the machine would refuse: the cycle model takes legal ones; no END, or one before the last.
    """
    ends = np.flatnonzero(table.rows[:, COL.opcode] == Opcode.END).tolist()
    if ends != [len(table) - 1]:
        where = f"END is instruction {ends[0]} of {len(table)}" if ends else "has no END"
        raise A3dError(f"{one_line(path)}: {where}; a stream has it once, as the last instruction")
    config = system.machine
    limits = Limits.whole(config)
    wrong = illegal(table, config, limits)
    if len(wrong):
        why = why_illegal(table, int(wrong[0]), config, limits)
        raise A3dError(
            f"{one_line(path)}: instruction {wrong[0]} is not legal on {config.name}: {why}; name the configuration "
            "that the stream was made for with --config"
        )
    forecast = simulate(config, table, memory=system.memory, stream_base=stream_base)
    ms = None if system.clock_mhz is None else forecast.cycles / system.clock_mhz / 1e3
    return {"cycles": forecast.cycles, "ms": ms, "busy": forecast.busy(), "stalls": forecast.stalls()}


def _schedule(folder: Path) -> dict[str, Any]:
    saved = load_schedule(folder)
    entries: list[dict[str, Any]] = []

    def each() -> Iterator[None]:
        for number in range(len(saved)):
            step = saved.step(number)
            entries.append(
                {**step.about, **_time(saved.system, step.table, folder / f"{step.name}.bin", step.stream_base)}
            )
            yield

    for _ in progress(each(), "timing steps", len(saved)):
        pass
    return {
        "config": saved.config.to_dict(),
        "system": saved.system.to_dict(),
        "model": saved.about["model"]["name"],
        "steps": entries,
    }
