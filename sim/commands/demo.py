# SPDX-License-Identifier: Apache-2.0
"""``a3d demo``: every MoE layer of the demo model on the simulated machine, compared byte for byte."""

import argparse
import sys
from pathlib import Path

from hdl.config import load_config
from sim.commands._common import Subparsers, add_config_option, new_parser, print_table, write_json
from sim.moe_demo import DEMO_MODEL, draw, run_demo


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = new_parser(subparsers, "demo", "run the demo model's experts on the simulated machine (the main job)")
    add_config_option(parser, "small")
    parser.add_argument("--model", type=Path, default=DEMO_MODEL, metavar="DIR", help="default models/demo")
    parser.add_argument("--tokens", type=int, default=128, help="bytes of held-out text in the batch; default 128")
    parser.add_argument("--no-edge", action="store_true", help="leave out the edge-fed control")
    parser.add_argument("-o", "--out", type=Path, default=Path("build/demo"), metavar="DIR", help="default build/demo")
    parser.add_argument("--json", metavar="FILE", help="the report; default OUT/report.json")


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    config = load_config(args.config)
    report = run_demo(
        config, args.model, args.tokens, edge=not args.no_edge, progress=lambda line: print(line, file=sys.stderr)
    )
    layers = report["layers"]
    print_table(
        [
            [
                entry["layer"], entry["tokens"], entry["experts"], entry["gang"], entry["cycles"],
                round(100 * entry["utilisation"], 1), round(entry["bound_cycles"]), entry["bytes_0"], entry["bytes_1"],
                round(entry["reuse"], 1), entry["edge_cycles"],
                None if entry["edge_utilisation"] is None else round(100 * entry["edge_utilisation"], 1),
            ]
            for entry in layers
        ],
        (
            "layer", "tokens", "experts", "mapping", "cycles", "util %", "bound", "bytes group 0", "bytes group 1",
            "waves per tile read", "edge cycles", "edge util %",
        ),
        title=f"Experts of {report['model']} on {config.name} (RTL simulation)",
    )  # fmt: skip
    print(f"mismatched bytes: {report['mismatched_bytes']} (both memories, every layer, against the executor)")
    picture = args.out / "utilisation.png"
    draw(report, picture)
    target = args.json or args.out / "report.json"
    write_json(target, report)
    print(f"picture: {picture}\nreport: {target}")
    return 1 if report["mismatched_bytes"] else 0
