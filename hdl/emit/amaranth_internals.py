# SPDX-License-Identifier: Apache-2.0
"""All that touches private parts of Amaranth, behind functions with types.

Amaranth makes no promises about these parts: ``pyproject.toml`` pins the versions, and
``tests/hdl/emit/test_amaranth_internals.py`` says what is relied on and that nobody else relies on such things.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from amaranth.back import rtlil
from amaranth.hdl import ClockDomain, Fragment, Value
from amaranth.hdl import _ast as ast
from amaranth.hdl import _ir as ir
from amaranth.hdl import _nir as nir
from amaranth.lib import wiring

__all__ = [
    "CombinationalCycle", "NetlistMemory", "NetlistModule", "concatenated", "fast_netlist", "mark_used",
    "netlist_modules", "reinterpreted", "sliced",
]  # fmt: skip

CombinationalCycle: type[Exception] = nir.CombinationalCycle
"""What Amaranth raises when a signal depends on itself without a register between."""


def mark_used(component: wiring.Component) -> None:
    """Tell Amaranth that `component` serves a purpose although it is never elaborated.

    Amaranth warns (``UnusedElaboratable``) about components that nobody turned into a submodule.  All but one of the
    components that share a module key are only a bundle of wires in their parent, which is exactly that.
    """
    component._MustUse__used = True


def concatenated(value: Value) -> tuple[Value, ...] | None:
    """Return the parts of a ``Cat``, least significant first, or None for another value."""
    return tuple(value.parts) if isinstance(value, ast.Concat) else None


def sliced(value: Value) -> tuple[Value, int, int] | None:
    """Return what a slice is cut from, its first bit and the bit after its last, or None for another value."""
    return (value.value, value.start, value.stop) if isinstance(value, ast.Slice) else None


def reinterpreted(value: Value) -> Value | None:
    """Return what ``as_signed`` or ``as_unsigned`` was applied to, or None for another value."""
    if isinstance(value, ast.Operator) and value.operator in ("u", "s"):
        operand: Value = value.operands[0]
        return operand
    return None


@dataclass(frozen=True)
class NetlistMemory:
    """A memory of a netlist's module; ``zero``: every word starts at zero, and the RTLIL says nothing about it."""

    name: str
    width: int
    depth: int
    read_ports: int
    write_ports: int
    zero: bool


@dataclass(frozen=True)
class NetlistModule:
    """A module of a netlist.

    Attributes
    ----------
    name : str
        Its name.
    rtlil : str
        Its text; cells of submodules name their paths, joined with dots.
    submodules : tuple of tuple of str
        Paths of the modules below it.
    memories : tuple of NetlistMemory
        Its memories.
    """

    name: str
    rtlil: str
    submodules: tuple[tuple[str, ...], ...]
    memories: tuple[NetlistMemory, ...]


def netlist_modules(
    fragment: Fragment,
    name: str,
    ports: Mapping[str, tuple[Value, Literal["input", "output"]]],
    missing_domain: Callable[[str], ClockDomain],
    name_of: Callable[[tuple[str, ...]], str],
) -> list[NetlistModule]:
    """Make a netlist of an elaborated component, and return its modules but those without contents, the top first.

    Parameters
    ----------
    fragment : Fragment
        The component, elaborated.
    name : str
        Of its module.
    ports : mapping of str to (Value, direction)
        Its ports by name.
    missing_domain : function of a name
        What to do about a clock domain that it does not define.
    name_of : function of a path
        Returns the name of a module, given the names from the top to it.
    """
    directions = {"input": ir.PortDirection.Input, "output": ir.PortDirection.Output}
    connections = {port: (value, directions[direction]) for port, (value, direction) in ports.items()}
    with fast_netlist():
        # As amaranth.back.rtlil.convert_fragment does.
        netlist = ir.build_netlist(fragment, ports=connections, name=name, missing_domain=missing_domain)
        # Amaranth leaves out inline modules without a cell; the top always has one, so that it is always there.
        empty = rtlil.EmptyModuleChecker(netlist)
        names: Any = ast.SignalDict()
        return [
            NetlistModule(
                name_of(module.name),
                _rtlil(netlist, module, name_of(module.name), empty, names),
                tuple(netlist.modules[below].name for below in module.submodules),
                tuple(_memories(netlist, module)),
            )
            for index, module in enumerate(netlist.modules)
            if not empty.is_empty(index)
        ]


class _ModuleEmitter(rtlil.ModuleEmitter):
    """Amaranth's emitter, less what makes the text long without saying anything."""

    def emit_signal_fields(self) -> None:
        """Leave out the wires that repeat each field of each struct; the manifest has the layouts."""

    def emit_memory(self, cell_idx: int, cell: Any) -> None:
        """Leave out contents of nothing but zeros: a V-Cache bank would be a million digits."""
        if any(cell.init):
            super().emit_memory(cell_idx, cell)


def _rtlil(netlist: Any, module: Any, name: str, empty: Any, names: Any) -> str:
    builder = rtlil.Design(emit_src=False)
    target = builder.module(name, src_loc=None)
    _ModuleEmitter(target, netlist, module, names, empty_checker=empty).emit()
    return re.sub(r'^ *attribute \\generator "Amaranth"\n', "", str(builder), count=1, flags=re.MULTILINE)


def _memories(netlist: Any, module: Any) -> Iterator[NetlistMemory]:
    for index in module.cells:
        cell = netlist.cells[index]
        if not isinstance(cell, nir.Memory):
            continue
        users = [other for other in netlist.cells if getattr(other, "memory", None) == index]
        writes = sum(isinstance(user, nir.SyncWritePort) for user in users)
        yield NetlistMemory(cell.name, cell.width, cell.depth, len(users) - writes, writes, not any(cell.init))


@contextmanager
def fast_netlist() -> Iterator[None]:
    """Spare Amaranth work that is quadratic in the width of a bus, for the duration of one conversion.

    - A value of n bits is a tuple whose every bit is checked for its type by a Python generator, in every slice anew.
      With buses of 16,384 bits this is nine tenths of a conversion.  It cannot fail for what Amaranth itself passes.
    - A constant of n bits is shifted n times.
    - The search for combinational cycles takes every bit of a selected word to depend on every bit of the bus.  Bit b
      of a word depends on bit b of each word (and on the sign).
    - The same search goes through all partial assignments of a signal (one per byte, say) for every one of its bits.

    All four give the same netlist; ``tests/hdl/emit/test_amaranth_internals.py`` compares.
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
