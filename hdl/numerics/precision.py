# SPDX-License-Identifier: Apache-2.0
"""How much of each expert's weights a group of tokens needs, from the scores that their router gave."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from hdl.isa.route import IMPORTANCE_BITS

__all__ = ["ALL_FULL", "MAX_IMPORTANCE", "Precision", "Thresholds", "importances", "precisions"]

MAX_IMPORTANCE: Final = (1 << IMPORTANCE_BITS) - 1
"""Where sums of gates saturate: just below 32.0 in Q15."""


class Precision(IntEnum):
    """What is loaded of an expert."""

    SKIP = 0
    """Nothing: its tokens go without it."""
    HIGH = 1
    """The high nibble plane: int4 weights with scales of their own."""
    FULL = 2
    """Both planes: int8 weights."""


@dataclass(frozen=True)
class Thresholds:
    """When an expert is worth its bytes.

    Attributes
    ----------
    full : int
        Least importance of an expert that is loaded with both planes, 0 to `MAX_IMPORTANCE`; 0: every one is.
    skip : int
        Least importance of an expert that is loaded at all, 0 to `MAX_IMPORTANCE`, at most `full`.
    first_full : bool
        An expert that is the first choice of any token gets both planes whatever its importance.

    Raises
    ------
    ValueError
        A threshold out of range, or `skip` above `full`.
    """

    full: int = 0
    skip: int = 0
    first_full: bool = False

    def __post_init__(self) -> None:
        """Check the thresholds."""
        for name, value, most in (("full", self.full, MAX_IMPORTANCE), ("skip", self.skip, self.full)):
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
                limit = "full" if name == "skip" and value in range(MAX_IMPORTANCE + 1) else str(MAX_IMPORTANCE)
                raise ValueError(f"{name}: {value!r}; use an integer of 0 to {limit}")


ALL_FULL: Final = Thresholds()
"""Every expert with both planes."""


def importances(experts: npt.NDArray[np.integer], gates: npt.NDArray[np.integer], count: int) -> npt.NDArray[np.int64]:
    """Return the sum of the gates of the tokens that chose each expert, saturated.

    Parameters
    ----------
    experts : int array [tokens, choices]
        Chosen experts, 0 to `count` - 1.
    gates : uint16 array [tokens, choices]
        Their gates, Q15.
    count : int
        Experts there are.

    Returns
    -------
    int64 array [count]
        0 to `MAX_IMPORTANCE`.
    """
    sums = np.zeros(count, np.int64)
    np.add.at(sums, np.asarray(experts).reshape(-1), np.asarray(gates, dtype=np.int64).reshape(-1))
    return np.minimum(sums, MAX_IMPORTANCE)


def precisions(
    experts: npt.NDArray[np.integer], gates: npt.NDArray[np.integer], count: int, thresholds: Thresholds
) -> npt.NDArray[np.int64]:
    """Return what is loaded of each expert for some tokens, as numbers of `Precision`.

    Parameters
    ----------
    experts, gates, count
        As for :func:`importances`; the first choice of a token is the one with the largest score.
    thresholds : Thresholds

    Returns
    -------
    int64 array [count]
        SKIP for an expert that no token chose.
    """
    sums, chosen = importances(experts, gates, count), np.asarray(experts)
    full = sums >= thresholds.full
    if thresholds.first_full:
        full[chosen[:, 0]] = True
    found = np.where(full, Precision.FULL, np.where(sums >= thresholds.skip, Precision.HIGH, Precision.SKIP))
    return np.where(np.bincount(chosen.reshape(-1), minlength=count) > 0, found, Precision.SKIP).astype(np.int64)
