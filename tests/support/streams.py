# SPDX-License-Identifier: Apache-2.0
"""Streams for tests of what is done to streams: drawn ones, broken ones, and those of a language model."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hdl.config import PRESETS, MachineConfig
from hdl.isa import Instruction, LoadDest, Opcode, StoreFormat, VectorOp, fields_of
from hdl.isa.legality import Limits
from scheduler.memory.contents import Weights
from scheduler.memory.model import ModelMemory
from scheduler.models.constants import constants_of
from scheduler.models.description import Experts, Model
from scheduler.models.random_model import random_model
from scheduler.ops.batch import Chunk, Routing
from scheduler.plan.residence import plan_residence
from scheduler.plan.tiling import Tiling
from scheduler.stream.emit.emitter import carriers
from scheduler.stream.emit.step import emit_step
from scheduler.stream.parts import default_key_block, parts_of
from scheduler.stream.synchronise import synchronise
from sim.stimulus.streams import StreamOptions, random_stream
from tests.support.checkpoints import small_model

__all__ = ["CONFIGS", "DEMO", "END", "ModelStep", "carriers_of", "drawn", "model_step", "mutant", "plain_of"]

END = Instruction(Opcode.END, {})

CONFIGS = {
    "nano": PRESETS["nano"],
    "tiny": PRESETS["tiny"],
    "small": PRESETS["small"],
    # Gangs of all sizes, words of two rows of the vector unit, few semaphores.
    "stack": PRESETS["nano"].replace(name="stack", tiers=8, row_fifo_depth=128, result_lanes=2, semaphores=64),
    "wide": PRESETS["tiny"].replace(name="wide", columns=4, tiers=4, row_fifo_depth=64, semaphores=16),
}

Images = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]


def drawn(
    config: MachineConfig, seed: int, length: int = 40, *, slots: bool = False
) -> tuple[list[Instruction], Images, Limits]:
    """Return a random stream without races, its memory and its limits."""
    stream = random_stream(config, seed, length, StreamOptions.everything(slots=slots))
    images = (np.frombuffer(stream.images[0], np.uint8), np.frombuffer(stream.images[1], np.uint8))
    return list(stream.instructions), images, stream.limits


def plain_of(instructions: Iterable[Instruction]) -> list[Instruction]:
    """Return instructions without waits, posts and END."""
    return [
        Instruction(i.opcode, {k: v for k, v in i.values.items() if k[:4] not in ("wait", "post") or k[4] == "_"})
        for i in instructions
        if i.opcode != Opcode.END
    ]


def carriers_of(config: MachineConfig) -> dict[str, dict[str, int]]:
    """Return a legal instruction of each queue that takes carriers."""
    last, scalar = config.combine_rows - 1, config.scalar_depth - 1
    return {
        "store": {"format": StoreFormat.DISCARD, "row_base": last, "rows": 1},
        "vector": {"op": VectorOp.MAX, "first": 1, "vectors": 1, "rows": 1, "a_base": last, "d_scalar": scalar},
        "load0": {"dest_kind": LoadDest.ROWS, "dest_base": last - 1, "count": 1},
        "load1": {"dest_kind": LoadDest.ROWS, "dest_base": last - 2, "count": 1, "group": 1},
    }


def mutant(rng: random.Random, instructions: Sequence[Instruction], config: MachineConfig) -> list[Instruction]:
    """Return a stream in which one to four things were changed; every field still fits its width."""
    stream = list(instructions[:-1])
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(len(stream))
        values = dict(stream[place].values)
        kind = rng.choice(("wait", "count", "post", "semaphore", "field", "tag", "swap", "twice", "drop"))
        if kind == "swap":
            other = min(place + rng.choice((1, 1, 2, 5)), len(stream) - 1)
            stream[place], stream[other] = stream[other], stream[place]
            continue
        if kind == "twice":
            stream.insert(place, stream[place])
            continue
        if kind == "drop":
            del stream[place]
            continue
        if kind == "wait":
            values.pop("wait0_count", None)
        elif kind == "post":
            values.pop("post0_en", None)
        elif kind == "count" and "wait0_count" in values:
            values["wait0_count"] = min(values["wait0_count"] + 1, 31)
        elif kind == "semaphore" and "wait0_count" in values:
            values["wait0_sem"] = rng.randrange(config.semaphores)
        elif kind == "tag" and "tag" in values:
            values["tag"] = (values["tag"] + 1) % 64
        elif kind == "field" and values:
            field = {f.name: f for f in fields_of(stream[place].opcode)}[rng.choice(sorted(values))]
            most = (1 << field.width) - 1 if field.enum is None else max(field.enum)
            values[field.name] = min(max(values[field.name] + rng.choice((-1, 1, 3)), 0), most)
        stream[place] = Instruction(stream[place].opcode, {k: v for k, v in values.items() if v})
    return [*stream, END]


DEMO = small_model(
    "mixtral", vocabulary=256, hidden=128, intermediate=128, layers=4, heads=4, kv_heads=2, head_dim=32, experts=16,
    chosen=2, context=512,
)  # fmt: skip
"""The shape of the demo model."""


@dataclass(frozen=True, eq=False)
class ModelStep:
    """A step of a language model.

    Attributes
    ----------
    plain : list of Instruction
        What the lowering emits.
    stream : list of Instruction
        The same with semaphores, and END.
    origin : list of int
        For each of its instructions but END the plain one that it is, or that it carries for.
    carriers : mapping of str to mapping of str to int
        Fields of the carriers.
    images, limits
        Memory.
    """

    plain: list[Instruction]
    stream: list[Instruction]
    origin: list[int]
    carriers: Mapping[str, Mapping[str, int]]
    images: Images
    limits: Limits


def model_step(
    config: MachineConfig, shape: Model, lengths: Sequence[tuple[int, int]], *, slots: bool, seed: int = 0
) -> ModelStep:
    """Return a step of a random model in which sequences with (cached, new) tokens go to random experts."""
    model, tiling, rng = random_model(shape, seed), Tiling(config, shape), np.random.default_rng(seed)
    memory = ModelMemory(
        plan_residence(tiling),
        Weights(model, tiling),
        sequences=len(lengths),
        context=shape.context,
        step_bytes=1 << 20,
    )
    chunks = [
        Chunk(n, cached, tuple(int(t) for t in rng.integers(0, shape.vocabulary, new)))
        for n, (cached, new) in enumerate(lengths)
    ]
    tokens = sum(new for _, new in lengths)
    routing = []
    for layer in shape.layers:
        assert isinstance(layer.mlp, Experts)
        chosen = [rng.choice(layer.mlp.count, layer.mlp.chosen, replace=False) for _ in range(tokens)]
        gates = rng.integers(1, 1 << 14, (tokens, layer.mlp.chosen)).astype(np.uint16)
        routing.append(Routing(np.array(chosen, dtype=np.int64), gates))
    (part,) = parts_of(memory.residence, chunks, default_key_block(tiling, model.key_block), slots)
    emitter = emit_step(
        constants_of(model), memory, part.places, part.chunks, None if slots else routing, part.outputs
    )  # fmt: skip
    plain, own = emitter.stream.table(), carriers(config)
    table, origin = synchronise(plain, config, memory.images, own)
    limits = Limits((memory.images[0].size, memory.images[1].size), memory.window)
    return ModelStep(
        list(plain.instructions()), [*table.instructions(), END], origin.tolist(), own, memory.images, limits
    )
