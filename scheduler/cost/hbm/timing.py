# SPDX-License-Identifier: Apache-2.0
"""Timing of an HBM pseudo-channel in its own clocks, as published, and in cycles of the machine."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hdl.config import ConfigError
from hdl.errors import shown
from scheduler.stream.compiled import numbered

__all__ = ["FIELDS", "HBM2", "HBM3", "MAPPINGS", "PRESETS", "HbmTiming", "T", "parameters_of"]

MAPPINGS: Final = (
    "row-group-bank-column-group", "row-bank-column-group", "row-bank-group-column", "row-column-bank-group",
    "row-column-group-bank", "row-group-bank-column", "row-group-column-bank",
)  # fmt: skip
"""Which bits of a beat's number say what, from the highest to the lowest. The first two change the bank group with each
beat, so that no two beats in a row are in the same one, and leave a row when all of its columns are read. The first one
does so with the lowest bit of the group alone: a burst needs rows in two banks, not in four (docs/decisions/0023)."""

_CLOCKS: Final = (
    "cl", "cwl", "rcd_rd", "rcd_wr", "rp", "ras", "rc", "ccd_s", "ccd_l", "rrd_s", "rrd_l", "faw", "wtr_s", "wtr_l",
    "rtw", "wr", "rtp", "rfc_pb", "refi",
)  # fmt: skip
"""Fields that are clocks of the HBM."""

_ORDERED: Final = (("ccd_s", "ccd_l"), ("rrd_s", "rrd_l"), ("wtr_s", "wtr_l"), ("rcd_rd", "ras"), ("ras", "rc"))
"""Fields of which the first is at most the second."""

_POWERS: Final = ("groups", "banks_per_group", "columns")
"""Fields that are powers of two."""


@dataclass(frozen=True, kw_only=True)
class HbmTiming:
    """A pseudo-channel and the controller in front of it; times in clocks of the HBM but for `tck_ps` and `path_ps`.

    A column access is one beat of the machine's channel, whatever its width: a channel of 32 bytes is one
    pseudo-channel, one of 128 bytes four that take the same commands, one of 4 bytes an eighth of one.

    Attributes
    ----------
    name : str
    source : str
        Where the values were read.
    tck_ps : int
        Picoseconds of a clock.
    cl, cwl : int
        From a read, or write, to its data.
    rcd_rd, rcd_wr : int
        From an activate to a read, or write, of the bank.
    rp : int
        From a precharge to an activate of the bank.
    ras, rc : int
        From an activate to a precharge, and to the next activate, of the bank.
    ccd_s, ccd_l : int
        Between column accesses, and between those of one bank group.
    rrd_s, rrd_l : int
        Between activates, and between those of one bank group.
    faw : int
        Window that has no more than four activates.
    wtr_s, wtr_l : int
        From a write's last data to a read, and to one of the same bank group.
    rtw : int
        From a read to a write.
    wr : int
        From a write's last data to a precharge of the bank.
    rtp : int
        From a read to a precharge of the bank.
    rfc_pb : int
        A bank's refresh.
    refi : int
        In so many clocks each bank is refreshed once.
    groups, banks_per_group : int
        Powers of two.
    columns : int
        Column accesses of a row, a power of two.
    path_ps : int
        Picoseconds that a read spends in controller and interface.
    mapping : str
        One of `MAPPINGS`.
    postponed : int
        Refreshes that may be postponed, 0 to 8.

    Raises
    ------
    ConfigError
        A value that is not allowed, or values that contradict each other.
    """

    name: str
    source: str
    tck_ps: int
    cl: int
    cwl: int
    rcd_rd: int
    rcd_wr: int
    rp: int
    ras: int
    rc: int
    ccd_s: int
    ccd_l: int
    rrd_s: int
    rrd_l: int
    faw: int
    wtr_s: int
    wtr_l: int
    rtw: int
    wr: int
    rtp: int
    rfc_pb: int
    refi: int
    groups: int = 4
    banks_per_group: int = 4
    columns: int = 32
    path_ps: int = 20_000
    mapping: str = MAPPINGS[0]
    postponed: int = 8

    def __post_init__(self) -> None:
        """Check every field."""
        for field, most in [("tck_ps", 10_000), *((name, 60_000) for name in _CLOCKS)]:
            self._check_number(field, 1, most)
        self._check_number("path_ps", 0, 1_000_000)
        self._check_number("postponed", 0, 8)
        for field in _POWERS:
            self._check_number(field, 1, 1024 if field == "columns" else 8)
            value = getattr(self, field)
            if value & (value - 1):
                raise ConfigError(f"config hbm.{field}: {value}; use a power of two")
        if self.mapping not in MAPPINGS:
            raise ConfigError(f"config hbm.mapping: {shown(self.mapping)}; use one of {', '.join(MAPPINGS)}")
        for less, more in _ORDERED:
            low, high = getattr(self, less), getattr(self, more)
            if low > high:
                raise ConfigError(f"config hbm.{less}: {low} is more than {more}, {high}; use at most {high}")
        least = self.banks * (self.ras + self.rp) + self.rfc_pb
        if self.refi < least:
            raise ConfigError(
                f"config hbm.refi: in {self.refi} clocks {self.banks} banks cannot be closed and refreshed one after "
                f"the other; use at least {least}"
            )

    def _check_number(self, field: str, low: int, high: int) -> None:
        value = getattr(self, field)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ConfigError(f"config hbm.{field}: {shown(value)}; use a whole number from {low} to {high:,}")

    @property
    def banks(self) -> int:
        """Banks of a pseudo-channel."""
        return self.groups * self.banks_per_group

    def cycles(self, field: str, mhz: float) -> int:
        """Return the cycles of a machine of `mhz` that a field takes, rounded up: a whole one at least."""
        picoseconds = self.path_ps if field == "path_ps" else getattr(self, field) * self.tck_ps
        return max(1, math.ceil(picoseconds * mhz / 1e6 - 1e-9))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return dataclasses.asdict(self)


HBM3: Final = HbmTiming(
    name="hbm3", source="Ramulator 2.1, python/ramulator/dram/hbm3.py, HBM3_6400 (vendors publish none: a guess)",
    tck_ps=625, cl=20, cwl=10, rcd_rd=31, rcd_wr=15, rp=26, ras=45, rc=72, ccd_s=2, ccd_l=4, rrd_s=4, rrd_l=5, faw=24,
    wtr_s=7, wtr_l=10, rtw=20, wr=33, rtp=9, rfc_pb=320, refi=6240,
)  # fmt: skip
HBM2: Final = HbmTiming(
    name="hbm2",
    source="DRAMsim3, configs/HBM2_8Gb_x128.ini; not there: rc (ras + rp), rtw (cl + 4 - cwl), rfc_pb (assumed)",
    tck_ps=1000, cl=14, cwl=4, rcd_rd=14, rcd_wr=14, rp=14, ras=34, rc=48, ccd_s=1, ccd_l=2, rrd_s=4, rrd_l=6, faw=30,
    wtr_s=6, wtr_l=8, rtw=14, wr=16, rtp=6, rfc_pb=160, refi=3900,
)  # fmt: skip
PRESETS: Final = {timing.name: timing for timing in (HBM3, HBM2)}

FIELDS: Final = (
    *_CLOCKS, "path", "refresh", "postponed", "group_bits", "bank_bits", "column_bits", "group_at", "bank_at",
    "column_at", "high_bits", "high_at",
)  # fmt: skip
"""A channel's parameters: times in cycles (`path` is that of `path_ps`), cycles from one bank's refresh to the next
bank's, refreshes that may be postponed, how many bits of a beat's number are group, bank in the group and column, and
where these begin. Of the group's bits, the highest `high_bits` lie apart from the others. The row is above all."""

_MOST_CYCLES: Final = (1 << 16) - 1
"""A channel takes 16 bits for each."""

T: Any = numbered("T", " ".join(FIELDS))
"""Numbers of `FIELDS` by name, for compiled functions."""


def parameters_of(timing: HbmTiming, mhz: float) -> npt.NDArray[np.int64]:
    """Return a channel's parameters, one for each of `FIELDS`, in cycles of a machine of `mhz`.

    Raises
    ------
    ConfigError
        A time has more cycles than the channel counts, or less than one is between two refreshes.
    """
    for field in (*_CLOCKS, "path_ps"):
        if timing.cycles(field, mhz) > _MOST_CYCLES:
            raise ConfigError(
                f"config hbm.{field}: {timing.cycles(field, mhz):,} cycles at {mhz:g} MHz, and a channel counts "
                f"{_MOST_CYCLES:,}; use a shorter time or a slower clock"
            )
    if timing.cycles("refi", mhz) < timing.banks:
        raise ConfigError(
            f"config hbm.refi: {timing.cycles('refi', mhz)} cycles at {mhz:g} MHz for {timing.banks} banks; use a "
            "longer time or a faster clock"
        )
    found = {field: timing.cycles(field, mhz) for field in _CLOCKS}
    found |= {
        "path": timing.cycles("path_ps", mhz), "refresh": found["refi"] // timing.banks, "postponed": timing.postponed,
        "group_bits": timing.groups.bit_length() - 1, "bank_bits": timing.banks_per_group.bit_length() - 1,
        "column_bits": timing.columns.bit_length() - 1,
    }  # fmt: skip
    parts = timing.mapping.split("-")[1:]
    apart = parts.count("group") > 1
    found["high_bits"] = max(0, found["group_bits"] - 1) if apart else 0
    at, found["high_at"] = 0, 0
    for place in range(len(parts) - 1, -1, -1):
        what, bits = parts[place], found[f"{parts[place]}_bits"]
        if what == "group":
            what, bits = ("high", found["high_bits"]) if apart and place == 0 else (what, bits - found["high_bits"])
        found[f"{what}_at"] = at
        at += bits
    return np.array([found[field] for field in FIELDS], np.int64)
