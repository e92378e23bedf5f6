# SPDX-License-Identifier: Apache-2.0
"""The PLL's dividers: the clock is the one asked for or just below, and every frequency is within its limits."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from hdl.boards.pll import MOST_DIVIDER, OSCILLATOR_MHZ, PHASE_DETECTOR_MHZ, find_pll
from hdl.errors import A3dError


@pytest.mark.parametrize("crystal", [25.0, 100.0])
@pytest.mark.parametrize("mhz", [12.5, 25.0, 30.0, 50.0, 75.0, 100.0, 34.0, 41.7, 66.6])
def test_dividers(crystal: float, mhz: float) -> None:
    pll = find_pll(crystal, mhz)
    assert all(1 <= divider <= MOST_DIVIDER for divider in (pll.reference, pll.feedback, pll.output))
    assert PHASE_DETECTOR_MHZ[0] <= crystal / pll.reference <= PHASE_DETECTOR_MHZ[1]
    output = crystal / pll.reference * pll.feedback
    assert OSCILLATOR_MHZ[0] <= output * pll.output <= OSCILLATOR_MHZ[1]
    assert 0.95 * mhz <= output <= mhz + 1e-6 and output == pll.output_mhz
    if mhz in (12.5, 25.0, 50.0, 75.0, 100.0):
        assert output == mhz


@pytest.mark.parametrize(("crystal", "mhz"), [(25, 25), (25, 75), (100, 25), (100, 50)])
def test_the_dividers_are_those_of_ecppll(crystal: int, mhz: int, tmp_path: Path) -> None:
    """Project Trellis' own tool, which comes with nextpnr."""
    tool = Path(sys.executable).with_name("yowasp-ecppll")
    if not tool.is_file():
        pytest.skip("ecppll is not installed (extra 'fpga')")
    command = [str(tool), "-i", str(crystal), "-o", str(mhz), "-f", "pll.v"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    text = (tmp_path / "pll.v").read_text()
    theirs = {name: int(value) for name, value in re.findall(r"\.(CLK\w+_DIV)\((\d+)\)", text)}
    pll = find_pll(crystal, mhz)
    assert theirs == {"CLKI_DIV": pll.reference, "CLKFB_DIV": pll.feedback, "CLKOP_DIV": pll.output}


@pytest.mark.parametrize("mhz", [1.0, 500.0])
def test_a_clock_that_cannot_be(mhz: float) -> None:
    with pytest.raises(A3dError, match=f"^--clock-mhz {mhz:g}: no divider .*; use 3.125 to 400$"):
        find_pll(25.0, mhz)
