# SPDX-License-Identifier: Apache-2.0
"""How many bytes a stream moves across bonds, on the dies, and to and from memory.

**Vertical**: bits that cross a bond between two dies, counted again at each bond that they cross.  A word for tier i
crosses i + 1 bonds, and so does a row that comes down from there; a link between two tiers crosses one.

- ``dispatch``: a wave with its tail, for each tier of the gang; tile requests of the edge feed;
- ``fill``: fill words of V-Cache tiles with their control part, as far up as the highest tier that takes them;
- ``write``: activations and multipliers (loads, result rows, vector results) likewise;
- ``stationary``, ``activation``, ``psum``: what a tier takes through the links of the mappings M, N and K;
- ``result``: finished rows on their way down.

Fields that no tier has a register for are left out (:func:`hdl.array.bonds.word_bits`).  The link registers drive their
wires in every tier that works; what nobody above takes is not counted.

**Lateral**: bytes that go from one block of a die to another over a bus, or across the array, counted once for each
such way, however long it is.

- ``memory``: between the memory ports and the load engines, the store unit and the fetch (all that is off-chip);
- ``launch``: fill words and writes from the base die's blocks to the bond, without control;
- ``rows``: result rows on the result bus, as int16;
- ``combine``: rows of the combine buffer (int32) to and from the vector unit, to the store unit, from loads;
- ``array``: of each wave a tier's activations, which go along its rows of PEs, and the partial sums that arrive at the
  bottom of its columns; with the edge feed also the tiles that shift in from the top.

From one PE to the next is no way of its own, nor is from a V-Cache bank to the row below it.

**Off-chip**: whole beats at the memory ports: ``fetch`` (instructions), ``read`` and ``write`` of both channel groups.

What only the contents of token lists say is taken at its largest: a row that a list drops is counted as if it was
written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hdl.array.bonds import word_bits
from hdl.config import ADDRESS_UNIT, MachineConfig
from hdl.errors import A3dError
from hdl.isa import Dest, Format, Instruction, LoadDest, Mapping3D, Opcode, StoreFormat, VectorDest, VectorOp
from scheduler.cost.slots import loaded_rows, tokens_of
from scheduler.cost.work import fetch_beats as beats_of_stream
from scheduler.cost.work import load_beats, store_beats, vector_requests
from scheduler.stream.table import COL, Rows, Table

__all__ = ["LinkBytes", "LinkWords", "count_words", "link_bytes"]

Int = npt.NDArray[np.int64]


@dataclass(eq=False)
class LinkWords:
    """Words that a stream moves; arrays have one number for each tier.

    Attributes
    ----------
    waves, tiles : int64 array [tiers]
        Waves that the tier works on; stationary tiles that it reads, or takes from below.
    link_m, link_n, link_k : int64 array [tiers]
        Tiles, and waves, that the tier takes through the three links.
    rows : int64 array [tiers]
        Finished rows that the tier makes.
    fills, writes : int64 array [tiers]
        Fill words, and words of activations or multipliers, for which the tier is the highest that takes them.
    read_beats, write_beats : int64 array [2]
        Beats of loads and of stores in each channel group.
    fetch_beats : int
        Beats of instruction fetch.
    combine_rows : int
        Rows of the combine buffer that the vector unit, the store unit and loads read or write.
    """

    waves: Int
    tiles: Int
    link_m: Int
    link_n: Int
    link_k: Int
    rows: Int
    fills: Int
    writes: Int
    read_beats: Int
    write_beats: Int
    fetch_beats: int
    combine_rows: int = 0

    @classmethod
    def none(cls, config: MachineConfig, fetch_beats: int) -> LinkWords:
        """Return what a stream moves that has only been fetched."""
        waves, tiles, link_m, link_n, link_k, rows, fills, writes = np.zeros((8, config.tiers), np.int64)
        read_beats, write_beats = np.zeros((2, 2), np.int64)
        return cls(waves, tiles, link_m, link_n, link_k, rows, fills, writes, read_beats, write_beats, fetch_beats)


@dataclass(frozen=True)
class LinkBytes:
    """Bytes moved, by kind; kinds and what is counted are those of this module's description.

    Attributes
    ----------
    bonds : tuple of int
        Bytes across each bond, the lowest first (bond i is below tier i).
    vertical_by, lateral_by, offchip_by : mapping of str to int
        By kind.  Vertical ones are bits, divided by 8 and rounded up.
    """

    bonds: tuple[int, ...] = ()
    vertical_by: Mapping[str, int] = field(default_factory=dict)
    lateral_by: Mapping[str, int] = field(default_factory=dict)
    offchip_by: Mapping[str, int] = field(default_factory=dict)

    @property
    def vertical(self) -> int:
        """Bytes across all bonds."""
        return sum(self.vertical_by.values())

    @property
    def lateral(self) -> int:
        """Bytes from block to block of a die, and across the array."""
        return sum(self.lateral_by.values())

    @property
    def offchip(self) -> int:
        """Bytes at the memory ports."""
        return sum(self.offchip_by.values())

    def __add__(self, other: LinkBytes) -> LinkBytes:
        """Return what two streams move together."""
        bonds = max(self.bonds, other.bonds, key=len)
        shorter = min(self.bonds, other.bonds, key=len)
        padded = (*shorter, *(0 for _ in bonds[len(shorter) :]))
        return LinkBytes(
            tuple(a + b for a, b in zip(bonds, padded, strict=True)),
            *(
                {kind: one.get(kind, 0) + two.get(kind, 0) for kind in dict.fromkeys((*one, *two))}
                for one, two in (
                    (self.vertical_by, other.vertical_by),
                    (self.lateral_by, other.lateral_by),
                    (self.offchip_by, other.offchip_by),
                )
            ),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as plain data: ``vertical, lateral, offchip``, the same by kind, and ``bonds``."""
        return {
            "vertical": self.vertical,
            "lateral": self.lateral,
            "offchip": self.offchip,
            "vertical_by": dict(self.vertical_by),
            "lateral_by": dict(self.lateral_by),
            "offchip_by": dict(self.offchip_by),
            "bonds": list(self.bonds),
        }


def link_bytes(
    config: MachineConfig,
    stream: Table | Rows | Sequence[Instruction],
    *,
    slot_counts: Sequence[Sequence[int]] = (),
    fetch_beats: int | None = None,
) -> LinkBytes:
    """Return the bytes that a stream moves.

    Parameters
    ----------
    config : MachineConfig
        The machine.
    stream : Table, int64 array [instructions, columns] or sequence of Instruction
        Legal instructions.
    slot_counts : sequence of sequences of int, optional
        As for :func:`scheduler.cost.model.simulate`; without them instructions with a slot move what they are planned
        for.
    fetch_beats : int, optional
        Beats of instruction fetch that were counted: the machine fetches ahead, also past END.  Default: those that the
        instructions lie in.

    Raises
    ------
    A3dError
        Another number of `slot_counts` than of ROUTEs.
    """
    words = count_words(config, stream, slot_counts=slot_counts, fetch_beats=fetch_beats)
    bits, c = word_bits(config), config
    # What is for a tier crosses its own bond and all below it.
    below = {name: getattr(words, name)[::-1].cumsum()[::-1] for name in ("waves", "tiles", "rows", "fills", "writes")}
    crossing = {
        "dispatch": below["waves"] * bits["wave"] + below["tiles"] * bits["request"],
        "fill": below["fills"] * bits["fill"],
        "write": below["writes"] * bits["write"],
        "stationary": words.link_m * bits["tile"],
        "activation": words.link_n * bits["activation"],
        "psum": words.link_k * bits["psum"],
        "result": below["rows"] * bits["result"],
    }
    read, written = int(words.read_beats.sum()) * c.group_bytes, int(words.write_beats.sum()) * c.group_bytes
    offchip = {"fetch": words.fetch_beats * c.group_bytes, "read": read, "write": written}
    waves, tiles = int(words.waves.sum()), int(words.tiles.sum())
    fed = tiles * c.tile_bytes if c.stationary_feed == "edge" else 0
    return LinkBytes(
        bonds=tuple(int(-(-sum(each) // 8)) for each in zip(*crossing.values(), strict=True)),
        vertical_by={kind: int(-(-each.sum() // 8)) for kind, each in crossing.items()},
        lateral_by={
            "memory": sum(offchip.values()),
            "launch": int(words.fills.sum()) * c.fill_bytes + int(words.writes.sum()) * c.rows,
            "rows": int(words.rows.sum()) * 2 * c.columns,
            "combine": words.combine_rows * 4 * c.columns,
            "array": waves * (c.rows + 4 * c.columns) + fed,
        },
        offchip_by=offchip,
    )


def count_words(
    config: MachineConfig,
    stream: Table | Rows | Sequence[Instruction],
    *,
    slot_counts: Sequence[Sequence[int]] = (),
    fetch_beats: int | None = None,
) -> LinkWords:
    """Return the words that a stream moves; arguments and errors as for :func:`link_bytes`."""
    if isinstance(stream, np.ndarray):
        rows: Rows = stream
    else:
        rows = (stream if isinstance(stream, Table) else Table.of(stream)).rows
    rows = loaded_rows(rows, slot_counts)
    counts = _slots(rows, tokens_of(slot_counts))
    words = LinkWords.none(
        config, beats_of_stream(config.group_bytes, len(rows)) if fetch_beats is None else fetch_beats
    )
    _gemms(config, rows, counts, words)
    _loads(config, rows, counts, words)
    _stores(config, rows, words)
    _vectors(rows, words)
    return words


def _slots(rows: Rows, slot_counts: Sequence[Sequence[int]]) -> Int:
    """Return for each instruction the tokens of its slot; -1 without one, or where they are not known."""
    found = np.full(len(rows), -1, np.int64)
    if not slot_counts:
        return found
    routes = np.flatnonzero(rows[:, COL.opcode] == Opcode.ROUTE)
    if len(routes) != len(slot_counts):
        raise A3dError(
            f"slot_counts: {len(slot_counts)} lists for {len(routes)} ROUTEs; give the tokens of the slots once for "
            "each ROUTE, or leave them out"
        )
    own = np.flatnonzero((rows[:, COL.slot_en] == 1) & np.isin(rows[:, COL.opcode], (Opcode.GEMM, Opcode.LOAD)))
    table = np.full(1 << 9, -1, np.int64)  # slots and experts are numbers of 8 bits
    for route, end, counts in zip(routes, [*routes[1:], len(rows)], slot_counts, strict=True):
        first = rows[route, COL.slot_base]
        table[first : first + rows[route, COL.experts]] = 0
        table[first : first + len(counts)] = counts
        between = own[(own > route) & (own < end)]
        found[between] = table[rows[between, COL.slot]]
    return found


def _gemms(config: MachineConfig, rows: Rows, counts: Int, words: LinkWords) -> None:
    at = np.flatnonzero(rows[:, COL.opcode] == Opcode.GEMM)
    g, slot = rows[at], counts[at]
    tokens = np.where(slot < 0, g[:, COL.tokens], np.minimum(g[:, COL.tokens], slot - g[:, COL.list_base]))
    skipped = tokens <= 0  # one wave that needs one tile and makes a row that is dropped
    tiles = np.where(skipped, 1, g[:, COL.k_slices] * g[:, COL.n_tiles])
    waves = np.where(skipped, 1, tokens * tiles)
    made = np.where(skipped, 1, tokens * g[:, COL.n_tiles])
    low, top = g[:, COL.tier_base], g[:, COL.tier_base] + g[:, COL.tier_count] - 1
    mapping = np.where(top > low, g[:, COL.mapping], Mapping3D.ALONE)
    to_buffers = (g[:, COL.dest_kind] == Dest.ACTIVATION) & ~skipped
    for tier in range(config.tiers):
        inside = (low <= tier) & (tier <= top)
        follows, makes = inside & (tier > low), inside & ((mapping != Mapping3D.K) | (tier == top))
        words.waves[tier] += waves[inside].sum()
        words.tiles[tier] += tiles[inside].sum()
        words.rows[tier] += made[makes].sum()
        words.link_m[tier] += tiles[follows & (mapping == Mapping3D.M)].sum()
        words.link_n[tier] += waves[follows & (mapping == Mapping3D.N)].sum()
        words.link_k[tier] += waves[follows & (mapping == Mapping3D.K)].sum()
        named = g[:, COL.dest_tiers]
        _add(words.writes, np.where(named, named, 1 << tier), made * (makes & to_buffers))


def _loads(config: MachineConfig, rows: Rows, counts: Int, words: LinkWords) -> None:
    loads = rows[(rows[:, COL.opcode] == Opcode.LOAD) & (counts != 0)]
    kind, many = loads[:, COL.dest_kind], loads[:, COL.count]
    for (dest, form, group, count), times in _alike(kind, loads[:, COL.format], loads[:, COL.group], many):
        beats = times * load_beats(config.rows, config.columns, config.group_bytes, dest, form, count)
        # A pair with a slot may lie the other way round: the same beats in each group all the same.
        for each in (0, 1) if form == Format.PAIR else (group,):
            words.read_beats[each] += beats
    _add(words.fills, loads[:, COL.dest_tiers], np.where(kind == LoadDest.VCACHE, many * config.fill_words, 0))
    parts = np.where(kind == LoadDest.PARAMETER, many * config.parameter_parts, 0)
    _add(words.writes, loads[:, COL.dest_tiers], parts + np.where(kind == LoadDest.ACTIVATION, many, 0))
    words.combine_rows += int(many[kind == LoadDest.ROWS].sum())


def _stores(config: MachineConfig, rows: Rows, words: LinkWords) -> None:
    stores = rows[(rows[:, COL.opcode] == Opcode.STORE) & (rows[:, COL.format] != StoreFormat.DISCARD)]
    first = (stores[:, COL.addr] * ADDRESS_UNIT + stores[:, COL.offset]) % config.group_bytes
    apart = stores[:, COL.addr_gap] > 0
    for (form, count, gaps, byte, group), times in _alike(
        stores[:, COL.format], stores[:, COL.rows], apart, first, stores[:, COL.group]
    ):
        beats = store_beats(config.columns, config.group_bytes, form, count, bool(gaps), byte)
        words.write_beats[group] += times * beats
    words.combine_rows += int(stores[:, COL.rows].sum())


def _vectors(rows: Rows, words: LinkWords) -> None:
    words.combine_rows += int(rows[rows[:, COL.opcode] == Opcode.ROUTE, COL.tokens].sum())  # rows of gates
    v = rows[rows[:, COL.opcode] == Opcode.VECTOR]
    made = v[:, COL.vectors] * np.where(v[:, COL.op] == VectorOp.GATHER, 1, v[:, COL.rows])
    words.combine_rows += int(made[v[:, COL.dest_kind] == VectorDest.ROWS].sum())
    _add(words.writes, v[:, COL.dest_tiers], made * (v[:, COL.dest_kind] == VectorDest.ACTIVATION))
    sizes = (v[:, column] for column in (COL.op, COL.vectors, COL.rows, COL.b_rows, COL.length))
    words.combine_rows += sum(times * vector_requests(*each) for each, times in _alike(*sizes))


def _alike(*columns: npt.NDArray[Any]) -> Iterator[tuple[tuple[int, ...], int]]:
    """Return what instructions have in some columns, once each, and how many have it."""
    found, times = np.unique(
        np.stack([column.astype(np.int64) for column in columns], axis=1), axis=0, return_counts=True
    )
    for values, count in zip(found.tolist(), times.tolist(), strict=True):
        yield tuple(values), count


def _add(highest: Int, masks: Int, many: Int) -> None:
    """Add words to the highest tiers of masks."""
    for tier in range(len(highest)):
        highest[tier] += many[(masks >> tier) == 1].sum()
