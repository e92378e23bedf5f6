# SPDX-License-Identifier: Apache-2.0
"""Whole language models as instruction streams: the executor, and the emitted machine, against the integer model."""

from __future__ import annotations

import random
from functools import cache

import numpy as np
import pytest

from hdl.config import PRESETS, MachineConfig
from hdl.legality import Limits
from scheduler.checkpoint import MixtralConfig
from scheduler.language.batch import Chunk
from scheduler.language.memory import ModelMemory
from scheduler.language.shape import LoweringError, ModelShape
from scheduler.language.step import StepProgram, default_key_block, lower_step
from scheduler.verify import verify_stream
from sim.golden.executor import Executor
from sim.golden.integer_model import IntegerModel
from sim.random_model import random_model
from sim.session import MachineSession
from sim.system import Job, SimulatedMachine

TINY = PRESETS["tiny"]
NANO = PRESETS["nano"].replace(
    name="nano_lm", vcache_tiles=256, activation_words=512, combine_rows=1024, scalar_depth=256, parameter_words=128,
    list_depth=128, accumulator_depth=64,
)  # fmt: skip
WIDE = PRESETS["tiny"].replace(name="wide_lm", columns=4, row_fifo_depth=64, combine_rows=1024, result_lanes=2)
CONFIGS = {"tiny": TINY, "nano": NANO, "wide": WIDE}
CONTEXT = 64
SLOTS = 4


def model_config(config: MachineConfig, rng: random.Random) -> MixtralConfig:
    """Return a random shape that the machine can map."""
    kv_heads, group = rng.choice((1, 2, 3)), rng.choice((1, 2))
    head = config.rows * rng.choice((1, 2))
    return MixtralConfig(
        vocab_size=config.columns * rng.choice((2, 3, 4)), hidden_size=16 * rng.choice((1, 2)),
        intermediate_size=config.rows * rng.choice((1, 2)), num_hidden_layers=rng.choice((1, 2)),
        num_attention_heads=kv_heads * group, num_key_value_heads=kv_heads, head_dim=max(8, head),
        num_local_experts=rng.choice((2, 4, 5)), num_experts_per_tok=rng.choice((1, 2)),
        max_position_embeddings=CONTEXT, rms_norm_eps=1e-5, rope_theta=10_000.0,
    )  # fmt: skip


def random_steps(rng: random.Random, vocabulary: int, count: int) -> list[list[Chunk]]:
    """Return steps of a batch: prompts of different lengths, then single tokens and further prompts mixed."""
    lengths, steps = [0] * SLOTS, []
    for step in range(count):
        chunks = []
        for slot in range(SLOTS):
            new = min(rng.choice((0, 1, 1, 2, 9) if step else (0, 1, 5, 8, 9)), CONTEXT - lengths[slot])
            if new:
                tokens = tuple(rng.randrange(vocabulary) for _ in range(new))
                chunks.append(Chunk(slot, lengths[slot], tokens))
                lengths[slot] += new
        if chunks:
            steps.append(chunks)
    return steps


class Reference:
    """Integer model, executor and the programs that a batch needs."""

    def __init__(self, config: MachineConfig, seed: int) -> None:
        rng = random.Random(seed)
        self.config = config
        self.model = random_model(model_config(config, rng), seed)
        shape = ModelShape.of(config, self.model.config)
        self.block = rng.choice((shape.key_unit, 2 * shape.key_unit, default_key_block(shape, self.model)))
        self.memory = ModelMemory(shape, self.model, slots=SLOTS, step_bytes=1 << 16)
        self.integer = IntegerModel(self.model, key_block=self.block)
        self.caches = [self.integer.new_cache() for _ in range(SLOTS)]
        self.executor = Executor(config, self.memory.images, strict=True)
        self.steps = random_steps(rng, self.model.config.vocab_size, 3)

    def step(self, chunks: list[Chunk]) -> StepProgram:
        """Compute a step with the integer model, prove its stream and run it on the executor."""
        result = self.integer.step([(self.caches[c.slot], c.tokens) for c in chunks])
        program = lower_step(self.model, self.memory, chunks, result.routing, key_block=self.block)
        sizes = (self.memory.images[0].size, self.memory.images[1].size)
        limits = Limits(sizes, program.window)
        assert verify_stream(program.instructions, self.config, self.memory.images, limits) == []
        patch = program.patch
        span = slice(patch.address, patch.address + patch.size)
        self.executor.memory[patch.group][span] = self.memory.images[patch.group][span]
        self.executor.limits = limits
        self.executor.tags[:] = -1
        report = self.executor.run(program.instructions)
        assert not report.semaphores_left
        assert np.array_equal(program.read_logits(self.executor.memory), result.last_logits)
        return program


def try_reference(config: MachineConfig, seed: int) -> Reference | None:
    """Return a reference whose steps all fit, or None."""
    reference = Reference(config, seed)
    try:
        for chunks in reference.steps:
            reference.step(chunks)
    except LoweringError:
        return None
    return Reference(config, seed)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_the_executor_equals_the_integer_model(name: str) -> None:
    fitting = sum(try_reference(CONFIGS[name], seed) is not None for seed in range(8))
    assert fitting >= 4


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CONFIGS))
def test_many_models(name: str) -> None:
    fitting = sum(try_reference(CONFIGS[name], seed) is not None for seed in range(100, 180))
    assert fitting >= 40


@cache
def machine(name: str) -> SimulatedMachine:
    return SimulatedMachine(CONFIGS[name], memory_bits=18)  # as the other system tests


def run_rtl(name: str, seeds: range, most: int) -> None:
    """Run every step of some models on the emitted machine: each byte of both memories after each step."""
    done = 0
    with MachineSession(machine(name)) as session:
        for seed in seeds:
            reference = try_reference(CONFIGS[name], seed)
            if reference is None or done == most:
                continue
            done += 1
            images: tuple[bytes, bytes] | None = None
            for number, chunks in enumerate(reference.steps):
                program = reference.step(chunks)
                memory, patch = reference.memory, program.patch
                if number == 0:
                    images = (memory.images[0].tobytes(), memory.images[1].tobytes())
                data = memory.images[patch.group][patch.address : patch.address + patch.size].tobytes()
                result = session.run(
                    Job(
                        images=images if number == 0 else None, patches=[(patch.group, patch.address, data)],
                        stream_base=program.stream_base, limits=reference.executor.limits,
                    )
                )  # fmt: skip
                assert result.done, f"seed {seed}, step {number}: {result.error!r} at instruction {result.error_pc}"
                assert result.memory is not None
                for group, expected in enumerate(reference.executor.memory):
                    wrong = np.flatnonzero(expected != result.memory[group][: expected.size])
                    assert not wrong.size, f"seed {seed}, step {number}: group {group}, byte {wrong[0]:#x}"
    assert done == most


def test_the_machine_runs_language_models() -> None:
    run_rtl("tiny", range(80), 4)


@pytest.mark.slow
def test_the_machine_runs_many_language_models() -> None:
    run_rtl("tiny", range(200, 300), 30)


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([Chunk(0, 60, (1, 2, 3, 4, 5))], "sequence 0: 65 tokens; the context is 64"),
        ([Chunk(9, 0, (1,))], "slot 9; the memory has slots 0 to 3"),
        ([Chunk(0, 0, (999,))], "token 999; the vocabulary is 0 to"),
        ([Chunk(0, 0, ())], "no new tokens"),
        ([Chunk(0, 0, (1,)), Chunk(0, 1, (1,))], "two sequences have the same slot"),
        ([], "no sequences"),
    ],
)
def test_batches_that_do_not_fit(chunks: list[Chunk], message: str) -> None:
    reference = Reference(TINY, 3)
    with pytest.raises(LoweringError, match=message):
        lower_step(reference.model, reference.memory, chunks, [])
