# SPDX-License-Identifier: Apache-2.0
"""Whole language models as instruction streams: the executor, and the emitted machine, against the integer model."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from scheduler.memory.placement import Placement
from scheduler.ops.batch import Chunk
from scheduler.plan.limits import LoweringError
from sim.machine.session import MachineSession
from sim.machine.system import SimulatedMachine
from tests.support.checkpoints import small_model
from tests.support.language import CONFIGS, SLOTS, TINY, LanguageRun, Reference, try_reference, varied

MODES = pytest.mark.parametrize("slots", [False, True], ids=["host-known", "slots"])


@MODES
@pytest.mark.parametrize("name", list(CONFIGS))
def test_the_executor_equals_the_integer_model(name: str, slots: bool) -> None:
    fitting = sum(try_reference(CONFIGS[name], seed, slots=slots) is not None for seed in range(8))
    assert fitting == 8


@pytest.mark.slow
@MODES
@pytest.mark.parametrize("name", list(CONFIGS))
def test_many_models(name: str, slots: bool) -> None:
    fitting = sum(try_reference(CONFIGS[name], seed, slots=slots) is not None for seed in range(100, 180))
    assert fitting >= 78


@pytest.mark.parametrize("seed", range(4))
def test_routed_lists_equal_those_that_the_host_would_load(seed: int) -> None:
    """After a step the table and lists of the last layer are there: each expert's tokens, places and gates."""
    reference = Reference(TINY, seed + 20, slots=True)
    for chunks in reference.steps:
        program = reference.step(chunks)
        route, tiling = reference.routing[-1], reference.tiling
        machine, seen = reference.executor, {}
        for count, base, expert, _ in machine.slots.tolist():
            if count:
                seen[expert] = machine.lists[:, base : base + count]
        assert sorted(seen) == np.unique(route.experts).tolist()
        for expert, entries in seen.items():
            tokens, places = np.nonzero(route.experts == expert)
            for own in entries:
                assert own[:, 0].tolist() == (tokens * tiling.hidden_words).tolist()
                assert own[:, 1].tolist() == (tokens * tiling.hidden_rows).tolist()
                assert own[:, 2].tolist() == route.gates[tokens, places].tolist()
        assert not any(str(label).endswith("token list") for label in program.labels)


def test_the_same_stream_for_any_routing() -> None:
    """In slots mode the instructions depend on shapes only: another model of the same shape has the same stream."""
    first = Reference(TINY, 2, slots=True)
    constants = {"up_shift": 20, "post_mult": 9, "post_shift": 30, "down_shift": 18}
    programs = []
    for number in range(2):
        model = varied(first.model.description, 100 + number)
        layers = [
            replace(
                layer, experts=replace(own.experts, experts=tuple(replace(e, **constants) for e in own.experts.experts))
            )
            for layer, own in zip(first.model.layers, model.layers, strict=True)
        ]
        other = LanguageRun(TINY, replace(first.model, layers=tuple(layers)), slots=True)
        programs.append(other.lower([Chunk(0, 0, (1, 2, 3))], None))
    assert programs[0].instructions == programs[1].instructions


def test_models_that_slots_mode_refuses() -> None:
    reference = Reference(TINY, 2, slots=True)
    chunks, model = [Chunk(0, 0, (1,))], reference.model
    experts = model.layers[0].experts.experts
    other = replace(experts[0], down_shift=experts[0].down_shift + 1)
    layer = replace(model.layers[0], experts=replace(model.layers[0].experts, experts=(other, *experts[1:])))
    wrong = LanguageRun(TINY, replace(model, layers=(layer, *model.layers[1:])))
    with pytest.raises(LoweringError, match="layer 0: its experts differ in up_shift"):
        wrong.lower(chunks, None)
    elsewhere = LanguageRun(TINY, model, placement=Placement.ONE_GROUP)
    with pytest.raises(LoweringError, match="placement one_group; place experts even_odd"):
        elsewhere.lower(chunks, None)
    few = varied(
        small_model(
        "mixtral",
            hidden=16, intermediate=8, vocabulary=16, heads=1, kv_heads=1, head_dim=8, experts=4, chosen=1
        ), 1
    )  # fmt: skip
    with pytest.raises(LoweringError, match="4 experts; the machine has expert_slots of 2"):
        LanguageRun(TINY.replace(expert_slots=2), few).lower(chunks, None)


@cache
def machine(name: str) -> SimulatedMachine:
    return SimulatedMachine(CONFIGS[name], memory_bits=18)  # as the other system tests


def run_rtl(name: str, seeds: range, most: int, *, slots: bool = False) -> None:
    """Run every step of some models on the emitted machine: each byte of both memories after each step."""
    done = 0
    with MachineSession(machine(name)) as session:
        for seed in seeds:
            reference = try_reference(CONFIGS[name], seed, slots=slots) if done < most else None
            if reference is None:
                continue
            done += 1
            for number, chunks in enumerate(reference.steps):
                program = reference.step(chunks)
                result = session.run(reference.job(program))
                assert result.done, f"seed {seed}, step {number}: {result.error!r} at instruction {result.error_pc}"
                reference.check_memory(result.memory, f"seed {seed}, step {number}")
    assert done == most


@MODES
def test_the_machine_runs_language_models(slots: bool) -> None:
    run_rtl("tiny", range(80), 4, slots=slots)


@pytest.mark.slow
@MODES
def test_the_machine_runs_many_language_models(slots: bool) -> None:
    run_rtl("tiny", range(200, 300), 30, slots=slots)


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([Chunk(0, 60, (1, 2, 3, 4, 5))], "sequence 0: 65 tokens; the context is 64"),
        ([Chunk(9, 0, (1,))], f"sequence 9; the memory has sequences 0 to {SLOTS - 1}"),
        ([Chunk(0, 0, (999,))], "token 999; the vocabulary is 0 to"),
        ([Chunk(0, 0, ())], "no new tokens"),
        ([Chunk(0, 0, (1,)), Chunk(0, 1, (1,))], "two sequences have the same place"),
        ([], "no sequences"),
    ],
)
def test_batches_that_do_not_fit(chunks: list[Chunk], message: str) -> None:
    with pytest.raises(LoweringError, match=message):
        Reference(TINY, 3).lower(chunks, ())
