# SPDX-License-Identifier: Apache-2.0
"""What instructions are for: a number each while a step is lowered, a text when somebody asks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = [
    "CONTEXT", "DIVIDE", "EXP", "HEAD_MARK", "KEYS", "MAX", "RESCALE", "SCORES", "VALUES", "Label", "Labels",
    "job_mark",
]  # fmt: skip

TEXT, KEYS, VALUES, SCORES, MAX, EXP, RESCALE, CONTEXT, DIVIDE = range(9)
"""Kinds of marks, their lowest bits: the others' text names a sequence and a head, which come next."""

_JOBS = {
    KEYS: "keys of", VALUES: "values of", SCORES: "scores", MAX: "max", EXP: "exp", RESCALE: "rescale",
    CONTEXT: "context", DIVIDE: "divide",
}  # fmt: skip
_KIND_BITS, _HEAD_BITS, _OWN_BITS = 4, 14, 44

HEAD_MARK = 1 << _KIND_BITS
"""From one head's mark to the next one's."""


@dataclass(frozen=True)
class Label:
    """What an instruction does for the model.

    Attributes
    ----------
    layer : int
        Decoder layer; -1 before and after all layers.
    operation : str
        Such as ``qkv``, ``scores``, ``expert 5 up``.
    """

    layer: int
    operation: str

    def __str__(self) -> str:
        """Return one text, as timelines show it."""
        return f"L{self.layer} {self.operation}" if self.layer >= 0 else self.operation


def job_mark(layer: int, sequence: int, head: int) -> int:
    """Return the mark of a job of attention; a kind is to be added."""
    return ((layer + 1) << _OWN_BITS) | (sequence << _HEAD_BITS | head) << _KIND_BITS


class Labels:
    """The labels behind marks."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._numbers: dict[str, int] = {}

    def mark(self, layer: int, text: str) -> int:
        """Return the mark of a layer and a text."""
        number = self._numbers.get(text)
        if number is None:
            number = self._numbers[text] = len(self._texts)
            self._texts.append(text)
        return ((layer + 1) << _OWN_BITS) | number << _KIND_BITS

    def of(self, marks: Iterable[int]) -> tuple[Label, ...]:
        """Return the labels of some marks."""
        known: dict[int, Label] = {}
        found = []
        for mark in marks:
            label = known.get(mark)
            if label is None:
                label = known[mark] = self._label(mark)
            found.append(label)
        return tuple(found)

    def _label(self, mark: int) -> Label:
        layer, own = (mark >> _OWN_BITS) - 1, mark & (1 << _OWN_BITS) - 1
        kind, number = own & (1 << _KIND_BITS) - 1, own >> _KIND_BITS
        if kind == TEXT:
            return Label(layer, self._texts[number])
        sequence, head = number >> _HEAD_BITS, number & (1 << _HEAD_BITS) - 1
        return Label(layer, f"{_JOBS[kind]} sequence {sequence} head {head}")
