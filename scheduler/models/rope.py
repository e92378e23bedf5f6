# SPDX-License-Identifier: Apache-2.0
"""Rotary embeddings for ROTATE: adjacent pairs of channels, and tables in Q14."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hdl.errors import A3dError
from scheduler.models.fixed_point import ROPE_BITS

__all__ = ["adjacent_pairs", "rope_tables"]

Int16 = npt.NDArray[np.int16]


def adjacent_pairs(head_dim: int) -> npt.NDArray[np.int64]:
    """Return the order of a head's channels that makes the pairs (i, i + head_dim/2) channels 2i and 2i + 1.

    ``new[j] = old[adjacent_pairs(head_dim)[j]]``.

    Raises
    ------
    A3dError
        An odd number of channels.
    """
    if head_dim < 2 or head_dim % 2:
        raise A3dError(f"head_dim: {head_dim}; RoPE rotates pairs: use an even number, 2 or more")
    return np.arange(head_dim).reshape(2, -1).T.ravel()


def rope_tables(head_dim: int, positions: int, theta: float) -> tuple[Int16, Int16]:
    """Return cosines and signed sines [positions, head_dim] in Q14, for channels in the order of `adjacent_pairs`.

    With them ``x[i] * cos[i] + x[i ^ 1] * sin[i]`` is the rotated channel i.

    Parameters
    ----------
    head_dim : int
        Channels of a head, even.
    positions : int
        Longest sequence.
    theta : float
        Base of the rotary frequencies.
    """
    adjacent_pairs(head_dim)
    inverse = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    angle = np.repeat(np.outer(np.arange(positions), inverse), 2, axis=1)
    sign = np.tile([-1.0, 1.0], head_dim // 2)
    one = 1 << ROPE_BITS
    return np.rint(np.cos(angle) * one).astype(np.int16), np.rint(np.sin(angle) * sign * one).astype(np.int16)
