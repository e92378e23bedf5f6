# SPDX-License-Identifier: Apache-2.0
"""How long the memories take: a latency with its knobs, or HBM; the benches' memories and the cycle model's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hdl.config import ConfigError
from hdl.errors import shown
from scheduler.cost.hbm.timing import HbmTiming, parameters_of

__all__ = ["MemoryTiming"]

_RANGES: Final = {"latency": (2, 4096), "random_latency": (0, 4096), "stall_rate": (0, 250), "seed": (1, (1 << 32) - 1)}
"""The memories count cycles in 16 bits; with a higher rate of stalls a run would take months."""

_HBM_MHZ: Final = (50, 4000)
"""With a slower clock all of HBM's times are a cycle or two."""


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
    hbm : HbmTiming or None
        An HBM channel says when beats are read and written; then the fields above have their defaults.
    mhz : float or None
        With HBM, and only then: the machine's clock, 50 to 4,000, since HBM's times are times.

    Raises
    ------
    ConfigError
        A field has a value that is not allowed, or means nothing with HBM.
    """

    latency: int = 40
    random_latency: int = 0
    stall_rate: int = 0
    seed: int = 1
    hbm: HbmTiming | None = None
    mhz: float | None = None

    def __post_init__(self) -> None:
        """Check every field."""
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ConfigError(f"config memory.{name}: {shown(value)}; use a whole number from {low} to {high:,}")
        if self.hbm is None:
            return
        for name in _RANGES:
            if getattr(self, name) != getattr(type(self), name):
                raise ConfigError(f"config memory.{name}: means nothing with [hbm]; leave one of them out")
        mhz = self.mhz
        if mhz is None:
            raise ConfigError(
                "config clock.mhz: missing; HBM's times are turned into cycles with it, so [hbm] needs it"
            )
        low, high = _HBM_MHZ
        if isinstance(mhz, bool) or not isinstance(mhz, int | float) or not low <= mhz <= high:
            raise ConfigError(f"config clock.mhz: {shown(mhz)}; with [hbm] use {low} to {high:,}")
        self.hbm_parameters()

    def hbm_parameters(self) -> npt.NDArray[np.int64]:
        """Return what an HBM channel takes, see :func:`scheduler.cost.hbm.timing.parameters_of`; none: no cells."""
        if self.hbm is None or self.mhz is None:
            return np.zeros(0, np.int64)
        return parameters_of(self.hbm, self.mhz)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name; those of HBM only with it."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in _RANGES}
        return fields if self.hbm is None else fields | {"hbm": self.hbm.to_dict(), "mhz": self.mhz}

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> MemoryTiming:
        """Return what :meth:`to_dict` was made of.

        Raises
        ------
        ConfigError, TypeError
            It was made of nothing.
        """
        hbm = fields.get("hbm")
        return cls(**dict(fields) | {"hbm": None if hbm is None else HbmTiming(**hbm)})
