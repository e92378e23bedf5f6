# SPDX-License-Identifier: Apache-2.0
"""Arrays that are made when they are asked for: a model larger than memory is read and quantised tensor by tensor."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, overload

import numpy as np
import numpy.typing as npt

__all__ = ["ArrayField", "Deferred"]

Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True, eq=False)
class Deferred(Generic[Scalar]):
    """An array that nobody holds.

    Attributes
    ----------
    shape : tuple of int
    make : callable
        Returns the array, the same each time; it is called whenever the array is asked for.
    """

    shape: tuple[int, ...]
    make: Callable[[], npt.NDArray[Scalar]]

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

    def shape(self, instance: object) -> tuple[int, ...]:
        """Return the array's shape without making it."""
        shape: tuple[int, ...] = instance.__dict__[self._name].shape
        return shape
