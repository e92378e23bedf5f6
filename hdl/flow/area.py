# SPDX-License-Identifier: Apache-2.0
"""Area of the adaptive array beside the plain one: what the links and the wave control cost.

Three tiers of the same size are synthesised:

- *adaptive*: vertical stationary feed and the three links to the tier below (``M``, ``N``, ``K``);
- *plain*: the control, weights shifted in from the top edge while the previous tile computes, no links;
- *unlinked*: vertical feed, no links; it tells the links from the feed.

**Array logic** is everything between the memories and the accumulators: rows of PEs with their wave registers and
activation path, the links, the feeder of the plain array, and the hub of the tier (in which the wave control enters).
Memories count nowhere.  What both arrays have alike is left out of the ratio and shown beside it: fill path,
accumulators, drain and result lanes, and the address logic of the plain array's V-Cache banks, which is no array logic
either.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hdl.array.row import row_wave_layout
from hdl.array.tier import Tier
from hdl.config import MachineConfig
from hdl.emit.verilog import emit
from hdl.flow.modules import ModuleReport, Synthesis

__all__ = ["LIMIT", "Amount", "AreaComparison", "Comparison", "Part", "tie_low", "variants"]

LIMIT = 0.10
"""Largest area overhead that the project accepts."""

ARRAY_BLOCKS = ("row", "psum_link", "feeder", "hub")
"""Instances of a tier, without their numbers, that are array logic."""


@dataclass(frozen=True)
class Amount:
    """An amount of logic.

    Attributes
    ----------
    cells : int
        Gates and flip-flops.
    registers : int
        Flip-flop bits.
    transistors : int
        Transistors, enables as clock gates.
    transistors_enable_mux : int
        Transistors, enables as multiplexers.
    """

    cells: int = 0
    registers: int = 0
    transistors: int = 0
    transistors_enable_mux: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(*(a + b for a, b in zip(self._values(), other._values(), strict=True)))

    def __sub__(self, other: Amount) -> Amount:
        return self + (-1) * other

    def __rmul__(self, factor: int) -> Amount:
        return Amount(*(factor * value for value in self._values()))

    def _values(self) -> tuple[int, ...]:
        return (self.cells, self.registers, self.transistors, self.transistors_enable_mux)

    @classmethod
    def of(cls, report: ModuleReport) -> Amount:
        """Return what one module has, without submodules."""
        return cls(report.cells, report.registers, report.transistors, report.transistors_enable_mux)


@dataclass(frozen=True)
class Part:
    """One item in the balance of the two arrays: `amount` is more (or, negative, less) than in the plain array."""

    name: str
    amount: Amount
    added: bool
    """Whether it belongs to the links and the wave control; False for what the vertical feed saves or changes."""


@dataclass(frozen=True)
class Comparison:
    """Result of :class:`AreaComparison`; all amounts are those of one tier.

    Attributes
    ----------
    adaptive, plain, unlinked : Amount
        Array logic of the three tiers.
    parts : tuple of Part
        From plain to adaptive; the amounts add up to ``adaptive - plain``.
    blocks : dict of str to tuple of Amount
        Every block of the tier: adaptive, plain, unlinked.
    """

    adaptive: Amount
    plain: Amount
    unlinked: Amount
    parts: tuple[Part, ...]
    blocks: dict[str, tuple[Amount, Amount, Amount]] = field(default_factory=dict)

    @property
    def tiers(self) -> tuple[Amount, Amount, Amount]:
        """All logic of the three tiers, with what they have alike."""
        adaptive, plain, unlinked = (
            sum((amounts[index] for amounts in self.blocks.values()), Amount()) for index in range(3)
        )
        return adaptive, plain, unlinked

    @property
    def difference(self) -> Part:
        """The sum of the parts."""
        return Part("adaptive - plain", self.adaptive - self.plain, False)

    @property
    def overhead_tier(self) -> float:
        """Area of the whole adaptive tier over the whole plain one, without memories, less 1."""
        return self.tiers[0].transistors / self.tiers[1].transistors - 1

    @property
    def overhead(self) -> float:
        """Area of the adaptive array logic over the plain one's, less 1."""
        return self.adaptive.transistors / self.plain.transistors - 1

    @property
    def overhead_enable_mux(self) -> float:
        """The same when every enable is a multiplexer before the flip-flop."""
        return self.adaptive.transistors_enable_mux / self.plain.transistors_enable_mux - 1

    @property
    def overhead_registers(self) -> float:
        """The same in flip-flops."""
        return self.adaptive.registers / self.plain.registers - 1

    @property
    def links_overhead(self) -> float:
        """Area of the linked array logic over the same array without links, less 1."""
        return self.adaptive.transistors / self.unlinked.transistors - 1

    @property
    def added_overhead(self) -> float:
        """Area of links and wave control over the plain array, with no credit for what the vertical feed saves."""
        return sum(part.amount.transistors for part in self.parts if part.added) / self.plain.transistors


def variants(config: MachineConfig) -> dict[str, MachineConfig]:
    """Return the three arrays that are compared, at the sizes of `config`."""
    return {
        "adaptive": config.replace(stationary_feed="vertical", vertical_links=True),
        "plain": config.replace(stationary_feed="edge", vertical_links=False),
        "unlinked": config.replace(stationary_feed="vertical", vertical_links=False),
    }


def tie_low(text: str, name: str, port: str, bits: Sequence[tuple[int, int]]) -> str:
    """Return a copy of a Verilog module in which some bits of an input port are zero.

    Parameters
    ----------
    text : str
        The module, as :mod:`hdl.emit` writes it.
    name : str
        Name of the copy.
    port : str
        The port.
    bits : sequence of (int, int)
        Ranges of bits, first and last + 1.
    """
    declaration = re.compile(rf"^  input wire \[(\d+):0\] {port}(,?)$", re.MULTILINE)
    found = declaration.search(text)
    assert found is not None, f"no input port {port}"
    width = int(found[1]) + 1
    mask = (1 << width) - 1
    for first, last in bits:
        mask &= ~(((1 << (last - first)) - 1) << first)
    text = declaration.sub(f"  input wire [{width - 1}:0] {port}_port{found[2]}", text, count=1)
    text = text.replace("\n);\n", f"\n);\n  wire [{width - 1}:0] {port} = {port}_port & {width}'h{mask:x};\n", 1)
    return re.sub(r"^module \w+", f"module {name}", text, count=1, flags=re.MULTILINE)


class AreaComparison:
    """Synthesises the tiers that are compared, and sums up.

    Parameters
    ----------
    config : MachineConfig
        Sizes; its own feed and links do not matter.
    cache : Path, optional
        Synthesis cache.
    """

    def __init__(self, config: MachineConfig, *, cache: Path | None = None) -> None:
        self.config = config
        self._tops: dict[str, str] = {}
        texts: dict[str, str] = {}
        for name, variant in variants(config).items():
            design = emit(Tier(variant), f"tier_{name}")
            self._tops[name] = design.top
            texts |= design.modules
        self._cuts = self._add_cuts(texts)
        self.synthesis = Synthesis(texts, cache=cache)

    def _add_cuts(self, texts: dict[str, str]) -> list[str]:
        """Add rows from which one thing after the other is taken away; return their names, the whole row first."""
        (row,) = (name for name in texts if name.startswith("row_") and name.endswith("_links"))
        layout = row_wave_layout(
            activation_words=self.config.activation_words, vcache_tiles=self.config.vcache_tiles, links=True
        )
        names, bits = [row], []
        for member in ("stationary_below", "activation_below", "vcache_addr"):
            place = layout[member]
            bits.append((place.offset, place.offset + place.width))
            names.append(f"{row}_without_{member}")
            texts[names[-1]] = tie_low(texts[row], names[-1], "wave_in", bits)
        return names

    @property
    def modules(self) -> int:
        """Number of modules that :meth:`run` synthesises or finds in the cache."""
        return len(self.synthesis.texts)

    def run(self) -> Iterator[str]:
        """Synthesise; yields the name of each module that is done."""
        return self.synthesis.run()

    def result(self) -> Comparison:
        """Return the comparison; :meth:`run` must have come to its end."""
        blocks = {name: self._blocks(top) for name, top in self._tops.items()}
        names = dict.fromkeys(block for found in blocks.values() for block in found)
        table = {
            block: (
                blocks["adaptive"].get(block, Amount()),
                blocks["plain"].get(block, Amount()),
                blocks["unlinked"].get(block, Amount()),
            )
            for block in names
        }
        adaptive, plain, unlinked = (
            sum((table[block][index] for block in table if block in ARRAY_BLOCKS), Amount()) for index in range(3)
        )
        return Comparison(adaptive, plain, unlinked, self._parts(table), table)

    def _blocks(self, top: str) -> dict[str, Amount]:
        """Sum up the instances of a tier by name without number; memories have no cells."""
        total: dict[str, Amount] = {}
        for instance, module in self.synthesis.reports[top].children.items():
            block = re.sub(r"_\d+$", "", instance)
            total[block] = total.get(block, Amount()) + self._inside(module)
        return total

    def _inside(self, module: str) -> Amount:
        reports = self.synthesis.reports
        return sum(
            (number * Amount.of(reports[inner]) for inner, number in self.synthesis.contents(module).items()), Amount()
        )

    def _parts(self, table: Mapping[str, tuple[Amount, Amount, Amount]]) -> tuple[Part, ...]:
        rows = self.config.rows
        whole, no_m, no_mn, bare = (Amount.of(self.synthesis.reports[name]) for name in self._cuts)
        pes = self._inside(self._cuts[0]) - whole
        hub = table["hub"]
        return (
            Part("M link: stationary multiplexer and its select", rows * (whole - no_m), True),
            Part("N link: activation multiplexer and its select", rows * (no_m - no_mn), True),
            Part("K link: gate and registers of the partial sums", table["psum_link"][0], True),
            Part("wave control in the rows: V-Cache address", rows * (no_mn - bare), True),
            Part("wave control in the hub", hub[0] - hub[1], True),
            Part("rows: no front registers, no shift enable", rows * (bare + pes) - table["row"][1], False),
            Part("no edge feeder", (-1) * table["feeder"][1], False),
        )
