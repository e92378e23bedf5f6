# SPDX-License-Identifier: Apache-2.0
"""Bench of the FPGA and standard-cell flows: resources, area, frequency, the worst paths."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from hdl.config import load_config
from hdl.errors import CheckError
from hdl.flow.ecp5 import DEFAULT_PART, PARTS, part_of
from hdl.flow.liberty import Liberty
from hdl.flow.nextpnr import Options
from hdl.generate import generate
from sim.commands._common import (
    Subparsers,
    add_json_option,
    check_folder,
    count,
    fraction,
    picture_file,
    print_table,
    write_json,
)
from sim.commands._flows import show_steps
from sim.measure.flows import FLOWS, FlowsBench, draw, read_before

__all__ = ["BENCHES", "add_benches"]


COLUMNS = (
    "preset",
    "flow",
    "MHz",
    "ns",
    "LUT4",
    "FF",
    "DP16KD",
    "MULT18",
    "area um2",
    "seconds",
    "block",
    "from",
    "to",
)


def add_benches(kinds: Subparsers) -> None:
    """Add its parser."""
    flows = kinds.add_parser("flows", help="resources, area and frequency on an FPGA and in standard cells (minutes)")
    flows.add_argument("--config", nargs="+", default=["nano"], metavar="NAME_OR_TOML", help="machines; default nano")
    flows.add_argument(
        "--flows", nargs="+", choices=FLOWS, default=list(FLOWS), metavar="FLOW",
        help=f"of {', '.join(FLOWS)}; default all, and those of other liberty files",
    )  # fmt: skip
    flows.add_argument(
        "--liberty", type=Path, nargs="+", default=[], metavar="FILE", help="cells of the standard-cell flows"
    )
    flows.add_argument(
        "--part", default=DEFAULT_PART, metavar="NAME", help=f"{', '.join(PARTS)}; default {DEFAULT_PART}"
    )
    flows.add_argument("--seed", type=count(0), default=Options.seed, help=f"of the placer; default {Options.seed}")
    flows.add_argument(
        "--aim-mhz", type=fraction(1.0, 1000.0), default=Options.mhz, metavar="MHZ", help="what placement aims at"
    )
    flows.add_argument("--before", type=Path, metavar="FILE", help="an earlier report, to show beside this one")
    flows.add_argument("--picture", type=picture_file, default="build/bench/flows.png", metavar="FILE")
    add_json_option(flows)


def _flows(args: argparse.Namespace) -> int:
    part = part_of(args.part)
    liberties = [Liberty(path) for path in args.liberty]
    configs = [load_config(name) for name in args.config]
    before = read_before(args.before) if args.before else {}
    folders = [check_folder(Path("build") / "rtl" / config.name) for config in configs]
    designs = [(c, generate(c, folder)[0]) for c, folder in zip(configs, folders, strict=True)]
    options = Options(mhz=args.aim_mhz, seed=args.seed)
    bench = FlowsBench(designs, list(dict.fromkeys(args.flows)), liberties, part, options, show_steps)
    bench.run()
    result = bench.result()
    rows = []
    for target in result["targets"]:
        earlier = before.get((target["preset"], target["flow"]))
        target["before"] = earlier
        rows += [_row(earlier, f"{target['flow']}, before")] if earlier else []
        rows.append(_row(target, target["flow"]))
    print_table(rows, COLUMNS, title="flows")
    for left in result["left_out"]:
        print(f"left out: {left['preset']}, {left['flow']}: {left['reason']}")
    draw(result, args.picture)
    print(f"picture: {args.picture}")
    write_json(args.json, result)
    if not result["targets"]:
        raise CheckError("bench flows: nothing was measured: every flow was left out, see above")
    return 0


def _row(target: Mapping[str, object], flow: str) -> list[object]:
    path = target["critical_path"]
    ends = [path.get(key) for key in ("block", "from", "to")] if isinstance(path, Mapping) else [None] * 3
    ns = path.get("ns") if isinstance(path, Mapping) else None
    numbers = [target[key] for key in ("luts", "ffs", "brams", "dsps", "area_um2", "seconds")]
    return [target["preset"], flow, target["fmax_mhz"], ns, *numbers, *ends]


BENCHES: Mapping[str, Callable[[argparse.Namespace], int]] = {"flows": _flows}
"""What runs it."""
