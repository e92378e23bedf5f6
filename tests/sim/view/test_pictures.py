# SPDX-License-Identifier: Apache-2.0
"""Pictures of timelines: that they show the shares that the counters count, and are drawn at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from hdl.errors import A3dError
from hdl.regs import exhaustive_counters
from sim.view.pictures import STATES, draw_cycles, draw_timeline, layer_starts, state_shares
from sim.view.timeline import slices_of, state_of
from tests.sim.view.test_timeline import language_steps


def pixels(path: Path, colour: str) -> float:
    """Return the share of a picture's pixels that have a colour."""
    image = np.rint(imread(path)[:, :, :3] * 255).astype(int)
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return float((image == wanted).all(axis=2).mean())


@pytest.mark.slow
def test_shares_of_all_states_are_those_of_the_counters() -> None:
    config, steps = language_steps()
    for step, result in steps:
        for edges in (np.array([0, step.trace.cycles]), np.linspace(0, step.trace.cycles, 97).astype(np.int64)):
            for unit, counters in exhaustive_counters(config).items():
                shares = state_shares(step.trace, config, unit, edges)
                assert np.allclose(sum(shares.values()), 1.0)
                for meaning, (states, _) in STATES.items():
                    cycles = sum(result.counters[c] for c in counters if state_of(c, unit) in states)
                    assert np.isclose(shares[meaning] @ np.diff(edges), cycles)


def test_layers_start_in_order() -> None:
    config, steps = language_steps()
    for step, _ in steps:
        names, starts = zip(*layer_starts(slices_of(step, config)), strict=True)
        assert names == ("layer 0", "layer 1", "head")
        assert list(starts) == sorted(starts)


def test_a_timeline_shows_work_and_waiting(tmp_path: Path) -> None:
    config, steps = language_steps()
    step, result = steps[0]
    whole, idle, busy = tmp_path / "whole.png", tmp_path / "sub" / "idle.png", tmp_path / "busy.png"
    draw_timeline(step, config, whole)
    first = next(s for s in slices_of(step, config) if s.waves)
    draw_timeline(step, config, idle, window=(0, first.start))
    longest = max((s for s in slices_of(step, config) if s.waves), key=lambda s: s.end - s.start)
    draw_timeline(step, config, busy, window=(longest.start, longest.end))
    works = STATES["works"][1]
    assert pixels(busy, works) > 2 * pixels(whole, works) > 2 * pixels(idle, works) > 0
    for window in ((0, 0), (-1, 5), (5, result.counters["cycles"] + 1)):
        with pytest.raises(A3dError, match="window: cycles"):
            draw_timeline(step, config, whole, window=window)


def test_cycle_accounts_fill_their_bars(tmp_path: Path) -> None:
    config, steps = language_steps()
    path = tmp_path / "cycles.png"
    draw_cycles({step.name: result.counters for step, result in steps}, config, path)
    everything = pixels(path, "#ffffff")
    none = {step.name: dict.fromkeys(result.counters, 0) | {"cycles": 1} for step, result in steps}
    draw_cycles(none, config, path)
    assert pixels(path, "#ffffff") > everything + 0.2
    with pytest.raises(A3dError, match="no steps"):
        draw_cycles({}, config, path)
