# SPDX-License-Identifier: Apache-2.0
"""Energy by component: rows of a table, and a picture of stacked bars with the band of the energy table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hdl.scratch import whole_file
from scheduler.cost.energy.energy import COMPONENTS

__all__ = ["COMPONENT_COLUMNS", "component_rows", "draw_energy"]

COMPONENT_COLUMNS = ("component", "pJ", "low", "high", "of it")
SMALLEST = 0.01
"""Part of the highest bar below which a component has no colour of its own."""


def component_rows(energy: Mapping[str, Any], tokens: int = 1) -> list[list[Any]]:
    """Return the rows of a table with `COMPONENT_COLUMNS`, the total last.

    Parameters
    ----------
    energy : dict
        Of :meth:`scheduler.cost.energy.energy.Energy.to_dict`.
    tokens : int
        Energies are divided by it.
    """
    total = energy["total_pj"]
    parts = [*energy["components_pj"].items(), ("total", total)]
    return [
        [name, *(band[key] / tokens for key in ("value", "low", "high")),
         f"{100 * band['value'] / total['value']:.1f} %" if total["value"] else "-"]
        for name, band in parts
    ]  # fmt: skip


def draw_energy(bars: Sequence[tuple[str, Mapping[str, Any], int]], title: str, path: Path) -> None:
    """Draw energies by component, a bar each, with a line from the low to the high total.

    Parameters
    ----------
    bars : sequence of (str, dict, int)
        Name, energy (see `component_rows`), and the tokens that it is divided by.
    title : str
    path : Path
        The picture.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(6.5, 1.1 * len(bars) + 4.5), 4.8), layout="constrained")
    axes = figure.subplots()
    colours = colormaps["tab20"]
    values = {name: [e["components_pj"][name]["value"] / n for _, e, n in bars] for name in COMPONENTS}
    totals = [{key: e["total_pj"][key] / n for key in ("value", "low", "high")} for _, e, n in bars]
    most = max((total["value"] for total in totals), default=0.0)
    bottom, rest = [0.0] * len(bars), [0.0] * len(bars)
    places = list(range(len(bars)))
    for number, (name, own) in enumerate(values.items()):
        if max(own) < SMALLEST * most:
            rest = [a + b for a, b in zip(rest, own, strict=True)]
            continue
        axes.bar(places, own, 0.6, bottom=bottom, color=colours(number), label=name)
        bottom = [a + b for a, b in zip(bottom, own, strict=True)]
    axes.bar(places, rest, 0.6, bottom=bottom, color="0.7", label="all others")
    bands = [[t["value"] - t["low"] for t in totals], [t["high"] - t["value"] for t in totals]]
    axes.errorbar(places, [t["value"] for t in totals], yerr=bands, fmt="none", ecolor="black", capsize=4)
    axes.set_xticks(places, [name for name, _, _ in bars], rotation=20 if len(bars) > 4 else 0, fontsize=8)
    axes.set_ylabel("pJ per token" if any(n > 1 for _, _, n in bars) else "pJ")
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    figure.legend(loc="outside right upper", fontsize=8, reverse=True)
    axes.set_title(title, fontsize=10)
    with whole_file(path) as scratch:
        figure.savefig(scratch, dpi=110)
