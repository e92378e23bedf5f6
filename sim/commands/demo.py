# SPDX-License-Identifier: Apache-2.0
"""``a3d demo``: the demo model writes text on the simulated machine; its experts alone, and on the edge-fed array."""

import argparse
import contextlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scheduler.models.checkpoint import read_config
from scheduler.plan.policy import SEQUENTIAL
from scheduler.serving.request import Request
from scheduler.system import SystemConfig
from sim.commands._common import (
    Subparsers,
    add_config_option,
    add_json_option,
    count,
    new_parser,
    output_folder,
    print_table,
    system_of,
    write_json,
)  # fmt: skip
from sim.commands._generation import (
    COMPILING,
    add_generation_options,
    check_options,
    generate,
    make_generator,
    new_tokens,
    print_report,
    read_model,
    requests_of,
    say,
    write_files,
)
from sim.machine.background import BackgroundMachine
from sim.machine.byte_model import to_tokens
from sim.machine.engines import simulated_memory_bits
from sim.machine.generator import Generator
from sim.machine.system import SimulatedMachine
from sim.simulator.tools import require_simulator
from sim.stimulus.moe_demo import (
    DEMO_MODEL,
    LayerWork,
    draw,
    edge_variant,
    layer_works,
    lower_layers,
    measure_layers,
    memory_bits,
    with_control,
)
from sim.view.report import Tally

PROMPTS = ("And the king said unto the people, ", "Elinor ")
"""What the demo continues where no prompt is given."""
LATE, ARRIVAL = "In the beginning God created the heaven and the earth. And the earth was without form, and ", 120_000
"""A prompt that comes while those are continued, and its cycle; the engine isa has no time, and does without."""

LAYER_TOKENS = 128


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = new_parser(subparsers, "demo", "write text with the demo model on the simulated machine (the main job)")
    add_config_option(parser, "small")
    parser.add_argument("--model", type=Path, default=DEMO_MODEL, metavar="DIR", help="default models/demo")
    add_generation_options(parser, tokens=16, batch=None)
    parser.add_argument(
        "--layer-tokens", type=count(1), metavar="N",
        help=f"held-out tokens for the experts alone; default {LAYER_TOKENS} or the longest excerpt there is",
    )  # fmt: skip
    parser.add_argument("--no-edge", action="store_true", help="leave out the edge-fed control of the experts")
    parser.add_argument(
        "-o", "--out", type=output_folder, default="build/demo", metavar="DIR", help="default build/demo"
    )
    add_json_option(parser, default="OUT/report.json")


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    sampler = check_options(args, ["utilisation.png"])
    require_simulator("verilator")  # for the experts alone, whatever the engine
    system = system_of(args)
    config = system.machine
    own = not (args.prompt or args.prompt_file or args.requests or args.batch)
    if own:
        args.prompt = list(PROMPTS)
    description = read_config(args.model)
    requests = requests_of(args, description)
    if own and args.engine == "rtl" and args.batching == "mixed":
        late = to_tokens(LATE.encode(), description.vocabulary, "prompt")
        requests.append(Request(len(requests), late, new_tokens(args), ARRIVAL))
    say(f"{args.model}: reading and quantising")
    model, precision = read_model(args, config)
    generator = make_generator(args, system, model, requests, sampler, precision)
    size = args.layer_tokens if args.layer_tokens is not None else min(LAYER_TOKENS, model.text.shape[1])
    works = layer_works(model.model, model.excerpts(1, size, size)[0])
    report, tally = _measure(args, system, generator, works)
    report = {"model": model.name, "system": system.to_dict(), **report}
    print_report(report, f"{model.name} on {config.name} ({args.engine})")
    _print_layers(report, args.out / "utilisation.png")
    write_files(report, tally, config, args.out)
    target = args.json or args.out / "report.json"
    write_json(target, report)
    say(f"report: {target}")
    return 0


def _measure(
    args: argparse.Namespace, system: SystemConfig, generator: Generator, works: list[LayerWork]
) -> tuple[dict[str, Any], Tally]:
    """Run the generation, and the experts alone on the machine and on its control."""
    config = system.machine
    programs = lower_layers(config, works)
    bits = max(simulated_memory_bits(generator.memory), memory_bits(programs))
    with contextlib.ExitStack() as stack:
        control = None
        if not args.no_edge:
            control = BackgroundMachine(edge_variant(config), memory_bits=bits)
        say(f"{config.name}: generating Verilog")
        machine = SimulatedMachine(config, memory_bits=bits, announce=lambda: say(COMPILING.format(config.name)))
        if control is not None:
            stack.enter_context(control)
        report, tally = generate(generator, args, system, machine=machine, beside=SEQUENTIAL)
        say(f"{config.name}: the experts of {len(works)} layers alone")
        layers, mismatched = measure_layers(machine, works)
        if control is not None:
            say(f"{config.name}: the same on the edge-fed array")
            edge, differing = measure_layers(control.machine(), works)
            layers, mismatched = with_control(layers, edge), mismatched + differing
    report["mismatched_bytes"] += mismatched
    report["layers"] = [asdict(layer) for layer in layers]
    return report, tally


def _print_layers(report: dict[str, Any], picture: Path) -> None:
    """Print and draw the experts alone."""
    name = report["config"]["name"]
    layers = report["layers"]
    quantities: tuple[tuple[str, Callable[[dict[str, Any]], object]], ...] = (
        ("tokens", lambda own: own["tokens"]),
        ("experts used", lambda own: own["experts"]),
        ("mapping", lambda own: own["gang"]),
        ("cycles", lambda own: own["cycles"]),
        ("bound (cycles)", lambda own: round(own["bound_cycles"])),
        ("PE utilisation %", lambda own: round(100 * own["utilisation"], 1)),
        ("bytes in channel group 0", lambda own: own["bytes_0"]),
        ("bytes in channel group 1", lambda own: own["bytes_1"]),
        ("waves per tile read", lambda own: round(own["reuse"], 1)),
        ("edge-fed array: cycles", lambda own: own["edge_cycles"]),
        (
            "edge-fed array: PE utilisation %",
            lambda own: None if own["edge_utilisation"] is None else round(100 * own["edge_utilisation"], 1),
        ),
    )
    print_table(
        [[text, *(value(own) for own in layers)] for text, value in quantities],
        ("", *(f"layer {own['layer']}" for own in layers)),
        title=f"The experts of each layer alone on {name}, and on its edge-fed control (RTL simulation)",
    )
    draw(report, picture)
    print(f"picture: {picture}")
