# SPDX-License-Identifier: Apache-2.0
"""The section of ``docs/results.md`` on bytes of experts, from the report of ``a3d bench bytes``."""

from __future__ import annotations

from typing import Any

__all__ = ["bytes_lines"]

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
        "held-out text, from `a3d bench quality --frontier`.",
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
