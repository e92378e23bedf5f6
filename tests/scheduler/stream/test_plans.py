# SPDX-License-Identifier: Apache-2.0
"""Every plan of a step computes the same: micro-batches, list schedules, for any complete model; the shortest is taken.

Each stream is proved, and run on the executor, whose logits are the integer model's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hdl.config import PRESETS
from hdl.isa import Opcode
from scheduler.models.description import Experts, Model
from scheduler.ops.batch import Chunk
from scheduler.plan.limits import LoweringError
from scheduler.plan.policy import FUSED, POLICIES, SEQUENTIAL, policy_of
from scheduler.plan.residence import Residence
from scheduler.stream.choose import Chooser, Plan, Tried
from tests.support.checkpoints import small_model
from tests.support.language import TINY, LanguageRun, varied

ROOMY = TINY.replace(name="roomy", vcache_tiles=1024, combine_rows=2048, activation_words=2048, scalar_depth=512)


class Forced(Chooser):
    """Takes the plans that it is told, one for each step."""

    def __init__(self, plans: Sequence[Plan]) -> None:
        super().__init__(FUSED)
        self._plans = list(plans)

    def plans(self, residence: Residence, chunks: Sequence[Chunk], slots: bool, pinned: object = None) -> list[Plan]:
        return [self._plans.pop(0)]


def prompt(slot: int, position: int, count: int) -> Chunk:
    """Return new tokens of a sequence."""
    return Chunk(slot, position, tuple((7 * slot + 3 * n + position) % 20 for n in range(count)))


STEPS = (
    [prompt(0, 0, 17), prompt(2, 0, 3)], [prompt(0, 17, 1), prompt(1, 0, 9), prompt(2, 3, 1)],
    [prompt(0, 18, 1), prompt(1, 9, 1), prompt(2, 4, 1)],
)  # fmt: skip
CUTS = (((20,), (11,), (3,)), ((17, 3), (1, 9, 1), (2, 1)), ((5, 5, 10), (4, 7), (1, 1, 1)), ((1, 19), (10, 1), (1, 2)))


def run(model: Model, plans: Sequence[Plan], *, slots: bool = False) -> LanguageRun:
    """Run the steps, each by its plan."""
    one = LanguageRun(ROOMY, varied(model, 3), slots=slots, step_bytes=1 << 19, chooser=Forced(plans))
    for chunks, plan in zip(STEPS, plans, strict=True):
        one.programs.append(one.step(chunks, alone=True))
        assert one.programs[-1].plan == plan
    return one


@pytest.mark.parametrize(
    ("family", "slots"), [("mixtral", False), ("mixtral", True), ("qwen3_moe", False), ("olmoe", True)]
)
@pytest.mark.parametrize("cuts", CUTS, ids=str)
def test_micro_batches_compute_the_same(family: str, slots: bool, cuts: tuple[tuple[int, ...], ...]) -> None:
    """The second layer has no experts, or shared ones beside the others."""
    model = small_model(family, hidden=21, heads=4, kv_heads=2, head_dim=6, intermediate=13, vocabulary=21)
    shared = replace(model.layers[0].mlp, shared=11)
    assert isinstance(shared, Experts)
    model = replace(model, layers=(model.layers[0], replace(model.layers[1], mlp=shared), *model.layers[2:]))
    dense = small_model(
        family, hidden=16, heads=2, kv_heads=1, head_dim=8, intermediate=16, vocabulary=21, dense=(1,)
    )  # fmt: skip
    run(model, [Plan(own, False, True) for own in cuts], slots=slots)
    run(dense, [Plan(own, True, True) for own in cuts], slots=slots)


@pytest.mark.parametrize("slots", [False, True], ids=["host-known", "slots"])
@pytest.mark.parametrize("family", ["mixtral", "olmoe"])
def test_a_list_schedule_computes_the_same(family: str, slots: bool) -> None:
    model = small_model(family, hidden=24, heads=4, kv_heads=2, head_dim=8, vocabulary=24)
    run(model, [Plan((), True)] * len(STEPS), slots=slots)
    one = run(model, [Plan((), True, True)] * len(STEPS), slots=slots)
    plain = run(model, [Plan()] * len(STEPS), slots=slots)
    assert any(
        own.marks.tolist() != other.marks.tolist() for own, other in zip(one.programs, plain.programs, strict=True)
    )


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_cuts(data: st.DataObject) -> None:
    model = small_model("mixtral", hidden=16, heads=2, kv_heads=2, head_dim=8, intermediate=16, vocabulary=20)
    plans = []
    for chunks in STEPS:
        left, cuts = sum(len(chunk.tokens) for chunk in chunks), []
        while left:
            cuts.append(data.draw(st.integers(1, left)))
            left -= cuts[-1]
        plans.append(
            Plan(
                tuple(cuts[:8]) if sum(cuts[:8]) == sum(cuts) else (sum(cuts),),
                data.draw(st.booleans()),
                data.draw(st.booleans()),
            )
        )
    run(model, plans, slots=data.draw(st.booleans()))


@pytest.mark.parametrize(
    ("cuts", "slots"),
    [((32, 32, 32, 26, 6), False), ((16,) * 8, True), ((100, 28), False), ((100, 28), True), ((1, 127), False)],
    ids=str,
)
def test_the_experts_of_several_micro_batches_are_under_way_at_once(cuts: tuple[int, ...], slots: bool) -> None:
    """Long prompts of several sequences on `small`."""
    model = small_model(
        "mixtral", hidden=64, heads=4, kv_heads=2, head_dim=16, intermediate=64, vocabulary=20, context=160
    )
    one = LanguageRun(
        PRESETS["small"],
        varied(model, 3),
        step_bytes=1 << 20,
        sequences=6,
        slots=slots,
        chooser=Forced([Plan(cuts), Plan(cuts, True, True)]),
    )
    chunks = [prompt(0, 0, 30), prompt(1, 0, 34), prompt(2, 0, 40), prompt(3, 0, 18), prompt(4, 0, 6)]
    one.step(chunks)
    chunks = [prompt(5, 0, 124), *(Chunk(c.sequence, len(c.tokens), (1,)) for c in chunks[:4])]
    one.step(chunks)


def test_lists_that_do_not_fit_are_no_plan() -> None:
    """Lists of two layers are under way at once."""
    model = varied(small_model("mixtral", hidden=16, heads=2, kv_heads=2, head_dim=8, vocabulary=20), 3)
    narrow = ROOMY.replace(list_depth=64)
    with pytest.raises(LoweringError, match="token lists of layer 1: tier 0 has no room beside"):
        LanguageRun(narrow, model, step_bytes=1 << 19, chooser=Forced([Plan((20,))])).step(STEPS[0])
    program = LanguageRun(narrow, model, step_bytes=1 << 19, chooser=Chooser(FUSED)).step(STEPS[0])
    cuts = {tried.plan.cuts for tried in program.tried}
    assert (20,) not in cuts and () in cuts


def test_weights_are_loaded_once_for_all_micro_batches() -> None:
    model = small_model("mixtral", hidden=16, heads=2, kv_heads=2, head_dim=8, intermediate=16, vocabulary=20)
    loads = []
    for cuts in ((20,), (10, 10), (5, 5, 10)):
        program = run(model, [Plan(cuts), Plan((11,)), Plan((3,))]).programs[0]
        own = [
            label for label, word in zip(program.labels, program.instructions, strict=True)
            if word.opcode == Opcode.LOAD and label.operation.startswith("expert")
        ]  # fmt: skip
        loads.append(sorted((label.layer, label.operation) for label in own))
        assert len(loads[-1]) == len(set(loads[-1]))
    assert loads[0] == loads[1] == loads[2]


def test_the_shortest_plan_is_taken_and_remembered() -> None:
    chooser = Chooser(FUSED)
    chunks = [prompt(0, 0, 40), *(prompt(slot, 70, 1) for slot in range(1, 4))]
    residence = LanguageRun(ROOMY, varied(small_model("mixtral", context=200), 3)).memory.residence
    plans = chooser.plans(residence, chunks, False)
    assert plans[0] == Plan() and Plan((40, 3), True) in plans and Plan((16, 24, 3)) not in plans
    assert Plan((32, 8, 3), True) in plans
    assert all(sum(plan.cuts) in (0, 43) for plan in plans)
    tried = [Tried(plan, 100 - number) for number, plan in enumerate(plans)]
    assert chooser.learn(chunks, False, tried) == plans[-1]
    later = [prompt(0, 0, 40), *(prompt(slot, 71, 1) for slot in range(1, 4))]
    assert chooser.plans(residence, later, False) == [Plan(), plans[-1]]
    assert len(chooser.plans(residence, later[1:], False)) > 2
    assert len(chooser.plans(residence, later, True)) == len(plans)  # learned for each way to know the routing


@pytest.mark.parametrize("name", list(POLICIES))
def test_a_policy_switches_parts_off(name: str) -> None:
    policy = policy_of(name)
    residence = LanguageRun(ROOMY, varied(small_model("mixtral"), 3)).memory.residence
    plans = Chooser(policy).plans(residence, [prompt(0, 0, 9), prompt(1, 9, 1)], False)
    assert any(plan.cuts for plan in plans) == policy.micro_batches
    assert any(plan.listed for plan in plans) == policy.list_schedule
    assert (len(plans) == 1) == (policy == SEQUENTIAL)


def test_an_unknown_policy() -> None:
    with pytest.raises(LoweringError, match="policy: 'best'; use sequential, micro-batches, list, fused"):
        policy_of("best")


def test_a_step_is_never_longer_than_its_sequential_plan() -> None:
    model = varied(small_model("mixtral", hidden=16, heads=2, kv_heads=2, head_dim=8, vocabulary=20), 3)
    one = LanguageRun(PRESETS["tiny"], model, step_bytes=1 << 19, chooser=Chooser(FUSED))
    for chunks in STEPS:
        program = one.step(chunks)
        cycles = {tried.plan: tried.cycles for tried in program.tried}
        assert cycles[program.plan] == min(cycles.values()) <= cycles[Plan()]
