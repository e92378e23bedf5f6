# SPDX-License-Identifier: Apache-2.0
"""Bench of energy: a language model's steps by component."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from scheduler.cost.energy.table import load_table
from sim.commands._common import (
    Subparsers,
    add_config_option,
    add_json_option,
    add_policy_option,
    count,
    picture_file,
    print_table,
    progress,
    system_of,
    write_json,
)
from sim.commands._energy import clock_of
from sim.commands._generation import announce_compiling
from sim.machine.generator import ROUTINGS
from sim.simulator.tools import require_simulator
from sim.stimulus.moe_demo import DEMO_MODEL

__all__ = ["BENCHES", "add_benches"]


def add_benches(kinds: Subparsers) -> None:
    """Add its parser."""
    energy = kinds.add_parser("energy", help="energy of decode and prefill by component, with its band")
    energy.add_argument("--model", type=Path, default=DEMO_MODEL, metavar="DIR", help="default: the demo's")
    add_config_option(energy, "small")
    energy.add_argument("--batches", type=count(1), nargs="+", default=[1, 8, 32], metavar="B", help="default 1 8 32")
    energy.add_argument(
        "--prefill", type=count(0), default=128, metavar="N", help="tokens of the prompt; default 128, 0: none"
    )
    energy.add_argument(
        "--rtl", type=count(0), nargs="*", metavar="B",
        help="also take the counters of the simulated machine, for these batches (0: the prefill); without any, 1",
    )  # fmt: skip
    energy.add_argument("--energy", type=Path, metavar="TABLE", help="a TOML file instead of the package's table")
    energy.add_argument("--routing", choices=ROUTINGS, default=ROUTINGS[0], help=f"default {ROUTINGS[0]}")
    add_policy_option(energy)
    energy.add_argument("--picture", type=picture_file, default="build/bench/energy.png", metavar="FILE")
    add_json_option(energy)


def _energy(args: argparse.Namespace) -> int:
    from sim.measure.energy import EnergyBench, draw

    system, table = system_of(args), load_table(args.energy)
    rtl = [] if args.rtl is None else args.rtl or [1]
    if rtl:
        require_simulator("verilator")
    bench = EnergyBench(
        args.model, system, table, clock_of(system.clock_mhz), batches=list(dict.fromkeys(args.batches)),
        prefill=args.prefill, rtl=rtl, routing=args.routing, announce=announce_compiling(system.machine),
    )  # fmt: skip
    for _ in progress(bench.run(), "steps", bench.total):
        pass
    result = bench.result()
    points = result["points"]
    columns = [f"{p['phase']} {p['batch']}, {p['source']}" for p in points]
    names = list(points[0]["components_pj_per_token"])
    rows = [[name, *(p["components_pj_per_token"][name]["value"] for p in points)] for name in names]
    rows += [["total", *(p["pj_per_token"]["value"] for p in points)]]
    rows += [[f"total, {end}", *(p["pj_per_token"][end] for p in points)] for end in ("low", "high")]
    rows += [["cycles", *(p["cycles"] for p in points)], ["bytes off chip", *(p["bytes_per_token"] for p in points)]]
    print_table(
        rows, ("pJ per token", *columns),
        title=f"Energy of {result['model']} on {system.machine.name} at {result['mhz']:g} MHz, table {table.name} "
        f"(routing {result['routing']}, policy {system.policy.name})",
    )  # fmt: skip
    draw(result, args.picture)
    print(f"picture: {args.picture}")
    write_json(args.json, result)
    return 0


BENCHES: Mapping[str, Callable[[argparse.Namespace], int]] = {"energy": _energy}
"""What runs it."""
