# SPDX-License-Identifier: Apache-2.0
"""``a3d sim``: runs a cocotb bench by name; ``make sim TEST=name`` is a thin name for it."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from hdl.config import load_config
from hdl.errors import A3dError
from sim.commands._common import (
    Subparsers,
    add_config_option,
    add_json_option,
    count,
    new_parser,
    output_folder,
    print_table,
    seconds,
    write_json,
)  # fmt: skip
from sim.commands._replay import run_schedule
from sim.simulator.runner import SIMULATORS
from sim.simulator.testbench import bench_names, bench_summary, run_bench
from sim.simulator.tools import waves_line

SCHEDULE = "schedule"
"""The bench that runs a saved schedule instead of drawn streams."""

OF_BENCHES: Mapping[str, object] = {"sim": "verilator", "testcase": None, "seed": None, "timeout": 3600.0}
"""Options that do not go with it, and their defaults."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = new_parser(subparsers, "sim", "run a cocotb bench; without a name, list them")
    parser.add_argument("bench", nargs="?", help="name of the bench")
    add_config_option(parser)
    parser.add_argument("--sim", choices=SIMULATORS, default="verilator", help="the simulator; default verilator")
    parser.add_argument("--testcase", metavar="NAME", help="run only this test of the bench")
    parser.add_argument("--seed", type=count(0, (1 << 32) - 1), metavar="N", help="repeat a run with this random seed")
    parser.add_argument(
        "--schedule", type=Path, metavar="DIR", help="of the bench `schedule`: what `a3d schedule` made, with weights"
    )
    parser.add_argument("--waves", action="store_true", help="record waves into the work directory")
    parser.add_argument("--timeout", type=seconds, default=3600.0, metavar="SECONDS", help="kill it then; default 3600")
    parser.add_argument("--work-dir", type=output_folder, metavar="DIR", help="run there, and keep what the run leaves")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    if args.bench is None:
        benches = {name: bench_summary(name) for name in bench_names()} | {
            SCHEDULE: "streams that a3d schedule made (--schedule DIR)"
        }
        print_table(benches.items(), ("bench", "what it tests"))
        write_json(args.json, {"benches": benches})
        return 0
    if (args.bench == SCHEDULE) != (args.schedule is not None):
        raise A3dError(f"--schedule: goes with the bench {SCHEDULE}, which needs it: a3d sim {SCHEDULE} --schedule DIR")
    if args.schedule is not None:
        for name, default in OF_BENCHES.items():
            if getattr(args, name) != default:
                raise A3dError(f"--{name}: is not for the bench {SCHEDULE}, which Verilator runs whole; leave it out")
        write_json(args.json, run_schedule(args.schedule, "rtl", waves_to=args.work_dir if args.waves else None))
        return 0
    result = run_bench(
        args.bench,
        load_config(args.config),
        simulator=args.sim,
        testcase=args.testcase,
        seed=args.seed,
        waves=args.waves,
        timeout_s=args.timeout,
        work_dir=args.work_dir,
        echo=True,
    )
    if result.waves:
        print(waves_line(result.waves))
    write_json(args.json, {"bench": args.bench, "config": args.config, "sim": args.sim, "result": result})
    return 0
