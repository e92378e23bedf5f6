# SPDX-License-Identifier: Apache-2.0
"""Benches of the scheduler: how fast it is, how good its streams are, and what the cycle model is worth."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from hdl.config import PRESETS
from scheduler.models.shapes import shape_names
from sim.commands._common import (
    Subparsers,
    add_config_option,
    add_json_option,
    check_page,
    count,
    machine_of,
    picture_file,
    print_table,
    progress,
    write_json,
)
from sim.commands._docs import markdown_tables, rewrite_section
from sim.commands._generation import announce_compiling
from sim.simulator.tools import require_simulator

__all__ = ["BENCHES", "add_benches"]

TIMED_CONFIGS = ("tiny", "small", "medium")
"""Presets with streams for ``a3d bench cycle-model``; the last one's simulator compiles for minutes."""

SCHEDULER_DOCS = Path("docs") / "scheduling.md"
"""The page that ``a3d bench scheduler --docs`` rewrites."""

SCHEDULER_COLUMNS = (
    "model", "phase", "tokens", "cached", "layers", "instructions", "cycles", "roofline", "bound", "of it", "padding"
)  # fmt: skip

FUSION_COLUMNS = (
    "model", "step", "compute", "memory", "vector", "bound", "sequential", "of roofline", "fused", "of roofline",
    "gain", "plan",
)  # fmt: skip
LAYERED_COLUMNS = (
    "model", "prompt", "steps", "beside", "chunked", "layered", "chunked, fused", "layered, fused", "least",
)  # fmt: skip

STALL_COLUMNS = ("step", "unit", "parts of its cycles")


def add_benches(kinds: Subparsers) -> None:
    """Add their parsers."""
    timed = kinds.add_parser("cycle-model", help="the cycle model's cycles against the RTL's, stream by stream")
    timed.add_argument(
        "--config", choices=TIMED_CONFIGS, nargs="+", default=list(TIMED_CONFIGS[:2]), metavar="NAME",
        help=f"{', '.join(TIMED_CONFIGS)}; default {' '.join(TIMED_CONFIGS[:2])}",
    )  # fmt: skip
    add_json_option(timed)
    scheduler = kinds.add_parser(
        "scheduler", help="speed of planning, lowering and timing; published shapes' rooflines"
    )
    add_config_option(scheduler, "large")
    scheduler.add_argument(
        "--shapes", nargs="+", choices=shape_names(), default=list(shape_names()), metavar="NAME",
        help=f"default all: {', '.join(shape_names())}",
    )  # fmt: skip
    scheduler.add_argument(
        "--layers",
        type=count(1),
        metavar="N",
        help="N layers of each shape, with experts; default: all, as for shapes with fewer",
    )
    scheduler.add_argument("--picture", type=picture_file, default="build/bench/scheduler.png", metavar="FILE")
    scheduler.add_argument(
        "--docs", type=Path, nargs="?", const=SCHEDULER_DOCS, metavar="FILE",
        help=f"rewrite the table in FILE; default {SCHEDULER_DOCS}",
    )  # fmt: skip
    add_json_option(scheduler)
    _add_fusion_shapes(kinds)


def _add_fusion_shapes(kinds: Subparsers) -> None:
    from sim.measure.fusion_shapes import SHAPES

    shapes = kinds.add_parser(
        "fusion-shapes", help="fused against sequential plans, and layered prefill, on published shapes (cycle model)"
    )
    add_config_option(shapes, "large")
    shapes.add_argument(
        "--shapes", nargs="+", choices=shape_names(), default=list(SHAPES), metavar="NAME",
        help=f"default {' '.join(SHAPES)}",
    )  # fmt: skip
    shapes.add_argument(
        "--layers", type=count(1), default=2, metavar="N", help="layers that are timed, with experts; default 2"
    )
    shapes.add_argument("--picture", type=picture_file, default="build/bench/fusion_shapes.png", metavar="FILE")
    add_json_option(shapes)


def _fusion_shapes(args: argparse.Namespace) -> int:
    from sim.measure.fusion_shapes import FusionShapesBench, nothing_gained
    from sim.measure.fusion_shapes import draw as draw_shapes

    config = machine_of(args, "bench fusion-shapes")
    bench = FusionShapesBench(config, list(dict.fromkeys(args.shapes)), layers=args.layers)
    for _ in progress(bench.run(), "steps", bench.total):
        pass
    result = bench.result()
    print_table(
        [
            [
                p["model"], p["step"], round(p["compute_cycles"]), round(p["memory_cycles"]),
                round(p["vector_cycles"]), p["bound"], p["sequential_cycles"],
                f"{100 * p['sequential_fraction']:.1f} %", p["fused_cycles"], f"{100 * p['fused_fraction']:.1f} %",
                f"{100 * p['gain']:.1f} %", p["plan"],
            ]
            for p in result["points"]
        ],
        FUSION_COLUMNS, left=("step", "plan"),
        title=f"steps of published shapes on {config.name}, {args.layers} layers and the head (cycle model)",
    )  # fmt: skip
    for p in result["left_out"]:
        print(f"left out: {p['model']}, {p['step']}: {p['why']}")
    for kind, bound, steps in nothing_gained(result["points"]):
        print(f"nothing gained: {kind}, {bound} bound: {steps}")
    print_table(
        [
            [
                p["model"], p["prompt"], p["steps"], f"decode {p['decode']} at {p['keys']:,}",
                *(round(p[f"{way}_per_token"]) for way in _WAYS), p["best"].replace("_", ", "),
            ]
            for p in result["layered"]
        ],
        LAYERED_COLUMNS, title="cycles for each token of a prompt, all layers: in chunks, and in groups of layers",
    )  # fmt: skip
    for p in result["depth"]:
        print(
            f"{p['model']}, {p['step']}, {p['layers']} layers: sequential {100 * p['sequential_fraction']:.1f} %, "
            f"fused {100 * p['fused_fraction']:.1f} % of the roofline"
        )
    print(f"{result['seconds']:.0f} s")
    draw_shapes(result, args.picture)
    print(f"picture: {args.picture}")
    write_json(args.json, result)
    return 0


_WAYS = ("chunked_sequential", "layered_sequential", "chunked_fused", "layered_fused")


def _scheduler(args: argparse.Namespace) -> int:
    from sim.measure.scheduler import ENOUGH, SchedulerBench
    from sim.measure.scheduler import draw as draw_scheduler

    config = machine_of(args, "bench scheduler")
    check_page(args.docs)
    bench = SchedulerBench(config, args.shapes, layers=args.layers)
    for _ in progress(bench.run(), "scheduling", bench.total):
        pass
    result = bench.result()
    rows: list[list[object]] = [
        [
            p["model"], p["phase"], p["tokens"], p["keys"], p["layers"], p["instructions"], p["cycles"],
            round(p["roofline_cycles"]), p["bound"], f"{100 * p['roofline_fraction']:.1f} %",
            f"{100 * p['padding_waste']:.1f} %",
        ]
        for p in result["shapes"]
    ]  # fmt: skip
    print_table(rows, SCHEDULER_COLUMNS, title=f"published shapes on {config.name}, sequential plan")
    short: list[list[object]] = [
        [f"{p['model']}, {p['phase']} {p['tokens']}, {p['keys']} cached", unit, _parts(causes)]
        for p in result["shapes"]
        for unit, causes in p["stalls"].items()
    ]
    if short:
        print_table(short, STALL_COLUMNS, title=f"where the cycles of what stays below {ENOUGH:.0%} went")
    print(f"lowered, synchronised, verified, encoded: {result['lower_instructions_per_s']:,.0f} instructions/s")
    print(f"cycle model: {result['model_instructions_per_s']:,.0f} instructions/s")
    print(f"plan of a DeepSeek-V3 layer, 256 tokens at 4,096 keys: {result['layer_plan_s']:.3f} s")
    draw_scheduler(result, args.picture)
    print(f"picture: {args.picture}")
    if args.docs:
        title = f"`a3d bench scheduler` on `{config.name}`, sequential plan, cycle model"
        stalls = f"Where the cycles of what stays below {ENOUGH:.0%} of its roofline went"
        tables = [(title, SCHEDULER_COLUMNS, rows), *([(stalls, STALL_COLUMNS, short)] if short else [])]
        rewrite_section(args.docs, "a3d bench scheduler", markdown_tables(tables))
        print(f"rewritten: {args.docs}")
    write_json(args.json, result)
    return 0


def _parts(causes: dict[str, float]) -> str:
    return ", ".join(f"{name} {100 * part:.1f} %" for name, part in causes.items() if part >= 0.001)


def _cycle_model(args: argparse.Namespace) -> int:
    from sim.measure.cycle_model import MOST_MEAN, MOST_WORST, CycleModelBench, errors_of

    require_simulator("verilator")
    configs = [PRESETS[name] for name in dict.fromkeys(args.config)]
    bench = CycleModelBench(configs, announce=lambda config: announce_compiling(config)())
    for _ in progress(bench.run(), "streams", bench.total):
        pass
    result = bench.result()
    points = result["points"]
    print_table(
        [
            [p["config"], p["stream"], p["routing"], p["memory"], p["rtl_cycles"], p["model_cycles"],
             f"{100 * p['error']:+.2f}"]
            for p in points
        ],
        ("config", "stream", "routing", "memory", "RTL cycles", "cycle model", "error %"),
        title="The cycle model against the emitted machine",
    )  # fmt: skip
    for config in configs:
        own = [p for p in points if p["config"] == config.name]
        mean, worst = errors_of(own)
        print(f"{config.name}: {len(own)} points, mean error {100 * mean:.2f} %, worst {100 * worst:.2f} %")
    write_json(args.json, result)
    if result["mean_error"] <= MOST_MEAN and result["worst_error"] <= MOST_WORST:
        return 0
    print(f"off by more than {MOST_MEAN:.0%} in the mean or {MOST_WORST:.0%} at worst")
    return 1


BENCHES: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "cycle-model": _cycle_model,
    "scheduler": _scheduler,
    "fusion-shapes": _fusion_shapes,
}
"""What runs each of them."""
