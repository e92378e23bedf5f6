# SPDX-License-Identifier: Apache-2.0
"""The memory of a machine that runs a layer of experts alone: weights, activations, results, token lists, a stream."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from scheduler.memory.experts import PLANES, ExpertContents, ExpertMemory
from scheduler.memory.image import ImageBuilder, Symbol
from scheduler.memory.layout import memory_alignment
from scheduler.memory.placement import Part, Placement
from scheduler.models.description import Experts
from scheduler.plan.residence import Residence

__all__ = ["LayerMemory"]

OUTPUT_GROUP = 1
"""Channel group of results: group 0 carries the instruction fetch and the small loads."""


class LayerMemory:
    """Places in both groups' memories.

    Parameters
    ----------
    residence : Residence
        Of a layer of experts alone.
    contents : ExpertContents
        Its weights.
    x : int8 array [tokens, hidden]
        Input.
    parts : sequence of (int, int)
        First token and number of tokens of what is computed at a time.
    placement : Placement
        Which group holds the high planes.

    Attributes
    ----------
    experts : ExpertMemory
        Where the weights lie.
    inputs, outputs : tuple of Symbol
        Activations, padded to whole words, and result rows of each part.

    Raises
    ------
    ImageError
        The memory is too small.
    """

    def __init__(
        self,
        residence: Residence,
        contents: ExpertContents,
        x: npt.NDArray[np.int8],
        parts: Sequence[tuple[int, int]],
        placement: Placement,
    ) -> None:
        tiling = residence.tiling
        self._config = tiling.config
        self._builder = ImageBuilder(self._config)
        self._mlp = tiling.model.layers[0].mlp
        assert isinstance(self._mlp, Experts)
        self.experts = ExpertMemory(residence, self._builder, contents, placement)
        self.experts.add(0, self._mlp)
        padded = np.zeros((len(x), tiling.hidden_words * self._config.rows), dtype=np.int8)
        padded[:, : x.shape[1]] = x
        self.inputs = tuple(
            self._builder.add(f"x{number}", 0, padded[first : first + count].tobytes())
            for number, (first, count) in enumerate(parts)
        )
        row_bytes = tiling.hidden_rows * self._config.columns * 2
        self.outputs = tuple(
            self._builder.reserve(f"y{number}", OUTPUT_GROUP, count * row_bytes)
            for number, (_, count) in enumerate(parts)
        )
        self._lists = 0

    def add(self, data: bytes) -> Symbol:
        """Put a token list into the memory."""
        self._lists += 1
        return self._builder.add(f"list{self._lists - 1}", 0, data)

    def add_stream(self, data: bytes) -> Symbol:
        """Put the stream into the memory."""
        return self._builder.add("stream", 0, data)

    def build(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """Return both groups' images with what was put into them so far."""
        return self._builder.build()

    @property
    def symbols(self) -> dict[str, Symbol]:
        """Named regions, among them each expert's planes."""
        found = dict(self._builder.symbols)
        assert isinstance(self._mlp, Experts)
        for expert in range(self._mlp.count):
            for part in Part:
                for plane, symbol in zip(PLANES, self.experts.planes(0, part, expert), strict=True):
                    size = self.experts.stride(0, part) * 32
                    found[f"expert{expert}.{part}.{plane}"] = Symbol(symbol.group, symbol.address, size)
        return found

    @property
    def window(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Span of each group that the stream writes."""
        align, last = memory_alignment(self._config), self.outputs[-1]
        end = -(-(last.address + last.size) // align) * align
        spans = [(0, 0), (0, 0)]
        spans[OUTPUT_GROUP] = (self.outputs[0].address, end)
        return spans[0], spans[1]
