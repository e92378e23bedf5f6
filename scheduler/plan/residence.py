# SPDX-License-Identifier: Apache-2.0
"""Which weights of a model stay on the chip while they are used, and in which pieces the others stream through it.

Depends on the machine and the model alone, not on a step: the memory image has requantisation words in the same
pieces.

*Resident* dense matrices: those of two layers and the head have places of their own, and all requantisation words are
loaded once a step. *Streamed* ones pass through a ring of tiles and a ring of words, share by share. Experts take
turns in buffers, whole ones where at least two fit, pieces of them otherwise.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

from hdl.config import MachineConfig
from scheduler.memory.layout import memory_alignment
from scheduler.memory.placement import Part
from scheduler.models.description import Experts, Layer
from scheduler.plan.limits import MOST_COUNT, LoweringError
from scheduler.plan.shares import Matrix, Share, shares_of
from scheduler.plan.tiling import ExpertTiling, Tiling

__all__ = ["ExpertPiece", "Residence", "Run", "plan_residence", "up_step"]

PARTS = ((2, 4), (3, 3), (2, 5), (1, 6))
"""Eighths of V-Cache for streamed dense matrices and for experts, in the order they are tried; the rest is for keys."""
RING_SHARES = 4
"""Shares of a streamed matrix that are on the chip at a time."""
PIECES = 4
"""Pieces of experts that a tier holds at a time."""


@dataclass(frozen=True)
class Run:
    """Consecutive output tiles of a part of an expert."""

    part: Part
    first: int
    count: int


@dataclass(frozen=True)
class ExpertPiece:
    """What of an expert is loaded at once: one run, or a whole expert's two."""

    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Residence:
    """See :func:`plan_residence`.

    Attributes
    ----------
    tiling : Tiling
    resident : bool
        Whether dense matrices are resident.
    shares : dict of Layer to dict of str to tuple of Share
        Shares of the dense matrices of each kind of layer, those of MLPs that all tokens use (``mlp.up``,
        ``mlp.down``) included.
    head : tuple of Share
    matrices : dict of Layer to dict of str to Matrix
        The same matrices.
    pieces : dict of int to tuple of ExpertPiece
        Pieces of the routed experts, by inner width.
    gangs : dict of int to (tuple of Share, tuple of Share)
        Streamed, with vertical links: shares of the up and of the down projection of a routed expert that all tiers
        run together, by inner width.
    piece_tiles : int
        V-Cache tiles of the largest piece, in one tier.
    piece_buffers : int
        Streamed: pieces of experts that a tier holds at a time.
    dense_tiles : int
        Tiles of each tier for dense matrices: two layers and the head, or the ring.
    dense_words : int
        Requantisation words of each tier for all dense matrices, or of the ring.
    """

    tiling: Tiling
    resident: bool
    shares: Mapping[Layer, Mapping[str, tuple[Share, ...]]]
    head: tuple[Share, ...]
    matrices: Mapping[Layer, Mapping[str, Matrix]]
    pieces: Mapping[int, tuple[ExpertPiece, ...]]
    gangs: Mapping[int, tuple[tuple[Share, ...], tuple[Share, ...]]]
    piece_tiles: int
    piece_buffers: int
    dense_tiles: int
    dense_words: int

    def gang_widths(self, layer: Layer) -> tuple[int, ...]:
        """Return the numbers of tiers that can run a resident routed expert of a layer together, each an equal part.

        Each tier's part of a projection begins where a load can begin, and its part of the up projection makes whole
        words of what lies between the projections.
        """
        config, mlp = self.tiling.config, layer.mlp
        if not self.resident or not config.vertical_links or not isinstance(mlp, Experts):
            return ()
        if len(self.pieces[mlp.intermediate]) > 1:
            return ()
        expert, align, found = self.tiling.expert(mlp.intermediate), memory_alignment(config), []
        for width in range(2, config.tiers + 1):
            parts = [(matrix, matrix.n_tiles // width) for matrix in (expert.up, expert.down)]
            whole = all(matrix.n_tiles == each * width for matrix, each in parts) and config.tiers % width == 0
            whole = whole and parts[0][1] % up_step(config) == 0
            if whole and not any(each * matrix.k_slices * config.plane_bytes % align for matrix, each in parts):
                found.append(width)
        return tuple(found)

    @property
    def gang_tiles(self) -> int:
        """V-Cache tiles of the largest share of a gang, in one tier."""
        found = 0
        for inner, pair in self.gangs.items():
            expert = self.tiling.expert(inner)
            for matrix, own in zip((expert.up, expert.down), pair, strict=True):
                found = max(found, *(share.each * matrix.k_slices for share in own))
        return found

    def gang_words(self, inner: int) -> int:
        """Return the requantisation words of one tier for a routed expert that all tiers run together."""
        return sum(share.each for own in self.gangs[inner] for share in own)

    def layer_tiles(self, layer: Layer) -> int:
        """Return the tiles of one tier that a layer's dense matrices take."""
        return sum(s.each * self.matrices[layer][n].k_slices for n, own in self.shares[layer].items() for s in own)

    def layer_words(self, layer: Layer) -> int:
        """Return the requantisation words of one tier that a layer takes, attention's own included."""
        return sum(s.each for own in self.shares[layer].values() for s in own) + attention_words(self.tiling, layer)


def attention_words(tiling: Tiling, layer: Layer) -> int:
    """Return the requantisation words of a layer's scores and contexts: one each for every key/value head."""
    return 2 * tiling.heads(layer).kv_heads


def _matrices(tiling: Tiling, layer: Layer) -> dict[str, Matrix]:
    """Return all matrices of a layer that run on gangs."""
    found = dict(tiling.dense(layer))
    widths = tiling.inner_widths(layer)
    for inner in widths[1:] if isinstance(layer.mlp, Experts) else widths:
        expert = tiling.expert(inner)
        found |= {"mlp.up": expert.up, "mlp.down": expert.down}
    return found


def up_step(config: MachineConfig) -> int:
    """Return the output tiles of an up projection that make a word of h."""
    return 2 * config.rows // config.columns


def plan_residence(tiling: Tiling) -> Residence:
    """Return what stays on the chip and what streams.

    Raises
    ------
    LoweringError
        V-Cache or the requantisation words are too few even for streaming, or the head alone is more than a memory.
    """
    config = tiling.config
    _check_head(tiling)
    matrices = {layer: _matrices(tiling, layer) for layer in tiling.kinds}
    experts = {
        tiling.expert(layer.mlp.intermediate) for layer in tiling.kinds if isinstance(layer.mlp, Experts)
    }  # fmt: skip
    largest = max((e.tiles for e in experts), default=0)
    most_words = max((e.words for e in experts), default=0)
    whole = _plan(tiling, matrices, experts, True, config.vcache_tiles, largest)
    layers = max(whole.layer_tiles(layer) for layer in tiling.kinds)
    head = sum(s.each for s in whole.head) * tiling.hidden_words
    words = sum(whole.layer_words(layer) for layer in tiling.model.layers) + sum(s.each for s in whole.head)
    block = min(tiling.key_block, tiling.model.context)
    keys = max(
        tiling.key_tiles(tiling.heads(k), block) + tiling.value_tiles(tiling.heads(k), block) for k in tiling.kinds
    )  # fmt: skip
    if 2 * layers + head + largest + keys <= config.vcache_tiles and words + most_words <= config.parameter_words:
        return dataclasses.replace(whole, dense_tiles=2 * layers + head, dense_words=words)
    streamed, ring = _streamed(tiling, matrices, experts, largest, keys)
    least = 2 * max(max((s.each for own in streamed.shares[k].values() for s in own), default=0) for k in tiling.kinds)
    room = config.parameter_words - 2 * max(attention_words(tiling, k) for k in tiling.kinds) - 2 * most_words
    least = max(least, 2 * max(s.each for s in streamed.head))
    if room < least:
        raise LoweringError(
            f"model: its requantisation words take {config.parameter_words - room + least} of {config.name}'s "
            f"{config.parameter_words}: raise parameter_words"
        )
    return dataclasses.replace(streamed, dense_tiles=ring, dense_words=room)


def _check_head(tiling: Tiling) -> None:
    """Refuse a head that no memory holds before it is cut into shares: nothing else bounds the vocabulary."""
    model, room = tiling.model, 1 << tiling.config.address_bits
    if model.vocabulary * model.hidden > 2 * room:
        raise LoweringError(
            f"model vocabulary: {model.vocabulary}; half a byte for each of the head's weights is more than the {room} "
            f"bytes of a memory group that address_bits = {tiling.config.address_bits} gives: use at most "
            f"{2 * room // model.hidden}, or raise address_bits"
        )


def _streamed(
    tiling: Tiling, matrices: Mapping[Layer, Mapping[str, Matrix]], experts: set[ExpertTiling], largest: int, keys: int
) -> tuple[Residence, int]:
    """Return the pieces of streamed weights, as many on the chip at a time as fit, and the tiles of the ring.

    What leaves no room for a block of keys is taken where nothing else fits.
    """
    eighth = tiling.config.vcache_tiles // 8
    reason: LoweringError | None = None
    ordered = sorted(PARTS, key=lambda own: (8 - sum(own)) * eighth < keys)
    small = [own for own in ordered if (8 - sum(own)) * eighth < keys]
    for own in (ordered[: len(ordered) - len(small)], small):
        for shares, (dense, parts) in product(range(RING_SHARES, 1, -1), own):
            ring, room = eighth * dense, eighth * parts
            for pieces in range(PIECES, 1, -1):
                buffer = room // 2 if largest <= room // 2 else room // pieces
                try:
                    found = _plan(tiling, matrices, experts, False, ring // shares, buffer)
                    count = room // found.piece_tiles if found.piece_tiles else 0
                    return dataclasses.replace(found, piece_buffers=count), ring
                except LoweringError as error:
                    reason = reason or error
    assert reason is not None
    raise reason


def _plan(
    tiling: Tiling,
    matrices: Mapping[Layer, Mapping[str, Matrix]],
    experts: set[ExpertTiling],
    resident: bool,
    room: int,
    buffer: int,
) -> Residence:
    config = tiling.config

    def cut(name: str, matrix: Matrix, whole: int = 0) -> tuple[Share, ...]:
        step = up_step(config) if name == "mlp.up" else 1
        return shares_of(matrix, config, 1 << 20 if resident else room, step, whole or 1)

    shares = {
        layer: {name: cut(name, own, tiling.per_head(layer, name)) for name, own in found.items()}
        for layer, found in matrices.items()
    }
    pieces = {expert.down.inputs: pieces_of_expert(tiling, expert, buffer) for expert in experts}
    gangs = {}
    if not resident and config.vertical_links and config.tiers > 1:
        for expert in experts:
            up = shares_of(expert.up, config, buffer, up_step(config))
            gangs[expert.down.inputs] = up, shares_of(expert.down, config, buffer)
    piece_tiles = max(
        (tiles_of_piece(tiling.expert(inner), piece) for inner, own in pieces.items() for piece in own), default=0
    )
    found = Residence(
        tiling, resident, shares, cut("head", tiling.head), matrices, pieces, gangs, piece_tiles, 0, 0, 0
    )  # fmt: skip
    return dataclasses.replace(found, piece_tiles=max(piece_tiles, found.gang_tiles))


def tiles_of_piece(expert: ExpertTiling, piece: ExpertPiece) -> int:
    slices = {Part.UP: expert.up.k_slices, Part.DOWN: expert.down.k_slices}
    return sum(run.count * slices[run.part] for run in piece.runs)


def pieces_of_expert(tiling: Tiling, expert: ExpertTiling, buffer: int) -> tuple[ExpertPiece, ...]:
    """Cut an expert into pieces of up to `buffer` tiles."""
    if expert.tiles <= buffer and max(expert.up.n_tiles, expert.down.n_tiles) <= MOST_COUNT:
        return (ExpertPiece((Run(Part.UP, 0, expert.up.n_tiles), Run(Part.DOWN, 0, expert.down.n_tiles))),)
    config = tiling.config
    found = []
    for part, matrix, step in ((Part.UP, expert.up, up_step(config)), (Part.DOWN, expert.down, 1)):
        # As many pieces as needed, all of about the same size.
        least = memory_alignment(config)
        align = least // math.gcd(least, matrix.k_slices * config.plane_bytes)  # output tiles from one load to the next
        step = math.lcm(step, align)
        most = min(buffer // matrix.k_slices, MOST_COUNT) // step * step
        if not most:
            raise LoweringError(
                f"model intermediate: {expert.down.inputs}; {step} output tiles of an expert's {part} projection take "
                f"{step * matrix.k_slices} tiles of V-Cache, and there is room for {buffer}: raise vcache_tiles"
            )
        pieces = -(-matrix.n_tiles // most)
        each = -(-matrix.n_tiles // pieces)
        each = -(-each // step) * step
        for first in range(0, matrix.n_tiles, each):
            found.append(ExpertPiece((Run(part, first, min(each, matrix.n_tiles - first)),)))
    return tuple(found)
