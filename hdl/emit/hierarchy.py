# SPDX-License-Identifier: Apache-2.0
"""Emit a component once, however often it is used.

Amaranth writes one Verilog module for every *instance* of a component: a thousand processing elements become a
thousand modules.  A component that offers :meth:`Hierarchical.module_key` and is placed with :func:`instantiate` is
converted once per key; above it stands an ordinary Verilog instance.

The same source runs in Amaranth's own simulator, which knows no ``Instance``: there, :func:`instantiate` falls back to
an ordinary submodule.  Which of the two happens is decided by the ``platform`` argument of ``elaborate`` alone.

Rules for components that want to be emitted once
-------------------------------------------------
- ``module_key()`` is a pure function of the class and its parameters, and a legal Verilog identifier:
  ``"row_c16_d1024"``.  Everything that changes the hardware must be in it (:func:`digest` shortens long parameter
  lists, :func:`parameter_key` is for those that depend on a configuration); ``emit(..., verify_keys=True)`` finds out
  what is missing.
- Build children in ``elaborate`` (or ``structure``), never in ``__init__``.  A parent of 128 rows constructs 128 row
  objects but elaborates only one of them; children built in ``__init__`` would be built 128 times for nothing.
- Only the ``sync`` domain crosses the boundary.  Every emitted module has the ports ``clk`` and ``rst``, used or not.
- A transformer around the *parent* (``ResetInserter``, ``EnableInserter``) does not reach into an instance; use the
  ``reset`` argument of :func:`instantiate`.  ``DomainRenamer`` does work: the clock is connected in the parent's scope.
- Do not look at a memory's read data before the first read after a reset: Amaranth's simulator clears that register on
  reset, its Verilog does not (nor do block RAMs).
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

from amaranth.hdl import (
    ClockSignal,
    Const,
    Fragment,
    Instance,
    Module,
    ResetInserter,
    ResetSignal,
    Shape,
    Signal,
    Value,
    ValueCastable,
)
from amaranth.lib import wiring

from hdl.emit.amaranth_internals import mark_used
from hdl.emit.buses import Bus, port_name
from hdl.errors import A3dError

__all__ = [
    "CLOCK",
    "FURTHER_OUTPUTS",
    "MAX_BITS",
    "RESET",
    "EmitError",
    "Emitter",
    "Hierarchical",
    "Port",
    "check_identifier",
    "check_prefix",
    "digest",
    "instantiate",
    "is_hierarchical",
    "is_identifier",
    "parameter_key",
    "parameters",
    "ports_of",
    "signature_of_ports",
]

CLOCK = "clk"
"""Name of the clock port of every emitted module."""

RESET = "rst"
"""Name of the synchronous reset port (active high) of every emitted module."""

MAX_BITS = 1 << 16
"""Amaranth numbers the inputs of a module, and the outputs of an instance, with 16 bits."""

FURTHER_OUTPUTS = "__outputs_"
"""Joins the name of an instance and a number in the cells that carry the outputs beyond :data:`MAX_BITS`."""

MAX_PREFIX = 32
"""Characters of a prefix: file names of modules and names of C macros stay short enough for every tool."""

ComponentT = TypeVar("ComponentT", bound=wiring.Component)

_PREFIX = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*", re.ASCII)

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")

# Words that Verilog-2005 and SystemVerilog-2017 reserve and that somebody might pick for a port, module or instance.
_KEYWORDS = frozenset(
    """
    accept_on alias always always_comb always_ff always_latch and assert assign assume automatic before begin bind bins
    binsof bit break buf bufif0 bufif1 byte case casex casez cell chandle checker class clocking cmos config const
    constraint context continue cover covergroup coverpoint cross deassign default defparam design disable dist do edge
    else end endcase endfunction endgenerate endmodule endtask enum event eventually expect export extends extern final
    first_match for force foreach forever fork forkjoin function generate genvar global highz0 highz1 if iff ifnone
    implements implies import incdir include initial inout input inside instance int integer interconnect interface
    intersect join large let liblist library local localparam logic longint macromodule matches medium modport module
    nand negedge nettype new nexttime nmos nor noshowcancelled not notif0 notif1 null or output package packed parameter
    pmos posedge primitive priority program property protected pull0 pull1 pulldown pullup pure rand randc randcase
    randsequence rcmos real realtime ref reg reject_on release repeat restrict return rnmos rpmos rtran scalared
    sequence shortint shortreal signed small soft solve specify specparam static string strong strong0 strong1 struct
    super supply0 supply1 table tagged task this throughout time timeprecision timeunit tran tri tri0 tri1 triand trior
    trireg type typedef union unique unique0 unsigned until untyped use uwire var vectored virtual void wait wait_order
    wand weak weak0 weak1 while wildcard wire with within wor xnor xor
    """.split()
)


class EmitError(A3dError):
    """Verilog cannot be emitted from this component; the message says why and what to change."""


@runtime_checkable
class Hierarchical(Protocol):
    """What a component offers in order to be emitted once."""

    def module_key(self) -> str:
        """Name of the Verilog module: unique per class and parameters, the same in every run."""
        ...


@dataclass(frozen=True)
class Port:
    """One flattened port of a component.

    Attributes
    ----------
    name : str
        Name in Verilog; see :func:`hdl.emit.buses.port_name`.
    direction : str
        ``"input"`` or ``"output"``, seen from the component.
    width : int
        Bits; at least 1 (ports of no width are left out everywhere).
    signed : bool
        Whether the shape is signed.
    init : int
        Value that an unconnected input takes, as an unsigned number of ``width`` bits.
    shape : object
        The shape-castable of the signature's member (a ``data.Layout`` keeps its fields).
    value : Value
        The component's own object for the port.
    bus : Bus, optional
        The bus that it belongs to.
    """

    name: str
    direction: Literal["input", "output"]
    width: int
    signed: bool
    init: int
    shape: Any
    value: Any
    bus: Bus | None = None


def check_identifier(name: object, what: str) -> str:
    """Return `name` if Verilog accepts it unescaped, or raise :class:`EmitError` that names `what`."""
    if not isinstance(name, str) or not _IDENTIFIER.match(name):
        raise EmitError(
            f"{what} is {name!r}, which is no Verilog identifier: use letters, digits and '_', "
            "and do not start with a digit"
        )
    if name in _KEYWORDS:
        raise EmitError(f"{what} is {name!r}, a reserved word of Verilog: choose another name")
    return name


def check_prefix(prefix: str) -> str:
    """Return what stands before every name of an output with this prefix: ``"core0_"`` for ``"core0"``, else nothing.

    Only lower case, because C macros are in upper case and some file systems do not tell the two apart: prefixes that
    differ give names that differ everywhere.  Reserved words are fine (``small`` is one of Verilog): no name is the
    prefix alone.

    Raises
    ------
    EmitError
        If it is no such prefix.
    """
    if prefix and not (len(prefix) <= MAX_PREFIX and _PREFIX.fullmatch(prefix)):
        raise EmitError(
            f"prefix = {prefix!r}: use lower-case letters, digits and single '_' between them, a letter first, "
            f"at most {MAX_PREFIX} characters"
        )
    return f"{prefix}_" if prefix else ""


def is_identifier(name: str) -> bool:
    """Whether Verilog accepts `name` unescaped."""
    return _IDENTIFIER.match(name) is not None and name not in _KEYWORDS


def digest(*parameters: object) -> str:
    """Eight hexadecimal digits that stand for `parameters` in a module key.

    The digest is taken of ``repr``: pass numbers, strings, tuples of them and frozen dataclasses, never objects whose
    ``repr`` holds an address, and never sets.
    """
    text = repr(parameters)
    if re.search(r" at 0x[0-9a-f]+>", text):
        raise EmitError(f"module key parameters {text} contain a memory address: pass plain values")
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def parameters(names: str, *children: frozenset[str]) -> frozenset[str]:
    """Return names of attributes of a configuration, separated by blanks, together with those of children."""
    return frozenset(names.split()).union(*children)


def parameter_key(name: str, config: object, names: Iterable[str]) -> str:
    """Return the module key of a component that depends on some attributes of a configuration.

    Configurations that agree in these share the module; everything that the component reads of a configuration while
    it is constructed and elaborated must be among them (``tests/hdl/emit/test_module_names.py`` watches the reads).
    """
    return f"{name}_{digest(*((each, getattr(config, each)) for each in sorted(names)))}"


def is_hierarchical(component: object) -> bool:
    """Whether `component` offers ``module_key``."""
    return callable(getattr(component, "module_key", None))


def _flatten(component: wiring.Component) -> Iterator[Port]:
    for path, member, value in component.signature.flatten(component):
        cast = value.as_value() if isinstance(value, ValueCastable) else value
        name, bus = port_name(component.signature, path)
        if not isinstance(cast, Value):
            raise EmitError(f"port {name} of {type(component).__name__} is {value!r}, not a signal")
        if len(cast) == 0:
            continue
        shape = cast.shape()
        init = cast.init if isinstance(cast, Signal) else cast.value if isinstance(cast, Const) else 0
        yield Port(
            name=name,
            direction="input" if member.flow == wiring.In else "output",
            width=len(cast),
            signed=isinstance(shape, Shape) and shape.signed,
            init=init & ((1 << len(cast)) - 1),
            shape=member.shape,
            value=cast,
            bus=bus,
        )


def ports_of(component: wiring.Component) -> tuple[Port, ...]:
    """Flattened ports of `component` in the order of its signature, without ``clk`` and ``rst``.

    Raises
    ------
    EmitError
        If a port bears a name that Verilog reserves, ``clk`` or ``rst``, or that of another port.
    """
    ports = tuple(_flatten(component))
    if len({port.name for port in ports}) != len(ports):
        name = next(name for name, number in Counter(port.name for port in ports).items() if number > 1)
        raise EmitError(f"two ports of {type(component).__name__} would be called {name}: rename one")
    for port in ports:
        check_identifier(port.name, f"port of {type(component).__name__}")
        if port.name in (CLOCK, RESET):
            raise EmitError(
                f"port {port.name} of {type(component).__name__} takes the name of the "
                f"{'clock' if port.name == CLOCK else 'reset'} port: rename it"
            )
    return ports


def signature_of_ports(ports: tuple[Port, ...]) -> tuple[tuple[str, str, int, bool, int], ...]:
    """Return the part of `ports` that two components of the same key must share."""
    return tuple((port.name, port.direction, port.width, port.signed, port.init) for port in ports)


@dataclass
class Registration:
    """One module to be emitted: its key with the prefix, the component that is converted, the others of that key."""

    key: str
    component: wiring.Component
    ports: tuple[Port, ...]
    duplicates: list[wiring.Component]


class Emitter:
    """The ``platform`` of a conversion to hierarchical Verilog: collects the modules that instances refer to.

    Parameters
    ----------
    prefix : str
        Stands before the name of every module; see :func:`check_prefix`.
    keep_duplicates : bool
        Also remember every further component of a key that is already known, so that the caller can check that the key
        really determines the hardware (costs a conversion of each).

    Notes
    -----
    Not a board platform: it has none of the methods that Amaranth's library looks for (``get_memory``,
    ``get_ff_sync``, ...), so library components elaborate as they do without a platform.
    """

    def __init__(self, *, prefix: str = "", keep_duplicates: bool = False) -> None:
        self.registrations: dict[str, Registration] = {}
        self._stem = check_prefix(prefix)
        self._keep_duplicates = keep_duplicates

    def module_name(self, key: object, what: str) -> str:
        """Return the name of the module that `key` stands for: the only place where a module gets its name.

        Modules inside a component are named after it, files after their modules.
        """
        return check_identifier(self._stem + check_identifier(key, what), what)

    def register(self, component: wiring.Component) -> Registration:
        """Note that `component` is instantiated and return the registration of its key.

        Raises
        ------
        EmitError
            If another class or another signature already has the same key.
        """
        mark_used(component)
        key = self.module_name(component.module_key(), f"module_key() of {type(component).__name__}")
        known = self.registrations.get(key)
        if known is None:
            known = Registration(key, component, ports_of(component), [])
            self.registrations[key] = known
            return known
        if type(known.component) is not type(component):
            raise EmitError(
                f"module key {key!r} is used by both {type(known.component).__qualname__} and "
                f"{type(component).__qualname__}: put the class into the key"
            )
        if known.component is not component:
            ours, theirs = signature_of_ports(ports_of(component)), signature_of_ports(known.ports)
            if ours != theirs:
                differing = sorted({port[0] for port in set(ours) ^ set(theirs)})
                raise EmitError(
                    f"module key {key!r} of {type(component).__qualname__} names two signatures, which differ in "
                    f"{', '.join(differing)}: put every parameter that changes a port into the key"
                )
            if self._keep_duplicates:
                known.duplicates.append(component)
        return known


def _with_reset(component: wiring.Component, platform: object, reset: Any) -> Fragment:
    """Elaborate an ordinary submodule with an extra reset; refuse one whose instances the reset would not reach."""
    fragment = Fragment.get(component, platform)

    def instances(below: Fragment) -> Iterator[str]:
        if isinstance(below, Instance):
            yield below.type
        for child, _name, _src_loc in below.subfragments:
            yield from instances(child)

    found = next(instances(fragment), None)
    if found is not None:
        raise EmitError(
            f"{type(component).__name__} is placed with reset= but has no module_key(), so the reset would not reach "
            f"its instance of {found}: give it a module_key()"
        )
    return ResetInserter({"sync": reset})(fragment)


def instantiate(
    m: Module,
    platform: object,
    name: str,
    component: ComponentT,
    *,
    reset: Any = None,
) -> ComponentT:
    """Place `component` below `m`, as a Verilog instance when Verilog is being emitted.

    Parameters
    ----------
    m : Module
        The parent under construction.
    platform : object
        The ``platform`` argument of the parent's ``elaborate``, handed on unchanged.
    name : str
        Name of the instance, a Verilog identifier that is unique in the parent.
    component : wiring.Component
        The child.  Without a ``module_key`` it is an ordinary submodule in every mode.
    reset : ValueLike, optional
        Resets the child and everything below it synchronously, beside the reset of the domain.

    Returns
    -------
    wiring.Component
        `component`: connect to its ports as usual.

    Raises
    ------
    EmitError
        For an illegal name, or a key that stands for two different components.
    """
    check_identifier(name, "name of an instance")
    if not isinstance(platform, Emitter) or not is_hierarchical(component):
        m.submodules[name] = component if reset is None else _with_reset(component, platform, reset)
        return component

    registration = platform.register(component)
    rst = ResetSignal("sync")
    if reset is not None:
        rst = rst | (reset if len(Value.cast(reset)) == 1 else Value.cast(reset).any())
    connections: list[tuple[str, str, Any]] = [("i", CLOCK, ClockSignal("sync")), ("i", RESET, rst)]
    own = registration.ports if registration.component is component else ports_of(component)
    further: list[list[tuple[str, str, Any]]] = []
    outputs = 0
    for port in own:
        if port.direction == "input":
            connections.append(("i", port.name, port.value))
        else:
            if port.width > MAX_BITS:
                raise EmitError(
                    f"output {port.name} of {type(component).__name__} (instance {name!r}) has {port.width} bits, more "
                    f"than Amaranth's {MAX_BITS}: split it, or make the parent a StructuralComponent"
                )
            outputs += port.width
            if outputs > MAX_BITS:
                further.append([])
                outputs = port.width
            (further[-1] if further else connections).append(("o", port.name, port.value))
        if isinstance(port.value, Signal):
            # The port's signal becomes a wire of the parent; with the bare port name, sixteen children would give
            # data, data$1, ... data$15.  Restored before the component itself is converted.
            port.value.name = f"{name}__{port.name}"
    m.submodules[name] = Instance(registration.key, *connections)
    # Outputs beyond Amaranth's limit hang on further cells, which become one instance again in the RTLIL text.
    for number, rest in enumerate(further, start=1):
        m.submodules[f"{name}{FURTHER_OUTPUTS}{number}"] = Instance(registration.key, *rest)
    return component
