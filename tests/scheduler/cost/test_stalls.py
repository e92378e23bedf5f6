# SPDX-License-Identifier: Apache-2.0
"""Where a unit's cycles went: each unit's causes add up to the stream's cycles, and name what it waited for."""

from __future__ import annotations

from hdl.config import PRESETS
from hdl.isa import Instruction, LoadDest, Opcode
from scheduler.cost.model import Forecast, simulate

TINY = PRESETS["tiny"]
GEMM = {"tier_count": 1, "tokens": 8, "k_slices": 2, "n_tiles": 3}


def gemm(**fields: int) -> Instruction:
    return Instruction(Opcode.GEMM, GEMM | fields)


def main_cause(forecast: Forecast, unit: str) -> str:
    causes = {name: n for name, n in forecast.stalls()[unit].items() if name not in ("fetch", "empty")}
    return max(causes, key=lambda name: causes[name])


def test_all_cycles_are_accounted_for() -> None:
    load = Instruction(Opcode.LOAD, {"dest_tiers": 1, "count": 6, "tag": 5, "addr": 64})
    vector = Instruction(Opcode.VECTOR, {"vectors": 4, "rows": 4, "post0_en": 1, "post0_sem": 2})
    stream = [load, gemm(tag=5), vector, gemm(tier_base=1, wait0_sem=2, wait0_count=1)]
    forecast = simulate(TINY, stream)
    for unit, causes in forecast.stalls().items():
        assert sum(causes.values()) == forecast.cycles and min(causes.values()) >= 0, unit
        assert causes["work"] == forecast.busy()[unit]
    assert forecast.busy()["vector"] == 4 * 4 and forecast.stalls()["vector"]["banks"] < 4


def test_the_cause_is_named() -> None:
    load = Instruction(Opcode.LOAD, {"dest_kind": LoadDest.VCACHE, "dest_tiers": 1, "count": 48, "tag": 5, "addr": 64})
    tiles = simulate(TINY, [load, gemm(tag=5, tokens=1, vcache_base=40)])
    assert main_cause(tiles, "tier0") in ("memory", "tiles")
    long = Instruction(Opcode.VECTOR, {"vectors": 64, "rows": 8, "post0_en": 1, "post0_sem": 2})
    semaphores = simulate(TINY, [long, gemm(wait0_sem=2, wait0_count=1)])
    assert main_cause(semaphores, "tier0") == "semaphores"
