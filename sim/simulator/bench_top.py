# SPDX-License-Identifier: Apache-2.0
"""The Verilog top of system simulations: the generated machine and one memory model per AXI channel."""

from __future__ import annotations

from pathlib import Path

from hdl.config import MachineConfig
from hdl.emit.buses import AXI4
from hdl.emit.design import EmittedDesign
from hdl.generate import TOP
from hdl.interfaces import trace_layout
from hdl.memory.axi import channel_address_bits
from scheduler.cost.hbm.timing import FIELDS

__all__ = ["BENCH_TOP", "capacity_bits", "memory_sources", "render_bench"]

BENCH_TOP = "bench"
"""Name of the top module."""

LEAST_CAPACITY_BITS = 26
CAPACITY_STEP = 4
"""Memory models can hold 64 MiB a group, or 16 times that, and so on: how much a run needs is given at run time.

The simulator zeroes all of it when it starts: about a tenth of a second (decision 12)."""

BIG_PES = 1 << 14
BIG_CAPACITY_BITS = 30
"""From so many PEs on, the least is 1 GiB a group: layers of published models need it, and another simulator takes
minutes to compile (decision 13)."""

_AXI_TO_MEMORY = (
    "arid araddr arlen arsize arburst arvalid arready rid rdata rresp rlast rvalid rready "
    "awid awaddr awlen awsize awburst awvalid awready wdata wstrb wlast wvalid wready bid bresp bvalid bready"
).split()


def memory_sources() -> list[Path]:
    """Return the Verilog files that the bench top needs beside the machine: memory model and trace recorder."""
    return [Path(__file__).parents[1] / "rtl" / name for name in ("axi_memory.v", "hbm_channel.v", "trace_recorder.v")]


def _range(width: int) -> str:
    return f"[{width - 1}:0] " if width > 1 else ""


def capacity_bits(config: MachineConfig, memory_bits: int, simulator: str) -> int:
    """Return log2 of the bytes that each group's memory model can have, so that few simulators serve all sizes.

    Parameters
    ----------
    config : MachineConfig
        The machine.
    memory_bits : int
        log2 of the bytes that are needed; a machine that addresses less gets less.
    simulator : str
        Icarus compiles in seconds: it gets what is needed.
    """
    needed = min(memory_bits, config.address_bits)
    if simulator == "icarus":
        return needed
    least = LEAST_CAPACITY_BITS if config.pes < BIG_PES else BIG_CAPACITY_BITS
    bits = next(bits for bits in range(least, 64, CAPACITY_STEP) if bits >= needed)
    return min(bits, config.address_bits)


def render_bench(config: MachineConfig, design: EmittedDesign, capacity: int) -> str:
    """Return the Verilog text of the bench top.

    Ports: ``clk``, ``rst``, ``irq``, the AXI4-Lite registers under their names in the machine, and the memory model's
    knobs with prefix ``mem_``; while ``trace_on`` is high, the trace goes to the file of plusarg ``trace``.

    Parameters
    ----------
    config : MachineConfig
    design : EmittedDesign
        The machine's ports.
    capacity : int
        log2 of the most bytes in each group's memory; input ``mem_bytes`` has how many there are, a power of two.
    """
    channels = config.channels_per_group
    bus = channel_address_bits(config)
    per_channel = capacity - (channels - 1).bit_length()
    knobs = {
        "mem_bytes": 64, "mem_rst": 1, "mem_load": 1, "mem_dump": 1, "mem_latency": 16, "mem_random_latency": 16,
        "mem_stall_rate": 8, "mem_seed": 32, "mem_hbm": 1, "mem_hbm_timing": 16 * len(FIELDS),
        "mem_read_error_group": 1, "mem_read_error_base": 64, "mem_read_error_limit": 64,
        "mem_write_error_group": 1, "mem_write_error_base": 64, "mem_write_error_limit": 64,
        "trace_on": 1,
    }  # fmt: skip
    header = ["    input wire clk", "    input wire rst"]
    wires: list[str] = []
    connections = ["    .clk(clk)", "    .rst(reset)"]
    for port in design.ports:
        if (port.bus is not None and port.bus.protocol == AXI4) or port.name == "trace_out":
            wires.append(f"  wire {_range(port.width)}{port.name};")
        else:
            header.append(f"    {port.direction} wire {_range(port.width)}{port.name}")
        connections.append(f"    .{port.name}({port.name})")
    header += [f"    input wire {_range(width)}{name}" for name, width in knobs.items()]
    header.append("    output wire mem_assert_fail")
    activity = trace_layout(config)["activity"]
    body = [
        f"  trace_recorder #(.EVENTS({activity.offset - 1}), .ACTIVITY({activity.width})) recorder (",
        "    .clk(clk), .trace_on(trace_on), .trace(trace_out)",
        "  );",
        "  reg [63:0] memory_bytes;",
        "  always @(posedge clk) memory_bytes <= mem_bytes;",
        f"  wire [63:0] channel_bytes = memory_bytes >> {(channels - 1).bit_length()};",
        f"  wire [63:0] words = channel_bytes >> {config.channel_bytes.bit_length() - 1};",
        "  wire [31:0] last_word = words[31:0] - 32'd1;",
    ]
    fails: list[str] = []
    for group in range(2):
        for channel in range(channels):
            name = f"memory_g{group}_c{channel}"
            prefix = f"m_axi_g{group}_c{channel}_"
            fails.append(f"{name}_fail")
            suffix = f"_{channel}" if channels > 1 else ""
            pins = [
                ".clk(clk)", ".rst(reset | mem_rst)", ".load(mem_load)", ".dump(mem_dump)", ".dump_first(32'd0)",
                ".dump_last(last_word)", ".size(channel_bytes)",
                ".read_latency(mem_latency)", ".write_latency(mem_latency)",
                ".hbm(mem_hbm)", ".hbm_timing(mem_hbm_timing)", ".hbm_column()", ".hbm_row()",
                ".jitter(mem_random_latency)", ".reorder(mem_random_latency != 16'd0)",
                f".seed(mem_seed ^ 32'd{0x9E3779B9 * (2 * channel + group) & 0xFFFFFFFF})",
                f".assert_fail({name}_fail)", ".beats_read()", ".beats_written()",
            ]  # fmt: skip
            pins += [f".stall_{channel_name}(mem_stall_rate)" for channel_name in ("ar", "r", "aw", "w", "b")]
            for kind in ("read", "write"):
                for bound, pin in (("base", "first"), ("limit", "end")):
                    signal = f"mem_{kind}_error_{bound}"
                    pins.append(f".{kind}_error_{pin}(mem_{kind}_error_group == 1'd{group} ? {signal} : 64'd0)")
            pins += [f".{pin}({prefix}{pin})" for pin in _AXI_TO_MEMORY]
            body += [
                f"  wire {name}_fail;",
                f"  axi_memory #(.DATA_BYTES({config.channel_bytes}), .ADDR_BITS({per_channel}), "
                f'.AXI_ADDR_BITS({bus}), .NAME("group{group}{suffix}")) {name} (',
                "    " + ",\n    ".join(pins),
                "  );",
            ]
    return "\n".join(
        [
            "// SPDX-License-Identifier: Apache-2.0",
            "// Generated by a3d. Do not edit.",
            f"module {BENCH_TOP} (",
            ",\n".join(header),
            ");",
            "  // What depends on an input of the top with no register between is evaluated again at each clock edge:",
            "  // without this one, the next state of every register of the machine.",
            "  reg reset;",
            "  initial reset = 1'b1;",
            "  always @(posedge clk) reset <= rst;",
            *wires,
            f"  {TOP} machine (",
            ",\n".join(connections),
            "  );",
            *body,
            f"  assign mem_assert_fail = {' | '.join(fails)};",
            "endmodule",
            "",
        ]
    )
