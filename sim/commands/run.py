# SPDX-License-Identifier: Apache-2.0
"""``a3d run``: a language model writes text on the simulated machine."""

import argparse
import contextlib
from collections.abc import Mapping
from pathlib import Path

from hdl.errors import A3dError
from scheduler.cost.energy.energy import energy_of
from scheduler.models.checkpoint import read_config
from sim.commands._board import add_port_options, open_board
from sim.commands._common import (
    Subparsers,
    add_config_option,
    add_json_option,
    new_parser,
    output_folder,
    system_of,
    write_json,
)  # fmt: skip
from sim.commands._energy import add_energy_option, clock_of, print_energy, table_of
from sim.commands._generation import (
    add_generation_options,
    check_options,
    generate,
    make_generator,
    print_report,
    read_model,
    requests_of,
    say,
    write_files,
)
from sim.commands._replay import run_schedule
from sim.machine.engines import ENGINES
from sim.stimulus.moe_demo import DEMO_MODEL

DETAILS = """\
Prompts are prefilled, then tokens are written one after the other. Sequences share steps: --batching says how, and
--requests lets them come one after the other. With the engine rtl every byte of both memories is compared with the
instruction executor's after every step; a difference stops the run. With the engine board the same is done with the
machine on an FPGA board (docs/board.md).
--schedule runs the streams that `a3d schedule` made, on their own configuration and weights, instead of text.
"""

OF_PROMPTS: Mapping[str, object] = {
    "model": DEMO_MODEL, "prompt": [], "prompt_file": [], "requests": None, "tokens": None,
    "batch": None, "batching": "mixed", "step_tokens": None, "routing": "slots",
    "policy": None, "ignore_eos": False, "temperature": 0.0, "seed": 0, "clock_mhz": None, "trace": None,
    "calibration": None, "precision": None,
}  # fmt: skip
"""Options that do not go with ``--schedule``, and their defaults."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = new_parser(subparsers, "run", "generate text with a model on the simulated machine", DETAILS)
    parser.add_argument("--model", type=Path, default=DEMO_MODEL, metavar="DIR", help="default models/demo")
    add_config_option(parser, "small")
    add_generation_options(parser, tokens=32, batch=None, engines=(*ENGINES, "board"))
    add_port_options(parser)
    parser.add_argument(
        "--schedule", type=Path, metavar="DIR", help="run a schedule with weights (a3d schedule) instead of prompts"
    )
    parser.add_argument("--waves", action="store_true", help="record waves into OUT (engine rtl; slow, large)")
    add_energy_option(parser)
    parser.add_argument("-o", "--out", type=output_folder, default="build/run", metavar="DIR", help="default build/run")
    add_json_option(parser, default="OUT/report.json")


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    table = table_of(args)
    sampler = check_options(args, ["energy.png"] if table else [])
    if args.schedule is not None:
        if args.engine == "board":
            raise A3dError("--schedule: schedules run on the engines rtl and isa; leave it out, or use --engine rtl")
        for name, default in OF_PROMPTS.items():
            if getattr(args, name) != default:
                option = f"--{name.replace('_', '-')}"
                raise A3dError(
                    f"{option}: a schedule brings its own model and tokens, and no clock; leave {option} out"
                )
        report = run_schedule(
            args.schedule, args.engine, waves_to=args.out if args.waves else None, energy=table,
            picture=args.out / "energy.png",
        )  # fmt: skip
        write_json(args.json or args.out / "report.json", report)
        return 0
    system = system_of(args)
    requests = requests_of(args, read_config(args.model))
    with contextlib.ExitStack() as stack:
        # First of all: a board that is not there would waste what comes before it is needed.
        board = stack.enter_context(open_board(args, system.machine)) if args.engine == "board" else None
        say(f"{args.model}: reading and quantising")
        model, precision = read_model(args, system.machine)
        generator = make_generator(args, system, model, requests, sampler, precision)
        report, tally = generate(generator, args, system, waves_to=args.out if args.waves else None, board=board)
    report = {"model": model.name, "system": system.to_dict(), **report}
    print_report(report, f"{model.name} on {system.machine.name} ({args.engine})")
    write_files(report, tally, system.machine, args.out)
    if table is not None:
        mhz = clock_of(system.clock_mhz)
        found = {
            phase: (energy_of(activity, table, mhz).to_dict(), tokens)
            for phase, (activity, tokens) in tally.activities.items()
        }
        report["energy"] = {phase: {"tokens": tokens, **energy} for phase, (energy, tokens) in found.items()}
        report["activity"] = {phase: activity.to_dict() for phase, (activity, _) in tally.activities.items()}
        print_energy(
            [(phase, *own) for phase, own in found.items()], f"{model.name} on {system.machine.name} (RTL counters)",
            args.out / "energy.png",
        )  # fmt: skip
    target = args.json or args.out / "report.json"
    write_json(target, report)
    say(f"report: {target}")
    return 0
