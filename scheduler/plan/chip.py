# SPDX-License-Identifier: Apache-2.0
"""Where the data of a step lie on the chip: combine rows, activation words, scalars, V-Cache tiles, lists, parameters.

Of a layer, the attention of some tokens and the routing of others overlap, so their rows and scalars lie side by side.
Experts' intermediate results and the language-model head share space with attention's; the hazard tracking of
:mod:`scheduler.stream.sync` keeps them apart in time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hdl.config import MachineConfig
from scheduler.plan.shape import MOST_COUNT, LoweringError, ModelShape

__all__ = ["AHEAD", "Chip", "Ring", "StepSize", "copies", "plan_chip"]

TAGS = 64
AHEAD = 2
"""Blocks of tokens that are projected before they are attended to."""
MOST_SLOTS = 4
"""Experts of one tier that may be loaded or in use at a time."""


@dataclass(frozen=True)
class StepSize:
    """What a step needs room for.

    Attributes
    ----------
    tokens : int
        New tokens of all sequences.
    outputs : int
        Sequences, whose last token's logits are wanted.
    job_tokens : int
        Most vectors (tokens, or grouped queries) of one attention job.
    keys : int
        Keys of the longest sequence.
    key_block : int
        Keys that are scored at once.
    """

    tokens: int
    outputs: int
    job_tokens: int
    keys: int
    key_block: int


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
        if count > self.size:
            raise ValueError(f"ring: {count} cells of {self.size}")
        if self._next + count > self.size:
            self._next = 0
        first = self.base + self._next
        self._next += count
        return first

    def restart(self) -> None:
        """Begin at the front again."""
        self._next = 0


@dataclass(frozen=True)
class Pool:
    """Regions that lie one after the other; `sizes` by name."""

    base: int
    sizes: dict[str, int] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Cells of all regions."""
        return sum(self.sizes.values())

    def __getitem__(self, name: str) -> int:
        """Return the first cell of a region."""
        place = self.base
        for key, size in self.sizes.items():
            if key == name:
                return place
            place += size
        raise KeyError(name)


@dataclass(frozen=True)
class Chip:
    """On-chip addresses of a step; see :func:`plan_chip`.

    Attributes
    ----------
    shape : ModelShape
    size : StepSize
    block : int
        Tokens that go through attention together.
    chunk : int
        Most tokens of one expert GEMM.
    regions : int
        Score regions, used in turn.
    rows, words, scalars : dict of str to Pool
        By phase: ``attention``, ``experts``, ``head``; `rows` besides the residual, which starts at row 0.
    score_rows, score_words : int
        Sizes of one score region and of one region of probabilities.
    dense_tiles : tuple of int
        First V-Cache tile of the dense matrices of even and odd layers.
    head_tile : int
        First tile of the language-model head.
    slots : tuple of int
        First tiles of the expert slots.
    keys : tuple of (int, int)
        First tile and size of what is left for keys and values.
    key_slot : int
        Tiles of one head's keys and values of the longest sequence: the space is used in pieces of that size.
    dense_words : int
        Requantisation words of one layer's dense matrices; layer l starts at ``l * dense_words``.
    head_word : int
        First word of the language-model head.
    slot_words : tuple of int
        First words of the expert slots.
    list_entries : tuple of (int, int)
        First entry and size of the expert lists; the output projection's list lies at 0.
    """

    shape: ModelShape
    size: StepSize
    block: int
    chunk: int
    regions: int
    rows: dict[str, Pool]
    words: dict[str, Pool]
    scalars: dict[str, Pool]
    score_rows: int
    score_words: int
    dense_tiles: tuple[int, int]
    head_tile: int
    slots: tuple[int, ...]
    keys: tuple[int, int]
    key_slot: int
    dense_words: int
    head_word: int
    slot_words: tuple[int, ...]
    list_entries: tuple[int, int]


def dense_words(shape: ModelShape) -> dict[str, int]:
    """Return the requantisation words of a layer's dense matrices in one tier, in order."""
    return {
        "qkv": shape.projected_rows // shape.dense_gangs["qkv"],
        "output": shape.hidden_rows // shape.dense_gangs["output"],
        "router": shape.router_rows,
        "score": shape.kv_heads,
        "context": shape.kv_heads,
    }


def dense_tiles(shape: ModelShape) -> dict[str, int]:
    """Return the V-Cache tiles of a layer's dense matrices in one tier, in order."""
    words = dense_words(shape)
    return {
        "qkv": words["qkv"] * shape.hidden_words,
        "output": words["output"] * shape.query_words,
        "router": words["router"] * shape.hidden_words,
    }


def copies(tokens: int, block: int) -> int:
    """Return how many blocks have their queries, keys and values on the chip at a time."""
    return min(AHEAD + 1, -(-tokens // block))


def _row_pools(shape: ModelShape, size: StepSize, block: int, regions: int) -> dict[str, Pool]:
    base = size.tokens * shape.hidden_rows
    score = size.job_tokens * size.key_block // shape.config.columns
    attention = {
        "qkv": copies(size.tokens, block) * block * shape.projected_rows,
        "rope": size.tokens * shape.rope_rows,
        "context": 2 * block * shape.query_rows,
        "scores": regions * score,
        "spare": 3,  # one for each load engine, one that is only read
    }
    experts = {"router": size.tokens * shape.router_rows, "gates": size.tokens}
    head = {"logits": size.outputs * shape.logit_rows}
    first = Pool(base, attention)
    return {"attention": first, "experts": Pool(base + first.size, experts), "head": Pool(base, head)}


def _word_pools(shape: ModelShape, size: StepSize, block: int, chunk: int) -> dict[str, Pool]:
    x = size.tokens * shape.hidden_words
    attention = {
        "x": x,
        "query": copies(size.tokens, block) * block * shape.query_words,
        "context": 2 * block * shape.query_words,
        "scores": 2 * size.job_tokens * size.key_block // shape.config.rows,
    }
    experts = {"x": x, "h": 2 * chunk * shape.inner_words}
    head = {"x": size.outputs * shape.hidden_words}
    return {"attention": Pool(0, attention), "experts": Pool(0, experts), "head": Pool(0, head)}


def _scalar_pools(shape: ModelShape, size: StepSize, block: int, regions: int) -> dict[str, Pool]:
    attention = {"norm": copies(size.tokens, block) * block, "jobs": 2 * regions * size.job_tokens, "spare": 1}
    experts = {"norm": size.tokens, "choice": shape.chosen * size.tokens, "top": size.tokens, "sum": size.tokens}
    first = Pool(0, attention)
    return {
        "attention": first,
        "experts": Pool(first.size, experts),
        "head": Pool(0, {"norm": size.outputs}),
    }


def _largest(pools: dict[str, Pool]) -> int:
    return max(pool.base + pool.size for pool in pools.values())


def plan_chip(shape: ModelShape, size: StepSize) -> Chip:
    """Return where everything lies.

    Raises
    ------
    LoweringError
        The step does not fit a memory: the message names it, the need and the remedy.
    """
    config = shape.config
    if size.tokens > MOST_COUNT:
        raise LoweringError(
            f"step of {size.tokens} tokens: instructions count up to {MOST_COUNT}; run fewer tokens in a step"
        )
    most = min(size.tokens, config.accumulator_depth, 64)
    blocks = sorted({most, *(b for b in (64, 32, 16, 8, 4, 2, 1) if b <= most)}, reverse=True)
    if size.tokens > 64:
        blocks = [
            b for b in blocks if b <= 16
        ] or blocks  # with several blocks, one's vectors overlap the other's GEMMs
    for block in blocks:
        for regions in (2 * config.tiers, 3 * config.tiers // 2, config.tiers, 1):
            found = _fit(shape, size, block, regions)
            if found is not None:
                return found
    raise LoweringError(_why(shape, size))


def _fit(shape: ModelShape, size: StepSize, block: int, regions: int) -> Chip | None:
    config = shape.config
    rows, scalars = _row_pools(shape, size, block, regions), _scalar_pools(shape, size, block, regions)
    left = config.activation_words - size.tokens * shape.hidden_words
    chunk = min(size.tokens, left // (2 * shape.inner_words), config.accumulator_depth)
    if size.job_tokens * shape.head_rows > config.accumulator_depth:
        return None
    if chunk < 1 or _largest(rows) > config.combine_rows or _largest(scalars) > config.scalar_depth:
        return None
    words = _word_pools(shape, size, block, chunk)
    if _largest(words) > config.activation_words or block > config.list_depth // 2:
        return None
    tiles, word_counts = dense_tiles(shape), dense_words(shape)
    dense = sum(tiles.values())
    head = shape.logit_rows // shape.dense_gangs["head"]
    first_slot = 2 * dense + head * shape.hidden_words
    first_word = shape.layers * sum(word_counts.values())
    least = _key_tiles(shape, size, 1)
    wished = _key_tiles(shape, size, 2)
    for needed in (wished, least):
        room = (config.vcache_tiles - first_slot - needed) // shape.expert_tiles
        room = min(room, MOST_SLOTS, (config.parameter_words - first_word - head) // shape.expert_words)
        if room >= min(2, MOST_SLOTS) or (needed == least and room >= 1):
            break
    else:
        return None
    slots = tuple(first_slot + n * shape.expert_tiles for n in range(room))
    key_base = first_slot + room * shape.expert_tiles
    return Chip(
        shape=shape, size=size, block=block, chunk=chunk, regions=regions, rows=rows, words=words, scalars=scalars,
        score_rows=size.job_tokens * size.key_block // config.columns,
        score_words=size.job_tokens * size.key_block // config.rows,
        dense_tiles=(0, dense), head_tile=2 * dense, slots=slots, keys=(key_base, config.vcache_tiles - key_base),
        key_slot=2 * shape.key_tiles(size.keys),
        dense_words=sum(word_counts.values()), head_word=first_word,
        slot_words=tuple(first_word + head + n * shape.expert_words for n in range(room)),
        list_entries=(block, config.list_depth - block),
    )  # fmt: skip


def _key_tiles(shape: ModelShape, size: StepSize, jobs: int) -> int:
    """Return the tiles of keys and values that one tier must hold."""
    heads = max(1, -(-shape.kv_heads // shape.config.tiers))
    return 2 * shape.key_tiles(size.keys) * max(heads, jobs)


def _why(shape: ModelShape, size: StepSize) -> str:
    config: MachineConfig = shape.config
    rows, words = _row_pools(shape, size, 1, 1), _word_pools(shape, size, 1, 1)
    scalars = _scalar_pools(shape, size, 1, 1)
    head = shape.logit_rows // shape.dense_gangs["head"]
    tiles = 2 * sum(dense_tiles(shape).values()) + head * shape.hidden_words + shape.expert_tiles
    tiles += _key_tiles(shape, size, 1)
    parameters = shape.layers * sum(dense_words(shape).values()) + head + shape.expert_words
    for need, name, remedy in (
        (_largest(rows), "combine_rows", "run fewer tokens in a step"),
        (_largest(words), "activation_words", "run fewer tokens in a step"),
        (_largest(scalars), "scalar_depth", "run fewer tokens in a step"),
        (tiles, "vcache_tiles", "use shorter sequences or a smaller model"),
        (parameters, "parameter_words", "use a model with fewer layers"),
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
