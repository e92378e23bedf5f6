# SPDX-License-Identifier: Apache-2.0
"""``a3d generate``: writes the Verilog, the file list, the manifest and the C header of a machine."""

import argparse
import time
from pathlib import Path

from hdl.config import load_config
from hdl.generate import generate
from sim.commands._common import (
    Subparsers,
    add_config_option,
    add_json_option,
    check_folder,
    new_parser,
    output_folder,
    print_table,
    write_json,
)  # fmt: skip


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = new_parser(subparsers, "generate", "write a machine's Verilog, file list, manifest and C header")
    add_config_option(parser)
    parser.add_argument(
        "-o", "--out", type=output_folder, metavar="DIR", help="output directory; default build/rtl/NAME"
    )
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    config = load_config(args.config)
    out = args.out or check_folder(Path("build") / "rtl" / config.name)
    started = time.perf_counter()
    design, manifest = generate(config, out)
    seconds = time.perf_counter() - started
    size = sum((out / path).stat().st_size for path in design.files)
    memory_bits = sum(entry["width"] * entry["depth"] * entry["instances"] for entry in manifest["memories"])
    result = {
        "config": config.name,
        "out": str(out),
        "seconds": seconds,
        "verilog_bytes": size,
        "modules": len(design.modules),
        "instances": sum(design.instances.values()),
        "memory_bits": memory_bits,
        "config_sha256": manifest["config_sha256"],
    }
    print_table(
        [[key, value] for key, value in result.items()], ("quantity", "value"), left=("value",), title=f"{out}/a3d.f"
    )
    write_json(args.json, result)
    return 0
