# SPDX-License-Identifier: Apache-2.0
"""What a planner may do to a step; each part can be switched off alone."""

from __future__ import annotations

from dataclasses import dataclass, fields

from scheduler.plan.limits import LoweringError

__all__ = ["FUSED", "POLICIES", "SEQUENTIAL", "Policy", "policy_of"]


@dataclass(frozen=True)
class Policy:
    """What is tried; whatever the cycle model finds longer than the sequential plan is dropped.

    Attributes
    ----------
    micro_batches : bool
        The experts of some tokens run beside the attention of others.
    list_schedule : bool
        Instructions are brought into the order that list scheduling finds.
    residency : bool
        Weights stay in V-Cache from one step to the next.
    prefixes : bool
        Keys and values that sequences have in common are read once a step.
    """

    micro_batches: bool = False
    list_schedule: bool = False
    residency: bool = False
    prefixes: bool = False

    @property
    def name(self) -> str:
        """The name in `POLICIES`, or those of its parts with ``+`` between."""
        for name, policy in POLICIES.items():
            if policy == self:
                return name
        return "+".join(name for name in PARTS if _contains(self, POLICIES[name]))


SEQUENTIAL, FUSED = Policy(), Policy(True, True, True, True)

PARTS = {
    "micro-batches": Policy(micro_batches=True),
    "list": Policy(list_schedule=True),
    "residency": Policy(residency=True),
    "prefixes": Policy(prefixes=True),
}
POLICIES = {"sequential": SEQUENTIAL, **PARTS, "fused": FUSED}
"""By name: nothing, each part alone, all of it."""


def _contains(policy: Policy, part: Policy) -> bool:
    return all(getattr(policy, f.name) or not getattr(part, f.name) for f in fields(Policy))


def policy_of(name: str) -> Policy:
    """Return a policy by its name, or by those of its parts with ``+`` between.

    Raises
    ------
    LoweringError
        There is none of that name.
    """
    if name in POLICIES:
        return POLICIES[name]
    parts = name.split("+")
    if not all(part in PARTS for part in parts):
        raise LoweringError(f"policy: {name!r}; use {', '.join(POLICIES)}, or parts with + between, as list+residency")
    return Policy(*(any(getattr(PARTS[part], f.name) for part in parts) for f in fields(Policy)))
