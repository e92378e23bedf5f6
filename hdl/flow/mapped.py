# SPDX-License-Identifier: Apache-2.0
"""Modules mapped to the cells of a target, each distinct module once: an FPGA family, or a standard-cell library.

Submodules are black boxes, so the figures of a machine are sums over its hierarchy, as those of :mod:`hdl.flow.synth`.
"""

from __future__ import annotations

import json
import re
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hdl.flow.store import ModuleStore, hash_text
from hdl.flow.tree import Hierarchy
from hdl.flow.yosys import Job, SynthError, run_jobs

__all__ = ["MappedModule", "MappedModules", "Target", "is_sram"]

_SRAM = re.compile(r"(?:^|_)sram_w\d+_d\d+(?:_g\d+)?(?:_apart)?$")
_CELL = re.compile(r"^  cell \\(\S+) (\S+)$", re.MULTILINE)


def is_sram(name: str) -> bool:
    """Whether a module is a memory wrapper, whatever prefix its name has: nothing else is called so."""
    return _SRAM.search(name) is not None


class Target(ABC):
    """Cells to which modules are mapped.

    Attributes
    ----------
    name : str
        What it is called in messages.
    recipe : str
        What is done, in words: raised whenever the passes change.
    opaque_memories : bool
        Whether ``sram_*`` wrappers are left out: a macro stands for each.
    """

    name: str
    recipe: str
    opaque_memories = False

    def prepare(self, folder: Path) -> None:
        """Write the files that the passes read."""
        del folder

    @abstractmethod
    def passes(self, name: str) -> list[str]:
        """Return the passes that map module `name`, which has been read."""

    @property
    def stat(self) -> str:
        """The pass that counts cells, without ``-json``."""
        return "stat"


@dataclass(frozen=True)
class MappedModule:
    """A mapped module, without its submodules.

    Attributes
    ----------
    cells : dict of str to int
        Cells by type.
    area : float
        Area of the cells in the units of the library; 0 where it knows none.
    children : dict of str to str
        Module of each instance in it.
    seconds : float
        What mapping it took, when that was done.
    """

    cells: dict[str, int]
    area: float
    children: dict[str, str]
    seconds: float = 0.0


class MappedModules:
    """The modules of a design, mapped to a target.

    Parameters
    ----------
    texts : mapping of str to str
        Verilog text of every module by name.
    target : Target
        Cells to map to.
    cache : Path, optional
        Synthesis cache.
    timeout : float
        Seconds for one call.
    """

    def __init__(
        self, texts: Mapping[str, str], target: Target, *, cache: Path | None = None, timeout: float = 4 * 3600
    ) -> None:
        self.target = target
        self.store = ModuleStore(texts, target.recipe, cache)
        self.timeout = timeout
        self.modules: dict[str, MappedModule] = {}
        self.hierarchy = Hierarchy(lambda name: self.modules[name].children)

    @property
    def names(self) -> list[str]:
        """Modules that :meth:`run` maps or finds in the cache."""
        return [name for name in self.store.texts if not (self.target.opaque_memories and is_sram(name))]

    def run(self, names: Sequence[str] | None = None) -> Iterator[str]:
        """Map modules, all by default, and yield the name of each when it is done.

        Raises
        ------
        SynthError
            If a module cannot be mapped, or ``pyosys`` is missing.
        """
        if self.target.opaque_memories:
            self.modules |= {name: MappedModule({}, 0.0, {}) for name in self.store.texts if is_sram(name)}
        todo = []
        for name in self.names if names is None else names:
            entry = self.store.read(self.store.keys[name])
            netlist = self.store.read_text(self.store.keys[name], ".il")
            if entry is None or netlist is None or hash_text(netlist) != entry["netlist"]:
                todo.append(name)
            else:
                self.modules[name] = MappedModule(**entry["module"])
                yield name
        if not todo:
            return
        with self.store.folder() as folder:
            self.target.prepare(folder)
            self.store.write_sources(todo, folder)
            jobs = [Job(name, tuple(self._passes(name))) for name in todo]
            begin = time.monotonic()
            for job in run_jobs(jobs, folder, timeout=self.timeout):
                module = self._collect(job.name, folder, time.monotonic() - begin)
                begin = time.monotonic()
                netlist = (folder / f"{job.name}.il").read_text(encoding="utf-8")
                self.store.write_text(self.store.keys[job.name], ".il", netlist)
                entry = {"module": asdict(module), "netlist": hash_text(netlist)}
                self.store.write(self.store.keys[job.name], entry)
                self.modules[job.name] = module
                # Scratch files of a large machine would fill the disk.
                for file in folder.glob(f"{job.name}.*"):
                    if not file.name.endswith(".stub.v"):
                        file.unlink()
                yield job.name

    def netlist(self, name: str) -> str:
        """Return a mapped module in Yosys' RTLIL; submodules are instances.

        Raises
        ------
        SynthError
            It has gone from the cache.
        """
        netlist = self.store.read_text(self.store.keys[name], ".il")
        if netlist is None:
            raise SynthError(f"netlist of {name!r} has gone from the cache {self.store.cache}: remove that directory")
        return netlist

    def cells(self, name: str) -> Counter[str]:
        """Return the cells by type of module `name` and all that is in it."""
        total: Counter[str] = Counter()
        for inner, number in self.hierarchy.contents(name).items():
            for cell, times in self.modules[inner].cells.items():
                total[cell] += number * times
        return total

    def area(self, name: str) -> float:
        """Return the area of module `name` and all that is in it."""
        return sum(number * self.modules[inner].area for inner, number in self.hierarchy.contents(name).items())

    def seconds(self, name: str) -> float:
        """Return the seconds that it took to map module `name` and the modules in it, each once, when that was done."""
        return sum(self.modules[inner].seconds for inner in self.hierarchy.contents(name))

    def blocks(self, top: str) -> dict[str, dict[str, int]]:
        """Return the modules of each block and their numbers (:meth:`hdl.flow.tree.Hierarchy.blocks`)."""
        return self.hierarchy.blocks(top, is_sram)

    def _passes(self, name: str) -> list[str]:
        return [
            *self.store.read_passes(name),
            *self.target.passes(name),
            f"tee -q -o {name}.stat.json {self.target.stat} -json",
            f"write_rtlil -selected {name}.il",
        ]

    def _collect(self, name: str, folder: Path, seconds: float) -> MappedModule:
        statistics = json.loads((folder / f"{name}.stat.json").read_text(encoding="utf-8"))["modules"]
        # `stat` passes over modules without cells.
        found = statistics.get(f"\\{name}", {})
        counts: dict[str, int] = found.get("num_cells_by_type", {})
        cells = {cell: number for cell, number in counts.items() if cell not in self.store.texts}
        cells.pop("$scopeinfo", None)
        left = sorted(cell for cell in cells if cell.startswith("$"))
        if left:
            raise SynthError(
                f"module {name!r} has cells that cannot be mapped to {self.target.name}: {', '.join(left)}"
            )
        netlist = (folder / f"{name}.il").read_text(encoding="utf-8")
        children = {
            instance.lstrip("\\"): cell for cell, instance in _CELL.findall(netlist) if cell in self.store.texts
        }
        return MappedModule(cells, float(found.get("area") or 0.0), children, round(seconds, 2))
