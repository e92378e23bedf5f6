# SPDX-License-Identifier: Apache-2.0
"""Pictures of a generation: cycles of steps, times of tokens, where the units' cycles went, timelines of steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hdl.config import MachineConfig
from hdl.scratch import whole_file
from scheduler.serving.batcher import PHASES
from sim.view.pictures import draw_cycles, draw_timeline
from sim.view.report import Tally
from sim.view.tokens import PHASE_COLOURS, draw_tokens

__all__ = ["PICTURES", "draw_steps", "write_pictures"]

PICTURES = ("steps.png", "tokens.png", "cycles.png", *(f"timeline_{phase}.png" for phase in (*PHASES, "other")))
"""Files that `write_pictures` may write."""


def write_pictures(report: dict[str, Any], tally: Tally, config: MachineConfig, folder: Path) -> list[Path]:
    """Draw a generation into a folder and return the files.

    ``steps.png`` has the cycles of every step, ``tokens.png`` when each sequence got its tokens, ``cycles.png`` where
    the units' cycles went in each phase, and ``timeline_<phase>.png`` the first step of a phase that was traced;
    ``other`` is a step by another policy. An engine without time gives no pictures.

    Parameters
    ----------
    report : dict
        From `tally`.
    tally : Tally
        All steps.
    config : MachineConfig
        The machine.
    folder : path
        Where the files go.
    """
    if report["total"]["cycles"] is None:
        return []
    files = [folder / "steps.png", folder / "tokens.png", folder / "cycles.png"]
    draw_steps(report, files[0])
    draw_tokens(report, files[1])
    with whole_file(files[2]) as scratch:
        draw_cycles(tally.counters, config, scratch)
    for phase, traced in tally.timelines.items():
        files.append(folder / f"timeline_{phase}.png")
        with whole_file(files[-1]) as scratch:
            draw_timeline(traced, config, scratch)
    return files


def draw_steps(report: dict[str, Any], path: Path) -> None:
    """Draw cycles and PE utilisation of every step.

    Parameters
    ----------
    report : dict
        Of `sim.view.report.Tally`, of an engine that has time.
    path : Path
        The picture.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    config, steps = report["config"], report["steps"]
    pes = config["tiers"] * config["rows"] * config["columns"]
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for phase in PHASES:
        own = [s for s in steps if s["phase"] == phase]
        if not own:
            continue
        numbers = [s["number"] for s in own]
        use = [100 * s["macs"] / (pes * s["cycles"]) for s in own]
        left.bar(numbers, [s["cycles"] for s in own], color=PHASE_COLOURS[phase], label=phase)
        right.bar(numbers, use, color=PHASE_COLOURS[phase], label=phase)
    for axes, label in ((left, "cycles"), (right, "PE utilisation (%)")):
        axes.set(xlabel="step", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y", alpha=0.3)
        axes.legend(fontsize=9)
    right.set_ylim(0, 100)
    figure.suptitle(
        f"{report['tokens']} tokens of text in a batch of {report['batch']} on {config['name']}: {config['tiers']} x "
        f"{config['rows']} x {config['columns']} PEs, RTL simulation"
    )
    with whole_file(path) as scratch:
        figure.savefig(scratch, dpi=110)
