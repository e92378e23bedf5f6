# SPDX-License-Identifier: Apache-2.0
"""Whole language models as instruction streams: the executor, and the emitted machine, against the integer model."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from hdl.config import PRESETS, MachineConfig
from hdl.isa.legality import Limits
from scheduler.language.step import StepProgram, default_key_block, lower_step
from scheduler.memory.model import ModelMemory
from scheduler.memory.placement import Placement
from scheduler.models.checkpoint import MixtralConfig
from scheduler.ops.batch import Chunk
from scheduler.plan.shape import LoweringError, ModelShape
from scheduler.stream.verify import verify_stream
from sim.golden.executor import Executor
from sim.golden.integer_model import IntegerModel
from sim.machine.session import MachineSession
from sim.machine.system import Job, SimulatedMachine
from sim.stimulus.random_model import random_model

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
    """Integer model, executor and the programs that a batch needs; `slots`: the streams do not know the routing."""

    def __init__(self, config: MachineConfig, seed: int, *, slots: bool = False) -> None:
        rng = random.Random(seed)
        self.config = config
        self.slots = slots
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
        self.routing = result.routing
        routing = None if self.slots else result.routing
        program = lower_step(self.model, self.memory, chunks, routing, key_block=self.block)
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


def try_reference(config: MachineConfig, seed: int, *, slots: bool = False) -> Reference | None:
    """Return a reference whose steps all fit, or None."""
    reference = Reference(config, seed, slots=slots)
    try:
        for chunks in reference.steps:
            reference.step(chunks)
    except LoweringError:
        return None
    return Reference(config, seed, slots=slots)


MODES = pytest.mark.parametrize("slots", [False, True], ids=["host-known", "slots"])


@MODES
@pytest.mark.parametrize("name", list(CONFIGS))
def test_the_executor_equals_the_integer_model(name: str, slots: bool) -> None:
    fitting = sum(try_reference(CONFIGS[name], seed, slots=slots) is not None for seed in range(8))
    assert fitting >= 4


@pytest.mark.slow
@MODES
@pytest.mark.parametrize("name", list(CONFIGS))
def test_many_models(name: str, slots: bool) -> None:
    fitting = sum(try_reference(CONFIGS[name], seed, slots=slots) is not None for seed in range(100, 180))
    assert fitting >= 24  # `nano` has room for the fewest: about 30


@pytest.mark.parametrize("seed", range(4))
def test_routed_lists_equal_those_that_the_host_would_load(seed: int) -> None:
    """After a step the table and lists of the last layer are there: each expert's tokens, places and gates."""
    reference = try_reference(TINY, seed + 20, slots=True) or try_reference(TINY, seed + 40, slots=True)
    assert reference is not None
    for chunks in reference.steps:
        program = reference.step(chunks)
        route, shape = reference.routing[-1], reference.memory.shape
        machine, seen = reference.executor, {}
        for count, base, expert in machine.slots.tolist():
            if count:
                seen[expert] = machine.lists[:, base : base + count]
        assert sorted(seen) == np.unique(route.experts).tolist()
        for expert, entries in seen.items():
            tokens, places = np.nonzero(route.experts == expert)
            for own in entries:
                assert own[:, 0].tolist() == (tokens * shape.hidden_words).tolist()
                assert own[:, 1].tolist() == (tokens * shape.hidden_rows).tolist()
                assert own[:, 2].tolist() == route.gates[tokens, places].tolist()
        assert not any(str(label).endswith("token list") for label in program.labels)


def test_the_same_stream_for_any_routing() -> None:
    """In slots mode the instructions depend on shapes only: another model of the same shape has the same stream."""
    first, second = (Reference(TINY, 2, slots=True) for _ in range(2))
    constants = {"up_shift": 20, "post_mult": 9, "post_shift": 30, "down_shift": 18}
    programs = []
    for number, reference in enumerate((first, second)):
        model = random_model(first.model.config, 100 + number)
        layers = [
            replace(
                layer, experts=replace(own.experts, experts=tuple(replace(e, **constants) for e in own.experts.experts))
            )
            for layer, own in zip(first.model.layers, model.layers, strict=True)
        ]
        model = replace(first.model, layers=tuple(layers))
        memory = ModelMemory(reference.memory.shape, model, slots=SLOTS, step_bytes=1 << 16)
        programs.append(lower_step(model, memory, [Chunk(0, 0, (1, 2, 3))], None))
    assert programs[0].instructions == programs[1].instructions


def test_models_that_slots_mode_refuses() -> None:
    reference = Reference(TINY, 2, slots=True)
    chunks, shape, model = [Chunk(0, 0, (1,))], reference.memory.shape, reference.model
    experts = model.layers[0].experts.experts
    other = replace(experts[0], down_shift=experts[0].down_shift + 1)
    layer = replace(model.layers[0], experts=replace(model.layers[0].experts, experts=(other, *experts[1:])))
    wrong = replace(model, layers=(layer, *model.layers[1:]))
    with pytest.raises(LoweringError, match="layer 0: its experts differ in up_shift"):
        lower_step(wrong, ModelMemory(shape, wrong, slots=SLOTS), chunks, None)
    with pytest.raises(LoweringError, match="placement one_group; place experts even_odd"):
        lower_step(model, ModelMemory(shape, model, slots=SLOTS, placement=Placement.ONE_GROUP), chunks, None)
    few = replace(shape, config=TINY.replace(expert_slots=2), experts=4)
    with pytest.raises(LoweringError, match="4 experts; the machine has expert_slots of 2"):
        lower_step(model, _resized(reference, few), chunks, None)


def _resized(reference: Reference, shape: ModelShape) -> ModelMemory:
    memory = ModelMemory(reference.memory.shape, reference.model, slots=SLOTS)
    memory.shape = shape
    return memory


@cache
def machine(name: str) -> SimulatedMachine:
    return SimulatedMachine(CONFIGS[name], memory_bits=18)  # as the other system tests


def run_rtl(name: str, seeds: range, most: int, *, slots: bool = False) -> None:
    """Run every step of some models on the emitted machine: each byte of both memories after each step."""
    done = 0
    with MachineSession(machine(name)) as session:
        for seed in seeds:
            reference = try_reference(CONFIGS[name], seed, slots=slots)
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
