# SPDX-License-Identifier: Apache-2.0
"""Energy by component: activity times an energy table, with the band that the table's low and high values give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from scheduler.cost.energy.activity import Activity
from scheduler.cost.energy.table import EnergyTable

__all__ = ["COMPONENTS", "Band", "Energy", "energy_of"]

COMPONENTS: Final[Mapping[str, tuple[tuple[str, str, float | None], ...]]] = {
    "PEs": (("mac", "macs", 1.0), ("idle_pe", "idle_pe_cycles", 1.0)),
    "registers": (("register_bit", "register_bits", 1.0),),
    "V-Cache": (("vcache_read_byte", "vcache_read_bytes", 1.0), ("vcache_write_byte", "vcache_write_bytes", 1.0)),
    "accumulators": (("accumulator_byte", "accumulator_bytes", 1.0),),
    "buffers": (("buffer_byte", "buffer_bytes", 1.0),),
    "drain and vector unit": (("lane_operation", "lane_operations", 1.0),),
    "vertical": (("vertical_bit", "vertical_bytes", 8.0),),
    "lateral": (("lateral_bit", "lateral_bytes", 8.0),),
    "off chip": (("offchip_bit", "offchip_bytes", 8.0),),
    "HBM activate": (("hbm_activate", "hbm_activates", 1.0),),
    "HBM read": (("hbm_read_byte", "hbm_read_bytes", 1.0),),
    "HBM write": (("hbm_write_byte", "hbm_write_bytes", 1.0),),
    "HBM refresh": (("hbm_refresh", "hbm_refreshes", 1.0),),
    "static, dies": (("static_pe", "pe_cycles", None),),
    "static, HBM": (("static_channel", "channel_cycles", None),),
}
"""Each component: its entries of the table, the counts that they are multiplied with, and the entry's units of a count.

None stands for power: milliwatts times the nanoseconds of a cycle are picojoules."""


@dataclass(frozen=True)
class Band:
    """An energy in pJ, with the value that the table's low entries give, and that of its high ones."""

    value: float
    low: float
    high: float

    def __add__(self, other: Band) -> Band:
        """Return the sum: lows with lows, highs with highs, as one cause may make all of a table's entries err."""
        return Band(self.value + other.value, self.low + other.low, self.high + other.high)

    def __truediv__(self, count: float) -> Band:
        """Return a part."""
        return Band(self.value / count, self.low / count, self.high / count)

    def to_dict(self) -> dict[str, float]:
        """Return the three numbers by name."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Energy of a run.

    Attributes
    ----------
    components : dict of str to Band
        By the names of `COMPONENTS`, in pJ.
    table : str
        Name of the energy table.
    mhz : float
        Clock with which power became energy.
    """

    components: Mapping[str, Band]
    table: str
    mhz: float

    @property
    def total(self) -> Band:
        """All components together."""
        return sum(self.components.values(), Band(0.0, 0.0, 0.0))

    def to_dict(self) -> dict[str, Any]:
        """Return components and total as plain data, in pJ."""
        return {
            "table": self.table, "mhz": self.mhz, "total_pj": self.total.to_dict(),
            "components_pj": {name: band.to_dict() for name, band in self.components.items()},
        }  # fmt: skip


def energy_of(activity: Activity, table: EnergyTable, mhz: float) -> Energy:
    """Return the energy of an activity.

    Parameters
    ----------
    activity : Activity
        What was done.
    table : EnergyTable
    mhz : float
        The machine's clock, above 0.
    """
    found: dict[str, Band] = {}
    for name, parts in COMPONENTS.items():
        total = Band(0.0, 0.0, 0.0)
        for entry_name, field, units in parts:
            entry, count = table[entry_name], getattr(activity, field) * (1e3 / mhz if units is None else units)
            total += Band(count * entry.value, count * entry.low, count * entry.high)
        found[name] = total
    return Energy(components=found, table=table.name, mhz=mhz)
