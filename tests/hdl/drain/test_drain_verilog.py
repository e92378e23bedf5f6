# SPDX-License-Identifier: Apache-2.0
"""The drain's emitted Verilog answers as the plain form does in Amaranth's simulator."""

from __future__ import annotations

from pathlib import Path

import pytest

from hdl.config import PRESETS
from hdl.drain import Drain
from hdl.emit.files import FILE_LIST
from hdl.emit.verilog import emit, write
from tests.support.emit import bench


def check(name: str, tmp_path: Path, simulator: str) -> None:
    write(emit(Drain(PRESETS[name]), "dut", verify_keys=True), tmp_path / "out")
    text = bench.replay(
        Drain(PRESETS[name]), "dut", tmp_path / "out" / FILE_LIST, tmp_path / "work", simulator=simulator, skip=30
    )
    assert text == "EQUAL"


@pytest.mark.parametrize("name", ["nano", "tiny"])
def test_drain_in_icarus(name: str, tmp_path: Path, icarus: str) -> None:
    check(name, tmp_path, icarus)


@pytest.mark.slow
def test_drain_in_verilator(tmp_path: Path) -> None:
    check("tiny", tmp_path, "verilator")


def test_lanes_are_emitted_once() -> None:
    design = emit(Drain(PRESETS["small"]), "dut")
    assert design.instances["requant_lane"] == 16
    assert design.instances["swiglu_pair"] == 8
