# SPDX-License-Identifier: Apache-2.0
"""The picture of a generation's tokens: when each sequence got each of its tokens, and how long it waited for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hdl.scratch import whole_file

__all__ = ["PHASE_COLOURS", "draw_tokens"]

PHASE_COLOURS = {"prefill": "C0", "mixed": "C1", "decode": "C2"}
"""Of the kinds of steps, in all pictures."""

MOST_ROWS = 64
"""Sequences that have a row of their own height; more share the picture's."""


def draw_tokens(report: dict[str, Any], path: Path) -> None:
    """Draw the tokens of every sequence over the machine's clock, and below the time from token to token.

    Parameters
    ----------
    report : dict
        Of `sim.view.report.Tally`, of an engine that has time.
    path : Path
        The picture.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    config, sequences = report["config"], report["sequences"]
    rows = min(MOST_ROWS, len(sequences))
    figure = Figure(figsize=(11, 4.6 + 0.16 * rows), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1.2 + 0.16 * rows, 2.4))
    for number, own in enumerate(sequences):
        cycles = own["token_cycles"]
        if not cycles:
            continue
        above.plot([own["arrival"], cycles[0]], [number, number], color="0.6", linewidth=1)
        above.plot(cycles, [number] * len(cycles), color="black", linewidth=0.6, marker="|", markersize=5)
    known = [(number, own) for number, own in enumerate(sequences) if own["token_cycles"]]
    numbers = [number for number, _ in known]
    above.plot([s["arrival"] for _, s in known], numbers, ">", color="C3", markersize=4, label="arrives")
    above.plot([s["token_cycles"][0] for _, s in known], numbers, "o", color="black", markersize=3, label="first token")
    above.plot([], [], color="black", marker="|", linewidth=0.6, label="further tokens")
    for _, own in known:
        below.plot(own["token_cycles"][1:], np.diff(own["token_cycles"]), "o", color="black", markersize=2.5, alpha=0.5)
    for axes in (above, below):
        _shade_steps(axes, report["steps"])
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    above.set(ylabel="sequence", ylim=(len(sequences) - 0.4, -0.6))
    above.yaxis.set_major_locator(MaxNLocator(integer=True))
    below.set(xlabel="clock cycles, idle ones included", ylabel="cycles since the\ntoken before", ylim=(0, None))
    below.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    below.grid(axis="y", alpha=0.3)
    figure.legend(*above.get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=9, frameon=False)
    title = f"{report['tokens']} tokens of {len(sequences)} sequences on {config['name']}"
    times = report["between_tokens"]
    if times:
        title += f"; from token to token: half within {times['p50']:,.0f} cycles, all within {times['max']:,.0f}"
    figure.suptitle(f"{title}; batching {report['batching']}", fontsize=11)
    with whole_file(path) as scratch:
        figure.savefig(scratch, dpi=110)


def _shade_steps(axes: Any, steps: list[dict[str, Any]]) -> None:
    """Colour the background where a step runs, by its phase."""
    for phase, colour in PHASE_COLOURS.items():
        spans = [(s["start"], s["cycles"]) for s in steps if s["phase"] == phase]
        if spans:
            axes.broken_barh(
                spans, (0, 1), transform=axes.get_xaxis_transform(), facecolors=colour, alpha=0.18, edgecolors="white",
                linewidth=0.3, label=f"{phase} step", zorder=0,
            )  # fmt: skip
