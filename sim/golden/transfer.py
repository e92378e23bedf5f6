# SPDX-License-Identifier: Apache-2.0
"""What LOAD and STORE do to the machine's state."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hdl.config import MachineConfig
from hdl.isa import (
    Format,
    Instruction,
    LoadDest,
    StoreFormat,
    beats,
    load_groups,
    load_item_bytes,
    store_beats,
    store_bytes,
    store_start,
    store_step,
    tiers_of_mask,
)
from hdl.numerics import LOW_MISSING, store_convert
from sim.golden.state import MachineState, UninitialisedError

__all__ = ["execute_load", "execute_store", "fill_words", "merge_planes"]

Bytes = npt.NDArray[np.uint8]


def fill_words(instruction: Instruction, config: MachineConfig) -> int:
    """Return the V-Cache fill words that a LOAD launches, in every format the same number a tile."""
    return instruction["count"] * config.fill_words if instruction["dest_kind"] == LoadDest.VCACHE else 0


def execute_load(machine: MachineState, instruction: Instruction, pc: int) -> None:
    """Execute a LOAD."""
    c = machine.config
    kind, count, base = LoadDest(instruction["dest_kind"]), instruction["count"], instruction["dest_base"]
    n_bytes = count * load_item_bytes(instruction, c)
    planes = []
    for group, start in load_groups(instruction):
        planes.append(machine.memory[group][start : start + n_bytes])
        machine.counters[f"read_beats_{group}"] += beats(n_bytes, c)
        machine.counters[f"read_bytes_{Format(instruction['format']).name.lower()}"] += n_bytes
    rows = slice(base, base + count)
    tiers = tiers_of_mask(instruction["dest_tiers"])
    if kind == LoadDest.VCACHE:
        tiles, low = _tiles(instruction, planes, c), instruction["format"] == Format.LOW
        for tier in tiers:
            if low and machine.strict and (machine.tags[tier, rows] < 0).any():
                raise UninitialisedError(f"instruction {pc}: a high plane of tier {tier} is missing for the low one")
            machine.vcache[tier, rows] = (machine.vcache[tier, rows] & ~15) | tiles if low else tiles
            machine.tags[tier, rows] = instruction["tag"]
        machine.counters["fill_words"] += fill_words(instruction, c)
    elif kind == LoadDest.ACTIVATION:
        for tier in tiers:
            machine.activation[tier, rows] = planes[0].view(np.int8).reshape(count, c.rows)
            machine.known["activation byte"][tier, rows] = True
    elif kind == LoadDest.LIST:
        for tier in tiers:
            machine.lists[tier, rows] = planes[0].copy().view("<u2").reshape(count, 4)
            machine.known["list entry"][tier, rows] = True
    elif kind == LoadDest.PARAMETER:
        for tier in tiers:
            machine.parameters[tier, rows] = planes[0].copy().view("<u2").reshape(count, c.columns)
            machine.known["requantisation word"][tier, rows] = True
    else:
        elements = planes[0].copy().view("<i2").reshape(count, c.columns)
        machine.combine[rows] = elements.astype(np.int32) << instruction["shift"]
        machine.known["combine row"][rows] = True


def _tiles(instruction: Instruction, planes: list[Bytes], config: MachineConfig) -> npt.NDArray[np.int8]:
    """Return the tiles [count, R, C] that a LOAD's bytes hold."""
    count, form = instruction["count"], Format(instruction["format"])
    shape = (count, config.rows, config.columns)
    if form == Format.BYTES:
        return planes[0].view(np.int8).reshape(shape)
    if form == Format.COLUMNS:
        return planes[0].view(np.int8).reshape(count, config.columns, config.rows).swapaxes(1, 2)
    if form == Format.LOW:
        return merge_planes(np.zeros_like(planes[0]), planes[0]).reshape(shape)
    return merge_planes(planes[0], planes[1] if form == Format.PAIR else None).reshape(shape)


def merge_planes(high: Bytes, low: Bytes | None = None) -> npt.NDArray[np.int8]:
    """Return the bytes whose nibbles two planes hold, bits 3..0 of a plane's byte first; `low` may be missing.

    It is :func:`hdl.numerics.merge_nibbles` in bytes: a step of a real model loads hundreds of megabytes.
    """
    merged = np.empty((high.size, 2), dtype=np.uint8)
    merged[:, 0] = high << 4
    merged[:, 1] = high & 0xF0
    if low is None:
        merged |= LOW_MISSING
    else:
        merged[:, 0] |= low & 15
        merged[:, 1] |= low >> 4
    return merged.reshape(-1).view(np.int8)


def execute_store(machine: MachineState, instruction: Instruction, pc: int) -> None:
    """Execute a STORE."""
    c, count, gap = machine.config, instruction["rows"], 1 + instruction["row_gap"]
    rows = slice(instruction["row_base"], instruction["row_base"] + (count - 1) * gap + 1, gap)
    form = StoreFormat(instruction["format"])
    if form != StoreFormat.DISCARD:
        machine.need("combine row", pc, None, rows)
        dtype = {StoreFormat.INT8: "<i1", StoreFormat.INT16: "<i2", StoreFormat.INT32: "<i4"}[form]
        elements = store_convert(machine.combine[rows], instruction["shift"], form).astype(dtype)
        start, group = store_start(instruction), instruction["group"]
        row_bytes, step = store_step(instruction, c)
        data = elements.reshape(-1).view(np.uint8).reshape(count, row_bytes)
        if step == row_bytes:
            machine.memory[group][start : start + data.size] = data.reshape(-1)
        else:
            places = start + np.arange(count)[:, None] * step + np.arange(row_bytes)
            machine.memory[group][places] = data
        machine.counters[f"write_beats_{group}"] += store_beats(instruction, c)
        machine.counters["write_bytes"] += store_bytes(instruction, c)
    if instruction["clear"]:
        machine.combine[rows] = 0
        machine.known["combine row"][rows] = True
