# SPDX-License-Identifier: Apache-2.0
"""Experts loaded as far as they are important: the machine and the host decide alike, and so does the model."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from hdl.config import MachineConfig
from hdl.isa import Format, LoadDest, Opcode
from hdl.numerics.precision import Precision, Thresholds
from scheduler.ops.batch import Chunk
from scheduler.plan.limits import LoweringError
from scheduler.plan.policy import FUSED
from scheduler.stream.choose import Chooser, Plan
from tests.support.checkpoints import small_model
from tests.support.language import NANO, TINY, WIDE, LanguageRun, varied
from tests.support.plans import ROOMY, Forced

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
    """Micro-batches in slots mode would decide apart, and experts do not stay on the chip there; other plans remain."""
    one, seen = run(TINY.replace(vcache_tiles=1024), slots=slots, chooser=Chooser(FUSED))
    assert all(seen[what] for what in Precision)
    assert any(program.plan.listed or program.plan.cuts for program in one.programs)
    assert any(program.kept_tiles for program in one.programs)


@pytest.mark.parametrize("listed", [False, True], ids=["in order", "listed"])
def test_high_planes_that_come_before_the_routing_is_known(listed: bool) -> None:
    """Low planes come for those that the host would read both planes of, and no others."""
    read, plans = [], [Plan((sum(len(c.tokens) for c in chunks),), listed=listed) for chunks in STEPS]
    for slots in (False, True):
        own = [replace(plan, early_planes=slots) for plan in plans]
        one, seen = run(ROOMY, slots=slots, chooser=Forced(own))
        assert all(seen[what] for what in Precision)
        bytes_of = {form: one.executor.counters[f"read_bytes_{form.name.lower()}"] for form in Format}
        # Of PAIR half are high planes; dense matrices are the same in both.
        read.append([bytes_of[Format.PAIR] // 2 + bytes_of[form] for form in (Format.HIGH, Format.LOW)])
    low = [i for i in one.programs[0].instructions if i.opcode == Opcode.LOAD and i["format"] == Format.LOW]
    assert low and all(i["scored"] and i["slot_en"] for i in low)
    assert read[0][1] == read[1][1] and read[0][0] <= read[1][0]


def test_experts_that_stay_are_upgraded() -> None:
    """A step reads what an expert that stays lacks, or the high plane where both are there and it is enough."""
    decode = [[Chunk(slot, 3 + slot + step, ((7 * slot + 11 * step) % 24,)) for slot in range(3)] for step in range(6)]
    plans = Forced([Plan((12,))] + [Plan((3,), pinned=True, listed=bool(step % 2)) for step in range(6)])
    model = replace(MODEL, context=24)
    one = LanguageRun(ROOMY, varied(model, 5), precision=THRESHOLDS, step_bytes=1 << 19, chooser=plans)
    one.step(PROMPTS)
    there: dict[tuple[int, int], int] = {}
    seen: Counter[tuple[int, int]] = Counter()
    for chunks in decode:
        program = one.step(chunks)
        wanted = {
            (layer, expert): int(own[expert])
            for layer, (own, route) in enumerate(zip(one.precisions, one.routing, strict=True))
            for expert in set(route.experts.ravel().tolist()) if own[expert] != Precision.SKIP
        }  # fmt: skip
        moves = Counter((there.get(which, 0), what) for which, what in wanted.items())
        seen.update(moves)
        loads = [i for i in program.instructions if i.opcode == Opcode.LOAD and i["dest_kind"] == LoadDest.VCACHE]
        tags = Counter((Format(i["format"]), i["tag"]) for i in loads if i["tag"] >= 62)
        high, both = Precision.HIGH, Precision.FULL
        assert tags[Format.LOW, 63] == 2 * moves[high, both]
        assert tags[Format.HIGH, 62] == 2 * (moves[0, high] + moves[both, high])
        there |= wanted
    for move in ((0, high), (0, both), (high, both), (both, high), (high, high), (both, both)):
        assert seen[move], move


def test_a_step_in_parts_is_refused() -> None:
    one = LanguageRun(TINY.replace(combine_rows=256), varied(MODEL, 5), precision=THRESHOLDS, step_bytes=1 << 19)
    with pytest.raises(LoweringError, match="of 40 tokens runs in 3 parts: run fewer tokens"):
        one.step([Chunk(0, 0, tuple(n % 24 for n in range(40)))])
