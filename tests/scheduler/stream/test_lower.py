# SPDX-License-Identifier: Apache-2.0
"""Steps of any complete model on any small machine: proved, and on the executor what the integer model computes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from hdl.config import MachineConfig
from hdl.numerics.precision import Thresholds
from scheduler.memory.placement import Placement
from scheduler.models.description import Experts, Model
from scheduler.ops.batch import Chunk, Routing
from scheduler.plan.limits import LoweringError
from scheduler.plan.policy import FUSED
from scheduler.plan.tiling import Tiling
from scheduler.stream import lower
from scheduler.stream.choose import Chooser, Plan
from scheduler.stream.step_program import StepProgram
from scheduler.stream.synchronise import SyncError
from scheduler.stream.table import COL, Builder
from tests.support.checkpoints import small_model
from tests.support.language import NANO, TINY, WIDE, LanguageRun, varied
from tests.support.plans import ROOMY, Forced

CONTEXT = 64
FAMILIES = ("mixtral", "qwen3_moe", "olmoe")


def prompt(slot: int, position: int, count: int, vocabulary: int = 20) -> Chunk:
    """Return new tokens of a sequence."""
    return Chunk(slot, position, tuple((7 * slot + 3 * n + position) % vocabulary for n in range(count)))


STEPS = ([prompt(0, 0, 17), prompt(2, 0, 3)], [prompt(0, 17, 1), prompt(1, 0, 9), prompt(2, 3, 1)], [prompt(0, 18, 1)])


def run(config: MachineConfig, model: Model, *, slots: bool, steps: object = STEPS, **options: object) -> LanguageRun:
    """Run steps, each compared with the integer model."""
    one = LanguageRun(config, varied(model, 3), slots=slots, step_bytes=1 << 19, **options)  # type: ignore[arg-type]
    for chunks in steps:  # type: ignore[attr-defined]
        one.programs.append(one.step(chunks, alone=True))
    return one


def with_shared(model: Model, width: int) -> Model:
    """Return a model whose layers with experts have shared ones too."""
    layers = tuple(
        replace(layer, mlp=replace(layer.mlp, shared=width)) if isinstance(layer.mlp, Experts) else layer
        for layer in model.layers
    )
    return replace(model, layers=layers)


MODES = pytest.mark.parametrize("slots", [False, True], ids=["host-known", "slots"])


@MODES
@pytest.mark.parametrize("family", FAMILIES)
def test_padded_widths(family: str, slots: bool) -> None:
    """No width is a multiple of what the machine works in."""
    model = small_model(family, hidden=21, heads=4, kv_heads=2, head_dim=6, intermediate=13, vocabulary=21, dense=(1,))
    for config in (TINY, WIDE):
        run(config, with_shared(model, 11), slots=slots)


@MODES
@pytest.mark.parametrize("family", FAMILIES)
def test_streamed_weights(family: str, slots: bool) -> None:
    model = with_shared(small_model(family, hidden=24, heads=4, kv_heads=2, head_dim=8, vocabulary=40), 9)
    for config in (TINY.replace(vcache_tiles=64), TINY.replace(vcache_tiles=64, vertical_links=False), NANO):
        one = run(config, model, slots=slots)
        residence = one.memory.residence
        assert not residence.resident
        assert bool(residence.gangs) == (config.vertical_links and config.tiers > 1)
        assert any(len(units) > 1 for units in residence.pieces.values()) or config is not NANO


def test_keys_begin_at_whole_addresses() -> None:
    """A tile of 4x4 is half an address: what is loaded of a sequence in two blocks begins at a whole one."""
    model = small_model(
        "mixtral", hidden=14, heads=6, kv_heads=2, head_dim=4, layers=1, vocabulary=52, experts=4, chosen=1
    )
    config = NANO.replace(list_depth=32, activation_words=512, vcache_tiles=256)
    one = run(config, model, slots=True, steps=[[prompt(0, 0, 10), prompt(2, 0, 7)]])
    assert one.programs[0].places.block < 10


@MODES
def test_a_step_in_parts(slots: bool) -> None:
    """The buffers hold fewer tokens than a step has."""
    model = small_model("qwen3_moe", hidden=24, heads=4, kv_heads=2, head_dim=8, vocabulary=24)
    steps = ([prompt(0, 0, 40), prompt(1, 0, 5)], [prompt(0, 40, 1), prompt(1, 5, 3), prompt(2, 0, 20)])
    for config in (TINY.replace(combine_rows=256), TINY.replace(activation_words=128), TINY.replace(vcache_tiles=64)):
        one = run(config, model, slots=slots, steps=steps)
        parts = [len(program.parts) for program in one.programs]
        assert config.vcache_tiles == 64 or max(parts) > 1
        for program in one.programs:
            outputs = [part.chunks[n].sequence for part in program.parts for n in part.outputs]
            assert outputs == [chunk.sequence for chunk in program.chunks]
            assert sum(part.tokens for part in program.parts) == sum(len(chunk.tokens) for chunk in program.chunks)


@MODES
def test_keys_that_do_not_fit_come_in_pieces(slots: bool) -> None:
    model = small_model("mixtral", hidden=16, heads=4, kv_heads=2, head_dim=16, vocabulary=24, intermediate=8)
    steps = ([prompt(0, 0, 60)], [prompt(0, 60, 1), prompt(1, 0, 30)], [prompt(0, 61, 1), prompt(1, 30, 1)])
    config = TINY.replace(vcache_tiles=64)
    one = run(config, model, slots=slots, steps=steps, key_block=16)
    assert any(part.places.key_piece < part.places.size.keys for p in one.programs for part in p.parts)


@MODES
def test_lists_that_are_too_short_cut_the_step(slots: bool) -> None:
    model = small_model("mixtral", hidden=16, heads=2, kv_heads=1, head_dim=8, vocabulary=24, experts=4, chosen=3)
    steps = ([prompt(0, 0, 40)], [prompt(0, 40, 1), prompt(1, 0, 11)])
    one = run(TINY.replace(list_depth=32), model, slots=slots, steps=steps)
    assert max(len(program.parts) for program in one.programs) > 1


def test_all_tokens_on_one_expert() -> None:
    """The host may route as it likes: the lists of one tier take all."""
    model = small_model("mixtral", hidden=16, heads=2, kv_heads=1, head_dim=8, vocabulary=24, experts=4, chosen=2)
    one = LanguageRun(TINY.replace(list_depth=32), varied(model, 1), step_bytes=1 << 19)
    chosen = np.tile([[2, 1]], (40, 1))
    route = Routing(chosen, np.full(chosen.shape, 1 << 14, dtype=np.uint16))
    program = one.lower([prompt(0, 0, 40)], (route, route))
    assert len(program.parts) > 1


@MODES
@pytest.mark.parametrize("placement", list(Placement))
def test_placements(placement: Placement, slots: bool) -> None:
    model = small_model("mixtral", hidden=16, heads=2, kv_heads=1, head_dim=8, vocabulary=24)
    if slots and placement != Placement.EVEN_ODD:
        with pytest.raises(LoweringError, match=f"placement {placement}; place experts even_odd"):
            run(TINY, model, slots=slots, placement=placement)
    else:
        run(TINY, model, slots=slots, placement=placement)
        run(TINY.replace(vcache_tiles=64), model, slots=slots, placement=placement)


@pytest.mark.parametrize("placement", list(Placement))
def test_slots_by_number_find_planes_wherever_they_lie(placement: Placement) -> None:
    """Whether scores decide about their planes or not, whether the high ones come before the ROUTE or not."""
    model = small_model("mixtral", hidden=16, heads=2, kv_heads=1, head_dim=8, vocabulary=24)
    steps = ([prompt(0, 0, 5)], [prompt(0, 5, 1), prompt(1, 0, 1)])
    for precision in (None, [Thresholds(20000, 9000)] * len(model.layers)):
        for early in (False, True) if precision else (False,):
            plans = Forced([Plan((5,), early_planes=early), Plan((2,), listed=True, early_planes=early)])
            one = LanguageRun(
                ROOMY, varied(model, 3), slots=True, placement=placement, precision=precision, chooser=plans,
                step_bytes=1 << 19,
            )  # fmt: skip
            if precision and placement == Placement.ONE_GROUP:
                with pytest.raises(LoweringError, match="placement one_group; .*where scores decide, use even_odd, i"):
                    one.step(steps[0])
                continue
            for chunks in steps:
                one.step(chunks)


def test_a_model_of_dense_layers_alone() -> None:
    model = small_model("qwen3_moe", hidden=16, heads=2, kv_heads=1, head_dim=8, vocabulary=24, dense=(0, 1))
    for slots in (False, True):
        run(TINY, model, slots=slots)
        run(TINY.replace(vcache_tiles=64), model, slots=slots)


@dataclass(frozen=True)
class Case:
    """What is drawn; see `cases`."""

    config: MachineConfig
    model: Model
    seed: int
    slots: bool
    key_units: int
    steps: tuple[tuple[tuple[int, int], ...], ...]


@st.composite
def machines(draw: st.DrawFn) -> MachineConfig:
    """Draw a small machine; simpler ones have more room."""
    base = draw(st.sampled_from((TINY, WIDE, NANO)))
    tiers = draw(st.sampled_from((base.tiers, 3, 4)))
    config = base.replace(
        name="drawn",
        tiers=tiers,
        row_fifo_depth=96,
        result_lanes=1,
        semaphores=64,
        vertical_links=draw(st.sampled_from((True, True, False))),
    )
    scarce = {
        "vcache_tiles": (256, 128, 64, 32), "parameter_words": (256, 128, 64), "combine_rows": (1024, 512, 256),
        "activation_words": (512, 256, 128), "list_depth": (128, 64, 32), "scalar_depth": (256, 128),
        "accumulator_depth": (64, 32), "queue_depth": (4, 2, 8),
    }  # fmt: skip
    return config.replace(**{name: draw(st.sampled_from(sizes)) for name, sizes in scarce.items()})


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw a case; simpler ones are smaller."""
    kv_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    layers = draw(st.integers(1, 2))
    experts = draw(st.integers(1, 6))
    model = small_model(
        draw(st.sampled_from(FAMILIES)), hidden=draw(st.integers(8, 40)), heads=kv_heads * group, kv_heads=kv_heads,
        head_dim=2 * draw(st.integers(2, 8)), normalised=draw(st.booleans()), layers=layers, experts=experts,
        chosen=draw(st.integers(1, min(3, experts))), intermediate=draw(st.integers(1, 40)),
        vocabulary=draw(st.integers(4, 60)), context=CONTEXT,
        dense=tuple(n for n in range(layers) if draw(st.sampled_from((False, False, True)))),
    )  # fmt: skip
    shared = draw(st.sampled_from((0, 0, 5, 24)))
    lengths, steps = [0] * 3, []
    for number in range(draw(st.integers(1, 3))):
        step = []
        for slot in draw(st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True)):
            usual = st.integers(1, 12) if number == 0 else st.just(1)
            count = min(draw(st.one_of(usual, st.integers(1, 40))), CONTEXT - lengths[slot])
            if count:
                step.append((slot, count))
                lengths[slot] += count
        if step:
            steps.append(tuple(step))
    return Case(
        draw(machines()), with_shared(model, shared) if shared else model, draw(st.integers(0, 1 << 16)),
        draw(st.booleans()), draw(st.integers(0, 2)), tuple(steps),
    )  # fmt: skip


def check_case(case: Case) -> str:
    """Run a case; return how it went."""
    config, model = case.config, varied(case.model, case.seed)
    try:
        unit = Tiling(config, case.model).key_alignment
        one = LanguageRun(
            config, model, slots=case.slots, sequences=3, key_block=case.key_units * unit or None, step_bytes=1 << 20
        )
        rng, lengths, seen = np.random.default_rng(case.seed), [0] * 3, []
        for step in case.steps:
            chunks = []
            for slot, count in step:
                tokens = tuple(rng.integers(0, case.model.vocabulary, count).tolist())
                chunks.append(Chunk(slot, lengths[slot], tokens))
                lengths[slot] += count
            seen.append(one.step(chunks, alone=True))
    except (LoweringError, SyncError) as error:
        # A clear refusal is right, a wrong result would not be.
        assert "\n" not in str(error) and not str(error).startswith("instruction"), str(error)
        return f"refused: {str(error).split(':')[0]}"
    return _what(one, seen)


def _what(one: LanguageRun, programs: list[StepProgram]) -> str:
    resident = "resident" if one.memory.residence.resident else "streamed"
    return f"{resident}, {'parts' if any(len(p.parts) > 1 for p in programs) else 'one part'}"


def check_cases(examples: int) -> Counter[str]:
    """Run drawn cases; return how many went how."""
    outcomes = Counter[str]()

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(cases())
    def check(case: Case) -> None:
        outcome = check_case(case)
        event(outcome)
        outcomes[outcome] += 1

    check()
    return outcomes


@pytest.mark.timeout(900)  # to shrink a failing example
def test_any_model_on_any_machine() -> None:
    outcomes = check_cases(30)
    refused = sum(count for name, count in outcomes.items() if name.startswith("refused"))
    assert refused < sum(outcomes.values()) / 2, outcomes
    assert sum(count for name, count in outcomes.items() if name.startswith("streamed")) > 3, outcomes


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_any_model_on_any_machine_many_times() -> None:
    outcomes = check_cases(1000)
    assert len([name for name in outcomes if not name.startswith("refused")]) == 4, outcomes


def test_slots_run_on_single_tiers_where_semaphores_do_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gangs of slots take more of them; the bits are the same."""
    real, refused = lower.synchronise, list[int]()

    def few(stream: Builder, *args: object, **options: object) -> object:
        gangs = (stream.rows[:, COL.slot_en] == 1) & (stream.rows[:, COL.tier_count] > 1)
        if gangs[: stream.count].any():
            refused.append(stream.count)
            raise SyncError("semaphores: too few")
        return real(stream, *args, **options)  # type: ignore[arg-type]

    shape = small_model(
        "mixtral", hidden=32, heads=4, kv_heads=2, head_dim=8, intermediate=24, vocabulary=24, experts=8, chosen=2
    )
    config = ROOMY.replace(vcache_tiles=64)
    for chooser in (Chooser(), Chooser(FUSED)):
        one = LanguageRun(config, varied(shape, 3), slots=True, step_bytes=1 << 20, chooser=chooser)
        assert one.memory.residence.gangs and not one.step(STEPS[0], alone=True).places.size.alone
        monkeypatch.setattr(lower, "synchronise", few)
        assert all(one.step(chunks, alone=True).places.size.alone for chunks in STEPS[1:]) and refused
        monkeypatch.setattr(lower, "synchronise", real)
