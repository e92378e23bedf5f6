# SPDX-License-Identifier: Apache-2.0
"""Attributes on the ports of the top: every bus port has one, and nothing but attributes is added."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hdl.config import PRESETS
from hdl.emit import EmitError
from hdl.emit.files import FILE_LIST
from hdl.emit.lint import lint_verilator
from hdl.emit.verilog import emit
from hdl.emit.vivado import with_port_attributes
from hdl.generate import TOP, generate
from sim.simulator import tools
from tests.support.emit.examples import Chain

LINE = re.compile(
    r'\(\* X_INTERFACE_INFO = "(.+?)"(?:, X_INTERFACE_PARAMETER = "(.+?)")? \*\) .* (\w+),?$', re.MULTILINE
)


def test_attributes_of_the_top(tmp_path: Path) -> None:
    config = PRESETS["tiny"].replace(channels_per_group=2)
    design, _ = generate(config, tmp_path / "out", vivado_attributes=True)
    marked = (tmp_path / "out" / "rtl" / f"{TOP}.v").read_text()
    ports = re.sub(r"\(\*.*?\*\) ", "", marked).split(");")[0].splitlines()
    assert [line.split()[-1].rstrip(",") for line in ports if line.startswith("  ")] == [
        "clk", "rst", *(port.name for port in design.ports)
    ]  # fmt: skip
    found = {name: (info, parameter) for info, parameter, name in LINE.findall(marked)}
    assert found.keys() == {port.name for port in design.ports} - {"trace_out"} | {"clk", "rst"}
    buses = [f"m_axi_g{group}_c{channel}" for group in range(2) for channel in range(2)]
    assert found["m_axi_g1_c1_awvalid"][0] == "xilinx.com:interface:aximm:1.0 m_axi_g1_c1 AWVALID"
    assert found["clk"] == (
        "xilinx.com:signal:clock:1.0 clk CLK", f"ASSOCIATED_BUSIF s_axil:{':'.join(buses)}, ASSOCIATED_RESET rst"
    )  # fmt: skip
    assert found["rst"][1] == "POLARITY ACTIVE_HIGH" and found["irq"][1] == "SENSITIVITY LEVEL_HIGH"
    protocols = {info.split()[1]: parameter for info, parameter in found.values() if parameter.startswith("PROTOCOL")}
    assert protocols == {"s_axil": "PROTOCOL AXI4LITE"} | dict.fromkeys(buses, "PROTOCOL AXI4")
    verilator = tools.find_verilator()
    report = lint_verilator(tmp_path / "out" / FILE_LIST, TOP, verilator=verilator.executable, env=verilator.env())
    assert report.messages == ()


def test_a_port_that_is_not_there_is_refused() -> None:
    with pytest.raises(EmitError, match="module top has no port 'ghost'"):
        with_port_attributes(emit(Chain(), "top"), {"ghost": "(* keep *)"})
