# SPDX-License-Identifier: Apache-2.0
"""``a3d generate``: writes a machine: Verilog, file list, manifest, C header, description of the stack, packages."""

import argparse
import time

from hdl.config import load_config
from hdl.emit.sdc import DEFAULT_MHZ, MAX_MHZ
from hdl.generate import generate
from sim.commands._common import (
    Subparsers,
    add_config_option,
    add_json_option,
    fraction,
    new_parser,
    print_table,
    write_json,
)
from sim.commands._output import add_output_options, verilog_folder


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = new_parser(
        subparsers, "generate", "write a machine's Verilog, manifest, C header, stack, packages of tools"
    )
    add_config_option(parser)
    add_output_options(parser)
    parser.add_argument(
        "--vivado-attributes",
        action="store_true",
        help="put X_INTERFACE attributes on the ports of the top: clock, reset, interrupt, buses",
    )
    parser.add_argument(
        "--clock-mhz",
        type=fraction(0, MAX_MHZ, exclusive=True),
        default=DEFAULT_MHZ,
        metavar="F",
        help=f"clock that the constraints ask for; default {DEFAULT_MHZ:g}",
    )
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    config = load_config(args.config)
    out = verilog_folder(args, config)
    started = time.perf_counter()
    design, manifest = generate(
        config, out, prefix=args.prefix, vivado_attributes=args.vivado_attributes, clock_mhz=args.clock_mhz
    )
    seconds = time.perf_counter() - started
    size = sum((out / path).stat().st_size for path in design.files)
    memory_bits = sum(entry["width"] * entry["depth"] * entry["instances"] for entry in manifest["memories"])
    result = {
        "config": config.name,
        "out": str(out),
        "top": design.top,
        "seconds": seconds,
        "verilog_bytes": size,
        "modules": len(design.modules),
        "instances": sum(design.instances.values()),
        "memory_bits": memory_bits,
        "bond_bits": [bond["used_bits"] for bond in manifest["bonds"]],
        "config_sha256": manifest["config_sha256"],
    }
    print_table(
        [
            [key, ", ".join(f"{n:,}" for n in value) if isinstance(value, list) else value]
            for key, value in result.items()
        ],
        ("quantity", "value"),
        left=("value",),
        title=f"{out}/a3d.f",
    )
    write_json(args.json, result)
    return 0
