# SPDX-License-Identifier: Apache-2.0
"""Arrays that are made when they are asked for: a model larger than memory is read and quantised tensor by tensor."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, overload

import numpy as np
import numpy.typing as npt

__all__ = ["ArrayField", "Deferred", "DeferredMatrices", "Matrices", "shape_of"]

Scalar = TypeVar("Scalar", bound=np.generic)
Made = TypeVar("Made", bound=np.generic, covariant=True)


@dataclass(frozen=True, eq=False)
class Deferred(Generic[Made]):
    """An array that nobody holds.

    Attributes
    ----------
    shape : tuple of int
    make : callable
        Returns the array, the same each time; it is called whenever the array is asked for.
    """

    shape: tuple[int, ...]
    make: Callable[[], npt.NDArray[Made]]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class ArrayField(Generic[Scalar]):
    """Field of a dataclass that holds an array or a `Deferred`, and is always read as an array.

    A deferred array is made anew by each reading: read it once, use it, drop it.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        """Remember where the value lies."""
        self._name = f"_{name}"

    @overload
    def __get__(self, instance: None, owner: type) -> npt.NDArray[Scalar]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> npt.NDArray[Scalar]: ...

    def __get__(self, instance: Any, owner: type) -> npt.NDArray[Scalar]:
        """Return the array."""
        if instance is None:
            raise AttributeError(self._name)  # the field has no default
        value = instance.__dict__[self._name]
        if not isinstance(value, Deferred):
            return value  # type: ignore[no-any-return]
        made: npt.NDArray[Scalar] = value.make()
        assert made.shape == value.shape, (self._name, made.shape, value.shape)
        return made

    def __set__(self, instance: object, value: npt.NDArray[Scalar] | Deferred[Scalar]) -> None:
        """Keep the array, or how to make it."""
        instance.__dict__[self._name] = value


def shape_of(instance: object, name: str) -> tuple[int, ...]:
    """Return the shape of the array in an `ArrayField` without making the array."""
    shape: tuple[int, ...] = instance.__dict__[f"_{name}"].shape
    return shape


class Matrices(Protocol):
    """Matrices of one shape: an array [count, outputs, inputs], or a `DeferredMatrices`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number, outputs and inputs."""

    def __len__(self) -> int:
        """Return their number."""

    def __getitem__(self, index: int, /) -> npt.NDArray[Any]:
        """Return one of them."""

    def __iter__(self) -> Iterator[Any]:
        """Return one after the other."""


@dataclass(frozen=True, eq=False)
class DeferredMatrices:
    """Matrices of one shape that nobody holds.

    Attributes
    ----------
    shape : tuple of int
        Number, outputs and inputs.
    make : callable
        Returns a matrix [outputs, inputs] by its number, the same each time.
    """

    shape: tuple[int, ...]
    make: Callable[[int], npt.NDArray[np.float32]]

    def __len__(self) -> int:
        """Return their number."""
        return self.shape[0]

    def __getitem__(self, index: int, /) -> npt.NDArray[np.float32]:
        """Make one of them."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        made = self.make(index)
        assert made.shape == self.shape[1:], (index, made.shape, self.shape)
        return made

    def __iter__(self) -> Iterator[npt.NDArray[np.float32]]:
        """Make one after the other."""
        return map(self.__getitem__, range(len(self)))
