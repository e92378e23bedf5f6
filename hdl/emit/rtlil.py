# SPDX-License-Identifier: Apache-2.0
"""From one component to the text of its RTLIL modules, with everything that varies between machines removed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from amaranth.hdl import ClockDomain, Fragment, Signal, Value
from amaranth.lib import wiring

from hdl.emit.amaranth_internals import NetlistModule, netlist_modules
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
    lane : int
        Bits that are written together; 0: unknown, the module is no wrapper of a memory.
    collision : str
        What a read gets that meets a write, as :class:`hdl.emit.memory_contract.Collision` calls it; empty: unknown.
    """

    module: str
    name: str
    width: int
    depth: int
    read_ports: int
    write_ports: int
    zero: bool
    lane: int = 0
    collision: str = ""


@dataclass
class RtlilModule:
    """One RTLIL module: its text, the modules that it instantiates (with counts) and its memories."""

    name: str
    text: str = ""
    children: Counter[str] = field(default_factory=Counter)
    memories: list[Memory] = field(default_factory=list)


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
    connections: dict[str, tuple[Value, Literal["input", "output"]]] = {
        CLOCK: (domain.clk, "input"),
        RESET: (domain.rst, "input"),
    }
    for port in ports:
        if isinstance(port.value, Signal):
            port.value.name = port.name  # undo what instantiate() did in the parent
        connections[port.name] = (port.value, port.direction)

    def missing_domain(missing: str) -> ClockDomain:
        raise EmitError(
            f"{type(component).__name__} uses the clock domain {missing!r}, but only 'sync' crosses module boundaries: "
            "define the domain inside, or rename it with DomainRenamer"
        )

    def flat(path: tuple[str, ...]) -> str:
        """Return the name of a module as a legal Verilog identifier."""
        return name if len(path) == 1 else name + "__" + re.sub(r"\W", "_", "__".join(path[1:]))

    modules = netlist_modules(fragment, name, connections, missing_domain, flat)
    return [_finished(module, flat) for module in modules]


def _finished(module: NetlistModule, flat: Callable[[tuple[str, ...]], str]) -> RtlilModule:
    """Return one module of a netlist, its cells named after their modules."""
    inline = {".".join(path): flat(path) for path in module.submodules}
    result = RtlilModule(module.name)
    text = _NAMED_CELL.sub(lambda found: f"  cell \\{inline.get(found[1], found[1])} ", module.rtlil)
    result.text = _join_cells(text) if FURTHER_OUTPUTS in text else text
    result.children = Counter(found[1] for found in _NAMED_CELL.finditer(result.text))
    result.memories = [Memory(result.name, **vars(memory)) for memory in module.memories]
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
