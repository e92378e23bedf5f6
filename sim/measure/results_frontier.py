# SPDX-License-Identifier: Apache-2.0
"""Renders the frontier of bytes against loss for ``docs/results.md``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["frontier_lines"]


def frontier_lines(data: Mapping[str, Any]) -> list[str]:
    """Return the lines of the section.

    Parameters
    ----------
    data : mapping
        What `FrontierBench.result` returned.
    """
    lines = [
        f"{data['bytes_evaluated']:,} bytes in windows of {data['window']}, calibrated on "
        f"{data['calibration_bytes']:,} others; reach {data['reach']}. *Perplexity*: per cent per byte over full "
        f"precision in the same integers ({data['full_bits_per_byte']:.4f} bits per byte). *Further*: by how much "
        "predictions are further from the float model's than those of full precision are (Kullback-Leibler divergence, "
        "as per cent of perplexity): where the float model is right, the same loss with less noise. Standard errors "
        "over windows.",
        "",
        "| batch | policy | asked | expert bytes saved | perplexity | further |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    order = {name: n for n, name in enumerate(dict.fromkeys(p["policy"] for p in data["points"]))}
    for p in sorted(data["points"], key=lambda p: (p["batch"], order[p["policy"]], p["expert_bytes_saved_percent"])):
        asked = "-" if p["budget_percent"] is None else f"{p['budget_percent']:g} %"
        figures = [f"{p[name]:.2f} +- {p[f'{name}_error']:.2f} %" for name in ("loss_percent", "further_percent")]
        cells = [str(p["batch"]), p["policy"], asked, f"{p['expert_bytes_saved_percent']:.1f} %", *figures]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "| batch | bytes saved | may cost | costs | reached | controls that lose less | controls nearer to float |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for t in data["targets"]:
        if t["reached"] is None:
            continue
        lists = [", ".join(t[name]) or "none" for name in ("controls_that_lose_less", "controls_that_are_nearer")]
        cells = [
            str(t["batch"]), f"{t['saved_percent']:g} %", f"{t['allowed_percent']:g} %", f"{t['loss_percent']:.2f} %",
            "yes" if t["reached"] else "no", *lists,
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return lines
