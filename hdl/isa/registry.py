# SPDX-License-Identifier: Apache-2.0
"""All opcodes: assembler, encoder, legality, explanation, C header and reference page derive from this table."""

from __future__ import annotations

from collections.abc import Mapping

from hdl.isa.control import END, NOP
from hdl.isa.description import OpcodeDescription
from hdl.isa.fields import Field, Opcode
from hdl.isa.gemm import GEMM
from hdl.isa.load import LOAD
from hdl.isa.route import ROUTE
from hdl.isa.store import STORE
from hdl.isa.vector import VECTOR

__all__ = ["BODIES", "OPCODES"]

OPCODES: Mapping[Opcode, OpcodeDescription] = {
    each.opcode: each for each in (NOP, END, LOAD, STORE, GEMM, VECTOR, ROUTE)
}
"""What there is to say about each opcode."""

BODIES: Mapping[Opcode, tuple[Field, ...]] = {opcode: each.body for opcode, each in OPCODES.items()}
"""Fields of each opcode after the header."""
