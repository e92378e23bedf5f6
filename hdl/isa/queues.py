# SPDX-License-Identifier: Apache-2.0
"""Names of the instruction queues: one for each tier's sequencer, each load engine, the store and the vector unit."""

from __future__ import annotations

from hdl.config import MachineConfig

__all__ = ["LOAD_ENGINES", "STORE_QUEUE", "VECTOR_QUEUE", "load_queue_name", "queue_names", "tier_queue_name"]

LOAD_ENGINES = 2
"""One for each channel group."""

STORE_QUEUE, VECTOR_QUEUE = "store", "vector"


def tier_queue_name(tier: int) -> str:
    """Return the name of a tier's queue."""
    return f"tier{tier}"


def load_queue_name(group: int) -> str:
    """Return the name of the queue of one channel group's load engine."""
    return f"load{group}"


def queue_names(config: MachineConfig) -> list[str]:
    """Return all queues in the order of their numbers: the tiers' first."""
    tiers = [tier_queue_name(tier) for tier in range(config.tiers)]
    return [*tiers, *(load_queue_name(group) for group in range(LOAD_ENGINES)), STORE_QUEUE, VECTOR_QUEUE]
