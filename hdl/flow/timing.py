# SPDX-License-Identifier: Apache-2.0
"""Paths of a timed netlist, and the worst of each block."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from hdl.flow.tree import block_of

__all__ = ["PORT", "TOP", "TimedPath", "place_of", "tidy", "worst_by_block"]

PORT = "(ports)"
"""What stands for a block where a path ends at a port."""

TOP = "(top)"
"""What stands for a block where a path ends in the top module itself."""

# What synthesis appends to the name of the signal that a cell drives: Yosys' own cell types, and the ECP5's.
_APPENDED = re.compile(r"(?:\$_\w+_|_(?:TRELLIS_FF|LUT4|CCU2C|PFUMX|L6MUX21|TRELLIS_DPR16X4|MULT18X18D|DP16KD)_.*)$")


@dataclass(frozen=True)
class TimedPath:
    """The longest path to some end point.

    Attributes
    ----------
    ns : float
        The clock's shortest period that the path allows: with clock-to-output and setup times.
    start, end : str
        Register, memory pin or port where it begins and ends.
    block : str
        Block in which it ends.
    logic_ns, routing_ns : float, optional
        Parts of `ns` in cells and on wires, where that is known.
    """

    ns: float
    start: str
    end: str
    block: str
    logic_ns: float | None = None
    routing_ns: float | None = None

    @property
    def mhz(self) -> float:
        """Highest frequency that the path allows."""
        return 1000 / self.ns


def tidy(name: str) -> str:
    """Return a cell's name as the Verilog has the signal: without escapes and without what synthesis appended."""
    return _APPENDED.sub("", name.replace("\\", "").strip())


def place_of(name: str, above: str = "") -> str:
    """Return the block in which a cell is.

    Parameters
    ----------
    name : str
        Its flattened name: ``vector.lanes.value[3]``.
    above : str
        The instance around the machine, if its name begins with one.
    """
    parts = name.split(".")
    if above and parts[0] == above:
        parts = parts[1:]
    elif above:
        return PORT
    return block_of(parts[:-1]) or TOP


def worst_by_block(paths: Iterable[TimedPath]) -> list[TimedPath]:
    """Return the worst path of each block in which paths end, the worst first."""
    worst: dict[str, TimedPath] = {}
    for path in paths:
        if path.block not in worst or worst[path.block].ns < path.ns:
            worst[path.block] = path
    return sorted(worst.values(), key=lambda path: -path.ns)
