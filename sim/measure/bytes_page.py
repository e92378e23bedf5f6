# SPDX-License-Identifier: Apache-2.0
"""The sections of ``docs/results.md`` on bytes of experts, from the reports of ``a3d bench bytes`` and ``balance``."""

from __future__ import annotations

from typing import Any

__all__ = ["balance_lines", "bytes_lines"]

_COLUMNS = (
    "batch", "placement", "routing", "asked", "experts' bytes", "saved", "of all bytes", "of cycles", "of energy",
    "cycles", "imbalance", "perplexity",
)  # fmt: skip


def bytes_lines(data: dict[str, Any]) -> list[str]:
    """Return the section's lines: what each way to run a decode step reads, takes and loses."""
    memory = data["system"]["memory"]
    where = f"{memory['hbm']['name']} at {memory['mhz']:g} MHz" if "hbm" in memory else "a constant latency"
    lines = [
        f"Configuration `{data['config']['name']}`, model {data['model']}, memories with {where}, policy "
        f"`{data['system']['policy']}` without residency, emitted Verilog; {data['mismatched_bytes']} of "
        f"{data['compared_bytes']:,} bytes differ from the executor's. Saved: against both planes of all experts in "
        "the same placement and routing. Imbalance: beats that the busier group reads over the other's. Perplexity: of "
        "held-out text, from `a3d bench quality --frontier`. Cycles, and energy with them, are means of runs that "
        "began at different moments of the refreshes.",
        "", "| " + " | ".join(_COLUMNS) + " |", "|" + " --- |" * len(_COLUMNS),
    ]  # fmt: skip
    for p in sorted(data["points"], key=lambda p: (p["batch"], p["placement"], p["routing"])):
        saved = (f"{p[f'{name}_saved_percent']:.1f} %" for name in ("expert_bytes", "bytes", "cycles", "energy"))
        asked = "both planes" if p["budget_percent"] is None else f"{p['budget_percent']:g} %"
        cells = (
            str(p["batch"]), p["placement"], p["routing"], asked, f"{p['expert_bytes']:,}", *saved, f"{p['cycles']:,}",
            f"{p['imbalance']:.3f}", f"{p['loss_percent']:+.2f} % (error {p['loss_percent_error']:.2f})",
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def balance_lines(data: dict[str, Any]) -> list[str]:
    """Return the section's lines: beats of both groups by placement."""
    columns = (
        "batch", "placement", "experts' bytes saved", "beats, group 0", "group 1", "imbalance", "worst step", "cycles",
    )  # fmt: skip
    lines = [
        f"Configuration `{data['config']['name']}`, {data['layers']} layers of {data['model']} with embedding and "
        f"head, {data['steps']} decode steps at {data['keys']} keys, routing {data['routing']} with drawn gates, "
        f"policy `{data['system']['policy']}`, cycle model. Imbalance: beats of the busier group over the other's, of "
        "all steps together and of the least even one.",
        "", "| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns),
    ]  # fmt: skip
    for p in data["points"]:
        saved = f"{p['saved_percent']:g} %" if p["saved_percent"] else "-"
        cells = (
            str(p["batch"]), p["placement"], saved, *(f"{beats:,}" for beats in p["read_beats"]),
            f"{p['imbalance']:.3f}", f"{p['worst_imbalance']:.3f}", f"{p['cycles']:,}",
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return lines
