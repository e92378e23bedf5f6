# SPDX-License-Identifier: Apache-2.0
"""Attributes on the ports of the top by which Vivado knows clock, reset, interrupt and buses without guessing.

Other tools ignore them: they are ordinary Verilog-2001 attributes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from hdl.emit.buses import AXI4, AXI4_LITE, Bus
from hdl.emit.design import EmittedDesign
from hdl.emit.hierarchy import CLOCK, RESET, EmitError, Port

__all__ = ["port_attributes", "with_port_attributes"]

_BUS = "xilinx.com:interface:aximm:1.0"
_SIGNAL = "xilinx.com:signal"
_PROTOCOLS: Mapping[str, str] = {AXI4: "AXI4", AXI4_LITE: "AXI4LITE"}


def _attributes(info: str, **parameters: str) -> str:
    fields = [f'X_INTERFACE_INFO = "{info}"']
    if parameters:
        fields.append(f'X_INTERFACE_PARAMETER = "{", ".join(f"{name} {value}" for name, value in parameters.items())}"')
    return f"(* {', '.join(fields)} *)"


def port_attributes(ports: Sequence[Port], interrupt: str) -> dict[str, str]:
    """Return by port the attributes of clock, reset, interrupt and every port of a bus.

    Parameters
    ----------
    ports : sequence of Port
        Of the top.
    interrupt : str
        Name of the level-sensitive, active-high interrupt.
    """
    buses: dict[str, list[Port]] = {}
    for port in ports:
        if port.bus is not None:
            buses.setdefault(port.bus.name, []).append(port)
    found = {
        CLOCK: _attributes(
            f"{_SIGNAL}:clock:1.0 {CLOCK} CLK", ASSOCIATED_BUSIF=":".join(buses), ASSOCIATED_RESET=RESET
        ),
        RESET: _attributes(f"{_SIGNAL}:reset:1.0 {RESET} RST", POLARITY="ACTIVE_HIGH"),
        interrupt: _attributes(f"{_SIGNAL}:interrupt:1.0 {interrupt} INTERRUPT", SENSITIVITY="LEVEL_HIGH"),
    }
    for members in buses.values():
        for number, port in enumerate(members):
            assert port.bus is not None
            # The parameters of a bus stand once.
            parameters = {"PROTOCOL": _PROTOCOLS[port.bus.protocol]} if number == 0 else {}
            found[port.name] = _attributes(_member(port.bus), **parameters)
    return found


def _member(bus: Bus) -> str:
    return f"{_BUS} {bus.name} {bus.signal.upper()}"


def with_port_attributes(design: EmittedDesign, attributes: Mapping[str, str]) -> EmittedDesign:
    """Return the design with attributes before ports of its top.

    Raises
    ------
    EmitError
        If the top has no such port.
    """
    head, end, body = design.modules[design.top].partition("\n);")
    lines = head.split("\n")
    at = {line.rstrip(",").split()[-1]: number for number, line in enumerate(lines[1:], start=1)}
    for port, text in attributes.items():
        if port not in at:
            raise EmitError(f"module {design.top} has no port {port!r} that could bear an attribute")
        lines[at[port]] = f"  {text} {lines[at[port]].strip()}"
    top = "\n".join(lines) + end + body
    return dataclasses.replace(design, modules={**design.modules, design.top: top})
