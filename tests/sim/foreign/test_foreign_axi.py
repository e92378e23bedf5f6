# SPDX-License-Identifier: Apache-2.0
"""The emitted machine between memories and a manager that nobody of this project wrote (cocotbext-axi)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sim.simulator import runner
from tests.support.foreign.machine import bare_machine

BENCH = "tests.sim.foreign.cocotb_foreign"


def run(seeds: list[int], folder: Path) -> list[dict[str, Any]]:
    """Run streams, and return what each took."""
    said = folder / "said.json"
    runner.run(
        bare_machine(), BENCH, env={"A3D_SEEDS": json.dumps(seeds), "A3D_SAID": str(said)}, seed=1, timeout_s=3600
    )  # fmt: skip
    found: list[dict[str, Any]] = json.loads(said.read_text())
    assert [one["seed"] for one in found] == seeds
    # The streams reached memory, and the channels paused: the machine alone takes a third of these cycles.
    assert all(one["write_beats_0"] + one["write_beats_1"] > 0 for one in found)
    assert all(max(one["pauses"].values()) == 0.9 for one in found)
    return found


def test_random_streams_between_foreign_parts(tmp_path: Path) -> None:
    run([0, 1], tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_random_streams_between_foreign_parts(tmp_path: Path) -> None:
    run(list(range(100, 130)), tmp_path)
