# SPDX-License-Identifier: Apache-2.0
"""One simulator for a configuration, whatever memory a model, a batch or a bench needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from hdl.config import PRESETS
from sim.machine.system import machine_sources
from sim.simulator.bench_top import capacity_bits
from sim.simulator.simcache import content_key


@pytest.mark.parametrize(
    ("config", "needed", "simulator", "capacity"),
    [
        ("small", 18, "verilator", 26),
        ("small", 26, "verilator", 26),
        ("small", 27, "verilator", 30),
        ("small", 33, "verilator", 34),
        ("tiny", 18, "verilator", 26),
        ("tiny", 27, "verilator", 28),
        ("nano", 18, "verilator", 24),
        ("nano", 30, "verilator", 24),
        ("medium", 18, "verilator", 30),
        ("medium", 31, "verilator", 34),
        ("large", 18, "verilator", 30),
        ("small", 18, "icarus", 18),
        ("large", 18, "icarus", 18),
        ("nano", 30, "icarus", 24),
    ],
)
def test_capacity(config: str, needed: int, simulator: str, capacity: int) -> None:
    assert capacity_bits(PRESETS[config], needed, simulator) == capacity


@pytest.mark.slow
def test_all_sizes_share_a_simulator(tmp_path: Path) -> None:
    config = PRESETS["nano"].replace(address_bits=34)
    keys = {bits: content_key(machine_sources(config, tmp_path, bits), []) for bits in (18, 20, 26, 27)}
    assert keys[18] == keys[20] == keys[26] != keys[27]
