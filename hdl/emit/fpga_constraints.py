# SPDX-License-Identifier: Apache-2.0
"""The constraints of :mod:`hdl.emit.sdc` in the words of FPGA tools: XDC for Vivado, LPF for Lattice's and nextpnr."""

from __future__ import annotations

from collections.abc import Sequence

from hdl.emit.hierarchy import CLOCK, Port
from hdl.emit.sdc import HEAD, Constraints, port_patterns

__all__ = ["LPF", "XDC", "render_lpf", "render_xdc"]

XDC = "a3d.xdc"
LPF = "a3d.lpf"
"""Names of the files."""


def render_xdc(ports: Sequence[Port], constraints: Constraints) -> str:
    """Return the text of the file for Vivado: the machine as a top, or synthesised out of context.

    Parameters
    ----------
    ports : sequence of Port
        Of the top.
    constraints : Constraints
    """
    lines = [
        *HEAD,
        f"# One clock of {constraints.clock_mhz:g} MHz, times in nanoseconds. For the machine as the top, or",
        "# out of context; within a block design the clock comes from there, and this file is not needed.",
        "",
        constraints.clock,
        "",
        f"# {constraints.outside:.0%} of the period for what is outside, the synchronous reset included.",
    ]
    for direction in ("input", "output"):
        names = port_patterns(ports, direction)
        command = f"set_{direction}_delay -clock [get_clocks {{{CLOCK}}}] {constraints.delay}"
        lines += [f"{command} [get_ports {{{name}}}]" for name in names]
    return "\n".join([*lines, ""])


def render_lpf(constraints: Constraints) -> str:
    """Return the text of the file for Diamond and nextpnr, which has the clock alone.

    Delays at ports are left out: nextpnr does not know them, and within a design they do not matter.

    Parameters
    ----------
    constraints : Constraints
    """
    lines = [
        *HEAD,
        "# The clock. Where the machine is not the top, name the port of the top, or the net: FREQUENCY NET.",
        f'FREQUENCY PORT "{CLOCK}" {constraints.clock_mhz:.3f} MHZ;',
    ]
    return "\n".join([*lines, ""])
