# SPDX-License-Identifier: Apache-2.0
"""A machine on an ECP5: what it takes of the part, and its timing once it is placed and routed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hdl.flow.ecp5 import Ecp5, Part, Resources, check_fit, flatten, too_much
from hdl.flow.mapped import MappedModules
from hdl.flow.nextpnr import DELAYS, Options, find_nextpnr, place_and_route, read_report
from hdl.flow.sdf import register_paths
from hdl.flow.store import hash_text
from hdl.flow.timing import TimedPath, worst_by_block
from hdl.flow.wrapper import INSTANCE

__all__ = ["FpgaSynthesis", "Placed"]

SLACK_OF_SUMS = 1.25
"""Modules that are mapped alone take at most so much more than the machine does, flattened: nothing is optimised across
their boundaries.  What is larger than a part by more is refused before it is flattened."""

MOST_ENDS = 50
"""Worst paths that are kept."""


@dataclass(frozen=True)
class Placed:
    """A machine that has been placed and routed.

    Attributes
    ----------
    resources : Resources
        What the flat netlist takes, with the registers at the ports that stand for the pins.
    used, available : dict of str to int
        What nextpnr counts, by its kinds.
    worst : TimedPath
        The critical path.
    blocks : list of TimedPath
        The worst path of each block in which paths end.
    ends : list of TimedPath
        The worst paths, one for each register.
    synth_s, route_s : float
        Seconds of synthesis, and of place and route.
    """

    resources: Resources
    used: dict[str, int]
    available: dict[str, int]
    worst: TimedPath
    blocks: list[TimedPath]
    ends: list[TimedPath]
    synth_s: float
    route_s: float


class FpgaSynthesis:
    """Synthesis of a machine for an ECP5.

    Parameters
    ----------
    texts : mapping of str to str
        Verilog of each module.
    top : str
        Top module.
    lut_products : int
        See :class:`hdl.flow.ecp5.Ecp5`.
    cache : Path, optional
        Synthesis cache.
    """

    def __init__(self, texts: Mapping[str, str], top: str, *, lut_products: int = 0, cache: Path | None = None) -> None:
        self.top = top
        self.lut_products = lut_products
        self.mapped = MappedModules(texts, Ecp5(lut_products), cache=cache)
        self.placed: Placed | None = None

    def resources(self, module: str | None = None) -> Resources:
        """Return what the machine, or a module of it, takes: the sum of its modules."""
        return Resources.of(self.mapped.cells(module or self.top))

    def blocks(self) -> list[tuple[str, int, Resources]]:
        """Return the blocks: name, number of instances, what all of them take."""
        found = []
        for name, modules in self.mapped.blocks(self.top).items():
            cells = [(times, self.mapped.cells(module)) for module, times in modules.items()]
            total: dict[str, int] = {}
            for times, counts in cells:
                for cell, number in counts.items():
                    total[cell] = total.get(cell, 0) + times * number
            found.append((name, sum(modules.values()), Resources.of(total)))
        return found

    def check_fit(self, what: str, part: Part) -> None:
        """Check, before anything slow is done, that the machine may fit a part.

        Raises
        ------
        A3dError
            It does not, by far.
        """
        found = self.resources()
        soft = replace(
            found,
            luts=int(found.luts / SLACK_OF_SUMS),
            carries=int(found.carries / SLACK_OF_SUMS),
            ffs=int(found.ffs / SLACK_OF_SUMS),
            lutrams=int(found.lutrams / SLACK_OF_SUMS),
        )
        if too_much(soft, part):
            check_fit(what, found, part)

    def place(self, what: str, part: Part, options: Options) -> Iterator[str]:
        """Flatten, place and route the machine; yields what is being done, and leaves :attr:`placed`.

        Raises
        ------
        A3dError
            It does not fit the part, nextpnr is missing, or a tool fails.
        """
        key = self._key(part, options)
        entry = self.mapped.store.read(key)
        if entry is not None:
            self.placed = _placed(entry)
            return
        find_nextpnr()
        with self.mapped.store.folder() as folder:
            yield "synthesising, flat"
            begin = time.monotonic()
            flatten(self.mapped.store.texts, self.top, folder, self.lut_products, timeout=self.mapped.timeout)
            synth_s = time.monotonic() - begin
            statistics = json.loads((folder / "cells.json").read_text(encoding="utf-8"))
            resources = Resources.of(statistics["design"]["num_cells_by_type"])
            check_fit(what, resources, part)
            begin = time.monotonic()
            yield from place_and_route(folder, part, options)
            route_s = time.monotonic() - begin
            yield "reading delays"
            routed = read_report(folder)
            with (folder / DELAYS).open(encoding="utf-8") as lines:
                paths = register_paths(lines, INSTANCE)
        self.placed = Placed(
            resources, routed.used, routed.available, routed.path, worst_by_block(paths), paths[:MOST_ENDS],
            round(synth_s, 1), round(route_s, 1),
        )  # fmt: skip
        self.mapped.store.write(key, asdict(self.placed))

    def _key(self, part: Part, options: Options) -> str:
        inside = hash_text("\0".join(self.mapped.store.texts.values()))
        return self.mapped.store.key_of("routed 2", self.top, part.name, asdict(options), inside)


def _placed(entry: dict[str, Any]) -> Placed:
    """Return what an entry of the cache says."""
    paths = {name: [TimedPath(**path) for path in entry[name]] for name in ("blocks", "ends")}
    return Placed(
        **{**entry, **paths, "resources": Resources(**entry["resources"]), "worst": TimedPath(**entry["worst"])}
    )
