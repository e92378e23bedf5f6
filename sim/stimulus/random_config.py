# SPDX-License-Identifier: Apache-2.0
"""Random configurations over the whole ranges of ``hdl/config.py``, with arrays small enough to simulate."""

from __future__ import annotations

import random
from collections.abc import Mapping

from hdl.config import PRESETS, MachineConfig

__all__ = ["CORNERS", "INTEGERS", "MOST_ROW_FIFO", "POWERS", "random_config"]

POWERS: Mapping[str, tuple[int, int]] = {
    "vcache_tiles": (4, 1 << 16),
    "activation_words": (16, 1 << 16),
    "accumulator_depth": (4, 1 << 10),
    "list_depth": (4, 1 << 12),
    "parameter_words": (4, 1 << 12),
    "combine_rows": (8, 1 << 16),
    "scalar_depth": (16, 1 << 12),
    "expert_slots": (2, 1 << 8),
    "queue_depth": (2, 64),
}
"""Fields that may be any power of two from the first to the second number, whatever the others are."""

INTEGERS: Mapping[str, tuple[int, int]] = {
    "k_link_stages": (1, 16),
    "outstanding_bursts": (1, 64),
    "semaphore_bits": (4, 16),
}
"""Fields that may be any integer from the first to the second number."""

MOST_ROW_FIFO = 4096
MOST_SEMAPHORES = 64
ADDRESS_BITS = (12, 37)

_SMALLEST = {
    **{field: low for field, (low, _) in (*POWERS.items(), *INTEGERS.items())},
    "burst_beats": 1, "skew_fifo_beats": 4, "row_fifo_depth": 21, "address_bits": 12, "semaphores": 8,
}  # fmt: skip

_LARGEST = {
    **{field: high for field, (_, high) in (*POWERS.items(), *INTEGERS.items())},
    "skew_fifo_beats": 4096, "row_fifo_depth": MOST_ROW_FIFO, "address_bits": 37, "semaphores": MOST_SEMAPHORES,
}  # fmt: skip

CORNERS: tuple[MachineConfig, ...] = (
    PRESETS["nano"].replace(name="eight_tiers", tiers=8, result_lanes=8, row_fifo_depth=56),
    PRESETS["nano"].replace(name="smallest", **_SMALLEST),
    PRESETS["nano"].replace(name="eight_smallest", **{**_SMALLEST, "tiers": 8, "row_fifo_depth": 56, "semaphores": 16}),
    PRESETS["nano"].replace(name="few_addresses", address_bits=12),
    PRESETS["nano"].replace(name="few_semaphores", tiers=4, row_fifo_depth=36, semaphores=8),
    PRESETS["nano"].replace(name="edge_smallest", **{**_SMALLEST, "stationary_feed": "edge"}),
    PRESETS["nano"].replace(
        name="many_channels", rows=16, columns=8, channels_per_group=8, address_bits=12, burst_beats=256,
        skew_fifo_beats=256, row_fifo_depth=33,
    ),
    PRESETS["nano"].replace(name="largest", **_LARGEST),
)  # fmt: skip
"""Configurations at the ends of the ranges; most of them once failed lint or their bench."""


def _power(rng: random.Random, low: int, high: int) -> int:
    """Return a power of two from `low` to `high`, the ends more often."""
    first, last = low.bit_length() - 1, high.bit_length() - 1
    return 1 << rng.choice((first, last, rng.randint(first, last), rng.randint(first, last)))


def _integer(rng: random.Random, low: int, high: int) -> int:
    """Return an integer from `low` to `high`, small ones and the ends more often."""
    return rng.choice((low, high, rng.randint(low, high), min(high, low + _power(rng, 1, 1 + high - low))))


def random_config(seed: int, *, most_pes: int = 256, most_depth: int = 1 << 16) -> MachineConfig:
    """Return a random configuration that the rules of `MachineConfig` allow.

    Parameters
    ----------
    seed : int
        Seed that repeats it.
    most_pes : int
        Largest number of processing elements in the stack; at least 16.
    most_depth : int
        Largest depth of a memory.
    """
    rng = random.Random(f"config {seed}")
    tiers = min(rng.choice((1, 2, 8, rng.randint(1, 8))), most_pes // 16)
    sides = [(r, c) for c in (4, 8, 16, 32, 64, 128, 256) for r in (c, 2 * c) if r <= 256 and tiers * r * c <= most_pes]
    rows, columns = rng.choice(sides)
    fields: dict[str, int | bool | str] = {
        field: min(_power(rng, *ends), max(ends[0], most_depth)) for field, ends in POWERS.items()
    }
    fields |= {field: _integer(rng, *ends) for field, ends in INTEGERS.items()}
    # Bytes of a beat of one group: a fill word is one to all rows of half a tile.
    group = _power(rng, max(4, columns // 2), min(rows * columns // 4, 16 * 128))
    channel = _power(rng, max(4, group // 16), min(128, group))
    burst = _power(rng, 1, min(256, 4096 // channel))
    smallest = max(ADDRESS_BITS[0], (16 * rows * columns - 1).bit_length())
    least = tiers * (rows + int(fields["k_link_stages"])) + 16
    return MachineConfig(
        name=f"random{seed}",
        tiers=tiers,
        rows=rows,
        columns=columns,
        stationary_feed=rng.choice(("vertical", "vertical", "edge")),
        vertical_links=rng.random() < 0.8,
        result_lanes=_power(rng, 1, tiers),
        row_fifo_depth=_integer(rng, least, MOST_ROW_FIFO),
        channels_per_group=group // channel,
        channel_bytes=channel,
        burst_beats=burst,
        address_bits=_integer(rng, smallest, ADDRESS_BITS[1]),
        semaphores=_power(rng, 8 if tiers <= 4 else 16, MOST_SEMAPHORES),
        skew_fifo_beats=_power(rng, max(4, burst), 4096),
        **fields,  # type: ignore[arg-type]
    )
