# SPDX-License-Identifier: Apache-2.0
"""Emits one step in micro-batches: the experts of one run beside the attention of the next.

Each micro-batch goes through a layer's attention, its router and its experts; the attention of all, layer by layer, is
one run of the vector unit. An expert's weights are loaded once and stay until all micro-batches have used them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from functools import partial

from scheduler.memory.model import ModelMemory
from scheduler.models.constants import Constants
from scheduler.models.description import Experts
from scheduler.ops.batch import MicroBatch, Routing, blocks_of
from scheduler.plan.limits import LoweringError
from scheduler.plan.places import Places
from scheduler.stream.emit.attention import Attention, Segment
from scheduler.stream.emit.dense import Dense
from scheduler.stream.emit.emitter import Emitter
from scheduler.stream.emit.expert_jobs import NumberedRoutes, host_jobs
from scheduler.stream.emit.head import emit_embeddings, emit_head, emit_rotations
from scheduler.stream.emit.job_table import NEVER
from scheduler.stream.emit.labels import Labels
from scheduler.stream.emit.mlp import emit_choices, emit_mlp, emit_router
from scheduler.stream.emit.shared_experts import ExpertWaves, SharedExperts
from scheduler.stream.emit.work import Work

__all__ = ["emit_micro_batches"]


def emit_micro_batches(
    constants: Constants,
    memory: ModelMemory,
    places: Places,
    batches: Sequence[MicroBatch],
    routing: Sequence[Routing | None] | None,
    outputs: Sequence[int],
    labels: Labels,
    early_keys: bool = False,
    early_planes: bool = False,
    on_chip: set[Hashable] | None = None,
    gang: int = 1,
) -> Emitter:
    """Return the emitter with the instructions of a step.

    Parameters
    ----------
    constants : Constants
        Of the model.
    memory : ModelMemory
        Where it lies; token lists are put into its step area.
    places : Places
        Where the step's data lie on the chip.
    batches : sequence of MicroBatch
        The step's tokens.
    routing : sequence of Routing or None, or None
        Experts of all tokens, for each layer (None for a layer without experts). None: slots mode, with slots by
        number, so that weights can come before the routing is known.
    outputs : sequence of int
        Numbers of the chunks, those of all micro-batches together, whose last token's logits are wanted.
    labels : Labels
    early_keys : bool
        Keys that the step does not write are loaded apart.
    early_planes : bool
        High planes of likely experts come before the routing is known.
    on_chip : set, optional
        What is there of the weights that stay from step to step; grows by what is loaded.
    gang : int
        Tiers that run an expert together.
    """
    work = Work(constants, memory, places, labels)
    work.early_keys, work.early_planes = early_keys, early_planes
    work.on_chip = set() if on_chip is None else on_chip
    step = _Step(work, batches, routing, gang)
    step.emit()
    if outputs:
        emit_head(step.work, step.dense, step.chunks, outputs, 0)
    return step.work.emitter


class _Step:
    """A step while it is emitted."""

    def __init__(
        self, work: Work, batches: Sequence[MicroBatch], routing: Sequence[Routing | None] | None, gang: int
    ) -> None:  # fmt: skip
        if gang > 1 and any(layer.scored for layer in work.constants.layers):
            raise LoweringError(
                "experts on gangs: their requantisation words are loaded before their importance is known"
            )
        self.work = work
        self.dense = Dense(work)
        self.chunks = [chunk for batch in batches for chunk in batch.chunks]
        self._batches = batches
        self._routes = NumberedRoutes(work, batches) if routing is None else None
        jobs = self._routes.jobs() if self._routes else host_jobs(work, batches, routing or ())
        self._experts = SharedExperts(work, jobs, [batch.end - batch.first for batch in batches], gang)
        self._waves: dict[tuple[int, int], ExpertWaves] = {}
        blocks = [blocks_of(batch.chunks, work.places.block, batch.first) for batch in batches]
        segments = [
            Segment(
                layer, blocks[batch], partial(emit_router, work, self.dense, layer),
                partial(self._start, layer, batch), partial(self._begin, layer, batch),
                partial(self._finish, layer, batch),
            )
            for layer in range(len(work.tiling.model.layers)) for batch in range(len(batches))
        ]  # fmt: skip
        self._attention = Attention(work, self.dense, segments, self._experts)

    def emit(self) -> None:
        """Emit everything but the head."""
        emit_embeddings(self.work, self.chunks)
        emit_rotations(self.work, self.chunks)
        self.dense.load_constants()
        self.dense.load_layer(0)
        self._attention.run()
        self.work.emitter.layer = -1

    def _start(self, layer: int, batch: int) -> int:
        """Return from when on a micro-batch's residual is complete before a layer."""
        if layer == 0:
            return 0
        before = self._waves.get((layer - 1, batch))
        return NEVER if before is None or not before.done else before.end

    def _begin(self, layer: int, batch: int) -> None:
        """Emit the loads of token lists: behind those of weights they would come late."""
        emitter = self.work.emitter
        before, emitter.layer = emitter.layer, layer
        if self._routes is None:
            self._experts.load_lists(layer, batch)
        emitter.layer = before

    def _finish(self, layer: int, batch: int) -> Iterator[int]:
        """Emit what comes behind the router, and let the experts begin."""
        work, own, mlp = self.work, self._batches[batch], self.work.layer(layer).mlp
        if isinstance(mlp, Experts):
            size = work.places.choice_tokens
            for first in range(own.first, own.end, size):
                emit_choices(work, layer, first, min(size, own.end - first))
                yield work.emitter.clock.vector
            if self._routes is not None:
                self._routes.emit(layer, batch)
                self._experts.routed = layer
        emit_mlp(work, self.dense, layer, own.first, own.end)
        if batch == 0:  # the matrices of the layer before have done their work
            layers = len(work.tiling.model.layers)
            self.dense.load_layer(layer + 1) if layer + 1 < layers else self.dense.load_head()
        waves = self._waves[layer, batch] = self._experts.waves(layer, batch)
        if not waves.done:
            self._attention.pipeline.add(waves)
