# SPDX-License-Identifier: Apache-2.0
"""Components that consist of instances and connections only.

Amaranth's netlist limits the inputs of a module, and the outputs of a cell, to 65,536 bits.  A wide tier or stack
exceeds that, but contains no logic of its own: :class:`StructuralComponent` describes it once, and the description
becomes a Verilog text of any width when Verilog is emitted, or an ordinary Amaranth module in unit tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from amaranth.hdl import Cat, Const, Module, Signal, Value, ValueCastable
from amaranth.lib import data, wiring

from hdl.emit.amaranth_internals import concatenated, mark_used, reinterpreted, sliced
from hdl.emit.hierarchy import (
    CLOCK,
    RESET,
    EmitError,
    Emitter,
    Port,
    check_identifier,
    instantiate,
    ports_of,
)

__all__ = ["ConstantPart", "PortPart", "StructuralComponent", "Structure", "struct_of"]

ComponentT = TypeVar("ComponentT", bound=wiring.Component)


@dataclass(frozen=True)
class PortPart:
    """Bits ``start`` (inclusive) to ``stop`` (exclusive) of a port; ``instance`` is None for the owner's own ports."""

    instance: str | None
    port: str
    start: int
    stop: int

    @property
    def width(self) -> int:
        """Number of bits."""
        return self.stop - self.start


@dataclass(frozen=True)
class ConstantPart:
    """A constant of ``width`` bits."""

    value: int
    width: int


Part = PortPart | ConstantPart


@dataclass
class InstanceEntry:
    """One child: its name, the component and its ports, the value of its extra reset, and what drives its inputs."""

    name: str
    component: wiring.Component
    ports: tuple[Port, ...]
    reset: tuple[Part, ...] | None
    alone: bool
    inputs: dict[str, tuple[Part, ...]] = field(default_factory=dict)


class Structure:
    """Instances and the connections between their ports and the ports of the owner.

    Parameters
    ----------
    owner : wiring.Component
        The component that is described; its ports are the outside of the structure.

    Notes
    -----
    Sources are ports, constants, ``Cat`` or lists of sources, and slices of sources (``port[8:16]``, a field of a
    struct port).  Destinations are whole ports.  Nothing else is accepted: logic belongs into a component of its own.
    """

    def __init__(self, owner: wiring.Component) -> None:
        self.owner = owner
        self.ports = ports_of(owner)
        self.instances: dict[str, InstanceEntry] = {}
        self.outputs: dict[str, tuple[Part, ...]] = {}
        # Keyed by identity: signals have no equality, and every port signal lives as long as its component.
        self._known: dict[int, tuple[str | None, Port]] = {id(port.value): (None, port) for port in self.ports}
        self._connections: list[tuple[Any, Any]] = []
        self._resets: dict[str, Any] = {}

    def add(self, name: str, component: ComponentT, *, reset: Any = None, alone: bool = False) -> ComponentT:
        """Add an instance of `component` and return it.

        Parameters
        ----------
        name : str
            Instance name, a Verilog identifier, unique in the structure.
        component : wiring.Component
            Must offer ``module_key``.
        reset : source, optional
            A one-bit source that resets the instance beside the common reset.
        alone : bool
            `reset` follows the common reset by itself: in Verilog the instance gets nothing else.
        """
        check_identifier(name, f"name of an instance in {type(self.owner).__name__}")
        if any(port.name == name for port in self.ports):
            raise EmitError(f"{type(self.owner).__name__} has a port called {name!r}: choose another instance name")
        if name in self.instances:
            raise EmitError(f"{type(self.owner).__name__} already has an instance called {name!r}: choose another name")
        if not callable(getattr(component, "module_key", None)):
            raise EmitError(
                f"{type(component).__name__} has no module_key(), which every instance in a structural component "
                f"needs (instance {name!r} of {type(self.owner).__name__})"
            )
        parts = None
        if reset is not None:
            parts = self._resolve(reset, f"reset of {name}")
            if sum(part.width for part in parts) != 1:
                raise EmitError(f"reset of {name} in {type(self.owner).__name__} must be one bit wide")
            self._resets[name] = _as_value(reset)
        mark_used(component)
        entry = InstanceEntry(name, component, ports_of(component), parts, alone)
        self.instances[name] = entry
        for port in entry.ports:
            self._known[id(port.value)] = (name, port)
        return component

    def connect(self, destination: Any, source: Any) -> None:
        """Drive the whole port `destination` from `source`.

        Parameters
        ----------
        destination : port
            An input of an instance, or an output of the owner.
        source : port, constant, slice, ``Cat`` or list of those
            Outputs of instances, inputs of the owner, constants.  An ``int`` takes the destination's width.

        Raises
        ------
        EmitError
            If the destination is no such port or is connected already, if the widths differ, or if the source contains
            logic.
        """
        target = destination.as_value() if isinstance(destination, ValueCastable) else destination
        known = self._known.get(id(target))
        if known is None:
            raise EmitError(
                f"destination {destination!r} in {type(self.owner).__name__} is not a whole port of the component "
                "or of an instance that was added"
            )
        instance, port = known
        label = f"{port.name} of {instance or type(self.owner).__name__}"
        if (port.direction == "input") == (instance is None):
            raise EmitError(f"{label} cannot be driven from inside {type(self.owner).__name__}: it is a source there")
        table = self.outputs if instance is None else self.instances[instance].inputs
        if port.name in table:
            raise EmitError(f"{label} is connected twice in {type(self.owner).__name__}")
        if isinstance(source, int) and not isinstance(source, bool):
            source = Const(source, port.width)
        parts = self._resolve(source, label)
        width = sum(part.width for part in parts)
        if width != port.width:
            raise EmitError(f"{label} has {port.width} bits but its source in {type(self.owner).__name__} has {width}")
        table[port.name] = parts
        self._connections.append((port.value, source))

    def link(self, first: Any, second: Any) -> None:
        """Connect two interfaces port by port, whichever way each of them flows.

        Parameters
        ----------
        first, second : interface objects
            With the same members: interfaces of two instances, or one of the owner and one of an instance.
        """
        ours = {path: value for path, _, value in first.signature.flatten(first)}
        theirs = {path: value for path, _, value in second.signature.flatten(second)}
        if ours.keys() != theirs.keys():
            odd = sorted("__".join(map(str, path)) for path in ours.keys() ^ theirs.keys())
            raise EmitError(f"interfaces linked in {type(self.owner).__name__} differ in {', '.join(odd)}")
        for path, value in ours.items():
            other = theirs[path]
            if len(Value.cast(value)) == 0:
                continue
            if self._is_source(value) == self._is_source(other):
                raise EmitError(
                    f"{'__'.join(map(str, path))} flows the same way on both sides of a link in "
                    f"{type(self.owner).__name__}"
                )
            if self._is_source(value):
                self.connect(other, value)
            else:
                self.connect(value, other)

    def _is_source(self, value: Any) -> bool:
        known = self._known.get(id(value.as_value() if isinstance(value, ValueCastable) else value))
        if known is None:
            raise EmitError(f"{value!r} in {type(self.owner).__name__} is not a port of it or of an instance of it")
        instance, port = known
        return (port.direction == "input") == (instance is None)

    def _resolve(self, source: Any, label: str) -> tuple[Part, ...]:
        """Reduce `source` to parts, least significant first."""
        merged: list[Part] = []
        for part in self._parts(source, label):
            last = merged[-1] if merged else None
            if (
                isinstance(part, PortPart)
                and isinstance(last, PortPart)
                and (last.instance, last.port, last.stop) == (part.instance, part.port, part.start)
            ):
                merged[-1] = PortPart(part.instance, part.port, last.start, part.stop)
            else:
                merged.append(part)
        return tuple(merged)

    def _parts(self, source: Any, label: str) -> Iterator[Part]:
        if isinstance(source, list | tuple):
            for item in source:
                yield from self._parts(item, label)
            return
        value = Value.cast(source)
        if isinstance(value, Signal):
            known = self._known.get(id(value))
            if known is None:
                raise EmitError(
                    f"source {source!r} of {label} in {type(self.owner).__name__} is not a port of the component or of "
                    "an instance that was added"
                )
            instance, port = known
            if (port.direction == "input") != (instance is None):
                raise EmitError(
                    f"source of {label} in {type(self.owner).__name__} is {port.name} of {instance or 'its own'}, "
                    "which is driven there, not a source"
                )
            yield PortPart(instance, port.name, 0, port.width)
        elif isinstance(value, Const):
            if len(value):
                yield ConstantPart(value.value & ((1 << len(value)) - 1), len(value))
        elif (items := concatenated(value)) is not None:
            for item in items:
                yield from self._parts(item, label)
        elif (cut := sliced(value)) is not None:
            yield from _cut(self._parts(cut[0], label), cut[1], cut[2])
        elif (operand := reinterpreted(value)) is not None:
            yield from self._parts(operand, label)
        else:
            raise EmitError(
                f"source of {label} in {type(self.owner).__name__} contains logic ({value!r}): a structural component "
                "connects ports, slices, concatenations and constants only"
            )

    def build(self, platform: object) -> Module:
        """Build the Amaranth module that the structure describes (for simulation, or inside other modules)."""
        m = Module()
        for name, entry in self.instances.items():
            instantiate(m, platform, name, entry.component, reset=self._resets.get(name))
        for destination, source in self._connections:
            m.d.comb += destination.eq(_as_value(source))
        return m

    def _passed_on(self) -> dict[tuple[str, str], str]:
        """Return the outputs of instances that are outputs of the component as they are; these need no wire."""
        widths = {(e.name, port.name): port.width for e in self.instances.values() for port in e.ports}
        passed: dict[tuple[str, str], str] = {}
        for name, parts in self.outputs.items():
            part = parts[0]
            if len(parts) == 1 and isinstance(part, PortPart) and part.instance is not None:
                key = (part.instance, part.port)
                if (part.start, part.stop) == (0, widths[key]):
                    passed.setdefault(key, name)
        return passed

    def verilog(self, name: str, keys: dict[str, str]) -> str:
        """Write the structure as a Verilog module.

        Parameters
        ----------
        name : str
            Name of the module.
        keys : dict of str to str
            Name of the Verilog module behind each instance.
        """
        wires = self._passed_on()
        passed = set(wires.values())
        taken = {port.name for port in self.ports} | {CLOCK, RESET} | set(self.instances)
        for entry in self.instances.values():
            for port in entry.ports:
                if port.direction == "output" and (entry.name, port.name) not in wires:
                    wire = f"{entry.name}__{port.name}"
                    while wire in taken:
                        wire += "_w"
                    taken.add(wire)
                    wires[entry.name, port.name] = wire
        widths: dict[tuple[str | None, str], int] = {(None, port.name): port.width for port in self.ports}
        widths |= {(e.name, port.name): port.width for e in self.instances.values() for port in e.ports}

        def part_text(part: Part) -> str:
            if isinstance(part, ConstantPart):
                return f"{part.width}'h{part.value:x}"
            text = part.port if part.instance is None else wires[part.instance, part.port]
            if (part.start, part.stop) == (0, widths[part.instance, part.port]):
                return text
            if part.width == 1:
                return f"{text}[{part.start}]"
            return f"{text}[{part.stop - 1}:{part.start}]"

        def text_of(parts: tuple[Part, ...]) -> str:
            if len(parts) == 1:
                return part_text(parts[0])
            return "{" + ", ".join(part_text(part) for part in reversed(parts)) + "}"

        def range_of(port: Port) -> str:
            return f"[{port.width - 1}:0] " if port.width > 1 else ""

        declarations = [f"  input wire {CLOCK}", f"  input wire {RESET}"]
        declarations += [f"  {port.direction} wire {range_of(port)}{port.name}" for port in self.ports]
        lines = [f"module {name} (", ",\n".join(declarations), ");"]
        # All wires come first: an instance may use the output of one that follows, and Verilog would take a name that
        # it has not seen yet for a new wire of one bit.
        lines += [
            f"  wire {range_of(port)}{wires[entry.name, port.name]};"
            for entry in self.instances.values()
            for port in entry.ports
            if port.direction == "output" and wires[entry.name, port.name] not in passed
        ]
        for entry in self.instances.values():
            lines.append("")
            resets = [] if entry.alone and entry.reset else [RESET]
            pins = [(CLOCK, CLOCK), (RESET, " | ".join(resets + ([text_of(entry.reset)] if entry.reset else [])))]
            for port in entry.ports:
                if port.direction == "output":
                    pins.append((port.name, wires[entry.name, port.name]))
                else:
                    parts = entry.inputs.get(port.name, (ConstantPart(port.init, port.width),))
                    pins.append((port.name, text_of(parts)))
            lines.append(f"  {keys[entry.name]} {entry.name} (")
            lines.append(",\n".join(f"    .{pin}({text})" for pin, text in pins))
            lines.append("  );")
        lines.append("")
        for port in self.ports:
            if port.direction == "output" and port.name not in passed:
                parts = self.outputs.get(port.name, (ConstantPart(port.init, port.width),))
                lines.append(f"  assign {port.name} = {text_of(parts)};")
        lines.append("endmodule")
        return "\n".join(lines) + "\n"


def struct_of(layout: data.StructLayout, sources: Mapping[str, Any]) -> list[Any]:
    """Return the source of a whole struct port, made of one source per field.

    Parameters
    ----------
    layout : data.StructLayout
        Layout of the port.
    sources : mapping of str to source
        For every field a source of its width, or a narrower one, which is extended with zeros.

    Raises
    ------
    EmitError
        If the names are not those of the fields, or a source is wider than its field.
    """
    fields = {name: field.width for name, field in layout}
    if fields.keys() != sources.keys():
        raise EmitError(f"struct source has the fields {sorted(sources)}, but the layout has {sorted(fields)}")
    parts: list[Any] = []
    for name, width in fields.items():
        value = Value.cast(sources[name])
        if len(value) > width:
            raise EmitError(f"struct field {name} has {width} bits but its source has {len(value)}: cut it")
        parts.append(value)
        if len(value) < width:
            parts.append(Const(0, width - len(value)))
    return parts


def _as_value(source: Any) -> Value:
    return Cat(*(_as_value(item) for item in source)) if isinstance(source, list | tuple) else Value.cast(source)


def _cut(parts: Iterator[Part], start: int, stop: int) -> Iterator[Part]:
    """Bits `start` to `stop` of the concatenation of `parts`."""
    offset = 0
    for part in parts:
        low, high = max(start - offset, 0), min(stop - offset, part.width)
        if low < high:
            if isinstance(part, PortPart):
                yield PortPart(part.instance, part.port, part.start + low, part.start + high)
            else:
                yield ConstantPart((part.value >> low) & ((1 << (high - low)) - 1), high - low)
        offset += part.width


class StructuralComponent(wiring.Component):
    """A component made only of instances and connections between whole ports.

    A subclass passes its signature to ``super().__init__`` as usual, offers ``module_key`` and describes itself in
    :meth:`structure`.  It must not define ``elaborate``.
    """

    def module_key(self) -> str:
        """Name of the Verilog module; see :class:`hdl.emit.hierarchy.Hierarchical`."""
        raise NotImplementedError(f"{type(self).__name__} must define module_key()")

    def structure(self) -> Structure:
        """Return a new :class:`Structure` of this component, with children that are constructed here."""
        raise NotImplementedError(f"{type(self).__name__} must define structure()")

    def elaborate(self, platform: object) -> Module:
        """Build the plain form.  In emission this is not called: the structure is written as text."""
        return self.structure().build(platform)

    def emit(self, emitter: Emitter, name: str) -> tuple[str, dict[str, str]]:
        """Write the module as Verilog and register the children.

        Returns
        -------
        tuple of str and dict
            The Verilog text, and the module key of each instance.
        """
        structure = self.structure()
        keys: dict[str, str] = {}
        for child, entry in structure.instances.items():
            keys[child] = emitter.register(entry.component).key
        return structure.verilog(name, keys), keys
