# SPDX-License-Identifier: Apache-2.0
"""Words for counts, spans and tiers in explanations."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["count_of", "span_of", "tiers_text"]


def count_of(n: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun in the right form."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def tiers_text(tiers: Iterable[int]) -> str:
    """Return tier numbers in words."""
    numbers = list(tiers)
    if len(numbers) > 1 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"tiers {numbers[0]} to {numbers[-1]}"
    return ("tier " if len(numbers) == 1 else "tiers ") + ", ".join(map(str, numbers))


def span_of(base: int, count: int) -> str:
    """Return ``3`` or ``3 to 7``."""
    return str(base) if count == 1 else f"{base} to {base + count - 1}"
