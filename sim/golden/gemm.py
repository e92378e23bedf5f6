# SPDX-License-Identifier: Apache-2.0
"""What a GEMM does to the machine's state, as matrix products in NumPy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hdl.isa import (
    Dest,
    Instruction,
    Mapping3D,
    Mode,
    Order,
    gang_tiers,
    maker_tiers,
    parameter_count,
    swiglu_channels,
    tiers_of_mask,
)
from hdl.isa.error_codes import ErrorCode
from hdl.numerics import requant, swiglu, wrap
from sim.golden.route import gemm_of_slot
from sim.golden.state import ExecutionError, MachineState

__all__ = ["execute_gemm"]

Int = npt.NDArray[np.int64]

FLOAT32_DEPTH = 1024
"""Longest reduction of int8 products whose partial sums float32 holds exactly: 1024 * 2**14 = 2**24."""


def execute_gemm(machine: MachineState, instruction: Instruction, pc: int) -> int:
    """Execute a GEMM; return how many times it posts.

    Raises
    ------
    ExecutionError
        VCACHE_MISS, or RANGE through a token list.
    UninitialisedError
        In strict mode, something is read that was never written.
    """
    work = gemm_of_slot(machine, instruction)
    if work is None:
        _count_skipped(machine, instruction)
        return len(maker_tiers(instruction))
    instruction = work
    tiers = gang_tiers(instruction)
    mapping = Mapping3D(instruction["mapping"]) if len(tiers) > 1 else Mapping3D.ALONE
    tokens, n_tiles = instruction["tokens"], instruction["n_tiles"]
    owners = tiers[:1] if mapping == Mapping3D.M else tiers
    weights = {tier: _stationary(machine, instruction, tier, pc) for tier in owners}
    readers = tiers[:1] if mapping == Mapping3D.N else tiers
    acts = {tier: _activations(machine, instruction, tier, pc) for tier in readers}
    if mapping == Mapping3D.K:
        total = sum(_product(acts[tier], weights[tier]) for tier in tiers)
        makers = {tiers[-1]: wrap(np.asarray(total), 32)}
    else:
        makers = {
            tier: wrap(_product(acts.get(tier, acts[tiers[0]]), weights.get(tier, weights[tiers[0]])), 32)
            for tier in tiers
        }
    for tier, acc in makers.items():
        place = tier - tiers[0]
        rows = _drain(machine, instruction, tier, acc, pc)
        tile = place * n_tiles if mapping == Mapping3D.N else 0
        spread = not instruction["dest_list"] and (
            instruction["dest_kind"] == Dest.COMBINE or instruction["dest_tiers"] != 0
        )
        token = place * tokens if mapping == Mapping3D.M and spread else 0
        _deliver(machine, instruction, tier, rows, token, tile, pc)
    _count(machine, instruction, mapping, len(makers))
    return len(makers)


def _count(machine: MachineState, instruction: Instruction, mapping: Mapping3D, makers: int) -> None:
    tiers, counters = gang_tiers(instruction), machine.counters
    tiles, tokens = instruction["k_slices"] * instruction["n_tiles"], instruction["tokens"]
    for tier in tiers:
        counters[f"tier{tier}_wave"] += tokens * tiles
        if tier == tiers[0] or mapping != Mapping3D.M:
            counters[f"tier{tier}_new_own"] += tiles
        if tier != tiers[0]:
            link = {Mapping3D.M: "link_m", Mapping3D.N: "link_n", Mapping3D.K: "link_k"}[mapping]
            counters[f"tier{tier}_{link}"] += tiles * (1 if mapping == Mapping3D.M else tokens)
    counters["macs"] += tokens * tiles * machine.config.tile_bytes * len(tiers)
    counters["rows"] += tokens * instruction["n_tiles"] * makers


def _count_skipped(machine: MachineState, instruction: Instruction) -> None:
    """Count the one wave of each tier of a GEMM whose slot has no tokens left for it; its rows are dropped."""
    tiers = gang_tiers(instruction)
    for tier in tiers:
        machine.counters[f"tier{tier}_wave"] += 1
        machine.counters[f"tier{tier}_new_own"] += 1
        if tier != tiers[0]:
            machine.counters[f"tier{tier}_link_n"] += 1
    machine.counters["macs"] += machine.config.tile_bytes * len(tiers)
    machine.counters["rows"] += len(tiers)


def _stationary(machine: MachineState, instruction: Instruction, tier: int, pc: int) -> npt.NDArray[np.int8]:
    """Return a tier's tiles as one matrix [k_slices * R, n_tiles * C], after checking their tags."""
    k_slices, n_tiles, base = instruction["k_slices"], instruction["n_tiles"], instruction["vcache_base"]
    tiles = slice(base, base + k_slices * n_tiles)
    stale = np.flatnonzero(machine.tags[tier, tiles] != instruction["tag"])
    if stale.size:
        tag = int(machine.tags[tier, base + stale[0]])
        state = "is not valid" if tag < 0 else f"has tag {tag}"
        text = f"tile {base + stale[0]} of tier {tier} {state}; tag {instruction['tag']} is needed"
        raise ExecutionError(ErrorCode.VCACHE_MISS, pc, 0, text)
    block = machine.vcache[tier, tiles]
    if instruction["order"] == Order.K_INNER:
        block = block.reshape(n_tiles, k_slices, *block.shape[1:]).transpose(1, 2, 0, 3)
    else:
        block = block.reshape(k_slices, n_tiles, *block.shape[1:]).transpose(0, 2, 1, 3)
    result: npt.NDArray[np.int8] = block.reshape(k_slices * machine.config.rows, n_tiles * machine.config.columns)
    return result


def _entries(machine: MachineState, instruction: Instruction, tier: int, pc: int) -> npt.NDArray[np.uint16]:
    rows = slice(instruction["list_base"], instruction["list_base"] + instruction["tokens"])
    machine.need("list entry", pc, tier, rows)
    return machine.lists[tier, rows]


def _activations(machine: MachineState, instruction: Instruction, tier: int, pc: int) -> npt.NDArray[np.int8]:
    """Return a tier's activations as one matrix [tokens, k_slices * R]."""
    if instruction["act_list"]:
        source = _entries(machine, instruction, tier, pc)[:, 0].astype(np.int64)
    else:
        source = np.arange(instruction["tokens"]) * instruction["act_stride"]
    words = instruction["act_base"] + source[:, None] + np.arange(instruction["k_slices"])
    _in_range(words, machine.config.activation_words, "activation word", pc)
    machine.need("activation byte", pc, tier, words)
    acts: npt.NDArray[np.int8] = machine.activation[tier, words].reshape(instruction["tokens"], -1)
    return acts


def _in_range(index: Int, depth: int, what: str, pc: int) -> None:
    if index.size and index.max() >= depth:
        raise ExecutionError(ErrorCode.RANGE, pc, 0, f"{what} {index.max()} through the token list; has {depth}")


def _drain(machine: MachineState, instruction: Instruction, tier: int, acc: Int, pc: int) -> Int:
    """Return finished rows [tokens, n_tiles, elements] from accumulators [tokens, n_tiles * C]."""
    columns = machine.config.columns
    tokens, n_tiles = instruction["tokens"], instruction["n_tiles"]
    words = slice(instruction["param_base"], instruction["param_base"] + parameter_count(instruction))
    machine.need("requantisation word", pc, tier, words)
    # With param_hold the one word stands for every output tile.
    mult, acc = machine.parameters[tier, words], acc.reshape(tokens, n_tiles, columns)
    mode, shift = Mode(instruction["mode"]), instruction["shift"]
    if mode == Mode.SWIGLU:
        gate, up = swiglu_channels(columns)
        post_mult, post_shift = instruction["post_mult"], instruction["post_shift"]
        return swiglu(acc[..., gate], acc[..., up], mult[:, gate], mult[:, up], shift, post_mult, post_shift)
    return requant(acc, mult, shift, 8 if mode == Mode.REQUANT8 else 16)


def _deliver(
    machine: MachineState, instruction: Instruction, tier: int, rows: Int, token: int, tile: int, pc: int
) -> None:
    """Write rows [tokens, n_tiles, elements]; `token` and `tile` are the first row's global numbers."""
    c = machine.config
    tokens, n_tiles, elements = rows.shape
    gate = None
    if instruction["dest_list"]:
        entries = _entries(machine, instruction, tier, pc)
        keep = entries[:, 3] & 1 == 0
        offset, gate, rows = entries[keep, 1].astype(np.int64), entries[keep, 2].astype(np.int64), rows[keep]
    else:
        offset = (token + np.arange(tokens)) * instruction["dest_stride"]
    base = (instruction["dest_base"] + offset)[:, None]
    number = tile + np.arange(n_tiles)
    if instruction["dest_kind"] == Dest.COMBINE:
        index = base + number
        _in_range(index, c.combine_rows, "combine row", pc)
        # Rows leave the array tile by tile, tokens inside: the order matters only when a stream overwrites a row.
        values = rows if gate is None else gate[:, None, None] * rows
        flat, values = index.T.reshape(-1), values.swapaxes(0, 1).reshape(-1, elements)
        if instruction["accumulate"]:
            machine.need("combine row", pc, None, flat)
            _accumulate(machine.combine, flat, values)
        else:
            machine.combine[flat] = wrap(values, 32)
            machine.known["combine row"][flat] = True
        machine.counters["rows_combine"] += flat.size
        return
    word = base + number * elements // c.rows
    _in_range(word, c.activation_words, "activation word", pc)
    place = (number * elements % c.rows)[:, None] + np.arange(elements)
    for target in tiers_of_mask(instruction["dest_tiers"]) or [tier]:
        machine.activation[target, word[:, :, None], place] = rows
        machine.known["activation byte"][target, word[:, :, None], place] = True
    machine.counters["rows_activation"] += word.size


def _accumulate(combine: npt.NDArray[np.int32], flat: Int, values: Int) -> None:
    """Add `values` to the rows `flat`, which may name a row more than once, in wrapping int32."""
    touched, place = np.unique(flat, return_inverse=True)
    if touched.size == flat.size:
        combine[flat] = wrap(combine[flat] + values, 32)
        return
    total = combine[touched].astype(np.int64)
    np.add.at(total, place, values)
    combine[touched] = wrap(total, 32)


def _product(acts: npt.NDArray[np.int8], weights: npt.NDArray[np.int8]) -> Int:
    """Return the exact product: floating point has a fast routine, and holds these sums exactly."""
    kind = np.float32 if acts.shape[1] <= FLOAT32_DEPTH else np.float64
    product: Int = (acts.astype(kind) @ weights.astype(kind)).astype(np.int64)
    return product
