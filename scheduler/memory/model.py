# SPDX-License-Identifier: Apache-2.0
"""The memory of a machine that serves a model: weights, tables, caches, and an area for each step's stream and lists.

Everything but the step area stays where it is from one step to the next; the machine itself writes the caches and the
logits.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hdl.config import ADDRESS_UNIT, MachineConfig
from hdl.isa import INSTRUCTION_BITS
from scheduler.memory.image import ImageBuilder, ImageError, Symbol
from scheduler.memory.layout import LayerShape, memory_unit, pack_planes, parameter_words, tiles_of
from scheduler.memory.placement import Part, Placement, high_plane_group
from scheduler.models.quantise import QuantisedMatrix
from scheduler.models.quantised_model import QuantisedModel
from scheduler.plan.chip import dense_words
from scheduler.plan.shape import LoweringError, ModelShape

__all__ = ["ModelMemory"]

INSTRUCTION_BYTES = INSTRUCTION_BITS // 8
LIST_ENTRY_BYTES = 8
RESIDUAL_GATE = 1 << 15
"""Gate of the output projection in its token list: 1.0 in Q15."""


def matrix_tiles(matrix: QuantisedMatrix, config: MachineConfig) -> npt.NDArray[np.int8]:
    """Return a matrix's tiles [n_tiles * k_slices, R, C], the reduction innermost, padded with zeros."""
    outputs, inputs = matrix.weights.shape
    n, k = -(-outputs // config.columns), -(-inputs // config.rows)
    padded = np.zeros((k * config.rows, n * config.columns), dtype=np.int8)
    padded[:inputs, :outputs] = matrix.weights.T
    tiles = padded.reshape(k, config.rows, n, config.columns).transpose(2, 0, 1, 3)
    return tiles.reshape(-1, config.rows, config.columns).copy()


def matrix_words(matrix: QuantisedMatrix, config: MachineConfig) -> npt.NDArray[np.uint16]:
    """Return a matrix's requantisation words [n_tiles, C]; padded channels get 0."""
    n = -(-matrix.mult.size // config.columns)
    words = np.zeros(n * config.columns, dtype=np.uint16)
    words[: matrix.mult.size] = matrix.mult
    return words.reshape(n, config.columns)


class ModelMemory:
    """Memory images of both groups and the places in them.

    Parameters
    ----------
    shape : ModelShape
        Dimensions.
    model : QuantisedModel
        Weights.
    slots : int
        Sequences whose keys and values have a place.
    block : int
        Most tokens of a token block (entries of the residual's token list).
    step_bytes : int
        Size of the area for streams and token lists.
    placement : Placement
        Which group holds the high planes of experts.

    Attributes
    ----------
    images : tuple of two uint8 arrays
        The memories.
    placement : Placement
        Of experts.
    symbols : dict of str to Symbol
        Named regions.

    Raises
    ------
    LoweringError
        The memory is too small.
    """

    def __init__(
        self,
        shape: ModelShape,
        model: QuantisedModel,
        *,
        slots: int,
        block: int = 64,
        step_bytes: int = 1 << 19,
        placement: Placement = Placement.EVEN_ODD,
    ) -> None:
        self.shape = shape
        self.slots = slots
        self.block = block
        self.placement = placement
        self._strides: dict[str, int] = {}
        self._builder = ImageBuilder(shape.config)
        try:
            self._add_dense(model)
            self._add_experts(model, placement)
            self._add_tables(model)
            self._add_caches()
            self.logits = self._builder.reserve("logits", 1, slots * shape.logit_rows * shape.config.columns * 2)
            self._step = self._builder.reserve("step", 0, step_bytes)
        except ImageError as error:
            raise LoweringError(f"{error} (or serve fewer or shorter sequences)") from error
        self.images = self._builder.build()
        self.symbols = self._builder.symbols
        self._step_used = 0

    @property
    def dense_word_count(self) -> int:
        """Requantisation words of all dense matrices in one tier."""
        return self._dense_words

    def symbol(self, name: str) -> Symbol:
        """Return a named region."""
        return self.symbols[name]

    def planes(self, name: str) -> tuple[Symbol, Symbol]:
        """Return the high and the low plane of a matrix."""
        return self.symbols[f"{name}.high"], self.symbols[f"{name}.low"]

    def stride(self, name: str) -> int:
        """Return the 32-byte units from one expert's ``layer<n>.words`` or ``layer<n>.<part>`` to the next's.

        Of a part: from one plane to that of the next expert of the same parity.
        """
        return self._strides[name]

    def cache(self, layer: int, slot: int, head: int, what: str) -> Symbol:
        """Return the area of a sequence's ``keys`` or ``values`` of one head."""
        return self.symbols[f"layer{layer}.{what}.{slot}.{head}"]

    def rope(self, position: int) -> Symbol:
        """Return the rotation table from a position on."""
        size = self.shape.rope_rows * self.shape.config.columns * 2
        table = self.symbols["rope"]
        return Symbol(table.group, table.address + position * size, size)

    def embedding(self, token: int) -> Symbol:
        """Return the embedding of a token."""
        table = self.symbols["embedding"]
        return Symbol(table.group, table.address + token * self.shape.hidden * 2, self.shape.hidden * 2)

    def begin_step(self) -> None:
        """Give the step area back."""
        self._step_used = 0

    def add(self, data: bytes) -> Symbol:
        """Put data into the step area.

        Raises
        ------
        LoweringError
            The area is full.
        """
        unit = memory_unit(self.shape.config)
        start = self._step.address + self._step_used
        self._step_used += -(-len(data) // unit) * unit
        if self._step_used > self._step.size:
            raise LoweringError(
                f"step area: {self._step_used} bytes of streams and lists; it has {self._step.size}: run fewer tokens "
                "in a step or raise step_bytes"
            )
        self.images[self._step.group][start : start + len(data)] = np.frombuffer(data, dtype=np.uint8)
        return Symbol(self._step.group, start, len(data))

    @property
    def step(self) -> Symbol:
        """What the present step has written for itself."""
        return Symbol(self._step.group, self._step.address, self._step_used)

    # Contents.

    def _planes(self, name: str, tiles: npt.NDArray[np.int8], group: int) -> None:
        high, low = pack_planes(tiles)
        self._builder.add(f"{name}.high", group, high)
        self._builder.add(f"{name}.low", 1 - group, low)

    def _add_dense(self, model: QuantisedModel) -> None:
        config = self.shape.config
        words: list[list[npt.NDArray[np.uint16]]] = [[] for _ in range(config.tiers)]
        for number, layer in enumerate(model.layers):
            for name, matrix in (("qkv", layer.qkv), ("output", layer.output), ("router", layer.router)):
                self._planes(f"layer{number}.{name}", matrix_tiles(matrix, config), number % 2)
                self._spread(words, matrix_words(matrix, config), self.shape.dense_gangs[name])
            for mults in ([h.score_mult for h in layer.heads], [h.value_mult for h in layer.heads]):
                block = np.repeat(np.array(mults, dtype=np.uint16)[:, None], config.columns, axis=1)
                for own in words:
                    own.append(block)
        self._planes("head", matrix_tiles(model.head, config), 0)
        self._spread(words, matrix_words(model.head, config), self.shape.dense_gangs["head"])
        self._dense_words = sum(len(part) for part in words[0])
        assert self._dense_words >= self.shape.layers * sum(dense_words(self.shape).values())
        for tier, own in enumerate(words):
            self._builder.add(f"words{tier}", 0, np.concatenate(own).astype("<u2").tobytes())
        entries = np.zeros((self.block, 4), dtype="<u2")
        entries[:, 1] = np.arange(self.block) * self.shape.hidden_rows
        entries[:, 2] = RESIDUAL_GATE
        self._builder.add("list", 0, entries.tobytes())

    @staticmethod
    def _spread(words: list[list[npt.NDArray[np.uint16]]], own: npt.NDArray[np.uint16], size: int) -> None:
        """Give each tier its share of a matrix's words; tiers outside the gang get as many that nobody reads."""
        share = own.shape[0] // size
        for tier, target in enumerate(words):
            place = tier % size
            target.append(own[place * share : (place + 1) * share])

    def _add_experts(self, model: QuantisedModel, placement: Placement) -> None:
        """Place experts so that one LOAD with a slot finds any of them (with the even-odd placement).

        Of each part, the high planes of the even experts lie one after the other in group 0, those of the odd ones at
        the same addresses in group 1; the low planes likewise the other way round. A layer's requantisation words lie
        in one group, the layers' in turn.
        """
        shape = LayerShape(self.shape.config, self.shape.hidden, self.shape.intermediate)
        unit = memory_unit(self.shape.config)
        for number, layer in enumerate(model.layers):
            experts = layer.experts.experts
            for part in Part:
                planes = [pack_planes(tiles_of(shape, part, weights)) for weights in experts]
                for plane, kind in enumerate(("high", "low")):
                    self._builder.level()
                    for expert, pair in enumerate(planes):
                        group = high_plane_group(placement, expert, part) ^ plane
                        name = f"layer{number}.expert{expert}.{part}.{kind}"
                        self._builder.add(name, group, pair[plane])
                self._strides[f"layer{number}.{part}"] = -(-len(planes[0][0]) // unit) * unit // ADDRESS_UNIT
            for expert, weights in enumerate(experts):
                words = np.concatenate([parameter_words(shape, part, weights) for part in Part]).astype("<u2").tobytes()
                self._builder.add(f"layer{number}.expert{expert}.words", number % 2, words)
                self._strides[f"layer{number}.words"] = -(-len(words) // unit) * unit // ADDRESS_UNIT

    def _add_tables(self, model: QuantisedModel) -> None:
        self._builder.add("embedding", 1, model.embedding.astype("<i2").tobytes())
        table = np.concatenate([model.rope_cos, model.rope_sin], axis=1)
        self._builder.add("rope", 0, table.astype("<i2").tobytes())

    def _add_caches(self) -> None:
        shape = self.shape
        size = -(-shape.context // shape.key_unit) * shape.key_unit * shape.head_dim
        for layer in range(shape.layers):
            for slot in range(self.slots):
                for head in range(shape.kv_heads):
                    for what in ("keys", "values"):
                        group = (slot + head) % 2
                        self._builder.reserve(f"layer{layer}.{what}.{slot}.{head}", group, size)
