# SPDX-License-Identifier: Apache-2.0
"""Where the data of a step lie on the chip: combine rows, activation words, scalars, V-Cache tiles, lists, parameters.

Of a layer, the attention of some tokens and the routing of others overlap, so their rows and scalars lie side by side.
Experts' intermediate results and the language-model head share space with attention's; the hazard tracking of
:mod:`scheduler.stream` keeps them apart in time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

from hdl.config import MachineConfig
from scheduler.models.description import Experts, LatentAttention, Layer, Scoring
from scheduler.plan.residence import Residence, attention_words
from scheduler.plan.tiling import MOST_COUNT, MOST_STRIDE, HeadTiling, LoweringError, Tiling

__all__ = [
    "AHEAD", "NORM_TURNS", "SPARE_ROWS", "SPARE_SCALARS", "Places", "Pool", "Ring", "StepSize", "latent_words",
    "most_block", "plan_places",
]  # fmt: skip

TAGS = 64
AHEAD = 2
"""Blocks of tokens that are projected before they are attended to."""
MOST_UNITS = 4
"""Whole experts of one tier that may be loaded or in use at a time."""
MOST_BLOCK, MOST_RESIDENT_BLOCK = 256, 64
"""Tokens of a block; with resident matrices small ones cost nothing."""
SPARE_ROWS, SPARE_SCALARS = 3, 1
"""Last combine rows and scalars, which no step uses: one row for each load engine, one that is only read, a scalar.
Instructions that only carry waits work on them."""
NORM_TURNS = 3
"""Norms of heads whose scalars are on the chip at a time."""
MOST_HEAD_ROWS = 1 << 12
"""Combine rows of logits that are on the chip at a time."""


@dataclass(frozen=True)
class StepSize:
    """What a step needs room for.

    Attributes
    ----------
    tokens : int
        New tokens of all sequences.
    outputs : int
        Sequences whose last token's logits are wanted.
    longest : int
        New tokens of the sequence with the most.
    keys : int
        Keys of the longest sequence.
    key_block : int
        Keys that are scored at once.
    slots : bool
        The machine finds the routing.
    """

    tokens: int
    outputs: int
    longest: int
    keys: int
    key_block: int
    slots: bool = False


class Ring:
    """Hands out contiguous pieces of a memory in turn, from the front again when the end is reached.

    Parameters
    ----------
    base, size : int
        First cell and number of cells.
    """

    def __init__(self, base: int, size: int) -> None:
        self.base = base
        self.size = size
        self._next = 0

    def take(self, count: int) -> int:
        """Return the first cell of a piece; what lay there before is overwritten."""
        first = self.following(count)
        self._next = first - self.base + count
        return first

    def following(self, count: int) -> int:
        """Return the first cell of the piece that would be taken next."""
        if count > self.size:
            raise ValueError(f"ring: {count} cells of {self.size}")
        return self.base + (0 if self._next + count > self.size else self._next)


@dataclass(frozen=True)
class Pool:
    """Regions that lie one after the other; `sizes` by name."""

    base: int
    sizes: dict[str, int] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Cells of all regions."""
        return sum(self.sizes.values())

    @property
    def end(self) -> int:
        """Cell after the last."""
        return self.base + self.size

    def __getitem__(self, name: str) -> int:
        """Return the first cell of a region."""
        return self._firsts[name]

    @cached_property
    def _firsts(self) -> dict[str, int]:
        return dict(zip(self.sizes, accumulate(self.sizes.values(), initial=self.base), strict=False))


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
    turns : int
        Regions of probabilities of a tier, used in turn.
    rows, words, scalars : dict of str to Pool
        By phase: ``attention``, ``experts``, ``head``; `rows` besides the residual, which starts at row 0.
    score_rows, score_words : int
        Sizes of one score region and of one region of probabilities.
    head_tiles : int
        Output tiles of the head whose logits are on the chip at a time.
    unit_slots : tuple of int
        First tiles of the slots for experts or pieces of them.
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
    turns: int
    rows: dict[str, Pool]
    words: dict[str, Pool]
    scalars: dict[str, Pool]
    score_rows: int
    score_words: int
    head_tiles: int
    unit_slots: tuple[int, ...]
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


@dataclass(frozen=True)
class _Choice:
    """What the planner tries."""

    block: int
    copies: int
    job_vectors: int
    regions: int


class _Sizes:
    """The largest sizes of a model's layers."""

    def __init__(self, tiling: Tiling) -> None:
        heads = [tiling.heads(k) for k in tiling.kinds]
        latent = [k for k in tiling.kinds if isinstance(k.attention, LatentAttention)]
        self.heads = heads
        self.group = max(h.group for h in heads)
        self.projected_rows = max(h.projected_rows for h in heads)
        self.rope_rows = max(h.rope_rows for h in heads)
        self.context_rows = max(h.context_rows for h in heads)
        self.context_words = max(h.context_words for h in heads)
        self.query_words = max(h.query_words for h in heads)
        self.value_rows = max(h.value_rows for h in heads)
        self.latent_words = 0
        normed = NORM_TURNS * max(h.heads + h.kv_heads for h in heads)
        self.norm_scalars = normed if tiling.most_norm_rows else 0
        if latent:
            dense = tiling.dense(latent[0])
            self.projected_rows = sum(m.n_tiles for n, m in dense.items() if n == "latent" or n == "query rotated")
            self.latent_words = latent_words(tiling, latent[0])
        mlps = [k.mlp for k in tiling.kinds if isinstance(k.mlp, Experts)]
        self.router_rows = max((tiling.router_rows(m) for m in mlps), default=0)
        self.sigmoid = any(m.router.scoring == Scoring.SIGMOID for m in mlps)
        self.chosen = max((m.chosen for m in mlps), default=1)
        self.inner_words = max(tiling.expert(i).inner_words for k in tiling.kinds for i in tiling.inner_widths(k))
        self.expert_words = max((tiling.expert(m.intermediate).words for m in mlps), default=0)


def latent_words(tiling: Tiling, layer: Layer) -> int:
    """Return the activation words of a token's latent query, plain queries and expanded contexts."""
    dense, attention = tiling.dense(layer), layer.attention
    assert isinstance(attention, LatentAttention)
    plain = attention.heads * -(-attention.plain_dim // tiling.config.rows)
    return dense["query plain"].k_slices + plain + dense["output"].k_slices


def plan_places(residence: Residence, size: StepSize) -> Places:
    """Return where everything lies.

    Raises
    ------
    LoweringError
        The step does not fit a memory: the message names it, the need and the remedy.
    """
    sizes = _Sizes(residence.tiling)
    if size.tokens > MOST_COUNT:
        raise LoweringError(
            f"step of {size.tokens} tokens: instructions count up to {MOST_COUNT}; run fewer tokens in a step"
        )
    for choice in _choices(residence, size, sizes):
        found = _fit(residence, size, sizes, choice)
        if found is not None:
            return found
    raise LoweringError(_why(residence, size, sizes))


def _choices(residence: Residence, size: StepSize, sizes: _Sizes) -> list[_Choice]:
    """Return what may be tried, the best first."""
    config = residence.tiling.config
    most = min(size.tokens, most_block(residence))
    blocks = sorted({most, *(b for b in (256, 128, 64, 32, 16, 8, 4, 2, 1) if b <= most)}, reverse=True)
    if size.tokens > 64 and residence.resident:
        # with several blocks, one's vectors overlap the other's GEMMs
        blocks = [b for b in blocks if b <= 16] or blocks
    vectors = max(1, min(config.accumulator_depth // sizes.value_rows, most_vectors(config)))
    wanted = min(sizes.group, config.accumulator_depth // sizes.value_rows) or 1
    job = max(wanted, min(vectors, size.longest))
    ahead = (AHEAD,) if residence.resident else (1, 0)
    tiers = config.tiers
    all_regions = [2 * tiers, 3 * tiers // 2, tiers, 1]
    if not residence.resident:  # large arrays: a job's rows come late, so that many must be on their way
        all_regions = [8 * tiers, 4 * tiers, *all_regions]
    return [
        _Choice(block, min(more + 1, -(-size.tokens // block)), job, regions)
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


def _row_pools(residence: Residence, size: StepSize, sizes: _Sizes, choice: _Choice, choices: int) -> dict[str, Pool]:
    tiling, columns = residence.tiling, residence.tiling.config.columns
    base = size.tokens * tiling.hidden_rows
    attention = {
        "qkv": choice.copies * choice.block * sizes.projected_rows,
        "rope": size.tokens * sizes.rope_rows,
        "context": min(2, choice.copies) * choice.block * sizes.context_rows,
        "scores": choice.regions * choice.job_vectors * size.key_block // columns,
        "weights": 2 * tiling.most_norm_rows,  # of two layers in turn
    }
    experts = {"router": size.tokens * sizes.router_rows, "gates": choices}
    if sizes.sigmoid:
        experts |= {"sigmoid": choices * sizes.router_rows, "biased": choices * sizes.router_rows}
        experts["correction"] = sizes.router_rows
    turns = 1 if _head_tiles(residence, size) >= tiling.logit_rows else 2
    head = {"logits": turns * size.outputs * _head_tiles(residence, size)}
    first = Pool(base, attention)
    return {"attention": first, "experts": Pool(first.end, experts), "head": Pool(base, head)}


def _head_tiles(residence: Residence, size: StepSize) -> int:
    """Return the output tiles of the head whose logits are on the chip at a time."""
    if not size.outputs:
        return 0
    tiling = residence.tiling
    least = max(share.end - share.first for share in residence.head)
    room = max(1, min(MOST_HEAD_ROWS, tiling.config.combine_rows // 4) // size.outputs)
    if size.outputs * tiling.logit_rows <= tiling.config.combine_rows // 2:
        room = tiling.logit_rows
    return min(tiling.logit_rows, MOST_STRIDE, max(least, room))


def _turns(choice: _Choice, config: MachineConfig) -> int:
    """Return how many regions of probabilities a tier has."""
    return 4 if choice.regions > 2 * config.tiers else 2


def _word_pools(tiling: Tiling, size: StepSize, sizes: _Sizes, choice: _Choice, chunk: int) -> dict[str, Pool]:
    x = size.tokens * tiling.hidden_words
    attention = {
        "x": x,
        "query": choice.copies * choice.block * sizes.query_words,
        "context": min(2, choice.copies) * choice.block * sizes.context_words,
        "scores": _turns(choice, tiling.config) * choice.job_vectors * size.key_block // tiling.config.rows,
    }
    if sizes.latent_words:
        attention["latent"] = choice.copies * choice.block * sizes.latent_words
    experts = {"x": x, "h": 2 * chunk * sizes.inner_words}
    head = {"x": size.outputs * tiling.hidden_words}
    return {"attention": Pool(0, attention), "experts": Pool(0, experts), "head": Pool(0, head)}


def _scalar_pools(size: StepSize, sizes: _Sizes, choice: _Choice, choices: int) -> dict[str, Pool]:
    attention = {
        "norm": choice.copies * choice.block,
        "heads": max(sizes.norm_scalars, choice.block) if sizes.norm_scalars else 0,
        "jobs": 2 * choice.regions * choice.job_vectors,
    }
    experts = {
        "norm": min(size.tokens, MOST_COUNT), "choice": sizes.chosen * choices, "top": choices, "sum": choices
    }  # fmt: skip
    first = Pool(0, attention)
    return {"attention": first, "experts": Pool(first.end, experts), "head": Pool(0, {"norm": size.outputs})}


def _end(pools: dict[str, Pool]) -> int:
    return max(pool.end for pool in pools.values())


def _fit(residence: Residence, size: StepSize, sizes: _Sizes, choice: _Choice) -> Places | None:
    tiling, config = residence.tiling, residence.tiling.config
    choices = size.tokens
    while (
        not size.slots
        and choices > 1
        and _end(_scalar_pools(size, sizes, choice, choices)) + SPARE_SCALARS > config.scalar_depth
    ):
        choices = -(-choices // 2)
    rows = _row_pools(residence, size, sizes, choice, choices)
    scalars = _scalar_pools(size, sizes, choice, choices)
    left = config.activation_words - size.tokens * tiling.hidden_words
    chunk = min(size.tokens, left // (2 * sizes.inner_words), config.accumulator_depth)
    if choice.job_vectors * sizes.value_rows > config.accumulator_depth:
        return None
    if chunk < 1 or _end(rows) + SPARE_ROWS > config.combine_rows:
        return None
    if _end(scalars) + SPARE_SCALARS > config.scalar_depth:
        return None
    words = _word_pools(tiling, size, sizes, choice, chunk)
    if _end(words) > config.activation_words or choice.block > config.list_depth // 2:
        return None
    if size.slots and size.tokens * sizes.chosen > config.list_depth - choice.block:
        return None  # any tier may get the lists of all experts
    slots = _unit_slots(residence, size, sizes)
    if slots is None:
        return None
    unit_slots, keys, piece = slots
    used = residence.dense_words if residence.resident else 0
    attention = 0 if residence.resident else 2 * max(attention_words(tiling, k) for k in tiling.kinds)
    room = config.parameter_words - used - attention
    if residence.resident:
        word_slots = len(unit_slots)
    else:
        word_slots = min(4, max(2, room // 2 // max(1, sizes.expert_words)))
    expert_base = used if residence.resident else attention
    expert_words = tuple(expert_base + n * sizes.expert_words for n in range(word_slots))
    words_base = 0 if residence.resident else expert_base + word_slots * sizes.expert_words
    return Places(
        residence=residence, size=size, block=choice.block, copies=choice.copies, job_vectors=choice.job_vectors,
        chunk=chunk, choice_tokens=choices, regions=choice.regions,
        turns=_turns(choice, config), rows=rows, words=words, scalars=scalars,
        score_rows=choice.job_vectors * size.key_block // config.columns,
        score_words=choice.job_vectors * size.key_block // config.rows, head_tiles=_head_tiles(residence, size),
        unit_slots=unit_slots, keys=keys, key_piece=piece, words_base=words_base, attention_base=0,
        expert_words=expert_words, list_entries=(choice.block, config.list_depth - choice.block),
    )  # fmt: skip


def _key_tiles(tiling: Tiling, heads: HeadTiling, keys: int) -> int:
    """Return the tiles of one head's keys and values."""
    return tiling.key_tiles(heads, keys) + tiling.value_tiles(heads, keys)


def _unit_slots(
    residence: Residence, size: StepSize, sizes: _Sizes
) -> tuple[tuple[int, ...], tuple[int, int], int] | None:
    """Return the slots of experts, the space of keys, and how many keys are loaded at once."""
    tiling, config = residence.tiling, residence.tiling.config
    first, unit = residence.dense_tiles, residence.unit_tiles
    if residence.resident:

        def needed(jobs: int) -> int:
            return max(
                _key_tiles(tiling, h, size.keys) * max(-(-h.kv_heads // config.tiers), jobs) for h in sizes.heads
            )  # fmt: skip

        room = 0
        for keys in (needed(2), needed(1)):
            room = MOST_UNITS if not unit else (config.vcache_tiles - first - keys) // unit
            room = min(room, MOST_UNITS)
            if sizes.expert_words:
                room = min(room, (config.parameter_words - residence.dense_words) // sizes.expert_words)
            if room >= 2 or (keys == needed(1) and room >= 1):
                break
        piece = size.keys
        if room < 1:  # keys in pieces
            room = 1
    else:
        room = residence.unit_slots
        piece = size.keys
    slots = tuple(first + n * unit for n in range(room))
    base = first + room * unit
    space = config.vcache_tiles - base
    most = max(_key_tiles(tiling, h, 1) for h in sizes.heads)
    while max(_key_tiles(tiling, h, piece) for h in sizes.heads) > space // (1 if residence.resident else 2):
        if piece <= size.key_block:
            break
        piece = -(-piece // 2 // size.key_block) * size.key_block
    if space < most or max(_key_tiles(tiling, h, piece) for h in sizes.heads) > space:
        return None
    return slots, (base, space), piece


def _why(residence: Residence, size: StepSize, sizes: _Sizes) -> str:
    tiling, config = residence.tiling, residence.tiling.config
    least = _Choice(1, 1, max(1, min(sizes.group, config.accumulator_depth // sizes.value_rows)), 1)
    rows = _row_pools(residence, size, sizes, least, size.tokens if size.slots else 1)
    words = _word_pools(tiling, size, sizes, least, 1)
    scalars = _scalar_pools(size, sizes, least, size.tokens if size.slots else 1)
    tiles = residence.dense_tiles + residence.unit_tiles
    tiles += max(_key_tiles(tiling, h, min(size.keys, size.key_block)) for h in sizes.heads)
    for need, name, remedy in (
        (_end(rows) + SPARE_ROWS, "combine_rows", "run fewer tokens in a step"),
        (_end(words), "activation_words", "run fewer tokens in a step"),
        (_end(scalars) + SPARE_SCALARS, "scalar_depth", "run fewer tokens in a step"),
        (tiles, "vcache_tiles", "use shorter sequences or a smaller model"),
        (1 + size.tokens * sizes.chosen if size.slots else 0, "list_depth", "run fewer tokens in a step"),
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
