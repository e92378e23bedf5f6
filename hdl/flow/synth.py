# SPDX-License-Identifier: Apache-2.0
"""Synthesis of a whole machine: totals, and a table of its blocks.

Every distinct module is synthesised once (:mod:`hdl.flow.modules`); the totals are sums over the hierarchy, instances
times module.  Nothing is optimised across module boundaries, so they are a little pessimistic.  Longest paths do cross
the boundaries: the mapped netlists are flattened and the gates counted.  From what would be larger than
:data:`FLATTEN_CELLS` the largest parts are taken out first; their own paths are counted, those through them are not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hdl.flow.modules import LongestPath, ModuleReport, Synthesis

__all__ = ["FLATTEN_CELLS", "Block", "MachineSynthesis", "Totals"]

FLATTEN_CELLS = 500_000
"""Largest netlist, in cells, that is flattened to find its longest path."""


@dataclass(frozen=True)
class Totals:
    """What a block consists of, everything in it included.

    Attributes
    ----------
    cells, registers, memory_bits, multipliers, transistors : int
        See :class:`hdl.flow.modules.ModuleReport`.
    longest_path_levels : int
        Gates on the longest path.
    longest_path_method : str
        ``flattened``, or what the paths were not followed through.
    longest_path_start, longest_path_end : str
        Wires at the ends of the path.
    """

    cells: int
    registers: int
    memory_bits: int
    multipliers: int
    transistors: int
    longest_path_levels: int
    longest_path_method: str
    longest_path_start: str
    longest_path_end: str


@dataclass(frozen=True)
class Block:
    """A block of the machine.

    Attributes
    ----------
    name : str
        Where it is: instance names without their numbers, with ``/``; ``stack/tier/row/pe``.
    instances : int
        How often it occurs in the machine.
    total : Totals
        All instances together (the longest path is that of the worst one).
    """

    name: str
    instances: int
    total: Totals


class MachineSynthesis:
    """Synthesis of a machine.

    Parameters
    ----------
    texts : mapping of str to str
        Verilog of each module.
    top : str
        Top module.
    cache : Path, optional
        Synthesis cache.
    flatten_cells : int
        See :data:`FLATTEN_CELLS`.
    """

    def __init__(
        self, texts: Mapping[str, str], top: str, *, cache: Path | None = None, flatten_cells: int = FLATTEN_CELLS
    ) -> None:
        self.top = top
        self.flatten_cells = flatten_cells
        self.synthesis = Synthesis(texts, cache=cache)
        self._paths: dict[str, LongestPath] = {}
        self._cuts: dict[str, frozenset[str]] = {}

    @property
    def modules(self) -> int:
        """Number of modules that :meth:`run` synthesises or finds in the cache."""
        return len(self.synthesis.texts)

    def run(self) -> Iterator[str]:
        """Synthesise every module; yields the name of each that is done."""
        return self.synthesis.run()

    def targets(self) -> list[str]:
        """Return the modules whose longest paths :meth:`find_paths` looks for; needs :meth:`run`."""
        todo = [self.top, *(module for block in self._tree().values() for module in block)]
        self._cuts = {}
        while todo:
            module = todo.pop()
            if module not in self._cuts:
                self._cuts[module] = self._cut(module)
                todo += self._cuts[module]
        return sorted(self._cuts, key=lambda module: (self._cells(module, self._cuts[module]), module))

    def find_paths(self) -> Iterator[str]:
        """Find the longest paths of the machine and its blocks; yields the name of each module that is done."""
        targets = [(module, self._cuts[module]) for module in self.targets()]
        for module, path in self.synthesis.run_paths(targets):
            self._paths[module] = path
            yield module

    def totals(self) -> Totals:
        """Return the totals of the machine; needs :meth:`run` and :meth:`find_paths`."""
        return self._total({self.top: 1})

    def blocks(self) -> list[Block]:
        """Return the blocks, each before its parts; needs :meth:`run` and :meth:`find_paths`."""
        return [Block(name, sum(found.values()), self._total(found)) for name, found in self._tree().items()]

    def _tree(self) -> dict[str, dict[str, int]]:
        """Modules and their numbers by block name; memories are no blocks, their bits are counted."""
        return self.synthesis.hierarchy.blocks(
            self.top, lambda module: bool(self._report(module).memory_bits and not self._report(module).gates)
        )

    def _report(self, module: str) -> ModuleReport:
        return self.synthesis.reports[module]

    def _cells(self, module: str, cut: frozenset[str] = frozenset()) -> int:
        inner = self.synthesis.contents(module, cut)
        return sum(number * self._report(name).cells for name, number in inner.items())

    def _cut(self, module: str) -> frozenset[str]:
        """Modules to take out of `module` so that the rest is small enough to be flattened."""
        cut: frozenset[str] = frozenset()
        while self._cells(module, cut) > self.flatten_cells:
            children = Counter(self._report(module).children.values())
            sizes = {child: number * self._cells(child) for child, number in children.items() if child not in cut}
            if not sizes:
                break
            cut |= {max(sizes, key=lambda child: (sizes[child], child))}
        return cut

    def _total(self, modules: Mapping[str, int]) -> Totals:
        cells = registers = memory_bits = multipliers = transistors = 0
        for module, times in modules.items():
            for inner, number in self.synthesis.contents(module).items():
                report = self._report(inner)
                cells += times * number * report.cells
                registers += times * number * report.registers
                memory_bits += times * number * report.memory_bits
                multipliers += times * number * report.multipliers
                transistors += times * number * report.transistors
        method, path = self._longest(modules)
        return Totals(
            cells, registers, memory_bits, multipliers, transistors, path.levels, method, path.start, path.end
        )

    def _longest(self, modules: Mapping[str, int]) -> tuple[str, LongestPath]:
        """Return how the longest path in any of `modules` was found, and the path."""
        todo, seen = list(modules), set(modules)
        while todo:
            for module in self._cuts[todo.pop()] - seen:
                seen.add(module)
                todo.append(module)
        apart = seen - set(modules)
        found = max(seen, key=lambda module: (self._paths[module].levels, module not in apart, module))
        path = self._paths[found]
        if not apart:
            return "flattened", path
        if found in apart:
            # Names are those inside the module where the path is.
            path = LongestPath(path.levels, f"{found}: {path.start}", f"{found}: {path.end}")
        places = sorted({self._place(inner) for module in modules for inner in self._cuts[module]})
        return f"not through {', '.join(places)}", path

    def _place(self, module: str) -> str:
        """Name of the block that consists of `module`, else the module's."""
        return next((name for name, found in self._tree().items() if module in found), module)
