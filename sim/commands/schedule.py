# SPDX-License-Identifier: Apache-2.0
"""``a3d schedule``: the instruction streams of a file of steps, for a model or a published shape on a machine."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hdl.config import MachineConfig
from hdl.errors import A3dError
from scheduler.models.checkpoint import has_weights
from scheduler.models.description import Model
from scheduler.models.quantised_model import QuantisedModel
from scheduler.models.random_model import random_model
from scheduler.ops.steps_file import Step, read_steps
from scheduler.schedule.build import Planned, Scheduler
from scheduler.schedule.files import check_target, save_schedule
from scheduler.schedule.routing import MachineRouting, RoutingSource, TraceRouting, UniformRouting
from sim.commands._common import (
    Subparsers,
    add_config_option,
    add_json_option,
    add_policy_option,
    count,
    new_parser,
    output_folder,
    print_table,
    system_of,
    write_json,
)  # fmt: skip
from sim.commands._generation import say
from sim.commands._schedule import STEP_COLUMNS, add_model_options, explain, model_of, step_rows
from sim.machine.byte_model import read_byte_model

DETAILS = """\
FILE has a JSON object for each step: {"sequences": [{"id": "a", "cached": 512, "new": 1}, ...]}, and may give tokens
and routing (scheduler/ops/steps_file.py has all fields). OUT gets the streams (binary and assembler), what the host
writes for each step, labels, a summary, and with weights the memories; `a3d run --schedule OUT` runs it on the
simulated machine, `a3d time OUT` on the cycle model. A shape without weights gives streams that can be verified and
timed: their constants mean nothing."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = new_parser(subparsers, "schedule", "make the instruction streams of a file of steps", DETAILS)
    add_model_options(parser)
    add_config_option(parser, "large")
    parser.add_argument("--steps", type=Path, required=True, metavar="FILE", help="steps, one JSON object a line")
    parser.add_argument(
        "--routing", default="uniform", metavar="HOW",
        help="experts of tokens that FILE gives none for: uniform (default; a draw), machine (its own router, slots), "
        "or a .npy file [tokens, layers, chosen]",
    )  # fmt: skip
    add_policy_option(parser)
    parser.add_argument("--seed", type=count(0), default=0, metavar="N", help="of draws; default 0")
    parser.add_argument(
        "--random-weights", type=count(0), metavar="SEED", help="weights for a shape, so that it runs on the machine"
    )  # fmt: skip
    parser.add_argument(
        "--calibration", type=Path, metavar="FILE", help="text for a model's ranges; default heldout.txt"
    )
    parser.add_argument("--no-weights", action="store_true", help="addresses only, although DIR has weights")
    parser.add_argument("--no-assembler", action="store_true", help="leave the streams' text out")
    parser.add_argument("--explain", action="store_true", help="say how each operation is planned, and what bounds it")
    parser.add_argument(
        "-o", "--out", type=output_folder, default="build/schedule", metavar="DIR", help="default build/schedule"
    )
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    check_target(args.out)
    system = system_of(args)
    model = model_of(args)
    steps = read_steps(args.steps, model)
    source = _source(args, model)
    quantised = _weights(args, model, system.machine)
    if model.missing:
        say(f"{model.name}: planned and timed only; not implemented are {model.missing}")
    if quantised is not None:
        _say_unwritten(steps)
    elif Path(args.model).is_dir() and not args.no_weights:
        say(f"{args.model}: no model.safetensors there; addresses only, as with --no-weights")
    scheduler = Scheduler(
        system, model, steps, source, quantised=quantised, seed=args.seed
    )  # fmt: skip

    def each(planned: Planned, entry: dict[str, Any]) -> None:
        say(f"{entry['name']}: {entry['tokens']} tokens, {entry['instructions']:,} instructions")
        if args.explain:
            explain(planned)

    about = save_schedule(scheduler, args.out, assembler=not args.no_assembler, each=each)
    print_table(step_rows(about["steps"]), STEP_COLUMNS, title=f"{model.name} on {system.machine.name}")
    if args.json:
        write_json(args.json, about)
    say(f"schedule: {args.out}")
    return 0


def _source(args: argparse.Namespace, model: Model) -> RoutingSource:
    if args.routing == "uniform":
        return UniformRouting(model, args.seed)
    if args.routing == "machine":
        return MachineRouting()
    if not args.routing.endswith(".npy"):
        raise A3dError(f"--routing {args.routing}: use uniform, machine or a .npy file")
    return TraceRouting(model, Path(args.routing))


def _weights(args: argparse.Namespace, model: Model, config: MachineConfig) -> QuantisedModel | None:
    """Return the weights that the options ask for."""
    if args.random_weights is not None:
        if args.no_weights:
            raise A3dError("--no-weights: contradicts --random-weights; leave one of them out")
        _refuse_calibration(args, "random weights have")
        model.require_complete()
        return random_model(model, args.random_weights)
    folder = Path(args.model)
    if args.no_weights or not folder.is_dir() or not has_weights(folder):
        _refuse_calibration(args, "a schedule without weights has")
        return None
    if args.layers is not None:
        raise A3dError("--layers: a model with weights runs whole; add --no-weights or --random-weights SEED")
    return read_byte_model(folder, config, calibration=args.calibration).model


def _refuse_calibration(args: argparse.Namespace, what: str) -> None:
    if args.calibration is not None:
        raise A3dError(f"--calibration {args.calibration}: {what} no ranges to take from a text; leave it out")


def _say_unwritten(steps: Sequence[Step]) -> None:
    """Name the sequences that begin with keys that no step has written."""
    seen: set[str] = set()
    for step in steps:
        for own in step.sequences:
            alone = own.cached - own.prefix_tokens
            if alone and own.name not in seen:
                say(
                    f"line {step.line}: sequence {own.name}: no step writes {alone} of its cached tokens; their keys "
                    "and values are what memory holds"
                )
            seen.add(own.name)
