# SPDX-License-Identifier: Apache-2.0
"""A top module with two pins around a machine: the machine has more ports than a package has pins.

Input ports hang on the stages of a shift register, output ports end in registers that must be kept.  So nothing of the
machine can be optimised away, every path from or to a port has a register at its other end, and the wrapper has no
logic of its own.
"""

from __future__ import annotations

import re

from hdl.flow.yosys import SynthError

__all__ = ["INSTANCE", "WRAPPER", "port_bits", "port_widths", "wrap"]

WRAPPER = "a3d_pins"
"""Name of the wrapper."""

INSTANCE = "machine"
"""Name of the machine in it."""

_PORT = re.compile(r"^  (input|output) (?:wire|reg)(?: \[(\d+):0\])? (\w+)\b", re.MULTILINE)
_HEADER = re.compile(r"^module\s+(\w+)\s*\(.*?^\);", re.MULTILINE | re.DOTALL)


def port_widths(text: str) -> list[tuple[str, str, int]]:
    """Return direction, name and width of each port of a module, as :mod:`hdl.emit` writes it."""
    header = _HEADER.search(text)
    if header is None:
        raise SynthError("the top module has no list of ports")
    return [(kind, name, int(high or 0) + 1) for kind, high, name in _PORT.findall(header[0])]


def port_bits(text: str, clock: str = "clk") -> int:
    """Return how many registers the wrapper of the module `text` has."""
    return sum(width for _, name, width in port_widths(text) if name != clock)


def wrap(text: str, clock: str = "clk") -> str:
    """Return the Verilog of the wrapper of the module `text`."""
    header = _HEADER.search(text)
    if header is None:
        raise SynthError("the top module has no list of ports")
    connections, inputs, caught = [], 0, []
    for kind, name, width in port_widths(text):
        if name == clock:
            connections.append(f".{name}(clk)")
        elif kind == "input":
            connections.append(f".{name}(stage[{inputs + width - 1}:{inputs}])")
            inputs += width
        else:
            connections.append(f".{name}(out_{name})")
            caught.append((name, width))
    wires = "".join(
        f"  wire [{width - 1}:0] out_{name};\n  (* keep *) reg [{width - 1}:0] caught_{name};\n"
        for name, width in caught
    )
    return (
        f"module {WRAPPER} (input wire clk, input wire scan_in);\n"
        f"  reg [{inputs - 1}:0] stage;\n"
        f"{wires}"
        f"  {header[1]} {INSTANCE} (\n    " + ",\n    ".join(connections) + "\n  );\n"
        "  always @(posedge clk) begin\n"
        "    stage <= {stage, scan_in};\n"
        + "".join(f"    caught_{name} <= out_{name};\n" for name, _ in caught)
        + "  end\nendmodule\n"
    )
