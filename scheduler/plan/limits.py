# SPDX-License-Identifier: Apache-2.0
"""The most that instructions can say, and the error of what no machine or not this one can run."""

from __future__ import annotations

from hdl.errors import A3dError
from hdl.isa import Opcode, most_of

__all__ = ["MOST_COUNT", "MOST_ROWS", "MOST_STRIDE", "LoweringError", "RoomError"]


class LoweringError(A3dError):
    """A model, batch or context that the machine cannot run; the message names the limit and what would fit."""


class RoomError(LoweringError):
    """A model with the keys and values of its sequences has no room in the memory of the groups."""


MOST_ROWS = most_of(Opcode.VECTOR, "rows")
"""Combine rows of a vector."""

MOST_COUNT = min(
    most_of(Opcode.GEMM, "tokens", "k_slices", "n_tiles"), most_of(Opcode.VECTOR, "vectors"),
    most_of(Opcode.ROUTE, "tokens"),
)  # fmt: skip
"""Tokens, tiles and slices of an instruction."""

MOST_STRIDE = most_of(Opcode.GEMM, "act_stride", "dest_stride")
"""Words or rows from one token to the next."""
