# SPDX-License-Identifier: Apache-2.0
"""Everything that a plan and its time depend on: the machine, its memories, its clock, what the planner may do.

A TOML file with sections says it all::

    [machine]
    preset = "small"
    queue_depth = 64

    [memory]
    latency = 60
    stall_rate = 8

    [clock]
    mhz = 800

    [policy]
    name = "fused"

Only ``[machine]`` must be there. In place of ``[memory]``, ``[hbm]`` puts HBM channels in front of the
memories; it needs a clock, since HBM's times are times::

    [hbm]
    preset = "hbm3"
    mapping = "row-bank-column-group"
    rcd_rd = 28

Fields beside the preset are those of :class:`scheduler.cost.hbm.timing.HbmTiming`, in HBM's clocks. ``[policy]`` has a
name, or the parts of a policy (``micro_batches = true``), or both: parts override. What generates or synthesizes the
machine reads ``[machine]`` alone, and takes the same file.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hdl.config import PRESETS, ConfigError, MachineConfig, load_config
from hdl.config_file import is_name, read_sections
from hdl.errors import one_line, shown
from scheduler.cost.hbm.timing import HBM3, HbmTiming
from scheduler.cost.hbm.timing import PRESETS as HBM_PRESETS
from scheduler.cost.memory_timing import MemoryTiming
from scheduler.plan.limits import LoweringError
from scheduler.plan.policy import FUSED, POLICIES, Policy, policy_of

__all__ = ["SystemConfig", "load_system"]


@dataclass(frozen=True, kw_only=True)
class SystemConfig:
    """One system.

    Attributes
    ----------
    machine : MachineConfig
    memory : MemoryTiming
        How the memories behave, on the cycle model and in the simulation; with HBM its clock is that of the system.
    clock_mhz : float or None
        Turns cycles into seconds, above 0; None: results are in cycles.
    policy : Policy
        What the planner may do to a step.

    Raises
    ------
    ConfigError
        A clock that is none, or is not that of the memories' HBM.
    """

    machine: MachineConfig
    memory: MemoryTiming = field(default_factory=MemoryTiming)
    clock_mhz: float | None = None
    policy: Policy = FUSED

    def __post_init__(self) -> None:
        """Check the clock; the parts have checked themselves."""
        mhz = self.clock_mhz
        if mhz is not None and (
            isinstance(mhz, bool) or not isinstance(mhz, int | float) or not 0 < mhz < math.inf
        ):  # fmt: skip
            raise ConfigError(f"config clock.mhz: {shown(mhz)}; use a number above 0")
        if self.memory.hbm is not None and self.memory.mhz != mhz:
            raise ConfigError(f"config clock.mhz: {shown(mhz)}; use that of the memories' HBM, {self.memory.mhz:g}")

    def at(self, clock_mhz: float) -> SystemConfig:
        """Return the same with another clock."""
        memory = self.memory if self.memory.hbm is None else dataclasses.replace(self.memory, mhz=clock_mhz)
        return dataclasses.replace(self, clock_mhz=clock_mhz, memory=memory)

    def to_dict(self) -> dict[str, Any]:
        """Return what a result says of the system that it was taken on; `MachineConfig.to_dict` has the machine."""
        return {
            "memory": self.memory.to_dict(), "clock_mhz": self.clock_mhz, "policy": self.policy.name,
        }  # fmt: skip


def load_system(name_or_path: str | Path) -> SystemConfig:
    """Return a preset's machine with the default of all else, or read a file.

    Parameters
    ----------
    name_or_path : str or Path
        A preset's name, or the path of a TOML file: one with sections, or with the machine's fields alone.

    Raises
    ------
    ConfigError
        Unknown name, unreadable file, unknown field or a value that is not allowed.
    """
    machine = load_config(name_or_path)
    if str(name_or_path) in PRESETS:
        return SystemConfig(machine=machine)
    path = Path(name_or_path)
    sections, file = read_sections(path), one_line(path)
    memory, clock = sections.get("memory", {}), sections.get("clock", {})
    _check_known("memory", memory, list(MemoryTiming().to_dict()), file)
    _check_known("clock", clock, ["mhz"], file)
    if "hbm" in sections:
        if memory:
            raise ConfigError(f"config memory: means nothing beside [hbm] (in {file}); leave one of them out")
        timing = MemoryTiming(hbm=_hbm(sections["hbm"], file), mhz=clock.get("mhz"))
    else:
        timing = MemoryTiming(**memory)
    return SystemConfig(
        machine=machine, memory=timing, clock_mhz=clock.get("mhz"),
        policy=_policy(sections.get("policy", {}), file),
    )  # fmt: skip


def _hbm(fields: Mapping[str, Any], file: str) -> HbmTiming:
    own = [f.name for f in dataclasses.fields(HbmTiming) if f.name not in ("name", "source")]
    _check_known("hbm", fields, ["preset", *own], file)
    preset = fields.get("preset", HBM3.name)
    if not isinstance(preset, str) or preset not in HBM_PRESETS:
        raise ConfigError(f"config hbm.preset: {shown(preset)} in {file}; use {', '.join(HBM_PRESETS)}")
    timing = HBM_PRESETS[preset]
    changes = {key: value for key, value in fields.items() if key in own and value != getattr(timing, key)}
    if not changes:
        return timing
    return dataclasses.replace(timing, name=f"{preset} with other {', '.join(changes)}", **changes)


def _policy(fields: Mapping[str, Any], file: str) -> Policy:
    parts = [f.name for f in dataclasses.fields(Policy)]
    _check_known("policy", fields, ["name", *parts], file)
    name = fields.get("name", "fused")
    try:
        policy = policy_of(name if isinstance(name, str) else shown(name))
    except LoweringError as error:
        raise ConfigError(
            f"config policy.name: {shown(name)} in {file}; use {', '.join(POLICIES)}, or parts with + between"
        ) from error
    own = {key: value for key, value in fields.items() if key != "name"}
    for key, value in own.items():
        if not isinstance(value, bool):
            raise ConfigError(f"config policy.{key}: {shown(value)} in {file}; use true or false")
    return dataclasses.replace(policy, **own)


def _check_known(section: str, fields: Mapping[str, Any], known: list[str], file: str) -> None:
    for key in fields:
        if key not in known:
            name = key if is_name(key) else shown(key)
            raise ConfigError(f"config {section}.{name}: no such field (in {file}); use one of {', '.join(known)}")
