# SPDX-License-Identifier: Apache-2.0
"""How a layer's matrices are cut into tiles, padded with zeros, and written as nibble planes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hdl.config import ADDRESS_UNIT, MachineConfig
from hdl.isa import swiglu_channels
from hdl.numerics import split_nibbles
from scheduler.memory.placement import Part
from scheduler.models.quantise import QuantisedExpert

__all__ = [
    "LayerShape",
    "memory_alignment",
    "pack_planes",
    "parameter_words",
    "region_alignment",
    "spread_size",
    "tiles_of",
]

BANK_BEATS = 64
"""Beats that a sequential stream reads from two banks of an HBM channel, one in each of two groups, before the next."""

REGION_BEATS = 4 * BANK_BEATS
"""Half of the beats in which it goes round all banks."""

Tiles = npt.NDArray[np.int8]


def memory_alignment(config: MachineConfig) -> int:
    """Return the alignment in bytes of everything that a LOAD or STORE addresses."""
    return max(ADDRESS_UNIT, config.group_bytes)


def region_alignment(config: MachineConfig, size: int) -> int:
    """Return the alignment in bytes of a region of `size` bytes.

    Large ones begin at multiples of `REGION_BEATS` beats. So loads that read them from their beginning meet HBM's banks
    in the same order, one that was just left is not wanted again soon, and can be refreshed.
    """
    beats = REGION_BEATS if 2 * size >= REGION_BEATS * config.group_bytes else 1
    return max(ADDRESS_UNIT, beats * config.group_bytes)


def spread_size(config: MachineConfig, size: int) -> int:
    """Return how far apart equal regions of `size` bytes should begin, of which a step reads the beginnings.

    Large ones begin in different banks then, an odd number of `BANK_BEATS` apart: each would have to wait for another
    row in the bank of the one before.
    """
    step = BANK_BEATS * config.group_bytes
    many = -(-size // step)
    return step * (many + 1 - many % 2) if size > REGION_BEATS * config.group_bytes else size


@dataclass(frozen=True)
class LayerShape:
    """A layer's matrices in tiles of a machine.

    Attributes
    ----------
    config : MachineConfig
        The machine.
    hidden, intermediate : int
        Channels, before padding.
    """

    config: MachineConfig
    hidden: int
    intermediate: int

    def k_slices(self, part: Part) -> int:
        """Return the reduction slices of a part: words of one token's input."""
        channels = self.hidden if part == Part.UP else self.intermediate
        return -(-channels // self.config.rows)

    def n_tiles(self, part: Part) -> int:
        """Return the output tiles of a part; the up part has a gate and an up channel for each output."""
        if part == Part.UP:  # whole words of h, so that the down projection reads no garbage
            return self.k_slices(Part.DOWN) * 2 * self.config.rows // self.config.columns
        return -(-self.hidden // self.config.columns)

    def n_step(self, part: Part) -> int:
        """Return the granularity in output tiles at which a part may be cut: whole words of h, aligned addresses."""
        column_bytes = self.k_slices(part) * self.config.plane_bytes
        align = memory_alignment(self.config)
        step = align // math.gcd(align, column_bytes)
        return math.lcm(step, 2 * self.config.rows // self.config.columns) if part == Part.UP else step

    def tiles(self, part: Part) -> int:
        """Return all tiles of a part."""
        return self.k_slices(part) * self.n_tiles(part)


def tiles_of(shape: LayerShape, part: Part, expert: QuantisedExpert) -> Tiles:
    """Return a part's tiles [n_tiles * k_slices, rows, columns], the reduction innermost, padded with zeros."""
    c = shape.config
    k, n = shape.k_slices(part) * c.rows, shape.n_tiles(part)
    matrix = np.zeros((k, n, c.columns), dtype=np.int8)
    if part == Part.UP:
        for weights, own in zip((expert.gate, expert.up), swiglu_channels(c.columns), strict=True):
            padded = np.zeros((k, n * c.columns // 2), dtype=np.int8)
            padded[: weights.shape[1], : weights.shape[0]] = weights.T
            matrix[:, :, own] = padded.reshape(k, n, -1)
    else:
        padded = np.zeros((k, n * c.columns), dtype=np.int8)
        down = expert.down
        padded[: down.shape[1], : down.shape[0]] = down.T
        matrix = padded.reshape(k, n, c.columns)
    return matrix.reshape(-1, c.rows, n, c.columns).transpose(2, 0, 1, 3).reshape(-1, c.rows, c.columns).copy()


def parameter_words(
    shape: LayerShape, part: Part, expert: QuantisedExpert, high_only: bool = False
) -> npt.NDArray[np.uint16]:
    """Return a part's requantisation words [n_tiles, columns], or those of its high plane alone; padded channels: 0."""
    c, n = shape.config, shape.n_tiles(part)
    gate, up, down = expert.gate_mult, expert.up_mult, expert.down_mult
    if high_only:
        gate, up, down = expert.high_gate_mult, expert.high_up_mult, expert.high_down_mult
    words = np.zeros((n, c.columns), dtype=np.uint16)
    if part == Part.UP:
        for mult, own in zip((gate, up), swiglu_channels(c.columns), strict=True):
            padded = np.zeros(n * c.columns // 2, dtype=np.uint16)
            padded[: mult.size] = mult
            words[:, own] = padded.reshape(n, -1)
    else:
        padded = np.zeros(n * c.columns, dtype=np.uint16)
        padded[: down.size] = down
        words = padded.reshape(n, c.columns)
    return words


def pack_planes(tiles: Tiles) -> tuple[bytes, bytes]:
    """Return (high plane, low plane): byte j holds weight 2j in bits 3..0 and weight 2j+1 in bits 7..4."""
    planes = []
    for nibbles in split_nibbles(tiles.reshape(-1)):
        pairs = (nibbles & 15).astype(np.uint8).reshape(-1, 2)
        planes.append((pairs[:, 0] | pairs[:, 1] << 4).tobytes())
    return planes[0], planes[1]
