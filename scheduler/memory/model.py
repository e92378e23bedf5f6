# SPDX-License-Identifier: Apache-2.0
"""The memory of a machine that serves a model: weights, tables, caches, and an area for each step's stream and lists.

Everything but the step area stays where it is from one step to the next; the machine itself writes the caches and the
logits. Addresses are formulas of layer, expert, sequence and head. A shape without weights has addresses only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt

from hdl.config import MOST_ADDRESS_BITS
from hdl.isa import INSTRUCTION_BITS
from scheduler.memory.contents import Weights
from scheduler.memory.experts import PLANES, ExpertMemory
from scheduler.memory.image import ImageBuilder, ImageError, Symbol
from scheduler.memory.layout import memory_alignment, spread_size
from scheduler.memory.placement import Placement
from scheduler.models.description import Experts
from scheduler.plan.limits import LoweringError, RoomError
from scheduler.plan.places import most_block
from scheduler.plan.residence import Residence, attention_words
from scheduler.plan.shares import Share

__all__ = ["ModelMemory"]

INSTRUCTION_BYTES = INSTRUCTION_BITS // 8
LIST_ENTRY_BYTES = 8
RESIDUAL_GATE = 1 << 15
"""Gate of what is added to the residual as it is, in its token list: 1.0 in Q15."""


class ModelMemory:
    """Places in both groups' memories, and their images when there are weights.

    Parameters
    ----------
    residence : Residence
        Dimensions, and the pieces that requantisation words lie in.
    weights : Weights or None
        Contents; None: addresses only.
    sequences : int
        Sequences whose keys and values have a place.
    context : int
        Longest sequence.
    outputs : int
        Most logits of a step; default: `sequences`.
    step_bytes : int
        Size of the area for streams and token lists.
    placement : Placement
        Which group holds the high planes of experts.

    Attributes
    ----------
    images : tuple of two uint8 arrays
        The memories; of a shape without weights only the bytes up to the end of lists and step area of group 0.
    experts : ExpertMemory
        Where the routed experts lie.
    block : int
        Entries of the residual's token list: most tokens of a block.

    Raises
    ------
    LoweringError
        The memory is too small.
    """

    def __init__(
        self,
        residence: Residence,
        weights: Weights | None,
        *,
        sequences: int,
        context: int,
        outputs: int | None = None,
        step_bytes: int = 1 << 19,
        placement: Placement = Placement.EVEN_ODD,
    ) -> None:
        self.residence = residence
        self.tiling = residence.tiling
        self.config = self.tiling.config
        self.sequences = sequences
        self.context = context
        self.block = most_block(residence)
        self._unit = memory_alignment(self.config)
        self._builder = ImageBuilder(self.config, address_bits=MOST_ADDRESS_BITS)
        self._weights = weights
        self.experts = ExpertMemory(residence, self._builder, weights, placement)
        self._step_used = 0
        try:
            if weights is None:  # near the front, so that the image of what the scheduler writes stays small
                self._add_list()
                self._add_step(step_bytes)
            self._add_dense()
            for number, layer in enumerate(self.tiling.model.layers):
                if isinstance(layer.mlp, Experts):
                    self.experts.add(number, layer.mlp)
            self._add_tables()
            self._add_caches()
            rows = (outputs or sequences) * self.tiling.logit_rows
            self.logits = self._builder.reserve("logits", 1, rows * self.config.columns * 2)
            if weights is not None:
                self._add_step(step_bytes)
        except ImageError as error:
            raise RoomError(
                f"{str(error).partition(': raise')[0]}, the most of any machine: serve fewer or shorter sequences, or "
                "fewer layers"
            ) from error
        self._check_size()
        self.symbols = self._builder.symbols
        if weights is None:
            end = self._step.address + self._step.size
            self.images = (np.zeros(end, dtype=np.uint8), np.zeros(0, dtype=np.uint8))
            entries = self.symbols["list"]
            self.images[0][entries.address : entries.address + entries.size] = np.frombuffer(
                self._residual_list(), "u1"
            )
        else:
            self.images = self._builder.build()

    def _check_size(self) -> None:
        """Refuse what needs more memory than the machine has, and say how much would do."""
        most, bits = max(self._builder.sizes), self.config.address_bits
        if most > 1 << bits:
            raise RoomError(
                f"memory: the model takes {most:,} bytes of each group, at {len(self.tiling.model.layers)} layers; "
                f"address_bits = {bits} gives {1 << bits:,}: raise address_bits to {(most - 1).bit_length()} (or serve "
                "fewer or shorter sequences, or fewer layers)"
            )

    # Places.

    @property
    def sizes(self) -> tuple[int, int]:
        """Bytes of both groups that are in use."""
        sizes: tuple[int, int] = self._builder.sizes
        return sizes

    def symbol(self, name: str) -> Symbol:
        """Return a named region."""
        return self.symbols[name]

    def _part(self, name: str, offset: int, size: int) -> Symbol:
        whole = self.symbols[name]
        return Symbol(whole.group, whole.address + offset, size)

    def planes(self, name: str, first: int = 0) -> tuple[Symbol, Symbol]:
        """Return the high and the low plane of a dense matrix such as ``layer3.qkv`` or ``head``, from a tile on."""
        offset = first * self.config.plane_bytes
        high, low = (self._part(f"{name}.{plane}", offset, 0) for plane in PLANES)
        return high, low

    def words(self, name: str, number: int, place: int) -> Symbol:
        """Return the requantisation words of a tier of a share of a streamed dense matrix."""
        shares = self.residence.head if name == "head" else self._shares(name)
        before = sum(share.tiers * self._block_bytes(share) for share in shares[:number])
        own = self._block_bytes(shares[number])
        return self._part(f"{name}.words", before + place * own, own)

    def cache(self, layer: int, sequence: int, head: int, what: str) -> Symbol:
        """Return the area of a sequence's ``keys`` or ``values`` of one head."""
        kv_heads, keys, values, bases = self._caches[layer]
        group = (sequence + head) % 2
        address = bases[group] + (sequence * kv_heads + head) // 2 * (keys + values)
        return Symbol(group, address + (keys if what == "values" else 0), values if what == "values" else keys)

    def caches(self, layer: int, sequence: int) -> npt.NDArray[np.int64]:
        """Return group, address of the keys and address of the values of each head of a sequence: shape [heads, 3]."""
        kv_heads, keys, values, bases = self._caches[layer]
        heads = np.arange(kv_heads)
        found = np.empty((kv_heads, 3), np.int64)
        found[:, 0] = (sequence + heads) % 2
        found[:, 1] = np.array(bases)[found[:, 0]] + (sequence * kv_heads + heads) // 2 * (keys + values)
        found[:, 2] = found[:, 1] + keys
        return found

    @cached_property
    def _caches(self) -> list[tuple[int, int, int, tuple[int, int]]]:
        """Heads of each layer's cache, bytes of one's keys and values, and where the cache begins in each group."""
        found = []
        for number, layer in enumerate(self.tiling.model.layers):
            bases = tuple(self.symbols[f"layer{number}.cache.{group}"].address for group in (0, 1))
            found.append((self.tiling.heads(layer).kv_heads, *self._cache_bytes(number), (bases[0], bases[1])))
        return found

    def _cache_bytes(self, layer: int) -> tuple[int, int]:
        """Return the bytes of one head's keys, and of its values with what lies between them and the next head's."""
        heads, tiling = self.tiling.heads(self.tiling.model.layers[layer]), self.tiling
        tile = self.config.tile_bytes
        keys, values = (
            self._round(tiles * tile)
            for tiles in (tiling.key_tiles(heads, self.context), tiling.value_tiles(heads, self.context))
        )
        return keys, spread_size(self.config, keys + values) - keys

    def rope(self, position: int, kind: int = 0) -> Symbol:
        """Return the rotation table from a position on; `kind` numbers the model's tables."""
        return self._part(f"rope{kind}", position * self.rope_stride, self.rope_stride)

    def embedding(self, token: int) -> Symbol:
        """Return the embedding of a token."""
        return self._part("embedding", token * self.embedding_stride, self.embedding_stride)

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
        start = self._step.address + self._step_used
        self._step_used += self._round(len(data))
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

    @property
    def window(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Span of each group that a step may write: caches and logits."""
        spans = []
        for group in (0, 1):
            written = [s for n, s in self.symbols.items() if s.group == group and (".cache." in n or n == "logits")]
            written = [s for s in written if s.size]
            low = min((s.address for s in written), default=0)
            spans.append((low, max((s.address + s.size for s in written), default=0)))
        return spans[0], spans[1]

    # Contents.

    def _round(self, size: int) -> int:
        return -(-size // self._unit) * self._unit

    def _fill(self, name: str, group: int, size: int, make: Callable[[Weights], bytes]) -> None:
        weights = self._weights
        if weights is None:
            self._builder.reserve(name, group, size)
        else:
            self._builder.add_later(name, group, size, lambda: make(weights))

    def _shares(self, name: str) -> tuple[Share, ...]:
        layer, matrix = name.split(".", 1)
        return self.residence.shares[self.tiling.model.layers[int(layer[5:])]][matrix]

    def _block_bytes(self, share: Share) -> int:
        return self._round(share.each * 2 * self.config.columns)

    def _add_matrix(self, name: str, tiles: int, group: int) -> None:
        size = tiles * self.config.plane_bytes
        for plane, kind in enumerate(PLANES):
            make = partial(self._matrix_plane, name, plane)
            self._fill(f"{name}.{kind}", group ^ plane, size, make)

    def _add_norms(self, layer: int, rows: int) -> None:
        """Reserve the weights of a layer's norms of queries and keys: rows that LOAD ROWS takes."""
        if rows:
            make = partial(self._norm_rows, layer)
            self._fill(f"layer{layer}.norms", 1 - layer % 2, rows * self.config.columns * 2, make)

    @staticmethod
    def _norm_rows(layer: int, weights: Weights) -> bytes:
        return weights.norm_rows(layer)

    @staticmethod
    def _matrix_plane(name: str, plane: int, weights: Weights) -> bytes:
        return weights.matrix_planes(name)[plane]

    def _add_dense(self) -> None:
        config, residence, tiling = self.config, self.residence, self.tiling
        layers = tiling.model.layers
        for number, layer in enumerate(layers):
            for name, matrix in residence.matrices[layer].items():
                self._add_matrix(f"layer{number}.{name}", matrix.tiles, number % 2)
            self._add_norms(number, sum(tiling.norm_rows(layer)))
        self._add_matrix("head", tiling.head.tiles, 0)
        row = 2 * config.columns
        if residence.resident:
            size = residence.dense_words * row
            for tier in range(config.tiers):
                make = partial(self._resident_words, tier)
                self._fill(f"words{tier}", 0, size, make)
        else:
            for number, layer in enumerate(layers):
                for name, shares in residence.shares[layer].items():
                    self._add_words(f"layer{number}.{name}", shares, number % 2)
                size = attention_words(tiling, layer) * row
                make = partial(self._attention_words, number)
                self._fill(f"layer{number}.attention.words", number % 2, size, make)
            self._add_words("head", residence.head, 0)
        if self._weights is not None:
            self._add_list()

    def _add_list(self) -> None:
        self._fill("list", 0, self.block * LIST_ENTRY_BYTES, lambda _: self._residual_list())

    def _resident_words(self, tier: int, weights: Weights) -> bytes:
        return weights.resident_words(self.residence, tier)

    @staticmethod
    def _attention_words(layer: int, weights: Weights) -> bytes:
        return weights.attention_words(layer).astype("<u2").tobytes()

    def _residual_list(self) -> bytes:
        entries = np.zeros((self.block, 4), dtype="<u2")
        entries[:, 1] = np.arange(self.block) * self.tiling.hidden_rows
        entries[:, 2] = RESIDUAL_GATE
        return entries.tobytes()

    def _add_words(self, name: str, shares: tuple[Share, ...], group: int) -> None:
        size = sum(share.tiers * self._block_bytes(share) for share in shares)

        def make(weights: Weights) -> bytes:
            words = weights.matrix_words(name)
            parts = []
            for share in shares:
                for place in range(share.tiers):
                    first = share.first + place * share.each
                    own = words[first : first + share.each].astype("<u2").tobytes()
                    parts.append(own.ljust(self._block_bytes(share), b"\0"))
            return b"".join(parts)

        self._fill(f"{name}.words", group, size, make)

    def _add_tables(self) -> None:
        tiling, columns = self.tiling, self.config.columns
        self.embedding_stride = self._round(tiling.hidden_rows * columns * 2)
        rows = max(tiling.heads(layer).rope_rows for layer in tiling.kinds)
        self.rope_stride = self._round(rows * columns * 2)
        size = tiling.model.vocabulary * self.embedding_stride
        self._fill("embedding", 1, size, lambda w: w.embedding(self.embedding_stride))
        self._fill("rope0", 0, self.context * self.rope_stride, lambda w: w.rope(self.context, self.rope_stride))

    def _add_caches(self) -> None:
        for number, layer in enumerate(self.tiling.model.layers):
            count = self.sequences * self.tiling.heads(layer).kv_heads
            for group in (0, 1):
                own = (count + 1 - group) // 2
                self._builder.reserve(f"layer{number}.cache.{group}", group, own * sum(self._cache_bytes(number)))

    def _add_step(self, step_bytes: int) -> None:
        self._step = self._builder.reserve("step", 0, step_bytes)
