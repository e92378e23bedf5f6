# SPDX-License-Identifier: Apache-2.0
"""Picture of bytes against loss: a column for each batch, the measured loss above, its less noisy companion below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hdl.scratch import whole_file

__all__ = ["draw_frontier"]

STYLES: Mapping[str, tuple[str, str]] = {
    "score": ("#2e7d32", "o-"),
    "tokens alone": ("#8bc34a", "v:"),
    "random": ("#9e9e9e", "s--"),
    "least used": ("#ffb300", "^--"),
    "static int4": ("#e53935", "D"),
    "high planes": ("#2e7d32", "*"),
    "uniform 6 bit": ("#1e88e5", "P"),
    "uniform 5 bit": ("#8e24aa", "X"),
    "rounded to the nearest": ("#000000", "+"),
}
"""Colours and marks of the policies."""

ROWS = (
    ("loss_percent", "perplexity over full precision (%)"),
    ("further_percent", "further from the float model (%)"),
)


OTHERS = tuple(name for name in STYLES if name != "score")
"""What the scale is made for: thresholds that cannot do what is asked of them may lie far above."""


def draw_frontier(points: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw points of `FrontierBench` with their standard errors; the file's suffix says which kind of picture."""
    from matplotlib.figure import Figure

    batches = sorted({p["batch"] for p in points})
    figure = Figure(figsize=(5 * len(batches), 8), layout="constrained")
    axes = figure.subplots(len(ROWS), len(batches), squeeze=False, sharex=True, sharey="row")
    for (field, _), row in zip(ROWS, axes, strict=True):
        most = max((p[field] + p[f"{field}_error"] for p in points if p["policy"] in OTHERS), default=1.0)
        least = min((p[field] - p[f"{field}_error"] for p in points), default=0.0)
        row[0].set_ylim(min(0.0, 1.1 * least), max(1.4 * most, 0.1))
    for column, batch in enumerate(batches):
        for row, (field, label) in enumerate(ROWS):
            own = axes[row][column]
            for policy, (colour, mark) in STYLES.items():
                found = sorted(
                    (p["expert_bytes_saved_percent"], p[field], p[f"{field}_error"])
                    for p in points
                    if p["policy"] == policy and p["batch"] == batch
                )
                if found:
                    saved, value, error = zip(*found, strict=True)
                    own.errorbar(saved, value, error, fmt=mark, color=colour, label=policy, capsize=2)
            own.grid(alpha=0.3)
            own.axhline(0, color="#000000", linewidth=0.5)
            own.set_xlabel("bytes of experts saved (%)" if row else "")
            own.set_ylabel("" if column else label)
        axes[0][column].set_title(f"batch {batch}")
    shown = {text: line for own in axes[0] for line, text in zip(*own.get_legend_handles_labels(), strict=True)}
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=len(shown))
    with whole_file(path) as file:
        figure.savefig(file, dpi=120)
