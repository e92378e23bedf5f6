# SPDX-License-Identifier: Apache-2.0
"""Splits the memories on the chip among micro-batches that run beside one another, each with weights of its own.

Where weights stream, no micro-batch can keep an expert for the next one. Each reads the weights that its tokens need,
and has the same part of every memory to itself, so that it depends on no other but for the keys of their sequences.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hdl.config import MachineConfig
from hdl.isa import Dest, LoadDest, Opcode, VectorDest
from scheduler.plan.limits import LoweringError
from scheduler.plan.residence import Residence
from scheduler.plan.tiling import Tiling
from scheduler.stream.table import COL, Rows

__all__ = ["Region", "split"]

CAPACITIES = (
    "vcache_tiles", "activation_words", "parameter_words", "combine_rows", "scalar_depth", "list_depth",
)  # fmt: skip
"""What is split; each is a power of two."""
KEYS = 4
"""The part of V-Cache, one in so many tiles, that is left for keys where weights can do with the rest."""


@dataclass(frozen=True)
class Region:
    """A part of every memory on the chip.

    Attributes
    ----------
    residence : Residence
        The model on a machine that has no more than the part.
    number : int
        Parts of the same size before it.
    """

    residence: Residence
    number: int

    def shift(self, rows: Rows) -> None:
        """Bring instructions for the small machine to their place on the whole one.

        Parameters
        ----------
        rows : int64 array [instructions, columns]
            Instructions that do not use slots.
        """
        config, opcode, kind = self.residence.tiling.config, rows[:, COL.opcode], rows[:, COL.dest_kind]
        gemm, load, vector = opcode == Opcode.GEMM, opcode == Opcode.LOAD, opcode == Opcode.VECTOR

        def move(column: int, which: npt.NDArray[np.bool_], depth: int) -> None:
            rows[which, column] += self.number * depth

        tiles, words, rows_of, scalars = (
            config.vcache_tiles, config.activation_words, config.combine_rows, config.scalar_depth,
        )  # fmt: skip
        for column, depth in (
            (COL.vcache_base, tiles), (COL.act_base, words), (COL.param_base, config.parameter_words),
            (COL.list_base, config.list_depth),
        ):  # fmt: skip
            move(column, gemm, depth)
        move(COL.dest_base, gemm & (kind == Dest.COMBINE), rows_of)
        move(COL.dest_base, gemm & (kind == Dest.ACTIVATION), words)
        for target, depth in (
            (LoadDest.VCACHE, tiles), (LoadDest.ACTIVATION, words), (LoadDest.PARAMETER, config.parameter_words),
            (LoadDest.LIST, config.list_depth), (LoadDest.ROWS, rows_of),
        ):  # fmt: skip
            move(COL.dest_base, load & (kind == target), depth)
        move(COL.row_base, opcode == Opcode.STORE, rows_of)
        for column, depth in (
            (COL.a_base, rows_of), (COL.b_base, rows_of), (COL.s_base, scalars), (COL.d_scalar, scalars)
        ):  # fmt: skip
            move(column, vector, depth)
        move(COL.dest_base, vector & (kind == VectorDest.ROWS), rows_of)
        move(COL.dest_base, vector & (kind == VectorDest.ACTIVATION), words)


def split(residence: Residence, count: int) -> list[Region]:
    """Return the parts of the chip for so many micro-batches, all of the same size.

    Raises
    ------
    LoweringError
        A part has no room for the model's weights.
    """
    parts = 1 << (count - 1).bit_length()
    config = residence.tiling.config
    small = _smaller(config, parts)
    largest = max(
        share.each * residence.matrices[kind][name].k_slices
        for kind in residence.tiling.kinds for name, own in residence.shares[kind].items() for share in own
    )  # fmt: skip
    largest = max(largest, max(share.each for share in residence.head) * residence.tiling.hidden_words)
    each = residence.gang_tiles
    buffers = max(2, residence.piece_buffers * residence.piece_tiles // parts // each)
    left = small.vcache_tiles - buffers * each - small.vcache_tiles // KEYS
    dense = max(largest, min(left, residence.dense_tiles // parts))
    if dense + buffers * each > small.vcache_tiles:
        raise LoweringError(f"{count} micro-batches: V-Cache has no room for the weights of each")
    own = dataclasses.replace(
        residence, tiling=Tiling(small, residence.tiling.model), dense_tiles=dense, piece_buffers=buffers,
        piece_tiles=each,
    )  # fmt: skip
    return [Region(own, number) for number in range(count)]


def _smaller(config: MachineConfig, parts: int) -> MachineConfig:
    return dataclasses.replace(config, **{name: getattr(config, name) // parts for name in CAPACITIES})
