# SPDX-License-Identifier: Apache-2.0
"""What a planner may do to a step; each part can be switched off alone."""

from __future__ import annotations

from dataclasses import dataclass

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
    """

    micro_batches: bool
    list_schedule: bool

    @property
    def name(self) -> str:
        """The name in `POLICIES`."""
        return next(name for name, policy in POLICIES.items() if policy == self)


SEQUENTIAL, FUSED = Policy(False, False), Policy(True, True)

POLICIES = {
    "sequential": SEQUENTIAL, "micro-batches": Policy(True, False), "list": Policy(False, True), "fused": FUSED,
}  # fmt: skip
"""By name: nothing, each part alone, all of it; every policy has a name."""


def policy_of(name: str) -> Policy:
    """Return a policy.

    Raises
    ------
    LoweringError
        There is none of that name.
    """
    if name not in POLICIES:
        raise LoweringError(f"policy: {name!r}; use {', '.join(POLICIES)}")
    return POLICIES[name]
