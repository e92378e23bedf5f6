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
from scheduler.cost.energy.count import DEFAULT_MHZ, activity_of_forecast
from scheduler.cost.energy.energy import energy_of
from scheduler.cost.energy.table import EnergyTable
from scheduler.cost.links import link_bytes
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
    picture_file,
    print_table,
    progress,
    read_stream,
    write_json,
)  # fmt: skip
from sim.commands._energy import add_energy_option, clock_of, print_energy, table_of
from sim.commands._schedule import STEP_COLUMNS, step_rows

DETAILS = """\
PATH is a schedule's directory (a3d schedule), which brings its own configuration, or a binary stream. The model's error
against the simulated RTL is what `a3d bench cycle-model` measures. A stream whose routing the machine finds takes as
long, and moves as many bytes, as with its slots' largest counts."""

UNIT_COLUMNS = ("unit", "busy", "of it")
LINK_COLUMNS = ("bytes", "all", "of it")
LINKS = {"vertical": "across bonds", "lateral": "on the dies", "offchip": "off chip"}
STEP_LINK_COLUMNS = ("step", *LINKS.values())


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = new_parser(subparsers, "time", "forecast a stream's or a schedule's cycles with the cycle model", DETAILS)
    parser.add_argument("path", type=Path, metavar="PATH", help="schedule directory or binary stream")
    add_config_option(parser)
    add_energy_option(parser)
    parser.add_argument("--picture", type=picture_file, metavar="FILE", help="with --energy: bars by component")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    energy = table_of(args)
    if args.picture is not None and energy is None:
        raise A3dError(f"--picture {args.picture}: shows energies; add --energy, or leave it out")
    if args.path.is_dir():
        result = _schedule(args.path, energy)
        print_table(step_rows(result["steps"]), STEP_COLUMNS, title=f"{result['model']} on {result['config']['name']}")
        _say_times(result["system"]["clock_mhz"], {entry["name"]: entry["ms"] for entry in result["steps"]})
        rows = [[entry["name"], *(entry["links"][way] for way in LINKS)] for entry in result["steps"]]
        print_table(rows, STEP_LINK_COLUMNS, title="bytes")
    else:
        system = load_system(args.config)
        config = system.machine
        stream = read_stream(args.path)
        if not stream:
            raise A3dError(f"{args.path}: no instructions; name a binary stream or a schedule's directory")
        result = {
            "config": config.to_dict(), "system": system.to_dict(), "instructions": len(stream),
            **_time(system, Table.of(stream), args.path, energy),
        }  # fmt: skip
        print(f"{result['cycles']:,} cycles on {config.name}, {len(stream):,} instructions")
        _say_times(system.clock_mhz, {str(args.path): result["ms"]})
        rows = [[name, busy, f"{100 * busy / result['cycles']:.1f} %"] for name, busy in result["busy"].items()]
        print_table(rows, UNIT_COLUMNS, title="busy cycles")
        print_table(_link_rows(result["links"]), LINK_COLUMNS, left=("of it",), title="bytes")
    if energy is not None:
        clock_of(result["system"]["clock_mhz"])
        entries = result.get("steps", [result])
        print_energy(
            [(entry.get("name", args.path.name), entry["energy"], entry.get("tokens", 1)) for entry in entries],
            f"{args.path.name} on {result['config']['name']}, cycle model", args.picture,
        )  # fmt: skip
    if args.json:
        write_json(args.json, result)
    return 0


def _link_rows(links: Mapping[str, Any]) -> list[list[Any]]:
    """Return the rows of a table of a stream's bytes."""
    rows = []
    for way, name in LINKS.items():
        kinds = (f"{kind} {many:,}" for kind, many in links[f"{way}_by"].items() if many)
        rows.append([name, links[way], ", ".join(kinds)])
    return rows


def _say_times(clock_mhz: float | None, times: Mapping[str, float]) -> None:
    if clock_mhz is not None:
        print(f"at {clock_mhz:g} MHz: " + ", ".join(f"{name} {ms:.4g} ms" for name, ms in times.items()))


def _time(
    system: SystemConfig, table: Table, path: Path, energy: EnergyTable | None, stream_base: int = 0
) -> dict[str, Any]:  # fmt: skip
    """Return a stream's cycles, its time if the system has a clock, units' busy cycles and stalls, bytes and energy.

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
    result = {
        "cycles": forecast.cycles, "ms": ms, "busy": forecast.busy(), "stalls": forecast.stalls(),
        "links": link_bytes(config, table).to_dict(),
    }  # fmt: skip
    if energy is not None:
        mhz = system.clock_mhz or DEFAULT_MHZ
        activity = activity_of_forecast(forecast, table, mhz=mhz)
        result |= {"activity": activity.to_dict(), "energy": energy_of(activity, energy, mhz).to_dict()}
    return result


def _schedule(folder: Path, energy: EnergyTable | None) -> dict[str, Any]:
    saved = load_schedule(folder)
    entries: list[dict[str, Any]] = []

    def each() -> Iterator[None]:
        for number in range(len(saved)):
            step = saved.step(number)
            own = _time(saved.system, step.table, folder / f"{step.name}.bin", energy, step.stream_base)
            entries.append({**step.about, **own})
            yield

    for _ in progress(each(), "timing steps", len(saved)):
        pass
    return {
        "config": saved.config.to_dict(),
        "system": saved.system.to_dict(),
        "model": saved.about["model"]["name"],
        "steps": entries,
    }
