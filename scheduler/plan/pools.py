# SPDX-License-Identifier: Apache-2.0
"""What a step needs in combine rows, activation words and scalars: named regions, one after the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

from hdl.config import MachineConfig
from scheduler.models.description import Experts, LatentAttention, Layer, Scoring
from scheduler.plan.limits import MOST_COUNT, MOST_STRIDE
from scheduler.plan.pinned import Pinned
from scheduler.plan.residence import Residence
from scheduler.plan.tiling import Tiling

__all__ = [
    "NORM_TURNS", "Choice", "Pool", "Ring", "Sizes", "StepSize", "end_of", "head_tiles_of", "latent_words",
    "row_pools", "scalar_pools", "turns_of", "word_pools",
]  # fmt: skip

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
    beside : bool
        Experts of some tokens run beside the attention of others.
    pinned : Pinned or None
        What stays in V-Cache from step to step.
    sharing : int
        Most sequences that attend to a prefix together; 0: none do.
    alone : bool
        Each slot's expert runs on a single tier, also where all tiers could run it together.
    block : int or None
        Most tokens of a block of attention, if not as many as fit.
    """

    tokens: int
    outputs: int
    longest: int
    keys: int
    key_block: int
    slots: bool = False
    beside: bool = False
    pinned: Pinned | None = None
    sharing: int = 0
    alone: bool = False
    block: int | None = None


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
class Choice:
    """What the planner tries; the attributes are those of `scheduler.plan.places.Places`."""

    block: int
    copies: int
    job_vectors: int
    regions: int


class Sizes:
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


def row_pools(residence: Residence, size: StepSize, sizes: Sizes, choice: Choice, choices: int) -> dict[str, Pool]:
    """Return a step's combine rows by phase, behind the residual; experts are chosen for `choices` tokens at once."""
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
    turns = 1 if head_tiles_of(residence, size) >= tiling.logit_rows else 2
    head = {"logits": turns * size.outputs * head_tiles_of(residence, size)}
    first = Pool(base, attention)
    return {"attention": first, "experts": Pool(first.end, experts), "head": Pool(base, head)}


def head_tiles_of(residence: Residence, size: StepSize) -> int:
    """Return the output tiles of the head whose logits are on the chip at a time."""
    if not size.outputs:
        return 0
    tiling = residence.tiling
    least = max(share.end - share.first for share in residence.head)
    room = max(1, min(MOST_HEAD_ROWS, tiling.config.combine_rows // 4) // size.outputs)
    if size.outputs * tiling.logit_rows <= tiling.config.combine_rows // 2:
        room = tiling.logit_rows
    return min(tiling.logit_rows, MOST_STRIDE, max(least, room))


def turns_of(choice: Choice, config: MachineConfig) -> int:
    """Return how many regions of probabilities a tier has."""
    return 4 if choice.regions > 2 * config.tiers else 2


def word_pools(tiling: Tiling, size: StepSize, sizes: Sizes, choice: Choice, chunk: int) -> dict[str, Pool]:
    """Return a step's activation words by phase; `chunk` is the most tokens of one expert GEMM."""
    x = size.tokens * tiling.hidden_words
    attention = {
        "x": x,
        "query": choice.copies * choice.block * sizes.query_words,
        "context": min(2, choice.copies) * choice.block * sizes.context_words,
        "scores": turns_of(choice, tiling.config) * choice.job_vectors * size.key_block // tiling.config.rows,
    }
    if sizes.latent_words:
        attention["latent"] = choice.copies * choice.block * sizes.latent_words
    experts = {"x": x, "beside": sum(attention.values()) - x if size.beside else 0, "h": 2 * chunk * sizes.inner_words}
    head = {"x": size.outputs * tiling.hidden_words}
    return {"attention": Pool(0, attention), "experts": Pool(0, experts), "head": Pool(0, head)}


def scalar_pools(size: StepSize, sizes: Sizes, choice: Choice, choices: int) -> dict[str, Pool]:
    """Return a step's scalars by phase; experts are chosen for `choices` tokens at once."""
    most_heads = max(heads.heads for heads in sizes.heads)
    attention = {
        "norm": choice.copies * choice.block,
        "heads": max(sizes.norm_scalars, choice.block) if sizes.norm_scalars else 0,
        "jobs": 2 * choice.regions * choice.job_vectors,
        "prefix": min(2, choice.copies) * 2 * choice.block * most_heads if size.sharing else 0,
    }
    experts = {
        "norm": min(size.tokens, MOST_COUNT), "choice": sizes.chosen * choices, "top": choices, "sum": choices
    }  # fmt: skip
    first = Pool(0, attention)
    return {"attention": first, "experts": Pool(first.end, experts), "head": Pool(0, {"norm": size.outputs})}


def end_of(pools: dict[str, Pool]) -> int:
    """Return the cell after the last of all phases."""
    return max(pool.end for pool in pools.values())
