# SPDX-License-Identifier: Apache-2.0
"""``a3d synth``: synthesises a machine for a generic gate library, an FPGA or the cells of a liberty file."""

import argparse
import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hdl.config import MachineConfig, load_config
from hdl.errors import CheckError
from hdl.flow.area import LIMIT, AreaComparison, Comparison
from hdl.flow.synth import MachineSynthesis, Totals
from hdl.generate import generate
from sim.commands._common import (
    Subparsers,
    add_config_option,
    add_json_option,
    check_folder,
    check_page,
    new_parser,
    output_folder,
    print_table,
    progress,
    write_json,
)
from sim.commands._docs import markdown_tables, rewrite_section
from sim.commands._flows import add_flow_options, check_flow_options

DOCS = Path("docs") / "area.md"
"""The page whose generated sections ``--docs`` rewrites."""

DETAILS = """\
Every module is synthesised once with Yosys and mapped to generic CMOS gates, or with --target ecp5 or --liberty to the
cells of that; results are kept in build/synthcache (or $A3D_SYNTH_CACHE). docs/area.md explains how things are counted,
docs/flows.md the FPGA and the liberty flow. Exit status 1: the array's area overhead is larger than the limit."""

BLOCK_COLUMNS = ("block", "instances", "cells", "registers", "memory bits", "multipliers", "transistors", "levels")
TIER_COLUMNS = (
    "tier block",
    *(
        f"{array}: {quantity}"
        for quantity in ("registers", "transistors")
        for array in ("adaptive", "plain", "unlinked")
    ),
)
PART_COLUMNS = ("from plain to adaptive", "cells", "registers", "transistors", "of plain")


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = new_parser(subparsers, "synth", "synthesise a machine: cells, memory bits, longest paths, area", DETAILS)
    add_config_option(parser)
    parser.add_argument(
        "-o", "--out", type=output_folder, metavar="DIR", help="directory of the Verilog; default build/rtl/NAME"
    )
    parser.add_argument(
        "--compare", action="store_true", help="also compare the array with the plain one (edge feed, no links)"
    )
    parser.add_argument(
        "--docs",
        type=Path,
        nargs="?",
        const=DOCS,
        metavar="FILE",
        help=f"compare, and rewrite the configuration's section of FILE; default {DOCS}",
    )
    add_flow_options(parser)
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    flow = check_flow_options(args)
    config = load_config(args.config)
    check_page(args.docs)
    design, _ = generate(config, args.out or check_folder(Path("build") / "rtl" / config.name))
    if flow is not None:
        return flow(args, config, design)
    machine = MachineSynthesis(design.modules, design.top)
    _drain(machine.run(), "synthesising modules", machine.modules)
    _drain(machine.find_paths(), "finding longest paths", len(machine.targets()))
    totals = machine.totals()
    result: dict[str, Any] = {
        "config": config.name,
        "totals": dataclasses.asdict(totals),
        "blocks": [
            {"name": block.name, "instances": block.instances, **dataclasses.asdict(block.total)}
            for block in machine.blocks()
        ],
        "comparison": None,
    }
    blocks = [_row("whole machine", 1, totals), *(_row(b.name, b.instances, b.total) for b in machine.blocks())]
    sections: list[tuple[str, Sequence[str], list[list[object]]]] = [
        (f"{_describe(config)}: what it consists of", BLOCK_COLUMNS, blocks),
        ("longest path", ("quantity", "value"), _path_rows(totals)),
    ]
    comparison = None
    if args.compare or args.docs is not None:
        area = AreaComparison(config)
        _drain(area.run(), "synthesising the arrays", area.modules)
        comparison = area.result()
        result["comparison"] = _plain_data(comparison)
        sections += [
            (f"{config.name}: one tier, without memories", TIER_COLUMNS, _tier_rows(comparison)),
            (f"{config.name}: array logic, what makes the difference", PART_COLUMNS, _part_rows(comparison)),
            (f"{config.name}: overheads of the array logic", ("quantity", "value"), _overhead_rows(comparison)),
        ]
    for title, columns, rows in sections:
        print_table(rows, columns, title=title, left=("value",))
    write_json(args.json, result)
    if args.docs is not None:
        rewrite_section(args.docs, f"a3d synth --config {config.name} --docs", markdown_tables(sections))
    if comparison is not None and comparison.overhead > LIMIT:
        raise CheckError(
            f"area overhead of the array logic is {comparison.overhead:.1%}, at most {LIMIT:.0%} is allowed: "
            "the table above tells where it comes from"
        )
    return 0


def _drain(steps: Iterable[object], description: str, total: int) -> None:
    for _ in progress(steps, description, total):
        pass


def _describe(config: MachineConfig) -> str:
    return f"{config.name}, {config.tiers} x {config.rows} x {config.columns} PEs"


def _row(name: str, instances: int, total: Totals) -> list[object]:
    return [
        name,
        instances,
        total.cells,
        total.registers,
        total.memory_bits,
        total.multipliers,
        total.transistors,
        total.longest_path_levels,
    ]


def _path_rows(totals: Totals) -> list[list[object]]:
    return [
        ["gates", totals.longest_path_levels],
        ["from", totals.longest_path_start],
        ["to", totals.longest_path_end],
        ["netlist", totals.longest_path_method],
    ]


def _tier_rows(comparison: Comparison) -> list[list[object]]:
    rows: list[list[object]] = []
    array = ("array logic", (comparison.adaptive, comparison.plain, comparison.unlinked))
    for name, amounts in (*comparison.blocks.items(), array, ("whole tier", comparison.tiers)):
        rows.append([name, *(a.registers for a in amounts), *(a.transistors for a in amounts)])
    return rows


def _part_rows(comparison: Comparison) -> list[list[object]]:
    rows: list[list[object]] = []
    for part in (*comparison.parts, comparison.difference):
        share = part.amount.transistors / comparison.plain.transistors
        rows.append([part.name, part.amount.cells, part.amount.registers, part.amount.transistors, f"{share:+.2%}"])
    return rows


def _overhead_rows(comparison: Comparison) -> list[list[object]]:
    return [
        [f"adaptive over plain, transistors (limit {LIMIT:.0%})", f"{comparison.overhead:+.2%}"],
        ["the same, enables as multiplexers", f"{comparison.overhead_enable_mux:+.2%}"],
        ["the same, flip-flops", f"{comparison.overhead_registers:+.2%}"],
        ["links and wave control over plain, nothing credited", f"{comparison.added_overhead:+.2%}"],
        ["vertical feed: with links over without", f"{comparison.links_overhead:+.2%}"],
        ["adaptive over plain, whole tier", f"{comparison.overhead_tier:+.2%}"],
    ]


def _plain_data(comparison: Comparison) -> dict[str, Any]:
    amounts = {name: dataclasses.asdict(getattr(comparison, name)) for name in ("adaptive", "plain", "unlinked")}
    overheads = {
        name: getattr(comparison, name)
        for name in (
            "overhead",
            "overhead_enable_mux",
            "overhead_registers",
            "added_overhead",
            "links_overhead",
            "overhead_tier",
        )
    }
    return {
        **amounts,
        **overheads,
        "limit": LIMIT,
        "parts": [
            {"name": part.name, "added": part.added, **dataclasses.asdict(part.amount)} for part in comparison.parts
        ],
        "blocks": [
            {
                "name": name,
                **{array: dataclasses.asdict(amount) for array, amount in zip(amounts, found, strict=True)},
            }
            for name, found in comparison.blocks.items()
        ],
    }
