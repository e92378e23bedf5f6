# SPDX-License-Identifier: Apache-2.0
"""From one component to the text of its RTLIL modules, with everything that varies between machines removed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from amaranth.back import rtlil as amaranth_rtlil
from amaranth.hdl import ClockDomain, Fragment, Signal
from amaranth.hdl import _ast as ast
from amaranth.hdl import _ir as ir
from amaranth.hdl import _nir as nir
from amaranth.lib import wiring

from hdl.emit.hierarchy import CLOCK, FURTHER_OUTPUTS, MAX_BITS, RESET, EmitError, Emitter, Port, ports_of

__all__ = ["Memory", "RtlilModule", "convert", "prepare"]

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


class _ModuleEmitter(amaranth_rtlil.ModuleEmitter):
    """Amaranth's emitter, less what makes the text long without saying anything."""

    def emit_signal_fields(self) -> None:
        """Leave out the wires that repeat each field of each struct; the manifest has the layouts."""

    def emit_memory(self, cell_idx: int, cell: Any) -> None:
        """Leave out contents of nothing but zeros: a V-Cache bank would be a million digits."""
        if any(cell.init):
            super().emit_memory(cell_idx, cell)


def convert(component: wiring.Component, name: str, emitter: Emitter) -> list[RtlilModule]:
    """Elaborate `component` and return its RTLIL; see :func:`prepare`."""
    return prepare(component, name, emitter)()


def prepare(component: wiring.Component, name: str, emitter: Emitter) -> Callable[[], list[RtlilModule]]:
    """Elaborate `component`, and return what makes its RTLIL, with instances for the children registered at `emitter`.

    What is returned needs the emitter no more, so that several conversions may run in different processes. In one
    process parents must come before their children: both name the ports that they share.

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
    return lambda: _finish(component, name, ports, fragment, domain)


def _finish(
    component: wiring.Component, name: str, ports: Sequence[Port], fragment: Fragment, domain: ClockDomain
) -> list[RtlilModule]:
    """Return the RTLIL of an elaborated component."""
    directions = {"input": ir.PortDirection.Input, "output": ir.PortDirection.Output}
    connections = {CLOCK: (domain.clk, directions["input"]), RESET: (domain.rst, directions["input"])}
    for port in ports:
        if isinstance(port.value, Signal):
            port.value.name = port.name  # undo what instantiate() did in the parent
        connections[port.name] = (port.value, directions[port.direction])

    # From here on this is amaranth.back.rtlil.convert_fragment, with the changes above.
    def missing_domain(missing: str) -> ClockDomain:
        raise EmitError(
            f"{type(component).__name__} uses the clock domain {missing!r}, but only 'sync' crosses module boundaries: "
            "define the domain inside, or rename it with DomainRenamer"
        )

    with _fast_netlist():
        netlist = ir.build_netlist(fragment, ports=connections, name=name, missing_domain=missing_domain)
        # Amaranth leaves out inline modules without a cell; the top always has one, so that it is always there.
        empty = amaranth_rtlil.EmptyModuleChecker(netlist)
        name_map: Any = ast.SignalDict()
        return [
            _emit_module(netlist, module, name, empty, name_map)
            for index, module in enumerate(netlist.modules)
            if not empty.is_empty(index)
        ]


@contextmanager
def _fast_netlist() -> Iterator[None]:
    """Spare Amaranth work that is quadratic in the width of a bus, for the duration of one conversion.

    - A value of n bits is a tuple whose every bit is checked for its type by a Python generator, in every slice anew.
      With buses of 16,384 bits this is nine tenths of a conversion.  It cannot fail for what Amaranth itself passes.
    - A constant of n bits is shifted n times.
    - The search for combinational cycles takes every bit of a selected word to depend on every bit of the bus.  Bit b
      of a word depends on bit b of each word (and on the sign).
    - The same search goes through all partial assignments of a signal (one per byte, say) for every one of its bits.

    All four give the same netlist; ``tests/hdl/emit/test_rtlil.py`` compares.
    """
    zero, one = nir.Net(0), nir.Net(1)

    def unchecked(cls: Any, nets: Any = ()) -> Any:
        return tuple.__new__(cls, (nets,) if isinstance(nets, nir.Net) else nets)

    def edges(part: Any, bit: int) -> Iterator[tuple[Any, Any]]:
        sign = part.value[-1:] if part.value_signed else ()
        for net in (*part.value[bit :: part.stride], *sign, *part.offset):
            yield net, part.src_loc

    def constant(cls: Any, value: int, width: int) -> Any:
        digits = format(value & ((1 << width) - 1), f"0{width}b") if width else ""
        return tuple.__new__(cls, [one if digit == "1" else zero for digit in reversed(digits)])

    def assignments(cell: Any, bit: int) -> Iterator[tuple[Any, Any]]:
        index: list[list[Any]] | None = cell.__dict__.get("a3d_index")
        if index is None:
            index = cell.__dict__["a3d_index"] = [[] for _ in cell.default]
            for assignment in cell.assignments:
                for target in range(assignment.start, assignment.start + len(assignment.value)):
                    index[target].append(assignment)
        yield cell.default[bit], cell.src_loc
        for assignment in index[bit]:
            yield assignment.cond, assignment.src_loc
            yield assignment.value[bit - assignment.start], assignment.src_loc

    replacements = [
        (nir.Value, "__new__", staticmethod(unchecked)),
        (nir.Value, "from_const", classmethod(constant)),
        (nir.Part, "comb_edges_to", edges),
        (nir.AssignmentList, "comb_edges_to", assignments),
    ]
    originals = [(owner, name, owner.__dict__[name]) for owner, name, _ in replacements]
    try:
        for owner, name, replacement in replacements:
            setattr(owner, name, replacement)
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


def _emit_module(netlist: Any, module: Any, top: str, empty: Any, name_map: Any) -> RtlilModule:
    """Emit one module of a netlist, its name made a legal Verilog identifier."""

    def flat(name: tuple[str, ...]) -> str:
        return top if len(name) == 1 else top + "__" + re.sub(r"\W", "_", "__".join(name[1:]))

    inline = {".".join(netlist.modules[index].name): flat(netlist.modules[index].name) for index in module.submodules}
    result = RtlilModule(flat(module.name))
    builder = amaranth_rtlil.Design(emit_src=False)
    target = builder.module(result.name, src_loc=None)
    _ModuleEmitter(target, netlist, module, name_map, empty_checker=empty).emit()
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
