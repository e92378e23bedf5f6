# SPDX-License-Identifier: Apache-2.0
"""``a3d synth`` for an FPGA (``--target ecp5``) and for standard cells (``--liberty FILE``)."""

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hdl.config import MachineConfig
from hdl.emit.design import EmittedDesign
from hdl.errors import A3dError
from hdl.flow.asic import AsicSynthesis
from hdl.flow.ecp5 import DEFAULT_PART, PARTS, Resources, part_of
from hdl.flow.fpga import FpgaSynthesis, Placed
from hdl.flow.liberty import Liberty
from hdl.flow.nextpnr import Options, find_nextpnr
from hdl.flow.opensta import find_sta
from hdl.flow.timing import TimedPath
from hdl.flow.tree import module_at, reachable
from sim.commands._common import count, fraction, print_table, progress, write_json

__all__ = ["add_flow_options", "check_flow_options", "place", "show_steps"]

Flow = Callable[[argparse.Namespace, MachineConfig, EmittedDesign], int]

PATH_COLUMNS = ("block", "ns", "MHz", "logic ns", "routing ns", "from", "to")
SHOWN_PATHS = 20


def add_flow_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the FPGA and the liberty flow."""
    parser.add_argument(
        "--target",
        choices=("generic", "ecp5"),
        default="generic",
        help="generic gates, or Lattice ECP5; default generic",
    )
    parser.add_argument(
        "--pnr", action="store_true", help="with --target ecp5: also place and route (minutes), for timing"
    )
    parser.add_argument(
        "--lut-products", type=count(0, 64), metavar="BITS",
        help="with --target ecp5: make products of LUTs whose operands have at most so many bits; default 0, none",
    )  # fmt: skip
    parser.add_argument("--part", metavar="NAME", help=f"of the ECP5: {', '.join(PARTS)}; default {DEFAULT_PART}")
    parser.add_argument("--speed", type=int, choices=(6, 7, 8), help="speed grade of the part; default 6")
    parser.add_argument("--seed", type=count(0), help="of the placer; default 1")
    parser.add_argument(
        "--aim-mhz", type=fraction(1.0, 1000.0), metavar="MHZ", help="what placement aims at; default 100"
    )
    parser.add_argument(
        "--liberty", type=Path, metavar="FILE", help="map to the cells of this liberty file (.lib, .lib.gz) instead"
    )
    parser.add_argument("--sta", action="store_true", help="with --liberty: worst path of each block, with OpenSTA")
    parser.add_argument(
        "--block",
        metavar="PLACE",
        default="",
        help="with either: this block alone, such as semaphores or vector/scalars",
    )


def check_flow_options(args: argparse.Namespace) -> Flow | None:
    """Check options and tools before any work, and return what runs the flow; None: generic gates.

    Raises
    ------
    A3dError
        Options that do not go together, a tool that is missing, a part or a liberty file that is none.
    """
    ecp5 = args.target == "ecp5"
    unused = [f"--{n.replace('_', '-')}" for n in ("part", "speed", "seed", "aim_mhz") if getattr(args, n) is not None]
    for wrong, message in (
        (ecp5 and args.liberty, "--target ecp5 and --liberty: two targets; leave out one"),
        (args.pnr and not ecp5, "--pnr: only an FPGA is placed and routed; add --target ecp5"),
        (unused and not args.pnr, f"{', '.join(unused)}: about place and route; add --pnr"),
        (args.lut_products is not None and not ecp5, "--lut-products: about the ECP5; add --target ecp5"),
        (args.sta and not args.liberty, "--sta: timing needs cells; add --liberty FILE"),
        (args.block and not (ecp5 or args.liberty), "--block: needs --target ecp5 or --liberty FILE"),
        ((ecp5 or args.liberty) and (args.compare or args.docs),
         "--compare, --docs: about generic gates; leave out --target and --liberty"),
    ):  # fmt: skip
        if wrong:
            raise A3dError(message)
    if ecp5:
        part_of(args.part or DEFAULT_PART)
        if args.pnr:
            find_nextpnr()
        return _ecp5
    if args.liberty:
        liberty = Liberty(args.liberty)
        if args.sta:
            find_sta()
        return lambda args, config, design: _liberty(args, config, design, liberty)
    return None


def show_steps(steps: Iterable[str], what: str) -> None:
    """Tell on standard error what a long step is doing: in place on a terminal, else a line every half minute."""
    begin = last = time.monotonic()
    terminal = sys.stderr.isatty()
    for step in steps:
        now = time.monotonic()
        if terminal:
            print(f"\r\x1b[K{what}: {step} ({now - begin:.0f} s)", end="", file=sys.stderr, flush=True)
        elif now - last >= 30:
            print(f"{what}: {step} ({now - begin:.0f} s)", file=sys.stderr, flush=True)
            last = now
    if terminal:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def place(machine: FpgaSynthesis, what: str, part: str, options: Options) -> Placed:
    """Place and route, and tell what is going on."""
    show_steps(machine.place(what, part_of(part), options), what)
    assert machine.placed is not None
    return machine.placed


def _ecp5(args: argparse.Namespace, config: MachineConfig, design: EmittedDesign) -> int:
    top = module_at(design.modules, design.top, args.block)
    what = f"{config.name}/{args.block}" if args.block else config.name
    machine = FpgaSynthesis(reachable(design.modules, top), top, lut_products=args.lut_products or 0)
    for _ in progress(machine.mapped.run(), "synthesising modules", len(machine.mapped.names)):
        pass
    part = part_of(args.part or DEFAULT_PART)
    blocks = machine.blocks()
    rows = [(what, 1, machine.resources()), *blocks]
    print_table([[name, number, *_resources(found)] for name, number, found in rows], RESOURCE_COLUMNS,
                title=f"{what} on the ECP5: modules mapped one by one")  # fmt: skip
    result: dict[str, Any] = {
        "config": config.name,
        "block": args.block,
        "target": "ecp5",
        "lut_products": machine.lut_products,
        "totals": dataclasses.asdict(machine.resources()),
        "blocks": [{"name": n, "instances": i, **dataclasses.asdict(found)} for n, i, found in blocks],
        "seconds": round(machine.mapped.seconds(top), 1),
        "placed": None,
    }
    if args.pnr:
        machine.check_fit(what, part)
        options = Options(
            mhz=args.aim_mhz or Options.mhz, seed=Options.seed if args.seed is None else args.seed,
            speed=args.speed or Options.speed,
        )  # fmt: skip
        placed = place(machine, what, part.name, options)
        result["placed"] = {
            "part": part.name, **dataclasses.asdict(options), **dataclasses.asdict(placed),
            "fmax_mhz": round(placed.worst.mhz, 2),
        }  # fmt: skip
        _print_placed(what, part.name, options, placed)
    write_json(args.json, result)
    return 0


RESOURCE_COLUMNS = ("block", "instances", "LUT4", "CCU2C", "FF", "DP16KD", "MULT18X18D", "TRELLIS_DPR16X4")


def _resources(found: Resources) -> list[object]:
    return [found.luts, found.carries, found.ffs, found.brams, found.dsps, found.lutrams]


def _print_placed(what: str, part: str, options: Options, placed: Placed) -> None:
    rows = [
        [kind, used, placed.available[kind], f"{100 * used / placed.available[kind]:.0f} %"]
        for kind, used in placed.used.items()
    ]
    print_table(rows, ("cells", "used", "of", "share"), title=f"{what} on {part}-{options.speed}, flat, in its wrapper")
    _print_paths(placed.blocks, f"{what}: worst path that ends in each block, after routing")
    print(
        f"{placed.worst.mhz:.1f} MHz ({placed.worst.ns:.2f} ns: {placed.worst.logic_ns:.2f} logic, "
        f"{placed.worst.routing_ns:.2f} routing) from {placed.worst.start} to {placed.worst.end} in "
        f"{placed.worst.block}; synthesis {placed.synth_s:.0f} s, place and route {placed.route_s:.0f} s"
    )


def _print_paths(paths: Sequence[TimedPath], title: str) -> None:
    rows = [[p.block, round(p.ns, 2), round(p.mhz, 1), p.logic_ns, p.routing_ns, p.start, p.end] for p in paths]
    print_table(rows[: 3 * SHOWN_PATHS], PATH_COLUMNS, title=title)


def _liberty(args: argparse.Namespace, config: MachineConfig, design: EmittedDesign, liberty: Liberty) -> int:
    top = module_at(design.modules, design.top, args.block)
    what = f"{config.name}/{args.block}" if args.block else config.name
    machine = AsicSynthesis(reachable(design.modules, top), top, liberty)
    for _ in progress(machine.mapped.run(), "synthesising modules", len(machine.mapped.names)):
        pass
    if args.sta:
        for _ in progress(machine.time(), "timing", len(machine.targets())):
            pass
    result = liberty_result(machine, what)
    blocks = sorted(machine.blocks(), key=lambda block: -(block.path.ns if block.path else 0.0))
    rows: list[list[object]] = [[b.name, b.instances, b.cells, round(b.area_um2), *_path(b.path)] for b in blocks]
    worst = machine.timed.get(top, [])[:1]
    whole = [what, 1, machine.cells, round(machine.area_um2), *_path(worst[0] if worst else None)]
    print_table([whole, *rows], ("block", "instances", "cells", "area um2", "ns alone", "from", "to"),
                title=f"{what} in the cells of {liberty.library}, without memories and wires")  # fmt: skip
    if args.sta:
        _print_paths(machine.worst_ends(), f"{what}, whole: worst path that ends in each block")
        found = machine.worst
        if found is not None:
            note = "" if machine.whole else "; too large to be timed whole: the worst block alone"
            print(f"{found.mhz:.1f} MHz ({found.ns:.2f} ns) from {found.start} to {found.end} in {found.block}{note}")
    write_json(args.json, {"config": config.name, "block": args.block, "target": liberty.flow, **result})
    return 0


def _path(path: TimedPath | None) -> list[object]:
    return [None, None, None] if path is None else [round(path.ns, 3), path.start, path.end]


def liberty_result(machine: AsicSynthesis, what: str) -> Mapping[str, Any]:
    """Return what is known about a machine of standard cells, as plain data."""
    worst = machine.worst
    return {
        "name": what,
        "library": machine.liberty.library,
        "cells": machine.cells,
        "area_um2": round(machine.area_um2, 1),
        "fmax_mhz": None if worst is None else round(worst.mhz, 2),
        "timed_whole": machine.whole and bool(machine.timed),
        "worst": worst,
        "blocks": machine.blocks(),
        "worst_ends": machine.worst_ends(),
        "ends": machine.ends(),
        "seconds": machine.seconds,
    }
