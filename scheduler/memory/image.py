# SPDX-License-Identifier: Apache-2.0
"""Builds the memory images of the two channel groups: an allocator, named regions, and their bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hdl.config import ADDRESS_UNIT, MachineConfig
from hdl.errors import A3dError
from scheduler.memory.layout import memory_alignment, region_alignment

__all__ = ["ImageBuilder", "ImageError", "Symbol"]


class ImageError(A3dError):
    """The data does not fit the machine's memory."""


@dataclass(frozen=True)
class Symbol:
    """A named region of memory.

    Attributes
    ----------
    group : int
        Channel group.
    address : int
        First byte.
    size : int
        Bytes.
    """

    group: int
    address: int
    size: int

    @property
    def addr(self) -> int:
        """Address as instructions write it."""
        return self.address // ADDRESS_UNIT


class ImageBuilder:
    """Allocates regions one after the other and collects their contents.

    Parameters
    ----------
    config : MachineConfig
        The machine: alignment and memory size.
    address_bits : int, optional
        Another memory size, to see how much is needed.
    """

    def __init__(self, config: MachineConfig, *, address_bits: int | None = None) -> None:
        self.config = config
        self._address_bits = address_bits or config.address_bits
        self.symbols: dict[str, Symbol] = {}
        self._next = [0, 0]
        self._data: list[tuple[Symbol, Callable[[], bytes]]] = []

    def reserve(self, name: str, group: int, size: int) -> Symbol:
        """Allocate a region that starts as zeros.

        Raises
        ------
        ImageError
            The group's memory is full.
        """
        if name in self.symbols:
            raise ValueError(f"symbol {name!r} exists already")
        align, unit = region_alignment(self.config, size), memory_alignment(self.config)
        self._next[group] = -(-self._next[group] // align) * align
        symbol = Symbol(group, self._next[group], size)
        self._next[group] += -(-size // unit) * unit
        if self._next[group] > 1 << self._address_bits:
            raise ImageError(
                f"memory of group {group}: {name} ends at byte {self._next[group]}; address_bits = "
                f"{self._address_bits} gives {1 << self._address_bits}: raise address_bits"
            )
        self.symbols[name] = symbol
        return symbol

    def add(self, name: str, group: int, data: bytes) -> Symbol:
        """Allocate a region and fill it."""
        return self.add_later(name, group, len(data), lambda: data)

    def add_later(self, name: str, group: int, size: int, make: Callable[[], bytes]) -> Symbol:
        """Allocate a region of up to `size` bytes; `make` is called for them when the images are built."""
        symbol = self.reserve(name, group, size)
        self._data.append((symbol, make))
        return symbol

    @property
    def sizes(self) -> tuple[int, int]:
        """Bytes of each group that are allocated."""
        return self._next[0], self._next[1]

    def level(self, size: int) -> None:
        """Let both groups go on at the same address, with regions of up to `size` bytes."""
        align = region_alignment(self.config, size)
        self._next = [-(-max(self._next) // align) * align] * 2

    def build(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """Return both images, as long as what was allocated (whole beats)."""
        images = (np.zeros(self._next[0], dtype=np.uint8), np.zeros(self._next[1], dtype=np.uint8))
        for symbol, make in self._data:
            data = make()
            assert len(data) <= symbol.size
            images[symbol.group][symbol.address : symbol.address + len(data)] = np.frombuffer(data, dtype=np.uint8)
        return images
