# SPDX-License-Identifier: Apache-2.0
"""Verilog of the memory path with a simulation memory on every AXI channel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hdl.config import MachineConfig
from hdl.emit.hierarchy import Port
from hdl.emit.verilog import emit
from hdl.memory.axi import channel_address_bits
from scheduler.cost.hbm.timing import FIELDS
from sim.simulator.runner import BuiltModel, build
from tests.support.memory.path import MemoryPath

RTL = Path(__file__).resolve().parents[3] / "sim" / "rtl"
MEMORY = [RTL / "axi_memory.v", RTL / "hbm_channel.v"]

SETTINGS = {
    "read_latency": 16, "write_latency": 16, "jitter": 16, "reorder": 1, "stall_ar": 8, "stall_r": 8, "stall_aw": 8,
    "stall_w": 8, "stall_b": 8, "seed": 32, "read_error_first": 64, "read_error_end": 64, "write_error_first": 64,
    "write_error_end": 64, "load": 1, "dump": 1,
}  # fmt: skip
"""Inputs of every memory and their widths; on the top they are called ``mem_*``."""


def channel_bits(config: MachineConfig, group_bits: int) -> int:
    """Return the address bits of one channel's memory."""
    return group_bits - (config.channels_per_group - 1).bit_length()


def memory_names(config: MachineConfig) -> list[str]:
    """Return the names of the memories: group, then channel."""
    return [f"axi{g}__{i}" for g in range(2) for i in range(config.channels_per_group)]


def wrapper(config: MachineConfig, path_ports: Sequence[Port], group_bits: int) -> str:
    """Return module ``memory_top``: all ports of the path but AXI, settings, counters of each memory."""
    ports, wires, pins = [], [], [".clk(clk)", ".rst(rst)"]
    for port in path_ports:
        width = f"[{port.width - 1}:0] "
        if port.name.startswith("axi"):
            wires.append(f"  wire {width}{port.name};")
        else:
            ports.append(f"  {port.direction} wire {width}{port.name}")
        pins.append(f".{port.name}({port.name})")
    ports += [f"  input wire [{width - 1}:0] mem_{name}" for name, width in SETTINGS.items()]
    memories = []
    names = memory_names(config)
    slave_ports = [port.name.removeprefix("axi0__0_") for port in path_ports if port.name.startswith("axi0__0_")]
    ignored = {f"{c}{x}" for c in ("ar", "aw") for x in ("lock", "cache", "prot", "qos")}
    for index, name in enumerate(names):
        links = [f".{p}({name}_{p})" for p in slave_ports if p not in ignored]
        links += [f".{s}(mem_{s})" for s in SETTINGS if s != "seed"] + [f".seed(mem_seed + 32'd{index})"]
        links += [f".{c}({name}_{c})" for c in ("assert_fail", "beats_read", "beats_written")]
        links += [".clk(clk)", ".rst(rst)", ".dump_first(32'd0)", ".size(64'd0)"]
        links += [".hbm(1'b0)", f".hbm_timing({16 * len(FIELDS)}'d0)", ".hbm_column()", ".hbm_row()"]
        last = (1 << channel_bits(config, group_bits)) // config.channel_bytes - 1
        links.append(f".dump_last(32'd{last})")
        ports += [f"  output wire {name}_assert_fail"]
        ports += [f"  output wire [63:0] {name}_{c}" for c in ("beats_read", "beats_written")]
        memories.append(
            f"  axi_memory #(.DATA_BYTES({config.channel_bytes}), .ADDR_BITS({channel_bits(config, group_bits)}), "
            f'.AXI_ADDR_BITS({channel_address_bits(config)}), .ID_BITS(1), .NAME("{name}")) {name}_memory (\n    '
            + ",\n    ".join(links)
            + ");"
        )
    return "\n".join(
        ["module memory_top (", "  input wire clk,", "  input wire rst,", ",\n".join(ports), ");", *wires,
         "  memory_path dut (" + ", ".join(pins) + ");", *memories, "endmodule", ""]
    )  # fmt: skip


def build_path(config: MachineConfig, folder: Path, *, group_bits: int = 16, sim: str = "verilator") -> BuiltModel:
    """Emit and compile."""
    design = emit(MemoryPath(config), "memory_path")
    text = "\n".join(design.modules.values())
    (folder / "memory_path.v").write_text(text)
    (folder / "memory_top.v").write_text(wrapper(config, design.ports, group_bits))
    return build([folder / "memory_path.v", folder / "memory_top.v", *MEMORY], "memory_top", sim=sim)


def write_hex(path: Path, beats: np.ndarray) -> None:
    """Write a channel's memory, (beats, channel_bytes), as $readmemh wants it."""
    path.write_text("\n".join(row[::-1].tobytes().hex() for row in beats) + "\n")


def read_dump(path: Path, width: int) -> np.ndarray:
    """Read what a memory wrote."""
    return np.fromfile(path, np.uint8).reshape(-1, width)
