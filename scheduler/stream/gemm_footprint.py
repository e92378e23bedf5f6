# SPDX-License-Identifier: Apache-2.0
"""Which on-chip cells a GEMM reads and writes, with token lists or without."""

from __future__ import annotations

from hdl.isa import Dest, Mapping3D, Mode
from scheduler.stream.blocks import ADD, READ, WRITE, Blocks, put, put_run
from scheduler.stream.compiled import compiled
from scheduler.stream.lists import DEST, FLAGS, ROUTED, SOURCE, TokenLists, listed
from scheduler.stream.machine import ACTIVATION, COMBINE, LIST, PARAMETER, SLOTS, VCACHE, Machine
from scheduler.stream.table import COL, Rows

__all__ = ["gemm_footprint"]

DROPPED = 1
"""Flag of a list entry whose row goes nowhere."""


@compiled
def _sources(
    rows: Rows, r: int, tier: int, access: int, machine: Machine, lists: TokenLists, blocks: Blocks, at: int
) -> int:
    """Add the activation words that a tier reads through its list."""
    first, many = listed(rows, r, lists)
    slices, base, parts = rows[r, COL.k_slices], rows[r, COL.act_base], machine.parts
    begin = machine.activation + (tier * machine.activation_words + base) * parts
    entries, routes = lists.entries, lists.routes
    routes[0, 1] += 1
    for entry in range(tier * machine.list_depth + first, tier * machine.list_depth + first + many):
        number = entries[entry, ROUTED]
        source, stride, outer = entries[entry, SOURCE], 0, 1
        if number:
            if routes[number, 1] == routes[0, 1]:
                continue
            routes[number, 1] = routes[0, 1]
            route = routes[number, 0]
            source, stride, outer = (
                rows[route, COL.source_base],
                rows[route, COL.source_stride],
                rows[route, COL.tokens],
            )
        if base + source + (outer - 1) * stride + slices > machine.activation_words:
            return -1 - (READ + 3 * ACTIVATION)
        at = put(
            blocks, at, ACTIVATION, READ, tier, access, begin + source * parts, slices * parts, stride * parts, outer
        )
    return at


@compiled
def _rows_made(
    rows: Rows, r: int, tier: int, access: int, begin: int, limit: int, scale: int, width: int, kind: int,
    machine: Machine, lists: TokenLists, blocks: Blocks, at: int,
) -> int:  # fmt: skip
    """Add the rows that a tier writes through its list: `width` cells each, `scale` cells from one dest to the next."""
    first, many = listed(rows, r, lists)
    space = COMBINE if rows[r, COL.dest_kind] == Dest.COMBINE else ACTIVATION
    entries, routes = lists.entries, lists.routes
    routes[0, 1] += 1
    for entry in range(tier * machine.list_depth + first, tier * machine.list_depth + first + many):
        number = entries[entry, ROUTED]
        dest, stride, outer = entries[entry, DEST], 0, 1
        if number:
            if routes[number, 1] == routes[0, 1]:
                continue
            routes[number, 1] = routes[0, 1]
            route = routes[number, 0]
            dest, stride, outer = rows[route, COL.dest_base], rows[route, COL.dest_stride], rows[route, COL.tokens]
        elif entries[entry, FLAGS] & DROPPED:
            continue
        if begin + (dest + (outer - 1) * stride) * scale + width > limit:
            return -1 - (kind + 3 * space)
        at = put(blocks, at, space, kind, tier, access, begin + dest * scale, width, stride * scale, outer)
    return at


@compiled
def _results(
    rows: Rows, r: int, maker: int, access: int, machine: Machine, lists: TokenLists, blocks: Blocks, at: int
) -> int:
    base, gang, mapping = rows[r, COL.tier_base], rows[r, COL.tier_count], rows[r, COL.mapping]
    tokens, tiles, stride = rows[r, COL.tokens], rows[r, COL.n_tiles], rows[r, COL.dest_stride]
    combine, mask = rows[r, COL.dest_kind] == Dest.COMBINE, rows[r, COL.dest_tiers]
    spread = mapping == Mapping3D.M and (combine or mask)
    kind = ADD if combine and rows[r, COL.accumulate] else WRITE
    scale = 1 if combine else machine.parts
    width = 1 if combine or rows[r, COL.mode] == Mode.SWIGLU else 2  # cells of one tile in a row
    for tier in range(maker, base + gang):
        number = (tier - base) * tiles if mapping == Mapping3D.N else 0
        token = (tier - base) * tokens if spread else 0
        for target in range(machine.tiers):
            if not (target == tier if combine or not mask else mask >> target & 1):
                continue
            first = machine.combine if combine else machine.activation + target * machine.activation_words * scale
            limit = first + (machine.combine_rows if combine else machine.activation_words * scale)
            first += rows[r, COL.dest_base] * scale + number * width
            if rows[r, COL.dest_list]:
                at = _rows_made(
                    rows, r, tier, access, first, limit, scale, tiles * width, kind, machine, lists, blocks, at
                )
                if at < 0:
                    return at
            else:
                space = COMBINE if combine else ACTIVATION
                first += token * stride * scale
                at = put(blocks, at, space, kind, tier, access, first, tiles * width, stride * scale, tokens)
            access += 1
    return at


@compiled
def gemm_footprint(rows: Rows, r: int, machine: Machine, lists: TokenLists, blocks: Blocks, at: int) -> int:
    """Write down what the legal GEMM in row `r` touches; as `scheduler.stream.footprints.footprint`."""
    base, gang, mapping = rows[r, COL.tier_base], rows[r, COL.tier_count], rows[r, COL.mapping]
    tokens, slices, tiles = rows[r, COL.tokens], rows[r, COL.k_slices], rows[r, COL.n_tiles]
    maker = base + gang - 1 if mapping == Mapping3D.K else base  # the first tier that makes rows
    readers = base + 1 if mapping == Mapping3D.N else base + gang  # behind the last tier that reads activations
    holders = base + 1 if mapping == Mapping3D.M else base + gang  # and tiles
    parts, by_list = machine.parts, rows[r, COL.act_list] or rows[r, COL.dest_list]
    access = 0
    if rows[r, COL.slot_en]:
        at = put_run(blocks, at, SLOTS, READ, base, access, machine.slots + rows[r, COL.slot], 1)
        access += 1
    for tier in range(base, holders):
        begin = machine.vcache + tier * machine.vcache_tiles + rows[r, COL.vcache_base]
        at = put_run(blocks, at, VCACHE, READ, tier, access, begin, slices * tiles)
        access += 1
    first, many = listed(rows, r, lists)
    for tier in range(base, base + gang):
        if by_list and ((rows[r, COL.act_list] and tier < readers) or (rows[r, COL.dest_list] and tier >= maker)):
            begin = machine.lists + tier * machine.list_depth + first
            at = put_run(blocks, at, LIST, READ, tier, access, begin, many)
            access += 1
        if tier < readers:
            if rows[r, COL.act_list]:
                at = _sources(rows, r, tier, access, machine, lists, blocks, at)
                if at < 0:
                    return at
            else:
                begin = machine.activation + (tier * machine.activation_words + rows[r, COL.act_base]) * parts
                stride = rows[r, COL.act_stride] * parts
                at = put(blocks, at, ACTIVATION, READ, tier, access, begin, slices * parts, stride, tokens)
            access += 1
        if tier >= maker:
            begin = machine.parameter + tier * machine.parameter_words + rows[r, COL.param_base]
            at = put_run(blocks, at, PARAMETER, READ, tier, access, begin, 1 if rows[r, COL.param_hold] else tiles)
            access += 1
    return _results(rows, r, maker, access, machine, lists, blocks, at)
