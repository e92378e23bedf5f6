# SPDX-License-Identifier: Apache-2.0
"""The section of ``docs/results.md`` on FPGA and standard-cell flows, from the report of ``a3d bench flows``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["flows_lines"]

SHOWN = 15
"""Blocks of each target."""

_COLUMNS = (
    "preset", "flow", "MHz", "ns", "logic + wires", "LUT4", "FF", "DP16KD", "MULT18", "area mm2", "seconds",
    "from", "to", "block",
)  # fmt: skip


def flows_lines(data: dict[str, Any]) -> list[str]:
    """Return the section's lines: a row for each target (before, if known, and now), then the worst blocks of each."""
    rows = []
    for target in data["targets"]:
        before = target.get("before")
        if before:
            rows.append(_row(before, f"{target['flow']}, before"))
        rows.append(_row(target, target["flow"]))
    libraries = ", ".join(f"`{flow}` is {library}" for flow, library in data["libraries"].items())
    lines = [
        f"`ecp5`: {data['part']}, speed grade {data['options']['speed']}, after routing, placed for "
        f"{data['options']['mhz']:g} MHz with seed {data['options']['seed']}. Standard cells: after synthesis, no "
        f"wires, memories as flip-flops at their pins{'; ' + libraries if libraries else ''}. `generic`: levels of "
        "gates, no times. What is counted: [flows.md](flows.md).",
        "",
        *_table(_COLUMNS, rows),
    ]
    for target in data["targets"]:
        blocks = target["blocks"][:SHOWN]
        if blocks:
            lines += ["", f"`{target['preset']}`, {target['flow']}: the worst path that ends in each block:", ""]
            lines += _table(
                ("block", "ns", "logic", "wires", "from", "to"),
                [[b["block"], _ns(b["ns"]), _ns(b["logic_ns"]), _ns(b["routing_ns"]), _name(b["from"]), _name(b["to"])]
                 for b in blocks],
            )  # fmt: skip
    for left in data["left_out"]:
        lines += ["", f"Left out: `{left['preset']}`, {left['flow']}: {left['reason']}."]
    return lines


def _row(target: dict[str, Any], flow: str) -> list[str]:
    path = target["critical_path"] or {}
    parts = "-" if path.get("logic_ns") is None else f"{_ns(path['logic_ns'])} + {_ns(path['routing_ns'])}"
    levels = "" if target.get("levels") is None else f"{target['levels']} gates"
    area = target["area_um2"]
    return [
        target["preset"], flow, _ns(target["fmax_mhz"], 1), levels or _ns(path.get("ns")), parts,
        *(_number(target[key]) for key in ("luts", "ffs", "brams", "dsps")),
        "-" if area is None else f"{area / 1e6:.3f}", _number(target["seconds"]),
        _name(path.get("from")), _name(path.get("to")), path.get("block") or "-",
    ]  # fmt: skip


def _ns(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{round(value):,}"


def _name(value: str | None) -> str:
    return f"`{value}`" if value else "-"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows)]
