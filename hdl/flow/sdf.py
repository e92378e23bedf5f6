# SPDX-License-Identifier: Apache-2.0
"""The longest path to every register of a routed design, out of the delays that nextpnr writes (SDF).

nextpnr reports one critical path.  Who wants to know what comes next must follow the others: the file has the delay
of every cell and every wire at the slow corner, and this is a walk over them in topological order.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from hdl.flow.timing import TimedPath, place_of, tidy
from hdl.flow.yosys import SynthError

__all__ = ["register_paths"]

_WIRE = re.compile(r"\(INTERCONNECT (\S+)/(\w+) (\S+)/(\w+) \(([^)]*)\) \(([^)]*)\)\)")
_CELL = re.compile(r"\(IOPATH (\w+) (\w+) \(([^)]*)\) \(([^)]*)\)\)")
_CHECK = re.compile(r"\(SETUPHOLD \(\w+ (\w+)\) \(\w+ (\w+)\) \(([^)]*)\)")
_TYPE = re.compile(r'\(CELLTYPE "(\w+)"\)')
_INSTANCE = re.compile(r"\(INSTANCE (\S+)\)")

_CLOCK = re.compile(r"CLK[AB0-3]?|WCK|CK")
"""Names of clock pins; all of them have the one clock, which arrives at 0."""

Pin = tuple[str, str]


@dataclass(frozen=True)
class _Arrival:
    """When the last edge comes to a pin, in ps."""

    ps: int
    routing: int
    start: str


class _Delays:
    """The delays of a design as a graph."""

    def __init__(self) -> None:
        self.after: dict[Pin, list[tuple[Pin, int, bool]]] = defaultdict(list)
        self.before: dict[Pin, int] = defaultdict(int)
        self.starts: dict[Pin, _Arrival] = {}
        self.setup: dict[Pin, int] = {}

    def edge(self, source: Pin, target: Pin, ps: int, wire: bool) -> None:
        self.after[source].append((target, ps, wire))
        self.before[target] += 1

    def read(self, lines: Iterable[str]) -> None:
        kind = instance = ""
        for line in lines:
            if "INTERCONNECT" in line:
                if found := _WIRE.search(line):
                    source, target = (found[1], found[2]), (found[3], found[4])
                    self.edge(source, target, max(_slowest(found[5]), _slowest(found[6])), True)
            elif "IOPATH" in line:
                if found := _CELL.search(line):
                    ps = max(_slowest(found[3]), _slowest(found[4]))
                    if kind == "DCCA":  # the clock's own buffer
                        continue
                    if _CLOCK.fullmatch(found[1]):
                        old = self.starts.get((instance, found[2]))
                        if old is None or old.ps < ps:
                            self.starts[instance, found[2]] = _Arrival(ps, 0, instance)
                    else:
                        self.edge((instance, found[1]), (instance, found[2]), ps, False)
            elif "SETUPHOLD" in line:
                if found := _CHECK.search(line):
                    pin = (instance, found[1])
                    self.setup[pin] = max(self.setup.get(pin, 0), _slowest(found[3]))
            elif found := _TYPE.search(line):
                kind = found[1]
            elif found := _INSTANCE.search(line):
                instance = found[1]

    def arrivals(self) -> dict[Pin, _Arrival]:
        """Return the latest arrival at every pin to which a path from a register leads.

        Raises
        ------
        SynthError
            There is a combinational loop.
        """
        waiting = dict(self.before)
        arrival = dict(self.starts)
        ready = [pin for pin in {*self.after, *self.starts} if not waiting.get(pin)]
        reached = 0
        while ready:
            pin = ready.pop()
            reached += 1
            here = arrival.get(pin)
            for target, ps, wire in self.after.get(pin, ()):
                if here is not None:
                    later = _Arrival(here.ps + ps, here.routing + ps * wire, here.start)
                    old = arrival.get(target)
                    if old is None or old.ps < later.ps:
                        arrival[target] = later
                waiting[target] -= 1
                if not waiting[target]:
                    ready.append(target)
        if reached < len({*self.after, *self.starts, *self.before}):
            raise SynthError("the delays of the routed design have a combinational loop: no longest path")
        return arrival


def register_paths(lines: Iterable[str], above: str = "") -> list[TimedPath]:
    """Return the longest path to each pin of a register or memory, the worst first.

    Parameters
    ----------
    lines : iterable of str
        The SDF file that nextpnr wrote.
    above : str
        The instance of the machine in the design: what lies outside belongs to the ports.
    """
    delays = _Delays()
    delays.read(lines)
    arrivals = delays.arrivals()
    worst: dict[str, TimedPath] = {}
    for pin, setup in delays.setup.items():
        here = arrivals.get(pin)
        if here is None:
            continue
        end = tidy(pin[0])
        total = here.ps + setup
        if end not in worst or worst[end].ns < total / 1000:
            worst[end] = TimedPath(
                ns=total / 1000,
                start=tidy(here.start).removeprefix(f"{above}."),
                end=end.removeprefix(f"{above}."),
                block=place_of(end, above),
                logic_ns=(total - here.routing) / 1000,
                routing_ns=here.routing / 1000,
            )
    return sorted(worst.values(), key=lambda path: (-path.ns, path.end))


def _slowest(triple: str) -> int:
    """Delay at the slowest corner: minimum, typical and maximum, with colons between."""
    return int(triple.rsplit(":", 1)[-1] or 0)
