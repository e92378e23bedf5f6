# SPDX-License-Identifier: Apache-2.0
"""The stack's emitted, hierarchical Verilog in Verilator against the NumPy model: every row, in the exact cycle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hdl.array.stack import Stack
from hdl.config import PRESETS, MachineConfig
from hdl.emit.verilog import emit
from hdl.interfaces import result_layout
from sim.simulator.runner import build, run
from tests.support.array.stack_model import Cycle, Row, port_values, random_traffic, run_model


def play(config: MachineConfig, traffic: list[Cycle], folder: Path) -> list[list[tuple[int, list[int]]]]:
    """Emit, compile and run; return (cycle, values) of every row on each result lane."""
    design = emit(Stack(config), "stack")
    source = folder / "stack.v"
    source.write_text("\n".join(design.modules.values()))
    before: dict[str, int] = {}
    stimulus = []
    for launch in traffic:
        values = port_values(config, launch)
        stimulus.append({name: f"{value:x}" for name, value in values.items() if before.get(name) != value})
        before = values
    (folder / "stimulus.json").write_text(json.dumps(stimulus))
    model = build([source], "stack")
    run(
        model,
        "tests.hdl.array.bench_stack",
        env={"STACK_BENCH": str(folder), "STACK_TIERS": str(config.tiers)},
        seed=1,
    )
    seen: list[list[tuple[int, list[int]]]] = [[] for _ in range(config.tiers)]
    for cycle, lane, word in json.loads((folder / "response.json").read_text()):
        row = result_layout(config).from_bits(int(word, 16))
        seen[lane].append((cycle, [row.data[column] for column in range(config.columns)]))
    return seen


def check(config: MachineConfig, traffic: list[Cycle], folder: Path) -> list[list[Row]]:
    expected = run_model(config, traffic)
    seen = play(config, traffic, folder)
    for tier, (got, want) in enumerate(zip(seen, expected, strict=True)):
        assert [cycle for cycle, _ in got] == [row.cycle for row in want], f"tier {tier}: rows in other cycles"
        for index, ((cycle, values), row) in enumerate(zip(got, want, strict=True)):
            assert values == row.values.tolist(), f"tier {tier}, row {index}, cycle {cycle}"
    return expected


@pytest.mark.parametrize(
    ("preset", "feed"),
    [
        ("nano", "vertical"),
        ("nano", "edge"),
        ("tiny", "vertical"),
        pytest.param("tiny", "edge", marks=pytest.mark.slow),
    ],
)
def test_random_traffic(preset: str, feed: Any, tmp_path: Path) -> None:
    """The same traffic as in Amaranth's simulator, through the Verilog that users get."""
    config = PRESETS[preset].replace(stationary_feed=feed)
    expected = check(config, random_traffic(config, seed=2, cycles=1000), tmp_path)
    assert all(len(rows) > 80 for rows in expected)


@pytest.mark.parametrize("feed", ["vertical", "edge"])
def test_module_keys_name_all_that_matters(feed: Any) -> None:
    """Every component of a key converts to the same Verilog, and rows, PEs and tiers are emitted once."""
    config = PRESETS["nano"].replace(tiers=2, row_fifo_depth=64, stationary_feed=feed)
    design = emit(Stack(config), "stack", verify_keys=True)
    pes, rows, tiers = (
        sum(count for name, count in design.instances.items() if name.startswith(prefix))
        for prefix in ("pe", ("row_", "edge_row_"), "tier_")
    )
    assert (pes, rows, tiers) == (config.pes, config.tiers * config.rows, config.tiers)
    assert sum(name.startswith(("pe", "row_", "edge_row_", "tier_")) for name in design.modules) == 3


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_random_traffic_small(tmp_path: Path) -> None:
    """A stack of the `small` machine."""
    config = PRESETS["small"]
    expected = check(config, random_traffic(config, seed=3, cycles=2000), tmp_path)
    assert all(len(rows) > 100 for rows in expected)
