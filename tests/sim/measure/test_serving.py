# SPDX-License-Identifier: Apache-2.0
"""The bench of batching: what it measures, on a small machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from hdl.config import PRESETS
from hdl.errors import A3dError
from scheduler.plan.policy import SEQUENTIAL
from scheduler.system import SystemConfig
from sim.measure import serving as module
from sim.measure.serving import ALONE, Case, ServingBench, draw
from tests.support.small_model import CHECKPOINT, write_checkpoint
from tests.support.timed_executor import TimedExecutor

SYSTEM = SystemConfig(machine=PRESETS["tiny"], policy=SEQUENTIAL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "random"
    write_checkpoint(path, CHECKPOINT)
    return path


@pytest.mark.parametrize("rtl", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_prompt_in_pieces_lets_the_others_decode(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rtl: bool
) -> None:
    if not rtl:
        monkeypatch.setattr(module, "RtlEngine", TimedExecutor)
        monkeypatch.setattr(module, "SimulatedMachine", lambda *args, **options: None)
    cases = [Case("prefill-first", 24), Case("mixed", 14)]
    bench = ServingBench(folder, SYSTEM, cases=cases, decode=2, lengths=(2, 3), tokens=ALONE + 2, prompt=24)
    assert sum(1 for _ in bench.run()) == bench.total == 2 * (2 * (ALONE + 2) + 8)
    result = bench.result()
    assert not result["mismatched_bytes"] and bool(result["compared_bytes"]) == rtl
    first, mixed = result["points"]
    assert first["tokens"] == mixed["tokens"] and first["begin"] == mixed["begin"]
    assert first["arrival"] == mixed["arrival"], "until then they do the same"
    assert mixed["between_tokens"]["max"] < first["between_tokens"]["max"] and mixed["ttft_cycles"] > 0
    assert {s["phase"] for s in first["steps"]} == {"prefill", "decode"}
    assert {s["phase"] for s in mixed["steps"]} == {"mixed", "decode"}
    assert [s["tokens"] for s in mixed["steps"] if s["phase"] == "mixed"] == [14, 14]
    assert first["new_tokens"] == 2 * ALONE + 8
    assert [p["first_token"] - p["arrival"] for p in (first, mixed)] == [first["ttft_cycles"], mixed["ttft_cycles"]]
    draw(result, tmp_path / "serving.png")
    assert (tmp_path / "serving.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": 7}, "--tokens 7: prefill-first, 128 .*, the others would be through before the long .*; use 8 or"),
        ({"tokens": 14}, "--tokens 14: mixed, 32 tokens a step, .*; use 15 or more"),
        ({}, "held-out excerpts of 64 bytes; the bench takes 17 of up to 128: use a model with a longer heldout.txt"),
        ({"cases": [Case("mixed", 16)]}, "step_tokens: 16; batching mixed gives each of 17 sequences"),
    ],
)
def test_what_cannot_be_measured(folder: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(A3dError, match=message):
        ServingBench(folder, SYSTEM, **options)  # type: ignore[arg-type]
