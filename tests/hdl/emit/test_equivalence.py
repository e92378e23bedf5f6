# SPDX-License-Identifier: Apache-2.0
"""The emitted Verilog behaves as the plain form does in Amaranth's simulator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from amaranth.lib import wiring

from hdl.emit.files import FILE_LIST
from hdl.emit.verilog import emit, write
from tests.support.emit import bench
from tests.support.emit.examples import Chain, Stack

CASES: dict[str, Callable[[], wiring.Component]] = {
    "chain": Chain,
    "stack_1x2x2": lambda: Stack(1, 2, 2),
    "stack_2x4x4": lambda: Stack(2, 4, 4),
}


def check(case: str, tmp_path: Path, simulator: str) -> None:
    make = CASES[case]
    write(emit(make(), "dut"), tmp_path / "out")
    text = bench.replay(make(), "dut", tmp_path / "out" / FILE_LIST, tmp_path / "work", simulator=simulator)
    assert text == "EQUAL"


@pytest.mark.parametrize("case", CASES)
def test_emitted_verilog_equals_the_plain_form_in_icarus(case: str, tmp_path: Path, icarus: str) -> None:
    check(case, tmp_path, icarus)


@pytest.mark.parametrize("case", ["chain", pytest.param("stack_2x4x4", marks=pytest.mark.slow)])
def test_emitted_verilog_equals_the_plain_form_in_verilator(case: str, tmp_path: Path) -> None:
    check(case, tmp_path, "verilator")
