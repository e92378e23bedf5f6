# SPDX-License-Identifier: Apache-2.0
"""The stack as dies and bonds: which die is above which, and every signal that crosses between two of them.

Widths are those of the ports of :class:`hdl.array.tier.Tier`; which of them have something at both ends is read from
the structures that the Verilog is written from.  So what is said here cannot differ from the emitted modules
(``tests/hdl/array/test_bonds.py`` compares the two all the same).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from amaranth.hdl import Shape
from amaranth.lib import data

from hdl.array.hub import Path, unused_dispatch, unused_fill
from hdl.array.stack import Stack
from hdl.array.tier import Tier
from hdl.config import MachineConfig
from hdl.emit.amaranth_internals import mark_used
from hdl.emit.hierarchy import CLOCK, RESET, Port, ports_of
from hdl.emit.structural import PortPart, Structure
from hdl.interfaces import bond_signature, dispatch_layout, fill_control_layout, result_layout, write_layout

__all__ = ["Bond", "BondSignal", "Die", "StackDescription", "describe_stack", "word_bits"]

_CARRIES: Mapping[str, str] = {
    "clock": "clock and reset",
    "stationary": "stationary operands for the rows of the tier above (mapping M)",
    "activation": "activations for the rows of the tier above (mapping N)",
    "psum": "partial sums that row 0 of the tier above adds to (mapping K)",
    "dispatch": "waves, a lane for each tier above",
    "fill_control": "tiers, tile and word of V-Cache fills, a lane for each channel group",
    "fill_data": "stationary operands on their way to V-Cache",
    "write": "activations and requantisation words on their way to the tiers' buffers",
    "edge": "stationary operands that shift in from the top row of the tier below (mapping M with the edge feed)",
    "result": "finished rows, a lane for each tier above",
}
"""What each member of :func:`hdl.interfaces.bond_signature` carries."""

_BY_TIER = ("dispatch", "result")
"""Members whose lane j belongs to the tier j above the bond's upper die."""


@dataclass(frozen=True)
class Die:
    """A die of the stack.

    Attributes
    ----------
    name : str
        ``base``, ``tier_0``, ...
    module : str or None
        Key of its Verilog module; None: all of the top that is not in another die.
    """

    name: str
    module: str | None


@dataclass(frozen=True)
class BondSignal:
    """Wires of one kind across a bond.

    Attributes
    ----------
    name : str
        Member of :func:`hdl.interfaces.bond_signature`, or ``clock``.
    direction : {"up", "down"}
    ports : tuple of (str, int)
        Names of the upper die's ports without ``below__``, and their bits.
    used : int
        Bits of them that have a source and a reader; the others are zero, or end openly.
    carries : str
        What they are for.
    """

    name: str
    direction: Literal["up", "down"]
    ports: tuple[tuple[str, int], ...]
    used: int
    carries: str

    @property
    def bits(self) -> int:
        """Bits of all ports: what the upper die has contacts for."""
        return sum(width for _, width in self.ports)

    def to_dict(self) -> dict[str, Any]:
        """Return the signal as plain data."""
        widths = sorted({width for _, width in self.ports})
        return {
            "name": self.name,
            "direction": self.direction,
            "lanes": len(self.ports),
            "lane_bits": widths[0] if len(widths) == 1 else widths,
            "bits": self.bits,
            "used_bits": self.used,
            "carries": self.carries,
        }


@dataclass(frozen=True)
class Bond:
    """The boundary between two dies.

    Attributes
    ----------
    name, lower, upper : str
        Of the bond, of the die below and of the die above it.
    signals : tuple of BondSignal
    """

    name: str
    lower: str
    upper: str
    signals: tuple[BondSignal, ...]

    @property
    def bits(self) -> int:
        """Wires that the upper die has contacts for."""
        return sum(signal.bits for signal in self.signals)

    @property
    def used(self) -> int:
        """Wires that have a source and a reader."""
        return sum(signal.used for signal in self.signals)

    def to_dict(self) -> dict[str, Any]:
        """Return the bond as plain data."""
        return {
            "name": self.name,
            "lower": self.lower,
            "upper": self.upper,
            "bits": self.bits,
            "used_bits": self.used,
            "signals": [signal.to_dict() for signal in self.signals],
        }


@dataclass(frozen=True)
class StackDescription:
    """The dies from the lowest one up, and the bond above each of them but the last.

    Attributes
    ----------
    dies : tuple of Die
    bonds : tuple of Bond
        ``bonds[i]`` is between ``dies[i]`` and ``dies[i + 1]``.
    """

    dies: tuple[Die, ...]
    bonds: tuple[Bond, ...]


def describe_stack(config: MachineConfig) -> StackDescription:
    """Return the dies and bonds of a machine.

    Parameters
    ----------
    config : MachineConfig
        The machine; one tier, no vertical links and the edge feed are machines like others.
    """
    tier, stack = Tier(config), Stack(config)
    mark_used(tier)
    mark_used(stack)
    inside, around = tier.structure(), stack.structure()
    unused = _unused(config)
    module = tier.module_key()
    dies = (Die("base", None), *(Die(f"tier_{index}", module) for index in range(config.tiers)))
    ports = [port for port in ports_of(tier) if port.name.startswith("below__")]
    bonds = []
    for index in range(config.tiers):
        live = _at_the_base(around) if index == 0 else _between_tiers(inside)
        signals = [BondSignal("clock", "up", ((CLOCK, 1), (RESET, 1)), 2, _CARRIES["clock"])]
        for member in dict.fromkeys(_member(port) for port in ports):
            own = [port for port in ports if _member(port) == member]
            used = sum(
                _used_bits(port.shape, unused.get(member, ()), config.tiers - index)
                for lane, port in enumerate(own)
                if port.name in live & _ends(inside, "below__")
                and (member not in _BY_TIER or lane < config.tiers - index)
            )
            signals.append(
                BondSignal(
                    member,
                    "up" if own[0].direction == "input" else "down",
                    tuple((port.name.removeprefix("below__"), port.width) for port in own),
                    used,
                    _CARRIES[member],
                )
            )
        bonds.append(Bond(f"bond_{index}", dies[index].name, dies[index + 1].name, tuple(signals)))
    return StackDescription(dies, tuple(bonds))


def word_bits(config: MachineConfig) -> dict[str, int]:
    """Return how many wires of a bond each kind of word takes, those without a reader left out.

    Returns
    -------
    dict of str to int
        ``wave`` (a tier's lane of dispatch), ``request`` (the fields of that lane for a tile request of the edge feed;
        0 without it), ``fill`` (a fill word with its control part), ``write`` (a write of activations or multipliers),
        ``result`` (a finished row), ``tile`` (a stationary tile from tier to tier), ``activation`` (a wave's
        activations from tier to tier), ``psum`` (its partial sums).  A mask of tiers counts with all its bits.
    """
    unused, tiers = _unused(config), config.tiers
    lane = dispatch_layout(config)
    requests = [name for name, _ in lane if str(name).startswith("edge_")]
    request = sum(_used_bits(lane[name].shape, unused["dispatch"], tiers, (str(name),)) for name in requests)
    fill = _used_bits(fill_control_layout(config), unused["fill_control"], tiers)
    bond = bond_signature(config).members
    return {
        "wave": _used_bits(lane, unused["dispatch"], tiers) - request,
        "request": request,
        "fill": fill + Shape.cast(bond["fill_data"].shape).width * config.fill_rows,
        "write": _used_bits(write_layout(config), (), tiers),
        "result": _used_bits(result_layout(config), (), tiers),
        "tile": Shape.cast(bond["stationary"].shape).width * config.rows,
        "activation": Shape.cast(bond["activation"].shape).width * config.rows,
        "psum": Shape.cast(bond["psum"].shape).width,
    }


def _unused(config: MachineConfig) -> dict[str, tuple[Path, ...]]:
    """Return the fields of members that no tier has a register for."""
    return {"dispatch": unused_dispatch(config), "fill_control": unused_fill(config)}


def _member(port: Port) -> str:
    """Return the member of the bond's signature that a port belongs to."""
    return port.name.split("__")[1]


def _ends(structure: Structure, prefix: str) -> set[str]:
    """Return the component's own ports of a prefix that it drives or reads."""
    read = {
        part.port
        for entry in (structure.outputs, *(instance.inputs for instance in structure.instances.values()))
        for parts in entry.values()
        for part in parts
        if isinstance(part, PortPart) and part.instance is None
    }
    return {name for name in read | set(structure.outputs) if name.startswith(prefix)}


def _between_tiers(tier: Structure) -> set[str]:
    """Return the ports ``below__...`` of a tier that the tier below it drives or reads."""
    return {"below__" + name.removeprefix("above__") for name in _ends(tier, "above__")}


def _at_the_base(stack: Structure) -> set[str]:
    """Return the ports ``below__...`` of the lowest tier that the base die drives or reads."""
    lowest = stack.instances["tier_0"]
    read = {part.port for parts in stack.outputs.values() for part in parts if isinstance(part, PortPart)}
    return {name for name in read | set(lowest.inputs) if name.startswith("below__")}


def _used_bits(shape: Any, unused: Collection[Sequence[str]], tiers: int, path: Path = ()) -> int:
    """Return the bits of a lane without its `unused` fields; of a mask of tiers those of the tiers that are there."""
    if path in unused:
        return 0
    if isinstance(shape, data.StructLayout):
        return sum(_used_bits(field.shape, unused, tiers, (*path, str(name))) for name, field in shape)
    width: int = Shape.cast(shape).width
    return min(width, tiers) if path == ("tiers",) else width
