# SPDX-License-Identifier: Apache-2.0
"""The collector's emitted Verilog answers as the plain form did in Amaranth's simulator."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from hdl.config import PRESETS, MachineConfig
from hdl.emit.files import FILE_LIST
from hdl.emit.lint import read_file_list
from hdl.emit.verilog import emit, write
from hdl.result import Collector
from tests.hdl.result.test_collector import random_row
from tests.hdl.result.test_collector_rows import random_ports
from tests.support.emit.bench import testbench as verilog_bench
from tests.support.result.collector_bench import FOUR, Recording, Stimulus, run


@pytest.mark.parametrize("config", [PRESETS["nano"], PRESETS["tiny"], FOUR], ids=lambda c: c.name)
def test_recorded_traffic(config: MachineConfig, tmp_path: Path, icarus: str) -> None:
    rng = np.random.default_rng(21)
    rows = [[random_row(rng, config, out_of_range=0.02) for _ in range(80)] for _ in range(config.tiers)]
    recording = Recording()
    ports = random_ports(rng, config, 60, out_of_range=0.02)
    run(config, Stimulus(rows, ports, gaps=0.2, stalls=0.3), recording=recording)

    dut = Collector(config)
    write(emit(dut, "dut", verify_keys=True), tmp_path / "out")
    (tmp_path / "stimuli.txt").write_text("\n".join(recording.stimuli) + "\n")
    (tmp_path / "responses.txt").write_text("\n".join(recording.responses) + "\n")
    # Data outputs of memories are unknown in Verilog until their first read: compare from cycle 60.
    text = verilog_bench(dut, "dut", recording.stimuli, recording.responses, skip=60)
    (tmp_path / "bench.v").write_text(text)
    files = [str(path.resolve()) for path in read_file_list(tmp_path / "out" / FILE_LIST)]
    command = ["iverilog", "-g2005", "-o", "bench.vvp", "-s", "bench", "bench.v", *files]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=120)
    done = subprocess.run(["vvp", "-n", "bench.vvp"], cwd=tmp_path, check=True, timeout=120, capture_output=True)
    assert done.stdout.decode().strip().splitlines()[-1].startswith("EQUAL")
