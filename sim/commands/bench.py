# SPDX-License-Identifier: Apache-2.0
"""``a3d bench``: the measurements behind every figure in the documents."""

import argparse
from collections.abc import Callable, Mapping

from sim.commands import (
    _bench_arithmetic,
    _bench_bytes,
    _bench_energy,
    _bench_flows,
    _bench_machine,
    _bench_model,
    _bench_scheduler,
    _bench_steps,
)
from sim.commands._common import Subparsers, new_parser

GROUPS = (
    _bench_machine,
    _bench_model,
    _bench_scheduler,
    _bench_steps,
    _bench_energy,
    _bench_bytes,
    _bench_arithmetic,
    _bench_flows,
)
BENCHES: Mapping[str, Callable[[argparse.Namespace], int]] = {
    name: run for group in GROUPS for name, run in group.BENCHES.items()
}


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = new_parser(subparsers, "bench", f"measure: {', '.join(BENCHES)}")
    kinds = parser.add_subparsers(dest="bench", metavar="NAME", required=True)
    for group in GROUPS:
        group.add_benches(kinds)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    return BENCHES[args.bench](args)
