# SPDX-License-Identifier: Apache-2.0
"""Turns a plan into each lane's steps: one GEMM each, with the on-chip regions that it uses.

Two experts' chains are interleaved on a lane (up 0, up 1, down 0, up 2, down 1, ...), so that the rows of one up
projection come out of the drain while the other's waves run. Each lane fills its segments in turn; a piece of weights
that is still there is not loaded again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hdl.isa import Mapping3D
from scheduler.memory.placement import Part
from scheduler.moe.plan import Piece, Plan, Segments, pieces_of

__all__ = ["Generation", "Lane", "Routing", "Step", "lane_steps"]

TAGS = 64
Entries = npt.NDArray[np.uint16]


@dataclass(frozen=True, eq=False)
class Routing:
    """Which experts each token of a batch goes to.

    Attributes
    ----------
    experts : int array [tokens, k]
        Expert numbers.
    gates : uint16 array [tokens, k]
        Gate scores, Q15.
    """

    experts: npt.NDArray[np.int64]
    gates: npt.NDArray[np.uint16]

    def of_expert(self, expert: int, first: int, end: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint16]]:
        """Return (tokens, gates) of an expert among tokens `first` to `end` - 1."""
        tokens, slots = np.nonzero(self.experts[first:end] == expert)
        return tokens + first, self.gates[first:end][tokens, slots]


@dataclass(eq=False)
class Generation:
    """What one filling of a lane's segment holds.

    Attributes
    ----------
    number : int
        Counts a lane's generations from 0; its segment is ``number % segments.count``, its fill tag ``number % 64``.
    entries : list per tier of the lane of uint16 arrays [n, 4]
        Token-list entries in order (one list for all tiers but in the mapping M).
    words : list of (expert, Piece)
        Pieces whose requantisation words it holds, in order.
    tiles_used, entries_used, words_used : int
        Fill state.
    cross : bool
        Whether a load of load engine 1 alone belongs to it.
    last_step : int
        Last step of the lane that uses it.
    """

    number: int
    entries: list[list[Entries]]
    words: list[tuple[int, Piece]] = field(default_factory=list)
    tiles_used: int = 0
    entries_used: int = 0
    words_used: int = 0
    cross: bool = False
    last_step: int = -1


@dataclass(eq=False)
class Step:
    """One GEMM of a lane.

    Attributes
    ----------
    expert : int
        Expert number.
    piece : Piece
        Output tiles that it makes.
    block : int
        Token block.
    tokens : int
        Tokens per tier.
    buffer : int
        Which of the lane's two h buffers.
    generation : Generation
        Where its token-list entries are.
    opens : bool
        Whether it is the first step of `generation`.
    loads : bool
        Whether its weights are loaded for it.
    tile, word : int
        First tile and requantisation word, as machine addresses.
    entry : int
        First token-list entry, as a machine address.
    tag : int
        Fill tag.
    first_of_part : bool
        Whether it is the first piece of its part (the down projection waits for h there).
    first_of_block, last_of_block : bool
        First and last step of its lane in the block.
    posts_free : list of int
        Segments that are free for another generation when this step is done.
    """

    expert: int
    piece: Piece
    block: int
    tokens: int
    buffer: int
    first_of_part: bool
    entries: list[Entries]
    generation: Generation = field(init=False)
    opens: bool = False
    loads: bool = False
    tile: int = 0
    word: int = 0
    entry: int = 0
    tag: int = 0
    first_of_block: bool = False
    last_of_block: bool = False
    posts_free: list[int] = field(default_factory=list)


@dataclass(eq=False)
class Lane:
    """A lane's steps in order.

    Attributes
    ----------
    number : int
        Lane number; its tiers start at ``number * gang.tiers``.
    steps : list of Step
        GEMMs.
    generations : list of Generation
        Fillings of its segments.
    """

    number: int
    steps: list[Step]
    generations: list[Generation]


def lane_steps(plan: Plan, number: int, routing: Routing, high_only: Mapping[int, bool], tokens: int) -> Lane:
    """Return a lane's steps for the whole batch.

    Parameters
    ----------
    plan : Plan
        What was decided.
    number : int
        Lane.
    routing : Routing
        The batch's routing.
    high_only : mapping of int to bool
        For each expert, whether its high planes alone are loaded **by engine 1** for a part; see `Generation.cross`.
    tokens : int
        Tokens of the batch.
    """
    lane = Lane(number, [], [])
    jobs = 0
    pieces = {part: pieces_of(plan.shape, part, plan.gang, plan.segments) for part in Part}
    for block in range(plan.blocks):
        first, end = block * plan.block, min(tokens, (block + 1) * plan.block)
        ups: list[list[Step]] = []
        downs: list[list[Step]] = []
        for expert in plan.lanes[number]:
            chosen, gates = routing.of_expert(expert, first, end)
            room = plan.chunk * (plan.gang.tiers if plan.gang.mapping == Mapping3D.M else 1)
            for start in range(0, chosen.size, room):
                part_tokens, part_gates = chosen[start : start + room] - first, gates[start : start + room]
                count, up, down = _entries(plan, part_tokens, part_gates)
                for part, entries, steps in ((Part.UP, up, ups), (Part.DOWN, down, downs)):
                    steps.append(
                        [
                            Step(expert, piece, block, count, jobs % 2, place == 0, entries)
                            for place, piece in enumerate(pieces[part])
                        ]
                    )
                jobs += 1
        order = _interleave(ups, downs)
        if order:
            order[0].first_of_block = order[-1].last_of_block = True
            lane.steps += order
    _allocate(plan, lane, high_only)
    return lane


def _interleave(ups: list[list[Step]], downs: list[list[Step]]) -> list[Step]:
    order: list[Step] = []
    for place, steps in enumerate(ups):
        order += steps
        if place:
            order += downs[place - 1]
    return order + (downs[-1] if downs else [])


def _entries(
    plan: Plan, tokens: npt.NDArray[np.int64], gates: npt.NDArray[np.uint16]
) -> tuple[int, list[Entries], list[Entries]]:
    """Return (tokens per tier, list entries of the up GEMM, of the down GEMM), a list per tier of the lane."""
    spread = plan.gang.tiers if plan.gang.mapping == Mapping3D.M else 1
    count = -(-tokens.size // spread)
    up = np.zeros((count * spread, 4), dtype=np.uint16)
    down = np.zeros_like(up)
    up[: tokens.size, 0] = tokens * plan.shape.k_slices(Part.UP)
    down[: tokens.size, 1] = tokens * plan.shape.n_tiles(Part.DOWN)
    down[: tokens.size, 2] = gates
    down[tokens.size :, 3] = 1  # rows that only fill the gang up
    return count, list(up.reshape(spread, count, 4)), list(down.reshape(spread, count, 4))


def _allocate(plan: Plan, lane: Lane, high_only: Mapping[int, bool]) -> None:
    """Give every step its regions, opening generations as they fill up, and say which step frees which segment."""
    segments = plan.segments
    spread = plan.gang.tiers if plan.gang.mapping == Mapping3D.M else 1
    resident: dict[tuple[int, Part, int], tuple[Generation, int, int]] = {}
    for place, step in enumerate(lane.steps):
        key = (step.expert, step.piece.part, step.piece.first)
        tiles = step.piece.n_tiles * plan.shape.k_slices(step.piece.part)
        generation = lane.generations[-1] if lane.generations else None
        known = resident.get(key)
        if generation is None or step.first_of_block or not _fits(segments, generation, step, known, tiles):
            generation = Generation(len(lane.generations), [[] for _ in range(spread)])
            lane.generations.append(generation)
            step.opens = True
            lowest = generation.number - segments.count + 1
            resident = {k: v for k, v in resident.items() if v[0].number >= lowest}
            known = resident.get(key)
        step.generation = generation
        step.entry = generation.number % segments.count * segments.entries + generation.entries_used
        for tier, entries in enumerate(step.entries):
            generation.entries[tier].append(entries)
        generation.entries_used += step.tokens
        generation.last_step = place
        if known is None:
            step.loads = True
            known = (generation, generation.tiles_used, generation.words_used)
            resident[key] = known
            generation.tiles_used += tiles
            generation.words_used += step.piece.n_tiles
            generation.words.append((step.expert, step.piece))
            generation.cross |= high_only.get(step.expert, False)
        holder, tile, word = known
        holder.last_step = place
        segment = holder.number % segments.count
        step.tile, step.word = segment * segments.tiles + tile, segment * segments.words + word
        step.tag = holder.number % TAGS
    _free(plan, lane)


def _fits(
    segments: Segments, generation: Generation, step: Step, known: tuple[Generation, int, int] | None, tiles: int
) -> bool:
    if generation.entries_used + step.tokens > segments.entries:
        return False
    return known is not None or (
        generation.tiles_used + tiles <= segments.tiles and generation.words_used + step.piece.n_tiles <= segments.words
    )


def _free(plan: Plan, lane: Lane) -> None:
    """Choose, for each generation that another will overwrite, the step whose completion frees it.

    Rows of a tier come out in order, so any step from the last user on will do; an instruction has two posts, and
    one of them may be taken (h is complete; the block is complete).
    """
    count = plan.segments.count
    for generation in lane.generations:
        if generation.number + count >= len(lane.generations):
            break
        place = generation.last_step
        while True:
            step = lane.steps[place]
            taken = len(step.posts_free) + (step.piece.part == Part.UP and step.piece.last) + step.last_of_block
            if taken < 2:
                break
            place += 1
        if step.generation.number >= generation.number + count:
            raise AssertionError("no step has a post to spare before the segment is filled again")
        step.posts_free.append(generation.number % count)
