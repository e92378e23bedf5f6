# SPDX-License-Identifier: Apache-2.0
"""Prefixes that requests have in common: found when a prompt begins, so that its first tokens need not run again.

Keys and values of a token depend on the tokens before it alone, so those of a common prefix are the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scheduler.ops.batch import Prefix
from scheduler.serving.batching import Active

__all__ = ["Found", "common_tokens", "find_prefix"]


@dataclass(frozen=True)
class Found:
    """A prefix for a prompt.

    Attributes
    ----------
    prefix : Prefix
    there : bool
        Whether all of it has been run.
    """

    prefix: Prefix
    there: bool


def common_tokens(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many first tokens two sequences have in common."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def find_prefix(
    own: Active, before: Sequence[Active], left: Mapping[int, tuple[int, ...]], block: int
) -> Found | None:  # fmt: skip
    """Return the longest prefix that a prompt has in common with others, None if there is none.

    Parameters
    ----------
    own : Active
        Whose prompt has not begun.
    before : sequence of Active
        Those that came before it.
    left : mapping of int to tuple of int
        Tokens whose keys and values lie in places that no request has.
    block : int
        Prefixes are multiples of so many tokens, and leave at least one token of the prompt to run.
    """
    prompt, found = own.request.prompt[:-1], list[Found]()

    def note(place: int, tokens: int, run: int) -> None:
        tokens = tokens // block * block
        if tokens:
            found.append(Found(Prefix(place, tokens), tokens <= run))

    for other in before:
        common = common_tokens(prompt, (*other.request.prompt, *other.output))
        if other.prefix is None:
            note(other.place, common, other.done)
        else:  # what follows its own prefix lies in another place
            note(other.prefix.sequence, min(common, other.prefix.tokens), other.prefix.tokens)
    for place, tokens in left.items():
        note(place, common_tokens(prompt, tokens), len(tokens))
    return max(found, key=lambda one: (one.prefix.tokens, one.there), default=None)
