# SPDX-License-Identifier: Apache-2.0
"""From one component to the text of its RTLIL modules, with everything that varies between machines removed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from amaranth.back import rtlil as amaranth_rtlil
from amaranth.hdl import ClockDomain, Fragment, Signal
from amaranth.hdl import _ast as ast
from amaranth.hdl import _ir as ir
from amaranth.hdl import _nir as nir
from amaranth.lib import wiring

from hdl.emit.hierarchy import CLOCK, FURTHER_OUTPUTS, MAX_BITS, RESET, EmitError, Emitter, ports_of

__all__ = ["Memory", "RtlilModule", "convert"]

_NAMED_CELL = re.compile(r"^  cell \\(\S+) ", re.MULTILINE)
_FURTHER_CELL = re.compile(rf"^  cell \\\S+ \\(\S+){FURTHER_OUTPUTS}\d+\n((?:    .*\n)*)  end\n\n?", re.MULTILINE)


@dataclass(frozen=True)
class Memory:
    """One memory of a module.

    Attributes
    ----------
    module, name : str
        Where it is.
    width, depth : int
        Bits per word, number of words.
    read_ports, write_ports : int
        Number of ports.
    zero : bool
        Whether every word starts at zero; the RTLIL then says nothing about its contents.
    """

    module: str
    name: str
    width: int
    depth: int
    read_ports: int
    write_ports: int
    zero: bool


@dataclass
class RtlilModule:
    """One RTLIL module: its text, the modules that it instantiates (with counts) and its memories."""

    name: str
    text: str = ""
    children: Counter[str] = field(default_factory=Counter)
    memories: list[Memory] = field(default_factory=list)


class _KeepTop:
    """Answers Amaranth's question whether a module without cells may be left out: the top never may.

    A component that only renames its inputs has no cells, and Amaranth would write nothing for it; but its parent
    refers to it.
    """

    def __init__(self, netlist: Any) -> None:
        self._checker = amaranth_rtlil.EmptyModuleChecker(netlist)

    def is_empty(self, module_idx: int) -> bool:
        return module_idx != 0 and bool(self._checker.is_empty(module_idx))


class _ModuleEmitter(amaranth_rtlil.ModuleEmitter):
    """Amaranth's emitter, less what makes the text long without saying anything."""

    def emit_signal_fields(self) -> None:
        """Leave out the wires that repeat each field of each struct; the manifest has the layouts."""

    def emit_memory(self, cell_idx: int, cell: Any) -> None:
        """Leave out contents of nothing but zeros: a V-Cache bank would be a million digits."""
        if any(cell.init):
            super().emit_memory(cell_idx, cell)


def convert(component: wiring.Component, name: str, emitter: Emitter) -> list[RtlilModule]:
    """Elaborate `component` and return its RTLIL, with instances for the children that it registers at `emitter`.

    The first module is called `name`; inline modules of the component follow, their names beginning with ``name`` and
    two underscores.

    Raises
    ------
    EmitError
        If the component is too wide for Amaranth, or uses a clock domain that its parent cannot supply.
    """
    ports = ports_of(component)
    inputs = sum(port.width for port in ports if port.direction == "input") + 2
    if inputs > MAX_BITS:
        raise EmitError(
            f"the inputs of {type(component).__name__} have {inputs} bits, more than Amaranth's {MAX_BITS}: make it a "
            "StructuralComponent, or move wide sources into the module that uses them"
        )
    fragment = Fragment.get(component, emitter)
    if "sync" in fragment.domains:
        raise EmitError(f"{type(component).__name__} defines the clock domain 'sync', which its parent provides")
    domain = ClockDomain("sync")
    fragment.add_domains(domain)

    directions = {"input": ir.PortDirection.Input, "output": ir.PortDirection.Output}
    connections = {CLOCK: (domain.clk, directions["input"]), RESET: (domain.rst, directions["input"])}
    for port in ports:
        if isinstance(port.value, Signal):
            port.value.name = port.name  # undo what instantiate() did in the parent
        connections[port.name] = (port.value, directions[port.direction])

    # From here on this is amaranth.back.rtlil.convert_fragment, with the two changes above.
    def missing_domain(missing: str) -> ClockDomain:
        raise EmitError(
            f"{type(component).__name__} uses the clock domain {missing!r}, but only 'sync' crosses module boundaries: "
            "define the domain inside, or rename it with DomainRenamer"
        )

    netlist = ir.build_netlist(fragment, ports=connections, name=name, missing_domain=missing_domain)
    keep = _KeepTop(netlist)
    name_map: Any = ast.SignalDict()
    return [
        _emit_module(netlist, module, name, keep, name_map)
        for index, module in enumerate(netlist.modules)
        if not keep.is_empty(index)
    ]


def _emit_module(netlist: Any, module: Any, top: str, keep: _KeepTop, name_map: Any) -> RtlilModule:
    """Emit one module of a netlist, its name made a legal Verilog identifier."""

    def flat(name: tuple[str, ...]) -> str:
        return top if len(name) == 1 else top + "__" + re.sub(r"\W", "_", "__".join(name[1:]))

    inline = {".".join(netlist.modules[index].name): flat(netlist.modules[index].name) for index in module.submodules}
    result = RtlilModule(flat(module.name))
    builder = amaranth_rtlil.Design(emit_src=False)
    target = builder.module(result.name, src_loc=None)
    _ModuleEmitter(target, netlist, module, name_map, empty_checker=keep).emit()
    text = re.sub(r'^ *attribute \\generator "Amaranth"\n', "", str(builder), count=1, flags=re.MULTILINE)
    text = _NAMED_CELL.sub(lambda found: f"  cell \\{inline.get(found[1], found[1])} ", text)
    result.text = _join_cells(text) if FURTHER_OUTPUTS in text else text
    result.children = Counter(found[1] for found in _NAMED_CELL.finditer(result.text))
    result.memories = list(_memories(netlist, module, result.name))
    return result


def _join_cells(text: str) -> str:
    """Put the outputs that :func:`hdl.emit.hierarchy.instantiate` hung on further cells back on the instance."""
    connections: dict[str, str] = {}

    def take(found: re.Match[str]) -> str:
        connections[found[1]] = connections.get(found[1], "") + found[2]
        return ""

    text = _FURTHER_CELL.sub(take, text)
    for name, lines in connections.items():
        text, joined = re.subn(
            rf"^(  cell \\\S+ \\{re.escape(name)}\n(?:    .*\n)*)(?=  end\n)",
            lambda found, lines=lines: found[1] + lines,  # type: ignore[misc]
            text,
            flags=re.MULTILINE,
        )
        assert joined == 1, f"the cell {name} is missing in the RTLIL text"
    return text


def _memories(netlist: Any, module: Any, name: str) -> Iterator[Memory]:
    for index in module.cells:
        cell = netlist.cells[index]
        if not isinstance(cell, nir.Memory):
            continue
        users = [other for other in netlist.cells if getattr(other, "memory", None) == index]
        writes = sum(isinstance(user, nir.SyncWritePort) for user in users)
        yield Memory(name, cell.name, cell.width, cell.depth, len(users) - writes, writes, not any(cell.init))
