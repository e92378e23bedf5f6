# SPDX-License-Identifier: Apache-2.0
"""Synthesis of single modules, each one once: submodules are black boxes, memories stay memories.

Results are kept in the cache of :mod:`hdl.flow.store`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hdl.flow.gates import ENABLE_MUX, GATE_SET, enabled_registers, register_bits, transistors
from hdl.flow.store import ModuleStore, hash_text
from hdl.flow.tree import Hierarchy
from hdl.flow.yosys import Job, SynthError, run_jobs

__all__ = ["LongestPath", "ModuleReport", "Synthesis"]

RECIPE = 2
"""Raised whenever the passes or the contents of a cache entry change: entries of other recipes are not used."""

_STEP = re.compile(r"^ *(?:\d+|ff): (.*?)(?: \(via .*\))?$", re.MULTILINE)
_LENGTH = re.compile(r"Longest topological path in \S+ \(length=(\d+)\)")


@dataclass(frozen=True)
class LongestPath:
    """The longest combinational path of a netlist.

    Attributes
    ----------
    levels : int
        Gates on it.
    start, end : str
        Wires at its ends: where it leaves a register, a port or a memory, and where it enters one; empty without gates.
    """

    levels: int
    start: str = ""
    end: str = ""


@dataclass(frozen=True)
class ModuleReport:
    """What one module consists of, without its submodules.

    Attributes
    ----------
    name : str
        The module.
    gates : dict of str to int
        Cells by type after mapping: gates and flip-flops.
    memory_bits : int
        Bits of the memories in it.
    multipliers : int
        Products of two variables, at word level.
    path : LongestPath
        The longest path between registers, ports, memories and submodules.
    children : dict of str to str
        Module of each instance in it.
    """

    name: str
    gates: dict[str, int]
    memory_bits: int
    multipliers: int
    path: LongestPath
    children: dict[str, str]

    @cached_property
    def cells(self) -> int:
        """Gates and flip-flops."""
        return sum(self.gates.values())

    @cached_property
    def registers(self) -> int:
        """Flip-flop bits, without the output registers of memories."""
        return register_bits(self.gates)

    @cached_property
    def transistors(self) -> int:
        """Transistors of the cells, enables as clock gates."""
        return transistors(self.gates)

    @cached_property
    def transistors_enable_mux(self) -> int:
        """Transistors of the cells, enables as a multiplexer in every bit."""
        return self.transistors + ENABLE_MUX * enabled_registers(self.gates)


class Synthesis:
    """A set of modules, their synthesis results, and the paths through several of them.

    Parameters
    ----------
    texts : mapping of str to str
        Verilog text of every module by name, as :class:`hdl.emit.design.EmittedDesign` has it.
    cache : Path, optional
        Cache directory; :func:`cache_root` by default.
    python : path
        Interpreter with ``pyosys``.
    timeout : float
        Seconds for one call.
    """

    def __init__(
        self,
        texts: Mapping[str, str],
        *,
        cache: Path | None = None,
        python: str | os.PathLike[str] = sys.executable,
        timeout: float = 3600,
    ) -> None:
        self.store = ModuleStore(texts, f"{RECIPE} {GATE_SET}", cache)
        self.python = python
        self.timeout = timeout
        self.reports: dict[str, ModuleReport] = {}
        self.hierarchy = Hierarchy(lambda name: self.reports[name].children)

    @property
    def texts(self) -> dict[str, str]:
        """Verilog of each module."""
        return self.store.texts

    @property
    def keys(self) -> dict[str, str]:
        """Key of each module in the cache."""
        return self.store.keys

    # Modules.

    def run(self, names: Sequence[str] | None = None) -> Iterator[str]:
        """Synthesise the modules `names` (all by default), and yield each name when its report is there.

        Raises
        ------
        SynthError
            If a module is not there or cannot be synthesised, or ``pyosys`` is missing.
        """
        todo = []
        for name in self.texts if names is None else names:
            if name not in self.texts:
                raise SynthError(f"module {name!r} is not in the design: its modules are {', '.join(self.texts)}")
            entry = self.store.read(self.keys[name])
            if entry is None or entry["netlist"] != self._netlist_hash(name):
                todo.append(name)
            elif name not in self.reports:
                report = entry["report"]
                self.reports[name] = ModuleReport(**{**report, "path": LongestPath(**report["path"])})
                yield name
        if not todo:
            return
        with self.store.folder() as folder:
            self.store.write_sources(todo, folder)
            jobs = [Job(name, tuple(self._passes(name))) for name in todo]
            for job in run_jobs(jobs, folder, python=self.python, timeout=self.timeout):
                report = self._collect(job.name, folder)
                netlist = (folder / f"{job.name}.il").read_text(encoding="utf-8")
                self.store.write_text(self.keys[job.name], ".il", netlist)
                entry = {"report": dataclasses.asdict(report), "netlist": hash_text(netlist)}
                self.store.write(self.keys[job.name], entry)
                self.reports[job.name] = report
                yield job.name

    def contents(self, name: str, cut: frozenset[str] = frozenset()) -> Counter[str]:
        """Return how often each module occurs in module `name`, itself included (once).

        Modules of `cut` and what is only in them are left out.
        """
        return self.hierarchy.contents(name, cut)

    # Paths through several modules.

    def run_paths(self, targets: Sequence[tuple[str, frozenset[str]]]) -> Iterator[tuple[str, LongestPath]]:
        """Flatten mapped netlists and yield each module's longest path, also across the modules in it.

        Parameters
        ----------
        targets : sequence of (str, set of str)
            A module, and modules in it that are left out: no path passes through them.  The reports of everything in
            it must be there (:meth:`run`).
        """
        todo: dict[str, frozenset[str]] = {}
        for name, cut in targets:
            entry = self.store.read(self._path_key(name, cut))
            if entry is None:
                todo[name] = cut
            else:
                yield name, LongestPath(**entry)
        if not todo:
            return
        with self.store.folder() as folder:
            for module in {module for name, cut in todo.items() for module in self.contents(name, cut)}:
                (folder / f"{module}.il").write_text(self._netlist(module), encoding="utf-8")
            jobs = []
            for name, cut in todo.items():
                # Instances of what is left out have no module here: `ltp` knows no direction of their ports.
                passes = [f"read_rtlil {module}.il" for module in self.contents(name, cut)]
                passes += [f"hierarchy -top {name}", "setattr -mod -unset keep_hierarchy", "flatten"]
                jobs.append(Job(name, (*passes, f"tee -q -o {name}.path ltp -noff")))
            for job in run_jobs(jobs, folder, python=self.python, timeout=self.timeout):
                path = _longest((folder / f"{job.name}.path").read_text(encoding="utf-8"))
                key = self._path_key(job.name, todo[job.name])
                self.store.write(key, dataclasses.asdict(path))
                yield job.name, path

    def _path_key(self, name: str, cut: frozenset[str]) -> str:
        inner = sorted((module, self.keys[module]) for module in self.contents(name, cut))
        return self.store.key_of("path 2", name, sorted(cut), inner)

    def _netlist(self, name: str) -> str:
        netlist = self.store.read_text(self.keys[name], ".il")
        if netlist is None:
            raise SynthError(f"netlist of {name!r} has gone from the cache {self.store.cache}: remove that directory")
        return netlist

    # One module in Yosys.

    def _passes(self, name: str) -> list[str]:
        return [
            *self.store.read_passes(name),
            # A table stays logic: `proc` would make memories of large ones.
            "proc -norom",
            "opt_expr",
            "opt_clean",
            f"write_json {name}.words.json",
            # As `synth` does, but memories are not turned into flip-flops, and resources are not shared: what is
            # written as two multipliers stays two.
            f"synth -top {name} -noshare -run begin:fine",
            "opt -fast -full",
            "opt -full",
            "techmap",
            "opt -fast",
            f"abc -g {GATE_SET}",
            "opt -fast",
            "opt_clean -purge",
            f"tee -q -o {name}.stat.json stat -json",
            f"tee -q -o {name}.cells select -list c:* t:$* %d",
            f"write_rtlil -selected {name}.il",
            # No path goes through a black box: what its inside does is another module's affair.
            "delete c:* t:$* %d",
            f"tee -q -o {name}.path ltp -noff",
        ]

    def _collect(self, name: str, folder: Path) -> ModuleReport:
        words = json.loads((folder / f"{name}.words.json").read_text(encoding="utf-8"))["modules"][name]
        statistics = json.loads((folder / f"{name}.stat.json").read_text(encoding="utf-8"))["modules"]
        # `stat` passes over modules without cells.
        counts: dict[str, int] = statistics.get(f"\\{name}", {}).get("num_cells_by_type", {})
        gates = {cell: number for cell, number in counts.items() if cell.startswith("$_")}
        rest = {cell for cell in counts if cell.startswith("$")} - gates.keys() - {"$mem_v2", "$scopeinfo"}
        if rest:
            raise SynthError(f"module {name!r} has cells that cannot be mapped to gates: {', '.join(sorted(rest))}")
        transistors(gates)  # refuses latches
        left = {line.split("/", 1)[1] for line in (folder / f"{name}.cells").read_text(encoding="utf-8").split()}
        children = {
            instance: cell["type"]
            for instance, cell in words["cells"].items()
            if instance in left and not cell["type"].startswith("$")
        }
        return ModuleReport(
            name=name,
            gates=gates,
            memory_bits=sum(memory["width"] * memory["size"] for memory in words.get("memories", {}).values()),
            multipliers=sum(map(_is_product, words["cells"].values())),
            path=_longest((folder / f"{name}.path").read_text(encoding="utf-8")),
            children=children,
        )

    def _netlist_hash(self, name: str) -> str:
        netlist = self.store.read_text(self.keys[name], ".il")
        return "" if netlist is None else hash_text(netlist)


def _is_product(cell: Mapping[str, Any]) -> bool:
    """Whether a word-level cell multiplies two variables: products with a constant are adders."""
    return cell["type"] == "$mul" and all(
        any(not isinstance(bit, str) for bit in cell["connections"][port]) for port in ("A", "B")
    )


def _longest(text: str) -> LongestPath:
    """Read what ``ltp`` prints: the length, and a line ``N: wire (via cell)`` for each step."""
    found = _LENGTH.search(text)
    levels = int(found[1]) if found else 0
    if levels < 1:
        return LongestPath(0)
    steps = [_wire(step) for step in _STEP.findall(text)]
    return LongestPath(levels, steps[0], steps[-1])


def _wire(text: str) -> str:
    """Name of a wire as the Verilog has it; anonymous ones of Yosys are just that."""
    name = text.removeprefix("\\").replace(" [", "[")
    return "(unnamed)" if name.startswith("$") else name
