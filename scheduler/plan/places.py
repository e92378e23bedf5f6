# SPDX-License-Identifier: Apache-2.0
"""Where the data of a step lie on the chip: combine rows, activation words, scalars, V-Cache tiles, lists, parameters.

Of a layer, the attention of some tokens and the routing of others overlap, so their rows and scalars lie side by side.
Experts' intermediate results and the language-model head share space with attention's; the hazard tracking of
:mod:`scheduler.stream` keeps them apart in time.
"""

from __future__ import annotations

from dataclasses import dataclass

from hdl.config import MachineConfig
from scheduler.plan.limits import MOST_COUNT, LoweringError
from scheduler.plan.pinned import PINNED_HIGH_TAG
from scheduler.plan.pools import (
    Choice,
    Pool,
    Sizes,
    StepSize,
    end_of,
    head_tiles_of,
    row_pools,
    scalar_pools,
    word_pools,
)
from scheduler.plan.residence import Residence, attention_words
from scheduler.plan.tiling import HeadTiling, Tiling

__all__ = ["AHEAD", "SPARE_ROWS", "SPARE_SCALARS", "TAGS", "Places", "key_space", "most_block", "plan_places"]

TAGS = PINNED_HIGH_TAG
"""Fill tags that are used in turn."""
AHEAD = 2
"""Blocks of tokens that are projected before they are attended to."""
MOST_BUFFERS = 4
"""Whole experts of one tier that may be loaded or in use at a time."""
MOST_SHARES = 16
"""The same of shares of streamed experts that all tiers run together."""
MOST_SLOT_SHARES = 3
"""The same where the machine finds their tokens: each takes many semaphores, as any of them may be skipped."""
MOST_BLOCK, MOST_RESIDENT_BLOCK = 256, 64
"""Tokens of a block; with resident matrices small ones cost nothing."""
SPARE_ROWS, SPARE_SCALARS = 3, 1
"""Last combine rows and scalars, which no step uses: one row for each load engine, one that is only read, a scalar.
Instructions that only carry waits work on them."""


@dataclass(frozen=True)
class Places:
    """On-chip addresses of a step; see :func:`plan_places`.

    Attributes
    ----------
    residence : Residence
    size : StepSize
    block : int
        Tokens that go through attention together.
    copies : int
        Blocks whose queries, keys and values are on the chip at a time.
    job_vectors : int
        Most queries of one attention job.
    chunk : int
        Most tokens of one expert GEMM.
    choice_tokens : int
        Tokens whose experts are chosen together.
    regions : int
        Score regions, used in turn.
    rows, words, scalars : dict of str to Pool
        By phase: ``attention``, ``experts``, ``head``; `rows` besides the residual, which starts at row 0.
    score_rows : int
        Size of one score region.
    head_tiles : int
        Output tiles of the head whose logits are on the chip at a time.
    piece_buffers : tuple of int
        First tiles of the buffers for experts or pieces of them.
    keys : tuple of (int, int)
        First tile and size of what is left for keys and values.
    key_piece : int
        Keys that are loaded at once; all of the longest sequence where they fit.
    words_base : int
        First requantisation word of resident dense matrices, or of the ring.
    attention_base : int
        Streamed: first of two places for a layer's words of attention.
    expert_words : tuple of int
        First requantisation words of experts, used in turn.
    list_entries : tuple of (int, int)
        First entry and size of the expert lists; the residual's list lies at 0.
    """

    residence: Residence
    size: StepSize
    block: int
    copies: int
    job_vectors: int
    chunk: int
    choice_tokens: int
    regions: int
    rows: dict[str, Pool]
    words: dict[str, Pool]
    scalars: dict[str, Pool]
    score_rows: int
    head_tiles: int
    piece_buffers: tuple[int, ...]
    keys: tuple[int, int]
    key_piece: int
    words_base: int
    attention_base: int
    expert_words: tuple[int, ...]
    list_entries: tuple[int, int]

    @property
    def tiling(self) -> Tiling:
        """The model on the machine."""
        return self.residence.tiling

    @property
    def config(self) -> MachineConfig:
        """The machine."""
        return self.residence.tiling.config


def plan_places(residence: Residence, size: StepSize) -> Places:
    """Return where everything lies.

    Raises
    ------
    LoweringError
        The step does not fit a memory: the message names it, the need and the remedy.
    """
    sizes = Sizes(residence.tiling)
    if size.tokens > MOST_COUNT:
        raise LoweringError(
            f"step of {size.tokens} tokens: instructions count up to {MOST_COUNT}; run fewer tokens in a step"
        )
    for choice in _choices(residence, size, sizes):
        found = _fit(residence, size, sizes, choice)
        if found is not None:
            return found
    raise LoweringError(_why(residence, size, sizes))


def _choices(residence: Residence, size: StepSize, sizes: Sizes) -> list[Choice]:
    """Return what may be tried, the best first."""
    config = residence.tiling.config
    most = min(size.tokens, size.block or size.tokens, most_block(residence))
    blocks = sorted({most, *(b for b in (256, 128, 64, 32, 16, 8, 4, 2, 1) if b <= most)}, reverse=True)
    if size.tokens > 64 and residence.resident:
        # with several blocks, one's vectors overlap the other's GEMMs
        blocks = [b for b in blocks if b <= 16] or blocks
    vectors = max(1, min(config.accumulator_depth // sizes.value_rows, most_vectors(config)))
    wanted = min(sizes.group, config.accumulator_depth // sizes.value_rows) or 1
    job = max(wanted, min(vectors, max(size.longest, size.sharing * sizes.group)))
    ahead = (AHEAD,) if residence.resident else (1, 0)
    tiers = config.tiers
    all_regions = [2 * tiers, 3 * tiers // 2, tiers, 1]
    if not residence.resident:  # large arrays: a job's rows come late, so that many must be on their way
        all_regions = [8 * tiers, 4 * tiers, *all_regions]
    return [
        Choice(block, min(more + 1, -(-size.tokens // block)), job, regions)
        for block in blocks
        for more in ahead
        for regions in all_regions
    ]


def most_block(residence: Residence) -> int:
    """Return the most tokens of a block."""
    config = residence.tiling.config
    most = MOST_RESIDENT_BLOCK if residence.resident else MOST_BLOCK
    return min(most, config.accumulator_depth, config.list_depth // 2)


def most_vectors(config: MachineConfig) -> int:
    """Return how many queries of one head attention handles at once in prefill."""
    return 16


def _fit(residence: Residence, size: StepSize, sizes: Sizes, choice: Choice) -> Places | None:
    tiling, config = residence.tiling, residence.tiling.config
    choices = size.tokens
    while (
        not size.slots
        and choices > 1
        and end_of(scalar_pools(size, sizes, choice, choices)) + SPARE_SCALARS > config.scalar_depth
    ):
        choices = -(-choices // 2)
    rows = row_pools(residence, size, sizes, choice, choices)
    scalars = scalar_pools(size, sizes, choice, choices)
    left = config.activation_words - end_of(word_pools(tiling, size, sizes, choice, 0))
    if not size.beside:  # attention is over when the experts begin
        left = config.activation_words - size.tokens * tiling.hidden_words
    chunk = min(size.tokens, left // (2 * sizes.inner_words), config.accumulator_depth)
    if choice.job_vectors * sizes.value_rows > config.accumulator_depth:
        return None
    if chunk < 1 or end_of(rows) + SPARE_ROWS > config.combine_rows:
        return None
    if end_of(scalars) + SPARE_SCALARS > config.scalar_depth:
        return None
    words = word_pools(tiling, size, sizes, choice, chunk)
    if end_of(words) > config.activation_words or choice.block > config.list_depth // 2:
        return None
    if size.slots and size.tokens * sizes.chosen > config.list_depth - choice.block:
        return None  # any tier may get the lists of all experts
    buffers = _piece_buffers(residence, size, sizes)
    if buffers is None:
        return None
    piece_buffers, keys, piece = buffers
    used = residence.dense_words if residence.resident else 0
    attention = 0 if residence.resident else 2 * max(attention_words(tiling, k) for k in tiling.kinds)
    room = config.parameter_words - used - attention
    each = sizes.expert_words
    if residence.gangs and not size.slots:  # experts on all tiers: each has a part of the words
        each = max(map(residence.gang_words, residence.gangs))
    if residence.resident:
        word_buffers = len(piece_buffers)
    else:
        word_buffers = min(4, max(2, room // 2 // max(1, each)))
    expert_base = used if residence.resident else attention
    expert_words = tuple(expert_base + n * each for n in range(word_buffers))
    words_base = 0 if residence.resident else expert_base + word_buffers * each
    return Places(
        residence=residence, size=size, block=choice.block, copies=choice.copies, job_vectors=choice.job_vectors,
        chunk=chunk, choice_tokens=choices, regions=choice.regions,
        rows=rows, words=words, scalars=scalars,
        score_rows=choice.job_vectors * size.key_block // config.columns,
        head_tiles=head_tiles_of(residence, size),
        piece_buffers=piece_buffers, keys=keys, key_piece=piece, words_base=words_base, attention_base=0,
        expert_words=expert_words, list_entries=(choice.block, config.list_depth - choice.block),
    )  # fmt: skip


def _key_tiles(tiling: Tiling, heads: HeadTiling, keys: int) -> int:
    """Return the tiles of one head's keys and values."""
    return tiling.key_tiles(heads, keys) + tiling.value_tiles(heads, keys)


def key_space(tiling: Tiling, keys: int, jobs: int) -> int:
    """Return the tiles of a tier for the keys and values of a sequence, of its own heads or of so many jobs."""
    heads, tiers = map(tiling.heads, tiling.kinds), tiling.config.tiers
    return max(_key_tiles(tiling, h, keys) * max(-(-h.kv_heads // tiers), jobs) for h in heads)


def _piece_buffers(
    residence: Residence, size: StepSize, sizes: Sizes
) -> tuple[tuple[int, ...], tuple[int, int], int] | None:
    """Return the buffers of experts, the space of keys, and how many keys are loaded at once."""
    tiling, config = residence.tiling, residence.tiling.config
    first, each = residence.dense_tiles, residence.piece_tiles
    if size.pinned is not None:
        first = size.pinned.dense_tiles
    if residence.resident:
        room, least = 0, key_space(tiling, size.keys, 1)
        most_room = MOST_BUFFERS + (0 if size.pinned is None else size.pinned.places)
        for keys in (key_space(tiling, size.keys, 2), least):
            room = most_room if not each else (config.vcache_tiles - first - keys) // each
            room = min(room, most_room)
            if sizes.expert_words:
                room = min(room, (config.parameter_words - residence.dense_words) // sizes.expert_words)
            if room >= 2 or (keys == least and room >= 1):
                break
        piece = size.keys
        if size.pinned is not None and room <= size.pinned.places:
            return None
        if room < 1:  # keys in pieces
            room = 1
    else:
        room = residence.piece_buffers
        piece = size.keys
        if residence.gangs and not size.slots:  # only the shares of gangs come into the buffers, no pieces
            room, each = min(MOST_SHARES, room * each // residence.gang_tiles), residence.gang_tiles
        elif residence.gangs:
            room = min(room, MOST_SLOT_SHARES)
    buffers = tuple(first + n * each for n in range(room))
    base = first + room * each
    space = config.vcache_tiles - base
    most = max(_key_tiles(tiling, h, 1) for h in sizes.heads)
    while max(_key_tiles(tiling, h, piece) for h in sizes.heads) > space // (1 if residence.resident else 2):
        if piece <= size.key_block:
            break
        piece = -(-piece // 2 // size.key_block) * size.key_block
    if space < most or max(_key_tiles(tiling, h, piece) for h in sizes.heads) > space:
        return None
    return buffers, (base, space), piece


def _why(residence: Residence, size: StepSize, sizes: Sizes) -> str:
    tiling, config = residence.tiling, residence.tiling.config
    least = _choices(residence, size, sizes)[-1]
    rows = row_pools(residence, size, sizes, least, size.tokens if size.slots else 1)
    words = word_pools(tiling, size, sizes, least, 1)
    scalars = scalar_pools(size, sizes, least, size.tokens if size.slots else 1)
    tiles = residence.dense_tiles + (residence.piece_buffers or 1) * residence.piece_tiles
    tiles += max(_key_tiles(tiling, h, min(size.keys, size.key_block)) for h in sizes.heads)
    for need, name, remedy in (
        (end_of(rows) + SPARE_ROWS, "combine_rows", "run fewer tokens in a step"),
        (end_of(words), "activation_words", "run fewer tokens in a step"),
        (end_of(scalars) + SPARE_SCALARS, "scalar_depth", "run fewer tokens in a step"),
        (tiles, "vcache_tiles", "use shorter sequences or a smaller model"),
        (1 + size.tokens * sizes.chosen if size.slots else 0, "list_depth", "run fewer tokens in a step"),
        (least.job_vectors * sizes.value_rows, "accumulator_depth", "use a model with smaller heads"),
    ):
        if need > getattr(config, name):
            return (
                f"step of {size.tokens} tokens, {size.keys} keys on {config.name}: needs {name} of {need}, the machine "
                f"has {getattr(config, name)}; {remedy} or raise {name}"
            )
    return (
        f"step of {size.tokens} tokens, {size.keys} keys: does not fit {config.name}; run fewer tokens in a step or "
        f"raise combine_rows, activation_words, list_depth ({config.list_depth}) or scalar_depth"
    )
