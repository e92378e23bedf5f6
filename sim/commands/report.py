# SPDX-License-Identifier: Apache-2.0
"""``a3d report``: renders the documents that hold figures or facts from their sources."""

import argparse
import sys
from pathlib import Path

from hdl.boards.protocol import describe_protocol
from hdl.emit.isa_pages import PAGES, render_sections
from hdl.emit.reference import render_reference
from hdl.scratch import whole_file
from sim.commands._common import Subparsers, new_parser, output_folder
from sim.commands._docs import rewrite_section
from sim.measure.results import render_results


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = new_parser(subparsers, "report", "render docs/results.md from the measurements, or other pages")
    parser.add_argument("--build", type=Path, default=Path("build"), metavar="DIR", help="where the reports lie")
    parser.add_argument("--docs", type=output_folder, default="docs", metavar="DIR", help="where the documents go")
    parser.add_argument(
        "--reference", action="store_true", help="render docs/reference.md and the tables in docs/isa instead"
    )
    parser.add_argument("--board", action="store_true", help="render the protocol in docs/board.md instead")


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    if args.board:
        rewrite_section(args.docs / "board.md", "protocol", "\n".join(describe_protocol()) + "\n")
        print(args.docs / "board.md")
        return 0
    target = args.docs / ("reference.md" if args.reference else "results.md")
    missing: list[str] = []
    if args.reference:
        text = render_reference()
        _rewrite_pages(args.docs / "isa")
    else:
        text, missing = render_results(args.build, target.read_text(encoding="utf-8") if target.is_file() else "")
    with whole_file(target) as scratch:
        scratch.write_text(text, encoding="utf-8")
    print(target)
    for command in missing:
        print(f"left out, as never measured: {command}", file=sys.stderr)
    return 0


def _rewrite_pages(folder: Path) -> None:
    """Render the generated sections of the instruction pages that are there."""
    for name in PAGES:
        page = folder / name
        if page.is_file():
            for section, text in render_sections(name, page.read_text(encoding="utf-8")).items():
                rewrite_section(page, section, text)
            print(page)
