# SPDX-License-Identifier: Apache-2.0
"""A top module with three pins around a machine: the machine has more ports than a package has pins.

Input ports hang on the stages of a shift register, output ports are folded into another one (a stage is the exclusive
or of its predecessor and one port).  Nothing of the machine can be optimised away, every path to or from a port ends at
a register beside it, and the wrapper's own paths are one LUT long.
"""

from __future__ import annotations

import re

from hdl.flow.yosys import SynthError

__all__ = ["INSTANCE", "WRAPPER", "port_widths", "wrap"]

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


def wrap(text: str, clock: str = "clk") -> str:
    """Return the Verilog of the wrapper of the module `text`."""
    header = _HEADER.search(text)
    if header is None:
        raise SynthError("the top module has no list of ports")
    connections, inputs, outputs, folded = [], 0, 0, []
    for kind, name, width in port_widths(text):
        if name == clock:
            connections.append(f".{name}(clk)")
        elif kind == "input":
            connections.append(f".{name}(stage[{inputs + width - 1}:{inputs}])")
            inputs += width
        else:
            connections.append(f".{name}(out_{name})")
            folded.append((name, width))
            outputs += width
    wires = "".join(f"  wire [{width - 1}:0] out_{name};\n" for name, width in folded)
    bits = ", ".join(f"out_{name}" for name, _ in reversed(folded))
    return (
        f"module {WRAPPER} (input wire clk, input wire scan_in, output wire scan_out);\n"
        f"  reg [{inputs - 1}:0] stage;\n"
        f"  reg [{outputs - 1}:0] fold;\n"
        f"{wires}"
        f"  {header[1]} {INSTANCE} (\n    " + ",\n    ".join(connections) + "\n  );\n"
        "  always @(posedge clk) begin\n"
        f"    stage <= {{stage[{inputs - 2}:0], scan_in}};\n"
        f"    fold <= {{fold[{outputs - 2}:0], 1'b0}} ^ {{{bits}}};\n"
        "  end\n"
        f"  assign scan_out = fold[{outputs - 1}];\n"
        "endmodule\n"
    )
