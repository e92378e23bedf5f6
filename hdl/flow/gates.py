# SPDX-License-Identifier: Apache-2.0
"""The generic gate library: what each cell counts, in transistors of static CMOS.

The figures of the gates are those of Yosys' ``stat -tech cmos``, which ABC maps for as well.  Yosys has no figure for a
flip-flop with enable or synchronous reset: here an enable is a clock gate shared by the word and costs nothing per bit
(:data:`ENABLE_MUX` tells what the other way of building it would cost), a synchronous reset or set is a gate before D.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from hdl.flow.yosys import SynthError

__all__ = ["ENABLE_MUX", "GATE_SET", "enabled_registers", "is_register", "register_bits", "transistors"]

GATE_SET = "cmos"
"""ABC's gate set: NAND, NOR, AOI, OAI, multiplexers, XOR, XNOR, inverters."""

_GATES = {
    "$_BUF_": 1, "$_NOT_": 2, "$_NAND_": 4, "$_NOR_": 4, "$_AND_": 6, "$_OR_": 6, "$_ANDNOT_": 6, "$_ORNOT_": 6,
    "$_AOI3_": 6, "$_OAI3_": 6, "$_AOI4_": 8, "$_OAI4_": 8, "$_NMUX_": 10, "$_MUX_": 12, "$_XOR_": 12, "$_XNOR_": 12,
}  # fmt: skip

_REGISTER = re.compile(r"\$_(S?)DFF(C?E)?_[NP]+[01]?[NP]*_")

FLIP_FLOP = 16
"""Transistors of a D flip-flop."""

SYNCHRONOUS_RESET = 6
"""Transistors of the gate before D of a flip-flop with synchronous reset or set."""

ENABLE_MUX = 12
"""Transistors of the multiplexer before D, for an enable that is no clock gate."""


def is_register(cell: str) -> bool:
    """Whether a cell type is one bit of flip-flop."""
    return _REGISTER.fullmatch(cell) is not None


def register_bits(gates: Mapping[str, int]) -> int:
    """Return the number of flip-flops among counts by cell type."""
    return sum(number for cell, number in gates.items() if is_register(cell))


def enabled_registers(gates: Mapping[str, int]) -> int:
    """Return the number of flip-flops with an enable among counts by cell type."""
    return sum(number for cell, number in gates.items() if (found := _REGISTER.fullmatch(cell)) and found[2])


def transistors(gates: Mapping[str, int]) -> int:
    """Return the transistors of counts by cell type, enables as clock gates.

    Raises
    ------
    SynthError
        For a cell that is neither a gate of the library nor a synchronous flip-flop, such as a latch.
    """
    total = 0
    for cell, number in gates.items():
        found = _REGISTER.fullmatch(cell)
        if found:
            total += number * (FLIP_FLOP + (SYNCHRONOUS_RESET if found[1] else 0))
        elif cell in _GATES:
            total += number * _GATES[cell]
        else:
            raise SynthError(f"cell {cell!r} is no gate or flip-flop of the library: a latch or asynchronous reset?")
    return total
