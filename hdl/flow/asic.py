# SPDX-License-Identifier: Apache-2.0
"""A machine of standard cells: area and cells of its blocks, and the worst path of each, without wires."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hdl.flow.liberty import Liberty
from hdl.flow.mapped import MappedModules
from hdl.flow.opensta import time_modules
from hdl.flow.timing import TimedPath, worst_by_block

__all__ = ["AsicBlock", "AsicSynthesis"]

TIMED_CELLS = 500_000
"""Largest netlist, in cells, that is timed as a whole: of larger ones, the blocks in them are."""

FLAT_CELLS = 200_000
"""Largest machine that is flattened before it is mapped to be timed: minutes; of larger ones, mapped modules are."""

MOST_ENDS = 50_000
"""End points of the machine that are looked at, for the worst of each block."""

KEPT_ENDS = 50
"""Worst paths that are kept."""


@dataclass(frozen=True)
class AsicBlock:
    """A block of the machine.

    Attributes
    ----------
    name : str
        Its name, as in :mod:`hdl.flow.synth`.
    instances : int
        How often it is there.
    cells : int
        Cells of all instances, with everything in them but memories.
    area_um2 : float
        Their area.
    path : TimedPath, optional
        Longest path of one alone, from registers and ports to registers and ports; None if there is none, or it was not
        timed.
    """

    name: str
    instances: int
    cells: int
    area_um2: float
    path: TimedPath | None


class AsicSynthesis:
    """Synthesis of a machine for the cells of a liberty file.

    Parameters
    ----------
    texts : mapping of str to str
        Verilog of each module.
    top : str
        Top module.
    liberty : Liberty
        The cells.
    cache : Path, optional
        Synthesis cache.
    """

    def __init__(self, texts: Mapping[str, str], top: str, liberty: Liberty, *, cache: Path | None = None) -> None:
        self.top = top
        self.liberty = liberty
        self.mapped = MappedModules(texts, liberty, cache=cache)
        self.timed: dict[str, list[TimedPath]] = {}
        self.timing_s = 0.0

    @property
    def cells(self) -> int:
        """Cells of the machine, without memories."""
        return self._cells(self.top)

    @property
    def area_um2(self) -> float:
        """Area of those cells."""
        return self.mapped.area(self.top)

    @property
    def seconds(self) -> float:
        """Seconds of mapping and timing, whenever they were done."""
        return round(self.mapped.seconds(self.top) + self.timing_s, 1)

    @property
    def worst(self) -> TimedPath | None:
        """The longest path: of the whole machine, or of the worst block where that is too large to be timed whole."""
        if self.top in self.timed:
            return next(iter(self.timed[self.top]), None)
        paths = [path for found in self.timed.values() for path in found[:1]]
        return max(paths, key=lambda path: path.ns, default=None)

    @property
    def whole(self) -> bool:
        """Whether the machine is small enough to be timed as a whole."""
        return self.cells <= TIMED_CELLS

    @property
    def flat(self) -> bool:
        """Whether the machine is small enough to be flattened before it is mapped to be timed."""
        return self.cells <= FLAT_CELLS

    def targets(self) -> list[str]:
        """Return the modules that :meth:`time` looks at, the machine last; needs the mapped modules."""
        blocks = {module for modules in self.mapped.blocks(self.top).values() for module in modules}
        small = [module for module in blocks if self._cells(module) <= TIMED_CELLS]
        return [*sorted(small, key=lambda module: (self._cells(module), module)), *([self.top] if self.whole else [])]

    def time(self) -> Iterator[str]:
        """Time the blocks and the machine; yields the name of each module that is done.

        Raises
        ------
        SynthError
            OpenSTA is missing or fails.
        """
        begin = time.monotonic()
        flat = [self.top] if self.flat else []
        for module, paths in time_modules(self.mapped, self.targets(), ends={self.top: MOST_ENDS}, flat=flat):
            self.timed[module] = paths
            yield module
        self.timing_s = time.monotonic() - begin

    def blocks(self) -> list[AsicBlock]:
        """Return the blocks of the machine."""
        found = []
        for name, modules in self.mapped.blocks(self.top).items():
            cells = sum(times * self._cells(module) for module, times in modules.items())
            area = sum(times * self.mapped.area(module) for module, times in modules.items())
            paths = [path for module in modules for path in self.timed.get(module, [])[:1]]
            worst = max(paths, key=lambda path: path.ns, default=None)
            found.append(AsicBlock(name, sum(modules.values()), cells, round(area, 1), worst))
        return found

    def ends(self) -> list[TimedPath]:
        """Return the worst paths of the whole machine, one for each register."""
        return self.timed.get(self.top, [])[:KEPT_ENDS]

    def worst_ends(self) -> list[TimedPath]:
        """Return the worst path of the whole machine that ends in each block."""
        return worst_by_block(self.timed.get(self.top, []))

    def _cells(self, module: str) -> int:
        return sum(self.mapped.cells(module).values())
