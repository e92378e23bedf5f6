# SPDX-License-Identifier: Apache-2.0
"""Language models on small machines: lowered, proved, run on the executor and compared with the integer model."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hdl.config import PRESETS, MachineConfig
from hdl.isa.legality import Limits
from hdl.numerics.precision import Thresholds
from scheduler.memory.contents import Weights
from scheduler.memory.model import ModelMemory
from scheduler.memory.placement import Placement
from scheduler.models.constants import constants_of
from scheduler.models.description import Model
from scheduler.models.quantised_model import AttentionHead, QuantisedModel
from scheduler.models.random_model import random_model
from scheduler.ops.batch import Chunk, Routing
from scheduler.plan.limits import LoweringError
from scheduler.plan.places import SPARE_ROWS
from scheduler.plan.residence import plan_residence
from scheduler.plan.tiling import Tiling
from scheduler.stream.choose import Chooser
from scheduler.stream.lower import lower_step
from scheduler.stream.parts import default_key_block
from scheduler.stream.prove import prove
from scheduler.stream.step_program import StepProgram
from sim.golden.executor import Executor
from sim.golden.integer_model import IntegerModel
from sim.machine.system import Job
from tests.support.checkpoints import small_model

TINY = PRESETS["tiny"]
NANO = PRESETS["nano"].replace(
    name="nano_lm", vcache_tiles=256, activation_words=512, combine_rows=1024, scalar_depth=256, parameter_words=128,
    list_depth=128, accumulator_depth=64, semaphores=32,  # 16 do not do for every model in slots mode
)  # fmt: skip
WIDE = PRESETS["tiny"].replace(name="wide_lm", columns=4, row_fifo_depth=64, combine_rows=1024, result_lanes=2)
CONFIGS = {"tiny": TINY, "nano": NANO, "wide": WIDE}
CONTEXT = 64
SLOTS = 4


def varied(model: Model, seed: int, key_block: int = 1 << 12) -> QuantisedModel:
    """Return a random model whose key/value heads have constants of their own."""
    drawn, rng = random_model(model, seed, key_block=key_block), random.Random(seed)

    def own(head: AttentionHead) -> AttentionHead:
        factors = {name: rng.uniform(0.7, 1.0) for name in ("score_mult", "value_mult", "context_mult")}
        return replace(head, **{name: int(factor * getattr(head, name)) for name, factor in factors.items()})

    layers = tuple(replace(layer, heads=tuple(map(own, layer.heads))) for layer in drawn.layers)
    return replace(drawn, layers=layers)


class LanguageRun:
    """A model on a machine, step by step; `slots`: the streams do not know the routing, the machine finds it.

    Raises
    ------
    LoweringError
        The machine cannot run the model.
    """

    def __init__(
        self,
        config: MachineConfig,
        model: QuantisedModel,
        *,
        slots: bool = False,
        sequences: int = SLOTS,
        key_block: int | None = None,
        step_bytes: int = 1 << 17,
        placement: Placement = Placement.EVEN_ODD,
        chooser: Chooser | None = None,
        precision: Sequence[Thresholds] | None = None,
    ) -> None:
        self.precision = precision
        self.config = config
        self.model = model
        self.slots = slots
        self.chooser = chooser or Chooser()
        self.tiling = Tiling(config, model.description)
        self.block = key_block or default_key_block(self.tiling, model.key_block)
        self.constants = constants_of(model, precision)
        self.memory = ModelMemory(
            plan_residence(self.tiling), Weights(model, self.tiling), sequences=sequences,
            context=model.description.context, step_bytes=step_bytes, placement=placement,
        )  # fmt: skip
        self.integer = IntegerModel(model, key_block=self.block)
        self.caches = [self.integer.new_cache() for _ in range(sequences)]
        self.alone = [self.integer.new_cache() for _ in range(sequences)]
        self.executor = Executor(config, self.memory.images, strict=True)
        self.executor.known["combine row"][-SPARE_ROWS:] = True  # what is in them matters to nobody
        self.routing: tuple[Routing, ...] = ()
        self.precisions: tuple[np.ndarray, ...] = ()
        self.programs: list[StepProgram] = []
        self._steps = 0

    def lower(self, chunks: list[Chunk], routing: tuple[Routing, ...] | None) -> StepProgram:
        """Return the stream of a step."""
        return lower_step(
            self.constants, self.memory, chunks, routing, key_block=self.block, chooser=self.chooser
        )  # fmt: skip

    def step(self, chunks: list[Chunk], *, alone: bool = False) -> StepProgram:
        """Lower a step, prove its stream, run it, and compare its logits; `alone`: with each sequence run by itself."""
        for caches in (self.caches, self.alone) if alone else (self.caches,):
            for chunk in chunks:
                if chunk.prefix is not None and caches[chunk.sequence].length < chunk.prefix.tokens:
                    caches[chunk.sequence].begin_with(caches[chunk.prefix.sequence], chunk.prefix.tokens)
        result = self.integer.step([(self.caches[c.sequence], c.tokens) for c in chunks], precision=self.precision)
        self.routing, self.precisions = result.routing, result.precision
        program = self.lower(chunks, None if self.slots else result.routing)
        limits = Limits((self.memory.images[0].size, self.memory.images[1].size), program.window)
        self.executor.tags[:, program.kept_tiles :] = -1
        assert prove(program.table, self.config, self.memory.images, limits, self.executor.tags) == []
        self.executor.memory[program.patch.group][_span(program)] = self.patch(program)
        self.executor.limits = limits
        assert not self.executor.run(program.instructions).semaphores_left
        self.chooser.ran(chunks, program.on_chip)
        logits = program.read_logits(self.executor.memory)
        assert np.array_equal(logits, result.last_logits)
        if alone:
            for row, chunk in zip(logits, chunks, strict=True):
                own = self.integer.step([(self.alone[chunk.sequence], chunk.tokens)])
                assert np.array_equal(row, own.last_logits[0]), f"sequence {chunk.sequence}"
        return program

    def patch(self, program: StepProgram) -> np.ndarray:
        """Return what the host writes before a step."""
        return self.memory.images[program.patch.group][_span(program)]

    def job(self, program: StepProgram, *, trace: bool = False, dump: bool = True) -> Job:
        """Return a step as the simulated machine takes it: the whole memory with the first one."""
        self._steps += 1
        images = self.memory.images
        return Job(
            images=(images[0].tobytes(), images[1].tobytes()) if self._steps == 1 else None,
            patches=[(program.patch.group, program.patch.address, self.patch(program).tobytes())],
            stream_base=program.stream_base, limits=self.executor.limits, trace=trace, dump=dump,
            kept_tiles=program.kept_tiles,
        )  # fmt: skip

    def check_memory(self, memory: object, name: str) -> None:
        """Compare every byte of a machine's memories with the executor's."""
        assert isinstance(memory, tuple | list)
        for group, expected in enumerate(self.executor.memory):
            wrong = np.flatnonzero(expected != memory[group][: expected.size])
            assert not wrong.size, f"{name}: group {group}, byte {wrong[0]:#x}"


def _span(program: StepProgram) -> slice:
    return slice(program.patch.address, program.patch.address + program.patch.size)


def draw_model(config: MachineConfig, rng: random.Random) -> Model:
    """Return a random shape whose dimensions are multiples of what a machine works in."""
    kv_heads, group = rng.choice((1, 2, 3)), rng.choice((1, 2))
    head = config.rows * rng.choice((1, 2))
    return small_model(
        "mixtral",
        vocabulary=config.columns * rng.choice((2, 3, 4)), hidden=16 * rng.choice((1, 2)),
        intermediate=config.rows * rng.choice((1, 2)), layers=rng.choice((1, 2)), heads=kv_heads * group,
        kv_heads=kv_heads, head_dim=max(8, head), experts=rng.choice((2, 4, 5)), chosen=rng.choice((1, 2)),
    )  # fmt: skip


def draw_steps(rng: random.Random, vocabulary: int, count: int) -> list[list[Chunk]]:
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


class Reference(LanguageRun):
    """A random model with random steps."""

    def __init__(self, config: MachineConfig, seed: int, *, slots: bool = False) -> None:
        rng = random.Random(seed)
        shape = draw_model(config, rng)
        tiling = Tiling(config, shape)
        model = varied(shape, seed)
        block = rng.choice((tiling.key_alignment, 2 * tiling.key_alignment, default_key_block(tiling, model.key_block)))
        super().__init__(config, model, slots=slots, key_block=block)
        self.steps = draw_steps(rng, shape.vocabulary, 3)


def try_reference(config: MachineConfig, seed: int, *, slots: bool = False) -> Reference | None:
    """Return a reference whose steps all fit, or None."""
    reference = Reference(config, seed, slots=slots)
    try:
        for chunks in reference.steps:
            reference.step(chunks)
    except LoweringError:
        return None
    return Reference(config, seed, slots=slots)
