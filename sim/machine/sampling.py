# SPDX-License-Identifier: Apache-2.0
"""Chooses tokens from logits; the one part of generation that the host computes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hdl.errors import A3dError

__all__ = ["Sampler"]


@dataclass(frozen=True)
class Sampler:
    """Picks a sequence's next token.

    Attributes
    ----------
    temperature : float
        Divides the logits; 0 takes the largest, the first of equal ones.
    seed : int
        Of the random choice. A choice depends on seed, sequence and position alone, not on what runs beside it.

    Raises
    ------
    A3dError
        A temperature or a seed below 0.
    """

    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the fields."""
        if not 0 <= self.temperature < float("inf"):
            raise A3dError(f"temperature: {self.temperature}; use 0 (the most probable token) or more, such as 0.7")
        if self.seed < 0:
            raise A3dError(f"seed: {self.seed}; use 0 or more")

    def pick(self, logits: npt.NDArray[np.int16], scale: float, sequence: int, position: int) -> int:
        """Return a token.

        Parameters
        ----------
        logits : int16 array [vocabulary]
            As the machine stores them.
        scale : float
            Real value of 1 of the logits.
        sequence, position : int
            Number of the sequence, and the position that the token will have in it.
        """
        if self.temperature == 0:
            return int(logits.argmax())
        below = (logits.astype(np.float64) - logits.max()) * scale
        with np.errstate(over="ignore"):  # a temperature close to 0: minus infinity is right
            weights = np.exp(below / self.temperature)
        rng = np.random.default_rng([self.seed, sequence, position])
        return int(rng.choice(len(logits), p=weights / weights.sum()))
