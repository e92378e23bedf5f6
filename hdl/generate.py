# SPDX-License-Identifier: Apache-2.0
"""From a configuration to a directory: Verilog, file list, manifest, C header, description of the stack, packages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hdl.array.bonds import describe_stack
from hdl.capabilities import VERSION
from hdl.config import MachineConfig
from hdl.emit.blox import DBV, DBX, bond_entries, die_entries, render_dbv, render_dbx
from hdl.emit.design import EmittedDesign
from hdl.emit.files import check_output
from hdl.emit.fpga_constraints import LPF, XDC, render_lpf, render_xdc
from hdl.emit.fusesoc import CORE, bench_file, render_bench, render_core
from hdl.emit.header import render_header
from hdl.emit.hierarchy import check_prefix
from hdl.emit.rdl import RDL, render_rdl
from hdl.emit.sdc import DEFAULT_MHZ, SDC, Constraints, render_sdc
from hdl.emit.verilog import emit, write
from hdl.emit.vivado import port_attributes, with_port_attributes
from hdl.isa import OPCODES, fields_of
from hdl.machine import Machine
from hdl.regs import register_map

__all__ = ["TOP", "c_header", "generate", "isa_description"]

TOP = "a3d_top"
"""Name of the generated top module."""

INTERRUPT = "irq"
"""Name of its interrupt."""


def isa_description() -> dict[str, tuple[int, list[dict[str, Any]]]]:
    """Return every instruction's opcode and fields (name, lsb, width, doc) for the C header."""
    instructions = {}
    for opcode in OPCODES:
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
    return [register.to_dict() for register in register_map(config)]


def c_header(config: MachineConfig, prefix: str = "") -> str:
    """Return the C header of one machine: configuration, register map and instruction formats.

    Every macro, the include guard among them, begins with ``A3D_``, after a prefix with that in upper case.
    """
    return render_header(_registers(config), isa_description(), config.to_dict(), prefix=f"{check_prefix(prefix)}A3D")


def generate(
    config: MachineConfig,
    out_dir: str | Path,
    *,
    prefix: str = "",
    vivado_attributes: bool = False,
    clock_mhz: float = DEFAULT_MHZ,
) -> tuple[EmittedDesign, Mapping[str, Any]]:
    """Write one machine into a directory and return the design and its manifest.

    Parameters
    ----------
    config : MachineConfig
        The machine.
    out_dir : path
        Output directory; files change only when their contents do.
    prefix : str
        Stands, with a ``_``, before the name of every module, Verilog file, macro and the C header, so that several
        machines fit into one project: lower-case letters, digits and single ``_``.
    vivado_attributes : bool
        Put attributes on the ports of the top that say which bus each belongs to.
    clock_mhz : float
        Clock that the constraints ask for; the Verilog does not depend on it.

    Raises
    ------
    EmitError
        If prefix or clock is none, or the output directory cannot be used.
    """
    stem = check_prefix(prefix)
    constraints = Constraints(clock_mhz)
    header = f"include/{stem}a3d.h"
    check_output(out_dir)
    design = emit(Machine(config), TOP, prefix=prefix)
    if vivado_attributes:
        design = with_port_attributes(design, port_attributes(design.ports, INTERRUPT))
    stack = describe_stack(config)
    registers = _registers(config)
    manifest = write(
        design,
        out_dir,
        config=config.to_dict(),
        registers=registers,
        extra={
            header: c_header(config, prefix),
            design.top + DBV: render_dbv(design.top, stack),
            design.top + DBX: render_dbx(design.top, stack),
            SDC: render_sdc(design.ports, constraints),
            XDC: render_xdc(design.ports, constraints),
            LPF: render_lpf(constraints),
            stem + RDL: render_rdl(registers, f"{stem}a3d", f"A3D-MoE {config.name}"),
            CORE: render_core(design, VERSION),
            bench_file(design): render_bench(design, registers),
        },
        header=header,
        stack={"dies": die_entries(design.top, stack, stem=stem), "bonds": bond_entries(stack)},
    )
    return design, manifest
