# SPDX-License-Identifier: Apache-2.0
"""The section of ``docs/results.md`` on energy, from the report of ``a3d bench energy``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["energy_lines"]


def energy_lines(data: dict[str, Any]) -> list[str]:
    """Return the section's lines: nJ per token by component with their bands, then the energy table."""
    points, table = data["points"], data["table"]
    columns = ["nJ per token", *(f"{p['phase']} {p['batch']}, {p['source']}" for p in points)]
    rows = [
        [name, *(_band(p["components_pj_per_token"][name]) for p in points)]
        for name in points[0]["components_pj_per_token"]
    ]
    rows += [
        ["**total**", *(_band(p["pj_per_token"]) for p in points)],
        ["cycles", *(f"{p['cycles']:,}" for p in points)],
        ["bytes off chip per token", *(f"{round(p['bytes_per_token']):,}" for p in points)],
    ]
    lines = [
        f"Configuration `{data['config']['name']}` at {data['mhz']:g} MHz, model {data['model']}, routing "
        f"`{data['routing']}`, policy `{data['system']['policy']}` without residency, energy table `{table['name']}`. "
        "In brackets what all low and all high values of the table give. Prefill: per token of the prompt. HBM's "
        "activates and refreshes are derived from addresses and time.",
        "", *_table(columns, rows), "", "The energy table:", "",
    ]  # fmt: skip
    entries = [
        [f"`{name}`", f"{e['value']:g}", f"{e['low']:g}", f"{e['high']:g}", e["unit"], e["technology"], e["source"]]
        for name, e in table.items()
        if name != "name"
    ]
    return lines + _table(("entry", "value", "low", "high", "unit", "technology", "source"), entries)


def _band(band: dict[str, float]) -> str:
    value, low, high = (band[key] / 1000 for key in ("value", "low", "high"))
    return f"{value:,.1f} ({low:,.1f} to {high:,.1f})"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows)]
