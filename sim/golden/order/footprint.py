# SPDX-License-Identifier: Apache-2.0
"""Which memory cells an instruction reads and writes, on chip and off.

A cell is the smallest thing that two instructions can share without meeting: a V-Cache tile, half a tile's width of
an activation word (C/2 bytes), a token-list entry, a requantisation word, a combine row, a scalar of the vector unit.
The routing table is one cell. Memory is handled as spans. What depends on the routing counts at its largest: a GEMM
with a slot may touch what any token does, a LOAD with a slot may read any expert.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from hdl.config import ADDRESS_UNIT, MachineConfig
from hdl.isa import Dest, Instruction, LoadDest, Mapping3D, Mode, Opcode, StoreFormat, VectorDest, maker_tiers
from hdl.isa.legality import (
    beats,
    gang_tiers,
    load_groups,
    load_item_bytes,
    parameter_count,
    store_span,
    store_step,
    tiers_of_mask,
)
from hdl.isa.slots import gate_rows, route_dests, route_entries, route_scalars, route_sources, slot_loads
from hdl.isa.vector_access import dest_rows
from sim.golden.order.spans import Span, whole_span
from sim.golden.order.vector_footprint import activation_cells, rows_read, scalar_cells

__all__ = ["SPACES", "Access", "Footprint", "Lists", "footprint", "space_cells"]

Cells = npt.NDArray[np.int64]
Kind = Literal["read", "write", "add"]
SPACES = ("vcache", "activation", "list", "parameter", "combine", "scalar", "slots")


@dataclass(frozen=True)
class Access:
    """One access of an instruction.

    Attributes
    ----------
    space : str
        One of ``SPACES``.
    kind : {"read", "write", "add"}
        ``add`` is an accumulation into a combine row, which commutes with other additions.
    tier : int
        Tier that reads (reads by the array) or that made the row (results); -1 for loads, stores and the vector unit.
    cells : int64 array
        Cell numbers, with repetitions where a cell is written twice.
    """

    space: str
    kind: Kind
    tier: int
    cells: Cells


@dataclass(frozen=True)
class Footprint:
    """All that an instruction touches.

    Attributes
    ----------
    accesses : tuple of Access
        On-chip accesses.
    reads, writes : tuple of Span
        Bytes of memory.
    """

    accesses: tuple[Access, ...]
    reads: tuple[Span, ...] = ()
    writes: tuple[Span, ...] = ()


class Lists:
    """Contents of the token lists, as loads and ROUTEs leave them: list-driven addresses depend on them.

    Attributes
    ----------
    entries : uint16 array [tiers, list_depth, 4]
        What loads left; zero where a ROUTE wrote.
    slots : dict of int to (Instruction, int)
        Of each slot the ROUTE that wrote it last, and how many there were before that one.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        self.entries = np.zeros((config.tiers, config.list_depth, 4), dtype=np.uint16)
        self.slots: dict[int, tuple[Instruction, int]] = {}
        self._routes: list[Instruction] = []
        self._routed = np.full((config.tiers, config.list_depth), -1, dtype=np.int64)

    def apply(self, instruction: Instruction, memory: tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]) -> None:
        """Apply an instruction: a LOAD of list entries from the groups' memories, or a ROUTE; others do nothing."""
        if instruction.opcode == Opcode.ROUTE:
            first = instruction["list_base"]
            self.entries[:, first : first + route_entries(instruction)] = 0
            self._routed[:, first : first + route_entries(instruction)] = len(self._routes)
            for slot in range(instruction["slot_base"], instruction["slot_base"] + instruction["experts"]):
                self.slots[slot] = instruction, len(self._routes)
            self._routes.append(instruction)
            return
        if instruction.opcode != Opcode.LOAD or instruction["dest_kind"] != LoadDest.LIST:
            return
        count, base = instruction["count"], instruction["dest_base"]
        start = instruction["addr"] * ADDRESS_UNIT
        raw = memory[instruction["group"]][start : start + 8 * count]
        for tier in tiers_of_mask(instruction["dest_tiers"]):
            self.entries[tier, base : base + count] = raw.copy().view("<u2").reshape(count, 4)
            self._routed[tier, base : base + count] = -1

    def route(self, instruction: Instruction) -> Instruction | None:
        """Return the ROUTE that wrote the slot of an instruction last."""
        return self.slots[instruction["slot"]][0] if instruction["slot"] in self.slots else None

    def used(self, gemm: Instruction, tier: int) -> Cells:
        """Return the list entries that a GEMM may read in a tier."""
        if not gemm["slot_en"]:
            return gemm["list_base"] + np.arange(gemm["tokens"])
        route = self.route(gemm)
        if route is None:
            return np.zeros(0, dtype=np.int64)
        return route["list_base"] + np.arange(route_entries(route))

    def sources(self, gemm: Instruction, tier: int) -> Cells:
        """Return the `source` of all entries that a GEMM may read, each once where the routing decides."""
        known, routes = self._split(gemm, tier)
        return np.concatenate([known[:, 0].astype(np.int64), *(route_sources(route) for route in routes)])

    def dests(self, gemm: Instruction, tier: int) -> Cells:
        """Return the `dest` of all entries that a GEMM may read but the dropped ones, likewise."""
        known, routes = self._split(gemm, tier)
        own = known[known[:, 3] & 1 == 0, 1].astype(np.int64)
        return np.concatenate([own, *(route_dests(route) for route in routes)])

    def _split(self, gemm: Instruction, tier: int) -> tuple[npt.NDArray[np.uint16], list[Instruction]]:
        """Return the entries that loads have written, and the ROUTEs that have written others."""
        entries = self.used(gemm, tier)
        routed = self._routed[tier, entries]
        return self.entries[tier, entries[routed < 0]], [self._routes[n] for n in np.unique(routed[routed >= 0])]


def space_cells(space: str, config: MachineConfig) -> int:
    """Return the number of cells of a space, all tiers together."""
    return {
        "vcache": config.tiers * config.vcache_tiles,
        "activation": config.tiers * config.activation_words * _parts(config),
        "list": config.tiers * config.list_depth,
        "parameter": config.tiers * config.parameter_words,
        "combine": config.combine_rows,
        "scalar": config.scalar_depth,
        "slots": config.expert_slots,
    }[space]


def _parts(config: MachineConfig) -> int:
    return 2 * config.rows // config.columns


def footprint(instruction: Instruction, config: MachineConfig, lists: Lists) -> Footprint:
    """Return what a legal instruction touches, given the token lists as they are when it runs."""
    if instruction.opcode == Opcode.LOAD:
        return _load(instruction, config, lists)
    if instruction.opcode == Opcode.STORE:
        return _store(instruction, config)
    if instruction.opcode == Opcode.GEMM:
        return Footprint(tuple(_gemm_reads(instruction, config, lists) + _gemm_writes(instruction, config, lists)))
    if instruction.opcode == Opcode.VECTOR:
        return _vector(instruction, config)
    if instruction.opcode == Opcode.ROUTE:
        return _route(instruction, config)
    return Footprint(())


def _route(instruction: Instruction, config: MachineConfig) -> Footprint:
    entries = instruction["list_base"] + np.arange(route_entries(instruction))
    lists = (np.arange(config.tiers)[:, None] * config.list_depth + entries).reshape(-1)
    return Footprint(
        (
            Access("scalar", "read", -1, np.unique(route_scalars(instruction))),
            Access("combine", "read", -1, np.unique(gate_rows(instruction))),
            Access("list", "write", -1, lists),
            Access("slots", "write", -1, instruction["slot_base"] + np.arange(instruction["experts"])),
        )
    )


def _load(instruction: Instruction, config: MachineConfig, lists: Lists) -> Footprint:
    kind, count, base = LoadDest(instruction["dest_kind"]), instruction["count"], instruction["dest_base"]
    space, depth, parts = {
        LoadDest.VCACHE: ("vcache", config.vcache_tiles, 1),
        LoadDest.ACTIVATION: ("activation", config.activation_words, _parts(config)),
        LoadDest.LIST: ("list", config.list_depth, 1),
        LoadDest.PARAMETER: ("parameter", config.parameter_words, 1),
        LoadDest.ROWS: ("combine", 0, 1),
    }[kind]
    tiers = [0] if kind == LoadDest.ROWS else tiers_of_mask(instruction["dest_tiers"])
    cells = [(tier * depth + base) * parts + np.arange(count * parts) for tier in tiers]
    size = beats(count * load_item_bytes(instruction, config), config) * config.group_bytes
    accesses = [Access(space, "write", -1, np.concatenate(cells))]
    loads = [instruction]
    if instruction["slot_en"]:
        accesses.append(Access("slots", "read", -1, np.array([instruction["slot"]])))
        route = lists.route(instruction)
        experts = route["experts"] if route is not None else config.expert_slots
        loads = slot_loads(instruction, experts)
    reads = tuple(whole_span(group, at, at + size) for load in loads for group, at in load_groups(load))
    return Footprint(tuple(accesses), reads=reads)


def _store(instruction: Instruction, config: MachineConfig) -> Footprint:
    cells = instruction["row_base"] + np.arange(instruction["rows"]) * (1 + instruction["row_gap"])
    accesses, writes = [], []
    if instruction["format"] != StoreFormat.DISCARD:
        accesses.append(Access("combine", "read", -1, cells))
        width, step = store_step(instruction, config)
        start, end = store_span(instruction, config)
        group = instruction["group"]
        writes.append(whole_span(group, start, end) if width == step else Span(group, start, end, step, width))
    if instruction["clear"]:
        accesses.append(Access("combine", "write", -1, cells))
    return Footprint(tuple(accesses), writes=tuple(writes))


def _vector(instruction: Instruction, config: MachineConfig) -> Footprint:
    accesses = [Access("combine", "read", -1, rows_read(instruction))]
    if instruction["dest_kind"] == VectorDest.ROWS:
        accesses.append(Access("combine", "write", -1, dest_rows(instruction).reshape(-1)))
    elif instruction["dest_kind"] == VectorDest.ACTIVATION:
        accesses.append(Access("activation", "write", -1, activation_cells(instruction, config)))
    read, written = scalar_cells(instruction)
    if read.size:
        accesses.append(Access("scalar", "read", -1, read))
    if written.size:
        accesses.append(Access("scalar", "write", -1, written))
    return Footprint(tuple(accesses))


def _mapping(instruction: Instruction) -> Mapping3D:
    return Mapping3D(instruction["mapping"]) if instruction["tier_count"] > 1 else Mapping3D.ALONE


def _gemm_reads(instruction: Instruction, config: MachineConfig, lists: Lists) -> list[Access]:
    tiers, mapping = gang_tiers(instruction), _mapping(instruction)
    tokens, k_slices, n_tiles = (instruction[n] for n in ("tokens", "k_slices", "n_tiles"))
    makers = maker_tiers(instruction)
    readers = tiers[:1] if mapping == Mapping3D.N else tiers
    accesses = []
    if instruction["slot_en"]:
        accesses.append(Access("slots", "read", tiers[0], np.array([instruction["slot"]])))
    for tier in tiers[:1] if mapping == Mapping3D.M else tiers:
        tiles = tier * config.vcache_tiles + instruction["vcache_base"] + np.arange(k_slices * n_tiles)
        accesses.append(Access("vcache", "read", tier, tiles))
    for tier in tiers:
        if (instruction["act_list"] and tier in readers) or (instruction["dest_list"] and tier in makers):
            accesses.append(Access("list", "read", tier, tier * config.list_depth + lists.used(instruction, tier)))
        if tier in readers:
            if instruction["act_list"]:
                source = lists.sources(instruction, tier)
            else:
                source = np.arange(tokens) * instruction["act_stride"]
            words = tier * config.activation_words + instruction["act_base"] + source[:, None] + np.arange(k_slices)
            parts = _parts(config)
            cells = (words[:, :, None] * parts + np.arange(parts)).reshape(-1)
            accesses.append(Access("activation", "read", tier, np.unique(cells)))
        if tier in makers:
            first = tier * config.parameter_words + instruction["param_base"]
            accesses.append(Access("parameter", "read", tier, first + np.arange(parameter_count(instruction))))
    return accesses


def _gemm_writes(instruction: Instruction, config: MachineConfig, lists: Lists) -> list[Access]:
    tiers, mapping = gang_tiers(instruction), _mapping(instruction)
    tokens, n_tiles = instruction["tokens"], instruction["n_tiles"]
    combine = instruction["dest_kind"] == Dest.COMBINE
    spread = mapping == Mapping3D.M and not instruction["dest_list"] and (combine or instruction["dest_tiers"])
    parts = _parts(config)
    accesses = []
    for tier in maker_tiers(instruction):
        place = tier - tiers[0]
        numbers = (place * n_tiles if mapping == Mapping3D.N else 0) + np.arange(n_tiles)
        if instruction["dest_list"]:
            offset = lists.dests(instruction, tier)
        else:
            offset = ((place * tokens if spread else 0) + np.arange(tokens)) * instruction["dest_stride"]
        start = instruction["dest_base"] + offset[:, None]
        if combine:
            kind: Kind = "add" if instruction["accumulate"] else "write"
            accesses.append(Access("combine", kind, tier, (start + numbers).reshape(-1)))
            continue
        width = 1 if instruction["mode"] == Mode.SWIGLU else 2  # cells of C/2 bytes that a row takes
        cells = start[:, :, None] * parts + (numbers[:, None] * width + np.arange(width))
        for target in tiers_of_mask(instruction["dest_tiers"]) or [tier]:
            whole = target * config.activation_words * parts + cells.reshape(-1)
            accesses.append(Access("activation", "write", tier, whole))
    return accesses
