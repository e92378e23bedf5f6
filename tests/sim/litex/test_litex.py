# SPDX-License-Identifier: Apache-2.0
"""The example of the machine in a LiteX SoC, whose bus, bridges and memories are LiteX's."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from hdl.emit.lint import read_file_list
from hdl.generate import generate
from sim.simulator import runner
from tests.support.foreign.machine import CONFIG

EXAMPLE = Path(__file__).resolve().parents[3] / "docs" / "examples" / "litex" / "a3d_litex.py"
PLACES = {"registers": 0x8000_0000, "memories": (0x4000_0000, 0x5000_0000)}

needs_litex = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("litex", "migen")),
    reason="LiteX is not installed (optional): pip install litex migen",
)


def make_soc(folder: Path) -> list[Path]:
    """Write machine and SoC into a folder; return all Verilog. LiteX gets a process of its own."""
    generate(CONFIG, folder / "machine")
    done = subprocess.run(
        [sys.executable, EXAMPLE, folder / "machine", folder / "soc"], cwd=folder, capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [*read_file_list(folder / "machine" / "a3d.f"), folder / "soc" / "a3d_soc.v"]


@needs_litex
@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 4])
def test_a_stream_runs_in_the_soc(tmp_path: Path, seed: int) -> None:
    model = runner.build(make_soc(tmp_path), "a3d_soc", quick=True)
    env = {"A3D_PLACES": json.dumps(PLACES), "A3D_SEED": str(seed)}
    runner.run(model, "tests.sim.litex.cocotb_litex", env=env, seed=1)
