# SPDX-License-Identifier: Apache-2.0
"""From a configuration to a directory: Verilog, file list, manifest, C header of the registers and the instructions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hdl.config import MachineConfig
from hdl.emit.design import EmittedDesign
from hdl.emit.header import render_header
from hdl.emit.verilog import emit, write
from hdl.errors_hw import ErrorCode
from hdl.isa import Opcode, fields_of
from hdl.machine import Machine
from hdl.regs import register_map

__all__ = ["TOP", "c_header", "generate", "isa_description"]

TOP = "a3d_top"
"""Name of the generated top module."""


def isa_description() -> dict[str, tuple[int, list[dict[str, Any]]]]:
    """Return every instruction's opcode and fields (name, lsb, width, doc) for headers and reference pages."""
    instructions = {}
    for opcode in Opcode:
        fields = []
        position = 0
        for field in fields_of(opcode):
            entry: dict[str, Any] = {"name": field.name, "lsb": position, "width": field.width, "doc": field.doc}
            if field.enum is not None:
                entry["values"] = {member.name: int(member) for member in field.enum}
            fields.append(entry)
            position += field.width
        instructions[opcode.name] = (int(opcode), fields)
    return instructions


def _registers(config: MachineConfig) -> list[dict[str, Any]]:
    entries = [register.to_dict() for register in register_map(config)]
    for entry in entries:
        if entry["name"] == "ERROR_CODE":
            entry["fields"][0]["values"] = {code.name: int(code) for code in ErrorCode}
    return entries


def c_header(config: MachineConfig) -> str:
    """Return the C header of one machine: configuration, register map and instruction formats."""
    return render_header(_registers(config), isa_description(), config.to_dict())


def generate(config: MachineConfig, out_dir: str | Path) -> tuple[EmittedDesign, Mapping[str, Any]]:
    """Write one machine into a directory and return the design and its manifest.

    Parameters
    ----------
    config : MachineConfig
        The machine.
    out_dir : path
        Output directory; files change only when their contents do.

    Raises
    ------
    EmitError
        If the output directory cannot be used.
    """
    design = emit(Machine(config), TOP)
    manifest = write(
        design,
        out_dir,
        config=config.to_dict(),
        registers=_registers(config),
        extra={"include/a3d.h": c_header(config)},
    )
    return design, manifest
