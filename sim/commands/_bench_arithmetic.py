# SPDX-License-Identifier: Apache-2.0
"""Benches of the arithmetic against float64: primitives, and programs of the vector unit."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sim.commands._common import (
    Subparsers,
    add_json_option,
    check_page,
    count,
    picture_file,
    print_table,
    write_json,
)
from sim.commands._docs import markdown_tables, rewrite_section

__all__ = ["BENCHES", "add_benches"]

PRIMITIVES_DOCS = Path("docs") / "primitives.md"
"""The page that ``a3d bench primitives --docs`` rewrites; its picture goes to ``images/`` beside it."""

LAYERS_DOCS = Path("docs") / "layers.md"
"""The page that ``a3d bench layers --docs`` rewrites."""


def add_benches(kinds: Subparsers) -> None:
    """Add their parsers."""
    primitives = kinds.add_parser("primitives", help="worst errors of the arithmetic primitives over their ranges")
    primitives.add_argument("--picture", type=picture_file, metavar="FILE", help="draw the error curves")
    primitives.add_argument(
        "--docs",
        type=Path,
        nargs="?",
        const=PRIMITIVES_DOCS,
        metavar="FILE",
        help=f"rewrite the table in FILE and the picture beside it; default {PRIMITIVES_DOCS}",
    )
    add_json_option(primitives)
    layers = kinds.add_parser("layers", help="errors of the example programs for other models' layers")
    layers.add_argument("--draws", type=count(1, 20_000), default=500, help="random inputs of each; default 500")
    layers.add_argument(
        "--docs", type=Path, nargs="?", const=LAYERS_DOCS, metavar="FILE",
        help=f"rewrite the table in FILE; default {LAYERS_DOCS}",
    )  # fmt: skip
    add_json_option(layers)


def _primitives(args: argparse.Namespace) -> int:
    from sim.measure.primitives import draw, measure_primitives

    check_page(args.docs)
    results = measure_primitives()
    columns = ("primitive", "exact", "arguments tried", "cases", "worst error", "bound", "unit", "worst at", "mean")
    rows: list[list[object]] = [
        [p.name, p.what, p.covered, p.cases, f"{p.worst:.4g}", f"{p.bound:g}", p.unit, p.at, f"{p.mean:+.2g}"]
        for p in results
    ]
    print_table(rows, columns, title="arithmetic primitives against float64")
    write_json(args.json, {"primitives": [p.summary() for p in results]})
    if args.picture is not None:
        draw(results, args.picture)
    if args.docs is not None:
        draw(results, args.docs.parent / "images" / "primitives.png")
        cells: list[list[object]] = [[f"`{row[0]}`", f"`{row[1]}`", *row[2:]] for row in rows]
        _write_errors(args.docs, "primitives", columns, cells)
    return _say_broken(
        [f"{p.name}: error {p.worst:g} at {p.at}, more than {p.bound:g}" for p in results if not p.holds]
    )


def _layers(args: argparse.Namespace) -> int:
    from sim.stimulus.layers import measure_layers

    check_page(args.docs)
    results = measure_layers(args.draws)
    columns = ("program", "of", "instructions", "result", "unit", "cases", "worst error", "rms error", "bound")
    rows: list[list[object]] = [
        [r.name, r.origin, r.instructions, r.result, r.unit, r.cases, f"{r.worst:.3g}", f"{r.rms:.3g}", f"{r.bound:g}"]
        for r in results
    ]
    print_table(rows, columns, title="programs of the vector unit against float64")
    write_json(args.json, {"layers": [vars(r) | {"holds": r.holds} for r in results]})
    if args.docs is not None:
        cells: list[list[object]] = [[f"`{row[0]}.asm`", *row[1:]] for row in rows]
        _write_errors(args.docs, "layers", columns, cells)
    return _say_broken(
        [f"{r.name}: {r.result}: error {r.worst:g}, more than {r.bound:g}" for r in results if not r.holds]
    )


def _write_errors(page: Path, bench: str, columns: Sequence[str], cells: list[list[object]]) -> None:
    rewrite_section(page, f"a3d bench {bench} --docs", markdown_tables([("Errors against float64", columns, cells)]))


def _say_broken(lines: list[str]) -> int:
    """Print the bounds that do not hold; return the exit status."""
    for line in lines:
        print(line)
    return 1 if lines else 0


BENCHES: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "primitives": _primitives,
    "layers": _layers,
}
"""What runs each of them."""
