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

Only ``[machine]`` must be there. ``[policy]`` has a name, or the parts of a policy (``micro_batches = true``), or both:
parts override. What generates or synthesizes the machine reads ``[machine]`` alone, and takes the same file.
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
        How the memories behave, on the cycle model and in the simulation.
    clock_mhz : float or None
        Turns cycles into seconds, above 0; None: results are in cycles.
    policy : Policy
        What the planner may do to a step.

    Raises
    ------
    ConfigError
        A clock that is none.
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
    _check_known("memory", memory, [f.name for f in dataclasses.fields(MemoryTiming)], file)
    _check_known("clock", clock, ["mhz"], file)
    return SystemConfig(
        machine=machine, memory=MemoryTiming(**memory), clock_mhz=clock.get("mhz"),
        policy=_policy(sections.get("policy", {}), file),
    )  # fmt: skip


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
