# SPDX-License-Identifier: Apache-2.0
"""Lattice ECP5: mapping with Yosys, what the parts have, and whether a design fits one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hdl.errors import A3dError
from hdl.flow.mapped import Target
from hdl.flow.wrapper import WRAPPER, wrap
from hdl.flow.yosys import Job, run_jobs

__all__ = [
    "DEFAULT_PART", "MAPPING", "PARTS", "Ecp5", "Part", "Resources", "check_fit", "flatten", "part_of", "too_much",
    "write_netlist",
]  # fmt: skip

DEFAULT_PART = "LFE5U-85F"
NETLIST = "top.json"
"""Name of the flat netlist in the folder of a run."""

NETLIST_VERILOG = "netlist.v"
"""Name of the same for a simulation."""


@dataclass(frozen=True)
class Resources:
    """What a design takes of a part, or what a part has.

    Attributes
    ----------
    luts : int
        LUT4 of logic.
    carries : int
        Carry cells of two bits (CCU2C).
    ffs : int
        Flip-flops.
    brams : int
        Block memories of 18 Kbit (DP16KD).
    dsps : int
        Multipliers of 18 x 18 (MULT18X18D).
    lutrams : int
        Distributed memories of 16 x 4 (TRELLIS_DPR16X4).
    """

    luts: int
    carries: int
    ffs: int
    brams: int
    dsps: int
    lutrams: int

    @classmethod
    def of(cls, cells: Mapping[str, int]) -> Resources:
        """Return what counts by cell type take."""
        return cls(
            luts=cells.get("LUT4", 0),
            carries=cells.get("CCU2C", 0),
            ffs=cells.get("TRELLIS_FF", 0),
            brams=cells.get("DP16KD", 0),
            dsps=cells.get("MULT18X18D", 0),
            lutrams=cells.get("TRELLIS_DPR16X4", 0),
        )

    @property
    def logic(self) -> int:
        """Places of LUT4 that are taken: by logic, two by each carry cell, four by each distributed memory."""
        return self.luts + 2 * self.carries + 4 * self.lutrams


@dataclass(frozen=True)
class Part:
    """A part.

    Attributes
    ----------
    name : str
        As Lattice calls it.
    option : str
        What nextpnr calls it.
    has : Resources
        What is in it.
    """

    name: str
    option: str
    has: Resources


PARTS = {
    part.name: part
    for part in (
        Part("LFE5U-25F", "--25k", Resources(24_288, 0, 24_288, 56, 28, 0)),
        Part("LFE5U-45F", "--45k", Resources(43_848, 0, 43_848, 108, 72, 0)),
        Part("LFE5U-85F", "--85k", Resources(83_640, 0, 83_640, 208, 156, 0)),
    )
}
"""The parts by name, smallest first."""

_NAMES = {
    "dsps": "MULT18X18D multipliers",
    "brams": "DP16KD block memories",
    "logic": "LUT4 places (logic, carries, distributed memories)",
    "ffs": "flip-flops",
}


MAPPING = "-nowidelut"
"""Option of Yosys' mapping: no multiplexers between LUTs, which take four LUT4 each time that ABC counts one."""


class Ecp5(Target):
    """The cells of the ECP5 family.

    Parameters
    ----------
    lut_products : int
        Products of two operands of at most so many bits are made of LUTs; 0: all by multipliers.
    """

    name = "ECP5"

    def __init__(self, lut_products: int = 0) -> None:
        self.lut_products = lut_products
        self.recipe = f"ecp5 3 {lut_products}"

    def passes(self, name: str) -> list[str]:
        """Return the passes of one module."""
        return [*_products(self.lut_products), f"synth_lattice -family ecp5 {MAPPING} -top {name}"]


def _products(bits: int) -> list[str]:
    """Return the passes that make small products of LUTs, before Yosys gives each a multiplier."""
    if not bits:
        return []
    coarse = ["proc", "opt_expr", "opt_clean", "opt -nodffe -nosdff", "wreduce", "peepopt", "opt_clean"]
    return [*coarse, f"booth t:$mul r:A_WIDTH<={bits} %i r:B_WIDTH<={bits} %i"]


def part_of(name: str) -> Part:
    """Return the part of this name.

    Raises
    ------
    A3dError
        There is none.
    """
    if name.upper() not in PARTS:
        raise A3dError(f"--part {name}: unknown; use {', '.join(PARTS)}")
    return PARTS[name.upper()]


def too_much(need: Resources, part: Part) -> str:
    """Return what a design takes too much of, most of all: empty if it fits."""
    share, field = max((getattr(need, field) / getattr(part.has, field), field) for field in _NAMES)
    return f"{getattr(need, field):,} of {getattr(part.has, field):,} {_NAMES[field]}" if share > 1 else ""


def check_fit(what: str, need: Resources, part: Part) -> None:
    """Check that a design fits a part.

    Raises
    ------
    A3dError
        It does not; the message says what it has too little of.
    """
    much = too_much(need, part)
    if much:
        larger = [name for name, other in PARTS.items() if not too_much(need, other)]
        fix = f"use --part {larger[0]}" if larger else "no ECP5 is larger; use a smaller configuration"
        raise A3dError(f"{what} does not fit {part.name}: {much}; {fix}")


def flatten(texts: Mapping[str, str], top: str, folder: Path, lut_products: int = 0, *, timeout: float) -> None:
    """Write the flat netlist :data:`NETLIST` of a machine in its wrapper into a folder.

    Parameters
    ----------
    texts : mapping of str to str
        Verilog of each module.
    top : str
        The machine.
    folder : Path
        Where to.
    lut_products : int
        See :class:`Ecp5`.
    timeout : float
        Seconds for it.
    """
    (folder / "wrapper.v").write_text(wrap(texts[top]), encoding="utf-8")
    passes = _flat_passes(texts, WRAPPER, folder, ("wrapper.v",), lut_products)
    outputs = (f"write_json {NETLIST}", "tee -q -o cells.json stat -json")
    for _ in run_jobs([Job(top, (*passes, *outputs))], folder, timeout=timeout):
        pass


def write_netlist(
    texts: Mapping[str, str], top: str, folder: Path, lut_products: int = 0, *, timeout: float
) -> Path:  # fmt: skip
    """Write the flat netlist of a machine, without wrapper, as Verilog for a simulation; return the file.

    Every bit is a net of its own, so that no simulator sees loops through the bits of one.

    Parameters
    ----------
    texts, top, folder, lut_products, timeout
        As in :func:`flatten`.
    """
    passes = _flat_passes(texts, top, folder, (), lut_products)
    outputs = ("delete t:$scopeinfo", "splitnets", "opt_clean -purge", f"write_verilog -noattr {NETLIST_VERILOG}")
    for _ in run_jobs([Job(top, (*passes, *outputs))], folder, timeout=timeout):
        pass
    return folder / NETLIST_VERILOG


def _flat_passes(
    texts: Mapping[str, str], top: str, folder: Path, others: tuple[str, ...], lut_products: int
) -> tuple[str, ...]:  # fmt: skip
    """Write the Verilog of a machine and return the passes that map and flatten `top`; `others`: more files."""
    (folder / "machine.v").write_text("\n".join(texts.values()), encoding="utf-8")
    return (
        " ".join(("read_verilog", "machine.v", *others)),
        f"hierarchy -check -top {top}",
        *(["proc", "flatten", *_products(lut_products)] if lut_products else []),
        f"synth_lattice -family ecp5 {MAPPING} -top {top}",
        # What had to keep its hierarchy so as not to be merged has been mapped.
        "setattr -mod -unset keep_hierarchy",
        "flatten",
    )
