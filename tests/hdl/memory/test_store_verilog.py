# SPDX-License-Identifier: Apache-2.0
"""The store unit's emitted Verilog answers as the plain form did in Amaranth's simulator."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from hdl.emit.files import FILE_LIST
from hdl.emit.lint import read_file_list
from hdl.emit.verilog import emit, write
from tests.hdl.memory.test_store import CONFIGS, STALLS, combine_rows, random_memory, random_store
from tests.support.emit.bench import testbench as verilog_bench
from tests.support.memory.store_bench import StoreBench, StorePath


@pytest.mark.parametrize("name", ["nano", "wide", "broad"])
def test_recorded_stores(name: str, tmp_path: Path, icarus: str) -> None:
    config = CONFIGS[name]
    rng = random.Random(name)
    recording: tuple[list[str], list[str]] = ([], [])
    stores = [random_store(rng, config) for _ in range(15)]
    StoreBench(
        config, random_memory(3), combine_rows(config, 3), stores, seed=3, stall=0.2, wait_delay=2, behaviour=STALLS,
        recording=recording,
    ).run()  # fmt: skip

    dut = StorePath(config)
    write(emit(dut, "dut", verify_keys=True), tmp_path / "out")
    stimuli, responses = recording
    (tmp_path / "stimuli.txt").write_text("\n".join(stimuli) + "\n")
    (tmp_path / "responses.txt").write_text("\n".join(responses) + "\n")
    (tmp_path / "bench.v").write_text(verilog_bench(dut, "dut", stimuli, responses, skip=20))
    files = [str(path.resolve()) for path in read_file_list(tmp_path / "out" / FILE_LIST)]
    command = ["iverilog", "-g2005", "-o", "bench.vvp", "-s", "bench", "bench.v", *files]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=120)
    done = subprocess.run(["vvp", "-n", "bench.vvp"], cwd=tmp_path, check=True, timeout=120, capture_output=True)
    assert done.stdout.decode().strip().splitlines()[-1].startswith("EQUAL"), done.stdout.decode()[-2000:]
