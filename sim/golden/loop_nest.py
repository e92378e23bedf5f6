# SPDX-License-Identifier: Apache-2.0
"""The loop nest of the architecture contract, written out literally: slow, and independent of the executor."""

from __future__ import annotations

import copy
from typing import Any

from hdl.config import MachineConfig
from hdl.isa import Dest, Instruction, Mapping3D, Mode, Order
from hdl.numerics import requant, swiglu, wrap
from sim.golden.executor import Executor

__all__ = ["run_gemm"]


def run_gemm(machine: Executor, ins: Instruction) -> None:
    """Apply one GEMM to the executor's state, one multiply-accumulate row at a time."""
    c = machine.config
    g, base = ins["tier_count"], ins["tier_base"]
    mapping = Mapping3D(ins["mapping"]) if g > 1 else Mapping3D.ALONE
    before = copy.deepcopy(machine.activation)
    for i in range(g):
        tier = base + i
        if mapping == Mapping3D.K and i != g - 1:
            continue
        _tier(machine, ins, mapping, i, tier, before, c)


def _tier(
    machine: Executor, ins: Instruction, mapping: Mapping3D, i: int, tier: int, before: Any, c: MachineConfig
) -> None:
    g, base = ins["tier_count"], ins["tier_base"]
    accumulators: dict[int, list[int]] = {}
    tile = ins["vcache_base"]
    m_count, ks, nt = ins["tokens"], ins["k_slices"], ins["n_tiles"]
    outer, inner = (nt, ks) if ins["order"] == Order.K_INNER else (ks, nt)
    for x in range(outer):
        for y in range(inner):
            n, k = (x, y) if ins["order"] == Order.K_INNER else (y, x)
            for t in range(m_count):
                acc_at = t if ins["order"] == Order.K_INNER else n * m_count + t
                # Contributions: one tier, or for K every tier of the gang.
                members = range(base, base + g) if mapping == Mapping3D.K else [tier]
                total = [0] * c.columns if k == 0 else accumulators[acc_at]
                for member in members:
                    source_tier = base if mapping == Mapping3D.N else member
                    tile_tier = base if mapping == Mapping3D.M else member
                    if ins["act_list"]:
                        source = int(machine.lists[source_tier, ins["list_base"] + t, 0])
                    else:
                        source = t * ins["act_stride"]
                    act = before[source_tier, ins["act_base"] + source + k]
                    weights = machine.vcache[tile_tier, tile]
                    total = [
                        total[col] + sum(int(act[r]) * int(weights[r, col]) for r in range(c.rows))
                        for col in range(c.columns)
                    ]
                accumulators[acc_at] = [int(wrap(v, 32)) for v in total]
                if k == ks - 1:
                    _row(machine, ins, mapping, i, tier, t, n, accumulators[acc_at], c)
            tile += 1


def _row(
    machine: Executor, ins: Instruction, mapping: Mapping3D, i: int, tier: int, t: int, n: int, acc: list[int],
    c: MachineConfig,
) -> None:  # fmt: skip
    half = c.columns // 2
    word = ins["param_base"] + (0 if ins["param_hold"] else n)
    mult = [int(v) for v in machine.parameters[tier, word]]
    mode = Mode(ins["mode"])
    if mode == Mode.SWIGLU:
        post_mult, post_shift = ins["post_mult"], ins["post_shift"]
        result = [
            int(swiglu(acc[j], acc[half + j], mult[j], mult[half + j], ins["shift"], post_mult, post_shift))
            for j in range(half)
        ]
    else:
        bits = 8 if mode == Mode.REQUANT8 else 16
        result = [int(requant(a, m, ins["shift"], bits)) for a, m in zip(acc, mult, strict=True)]
    elements = len(result)
    number = i * ins["n_tiles"] + n if mapping == Mapping3D.N else n
    token = t
    combine = ins["dest_kind"] == Dest.COMBINE
    if mapping == Mapping3D.M and not ins["dest_list"] and (combine or ins["dest_tiers"]):
        token = i * ins["tokens"] + t
    gate = 1
    offset = token * ins["dest_stride"]
    if ins["dest_list"]:
        _source, offset, gate, flags = (int(v) for v in machine.lists[tier, ins["list_base"] + t])
        if flags & 1:
            return
    if combine:
        row = ins["dest_base"] + offset + number
        for col in range(c.columns):
            old = int(machine.combine[row, col]) if ins["accumulate"] else 0
            machine.combine[row, col] = int(wrap(old + gate * result[col], 32))
        return
    e = number * elements
    word = ins["dest_base"] + offset + e // c.rows
    mask = ins["dest_tiers"] or 1 << tier
    for target in range(c.tiers):
        if mask >> target & 1:
            machine.activation[target, word, e % c.rows : e % c.rows + elements] = result
