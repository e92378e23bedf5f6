# SPDX-License-Identifier: Apache-2.0
"""Where routed experts lie in the groups' memories, and their bytes when there are weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product

import numpy as np
import numpy.typing as npt

from hdl.config import ADDRESS_UNIT, MachineConfig
from scheduler.memory.image import ImageBuilder, Symbol
from scheduler.memory.layout import LayerShape, memory_alignment, pack_planes, parameter_words, tiles_of
from scheduler.memory.placement import Part, Placement, plane_group
from scheduler.models.description import Experts
from scheduler.models.quantise import QuantisedLayer
from scheduler.plan.limits import LoweringError
from scheduler.plan.residence import Residence

__all__ = ["PLANES", "ExpertContents", "ExpertMemory"]

PLANES = ("high", "low")
"""Nibble planes, as the names of regions end."""


class ExpertContents:
    """The bytes of the routed experts of some layers.

    Parameters
    ----------
    config : MachineConfig
    layers : sequence of QuantisedLayer
    """

    def __init__(self, config: MachineConfig, layers: Sequence[QuantisedLayer]) -> None:
        self._config = config
        self._experts = layers

    def _layer_shape(self, layer: int) -> LayerShape:
        gate = self._experts[layer].experts[0].gate
        return LayerShape(self._config, gate.shape[1], gate.shape[0])

    def expert_planes(self, layer: int, expert: int, part: Part) -> tuple[bytes, bytes]:
        """Return the nibble planes of a part of an expert."""
        return pack_planes(tiles_of(self._layer_shape(layer), part, self._experts[layer].experts[expert]))

    def expert_words(self, layer: int, expert: int, high_only: bool = False) -> npt.NDArray[np.uint16]:
        """Return the requantisation words of an expert, or of its high planes alone: up, then down."""
        weights, shape = self._experts[layer].experts[expert], self._layer_shape(layer)
        return np.concatenate([parameter_words(shape, part, weights, high_only) for part in Part])


class ExpertMemory:
    """Places of the routed experts of a model's layers.

    Parameters
    ----------
    residence : Residence
        Dimensions, and the pieces that requantisation words lie in.
    builder : ImageBuilder
        Which allocates.
    contents : ExpertContents or None
        None: addresses only.
    placement : Placement
        Which group holds which planes.

    Raises
    ------
    LoweringError
        Both planes lie in one group, and the machine cannot load one after the other.

    Attributes
    ----------
    placement : Placement
    """

    def __init__(
        self, residence: Residence, builder: ImageBuilder, contents: ExpertContents | None, placement: Placement
    ) -> None:
        if placement == Placement.WHOLE and residence.tiling.config.stationary_feed == "edge":
            raise LoweringError(
                f"placement: {placement}; the edge feed cannot add a low plane to a high one: use another placement, "
                "or stationary_feed = vertical"
            )
        self.placement = placement
        self._residence = residence
        self._builder = builder
        self._contents = contents
        self._config = residence.tiling.config
        self._strides: dict[tuple[int, str], int] = {}
        self._planes: dict[tuple[int, str, int, int], int] = {}  # by plane and group

    # Places.

    def _groups(self, part: Part, expert: int) -> tuple[int, int]:
        """Return the groups of an expert's high and low plane."""
        return plane_group(self.placement, expert, part, 0), plane_group(self.placement, expert, part, 1)

    def planes(self, layer: int, part: Part, expert: int, tile: int = 0) -> tuple[Symbol, Symbol]:
        """Return the high and the low plane of a part of an expert, from a tile on."""
        offset = (expert // 2 if self.placement.by_parity else expert) * self.stride(layer, part) * ADDRESS_UNIT
        offset += tile * self._config.plane_bytes
        high, low = (
            Symbol(group, self._planes[layer, part, plane, group] + offset, 0)
            for plane, group in enumerate(self._groups(part, expert))
        )
        return high, low

    def words(self, layer: int, expert: int, high_only: bool = False) -> Symbol:
        """Return the requantisation words of an expert, or of its high planes alone."""
        return self._words_of(f"layer{layer}.words", self.stride(layer, "words"), expert, high_only)

    def gang_words(self, layer: int, expert: int, high_only: bool = False) -> Symbol:
        """Return the first tier's requantisation words of an expert that all tiers run together, likewise."""
        return self._words_of(f"layer{layer}.gang_words", self.stride(layer, "gang_words"), expert, high_only)

    def gang_words_apart(self, layer: int) -> int:
        """Return the 32-byte units from one tier's such words to the next one's."""
        return self.stride(layer, "gang_words") // 2 // self._config.tiers

    def _words_of(self, name: str, stride: int, expert: int, high_only: bool) -> Symbol:
        """Return an expert's words: those of the high planes alone lie half a step behind the others."""
        return self._part(name, (expert * stride + high_only * stride // 2) * ADDRESS_UNIT)

    def part_words(self, layer: int, width: int, place: int) -> Symbol:
        """Return the requantisation words of all experts of a layer, one after the other, of one tier of a gang."""
        return self._builder.symbols[f"layer{layer}.words{width}.{place}"]

    def stride(self, layer: int, what: str) -> int:
        """Return the 32-byte units from one expert's ``words``, ``gang_words`` or part to the next's.

        Of a part: from one plane to that of the next expert in the same group.
        """
        return self._strides[layer, what]

    def _part(self, name: str, offset: int) -> Symbol:
        whole = self._builder.symbols[name]
        return Symbol(whole.group, whole.address + offset, 0)

    # Contents.

    def add(self, layer: int, mlp: Experts) -> None:
        """Place a layer's experts; in the even-odd placement so that one LOAD with a slot finds any of them.

        Of each part, the high planes of the even experts lie one after the other in group 0 then, those of the odd ones
        at the same addresses in group 1; the low planes likewise the other way round. In other placements loads have
        to know their expert, as slots by number do. A layer's requantisation words lie
        in one group, the layers' in turn; behind an expert's words come as many for its high planes alone.

        Raises
        ------
        ImageError
            The memory is too small.
        """
        config, expert = self._config, self._residence.tiling.expert(mlp.intermediate)
        for part, matrix in ((Part.UP, expert.up), (Part.DOWN, expert.down)):
            size = self._round(matrix.tiles * config.plane_bytes)
            self._strides[layer, part] = size // ADDRESS_UNIT
            for plane, kind in enumerate(PLANES):
                self._builder.level(size * mlp.count)
                for group in (0, 1):
                    own = [e for e in range(mlp.count) if self._groups(part, e)[plane] == group]
                    make = partial(self._plane_bytes, layer, part, own, plane, size)
                    name = f"layer{layer}.{part}.{kind}.{group}"
                    self._fill(name, group, size * len(own), make)
                    self._planes[layer, part, plane, group] = self._builder.symbols[name].address
        size = self._round(expert.words * 2 * config.columns)
        self._strides[layer, "words"] = 2 * size // ADDRESS_UNIT
        self._fill(
            f"layer{layer}.words", layer % 2, 2 * size * mlp.count, partial(self._words_bytes, layer, mlp.count, size)
        )
        for width in self._residence.gang_widths(self._residence.tiling.model.layers[layer]):
            for place in range(width):
                size = self._round(mlp.count * expert.words // width * 2 * config.columns)
                own_words = partial(self._part_words_bytes, layer, mlp, width, place)
                self._fill(f"layer{layer}.words{width}.{place}", (layer + place) % 2, size, own_words)
        if self._residence.gangs:
            size = self._gang_bytes(mlp.intermediate) * config.tiers
            self._strides[layer, "gang_words"] = 2 * size // ADDRESS_UNIT
            make = partial(self._gang_words_bytes, layer, mlp)
            self._fill(f"layer{layer}.gang_words", 1 - layer % 2, 2 * size * mlp.count, make)

    def _round(self, size: int) -> int:
        align = memory_alignment(self._config)
        return -(-size // align) * align

    def _fill(self, name: str, group: int, size: int, make: Callable[[ExpertContents], bytes]) -> None:
        contents = self._contents
        if contents is None:
            self._builder.reserve(name, group, size)
        else:
            self._builder.add_later(name, group, size, lambda: make(contents))

    @staticmethod
    def _plane_bytes(layer: int, part: Part, own: list[int], plane: int, size: int, contents: ExpertContents) -> bytes:
        return b"".join(contents.expert_planes(layer, e, part)[plane].ljust(size, b"\0") for e in own)

    @staticmethod
    def _words_bytes(layer: int, count: int, size: int, contents: ExpertContents) -> bytes:
        own = (
            contents.expert_words(layer, e, high_only).astype("<u2").tobytes()
            for e in range(count)
            for high_only in (False, True)
        )
        return b"".join(data.ljust(size, b"\0") for data in own)

    def _part_words_bytes(
        self, layer: int, mlp: Experts, width: int, place: int, contents: ExpertContents
    ) -> bytes:  # fmt: skip
        """Return the words of one tier of gangs of `width`: its output tiles of up, then of down, expert by expert."""
        expert, found = self._residence.tiling.expert(mlp.intermediate), []
        tiles = self._residence.tiling.expert(mlp.intermediate).up.n_tiles
        for number in range(mlp.count):
            own = contents.expert_words(layer, number)
            words = np.zeros((expert.words, own.shape[1]), dtype="<u2")  # output tiles that are padding have some too
            words[: len(own)] = own
            for part, matrix in ((words[:tiles], expert.up), (words[tiles:], expert.down)):
                each = matrix.n_tiles // width
                found.append(part[place * each : (place + 1) * each].tobytes())
        data = b"".join(found)
        return data.ljust(self._round(len(data)), b"\0")

    def _gang_bytes(self, inner: int) -> int:
        """Return the bytes of a tier's requantisation words of an expert that all tiers run together."""
        return self._round(self._residence.gang_words(inner) * 2 * self._config.columns)

    def _gang_words_bytes(self, layer: int, mlp: Experts, contents: ExpertContents) -> bytes:
        """Return the words of each expert, tier by tier: its output tiles of the shares of up, then of down."""
        tiling = self._residence.tiling
        up, down = self._residence.gangs[mlp.intermediate]
        tiles = tiling.expert(mlp.intermediate).up.n_tiles
        size, parts = self._gang_bytes(mlp.intermediate), []
        for expert, high_only in product(range(mlp.count), (False, True)):
            words = contents.expert_words(layer, expert, high_only)
            padded = np.zeros((tiles + tiling.hidden_rows, words.shape[1]), dtype="<u2")
            padded[: len(words)] = words
            for tier in range(self._config.tiers):
                own = []
                for first, shares in ((0, up), (tiles, down)):
                    for share in shares:
                        at = first + share.first + tier * share.each
                        inside = tier < share.tiers
                        own.append(padded[at : at + share.each] if inside else np.zeros_like(padded[: share.each]))
                parts.append(np.concatenate(own).tobytes().ljust(size, b"\0"))
        return b"".join(parts)
