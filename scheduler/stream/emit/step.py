# SPDX-License-Identifier: Apache-2.0
"""Emits one step of a language model: prefill, decode or both, for a batch of sequences of different lengths."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial

from scheduler.memory.model import ModelMemory
from scheduler.models.constants import Constants
from scheduler.models.description import Experts
from scheduler.ops.batch import Chunk, Routing, blocks_of, mixed_blocks
from scheduler.plan.places import Places
from scheduler.stream.emit.attention import Segment, emit_attention
from scheduler.stream.emit.dense import Dense
from scheduler.stream.emit.emitter import Emitter
from scheduler.stream.emit.experts import ExpertQueues, reduced, routed_jobs
from scheduler.stream.emit.gang import GangQueues
from scheduler.stream.emit.head import emit_embeddings, emit_head, emit_rotations
from scheduler.stream.emit.labels import Labels
from scheduler.stream.emit.mlp import emit_choices, emit_mlp, emit_router
from scheduler.stream.emit.project import cycles_before_keys
from scheduler.stream.emit.slots import SlotQueues
from scheduler.stream.emit.work import Work
from scheduler.stream.table import Builder

__all__ = ["MOST_WAVES", "emit_layers", "emit_step"]

MOST_WAVES = 1024
"""Most waves of one GEMM of plans that are fine: what else wants the tier must not wait long."""


def emit_step(
    constants: Constants,
    memory: ModelMemory,
    places: Places,
    chunks: Sequence[Chunk],
    routing: Sequence[Routing | None] | None,
    outputs: Sequence[int],
    done: int = 0,
    labels: Labels | None = None,
    stream: Builder | None = None,
    early_keys: bool = False,
    most_waves: int = 0,
) -> Emitter:
    """Return the emitter with the instructions of a step, or of a part of one.

    Parameters
    ----------
    constants : Constants
        Of the model.
    memory : ModelMemory
        Where it lies; token lists are put into its step area.
    places : Places
        Where the step's data lie on the chip.
    chunks : sequence of Chunk
        New tokens of each sequence.
    routing : sequence of Routing or None, or None
        Experts of all tokens, for each layer (None for a layer without experts). None: slots mode.
    outputs : sequence of int
        Numbers of the chunks whose last token's logits are wanted.
    done : int
        Logits that earlier parts of the step have stored.
    labels : Labels, optional
    stream : Builder, optional
        Those of the step, when earlier parts have some.
    early_keys : bool
        Keys that the step does not write are loaded apart.
    most_waves : int
        Most waves of one GEMM; 0: it does not matter.
    """
    steps = emit_layers(
        constants, memory, places, chunks, routing, outputs, done, labels, stream, early_keys, most_waves
    )
    return deque(steps, maxlen=1)[0]


def emit_layers(
    constants: Constants,
    memory: ModelMemory,
    places: Places,
    chunks: Sequence[Chunk],
    routing: Sequence[Routing | None] | None,
    outputs: Sequence[int],
    done: int = 0,
    labels: Labels | None = None,
    stream: Builder | None = None,
    early_keys: bool = False,
    most_waves: int = 0,
) -> Iterator[Emitter]:
    """Do the same in pieces: yields between the attention and the experts of each layer, and at the end."""
    work = Work(constants, memory, places, labels, stream)
    work.early_keys = early_keys
    work.emitter.most_waves = most_waves
    dense = Dense(work)
    if work.residence.resident:
        blocks = blocks_of(chunks, places.block)
    else:  # fewer tokens would wait for the weights of the next block
        least = work.config.tiers * work.config.tile_bytes // work.config.peak_bytes
        blocks = mixed_blocks(chunks, places.block, least)
    layers = work.tiling.model.layers
    before_keys = cycles_before_keys(work, blocks[0])
    queues: SlotQueues | GangQueues | ExpertQueues
    if routing is None:
        queues = SlotQueues(work)
    elif work.residence.gangs:
        jobs = [routed_jobs(n, route, *reduced(work, n, route)) if route else [] for n, route in enumerate(routing)]
        queues = GangQueues(work, jobs)
    else:
        queues = ExpertQueues(work, routing, before_keys)

    emit_embeddings(work, chunks)
    emit_rotations(work, chunks)
    dense.load_constants()
    dense.load_layer(0)
    queues.prime()
    for number, layer in enumerate(layers):
        work.emitter.layer = number
        queues.load_lists(number)
        work.emitter.clock.wait(max(work.emitter.clock.tiers))  # the layer before is complete
        emit_attention(work, dense, [Segment(number, blocks, partial(emit_router, work, dense, number))])
        if number + 1 < len(layers):
            dense.load_layer(number + 1)
        else:
            dense.load_head()
        if isinstance(layer.mlp, Experts):
            size = places.choice_tokens
            for first in range(0, places.size.tokens, size):
                emit_choices(work, number, first, min(size, places.size.tokens - first))
        emit_mlp(work, dense, number, 0, places.size.tokens)
        dense.prefetch_after(number, bool(outputs))
        yield work.emitter
        queues.run(number)
    work.emitter.layer = -1
    if outputs:
        emit_head(work, dense, chunks, outputs, done)
    yield work.emitter
