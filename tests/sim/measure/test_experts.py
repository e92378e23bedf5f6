# SPDX-License-Identifier: Apache-2.0
"""Experts alone with their weights from memory, and `medium`, the machine on which that is more than an edge takes."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from hdl.config import PRESETS
from sim import cli
from sim.machine import system
from sim.machine.system import SimulatedMachine
from sim.measure.crosscheck import check_random, random_knobs
from sim.measure.experts import draw_works, measure_experts
from sim.simulator.compilers import LARGE_CPP_BYTES, BuildRequest, _optimisation
from sim.stimulus.moe_demo import edge_variant
from sim.stimulus.streams import StreamOptions, random_stream


def test_works_repeat_and_choose_distinct_experts() -> None:
    works = draw_works(24, 16, [1, 9], experts=5, chosen=3, seed=4)
    again = draw_works(24, 16, [1, 9], experts=5, chosen=3, seed=4)
    for work, same, tokens in zip(works, again, (1, 9), strict=True):
        assert work.x.shape == (tokens, 24) and work.experts.shape == work.gates.shape == (tokens, 3)
        assert all(len(set(row)) == 3 for row in work.experts.tolist()) and work.experts.max() < 5
        np.testing.assert_array_equal(work.x, same.x)
        np.testing.assert_array_equal(work.experts, same.experts)
        np.testing.assert_array_equal(work.layer.experts[4].down, same.layer.experts[4].down)
    assert works[0].layer is works[1].layer and works[0].layer.intermediate == 16


@pytest.mark.slow
def test_the_experts_bench(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Several experts on `tiny`, the RTL compared byte for byte."""
    command = ["bench", "experts", "--config", "tiny", "--hidden", "64", "--intermediate", "32", "--tokens", "3", "20"]
    command += ["--experts", "4", "--chosen", "2", "--no-edge", "--json", str(tmp_path / "a.json")]
    assert cli.main(command) == 0
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["mismatched_bytes"] == 0 and report["hidden"] == 64 and report["experts"] == 4
    assert [p["tokens"] for p in report["points"]] == [3, 20]
    for point in report["points"]:
        assert point["gang"] == "n2" and point["edge_cycles"] is None
        # Each tile is 64 bytes, of which the machine reads 8 a cycle.
        assert point["cycles"] > point["bound_cycles"] >= point["experts"] * (64 + 32) * 8
    assert "experts of 64 x 32" in capsys.readouterr().out


def test_more_choices_than_experts(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "experts", "--chosen", "3", "--experts", "2"]) == 2
    assert capsys.readouterr().err == "error: bench experts: --chosen 3 of --experts 2; use at most 2\n"


def test_large_models_are_optimised_less() -> None:
    fields = {"sim": "verilator", "sources": (), "top": "t", "includes": (), "defines": {}, "parameters": {}}
    request = BuildRequest(**fields, waves=None, fast=True, quick=False, public=(), extra_args=())  # type: ignore[arg-type]
    assert "OPT_FAST=-O3" in _optimisation(request, LARGE_CPP_BYTES - 1)
    assert "OPT_FAST=-O1" in _optimisation(request, LARGE_CPP_BYTES)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_medium_runs_drawn_streams() -> None:
    """Both feeds: every byte and every exact counter of streams with the whole instruction set each has."""
    rng = random.Random(3)
    for config in (PRESETS["medium"], edge_variant(PRESETS["medium"])):
        options = (StreamOptions(), StreamOptions.everything(slots=True))
        streams = [random_stream(config, seed, 60, options[seed % 2]) for seed in range(12)]
        check_random(SimulatedMachine(config, memory_bits=20), streams, [random_knobs(rng) for _ in streams])


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_vertical_feed_takes_what_memory_gives() -> None:
    """An expert of OLMoE's shape on `medium`: memory gives 1,024 bytes a cycle, of which the edges take 256."""
    works = draw_works(2048, 1024, [1, 8, 64], experts=1, chosen=1, seed=1)
    report = measure_experts(PRESETS["medium"], works, edge=True, announce=lambda: None)
    assert report["mismatched_bytes"] == 0
    few, some, many = report["points"]
    for point in (few, some):
        assert point["bound_cycles"] > 0.75 * point["cycles"]
        assert point["edge_cycles"] > 3 * point["cycles"]
    # 64 waves a tile take as long as the 64 rows of the next one.
    assert many["cycles"] <= many["edge_cycles"] < 1.1 * many["cycles"]


@pytest.mark.slow
def test_tiers_that_are_compiled_once_do_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hierarchical Verilation, as for `large`, on `tiny`: links between the tiers in both directions, gangs, slots."""
    monkeypatch.setattr(system, "BLOCK_PES", 1)
    rng = random.Random(4)
    for config in (PRESETS["tiny"], edge_variant(PRESETS["tiny"])):
        streams = [random_stream(config, seed, 30, StreamOptions.everything(slots=True)) for seed in range(30)]
        check_random(SimulatedMachine(config, memory_bits=18), streams, [random_knobs(rng) for _ in streams])
