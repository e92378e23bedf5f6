# SPDX-License-Identifier: Apache-2.0
"""Benches of decode on the machine: what scores and placements save, and what all ideas together do."""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hdl.errors import A3dError, one_line
from scheduler.cost.energy.table import load_table
from sim.commands._common import (
    Subparsers,
    add_config_option,
    add_json_option,
    add_policy_option,
    count,
    fraction,
    naming,
    picture_file,
    print_table,
    progress,
    system_of,
    write_json,
)
from sim.commands._energy import clock_of
from sim.commands._generation import announce_compiling
from sim.simulator.tools import require_simulator
from sim.stimulus.moe_demo import DEMO_MODEL

__all__ = ["BENCHES", "add_benches"]

FRONTIER = "build/bench/frontier.json"
_NEEDED = ("points", "bytes_evaluated", "window", "calibration_bytes", "key_block", "clip", "reach")


def add_benches(kinds: Subparsers) -> None:
    """Add its parser."""
    own = kinds.add_parser("bytes", help="bytes of experts in decode: scores and placements, in cycles and energy")
    _add_common(own)
    own.add_argument(
        "--budgets", type=fraction(0, 100, exclusive=True), nargs="+", default=[25, 35, 45], metavar="PERCENT",
        help="bytes of experts to save, those that the report has thresholds for; default 25 35 45",
    )  # fmt: skip
    own.add_argument(
        "--phases", type=count(1), default=4, metavar="N",
        help="runs of each step on HBM, from other moments of the refreshes; default 4",
    )  # fmt: skip
    add_policy_option(own)
    own.add_argument("--picture", type=picture_file, default="build/bench/bytes.png", metavar="FILE")
    add_json_option(own)
    own = kinds.add_parser("together", help="decode with all ideas, with none, and with all but each one")
    _add_common(own)
    own.add_argument(
        "--budget", type=fraction(0, 100, exclusive=True), default=45, metavar="PERCENT",
        help="bytes of experts to save, one that the report has thresholds for; default 45",
    )  # fmt: skip
    own.add_argument(
        "--steps", type=count(2), default=4, metavar="N",
        help="decode steps, the first of which is not counted; default 4",
    )  # fmt: skip
    own.add_argument("--picture", type=picture_file, default="build/bench/together.png", metavar="FILE")
    add_json_option(own)
    _add_shapes(kinds)
    _add_balance(kinds)


def _add_shapes(kinds: Subparsers) -> None:
    own = kinds.add_parser("together-shapes", help="the same on published shapes, by the cycle model")
    add_config_option(own, "large")
    own.add_argument("--batch", type=count(1), default=64, metavar="B", help="sequences; default 64")
    own.add_argument("--keys", type=count(0), default=2047, metavar="N", help="keys that each has; default 2047")
    own.add_argument("--layers", type=count(1), default=2, metavar="N", help="of each shape; default 2")
    _add_unread(own)
    own.add_argument("--energy", type=Path, metavar="TABLE", help="a TOML file instead of the package's table")
    add_json_option(own)


def _add_unread(own: argparse.ArgumentParser) -> None:
    own.add_argument(
        "--budget", type=fraction(0, 50, exclusive=True), default=35, metavar="PERCENT",
        help="bytes of the chosen experts that scores leave unread, where they do; default 35",
    )  # fmt: skip


def _add_balance(kinds: Subparsers) -> None:
    own = kinds.add_parser("balance", help="beats of both groups in decode of a published shape, by placement")
    own.add_argument("--model", default="mixtral-8x7b", metavar="SHAPE", help="default mixtral-8x7b")
    add_config_option(own, "large")
    own.add_argument(
        "--routing",
        type=Path,
        metavar="FILE",
        help="recorded, .npy [tokens, layers, chosen], again from its front when it ends; default: drawn",
    )
    own.add_argument("--batches", type=count(1), nargs="+", default=[1, 8, 32], metavar="B", help="default 1 8 32")
    own.add_argument("--keys", type=count(0), default=511, metavar="N", help="keys that each sequence has; default 511")
    own.add_argument("--layers", type=count(1), default=2, metavar="N", help="of the shape; default 2")
    own.add_argument("--steps", type=count(1), default=4, metavar="N", help="of each batch; default 4")
    _add_unread(own)
    add_policy_option(own)
    add_json_option(own)


def _add_common(own: argparse.ArgumentParser) -> None:
    own.add_argument("--model", type=Path, default=DEMO_MODEL, metavar="DIR", help="default: the demo's")
    add_config_option(own, "small")
    own.add_argument(
        "--frontier", type=Path, default=FRONTIER, metavar="FILE",
        help=f"report of `a3d bench quality --frontier --json FILE`, with thresholds and losses; default {FRONTIER}",
    )  # fmt: skip
    own.add_argument("--batches", type=count(1), nargs="+", default=[1, 8, 32], metavar="B", help="default 1 8 32")
    own.add_argument("--energy", type=Path, metavar="TABLE", help="a TOML file instead of the package's table")


def _read(path: Path) -> dict[str, Any]:
    """Return the report of the frontier.

    Raises
    ------
    A3dError
        It cannot be read, or is another report.
    """
    use = "make it with a3d bench quality --frontier --json FILE, and name it with --frontier FILE"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise A3dError(f"{one_line(path)}: {error.strerror}; {use}") from error
    except ValueError as error:
        raise A3dError(f"{one_line(path)}: no JSON; {use}") from error
    missing = [name for name in _NEEDED if not isinstance(found, dict) or name not in found]
    if missing:
        raise A3dError(f"{one_line(path)}: {missing[0]}: missing; {use}")
    return dict(found)


def _bytes(args: argparse.Namespace) -> int:
    from sim.measure.bytes import BytesBench, draw

    frontier, table, system = _read(args.frontier), load_table(args.energy), system_of(args)
    require_simulator("verilator")
    bench = BytesBench(
        args.model, system, frontier, table, clock_of(system.clock_mhz), batches=args.batches,
        budgets=args.budgets, phases=args.phases,
        announce=announce_compiling(system.machine),
    )  # fmt: skip
    for _ in progress(bench.run(), "steps", bench.total):
        pass
    result = bench.result()
    rows = [
        [
            p["batch"], p["placement"], p["routing"],
            "both planes" if p["budget_percent"] is None else f"{p['budget_percent']:g} %", p["expert_bytes"],
            *(round(p[f"{name}_saved_percent"], 1) for name in ("expert_bytes", "bytes", "cycles", "energy")),
            p["cycles"], round(p["imbalance"], 3), f"{p['loss_percent']:.2f} +- {p['loss_percent_error']:.2f}",
        ]
        for p in sorted(result["points"], key=lambda p: (p["batch"], p["placement"], p["routing"]))
    ]  # fmt: skip
    print_table(
        rows,
        ("batch", "placement", "routing", "asked", "experts' bytes", "saved %", "of all bytes %", "of cycles %",
         "of energy %", "cycles", "imbalance", "perplexity %"),
        left=("placement", "routing", "asked"),
        title=f"Decode steps of {result['model']} on {system.machine.name} (RTL simulation, policy "
        f"{system.policy.name}; {result['mismatched_bytes']} of {result['compared_bytes']:,} bytes differ)",
    )  # fmt: skip
    draw(result, args.picture)
    print(f"picture: {args.picture}")
    write_json(args.json, result)
    return 0


def _together(args: argparse.Namespace) -> int:
    from sim.measure.together import TogetherBench, draw

    frontier, table, system = _read(args.frontier), load_table(args.energy), system_of(args)
    require_simulator("verilator")
    bench = TogetherBench(
        args.model, system, frontier, table, clock_of(system.clock_mhz), budget=args.budget, batches=args.batches,
        steps=args.steps, announce=announce_compiling(system.machine),
    )  # fmt: skip
    for _ in progress(bench.run(), "ways", bench.total):
        pass
    result = bench.result()
    rows = [
        [
            p["batch"], p["ideas"], round(p["cycles_per_step"]), round(p["cycles_over_all"], 2),
            round(p["bytes_per_step"]), round(p["bytes_over_all"], 2), round(p["pj_per_token"] / 1000),
            round(p["pj_over_all"], 2), f"{p['loss_percent']:.2f}",
        ]
        for p in sorted(result["points"], key=lambda p: (p["batch"], p["cycles_per_step"]))
    ]  # fmt: skip
    print_table(
        rows,
        ("batch", "on", "cycles a step", "over all", "bytes a step", "over all", "nJ a token", "over all",
         "perplexity %"),
        left=("on",),
        title=f"Decoded tokens of {result['model']} on {system.machine.name} (RTL simulation; "
        f"{result['mismatched_bytes']} of {result['compared_bytes']:,} bytes differ)",
    )  # fmt: skip
    draw(result, args.picture)
    print(f"picture: {args.picture}")
    write_json(args.json, result)
    return 0


def _shapes(args: argparse.Namespace) -> int:
    from sim.measure.together_shapes import TogetherShapesBench

    table, system = load_table(args.energy), system_of(args)
    bench = TogetherShapesBench(
        system, table, clock_of(system.clock_mhz), batch=args.batch, keys=args.keys, layers=args.layers,
        budget=args.budget,
    )  # fmt: skip
    with naming(args, "batch", "keys"):
        for _ in progress(bench.run(), "ways", bench.total):
            pass
    result = bench.result()
    rows = [
        [
            p["model"], p["ideas"], round(p["expert_bytes_saved_percent"], 1), p["cycles"],
            round(p["cycles_over_all"], 2), round(p["pj_per_token"] / 1e6), round(p["pj_over_all"], 2), p["plan"],
        ]
        for p in result["points"]
    ]  # fmt: skip
    print_table(
        rows,
        ("model", "on", "experts' bytes saved %", "cycles", "over all", "uJ a token", "over all", "plan"),
        left=("model", "on", "plan"),
        title=f"A decode step of {args.batch} sequences at {args.keys:,} keys on {system.machine.name} (cycle model)",
    )  # fmt: skip
    write_json(args.json, result)
    return 0


def _balance(args: argparse.Namespace) -> int:
    from sim.measure.balance import BalanceBench

    system = system_of(args)
    bench = BalanceBench(
        system, args.model, args.routing, batches=args.batches, keys=args.keys, layers=args.layers, steps=args.steps,
        budget=args.budget,
    )  # fmt: skip
    with naming(args, "batches", "keys"):
        for _ in progress(bench.run(), "ways", bench.total):
            pass
    result = bench.result()
    rows = [
        [
            p["batch"], p["placement"], p["saved_percent"] or "-", *p["read_beats"], round(p["imbalance"], 3),
            round(p["worst_imbalance"], 3), p["cycles"],
        ]
        for p in result["points"]
    ]  # fmt: skip
    print_table(
        rows,
        ("batch", "placement", "saved %", "beats, group 0", "group 1", "imbalance", "worst step", "cycles"),
        left=("placement",),
        title=f"{args.steps} decode steps of {result['layers']} layers of {args.model} on {system.machine.name}, "
        f"routing {result['routing']} (cycle model)",
    )  # fmt: skip
    write_json(args.json, result)
    return 0


BENCHES: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "bytes": _bytes, "together": _together, "together-shapes": _shapes, "balance": _balance,
}  # fmt: skip
"""What runs it."""
