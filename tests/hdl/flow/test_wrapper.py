# SPDX-License-Identifier: Apache-2.0
"""The wrapper that leaves a machine with two pins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hdl.flow.store import module_texts
from hdl.flow.wrapper import WRAPPER, port_bits, port_widths, wrap
from hdl.flow.yosys import Job, SynthError, run_jobs
from tests.support.flow import designs


def test_ports_are_read() -> None:
    ports = port_widths(designs.SEED)
    assert ("input", "clk", 1) in ports and ("output", "product", 16) in ports
    assert port_bits(designs.SEED) == 8 + 8 + 4 + 1 + 1 + 16 + 8 + 10 + 11


def test_module_without_ports() -> None:
    with pytest.raises(SynthError, match="no list of ports"):
        wrap("module nothing;\nendmodule\n")


def test_nothing_is_optimised_away(tmp_path: Path) -> None:
    """The flattened wrapper has the machine's flip-flops and one at each bit of its ports, and no logic of its own."""
    texts = module_texts(designs.CHAIN)
    (tmp_path / "all.v").write_text("\n".join([*texts.values(), wrap(texts["chain"])]))
    passes = ("read_verilog all.v", f"synth -flatten -top {WRAPPER}", "tee -q -o cells.json stat -json")
    list(run_jobs([Job("wrapped", passes)], tmp_path))
    cells = json.loads((tmp_path / "cells.json").read_text())["design"]["num_cells_by_type"]
    cells.pop("$scopeinfo", None)
    # Outputs of four of the five links are not used, and their registers go, as they would without a wrapper; five
    # times the same operand of an exclusive or is once.
    assert cells == {"$_DFF_P_": 2 + 1 + 4, "$_XOR_": 1}
