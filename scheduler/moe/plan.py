# SPDX-License-Identifier: Apache-2.0
"""Decides how a mixture-of-experts layer runs: gang of tiers, lanes, token blocks and chunks, on-chip regions.

A **lane** is a gang of adjacent tiers that works through a list of experts; lanes run in parallel. All lanes of a
layer have the same size and mapping:

- ``alone``: one tier a lane. Every expert's weights lie in one tier; good when experts have few tokens each.
- ``N``: the tiers of a lane share an expert's output tiles. The weights spread evenly over the tiers whatever the
  routing, so one expert with many tokens keeps all tiers busy, and the tail after the last load is short.
- ``M``: the tiers share an expert's tokens; one V-Cache read feeds the lane. For experts with more tokens than one
  tier's accumulators or list segment hold; all tiles lie in the leader's V-Cache.

K (tiers share the reduction) is never chosen here: its gain over N is for operations with fewer output tiles than
tiers, and the up projection would have to write each tier's slices to the same addresses, which no mapping does.

**Cost rule** (`estimate`): loads are serial (a layer's weights pass one memory interface), experts go to the lane that
is free first, an expert's waves can neither end before its weights have arrived nor start before the lane is free.
Loads repeat for every token block when a lane's V-Cache cannot keep its experts. The plan with the shortest estimate
wins; among those within 2 % the one with the fewest V-Cache tile reads (a tile is read once for each chunk of an
expert's tokens, and M makes chunks as many times larger as it has tiers), then the smallest gang, then N before M,
which packs all tiles into the leader's V-Cache.

A tier's V-Cache, token list and requantisation memory are cut into **segments** that a lane fills in turn, one
**generation** after the other: while one is computed from, the next ones load.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hdl.errors import A3dError
from hdl.isa import Mapping3D
from scheduler.memory.layout import LayerShape
from scheduler.memory.placement import Part

__all__ = ["Gang", "Piece", "Plan", "PlanError", "Segments", "estimate", "make_plan", "pieces_of"]

MAX_FIELD = 1023
"""Largest value of the ten-bit fields (tokens, k_slices, n_tiles, strides)."""

SHARED_SEMAPHORES = 3
LANE_SEMAPHORES = 4
"""Semaphores of a lane beside one per segment."""


class PlanError(A3dError):
    """A layer that the machine cannot run; the message names the limit and what would fit."""


@dataclass(frozen=True)
class Gang:
    """How lanes are formed: mapping and tiers per lane."""

    mapping: Mapping3D
    tiers: int

    @property
    def name(self) -> str:
        """Short name for messages and options: ``alone``, ``n4``, ``m2``."""
        return "alone" if self.tiers == 1 else f"{self.mapping.name.lower()}{self.tiers}"


@dataclass(frozen=True)
class Segments:
    """Sizes of one segment of a tier's memories, and how many segments there are."""

    count: int
    tiles: int
    entries: int
    words: int


@dataclass(frozen=True)
class Piece:
    """Output tiles of a part that one GEMM makes.

    Attributes
    ----------
    part : Part
        Projection.
    first : int
        First output tile.
    n_tiles : int
        Output tiles per tier; in a gang N tier i makes those from ``first + i * n_tiles`` on.
    last : bool
        Whether it completes the part.
    """

    part: Part
    first: int
    n_tiles: int
    last: bool


@dataclass(frozen=True)
class Plan:
    """Decisions for one layer and batch.

    Attributes
    ----------
    shape : LayerShape
        The layer in tiles.
    gang : Gang
        Mapping and tiers of every lane.
    lanes : tuple of tuple of int
        Experts of each lane in order; lane i has tiers ``i * gang.tiers`` and up.
    segments : Segments
        Regions of each tier's memories.
    block : int
        Tokens of the batch that are on chip at a time.
    chunk : int
        Most tokens of one GEMM in one tier.
    blocks : int
        Number of token blocks.
    cycles : int
        Estimate.
    tile_reads : int
        V-Cache tiles that the array reads.
    """

    shape: LayerShape
    gang: Gang
    lanes: tuple[tuple[int, ...], ...]
    segments: Segments
    block: int
    chunk: int
    blocks: int
    cycles: int
    tile_reads: int


def pieces_of(shape: LayerShape, part: Part, gang: Gang, segments: Segments) -> list[Piece]:
    """Cut a part into pieces that fit a segment.

    Raises
    ------
    PlanError
        Even the smallest piece does not fit.
    """
    spread = gang.tiers if gang.mapping == Mapping3D.N else 1
    total, step, k = shape.n_tiles(part) // spread, shape.n_step(part), shape.k_slices(part)
    most = min(segments.tiles // k, segments.words, MAX_FIELD) // step * step
    if total <= min(segments.tiles // k, segments.words, MAX_FIELD):
        most = total
    if most < 1:
        config = shape.config
        channels = "hidden" if part == Part.UP else "intermediate"
        fits = min(segments.tiles // step, MAX_FIELD) * config.rows
        raise PlanError(
            f"{channels} size {getattr(shape, channels)}: {step} output tiles of {k} slices do not fit one of "
            f"{segments.count} V-Cache segments of {segments.tiles} tiles ({segments.words} requantisation words) "
            f"on {config.name!r}; the largest that fits is about {fits}: use a configuration with more vcache_tiles"
        )
    firsts = range(0, total, most)
    return [Piece(part, n * spread, min(most, total - n), n + most >= total) for n in firsts]


def make_plan(shape: LayerShape, tokens: int, counts: Mapping[int, int], gang: Gang | None = None) -> Plan:
    """Return the plan of a layer.

    Parameters
    ----------
    shape : LayerShape
        The layer.
    tokens : int
        Tokens of the batch.
    counts : mapping of int to int
        Tokens of each expert that has any.
    gang : Gang, optional
        Use this one instead of the cheapest.

    Raises
    ------
    PlanError
        Nothing fits: the message is that of the first candidate.
    """
    plans, first_error = [], None
    for candidate in [gang] if gang is not None else _gangs(shape):
        try:
            plans.append(_plan(shape, tokens, counts, candidate))
        except PlanError as error:
            first_error = first_error or error
    if not plans:
        raise first_error or PlanError(f"gang: none is possible on {shape.config.name!r}")
    shortest = min(plan.cycles for plan in plans)
    close = [plan for plan in plans if plan.cycles <= shortest * 1.02]
    return min(close, key=lambda plan: (plan.tile_reads, plan.gang.tiers, plan.gang.mapping == Mapping3D.M))


def _gangs(shape: LayerShape) -> list[Gang]:
    config = shape.config
    gangs = [Gang(Mapping3D.ALONE, 1)]
    if config.vertical_links:
        sizes = [g for g in range(2, config.tiers + 1) if config.tiers % g == 0]
        gangs += [Gang(mapping, g) for g in sizes for mapping in (Mapping3D.N, Mapping3D.M)]
    return gangs


def _plan(shape: LayerShape, tokens: int, counts: Mapping[int, int], gang: Gang) -> Plan:
    config = shape.config
    if config.tiers % gang.tiers:
        raise PlanError(f"gang {gang.name}: {config.tiers} tiers are not a multiple of {gang.tiers}")
    if gang.tiers > 1 and not config.vertical_links:
        raise PlanError(f"gang {gang.name}: {config.name!r} has no vertical links; use alone")
    if gang.mapping == Mapping3D.N:
        for part in Part:
            step = gang.tiers * shape.n_step(part)
            if shape.n_tiles(part) % step:
                raise PlanError(f"gang {gang.name}: {shape.n_tiles(part)} {part} tiles are not a multiple of {step}")
    lanes = min(config.tiers // gang.tiers, max(1, len(counts)))
    for count in (4, 3, 2):
        segments = Segments(
            count, config.vcache_tiles // count, config.list_depth // count, config.parameter_words // count
        )
        try:
            for part in Part:
                pieces_of(shape, part, gang, segments)
        except PlanError:
            if count > 2:
                continue
            raise
        if SHARED_SEMAPHORES + lanes * (LANE_SEMAPHORES + count) <= config.semaphores:
            break
    else:
        raise PlanError(f"gang {gang.name}: {lanes} lanes need more than the {config.semaphores} semaphores")
    block, chunk = _blocks(shape, tokens, segments)
    order = sorted(counts, key=lambda expert: (-counts[expert], expert))
    blocks = -(-tokens // block)
    cycles, chosen = estimate(shape, gang, lanes, [(expert, counts[expert]) for expert in order], blocks)
    room = chunk * (gang.tiers if gang.mapping == Mapping3D.M else 1)
    chunks = sum(max(min(count, blocks), -(-count // room)) for count in counts.values())
    reads = chunks * sum(shape.tiles(part) for part in Part)
    return Plan(shape, gang, chosen, segments, block, chunk, blocks, cycles, reads)


def _blocks(shape: LayerShape, tokens: int, segments: Segments) -> tuple[int, int]:
    """Return (tokens per block, tokens per GEMM) that the activation buffers and the combine buffer hold."""
    config = shape.config
    x_words, h_words, rows = shape.k_slices(Part.UP), shape.k_slices(Part.DOWN), shape.n_tiles(Part.DOWN)
    for name, words in (("hidden", x_words), ("intermediate", h_words)):
        if words > MAX_FIELD:
            fits = MAX_FIELD * config.rows
            raise PlanError(f"{name} size {getattr(shape, name)}: a stride has ten bits; at most {fits} fits")
    if rows > min(config.combine_rows, MAX_FIELD):
        fits = min(config.combine_rows, MAX_FIELD) * config.columns
        raise PlanError(
            f"hidden size {shape.hidden}: one token takes {rows} combine rows; {config.name!r} has "
            f"{config.combine_rows}: at most {fits} fits, or raise combine_rows"
        )
    chunk = min(segments.entries, config.accumulator_depth, MAX_FIELD, tokens)
    while True:
        # Two chunks of h, and the block's x (twice when another block loads meanwhile).
        room = config.activation_words - 2 * chunk * h_words
        block = min(tokens, config.combine_rows // rows, room // x_words)
        if 0 < block < tokens:
            block = min(block, room // (2 * x_words))
        if block >= 1 and (block >= chunk or chunk == 1):
            return block, min(chunk, block)
        if chunk == 1:
            raise PlanError(
                f"hidden size {shape.hidden} with intermediate size {shape.intermediate}: one token takes {x_words} + "
                f"2 x {h_words} activation words; {config.name!r} has {config.activation_words}: raise "
                f"activation_words to at least {x_words * 2 + 2 * h_words}"
            )
        chunk //= 2


def estimate(
    shape: LayerShape, gang: Gang, lanes: int, experts: Sequence[tuple[int, int]], blocks: int = 1
) -> tuple[int, tuple[tuple[int, ...], ...]]:
    """Return (cycles, experts of each lane) for experts given as (number, tokens) in order.

    The batch is computed in `blocks` token blocks. The machine loads one plane beat of each group per cycle; a tile
    of M tokens takes M waves.
    """
    config = shape.config
    free = [0] * lanes
    chosen: list[list[int]] = [[] for _ in range(lanes)]
    loaded = 0
    overhead = 2 * (config.rows + gang.tiers + 24)  # fill and drain between the two projections, measured in cycles
    if gang.mapping == Mapping3D.K:
        overhead += 2 * gang.tiers * config.skew_k
    tiles = sum(shape.tiles(part) for part in Part)
    holders = lanes * (gang.tiers if gang.mapping == Mapping3D.N else 1)
    passes = blocks if len(experts) * tiles > holders * config.vcache_tiles * 3 // 4 else 1
    for expert, tokens in experts:
        lane = free.index(min(free))
        share = -(-tokens // gang.tiers) * tiles if gang.mapping == Mapping3D.M else tokens * tiles // gang.tiers
        start = max(loaded, free[lane])
        loaded += passes * tiles * config.plane_bytes // config.group_bytes
        free[lane] = max(start + share, loaded + tokens) + overhead * blocks
        chosen[lane].append(expert)
    return max(free), tuple(tuple(lane) for lane in chosen)
