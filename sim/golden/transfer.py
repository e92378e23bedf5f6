# SPDX-License-Identifier: Apache-2.0
"""What LOAD and STORE do to the machine's state."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hdl.config import MachineConfig
from hdl.isa import Format, Instruction, LoadDest, StoreFormat
from hdl.isa.legality import (
    beats,
    load_groups,
    load_unit_bytes,
    store_beats,
    store_bytes,
    store_start,
    store_step,
    tiers_of_mask,
)
from hdl.numerics import merge_nibbles, store_convert
from sim.golden.state import MachineState

__all__ = ["execute_load", "execute_store", "fill_words"]

Bytes = npt.NDArray[np.uint8]


def fill_words(instruction: Instruction, config: MachineConfig) -> int:
    """Return the V-Cache fill words that a LOAD launches, in every format the same number a tile."""
    return instruction["count"] * config.fill_words if instruction["dest_kind"] == LoadDest.VCACHE else 0


def execute_load(machine: MachineState, instruction: Instruction) -> None:
    """Execute a LOAD."""
    c = machine.config
    kind, count, base = LoadDest(instruction["dest_kind"]), instruction["count"], instruction["dest_base"]
    n_bytes = count * load_unit_bytes(instruction, c)
    planes = []
    for group, start in load_groups(instruction):
        planes.append(machine.memory[group][start : start + n_bytes])
        machine.counters[f"read_beats_{group}"] += beats(n_bytes, c)
        machine.counters[f"read_bytes_{Format(instruction['format']).name.lower()}"] += n_bytes
    rows = slice(base, base + count)
    tiers = tiers_of_mask(instruction["dest_tiers"])
    if kind == LoadDest.VCACHE:
        tiles = _tiles(instruction, planes, c)
        for tier in tiers:
            machine.vcache[tier, rows] = tiles
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
    high = _nibbles(planes[0])
    low = _nibbles(planes[1]) if form == Format.PAIR else np.zeros_like(high)
    return merge_nibbles(high, low).astype(np.int8).reshape(shape)


def _nibbles(plane: Bytes) -> npt.NDArray[np.int64]:
    """Return the signed nibbles of a plane: bits 3..0 first."""
    values = np.stack([plane & 15, plane >> 4], axis=-1).reshape(-1).astype(np.int64)
    return np.where(values > 7, values - 16, values)


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
