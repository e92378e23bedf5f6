# SPDX-License-Identifier: Apache-2.0
"""The bench of batching: what it measures, on a small machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from hdl.config import PRESETS
from hdl.errors import A3dError
from scheduler.plan.policy import SEQUENTIAL
from scheduler.system import SystemConfig
from sim.measure.serving import BEFORE, Case, ServingBench, draw
from sim.stimulus.moe_demo import DEMO_MODEL

SYSTEM = SystemConfig(machine=PRESETS["tiny"], policy=SEQUENTIAL)


def test_a_prompt_in_pieces_lets_the_others_decode(tmp_path: Path) -> None:
    cases = [Case("prefill-first", 8), Case("mixed", 5)]
    bench = ServingBench(DEMO_MODEL, SYSTEM, cases=cases, decode=2, lengths=(2, 3), tokens=BEFORE + 4, prompt=8)
    assert sum(1 for _ in bench.run()) == bench.total == 2 * (2 * (BEFORE + 4) + 8)
    result = bench.result()
    assert not result["mismatched_bytes"] and result["compared_bytes"]
    first, mixed = result["points"]
    assert first["tokens"] == mixed["tokens"] and first["begin"] == mixed["begin"]
    assert first["arrival"] == mixed["arrival"], "until then they do the same"
    assert mixed["between_tokens"]["max"] < first["between_tokens"]["max"] and mixed["ttft_cycles"] > 0
    assert {s["phase"] for s in first["steps"]} == {"prefill", "decode"}
    assert {s["phase"] for s in mixed["steps"]} == {"mixed", "decode"}
    assert first["new_tokens"] == 2 * (BEFORE + 2) + 8
    assert [p["first_token"] - p["arrival"] for p in (first, mixed)] == [first["ttft_cycles"], mixed["ttft_cycles"]]
    draw(result, tmp_path / "serving.png")
    assert (tmp_path / "serving.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": 3}, "--tokens 3: the long prompt comes after 4 of them; use 6 or more"),
        ({"prompt": 1 << 20}, "held-out excerpts of 256 bytes; the bench takes 17 of up to 1048576"),
        ({"cases": [Case("mixed", 16)]}, "step_tokens: 16; batching mixed gives each of 17 sequences"),
    ],
)
def test_what_cannot_be_measured(options: dict[str, object], message: str) -> None:
    with pytest.raises(A3dError, match=message):
        ServingBench(DEMO_MODEL, SYSTEM, **options)  # type: ignore[arg-type]
