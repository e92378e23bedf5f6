# SPDX-License-Identifier: Apache-2.0
"""The sections of ``docs/results.md`` on all ideas together: on the machine, and on published shapes."""

from __future__ import annotations

from typing import Any

__all__ = ["shapes_lines", "together_lines"]

_COLUMNS = (
    "batch", "on", "cycles a step", "over all", "bytes a step", "over all", "energy a token (nJ)", "over all",
    "perplexity",
)  # fmt: skip


def together_lines(data: dict[str, Any]) -> list[str]:
    """Return the section's lines: what all ideas, none, and all but each one take."""
    memory = data["system"]["memory"]
    where = f"{memory['hbm']['name']} at {memory['mhz']:g} MHz" if "hbm" in memory else "a constant latency"
    steps = max((p["steps"] for p in data["points"]), default=0)
    lines = [
        f"Configuration `{data['config']['name']}`, model {data['model']}, memories with {where}, emitted Verilog; "
        f"{data['mismatched_bytes']} of {data['compared_bytes']:,} bytes differ from the executor's. Means of {steps} "
        "decode steps whose routing the host knows, after one that is not counted. *Nothing*: the sequential plan, no "
        "weights that stay, all experts with both planes, planes in both groups in turns. Scores: thresholds that save "
        f"{data['budget_percent']:g} % of the experts' bytes. Perplexity: of held-out text, from "
        "`a3d bench quality --frontier`.",
        "", "| " + " | ".join(_COLUMNS) + " |", "|" + " --- |" * len(_COLUMNS),
    ]  # fmt: skip
    for p in sorted(data["points"], key=lambda p: (p["batch"], p["cycles_per_step"])):
        cells = (
            str(p["batch"]), p["ideas"], f"{p['cycles_per_step']:,.0f}", f"{p['cycles_over_all']:.2f}",
            f"{p['bytes_per_step']:,.0f}", f"{p['bytes_over_all']:.2f}", f"{p['pj_per_token'] / 1000:,.0f}",
            f"{p['pj_over_all']:.2f}", f"{p['loss_percent']:+.2f} %",
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def shapes_lines(data: dict[str, Any]) -> list[str]:
    """Return the lines of the section on published shapes."""
    memory = data["system"]["memory"]
    where = f"{memory['hbm']['name']} at {memory['mhz']:g} MHz" if "hbm" in memory else "a constant latency"
    columns = ("model", "on", "experts' bytes saved", "cycles", "over all", "energy a token (uJ)", "over all", "plan")
    lines = [
        f"Configuration `{data['config']['name']}`, cycle model, memories with {where}: a decode step of "
        f"{data['batch']} sequences at {data['keys']:,} keys, {data['layers']} layers with the embedding and the head. "
        "Weights stream, so that none stay; router scores are drawn, and thresholds leave "
        f"{data['budget_percent']:g} % of the chosen experts' bytes unread. What such thresholds cost is known of the "
        "demo model alone: see the sections on its bytes.",
        "", "| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns),
    ]  # fmt: skip
    for p in data["points"]:
        cells = (
            p["model"], p["ideas"], f"{p['expert_bytes_saved_percent']:.1f} %", f"{p['cycles']:,}",
            f"{p['cycles_over_all']:.2f}", f"{p['pj_per_token'] / 1e6:,.0f}", f"{p['pj_over_all']:.2f}", p["plan"],
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return lines
