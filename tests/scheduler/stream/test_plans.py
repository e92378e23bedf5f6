# SPDX-License-Identifier: Apache-2.0
"""Every plan of a step computes the same: micro-batches, list schedules, for any complete model; the shortest is taken.

Each stream is proved, and run on the executor, whose logits are the integer model's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hdl.config import PRESETS
from hdl.isa import Opcode
from scheduler.models.description import Experts, Model
from scheduler.ops.batch import Chunk, Prefix
from scheduler.plan.limits import LoweringError
from scheduler.plan.policy import FUSED, POLICIES, SEQUENTIAL, policy_of
from scheduler.stream.choose import Chooser, Plan, Tried
from scheduler.stream.lower import StepProgram
from tests.support.checkpoints import small_model
from tests.support.language import LanguageRun, varied
from tests.support.plans import ROOMY, Forced
from tests.support.steps import STEPS, prompt

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
    slots = data.draw(st.booleans())
    most, plans = 3 if slots else 8, []  # routing tables
    for chunks in STEPS:
        left, cuts = sum(len(chunk.tokens) for chunk in chunks), list[int]()
        while left:
            cuts.append(data.draw(st.integers(1, left)) if len(cuts) < most - 1 else left)
            left -= cuts[-1]
        plans.append(Plan(tuple(cuts), data.draw(st.booleans()), data.draw(st.booleans())))
    run(model, plans, slots=slots)


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


DECODE = [[prompt(slot, 9 + number, 1) for slot in range(3)] for number in range(5)]
LOADED = {"qkv weights", "output weights", "router weights", "head weights"}


def loads_of(program: StepProgram) -> Counter[str]:
    """Return how often weights are loaded, dense ones and experts."""
    names = [label.operation for label, word in zip(program.labels, program.instructions, strict=True)
             if word.opcode == Opcode.LOAD]  # fmt: skip
    dense = sum(name in LOADED for name in names)
    return Counter(dense=dense, experts=sum(name.startswith("expert") and "list" not in name for name in names))


@pytest.mark.parametrize("slots", [False, True], ids=["host-known", "slots"])
@pytest.mark.parametrize("listed", [False, True], ids=["in order", "list schedule"])
def test_weights_stay_from_step_to_step(slots: bool, listed: bool) -> None:
    """Dense weights are loaded once, the experts that stay when they are first needed; another step ends it."""
    model = small_model("mixtral", hidden=16, heads=2, kv_heads=2, head_dim=8, intermediate=16, vocabulary=20)
    pinned, other = Plan((3,), listed, listed, pinned=True), Plan((3,), listed, listed)
    plans = [Plan(), pinned, pinned, pinned, other, pinned]
    one = LanguageRun(ROOMY, varied(model, 3), slots=slots, step_bytes=1 << 19, chooser=Forced(plans))
    programs = [one.step(chunks, alone=True) for chunks in ([prompt(slot, 0, 9) for slot in range(3)], *DECODE)]
    stays = one.chooser.pinned(one.memory, one.constants)
    assert stays is not None and stays.places and len(model.layers) == 2
    kept = [program.kept_tiles for program in programs]
    assert kept == [0, 0, stays.tiles, stays.tiles, 0, 0]
    loads = [loads_of(program) for program in programs]
    assert loads[1]["dense"] == loads[4]["dense"] == loads[5]["dense"] > 0 == loads[2]["dense"] == loads[3]["dense"]
    experts = [own["experts"] for own in loads]
    assert experts[2] < experts[1] and experts[3] < experts[1] <= experts[5]
    one.chooser.forget()  # as after an error, which invalidates V-Cache
    one.chooser._plans.append(pinned)  # type: ignore[attr-defined]
    program = one.step([prompt(slot, 14, 1) for slot in range(3)])
    assert program.kept_tiles == 0 and loads_of(program)["dense"] == loads[1]["dense"]


def test_another_model_finds_nothing_that_stays() -> None:
    """A chooser that goes on with another memory must not believe that its weights are on the chip."""
    model = small_model("mixtral", hidden=16, heads=2, kv_heads=2, head_dim=8, intermediate=16, vocabulary=20)
    plans = [Plan(), *[Plan((3,), pinned=True)] * 2]
    chooser = Forced([*plans, *plans])
    for seed in (3, 4):
        one = LanguageRun(ROOMY, varied(model, seed), step_bytes=1 << 19, chooser=chooser)
        steps = [one.step(chunks) for chunks in ([prompt(slot, 0, 9) for slot in range(3)], *DECODE[:2])]
        assert [bool(program.kept_tiles) for program in steps] == [False, False, True]
    assert chooser.on_chip
    third = LanguageRun(ROOMY, varied(model, 5), step_bytes=1 << 19, chooser=chooser)
    assert chooser.pinned(third.memory, third.constants) is not None and not chooser.on_chip


def test_what_stays_is_taken_where_it_pays() -> None:
    """By the cycle model, as if it were there; steps with prompts have use for all of V-Cache."""
    model = small_model("mixtral", hidden=16, heads=2, kv_heads=2, head_dim=8, intermediate=16, vocabulary=20)
    one = LanguageRun(ROOMY, varied(model, 3), step_bytes=1 << 19, chooser=Chooser(FUSED))
    programs = [one.step(chunks) for chunks in ([prompt(slot, 0, 9) for slot in range(3)], *DECODE[:4])]
    assert not any(tried.plan.pinned for program in programs[:2] for tried in program.tried)
    programs = programs[1:]
    for program in programs[1:]:
        cycles = {tried.plan: tried.cycles for tried in program.tried}
        assert program.plan.pinned and cycles[program.plan] < min(c for p, c in cycles.items() if not p.pinned)
    assert not programs[1].kept_tiles and programs[2].kept_tiles and programs[3].kept_tiles
    without = Chooser(replace(FUSED, residency=False))
    assert without.pinned(one.memory, one.constants) is None


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


def test_more_routing_tables_than_slots_are_no_plan() -> None:
    """The ROUTE of one micro-batch would overwrite what experts of another have still to read."""
    model = varied(small_model("mixtral", hidden=16, heads=2, kv_heads=2, head_dim=8, vocabulary=20), 3)
    cuts = Plan((5, 5, 5, 5), True)
    LanguageRun(ROOMY, model, step_bytes=1 << 19, chooser=Forced([cuts])).step(STEPS[0])
    with pytest.raises(LoweringError, match="micro-batches: 4 routing tables of 5 slots; expert_slots is 16"):
        LanguageRun(ROOMY, model, slots=True, step_bytes=1 << 19, chooser=Forced([cuts])).step(STEPS[0])


@pytest.mark.parametrize("name", list(POLICIES))
def test_a_policy_switches_parts_off(name: str) -> None:
    policy = policy_of(name)
    one = LanguageRun(ROOMY, varied(small_model("mixtral"), 3), chooser=Chooser(policy))
    pinned = one.chooser.pinned(one.memory, one.constants)
    decode = [prompt(0, 9, 1), prompt(1, 9, 1)]
    assert not any(plan.pinned for plan in one.chooser.plans(one.memory.residence, decode, False, pinned))
    one.chooser.ran(decode, frozenset())  # from the second in a row on
    mixed, decoded = (one.chooser.plans(one.memory.residence, c, False, pinned) for c in (STEPS[0], decode))
    assert any(plan.cuts for plan in mixed) == policy.micro_batches
    assert any(plan.listed for plan in mixed) == policy.list_schedule
    assert any(plan.pinned for plan in decoded) == policy.residency and not any(plan.pinned for plan in mixed)
    alike = [replace(chunk, prefix=Prefix(0, 8)) for chunk in decode]
    together = one.chooser.plans(one.memory.residence, alike, False, pinned)
    assert any(plan.prefixes for plan in together) == policy.prefixes and together[0] == Plan()
    assert (len(together) == 1) == (policy == SEQUENTIAL)


def test_an_unknown_policy() -> None:
    with pytest.raises(
        LoweringError, match="policy: 'best'; use sequential, micro-batches, list, residency, prefixes, fused"
    ):
        policy_of("best")
    assert (
        policy_of("list+residency").name == "list+residency"
        and policy_of("micro-batches+list+residency+prefixes") == FUSED
    )


def test_a_step_is_never_longer_than_its_sequential_plan() -> None:
    model = varied(small_model("mixtral", hidden=16, heads=2, kv_heads=2, head_dim=8, vocabulary=20), 3)
    one = LanguageRun(PRESETS["tiny"], model, step_bytes=1 << 19, chooser=Chooser(FUSED))
    for chunks in STEPS:
        program = one.step(chunks)
        cycles = {tried.plan: tried.cycles for tried in program.tried}
        assert cycles[program.plan] == min(cycles.values()) <= cycles[Plan()]
