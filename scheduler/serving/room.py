# SPDX-License-Identifier: Apache-2.0
"""Memory for the sequences of a server: keys and values of as many as run at the same time, and streams of steps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from scheduler.memory.contents import Weights
from scheduler.memory.layout import region_alignment
from scheduler.memory.model import ModelMemory
from scheduler.models.constants import Constants
from scheduler.models.description import Experts
from scheduler.ops.batch import Chunk, Routing
from scheduler.plan.limits import LoweringError
from scheduler.plan.residence import Residence
from scheduler.stream.lower import lower_step
from scheduler.stream.synchronise import SyncError

__all__ = ["Room"]

STEP_BYTES = 1 << 15
SEQUENCE_BYTES = 1 << 10
"""Least memory for a step's stream and token lists: for every layer, and besides for every sequence."""

LEAST_CONTEXT = 1 << 10
"""Tokens that every sequence has room for, as far as the model has as many."""

MOST_STREAM = 1 << 28
"""Bytes of the longest stream that is tried."""


class Room:
    """Checks that a number of sequences fits a machine, and lays out its memory for them.

    Parameters
    ----------
    residence : Residence
        The model on the machine.
    constants : Constants
        Of the model.
    places : int
        Sequences that run at the same time, 1 or more.
    length : int
        Most tokens that the machine runs of one of them; no more than the model's context.
    key_block : int
        Keys that attention takes at once.
    slots : bool
        The machine finds the routing.

    Attributes
    ----------
    places : int
    context : int
        Tokens that every sequence has room for.

    Raises
    ------
    LoweringError, SyncError
        They do not fit: which memory, what it takes and has, and how many sequences would fit.
    """

    def __init__(
        self, residence: Residence, constants: Constants, *, places: int, length: int, key_block: int, slots: bool
    ) -> None:
        self.places = places
        most = residence.tiling.model.context
        self.context = min(most, max(LEAST_CONTEXT, 1 << (length - 1).bit_length()))
        self._residence = residence
        self._constants = constants
        self._key_block = key_block
        self._slots = slots
        self._step_bytes = self._check_streams(length - 1)

    def memory(self, weights: Weights) -> ModelMemory:
        """Return the memory."""
        return self._place(self.places, self._step_bytes, weights)

    def _check_streams(self, position: int) -> int:
        """Lower the last step of one sequence, and of all, with a routing that is made up, without weights.

        There can be room for a step whose stream the machine has too few semaphores for, and that shows only when the
        stream is written. Prompts need no more: they are prefilled in steps as small as a token.

        Returns
        -------
        int
            Bytes for a step's stream and token lists.
        """
        model, config = self._residence.tiling.model, self._residence.tiling.config
        least = self._least_step(self.places)
        room = (1 << config.address_bits) - max(self._place(self.places, least, None).sizes)
        align = region_alignment(config, room)  # so that what lies behind moves by no more than that
        most = least + min(MOST_STREAM, room) // align * align
        for count in sorted({1, self.places}):
            memory = self._place(count, most, None)
            chunks = [Chunk(place, position, (0,)) for place in range(count)]
            routing = [_made_up(count, layer.mlp) if isinstance(layer.mlp, Experts) else None for layer in model.layers]
            try:
                program = lower_step(
                    self._constants, memory, chunks, None if self._slots else routing, key_block=self._key_block
                )
            except (LoweringError, SyncError) as error:
                if count == 1:
                    raise
                raise LoweringError(
                    f"batch: {count} sequences of up to {position + 1} tokens; run fewer with --batch ({error})"
                ) from error
            least = max(least, program.patch.size + program.patch.size // 2)  # other plans take more
        return least

    def _least_step(self, count: int) -> int:
        """Return the least bytes for a step's stream and token lists."""
        return len(self._residence.tiling.model.layers) * (STEP_BYTES + SEQUENCE_BYTES * count)

    def _place(self, count: int, step_bytes: int, weights: Weights | None) -> ModelMemory:
        """Return the memory for a number of sequences; if it is too small, say how many there is room for."""

        def place(count: int, step_bytes: int, weights: Weights | None) -> ModelMemory:
            return ModelMemory(self._residence, weights, sequences=count, context=self.context, step_bytes=step_bytes)

        def fits(count: int) -> bool:
            try:
                place(count, self._least_step(count), None)
            except LoweringError:
                return False
            return True

        try:
            return place(count, step_bytes, weights)
        except LoweringError as error:
            fitting = _largest(count - 1, fits)
            if not fitting:
                raise
            raise LoweringError(
                f"batch: {count} sequences with room for {self.context} tokens each do not fit the memory; at most "
                f"{fitting} do: use --batch {fitting} ({error})"
            ) from error


def _made_up(tokens: int, mlp: Experts) -> Routing:
    """Return a routing that uses as many experts as it can."""
    chosen = np.arange(tokens * mlp.chosen).reshape(tokens, -1) % mlp.count
    return Routing(chosen, np.full(chosen.shape, 1 << 14, dtype=np.uint16))


def _largest(most: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number up to `most` that fits, 0 when none does; all below it fit too."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
