# SPDX-License-Identifier: Apache-2.0
"""The streams on which the cycle model is held against the emitted machine: phases of steps, and experts alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from hdl.config import MachineConfig
from hdl.isa.legality import Limits
from scheduler.memory.contents import Weights
from scheduler.memory.model import ModelMemory
from scheduler.models.checkpoint_config import read_config
from scheduler.models.constants import constants_of
from scheduler.models.description import Experts, GroupedAttention, Layer, Model, QkNorm
from scheduler.models.quantised_model import QuantisedModel
from scheduler.models.random_model import random_model
from scheduler.ops.batch import Chunk
from scheduler.plan.residence import plan_residence
from scheduler.plan.tiling import Tiling
from scheduler.stream.choose import Chooser
from scheduler.stream.lower import lower_step
from scheduler.stream.lower_layer import lower_layer
from scheduler.stream.parts import default_key_block
from scheduler.stream.program import Program
from scheduler.stream.table import Table
from sim.golden.integer_model import IntegerModel
from sim.machine.engines import simulated_memory_bits
from sim.machine.generator import ROUTINGS
from sim.machine.system import Job
from sim.measure.experts import draw_works
from sim.stimulus.moe_demo import DEMO_MODEL, memory_bits

__all__ = ["CONFIGS", "Group", "LayersAlone", "TimedStream", "groups_of"]

MOST_CYCLES = 50_000_000
SEED = 1


@dataclass(frozen=True, eq=False, kw_only=True)
class TimedStream:
    """A stream for both.

    Attributes
    ----------
    name, routing : str
        What it does; ``host`` or ``slots``.
    table : Table
        The stream.
    slot_counts : sequence of sequences of int
        Tokens of the slots after each ROUTE.
    job : Job
        The stream and its memory as the machine takes it.
    """

    name: str
    routing: str
    table: Table
    slot_counts: Sequence[Sequence[int]]
    job: Job

    @property
    def fetch_room(self) -> int:
        """Bytes from its first one to the limit of the memory."""
        assert self.job.limits is not None
        return self.job.limits.memory_bytes[0] - self.job.stream_base


class Group(Protocol):
    """Streams that run one after the other on the same memory, in order."""

    @property
    def total(self) -> int:
        """How many streams there are."""

    @property
    def memory_bits(self) -> int:
        """log2 of the bytes of memory that each channel group needs."""

    def streams(self) -> Iterator[TimedStream]:
        """Lower the streams, each when it is wanted."""


@dataclass(frozen=True)
class Phase:
    """A kind of step: ``sequences`` pairs of tokens that are cached and tokens that are new."""

    name: str
    sequences: tuple[tuple[int, int], ...]


def _prefill(tokens: int) -> Phase:
    return Phase(f"prefill {tokens}", ((0, tokens),))


def _decode(batch: int, keys: int) -> Phase:
    """Return a decode step of sequences of different lengths, the longest of `keys`."""
    lengths = [keys - place * keys // (4 * batch) for place in range(batch)]
    return Phase(f"decode {batch} at {keys} keys", tuple((length, 1) for length in lengths))


def _mixed(tokens: int, batch: int, keys: int) -> Phase:
    return Phase(
        f"prefill {tokens} beside decode {batch} at {keys} keys", ((0, tokens), *((keys, 1) for _ in range(batch)))
    )


class Steps:
    """Steps of a random language model, with both routings.

    The integer model says what the router chooses, on caches that hold what the machine's memory holds: zeros, and what
    earlier steps appended.
    """

    chooser: Chooser | None = None
    """Who says which plans are tried; None: the sequential one."""

    def __init__(self, config: MachineConfig, model: Model, phases: Sequence[Phase], routings: Sequence[str]) -> None:
        self._config = config
        self._model = model
        self._phases = phases
        self._routings = routings

    @property
    def total(self) -> int:
        """How many streams there are."""
        return len(self._phases) * len(self._routings)

    @property
    def memory_bits(self) -> int:
        """log2 of the bytes of memory that each channel group needs."""
        return simulated_memory_bits(self._memory)

    @cached_property
    def _quantised(self) -> QuantisedModel:
        return random_model(self._model, SEED)

    @cached_property
    def _memory(self) -> ModelMemory:
        tiling = Tiling(self._config, self._model)
        return ModelMemory(
            plan_residence(tiling), Weights(self._quantised, tiling),
            sequences=max(len(phase.sequences) for phase in self._phases), context=self._model.context,
            step_bytes=1 << 20,
        )  # fmt: skip

    def streams(self) -> Iterator[TimedStream]:
        """Lower the streams, each when it is wanted; the first one brings the memory."""
        memory, constants, rng = self._memory, constants_of(self._quantised), np.random.default_rng(SEED)
        block = default_key_block(memory.tiling, self._quantised.key_block)
        integer = IntegerModel(self._quantised, key_block=block)
        caches = [integer.new_cache() for _ in range(memory.sequences)]
        first = True
        for phase in self._phases:
            chunks = [
                Chunk(slot, cached, tuple(rng.integers(0, self._model.vocabulary, new).tolist()))
                for slot, (cached, new) in enumerate(phase.sequences)
            ]
            for cache, chunk in zip(caches, chunks, strict=False):
                cache.length = chunk.position
            routing = integer.step([(caches[chunk.sequence], chunk.tokens) for chunk in chunks]).routing
            for name in self._routings:
                slots = name == "slots"
                program = lower_step(
                    constants, memory, chunks, None if slots else routing, key_block=block, chooser=self.chooser
                )  # fmt: skip
                patch = program.patch
                data = memory.images[patch.group][patch.address : patch.address + patch.size].tobytes()
                job = Job(
                    images=(memory.images[0].tobytes(), memory.images[1].tobytes()) if first else None,
                    patches=[(patch.group, patch.address, data)], stream_base=program.stream_base,
                    limits=Limits((memory.images[0].size, memory.images[1].size), program.window), dump=False,
                    max_cycles=MOST_CYCLES,
                )  # fmt: skip
                first = False
                counts = program.slot_counts(routing) if slots else []
                yield TimedStream(
                    name=f"{self._model.family} {phase.name}", routing=name, table=program.table, slot_counts=counts,
                    job=job,
                )  # fmt: skip


class LayersAlone:
    """A layer of experts alone, for several numbers of tokens; the host knows the routing."""

    def __init__(self, config: MachineConfig, hidden: int, experts: Experts, tokens: Sequence[int]) -> None:
        self._config = config
        self._hidden = hidden
        self._experts = experts
        self._tokens = tokens

    @property
    def total(self) -> int:
        """How many streams there are."""
        return len(self._tokens)

    @cached_property
    def _programs(self) -> list[Program]:
        experts = self._experts
        works = draw_works(
            self._hidden, experts.intermediate, self._tokens, experts=experts.count, chosen=experts.chosen, seed=SEED
        )
        return [lower_layer(self._config, work.layer, work.x, work.experts, work.gates) for work in works]

    @property
    def memory_bits(self) -> int:
        """log2 of the bytes of memory that each channel group needs."""
        return memory_bits(self._programs)

    def streams(self) -> Iterator[TimedStream]:
        """Return the streams; each brings its memory."""
        for program, tokens in zip(self._programs, self._tokens, strict=True):
            job = Job(
                images=(program.images[0].tobytes(), program.images[1].tobytes()), stream_base=program.stream_base,
                limits=program.limits, dump=False, max_cycles=MOST_CYCLES,
            )  # fmt: skip
            yield TimedStream(
                name=f"layer alone {tokens}",
                routing="host",
                table=Table.of(program.instructions),
                slot_counts=[],
                job=job,
            )


def _model(family: str, attention: GroupedAttention, experts: Experts, **sizes: int) -> Model:
    """Return a model of one or more layers of a kind."""
    layers = (Layer(attention=attention, mlp=experts),) * sizes.pop("layers")
    return Model(family=family, name=f"random {family}", layers=layers, **sizes)  # type: ignore[arg-type]


def _tiny(config: MachineConfig) -> list[Group]:
    phases = (
        _prefill(5), _prefill(17), _prefill(40), _decode(1, 20), _decode(4, 12), _decode(4, 50), _mixed(9, 3, 30),
    )  # fmt: skip
    mixtral = _model(
        "mixtral", GroupedAttention(heads=4, kv_heads=2, head_dim=8), Experts(count=4, chosen=2, intermediate=16),
        hidden=32, vocabulary=32, context=64, layers=2,
    )  # fmt: skip
    qwen = _model(
        "qwen3_moe", GroupedAttention(heads=3, kv_heads=3, head_dim=16, qk_norm=QkNorm.HEAD),
        Experts(count=5, chosen=1, intermediate=8), hidden=16, vocabulary=24, context=64, layers=1,
    )  # fmt: skip
    alone = LayersAlone(config, 32, Experts(count=4, chosen=2, intermediate=16), (1, 8, 30))
    return [Steps(config, mixtral, phases, ROUTINGS), Steps(config, qwen, phases, ROUTINGS), alone]


def _small(config: MachineConfig) -> list[Group]:
    phases = (
        _prefill(16), _prefill(64), _prefill(128), _decode(1, 40), _decode(8, 80), _decode(16, 200), _decode(32, 60),
        _mixed(48, 8, 100),
    )  # fmt: skip
    model = read_config(DEMO_MODEL)
    experts = model.layers[0].mlp
    assert isinstance(experts, Experts)
    return [Steps(config, model, phases, ROUTINGS), LayersAlone(config, model.hidden, experts, (4, 32, 96))]


def _medium(config: MachineConfig) -> list[Group]:
    """Return streams of OLMoE's widths, with one layer, fewer experts and a small vocabulary."""
    experts = Experts(count=8, chosen=2, intermediate=1024)
    attention = GroupedAttention(heads=16, kv_heads=16, head_dim=128, qk_norm=QkNorm.WHOLE)
    model = _model("olmoe", attention, experts, hidden=2048, vocabulary=256, context=256, layers=1)
    phases = (_prefill(16), _decode(8, 100))
    return [Steps(config, model, phases, ROUTINGS), LayersAlone(config, 2048, experts, (8,))]


CONFIGS: Mapping[str, Callable[[MachineConfig], list[Group]]] = {"tiny": _tiny, "small": _small, "medium": _medium}
"""By preset, how its streams are made."""


def groups_of(config: MachineConfig, chooser: Chooser | None = None) -> list[Group]:
    """Return a preset's streams; with a chooser, of the shortest of the plans that it names."""
    groups = CONFIGS[config.name](config)
    for group in groups:
        if isinstance(group, Steps):
            group.chooser = chooser
    return groups
