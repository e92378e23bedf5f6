# SPDX-License-Identifier: Apache-2.0
"""Benches of serving: steps by each policy of the planner, weights that stay, common prefixes, prompts that arrive."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

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
from sim.commands._generation import announce_compiling
from sim.machine.generator import ROUTINGS
from sim.simulator.tools import require_simulator
from sim.stimulus.moe_demo import DEMO_MODEL

__all__ = ["BENCHES", "add_benches"]

FUSION_POLICIES = ("sequential", "micro-batches", "list", "fused")
"""Policies that one step can show."""
FUSION_COLUMNS = (
    "step", "routing", "policy", "plan", "cycles", "compute", "memory", "vector", "of roofline", "sequential / cycles",
)  # fmt: skip
SERVING_COLUMNS = (
    "batching", "tokens a step", "between tokens: p50", "p95", "max", "long prompt: first token", "cycles",
    "tokens per million cycles",
)  # fmt: skip
RESIDENCY_COLUMNS = (
    "batch", "routing", "weights stay", "bytes a step", "saved", "cycles a step", "without / cycles",
    "first step: bytes", "cycles",
)  # fmt: skip
PREFIX_COLUMNS = (
    "batch", "routing", "prefix once", "bytes a step", "saved", "cycles a step", "without / cycles",
    "whole run: tokens", "bytes", "cycles",
)  # fmt: skip


def add_benches(kinds: Subparsers) -> None:
    """Add their parsers."""
    _add_fusion(kinds)
    _add_serving(kinds)
    _add_residency(kinds)
    _add_prefix(kinds)


def _add_fusion(kinds: Subparsers) -> None:
    fusion = kinds.add_parser("fusion", help="steps of serving on the RTL by each policy of the planner")
    fusion.add_argument("--model", type=Path, default=DEMO_MODEL, metavar="DIR", help="default: the demo's")
    add_config_option(fusion, "small")
    fusion.add_argument("--routing", choices=ROUTINGS, nargs="+", default=list(ROUTINGS), help="default both")
    fusion.add_argument(
        "--policy",
        choices=FUSION_POLICIES,
        nargs="+",
        default=list(FUSION_POLICIES),
        help="default all, sequential first",
    )
    fusion.add_argument("--picture", type=picture_file, default="build/bench/fusion.png", metavar="FILE")
    add_json_option(fusion)


def _add_serving(kinds: Subparsers) -> None:
    serving = kinds.add_parser("serving", help="a long prompt comes while others decode, by each way of batching")
    serving.add_argument("--model", type=Path, default=DEMO_MODEL, metavar="DIR", help="default: the demo's")
    add_config_option(serving, "small")
    serving.add_argument("--decode", type=count(1), default=16, metavar="N", help="sequences that decode; default 16")
    serving.add_argument("--tokens", type=count(1), default=24, metavar="N", help="new tokens of each; default 24")
    serving.add_argument(
        "--prompt", type=count(1), default=128, metavar="N", help="tokens of the long one; default 128"
    )
    serving.add_argument(
        "--step-tokens", type=count(1), nargs="+", default=[128, 64, 32], metavar="N",
        help="most new tokens of a step; default 128 64 32",
    )  # fmt: skip
    serving.add_argument("--routing", choices=ROUTINGS, default="slots", help="who finds the experts; default slots")
    add_policy_option(serving)
    serving.add_argument("--picture", type=picture_file, default="build/bench/serving.png", metavar="FILE")
    add_json_option(serving)


def _add_residency(kinds: Subparsers) -> None:
    residency = kinds.add_parser(
        "residency", help="bytes of decode steps with weights that stay in V-Cache, and without"
    )
    residency.add_argument("--model", type=Path, default=DEMO_MODEL, metavar="DIR", help="default: the demo's")
    add_config_option(residency, "small")
    residency.add_argument("--batches", type=count(1), nargs="+", default=[1, 8], metavar="B", help="default 1 8")
    _add_part_options(residency, "residency")


def _add_part_options(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument("--steps", type=count(1), default=12, metavar="N", help="decode steps; default 12")
    parser.add_argument("--routing", choices=ROUTINGS, nargs="+", default=list(ROUTINGS), help="default both")
    parser.add_argument("--picture", type=picture_file, default=f"build/bench/{name}.png", metavar="FILE")
    add_json_option(parser)


def _add_prefix(kinds: Subparsers) -> None:
    prefix = kinds.add_parser("prefix", help="sequences that begin alike, with their prefix read once and for each")
    prefix.add_argument("--model", type=Path, default=DEMO_MODEL, metavar="DIR", help="default: the demo's")
    add_config_option(prefix, "small")
    prefix.add_argument("--batches", type=count(2), nargs="+", default=[8], metavar="B", help="default 8")
    prefix.add_argument("--common", type=count(1), default=128, metavar="N", help="tokens of the prefix; default 128")
    _add_part_options(prefix, "prefix")


def _fusion(args: argparse.Namespace) -> int:
    from sim.measure.fusion import FusionBench
    from sim.measure.fusion import draw as draw_fusion

    system = system_of(argparse.Namespace(config=args.config))
    require_simulator("verilator")
    bench = FusionBench(
        args.model, system, routings=list(dict.fromkeys(args.routing)), policies=list(dict.fromkeys(args.policy)),
        announce=announce_compiling(system.machine),
    )  # fmt: skip
    for _ in progress(bench.run(), "steps", bench.total):
        pass
    result = bench.result()
    print_table(
        [
            [
                p["case"], p["routing"], p["policy"], p["plan"], p["cycles"], round(p["compute_cycles"]),
                round(p["memory_cycles"]), round(p["vector_cycles"]), f"{100 * p['roofline_fraction']:.1f} %",
                "-" if p["speedup"] is None else f"{p['speedup']:.2f}",
            ]
            for p in result["points"]
        ],
        FUSION_COLUMNS, left=("plan",),
        title=f"Steps of {result['model']} on {system.machine.name} (RTL simulation)",
    )  # fmt: skip
    return _finish(args, result, draw_fusion)


def _serving(args: argparse.Namespace) -> int:
    from sim.measure.serving import ServingBench, cases_of
    from sim.measure.serving import draw as draw_serving

    system = system_of(args)
    require_simulator("verilator")
    bench = ServingBench(
        args.model, system, cases=cases_of(args.step_tokens), decode=args.decode, tokens=args.tokens,
        prompt=args.prompt, routing=args.routing, announce=announce_compiling(system.machine),
    )  # fmt: skip
    for _ in progress(bench.run(), "tokens", bench.total):
        pass
    result = bench.result()
    print_table(
        [
            [
                p["batching"], p["step_tokens"], *(round(p["between_tokens"][name]) for name in ("p50", "p95", "max")),
                p["ttft_cycles"], p["cycles"], round(p["tokens_per_million_cycles"], 1),
            ]
            for p in result["points"]
        ],
        SERVING_COLUMNS,
        title=f"{result['decode']} sequences decode, a prompt of {result['prompt']} tokens comes: {result['model']} on "
        f"{system.machine.name} (RTL simulation; cycles; routing {result['routing']}, policy {system.policy.name})",
    )  # fmt: skip
    return _finish(args, result, draw_serving)


def _residency(args: argparse.Namespace) -> int:
    return _part(args, "residency", 0, RESIDENCY_COLUMNS, ("first_bytes", "first_cycles"))


def _prefix(args: argparse.Namespace) -> int:
    return _part(args, "prefixes", args.common, PREFIX_COLUMNS, ("run_tokens", "run_bytes", "run_cycles"))


def _part(args: argparse.Namespace, part: str, common: int, columns: Sequence[str], more: Sequence[str]) -> int:
    """Run batches with and without a part of the policy; the last columns of the table are `more`."""
    from sim.measure.policy_parts import PartBench
    from sim.measure.policy_parts import draw as draw_part

    system = system_of(argparse.Namespace(config=args.config))
    require_simulator("verilator")
    bench = PartBench(
        args.model, system, part, batches=list(dict.fromkeys(args.batches)), steps=args.steps,
        routings=list(dict.fromkeys(args.routing)), common=common, announce=announce_compiling(system.machine),
    )  # fmt: skip
    for _ in progress(bench.run(), "tokens", bench.total):
        pass
    result = bench.result()
    print_table(
        [
            [
                p["batch"], p["routing"], p["on"], round(p["bytes"]), f"{100 * p['saved_bytes']:.1f} %",
                round(p["cycles"]), f"{p['speedup']:.2f}", *(p[name] for name in more),
            ]
            for p in result["points"]
        ],
        columns,
        title=f"Decode steps of {result['model']} on {system.machine.name} (RTL simulation; means over {args.steps})",
    )  # fmt: skip
    return _finish(args, result, draw_part)


def _finish(args: argparse.Namespace, result: dict[str, Any], draw: Callable[[dict[str, Any], Path], None]) -> int:
    """Print what all of them end with, write picture and JSON, and return the exit status."""
    if "mean_error" in result:
        errors = f"mean error {100 * result['mean_error']:.2f} %, worst {100 * result['worst_error']:.2f} %"
        print(f"cycle model: {errors}")
    print(f"{result['compared_bytes']:,} bytes compared, {result['mismatched_bytes']} differ")
    draw(result, args.picture)
    print(f"picture: {args.picture}")
    write_json(args.json, result)
    return 1 if result["mismatched_bytes"] else 0


BENCHES: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "fusion": _fusion,
    "serving": _serving,
    "residency": _residency,
    "prefix": _prefix,
}
"""What runs each of them."""
