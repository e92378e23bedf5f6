# SPDX-License-Identifier: Apache-2.0
"""Instructions that the machine refuses, one for each rule of :mod:`hdl.isa`: the instruction pages show them."""

from __future__ import annotations

from collections.abc import Mapping

from hdl.config import PRESETS, MachineConfig
from hdl.isa import Limits, Opcode, Violation, check_instruction
from hdl.isa.asm import assemble_line

__all__ = ["ILLEGAL", "MACHINES", "violation_of"]

MACHINES: Mapping[str, MachineConfig] = {
    "tiny": PRESETS["tiny"],
    "edge": PRESETS["tiny"].replace(name="edge", stationary_feed="edge"),
    "no links": PRESETS["tiny"].replace(name="nolinks", vertical_links=False),
    "wide": PRESETS["large"].replace(name="wide", rows=256, columns=256, row_fifo_depth=1100),
}
"""Machines by the name that the pages give them."""

_GEMM = "gemm tokens=1 k_slices=1 n_tiles=1"
_VECTOR = "vector vectors=1 rows=1"
_ROUTE = "route tokens=1 choices=1 experts=4"

ILLEGAL: Mapping[Opcode, tuple[tuple[str, str], ...]] = {
    Opcode.NOP: (("tiny", "nop wait=s1"), ("tiny", "nop post=s1")),
    Opcode.END: (("tiny", "end wait=s1"), ("tiny", "end post=s1")),
    Opcode.LOAD: (
        ("tiny", "load dest_kind=list format=high dest_tiers=0 count=1"),
        ("edge", "load format=columns dest_tiers=0 count=1"),
        ("tiny", "load dest_kind=rows dest_tiers=0 count=1"),
        ("tiny", "load count=1"),
        ("tiny", "load dest_tiers=0 count=1 shift=1"),
        ("tiny", "load dest_kind=rows count=1 shift=17"),
        ("tiny", "load dest_tiers=0"),
        ("tiny", "load dest_kind=list dest_tiers=0 count=1 slot_en=1"),
        ("tiny", "load dest_tiers=0 count=1 slot_en=1 scored=1"),
        ("tiny", "load dest_tiers=0 count=1 slot_en=1 slot=16"),
        ("tiny", "load dest_tiers=2 count=1"),
        ("tiny", "load dest_tiers=0 dest=255 count=2"),
        ("tiny", "load dest_tiers=0 count=2 addr=0x7fffff"),
    ),
    Opcode.STORE: (
        ("tiny", "store"),
        ("tiny", "store rows=2 row=510 row_gap=1"),
        ("tiny", "store rows=1 offset=2"),
        ("tiny", "store rows=2 format=int32 addr=0x7fffff"),
    ),
    Opcode.GEMM: (
        ("tiny", f"{_GEMM} tiers=1..2 mapping=m"),
        ("tiny", f"{_GEMM} tiers=0..1"),
        ("no links", f"{_GEMM} tiers=0..1 mapping=k"),
        ("tiny", "gemm tokens=1 k_slices=1"),
        ("tiny", f"{_GEMM} shift=48"),
        ("tiny", f"{_GEMM} mode=requant16"),
        ("tiny", f"{_GEMM} mode=swiglu dest_kind=combine"),
        ("tiny", f"{_GEMM} tiers=0..1 mapping=k act_list=1 slot_en=1"),
        ("tiny", f"{_GEMM} slot_en=1"),
        ("tiny", f"{_GEMM} act_list=1 slot_en=1 slot=16"),
        ("tiny", f"{_GEMM} dest_tiers=2"),
        ("tiny", "gemm tokens=33 k_slices=1 n_tiles=2 order=n_inner"),
        ("tiny", f"{_GEMM} vcache=256"),
        ("tiny", f"{_GEMM} act=512"),
        ("tiny", f"{_GEMM} act_list=1 list=128"),
        ("tiny", f"{_GEMM} param=128"),
        ("tiny", f"{_GEMM} dest=512"),
    ),
    Opcode.VECTOR: (
        ("tiny", "vector rows=1 dest_kind=rows"),
        ("tiny", f"{_VECTOR} op=scale sum=sum dest_kind=rows"),
        ("tiny", f"{_VECTOR} op=mul b_rows=2 dest_kind=rows"),
        ("tiny", "vector op=gather vectors=1 rows=1 dest_kind=rows"),
        ("tiny", f"{_VECTOR} op=gather length=2 masked=1 dest_kind=rows"),
        ("wide", "vector op=argmax first=1 vectors=1 rows=257"),
        ("tiny", f"{_VECTOR} op=max dest_kind=rows"),
        ("tiny", f"{_VECTOR}"),
        ("tiny", f"{_VECTOR} dest_kind=rows dest_tiers=0"),
        ("tiny", f"{_VECTOR} op=gather length=2 dest_kind=activation dest_tiers=0"),
        ("tiny", f"{_VECTOR} dest_kind=activation dest_tiers=0 bits=bits16"),
        ("tiny", f"{_VECTOR} dest_kind=activation"),
        ("tiny", f"{_VECTOR} a=512 dest_kind=rows"),
        ("tiny", f"{_VECTOR} op=mul b=512 b_rows=1 dest_kind=rows"),
        ("tiny", f"{_VECTOR} op=scale s=256 dest_kind=rows"),
        ("tiny", f"{_VECTOR} op=sumsq d_scalar=256"),
        ("tiny", f"{_VECTOR} dest=512 dest_kind=rows"),
    ),
    Opcode.ROUTE: (
        ("tiny", "route choices=1 experts=4"),
        ("tiny", "route tokens=1 choices=9 experts=4"),
        ("tiny", "route tokens=1 choices=1"),
        ("tiny", f"{_ROUTE} slot_base=13"),
        ("tiny", f"{_ROUTE} s=256"),
        ("tiny", f"{_ROUTE} a=512"),
        ("tiny", f"{_ROUTE} list=128"),
        ("tiny", f"{_ROUTE} source=512"),
        ("tiny", f"{_ROUTE} dest=512"),
    ),
}
"""Of each opcode: a machine's name and a line that its rules do not allow."""


def violation_of(machine: str, line: str) -> Violation:
    """Return what a machine says of an illegal line.

    Raises
    ------
    ValueError
        The line is legal.
    """
    config = MACHINES[machine]
    instruction = assemble_line(line, {})
    wrong = None if instruction is None else check_instruction(instruction, config, Limits.whole(config))
    if wrong is None:
        raise ValueError(f"legal on {machine}: {line}")
    return wrong
