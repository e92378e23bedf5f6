# SPDX-License-Identifier: Apache-2.0
"""Benches of language models on the machine: exactness, steps, and the integers beside the float model."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from hdl.errors import A3dError
from scheduler.models.planes import DEFAULT_REACH
from sim.commands._common import (
    Subparsers,
    add_config_option,
    add_json_option,
    add_policy_option,
    count,
    fraction,
    output_file,
    output_folder,
    picture_file,
    print_table,
    progress,
    system_of,
    write_json,
)
from sim.commands._generation import announce_compiling
from sim.machine.generator import ROUTINGS
from sim.simulator.tools import require_simulator
from sim.stimulus.moe_demo import DEMO_MODEL

__all__ = ["BENCHES", "add_benches"]

MOST_TARGET_BATCH = 8
"""In larger batches every expert matters to some token: what thresholds reach there is shown, not asked for."""

MOST_LOSS = 1.0
"""Percent of the float model's bits per byte that the integers may cost."""


def add_benches(kinds: Subparsers) -> None:
    """Add their parsers."""
    quality = kinds.add_parser("quality", help="bits per byte of the integer language model against the float model")
    quality.add_argument(
        "--model", type=Path, default=DEMO_MODEL, metavar="DIR", help="checkpoint; default: the demo's"
    )
    quality.add_argument("--bytes", type=count(1), default=32768, metavar="N", help="held-out bytes; default 32768")
    quality.add_argument("--window", type=count(1), default=256, help="bytes of a sequence; default 256")
    quality.add_argument(
        "--calibration", type=count(1), metavar="N", help="calibration bytes; default 8192, with --frontier 24576"
    )
    quality.add_argument("--no-clip", action="store_true", help="int8 ranges hold the largest value seen")
    quality.add_argument(
        "--key-block", type=count(1), default=128, help="keys that attention takes at once; default 128"
    )
    quality.add_argument(
        "--frontier", action="store_true", help="bytes of experts against loss, decided from the scores and by controls"
    )
    quality.add_argument(
        "--batches", type=count(1), nargs="+", default=[1, 8, 32], metavar="B",
        help="tokens of a decode step, which share each expert's precision; default 1 8 32",
    )  # fmt: skip
    quality.add_argument(
        "--budgets", type=fraction(0, 100, exclusive=True), nargs="+", default=[25, 35, 45, 50, 55], metavar="PERCENT",
        help="bytes of experts to save; default 25 35 45 50 55",
    )  # fmt: skip
    quality.add_argument(
        "--reach", type=count(0, 16), default=DEFAULT_REACH,
        help="steps of int8 that a weight may move for a better high plane; default %(default)s",
    )  # fmt: skip
    quality.add_argument(
        "--picture", type=picture_file, metavar="FILE", help="of the frontier; default build/bench/frontier.png"
    )
    quality.add_argument(
        "--save-precision", type=output_folder, metavar="DIR", help="write the thresholds that --frontier finds"
    )
    add_json_option(quality)
    exactness = kinds.add_parser("exactness", help="the RTL's bytes over prefill and decode of held-out text")
    exactness.add_argument("--model", type=Path, default=DEMO_MODEL, metavar="DIR", help="default: the demo's")
    add_config_option(exactness, "small")
    exactness.add_argument("--batch", type=count(1), default=8, help="sequences of different lengths; default 8")
    exactness.add_argument(
        "--prefill", type=count(1), default=256, metavar="N", help="least tokens of prompts; default 256"
    )
    exactness.add_argument("--steps", type=count(1), default=128, help="decode steps; default 128")
    exactness.add_argument("--routing", choices=ROUTINGS, default="slots", help="who finds the experts; default slots")
    add_policy_option(exactness)
    add_json_option(exactness)
    model = kinds.add_parser("model", help="steps of a language model on the RTL, against the roofline")
    model.add_argument("--model", type=Path, default=DEMO_MODEL, metavar="DIR", help="default: the demo's")
    add_config_option(model, "small")
    model.add_argument("--batches", type=count(1), nargs="+", default=[1, 8, 32], metavar="B", help="default 1 8 32")
    model.add_argument("--prefill", type=count(1), default=128, metavar="N", help="tokens of the prompt; default 128")
    model.add_argument("--routing", choices=ROUTINGS, default=ROUTINGS[0], help=f"default {ROUTINGS[0]}")
    add_policy_option(model)
    add_json_option(model)


def _quality(args: argparse.Namespace) -> int:
    from sim.measure.quality import QualityBench

    if args.frontier:
        return _frontier(args)
    if args.picture or args.save_precision:
        raise A3dError("--picture and --save-precision: there is nothing to write; add --frontier")
    bench = QualityBench(
        args.model, count=args.bytes, window=args.window, calibration=args.calibration or 8192,
        key_block=args.key_block, clip=not args.no_clip,
    )  # fmt: skip
    for batch in progress(range(bench.batches), "windows of text"):
        bench.run(batch)
    result = bench.result()
    print_table([[k, v] for k, v in result.items()], ("quantity", "value"), left=("value",), title=str(args.model))
    write_json(args.json, result)
    if result["loss_percent"] > MOST_LOSS:
        print(f"the integers cost {result['loss_percent']:.2f} %: more than {MOST_LOSS:g} %")
        return 1
    return 0


def _frontier(args: argparse.Namespace) -> int:
    from sim.measure.frontier import FrontierBench
    from sim.view.frontier_picture import draw_frontier

    picture = args.picture or output_file("build/bench/frontier.png")
    bench = FrontierBench(
        args.model, batches=args.batches, budgets=args.budgets, count=args.bytes, window=args.window,
        calibration=args.calibration or 24576, key_block=args.key_block, clip=not args.no_clip, reach=args.reach,
    )  # fmt: skip
    for _ in progress(bench.run(), "points", bench.total):
        pass
    result = bench.result()
    rows = [
        [
            p["batch"], p["policy"], round(p["expert_bytes_saved_percent"], 1),
            *(f"{p[name]:.2f} +- {p[f'{name}_error']:.2f}" for name in ("loss_percent", "further_percent")),
        ]
        for p in sorted(result["points"], key=lambda p: (p["batch"], p["policy"], p["expert_bytes_saved_percent"]))
    ]  # fmt: skip
    print_table(
        rows, ("batch", "policy", "bytes saved %", "perplexity %", "further from float %"), left=("policy",),
        title=f"Bytes of experts against full precision, {args.model}",
    )  # fmt: skip
    write_json(args.json, result)
    draw_frontier(result["points"], picture)
    if args.save_precision:
        bench.save_precision(args.save_precision)
    missed = [t for t in result["targets"] if t["reached"] is False and t["batch"] <= MOST_TARGET_BATCH]
    for t in missed:
        print(f"batch {t['batch']}: {t['loss_percent']:.2f} % for {t['saved_percent']:g} % of the bytes, not "
              f"{t['allowed_percent']:g} %")  # fmt: skip
    return 1 if missed else 0


def _exactness(args: argparse.Namespace) -> int:
    from sim.measure.exactness import ExactnessBench

    system = system_of(args)
    require_simulator("verilator")
    bench = ExactnessBench(
        args.model,
        system,
        batch=args.batch,
        prefill=args.prefill,
        steps=args.steps,
        routing=args.routing,
        announce=announce_compiling(system.machine),
    )
    for _ in progress(bench.run(), "tokens", bench.total):
        pass
    result = bench.result()
    rows = [[k, v] for k, v in result.items() if k not in ("config", "system")]
    print_table(rows, ("quantity", "value"), left=("value",), title=f"{result['model']} on {system.machine.name}")
    write_json(args.json, result)
    return 1 if result["mismatched_bytes"] else 0


def _model(args: argparse.Namespace) -> int:
    from sim.measure.model import ModelBench

    system = system_of(args)
    require_simulator("verilator")
    bench = ModelBench(
        args.model,
        system,
        batches=args.batches,
        prefill=args.prefill,
        routing=args.routing,
        announce=announce_compiling(system.machine),
    )  # fmt: skip
    for _ in progress(bench.run(), "tokens", bench.total):
        pass
    result = bench.result()
    points = result["points"]
    print_table(
        [
            [
                p["phase"], p["batch"], p["tokens"], p["cycles"], p["model_cycles"], round(p["roofline_cycles"]),
                p["bound"],
                round(100 * p["roofline_fraction"], 1), round(100 * p["utilisation"], 1), p["bytes"],
                p["vertical_bytes"], p["lateral_bytes"],
            ]
            for p in points
        ],
        (
            "phase", "batch", "tokens", "cycles", "cycle model", "roofline", "bound", "of roofline %", "PE util %",
            "bytes", "across bonds", "on the dies",
        ),
        title=f"Steps of {result['model']} on {system.machine.name} (RTL simulation; routing {result['routing']}, "
        f"policy {system.policy.name})",
    )  # fmt: skip
    print_table(
        [
            [f"{p['phase']} {p['batch']}", unit, _shares(c)]
            for p in points
            for unit, c in p["stalls"].items()
        ],
        ("step", "unit", "where its cycles went (%)"),
    )  # fmt: skip
    write_json(args.json, result)
    return 0


def _shares(cycles: dict[str, int]) -> str:
    return ", ".join(f"{name} {100 * n / sum(cycles.values()):.1f}" for name, n in cycles.items() if n)


BENCHES: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "quality": _quality,
    "exactness": _exactness,
    "model": _model,
}
"""What runs each of them."""
