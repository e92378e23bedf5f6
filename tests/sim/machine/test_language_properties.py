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

from hdl.isa.legality import Limits
from scheduler.language.step import StepProgram, default_key_block, lower_step
from scheduler.memory.model import ModelMemory
from scheduler.models.checkpoint import MixtralConfig
from scheduler.ops.batch import Chunk
from scheduler.plan.shape import LoweringError, ModelShape
from scheduler.stream.sync import SyncError
from scheduler.stream.verify import verify_stream
from sim.golden.executor import Executor
from sim.golden.integer_model import IntegerModel
from sim.machine.session import MachineSession
from sim.machine.system import Job, SimulatedMachine
from sim.stimulus.random_model import random_model
from tests.sim.machine.test_language import CONFIGS, CONTEXT

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

    def model_config(self) -> MixtralConfig:
        """Return the model's dimensions."""
        config = CONFIGS[self.machine]
        return MixtralConfig(
            vocab_size=config.columns * self.vocabulary_tiles, hidden_size=16 * self.hidden_words,
            intermediate_size=config.rows * self.intermediate_words, num_hidden_layers=self.layers,
            num_attention_heads=self.kv_heads * self.group, num_key_value_heads=self.kv_heads,
            head_dim=max(8, config.rows * self.head_words), num_local_experts=self.experts,
            num_experts_per_tok=self.chosen, max_position_embeddings=CONTEXT, rms_norm_eps=1e-5, rope_theta=10_000.0,
        )  # fmt: skip

    def batches(self) -> list[list[Chunk]]:
        """Return the steps with random tokens."""
        rng = np.random.default_rng(self.seed)
        lengths = [0] * self.slots
        batches = []
        for step in self.steps:
            chunks = []
            for slot, count in step:
                tokens = rng.integers(0, self.model_config().vocab_size, count)
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


class Run:
    """Model, memory, reference and executor of a case.

    Raises
    ------
    LoweringError
        The machine has no room for the model.
    """

    def __init__(self, case: Case) -> None:
        self.config = CONFIGS[case.machine]
        self.routed = case.routed
        self.model = random_model(case.model_config(), case.seed)
        shape = ModelShape.of(self.config, self.model.config)
        self.block = case.key_units * shape.key_unit or default_key_block(shape, self.model)
        self.memory = ModelMemory(shape, self.model, slots=case.slots, step_bytes=1 << 16)
        self.integer = IntegerModel(self.model, key_block=self.block)
        self.caches = [self.integer.new_cache() for _ in range(case.slots)]
        self.alone = [self.integer.new_cache() for _ in range(case.slots)]
        self.executor = Executor(self.config, self.memory.images, strict=True)

    def step(self, chunks: list[Chunk]) -> StepProgram:
        """Lower a step, prove its stream, run it, and compare with each sequence run by itself.

        Raises
        ------
        LoweringError
            The machine has no room for the step.
        """
        batch = self.integer.step([(self.caches[chunk.slot], chunk.tokens) for chunk in chunks])
        routing = None if self.routed else batch.routing
        program = lower_step(self.model, self.memory, chunks, routing, key_block=self.block)
        limits = Limits((self.memory.images[0].size, self.memory.images[1].size), program.window)
        assert verify_stream(program.instructions, self.config, self.memory.images, limits) == []
        self.executor.memory[program.patch.group][self.patched(program)] = self.patch(program)
        self.executor.limits = limits
        self.executor.tags[:] = -1
        assert not self.executor.run(program.instructions).semaphores_left
        logits = program.read_logits(self.executor.memory)
        for row, chunk in zip(logits, chunks, strict=True):
            alone = self.integer.step([(self.alone[chunk.slot], chunk.tokens)])
            assert np.array_equal(row, alone.last_logits[0]), f"sequence {chunk.slot}"
        return program

    def patched(self, program: StepProgram) -> slice:
        """Return the bytes that the host writes before a step."""
        return slice(program.patch.address, program.patch.address + program.patch.size)

    def patch(self, program: StepProgram) -> np.ndarray:
        """Return what it writes there."""
        return self.memory.images[program.patch.group][self.patched(program)]


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
            run = Run(case)
            for chunks in case.batches():
                run.step(chunks)
        except (LoweringError, SyncError) as error:
            # No room, or too few semaphores: a clear refusal is right, a wrong result would not be.
            event(str(error).split(":")[0])
            assert "\n" not in str(error)
            outcomes.append(False)
        else:
            outcomes.append(True)

    check()
    assert sum(outcomes) > len(outcomes) // 3, "most cases were refused: they say nothing"


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
        run = Run(case)
        first = tuple(image.tobytes() for image in run.memory.images)
        for number, chunks in enumerate(case.batches()):
            program = run.step(chunks)
            result = session.run(
                Job(
                    images=(first[0], first[1]) if number == 0 else None,
                    patches=[(program.patch.group, program.patch.address, run.patch(program).tobytes())],
                    stream_base=program.stream_base, limits=run.executor.limits,
                )
            )  # fmt: skip
            assert result.done, f"step {number}: {result.error!r} at instruction {result.error_pc}"
            assert result.memory is not None
            for group, expected in enumerate(run.executor.memory):
                wrong = np.flatnonzero(expected != result.memory[group][: expected.size])
                assert not wrong.size, f"step {number}: group {group}, byte {wrong[0]:#x}"
    except (LoweringError, SyncError) as error:
        event(str(error).split(":")[0])
