# SPDX-License-Identifier: Apache-2.0
"""Random instruction sequences for the memory path."""

from __future__ import annotations

import random

import numpy as np

from hdl.config import ADDRESS_UNIT, MachineConfig
from hdl.isa import Format, Instruction, LoadDest, Opcode, StoreFormat, beats, load_item_bytes, store_bytes

MEMORY_BYTES = 1 << 16


def random_memory(seed: int, size: int = MEMORY_BYTES) -> list[np.ndarray]:
    """Return the two groups' memories."""
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 256, size, np.uint8) for _ in range(2)]


def place(rng: random.Random, config: MachineConfig, size: int, memory: int = MEMORY_BYTES) -> int:
    """Return a random address (in units of 32 bytes) where `size` bytes in whole beats fit; often near 4 KiB lines."""
    align = max(ADDRESS_UNIT, config.group_bytes)
    size = beats(size, config) * config.group_bytes
    last = (memory - size) // align
    line = 4096 * config.channels_per_group
    spot = rng.randint(0, last)
    if rng.random() < 0.5 and size < memory - line:
        spot = min(last, max(0, (rng.randrange(line, memory, line) - rng.randint(0, size)) // align))
    return spot * align // ADDRESS_UNIT


def header(rng: random.Random, config: MachineConfig) -> dict[str, int]:
    """Return random waits and posts."""
    values: dict[str, int] = {"post0_en": 1, "post0_sem": rng.randrange(config.semaphores)}
    if rng.random() < 0.3:
        values |= {"wait0_sem": rng.randrange(config.semaphores), "wait0_count": rng.randint(1, 31)}
    if rng.random() < 0.3:
        values |= {"post1_en": 1, "post1_sem": rng.randrange(config.semaphores)}
    return values


class Allocator:
    """Hands out destinations that never overlap."""

    def __init__(self, config: MachineConfig) -> None:
        self.depth = {
            LoadDest.VCACHE: config.vcache_tiles,
            LoadDest.ACTIVATION: config.activation_words,
            LoadDest.LIST: config.list_depth,
            LoadDest.PARAMETER: config.parameter_words,
            LoadDest.ROWS: config.combine_rows,
        }
        self.used = dict.fromkeys(LoadDest, 0)

    def take(self, kind: LoadDest, count: int) -> int | None:
        base = self.used[kind]
        if base + count > self.depth[kind]:
            return None
        self.used[kind] += count
        return base


def random_loads(seed: int, config: MachineConfig, count: int, most: int = 9) -> list[Instruction]:
    """Return `count` loads (or fewer, when destinations run out) of up to `most` items, of all kinds mixed."""
    rng = random.Random(seed)
    allocator = Allocator(config)
    loads: list[Instruction] = []
    for _ in range(count):
        others = [LoadDest.ACTIVATION, LoadDest.LIST, LoadDest.PARAMETER, LoadDest.ROWS]
        kind = rng.choice([LoadDest.VCACHE] * 4 + others)
        items = rng.randint(1, most if kind != LoadDest.VCACHE else max(1, most // 2))
        base = allocator.take(kind, items)
        if base is None:
            continue
        form = rng.choice(list(Format)) if kind == LoadDest.VCACHE else Format.BYTES
        values = header(rng, config) | {
            "format": form, "group": rng.randrange(2), "dest_kind": kind, "dest_base": base, "count": items,
            "dest_tiers": rng.randrange(1, 1 << config.tiers),
            "tag": rng.randrange(64) if kind == LoadDest.VCACHE else 0,
        }  # fmt: skip
        if kind == LoadDest.ROWS:
            values |= {"dest_tiers": 0, "shift": rng.choice([0, 1, 7, 15, 16])}
        load = Instruction(Opcode.LOAD, values)
        size = items * load_item_bytes(load, config)
        values["addr"] = place(rng, config, size)
        if form == Format.PAIR:
            values["addr_low"] = place(rng, config, size)
        loads.append(load)
    return loads


def random_stores(seed: int, config: MachineConfig, count: int, most: int = 12) -> list[Instruction]:
    """Return `count` stores into areas of the memories that do not overlap."""
    rng = random.Random(seed)
    area = MEMORY_BYTES // (2 * count)
    stores = []
    for index in range(count):
        form = rng.choice(list(StoreFormat))
        rows = rng.randint(1, min(most, config.combine_rows))
        values = header(rng, config) | {
            "format": form, "group": rng.randrange(2), "shift": rng.choice([0, 1, 7, 16, 24, 31]),
            "clear": rng.randrange(2), "row_base": rng.randint(0, config.combine_rows - rows), "rows": rows,
        }  # fmt: skip
        store = Instruction(Opcode.STORE, values)
        size = beats(store_bytes(store, config), config) * config.group_bytes
        values["addr"] = (MEMORY_BYTES // 2 + index * area) // ADDRESS_UNIT + place(rng, config, size, area)
        stores.append(store)
    return stores
