# SPDX-License-Identifier: Apache-2.0
"""Emits micro-batches of a step whose weights stream: each by its own sequential plan, in its own part of the chip.

The order is layer by layer, in each layer one micro-batch after the other. List scheduling brings them beside one
another (:mod:`scheduler.stream.list_schedule`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from scheduler.memory.model import ModelMemory
from scheduler.models.constants import Constants
from scheduler.ops.batch import Chunk, Routing
from scheduler.plan.places import Places
from scheduler.stream.emit.labels import Labels
from scheduler.stream.emit.step import MOST_WAVES, emit_layers
from scheduler.stream.region import Region
from scheduler.stream.table import Builder

__all__ = ["emit_beside"]


class Batch(Protocol):
    """A micro-batch, see `scheduler.stream.lower.Part`."""

    @property
    def chunks(self) -> Sequence[Chunk]: ...
    @property
    def outputs(self) -> Sequence[int]: ...
    @property
    def places(self) -> Places: ...


def emit_beside(
    constants: Constants,
    memory: ModelMemory,
    batches: Sequence[Batch],
    regions: Sequence[Region],
    routing: Sequence[Sequence[Routing | None]],
    labels: Labels,
    early_keys: bool = False,
) -> Builder:
    """Return the instructions of a step.

    Parameters
    ----------
    constants : Constants
        Of the model.
    memory : ModelMemory
        Where it lies; token lists are put into its step area.
    batches : sequence of Batch
        The step's tokens; the places of each are those of its region alone.
    regions : sequence of Region
        The parts of the chip.
    routing : sequence of sequences of Routing or None
        Of each micro-batch's tokens, for each layer.
    labels : Labels
    early_keys : bool
        Keys that the step does not write are loaded apart.
    """
    stream, done, chains = Builder(), 0, []
    for batch, region, routes in zip(batches, regions, routing, strict=True):
        own = emit_layers(
            constants, memory, batch.places, batch.chunks, routes, batch.outputs, done, labels, stream, early_keys,
            MOST_WAVES,
        )  # fmt: skip
        chains.append((own, region))
        done += len(batch.outputs)
    while chains:
        for chain in list(chains):
            first = stream.count
            if next(chain[0], None) is None:
                chains.remove(chain)
            chain[1].shift(stream.rows[first : stream.count])
    return stream
