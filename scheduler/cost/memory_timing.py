# SPDX-License-Identifier: Apache-2.0
"""How long the memories take: the knobs of the benches' memories, which the cycle model has too."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Final

from hdl.config import ConfigError
from hdl.errors import shown

__all__ = ["MemoryTiming"]

_RANGES: Final = {"latency": (2, 4096), "random_latency": (0, 4096), "stall_rate": (0, 250), "seed": (1, (1 << 32) - 1)}
"""The memories count cycles in 16 bits; with a higher rate of stalls a run would take months."""


@dataclass(frozen=True, kw_only=True)
class MemoryTiming:
    """How the memories behave.

    Attributes
    ----------
    latency : int
        Cycles from a read request to its first beat, and from the last written beat of a burst to its response;
        2 to 4,096.
    random_latency : int
        Largest random addition to it, 0 to 4,096; with one, memories send data and instructions in turns.
    stall_rate : int
        Chance in 1/256 that a channel is not ready, or has no data, in a cycle; 0 to 250.
    seed : int
        Of the random additions and stalls, 1 to 2**32 - 1. Those of the cycle model are not those of a simulation with
        the same seed, but come as often.

    Raises
    ------
    ConfigError
        A field has a value that is not allowed.
    """

    latency: int = 40
    random_latency: int = 0
    stall_rate: int = 0
    seed: int = 1

    def __post_init__(self) -> None:
        """Check every field."""
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ConfigError(f"config memory.{name}: {shown(value)}; use a whole number from {low} to {high:,}")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return dataclasses.asdict(self)
