# SPDX-License-Identifier: Apache-2.0
"""What the sequencers must issue, written from the architecture contract: nested loops and an ideal timetable."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from hdl.config import MachineConfig
from hdl.isa import Dest, Instruction, Mapping3D, Mode, Opcode, Order


@dataclass(frozen=True)
class ListEntry:
    """One token-list entry."""

    source: int = 0
    dest: int = 0
    gate: int = 0
    drop: int = 0

    def bits(self) -> int:
        return self.source | self.dest << 16 | self.gate << 32 | self.drop << 48


Lists = list[list[ListEntry]]
"""``lists[tier][entry]``"""


@dataclass(frozen=True)
class Wave:
    """One issued wave: fields of the dispatch lane that matter, and the row's descriptor if it finishes a row."""

    fields: dict[str, int]
    descriptor: dict[str, int] | None


def gang_of(gemm: Instruction) -> range:
    return range(gemm["tier_base"], gemm["tier_base"] + gemm["tier_count"])


def waves_of(gemm: Instruction, config: MachineConfig, tier: int, lists: Lists) -> list[Wave]:
    """Return the waves of one GEMM in one tier, in order."""
    gang = gang_of(gemm)
    i = tier - gang.start
    mapping = Mapping3D(gemm["mapping"])
    tokens, slices, tiles = gemm["tokens"], gemm["k_slices"], gemm["n_tiles"]
    makes_rows = mapping != Mapping3D.K or tier == gang[-1]
    elements = config.columns // (2 if gemm["mode"] == Mode.SWIGLU else 1)
    combine = gemm["dest_kind"] == Dest.COMBINE
    spread = mapping == Mapping3D.M and not gemm["dest_list"] and (combine or gemm["dest_tiers"] != 0)
    n_inner = gemm["order"] == Order.N_INNER
    if n_inner:
        order = [(n, k) for k in range(slices) for n in range(tiles)]
    else:
        order = [(n, k) for n in range(tiles) for k in range(slices)]
    result = []
    for number, (n, k) in enumerate(order):
        for t in range(tokens):
            entry = lists[tier][gemm["list_base"] + t] if gemm["act_list"] or gemm["dest_list"] else ListEntry()
            source = entry.source if gemm["act_list"] else t * gemm["act_stride"]
            last = k == slices - 1
            fields = {
                "new": int(t == 0),
                "stationary_below": int(mapping == Mapping3D.M and i > 0),
                "activation_below": int(mapping == Mapping3D.N and i > 0),
                "psum_below": int(mapping == Mapping3D.K and i > 0),
                "vcache_addr": gemm["vcache_base"] + number,
                "activation_addr": gemm["act_base"] + source + k,
                "accumulate": int(makes_rows),
                "first": int(makes_rows and k == 0),
                "last": int(makes_rows and last),
                "accumulator_addr": n * tokens + t if n_inner else t,
                "mode": gemm["mode"],
                "param_addr": gemm["param_base"] + (0 if gemm["param_hold"] else n),
                "shift": gemm["shift"],
                "post_mult": gemm["post_mult"],
                "post_shift": gemm["post_shift"],
            }
            descriptor = None
            if makes_rows and last:
                n_global = i * tiles + n if mapping == Mapping3D.N else n
                token = i * tokens + t if spread else t
                base = gemm["dest_base"] + (entry.dest if gemm["dest_list"] else token * gemm["dest_stride"])
                element = n_global * elements
                end = n == tiles - 1 and t == tokens - 1
                descriptor = {
                    "combine": int(combine),
                    "accumulate": gemm["accumulate"],
                    "drop": entry.drop if gemm["dest_list"] else 0,
                    "half": int(gemm["mode"] == Mode.SWIGLU),
                    "op_end": int(end),
                    "tiers": 0 if combine else gemm["dest_tiers"] or 1 << tier,
                    "addr": base + (n_global if combine else element // config.rows),
                    "byte": 0 if combine else element % config.rows,
                    "gate": entry.gate if gemm["dest_list"] else 1,
                    "post0_en": gemm["post0_en"] if end else 0,
                    "post0_sem": gemm["post0_sem"],
                    "post1_en": gemm["post1_en"] if end else 0,
                    "post1_sem": gemm["post1_sem"],
                }
            result.append(Wave(fields, descriptor))
    return result


def timetable(program: list[Instruction], config: MachineConfig, chaining: bool) -> list[list[tuple[int, int]]]:
    """Return per tier (first, last) issue cycle of each of its GEMMs when nothing ever stalls.

    A gang starts when all its tiers are free, a K gang that follows itself as soon as its leader is free.
    """
    lag = config.skew_k - 1
    free = [0] * config.tiers
    previous: list[tuple[int, ...] | None] = [None] * config.tiers
    result: list[list[tuple[int, int]]] = [[] for _ in range(config.tiers)]
    for gemm in program:
        gang = gang_of(gemm)
        length = gemm["tokens"] * gemm["k_slices"] * gemm["n_tiles"]
        is_k = gemm["mapping"] == Mapping3D.K and len(gang) > 1
        chained = is_k and chaining and all(previous[t] == tuple(gang) for t in gang)
        start = free[gang.start] if chained else max(free[t] for t in gang)
        for t in gang:
            first = start + (t - gang.start) * lag * is_k
            result[t].append((first, first + length - 1))
            assert free[t] <= first
            free[t] = first + length
            previous[t] = tuple(gang) if is_k else None
    return result


def edge_timetable(
    program: list[Instruction], config: MachineConfig, chaining: bool
) -> tuple[list[list[int]], list[list[int]]]:
    """Return per tier the cycles of all waves and of all tile requests with the edge feed when nothing else stalls.

    A request comes with the previous tile's first wave at the earliest, a tile's first wave `rows` cycles later.
    """
    lag = config.skew_k - 1
    free = [0] * config.tiers
    front = [0] * config.tiers
    previous: list[tuple[int, ...] | None] = [None] * config.tiers
    waves: list[list[int]] = [[] for _ in range(config.tiers)]
    requests: list[list[int]] = [[] for _ in range(config.tiers)]
    for gemm in program:
        gang = gang_of(gemm)
        is_k = gemm["mapping"] == Mapping3D.K and len(gang) > 1
        chained = is_k and chaining and all(previous[t] == tuple(gang) for t in gang)
        meet = [gang.start] if chained else gang
        may_request = max(front[t] for t in meet)
        start = max(free[t] for t in meet)
        for _ in range(gemm["k_slices"] * gemm["n_tiles"]):
            new = max(start, may_request + config.rows)
            for t in gang:
                late = (t - gang.start) * lag * is_k
                requests[t].append(may_request + late)
                waves[t] += range(new + late, new + late + gemm["tokens"])
                front[t] = new + late
                free[t] = new + late + gemm["tokens"]
            start, may_request = free[gang.start], new
        for t in gang:
            previous[t] = tuple(gang) if is_k else None
    return waves, requests


def random_gemm(
    rng: random.Random, config: MachineConfig, lists: Lists, *, least: int = 8, most: int = 40, **fixed: Any
) -> Instruction:
    """Return a legal GEMM of `least` to `most` waves per tier; `fixed` overrides fields."""
    while True:
        mapping = Mapping3D(fixed.get("mapping", rng.choice(list(Mapping3D))))
        count = 1 if mapping == Mapping3D.ALONE else fixed.get("tier_count", rng.randint(1, config.tiers))
        base = fixed.get("tier_base", rng.randint(0, config.tiers - count))
        if base + count > config.tiers:
            continue
        tokens = fixed.get("tokens", rng.choice([1, 1, 2, 3, 5, 8, 13]))
        slices = fixed.get("k_slices", rng.choice([1, 2, 3, 4, 7, 16]))
        tiles = fixed.get("n_tiles", rng.choice([1, 2, 3, 5, 8]))
        if not least <= tokens * slices * tiles <= most:
            continue
        combine = fixed.get("dest_kind", rng.randrange(2)) == Dest.COMBINE
        mode = rng.choice([Mode.REQUANT8, Mode.REQUANT16] if combine else [Mode.REQUANT8, Mode.SWIGLU])
        order = rng.choice(list(Order))
        if order == Order.N_INNER and tokens * tiles > config.accumulator_depth:
            order = Order.K_INNER
        # A held word may be the last one: nothing beyond it is used.
        hold = rng.random() < 0.3
        values = {
            "tier_base": base,
            "tier_count": count,
            "mapping": mapping,
            "order": order,
            "act_list": rng.randrange(2),
            "dest_list": rng.randrange(2),
            "tokens": tokens,
            "k_slices": slices,
            "n_tiles": tiles,
            "vcache_base": rng.randint(0, config.vcache_tiles - slices * tiles),
            "tag": rng.randrange(64),
            "act_base": rng.randint(0, config.activation_words // 2),
            "act_stride": rng.randint(0, 16),
            "list_base": rng.randint(0, config.list_depth - tokens),
            "param_base": config.parameter_words - 1 if hold else rng.randint(0, config.parameter_words - tiles),
            "param_hold": int(hold),
            "mode": mode,
            "shift": rng.randrange(48),
            "post_mult": rng.randrange(1 << 16),
            "post_shift": rng.randrange(48),
            "dest_kind": int(combine),
            "accumulate": rng.randrange(2),
            "dest_tiers": rng.randrange(1 << config.tiers),
            "dest_base": rng.randint(0, (config.combine_rows if combine else config.activation_words) // 4),
            "dest_stride": rng.randint(0, 3),
            "post0_en": rng.randrange(2),
            "post0_sem": rng.randrange(config.semaphores),
            "post1_en": rng.randrange(2),
            "post1_sem": rng.randrange(config.semaphores),
        }
        values.update(fixed)
        gemm = Instruction(Opcode.GEMM, {name: int(value) for name, value in values.items()})
        if in_range(gemm, config, lists):
            return gemm


def in_range(gemm: Instruction, config: MachineConfig, lists: Lists) -> bool:
    """Whether every address of every wave and row lies in its memory."""
    for tier in gang_of(gemm):
        for wave in waves_of(gemm, config, tier, lists):
            if wave.fields["activation_addr"] >= config.activation_words:
                return False
            row = wave.descriptor
            if row is None or row["drop"]:
                continue
            if row["addr"] >= (config.combine_rows if row["combine"] else config.activation_words):
                return False
    return True


def random_lists(rng: random.Random, config: MachineConfig) -> Lists:
    """Return random token lists with addresses in the lower half of their memories."""
    reach = min(config.activation_words, config.combine_rows) // 4
    return [
        [
            ListEntry(rng.randrange(reach), rng.randrange(reach), rng.randrange(1 << 16), int(rng.random() < 0.2))
            for _ in range(config.list_depth)
        ]
        for _ in range(config.tiers)
    ]
