# SPDX-License-Identifier: Apache-2.0
"""Standard buses among the ports of a component, and the one place where ports get their names.

Tools find a bus by its ports' names: what comes before the last ``_`` is the bus, what follows is the standard's name
of the signal (``m_axi_g0_c0_awvalid``).  Every other port bears its path in the signature, joined with ``__``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from amaranth.lib import wiring

__all__ = ["AXI4", "AXI4_LITE", "Bus", "BusSignature", "port_name"]


AXI4 = "AXI4"
AXI4_LITE = "AXI4-Lite"
"""Names of standards."""


class BusSignature(wiring.Signature):
    """Signature of a bus that a standard defines; its members bear the standard's signal names in lower case.

    Parameters
    ----------
    protocol : str
        Name of the standard.
    members : mapping
        As for ``wiring.Signature``.
    """

    def __init__(self, protocol: str, members: Mapping[str, wiring.Member]) -> None:
        super().__init__(members)
        self.protocol = protocol

    def __eq__(self, other: object) -> bool:
        """Two are equal when protocol and members are."""
        return isinstance(other, BusSignature) and (self.protocol, self.members) == (other.protocol, other.members)

    __hash__ = None  # type: ignore[assignment]  # like any signature, it can be changed


@dataclass(frozen=True)
class Bus:
    """What a port is on its bus.

    Attributes
    ----------
    name : str
        Name of the bus.
    protocol : str
        Name of the standard.
    signal : str
        The standard's name of the port, in lower case.
    """

    name: str
    protocol: str
    signal: str


def port_name(signature: wiring.Signature, path: tuple[str | int, ...]) -> tuple[str, Bus | None]:
    """Return the Verilog name of the port at `path` of a component's signature, and what it is on its bus, if any."""
    for step in path[:-1]:
        if isinstance(step, str) and signature.members[step].is_signature:
            signature = signature.members[step].signature
    plain = signature.flip() if isinstance(signature, wiring.FlippedSignature) else signature
    if not isinstance(plain, BusSignature):
        return "__".join(map(str, path)), None
    bus = Bus("__".join(map(str, path[:-1])), plain.protocol, str(path[-1]))
    return f"{bus.name}_{bus.signal}", bus
