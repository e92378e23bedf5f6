# SPDX-License-Identifier: Apache-2.0
"""Pictures of a generation: cycles of every step, and where the units' cycles went."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sim.files import whole_file
from sim.text.report import PHASES

__all__ = ["draw_generation"]

_COLOURS = {"prefill": "C0", "decode": "C2"}
_LEAST_SHARE = 0.01
"""Smaller shares of a unit's cycles are drawn together."""


def draw_generation(report: dict[str, Any], path: Path) -> None:
    """Draw cycles and PE utilisation of every step, and for both phases what every unit did.

    Parameters
    ----------
    report : dict
        From `sim.text.report.summarise`, of an engine that has time.
    path : Path
        The picture.
    """
    from matplotlib.figure import Figure

    phases = [phase for phase in PHASES if report[phase]["steps"]]
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    axes = figure.subplots(1, 1 + len(phases), width_ratios=[1.3] + [1.0] * len(phases))
    steps = axes[0]
    pes = report["config"]["tiers"] * report["config"]["rows"] * report["config"]["columns"]
    for phase in phases:
        own = [s for s in report["steps"] if s["phase"] == phase]
        steps.bar([s["number"] for s in own], [s["cycles"] for s in own], color=_COLOURS[phase], label=phase)
    steps.set_xlabel("step")
    steps.set_ylabel("cycles")
    steps.grid(axis="y", alpha=0.3)
    steps.legend(loc="upper left", fontsize=8)
    share = steps.twinx()
    share.plot(
        [s["number"] for s in report["steps"]],
        [100 * s["macs"] / (pes * s["cycles"]) for s in report["steps"]], "k.", markersize=4, label="PE utilisation",
    )  # fmt: skip
    share.set_ylim(0, 100)
    share.set_ylabel("PE utilisation (%)")
    share.legend(loc="upper right", fontsize=8)
    names = list(dict.fromkeys(_kind(n) for p in phases for own in report[p]["stalls"].values() for n in own))
    for axis, phase in zip(axes[1:], phases, strict=True):
        _draw_units(axis, report[phase]["stalls"], names)
        axis.set_title(f"{phase}: what the units did", fontsize=10)
    handles: dict[str, Any] = {}
    for axis in axes[1:]:
        drawn, labels = axis.get_legend_handles_labels()
        handles |= dict(zip(labels, drawn, strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside right center", fontsize=7)
    config = report["config"]
    figure.suptitle(
        f"{report['tokens']} tokens in a batch of {report['batch']} on {config['name']}: {config['tiers']} x "
        f"{config['rows']} x {config['columns']} PEs, RTL simulation"
    )
    with whole_file(path) as scratch:
        figure.savefig(scratch, dpi=110)


def _kind(counter: str) -> str:
    """Return a counter's name without the group's or the unit's."""
    for prefix in ("load_", "store_", "vector_"):
        counter = counter.removeprefix(prefix)
    return counter.removesuffix("_0").removesuffix("_1")


def _draw_units(axis: Any, units: dict[str, dict[str, int]], names: list[str]) -> None:
    """Draw one stacked bar of 100 % for each unit."""
    from matplotlib import colormaps

    colours = [colormaps["tab20"](n) for n in range(20)]
    for place, own in enumerate(units.values()):
        left, total = 0.0, max(1, sum(own.values()))
        for name, cycles in own.items():
            width = 100 * cycles / total
            if width < 100 * _LEAST_SHARE:
                continue
            kind = _kind(name)
            axis.barh(place, width, left=left, color=colours[names.index(kind) % len(colours)], label=kind)
            left += width
    axis.set_yticks(range(len(units)), list(units), fontsize=8)
    axis.set_xlim(0, 100)
    axis.set_xlabel("% of cycles")
    axis.invert_yaxis()
