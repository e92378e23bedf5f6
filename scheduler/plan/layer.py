# SPDX-License-Identifier: Apache-2.0
"""Where a layer of experts alone lies on the chip: the residence and the places of a step without anything else.

Two ways to run it: each expert on one tier (`Way.ALONE`), or every expert on all tiers together, each of which has a
part of the output tiles (`Way.GANG`). What the buffers do not hold at once goes through in parts of the tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from scheduler.memory.layout import memory_alignment
from scheduler.models.description import Experts, GroupedAttention, Layer, Model
from scheduler.plan.limits import LoweringError
from scheduler.plan.places import SPARE_ROWS, Places
from scheduler.plan.pools import Pool, StepSize
from scheduler.plan.residence import Residence, pieces_of_expert, tiles_of_piece, up_step
from scheduler.plan.shares import shares_of
from scheduler.plan.tiling import ExpertTiling, Tiling

__all__ = ["LayerPlan", "Way", "experts_alone", "plan_layer"]

MOST_WHOLE = 4
"""Whole experts of one tier that may be loaded or in use at a time."""
PIECES = (6, 4, 3, 2, 1)
"""Pieces of experts that a tier holds at a time, in the order in which they are tried."""
LEAST_SHARES, MOST_SHARES = 4, 16
"""Shares of experts that all tiers hold together: what V-Cache is cut into at least, and most that are loaded."""
LEAST_CHUNK = 16
"""Tokens of one GEMM below which the step is cut into more parts."""


class Way(StrEnum):
    """How the experts of a layer use the tiers."""

    ALONE = "alone"
    GANG = "gang"


@dataclass(frozen=True)
class LayerPlan:
    """See :func:`plan_layer`.

    Attributes
    ----------
    way : Way
    places : Places
    tokens : int
        Most tokens of a part.
    whole : bool
        Whether experts are loaded as a whole.
    """

    way: Way
    places: Places
    tokens: int
    whole: bool


def experts_alone(hidden: int, mlp: Experts) -> Model:
    """Return the model that a layer of experts alone is: one layer without attention."""
    layer = Layer(attention=GroupedAttention(heads=0, kv_heads=0, head_dim=0), mlp=mlp)
    return Model(family="experts", name="experts alone", hidden=hidden, vocabulary=1, context=1, layers=(layer,))


def plan_layer(tiling: Tiling, tokens: int, way: Way, fits: Callable[[int], bool] = lambda tokens: True) -> LayerPlan:
    """Return where everything lies.

    Parameters
    ----------
    tiling : Tiling
        Of :func:`experts_alone`.
    tokens : int
        Of the batch.
    way : Way
    fits : callable
        ``fits(tokens)``: whether parts of so many tokens have no longer token lists than the chip takes.

    Raises
    ------
    LoweringError
        Not even one token fits, or the machine does not have the way: the message names the limit.
    """
    (layer,) = tiling.kinds
    assert isinstance(layer.mlp, Experts)
    inner = layer.mlp.intermediate
    residence = (_gang if way == Way.GANG else _alone)(tiling, tiling.expert(inner), inner)
    count, chunk = _part(tiling, tokens, tiling.expert(inner), fits)
    return LayerPlan(way, _places(residence, inner, count, chunk), count, residence.resident)


def _residence(tiling: Tiling, inner: int, **known: object) -> Residence:
    fields = {"pieces": {inner: ()}, "gangs": {}, "resident": False, **known}
    return Residence(
        tiling=tiling, shares={}, head=(), matrices={}, dense_tiles=0, dense_words=0, **fields  # type: ignore[arg-type]
    )  # fmt: skip


def _alone(tiling: Tiling, expert: ExpertTiling, inner: int) -> Residence:
    """Plan each expert on one tier: whole ones if two fit, pieces of them otherwise."""
    config = tiling.config
    whole = min(config.vcache_tiles // expert.tiles, config.parameter_words // expert.words, MOST_WHOLE)
    pieces = pieces_of_expert(tiling, expert, config.vcache_tiles)
    if whole >= 2 and len(pieces) == 1:
        return _residence(
            tiling, inner, pieces={inner: pieces}, piece_tiles=expert.tiles, piece_buffers=whole, resident=True
        )
    reason: LoweringError | None = None
    for count in PIECES:
        try:
            pieces = pieces_of_expert(tiling, expert, config.vcache_tiles // count)
        except LoweringError as error:
            reason = error
            continue
        tiles = max(tiles_of_piece(expert, piece) for piece in pieces)
        return _residence(
            tiling, inner, pieces={inner: pieces}, piece_tiles=tiles, piece_buffers=config.vcache_tiles // tiles
        )  # fmt: skip
    assert reason is not None
    raise reason


def _gang(tiling: Tiling, expert: ExpertTiling, inner: int) -> Residence:
    """Plan every expert on all tiers."""
    config = tiling.config
    if config.tiers == 1 or not config.vertical_links:
        raise LoweringError(f"gang: {config.name} has {config.tiers} tiers without vertical links; run experts alone")
    room = config.vcache_tiles // LEAST_SHARES
    up = shares_of(expert.up, config, room, up_step(config))
    down = shares_of(expert.down, config, room)
    tiles = max(max(s.each for s in up) * expert.up.k_slices, max(s.each for s in down) * expert.down.k_slices)
    return _residence(
        tiling,
        inner,
        gangs={inner: (up, down)},
        piece_tiles=tiles,
        piece_buffers=min(MOST_SHARES, config.vcache_tiles // tiles),
    )


def _part(tiling: Tiling, tokens: int, expert: ExpertTiling, fits: Callable[[int], bool]) -> tuple[int, int]:
    """Return the tokens of a part and of one GEMM."""
    config, best = tiling.config, None
    for count in range(1, tokens + 1):
        most = -(-tokens // count)
        if count > 1 and most == -(-tokens // (count - 1)):
            continue
        left = config.activation_words - most * tiling.hidden_words
        chunk = min(most, config.accumulator_depth, config.list_depth, left // (2 * expert.inner_words))
        if most * tiling.hidden_rows + SPARE_ROWS > config.combine_rows or chunk < 1 or not fits(most):
            continue
        if best is None or chunk > best[1]:
            best = most, chunk
        if chunk >= min(most, LEAST_CHUNK):
            break
    if best is None:
        raise LoweringError(_why(tiling, expert))
    return best


def _why(tiling: Tiling, expert: ExpertTiling) -> str:
    config, hidden = tiling.config, tiling.model.hidden
    rows, words = tiling.hidden_rows + SPARE_ROWS, tiling.hidden_words + 2 * expert.inner_words
    if rows > config.combine_rows:
        fits = (config.combine_rows - SPARE_ROWS) * config.columns // config.rows * config.rows
        return (
            f"hidden size {hidden}: one token takes {rows} combine rows; {config.name!r} has {config.combine_rows}: at "
            f"most {fits} fits, or raise combine_rows"
        )
    return (
        f"hidden size {hidden} with intermediate size {expert.down.inputs}: one token takes {tiling.hidden_words} + 2 "
        f"x {expert.inner_words} activation words; {config.name!r} has {config.activation_words}: raise "
        f"activation_words to at least {1 << (words - 1).bit_length()}"
    )


def _places(residence: Residence, inner: int, tokens: int, chunk: int) -> Places:
    tiling, config = residence.tiling, residence.tiling.config
    expert = tiling.expert(inner)
    words = residence.gang_words(inner) if residence.gangs else expert.words
    align = memory_alignment(config)
    return Places(
        residence=residence, size=StepSize(tokens=tokens, outputs=0, longest=0, keys=0, key_block=0), block=0, copies=0,
        job_vectors=0, chunk=chunk, choice_tokens=0, regions=0,
        rows={}, words={"experts": Pool(0, {"x": tokens * tiling.hidden_words, "h": 2 * chunk * expert.inner_words})},
        scalars={}, score_rows=0, head_tiles=0,
        piece_buffers=tuple(n * residence.piece_tiles for n in range(residence.piece_buffers)), keys=(0, 0),
        key_piece=0, words_base=0, attention_base=0,
        expert_words=tuple(n * words for n in range(_word_places(residence, inner, words, align))),
        list_entries=(0, config.list_depth),
    )  # fmt: skip


def _word_places(residence: Residence, inner: int, words: int, align: int) -> int:
    config = residence.tiling.config
    count = config.parameter_words // words
    if not count:
        raise LoweringError(
            f"intermediate size {inner}: an expert's requantisation words take {words} of {config.name}'s "
            f"{config.parameter_words}: raise parameter_words"
        )
    return min(count, residence.piece_buffers)
