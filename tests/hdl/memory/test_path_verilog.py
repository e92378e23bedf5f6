# SPDX-License-Identifier: Apache-2.0
"""The emitted Verilog of loads, stores and fetches on `sim/rtl/axi_memory.v`, and its bandwidth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hdl.config import PRESETS, MachineConfig
from sim.simulator.runner import run
from tests.hdl.memory.test_path import CONFIGS
from tests.support.memory.verilog_top import build_path, memory_names


def play(config: MachineConfig, folder: Path, sim: str, testcase: str | None = None, **env: str) -> None:
    model = build_path(config, folder, sim=sim)
    names = memory_names(config)
    plusargs = [
        f"+{name}_{what}={folder / name}.{end}" for name in names for what, end in (("load", "hex"), ("dump", "out"))
    ]
    run(
        model,
        "tests.hdl.memory.bench_path",
        testcase=testcase,
        env={"PATH_CONFIG": json.dumps(config.to_dict()), "PATH_FOLDER": str(folder), **env},
        plusargs=plusargs,
        seed=1,
        timeout_s=250,
    )


@pytest.mark.parametrize("name", ["nano", "tiny", pytest.param("wide", marks=pytest.mark.slow)])
def test_traffic(name: str, tmp_path: Path) -> None:
    play(CONFIGS[name], tmp_path, "verilator")


def test_traffic_icarus(icarus: str, tmp_path: Path) -> None:
    play(CONFIGS["nano"], tmp_path, icarus, testcase="random_traffic_with_stalls")


@pytest.mark.parametrize("name", ["tiny", "wide", pytest.param("small", marks=pytest.mark.slow)])
def test_bandwidth(name: str, tmp_path: Path) -> None:
    """Long V-Cache loads reach 97 % of the peak at a latency of 40 cycles."""
    config = (CONFIGS.get(name) or PRESETS[name]).replace(burst_beats=16)
    play(config, tmp_path, "verilator", testcase=("bandwidth", "store_bandwidth"), PATH_BANDWIDTH="1")  # type: ignore[arg-type]
    results: dict[str, Any] = json.loads((tmp_path / "bandwidth.json").read_text())
    results["STORE INT32"] = json.loads((tmp_path / "store_bandwidth.json").read_text())
    print(json.dumps(results, indent=1))
    whole = ("PAIR x16", "HIGH x16", "BYTES x16", "COLUMNS x16")
    for key in (*whole, "ACTIVATION both groups", "LIST both groups", "ROWS both groups"):
        assert results[key]["share"] >= 0.97, f"{key}: {results[key]}"
