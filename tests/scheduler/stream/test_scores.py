# SPDX-License-Identifier: Apache-2.0
"""Experts loaded as far as they are important: the machine and the host decide alike, and so does the model."""

from __future__ import annotations

from collections import Counter

import pytest

from hdl.config import MachineConfig
from hdl.isa import Format, LoadDest, Opcode
from hdl.numerics.precision import Precision, Thresholds
from scheduler.ops.batch import Chunk
from scheduler.plan.limits import LoweringError
from scheduler.plan.policy import FUSED
from scheduler.stream.choose import Chooser
from tests.support.checkpoints import small_model
from tests.support.language import NANO, TINY, WIDE, LanguageRun, varied

MODEL = small_model(
    "mixtral", hidden=24, heads=4, kv_heads=2, head_dim=8, vocabulary=24, layers=2, experts=6, chosen=2, intermediate=16
)
PROMPTS = [Chunk(slot, 0, tuple((5 * slot + 3 * n) % 24 for n in range(3 + slot))) for slot in range(3)]
STEPS = [PROMPTS] + [
    [Chunk(slot, 3 + slot + step, ((7 * slot + 11 * step) % 24,)) for slot in range(3)] for step in range(3)
]
THRESHOLDS = (Thresholds(22000, 14000), Thresholds(30000, 9000, first_full=True))
MACHINES = {
    "tiny": TINY, "streamed on gangs": TINY.replace(vcache_tiles=64), "nano": NANO, "wide": WIDE,
    "streamed": TINY.replace(vcache_tiles=64, vertical_links=False),
}  # fmt: skip


def run(config: MachineConfig, *, slots: bool, **options: object) -> tuple[LanguageRun, Counter[int]]:
    """Run the steps, each compared with the integer model; return what of experts was wanted how often."""
    one = LanguageRun(config, varied(MODEL, 5), slots=slots, precision=THRESHOLDS, step_bytes=1 << 19, **options)  # type: ignore[arg-type]
    seen: Counter[int] = Counter()
    for chunks in STEPS:
        one.programs.append(one.step(chunks))
        for wanted, route in zip(one.precisions, one.routing, strict=True):
            seen.update(wanted[sorted(set(route.experts.ravel().tolist()))].tolist())
    return one, seen


@pytest.mark.parametrize("name", MACHINES)
def test_machine_and_host_decide_alike(name: str) -> None:
    read = []
    for slots in (False, True):
        one, seen = run(MACHINES[name], slots=slots)
        assert all(seen[what] for what in Precision), seen
        read.append(
            {kind: one.executor.counters[f"read_bytes_{kind.name.lower()}"] for kind in (Format.PAIR, Format.HIGH)}
        )
        if slots:
            rows = one.programs[-1].table.instructions()
            loads = [i for i in rows if i.opcode == Opcode.LOAD and i["slot_en"]]
            assert loads and all(i["scored"] for i in loads)
            assert {i["dest_kind"] for i in loads} == {LoadDest.VCACHE, LoadDest.PARAMETER}
            assert [i["full_score"] for i in rows if i.opcode == Opcode.ROUTE] == [22000, 30000]
    assert read[0] == read[1] and read[0][Format.HIGH]


@pytest.mark.parametrize("slots", [False, True], ids=["host-known", "slots"])
def test_fused_plans(slots: bool) -> None:
    """Micro-batches in slots mode would decide apart, and experts do not stay on the chip; other plans remain."""
    one, seen = run(TINY.replace(vcache_tiles=1024), slots=slots, chooser=Chooser(FUSED))
    assert all(seen[what] for what in Precision)
    assert any(program.plan.listed or program.plan.cuts for program in one.programs)
    assert any(program.kept_tiles for program in one.programs)


def test_a_step_in_parts_is_refused() -> None:
    one = LanguageRun(TINY.replace(combine_rows=256), varied(MODEL, 5), precision=THRESHOLDS, step_bytes=1 << 19)
    with pytest.raises(LoweringError, match="of 40 tokens runs in 3 parts: run fewer tokens"):
        one.step([Chunk(0, 0, tuple(n % 24 for n in range(40)))])
