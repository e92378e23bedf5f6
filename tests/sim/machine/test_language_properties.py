# SPDX-License-Identifier: Apache-2.0
"""Whole language models of any shape, batch and history: lowering, verifier, executor and RTL.

Examples shrink when they fail, are the same in every run (``tests/conftest.py``), and bound the time by their number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from scheduler.models.description import Model
from scheduler.ops.batch import Chunk
from scheduler.plan.limits import LoweringError
from scheduler.plan.tiling import Tiling
from scheduler.stream.synchronise import SyncError
from sim.machine.session import MachineSession
from sim.machine.system import SimulatedMachine
from tests.support.checkpoints import small_model
from tests.support.language import CONFIGS, CONTEXT, LanguageRun, varied

MOST_SLOTS = 4


@dataclass(frozen=True)
class Case:
    """A model on a machine, and what is run: `steps` holds (slot, new tokens) in the order of each batch.

    `routed`: the machine finds the routing, the streams do not know it.
    """

    machine: str
    seed: int
    kv_heads: int
    group: int
    head_words: int
    hidden_words: int
    intermediate_words: int
    vocabulary_tiles: int
    layers: int
    experts: int
    chosen: int
    key_units: int
    slots: int
    routed: bool
    steps: tuple[tuple[tuple[int, int], ...], ...]

    def shape(self) -> Model:
        """Return what the model is made of."""
        config = CONFIGS[self.machine]
        return small_model(
        "mixtral",
            vocabulary=config.columns * self.vocabulary_tiles, hidden=16 * self.hidden_words,
            intermediate=config.rows * self.intermediate_words, layers=self.layers, heads=self.kv_heads * self.group,
            kv_heads=self.kv_heads, head_dim=max(8, config.rows * self.head_words), experts=self.experts,
            chosen=self.chosen,
        )  # fmt: skip

    def run(self) -> LanguageRun:
        """Return the model on its machine.

        Raises
        ------
        LoweringError
            The machine cannot run it.
        """
        config, shape = CONFIGS[self.machine], self.shape()
        block = self.key_units * Tiling(config, shape).key_alignment or None
        return LanguageRun(config, varied(shape, self.seed), slots=self.routed, sequences=self.slots, key_block=block)

    def batches(self) -> list[list[Chunk]]:
        """Return the steps with random tokens."""
        rng = np.random.default_rng(self.seed)
        lengths = [0] * self.slots
        batches = []
        for step in self.steps:
            chunks = []
            for slot, count in step:
                tokens = rng.integers(0, self.shape().vocabulary, count)
                chunks.append(Chunk(slot, lengths[slot], tuple(int(token) for token in tokens)))
                lengths[slot] += count
            batches.append(chunks)
        return batches


@st.composite
def cases(draw: st.DrawFn, machines: tuple[str, ...] = tuple(CONFIGS)) -> Case:
    """Draw a case; simpler ones are smaller."""
    slots = draw(st.integers(1, MOST_SLOTS))
    lengths = [0] * slots
    steps = []
    for number in range(draw(st.integers(1, 4))):
        step = []
        for slot in draw(st.lists(st.integers(0, slots - 1), min_size=1, max_size=slots, unique=True)):
            # Mostly a prompt first and single tokens then, but anything may follow anything.
            usual = st.integers(1, 9) if number == 0 else st.just(1)
            count = min(draw(st.one_of(usual, st.integers(1, 20))), CONTEXT - lengths[slot])
            if count:
                step.append((slot, count))
                lengths[slot] += count
        if step:
            steps.append(tuple(step))
    experts = draw(st.integers(2, 6))
    return Case(
        machine=draw(st.sampled_from(machines)), seed=draw(st.integers(0, 2**20)), kv_heads=draw(st.integers(1, 3)),
        group=draw(st.integers(1, 3)), head_words=draw(st.integers(1, 2)), hidden_words=draw(st.integers(1, 3)),
        intermediate_words=draw(st.integers(1, 3)), vocabulary_tiles=draw(st.integers(1, 4)),
        layers=draw(st.integers(1, 2)), experts=experts, chosen=draw(st.integers(1, min(3, experts))),
        key_units=draw(st.integers(0, 3)), slots=slots, routed=draw(st.booleans()), steps=tuple(steps),
    )  # fmt: skip


@pytest.mark.timeout(900)  # to shrink a failing example
def test_the_executor_equals_the_integer_model() -> None:
    _check(40)


@pytest.mark.slow
def test_the_executor_equals_the_integer_model_many_times() -> None:
    _check(800)


def _check(examples: int) -> None:
    outcomes: list[bool] = []

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(cases())
    def check(case: Case) -> None:
        try:
            run = case.run()
            for chunks in case.batches():
                run.step(chunks, alone=True)
        except (LoweringError, SyncError) as error:
            # Too few semaphores, or no room: a clear refusal is right, a wrong result would not be.
            event(str(error).split(":")[0])
            assert "\n" not in str(error)
            outcomes.append(False)
        else:
            outcomes.append(True)

    check()
    assert sum(outcomes) > len(outcomes) * 3 // 4, "many cases were refused: they say nothing"


@pytest.fixture(scope="module")
def session() -> Iterator[MachineSession]:
    """One simulated machine for all examples: what a case leaves behind is part of the next one's test."""
    with MachineSession(SimulatedMachine(CONFIGS["tiny"], memory_bits=18)) as running:
        yield running


@pytest.mark.slow
@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(case=cases(("tiny",)))
def test_the_machine_equals_the_executor(session: MachineSession, case: Case) -> None:
    """Every byte of both memories after each step."""
    try:
        run = case.run()
        for number, chunks in enumerate(case.batches()):
            program = run.step(chunks)
            result = session.run(run.job(program))
            assert result.done, f"step {number}: {result.error!r} at instruction {result.error_pc}"
            run.check_memory(result.memory, f"step {number}")
    except (LoweringError, SyncError) as error:
        event(str(error).split(":")[0])
