# SPDX-License-Identifier: Apache-2.0
"""Synthesis of a tier: no latches, and what the adaptive array costs beside the plain one.

Memories and the drain are black boxes: both arrays have the same.  Area is in gate equivalents (one NAND2 = 1) of
Yosys' generic gates, with enables taken as clock gates, which need no logic in each flip-flop.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hdl.array.tier import Tier
from hdl.config import PRESETS, MachineConfig
from hdl.emit.verilog import emit

GATE_EQUIVALENTS = {
    "NOT": 0.67, "NAND": 1.0, "NOR": 1.0, "AND": 1.33, "OR": 1.33, "ANDNOT": 1.33, "ORNOT": 1.33, "XOR": 2.33,
    "XNOR": 2.33, "MUX": 2.33, "DFF": 5.67, "DFFE": 5.67, "SDFF": 6.67, "SDFFE": 6.67,
}  # fmt: skip

SCRIPT = """
read_verilog -sv tier.v
hierarchy -check -top tier
synth -top tier
select -assert-none t:$_DLATCH*
select -assert-none t:$_*LATCH*
tee -q -o stat.txt stat
"""


def gate_equivalents(config: MachineConfig, folder: Path) -> float:
    """Synthesise one tier, hierarchically, and return its area without memories and drain."""
    texts = []
    for name, text in emit(Tier(config), "tier").modules.items():
        if name.startswith(("sram_", "drain_")):
            head = re.sub(r" = [^,\n]+", "", text[: text.index(");") + 2].replace("output reg", "output wire"))
            texts.append(f"(* blackbox *)\n{head}\nendmodule\n")
        elif not name.startswith(("requant", "swiglu")):
            texts.append(text)
    (folder / "tier.v").write_text("\n".join(texts))
    (folder / "synth.ys").write_text(SCRIPT)
    code = "from pyosys import libyosys as ys; ys.run_pass('script synth.ys', ys.Design())"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    total = (folder / "stat.txt").read_text().split("design hierarchy")[1]
    cells = re.findall(r"^\s+(\d+)\s+(\S+)$", total, re.MULTILINE)
    gates = [(int(count), found[1]) for count, cell in cells if (found := re.match(r"\$_([A-Z]+)_", cell))]
    assert gates
    return sum(count * GATE_EQUIVALENTS[gate] for count, gate in gates)


@pytest.mark.parametrize("feed", ["vertical", "edge"])
def test_no_latches(feed: Any, tmp_path: Path) -> None:
    assert gate_equivalents(PRESETS["nano"].replace(stationary_feed=feed), tmp_path) > 10_000


@pytest.mark.slow
def test_adaptive_array_is_at_most_a_tenth_larger(tmp_path: Path) -> None:
    """Vertical feed with three links against the plain array: overlapped edge feed, no links."""
    adaptive = gate_equivalents(PRESETS["small"], tmp_path)
    plain = gate_equivalents(PRESETS["small"].replace(stationary_feed="edge", vertical_links=False), tmp_path)
    print(f"adaptive {adaptive:.0f} GE, plain {plain:.0f} GE, ratio {adaptive / plain:.4f}")
    assert adaptive <= 1.10 * plain
