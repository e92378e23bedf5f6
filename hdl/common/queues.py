# SPDX-License-Identifier: Apache-2.0
"""The instruction queues, one a unit: the tiers' from number 0, then those of the other units."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Value

from hdl.config import MachineConfig

__all__ = ["gang_queues", "load_queue", "queue_count", "store_queue", "vector_queue"]

LOAD_ENGINES = 2


def load_queue(config: MachineConfig, group: int) -> int:
    """Return the number of the queue of one channel group's load engine."""
    return config.tiers + group


def store_queue(config: MachineConfig) -> int:
    """Return the number of the store unit's queue."""
    return config.tiers + LOAD_ENGINES


def vector_queue(config: MachineConfig) -> int:
    """Return the number of the vector unit's queue, the last one."""
    return config.tiers + LOAD_ENGINES + 1


def queue_count(config: MachineConfig) -> int:
    """Return how many instruction queues there are."""
    return vector_queue(config) + 1


def gang_queues(config: MachineConfig, gemm: Any) -> Value:
    """Return one bit for each tier's queue: whether the gang of a GEMM has that tier."""
    base, end = gemm.tier_base, gemm.tier_base + gemm.tier_count
    # No field can name a tier above the last of eight: a comparison with it would be constant, which linters report.
    last = (1 << len(base)) - 1
    return Cat((tier < end) if tier == last else (tier >= base) & (tier < end) for tier in range(config.tiers))
