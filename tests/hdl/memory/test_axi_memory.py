# SPDX-License-Identifier: Apache-2.0
"""The simulation memory keeps its promises, and notices masters that break AXI's rules, in both simulators."""

from __future__ import annotations

from pathlib import Path

from sim.simulator.runner import BuiltModel, build, run
from tests.hdl.memory.bench_memory import SIZE, WIDTH, image
from tests.support.memory.verilog_top import MEMORY, write_hex


def compiled(sim: str, **parameters: object) -> BuiltModel:
    return build(MEMORY, "axi_memory", sim=sim, parameters={"DATA_BYTES": WIDTH, "ADDR_BITS": 14, **parameters})


def test_promises(simulator: str, tmp_path: Path) -> None:
    write_hex(tmp_path / "in.hex", image().reshape(-1, WIDTH))
    assert image().size == SIZE
    run(
        compiled(simulator),
        "tests.hdl.memory.bench_memory",
        env={"MEMORY_FOLDER": str(tmp_path)},
        plusargs=[f"+memory_load={tmp_path / 'in.hex'}", f"+memory_dump={tmp_path / 'out.hex'}"],
        seed=1,
        timeout_s=200,
    )
