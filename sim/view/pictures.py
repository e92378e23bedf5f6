# SPDX-License-Identifier: Apache-2.0
"""Static pictures of timelines and of where the cycles went; ``docs/timeline.md`` says how to read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hdl.config import MachineConfig
from hdl.errors import A3dError
from hdl.isa import queue_names
from hdl.regs import exhaustive_counters, traced_counters
from sim.view.timeline import KINDS, Causes, Slice, TracedStep, full_queues, slices_of, state_of
from sim.view.trace import Trace

__all__ = ["STATES", "draw_cycles", "draw_timeline", "layer_starts", "state_shares"]

KIND_COLOURS = dict(
    zip(
        KINDS, ("#d62728", "#1f77b4", "#17becf", "#2ca02c", "#9467bd", "#e377c2", "#bcbd22", "#7f7f7f"), strict=True
    )
)  # fmt: skip

STATES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "works": (("wave", "read_beats", "write_beats", "rows", "instructions"), "#2e7d32"),
    "rows without a beat, second operand, drain": (("busy", "row_wait", "drain"), "#a5d6a7"),
    "waits for data": (("stall_tag", "starved"), "#e53935"),
    "waits for room (memory, FIFO, queue)": (("stall_credit", "blocked", "full"), "#8e24aa"),
    "waits for the edge feed": (("stall_edge",), "#6d4c41"),
    "waits for the gang": (("wait_gang",), "#1e88e5"),
    "waits for semaphores": (("wait_semaphore", "wait", "semaphore"), "#ffb300"),
    "has nothing to do": (("idle",), "#eceff1"),
}
"""What the states of units mean, with their colours."""

DISPATCHER = "dispatcher"
BINS = 1200
WIDTH, TRACK_INCHES, LETTER_INCHES = 18.0, 0.62, 0.062


def _meaning(state: str) -> str:
    return next(name for name, (states, _) in STATES.items() if state in states)


def _unit(track: str) -> str:
    """Return the unit whose state goes with a track."""
    if track.startswith("tier"):
        return f"tier {track[4:]}"
    if track.startswith("load"):
        return f"load engine {track[4:]}"
    return track if track == DISPATCHER else f"{track} unit"


def state_shares(trace: Trace, config: MachineConfig, unit: str, edges: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Return the share of each bin's cycles that a unit is in each of STATES."""
    shares = {name: np.zeros(len(edges) - 1) for name in STATES}
    for counter in traced_counters(config)[unit]:
        shares[_meaning(state_of(counter, unit))] += trace.shares(counter, edges)
    return shares


def _stack(axes: Any, edges: npt.NDArray[np.int64], shares: Mapping[str, Any], base: float, height: float) -> None:
    """Draw shares on top of each other, filling `height` from `base`."""
    x = np.repeat(edges, 2)[1:-1]
    low = np.full(len(x), base)
    for name, share in shares.items():
        high = low + height * np.repeat(share, 2)
        if share.any():
            axes.fill_between(x, low, high, color=STATES[name][1], linewidth=0)
        low = high


def layer_starts(slices: Sequence[Slice]) -> list[tuple[str, int]]:
    """Return (name, first cycle) of each layer, and of what follows the last, by the first work of the array."""
    gemms = sorted((s for s in slices if s.waves), key=lambda s: s.start)
    starts: dict[str, int] = {}
    for s in gemms:
        starts.setdefault(f"layer {s.layer}" if s.layer >= 0 else s.name, s.start)
    return list(starts.items())


def draw_timeline(
    step: TracedStep, config: MachineConfig, path: Path, *, window: tuple[int, int] | None = None
) -> None:
    """Draw a step: above, what the array does over time; below, a track for each unit.

    Parameters
    ----------
    step : TracedStep
        What ran.
    config : MachineConfig
        The machine that ran.
    path : path
        PNG to write.
    window : (first cycle, cycle after the last), optional
        Part of the step; default: all of it.

    Raises
    ------
    A3dError
        The window is not a part of the step.
    """
    from matplotlib.figure import Figure

    trace = step.trace
    first, end = window or (0, trace.cycles)
    if not 0 <= first < end <= trace.cycles:
        raise A3dError(f"window: cycles {first} to {end}; use a part of 0 to {trace.cycles}")
    edges = np.unique(np.linspace(first, end, min(BINS, end - first) + 1).astype(np.int64))
    slices = slices_of(step, config)
    tracks = [*queue_names(config), DISPATCHER]
    causes = Causes(step, slices)
    figure = Figure(figsize=(WIDTH, 3.4 + TRACK_INCHES * len(tracks)), layout="constrained")
    above, lanes = figure.subplots(2, 1, sharex=True, height_ratios=(2.0, TRACK_INCHES * len(tracks)))
    _draw_array(above, trace, config, edges)
    for place, track in enumerate(tracks):
        _draw_track(lanes, [s for s in slices if s.track == track], place, (first, end), causes)
        _stack(lanes, edges, state_shares(trace, config, _unit(track), edges), place + 0.62, 0.28)
    _draw_dispatcher(lanes, step, config, len(tracks) - 1, (first, end))
    lanes.set(xlim=(first, end), ylim=(len(tracks), -0.08), xlabel="clock cycles since the start of the step")
    lanes.set_yticks([place + 0.45 for place in range(len(tracks))], [_unit(track) for track in tracks])
    lanes.tick_params(axis="y", length=0)
    for place in range(1, len(tracks)):
        lanes.axhline(place - 0.04, color="#b0bec5", linewidth=0.6)
    lanes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    starts = [*layer_starts(slices), ("", trace.cycles)]
    for (name, start), (_, following) in pairwise(starts):
        for axes in (above, lanes):
            axes.axvline(start, color="black", linewidth=0.8, linestyle=(0, (4, 3)))
        low, high = max(start, first), min(following, end)
        if high - low > 1.4 * LETTER_INCHES * len(name) * (end - first) / WIDTH:
            above.text(low, 1.02, f" {name}", fontsize=9, ha="left", va="bottom", transform=above.get_xaxis_transform())
    _legends(figure, {s.kind for s in slices}, trace, config)
    what = f"{step.name}, " if window is None else f"{step.name}, cycles {first:,} to {end:,} of "
    figure.suptitle(
        f"{what}{trace.cycles:,} cycles on {config.name}: {config.tiers} x {config.rows} x {config.columns} PEs, "
        "RTL simulation", fontsize=12,
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _draw_array(axes: Any, trace: Trace, config: MachineConfig, edges: npt.NDArray[np.int64]) -> None:
    """Draw the mean of all tiers' states."""
    # Coarser: the eye wants a level, not every gap.
    coarse = edges[:: max(1, len(edges) // 300)] if len(edges) > 600 else edges
    coarse = np.unique(np.append(coarse, edges[-1]))
    tiers = [state_shares(trace, config, f"tier {tier}", coarse) for tier in range(config.tiers)]
    mean = {name: np.mean([shares[name] for shares in tiers], axis=0) for name in STATES}
    _stack(axes, coarse, {name: 100 * share for name, share in mean.items()}, 0.0, 1.0)
    busy = float(np.average(mean["works"], weights=np.diff(coarse)))
    axes.axhline(100 * busy, color="black", linewidth=1.0)
    axes.text(
        1.004, busy, f"{100 * busy:.1f} %\nissue waves", fontsize=9, va="center", transform=axes.transAxes
    )  # fmt: skip
    axes.set(ylim=(0, 100), ylabel="all tiers (% of cycles)")


def _draw_track(axes: Any, slices: Sequence[Slice], place: int, window: tuple[int, int], causes: Causes) -> None:
    """Draw a track's slices; name them, and what ends the gaps between them, where there is room."""
    first, end = window
    for kind, colour in KIND_COLOURS.items():
        spans = [(s.start, s.end - s.start) for s in slices if s.kind == kind and s.start < end and s.end > first]
        if spans:
            axes.broken_barh(spans, (place + 0.02, 0.56), facecolors=colour, edgecolors="white", linewidth=0.15)
    before = 0
    for s in slices:
        gap = max(before, first), min(s.start, end)
        if gap[0] >= end:
            break
        before = s.end
        _write(axes, s.name, (max(s.start, first), min(s.end, end)), place, "white", window)
        cause = causes.before(s)
        if cause is not None:
            after = f"after {cause.name}"
            if not _write(axes, f"{s.name} {after}", gap, place, "#37474f", window):
                _write(axes, after, gap, place, "#37474f", window)


def _draw_dispatcher(axes: Any, step: TracedStep, config: MachineConfig, place: int, window: tuple[int, int]) -> None:
    """Draw which queue was full while the dispatcher waited; stretches that few instructions part are one."""
    first, end = window
    apart = (end - first) // BINS
    stretches: list[tuple[int, int, str]] = []
    for low, high, queue in full_queues(step, config):
        if stretches and stretches[-1][2] == queue and low - stretches[-1][1] <= max(1, apart):
            low = stretches.pop()[0]
        stretches.append((low, high, queue))
    shown = [(max(low, first), min(high, end), queue) for low, high, queue in stretches if low < end and high > first]
    axes.broken_barh(
        [(low, high - low) for low, high, _ in shown], (place + 0.02, 0.56), facecolors="#e1bee7", edgecolors="white",
        linewidth=0.3,
    )  # fmt: skip
    for low, high, queue in shown:
        _write(axes, f"{queue} full", (low, high), place, "#37474f", window)


def _write(axes: Any, text: str, stretch: tuple[int, int], place: int, colour: str, window: tuple[int, int]) -> bool:
    """Write a text into a stretch of the upper half of a track if it fits; return whether it does."""
    low, high = stretch
    fits = (high - low) * WIDTH > (window[1] - window[0]) * (0.08 + LETTER_INCHES * len(text))
    if fits:
        axes.text((low + high) / 2, place + 0.31, text, fontsize=7, color=colour, ha="center", va="center")
    return fits


def _legends(figure: Any, kinds: set[str], trace: Trace, config: MachineConfig) -> None:
    """Explain the colours that appear."""
    from matplotlib.patches import Patch

    totals = trace.totals()
    present = {
        _meaning(state_of(counter, unit))
        for unit, counters in traced_counters(config).items()
        for counter in counters
        if totals[counter]
    }
    kind_patches = [Patch(color=colour, label=kind) for kind, colour in KIND_COLOURS.items() if kind in kinds]
    state_patches = [Patch(color=colour, label=name) for name, (_, colour) in STATES.items() if name in present]
    figure.legend(
        handles=kind_patches, loc="outside lower left", ncols=4, fontsize=9,
        title="Upper half of a track: instructions", title_fontsize=9, frameon=False,
    )  # fmt: skip
    figure.legend(
        handles=state_patches, loc="outside lower right", ncols=4, fontsize=9,
        title="Top, and lower half of a track: what the unit does in each cycle", title_fontsize=9, frameon=False,
    )  # fmt: skip


def draw_cycles(counters: Mapping[str, Mapping[str, int]], config: MachineConfig, path: Path) -> None:
    """Draw where the cycles of each unit went, as stacked bars, a panel for each step.

    Parameters
    ----------
    counters : mapping of str to counters
        Performance counters (``JobResult.counters``) by the names of the steps.
    config : MachineConfig
        The machine that ran.
    path : path
        PNG to write.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    if not counters:
        raise A3dError("counters: no steps; give at least one")
    units = exhaustive_counters(config)
    columns = min(3, len(counters))
    rows = -(-len(counters) // columns)
    figure = Figure(figsize=(2.5 + 5.2 * columns, 1.2 + rows * (0.8 + 0.36 * len(units))), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    present: set[str] = set()
    for axes, (name, values) in zip(panels, counters.items(), strict=False):
        for place, (unit, names) in enumerate(units.items()):
            left = 0.0
            parts = dict.fromkeys(STATES, 0)
            for counter in names:
                parts[_meaning(state_of(counter, unit))] += values[counter]
            for meaning, cycles in parts.items():
                if not cycles:
                    continue
                present.add(meaning)
                share = 100 * cycles / max(1, values["cycles"])
                axes.barh(place, share, left=left, height=0.8, color=STATES[meaning][1])
                if share >= 6:
                    dark = meaning in (
                        "works",
                        "waits for data",
                        "waits for room (memory, FIFO, queue)",
                        "waits for the gang",
                    )
                    axes.text(
                        left + share / 2, place, f"{share:.0f}", ha="center", va="center", fontsize=8,
                        color="white" if dark else "black",
                    )  # fmt: skip
                left += share
        axes.set(xlim=(0, 100), ylim=(len(units) - 0.5, -0.5), title=f"{name}: {values['cycles']:,} cycles")
        axes.set_xlabel("% of cycles")
        axes.set_yticks(range(len(units)), list(units))
    for axes in panels[len(counters) :]:
        axes.set_visible(False)
    handles = [Patch(color=colour, label=name) for name, (_, colour) in STATES.items() if name in present]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    figure.suptitle(f"Where the cycles went, {config.name}", fontsize=12)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
