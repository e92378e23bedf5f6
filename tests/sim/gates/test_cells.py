# SPDX-License-Identifier: Apache-2.0
"""The models of ECP5 cells that the gate-level run uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.simulator import runner
from tests.support.gates import netlist

BENCH = Path(netlist.__file__).with_name("cells_bench.v")


@pytest.mark.slow
def test_cells_do_what_python_says(tmp_path: Path) -> None:
    sources = [*netlist.cell_models(tmp_path), BENCH]
    model = runner.build(sources, "cells_bench", includes=[netlist.LATTICE], quick=True)
    runner.run(model, "tests.sim.gates.cocotb_cells", seed=1)
