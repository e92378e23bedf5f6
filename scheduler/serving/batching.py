# SPDX-License-Identifier: Apache-2.0
"""Policies of batching: which sequences take part in a step, and with how many tokens.

A policy does not change what a sequence's tokens are, only when they come.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from scheduler.ops.batch import Prefix
from scheduler.plan.limits import LoweringError
from scheduler.serving.request import Request

__all__ = ["BATCHINGS", "STEP_TOKENS", "Active", "Batching", "check_batching", "default_step_tokens"]

STEP_TOKENS = 128
"""Most new tokens of a step, unless more sequences than that are decoded."""


@dataclass(eq=False)
class Active:
    """A request that has a place.

    Attributes
    ----------
    request : Request
    place : int
        Of its keys and values in memory.
    done : int
        Tokens that the machine has run.
    output : list of int
        New tokens.
    served : int
        Number of the last step that it took part in; -1: none yet.
    prefix : Prefix or None
        First tokens that another place has the keys and values of; they count as run.
    """

    request: Request
    place: int
    done: int = 0
    output: list[int] = field(default_factory=list)
    served: int = -1
    prefix: Prefix | None = None

    @property
    def run(self) -> tuple[int, ...]:
        """Tokens that the machine has run."""
        return (*self.request.prompt, *self.output)[: self.done]

    @property
    def decodes(self) -> bool:
        """Whether it is through with its prompt."""
        return self.done >= len(self.request.prompt)

    @property
    def pending(self) -> tuple[int, ...]:
        """Tokens that the machine has not run: the rest of the prompt, or the last new token."""
        return (self.output[-1],) if self.decodes else self.request.prompt[self.done :]


Batching: TypeAlias = Callable[[Sequence[Active], int], list[tuple[Active, int]]]
"""A policy: of the sequences that have a place, in order of arrival, and the most new tokens of the step, it makes the
sequences that take part, in the order of the step's tokens, and how many of its pending tokens each runs."""


def mixed(active: Sequence[Active], most: int) -> list[tuple[Active, int]]:
    """Give every decoding sequence a token, and what is left of the step to prompts, in order of arrival.

    Prompts come first in the step: the planner then runs the experts of the prompts beside the decoding attention.
    """
    decoding, prompts = _split(active)
    if most < len(decoding) + bool(prompts):  # only in steps that were made smaller: a prompt must not wait forever
        return [(own, 1) for own in _longest_unserved([*prompts[:1], *decoding], most)]
    return [*_in_order(prompts, most - len(decoding)), *((own, 1) for own in decoding)]


def prefill_first(active: Sequence[Active], most: int) -> list[tuple[Active, int]]:
    """Run prompts alone, in order of arrival, as long as there are any; only then decode."""
    decoding, prompts = _split(active)
    if prompts:
        return _in_order(prompts, most)
    return [(own, 1) for own in _longest_unserved(decoding, most)]


BATCHINGS: Mapping[str, Batching] = {"mixed": mixed, "prefill-first": prefill_first}
"""Policies by name."""


def _split(active: Sequence[Active]) -> tuple[list[Active], list[Active]]:
    return [own for own in active if own.decodes], [own for own in active if not own.decodes]


def _in_order(prompts: Sequence[Active], most: int) -> list[tuple[Active, int]]:
    """Cut the prompts' tokens, one prompt after the other, where the step is full."""
    found = []
    for own in prompts:
        count = min(most, len(own.pending))
        if not count:
            break
        found.append((own, count))
        most -= count
    return found


def _longest_unserved(active: Sequence[Active], most: int) -> list[Active]:
    """Return at most so many, those that have waited for longest, in the order in which they are given."""
    if len(active) <= most:
        return list(active)
    chosen = set(sorted(active, key=lambda own: own.served)[:most])
    return [own for own in active if own in chosen]


def default_step_tokens(places: int) -> int:
    """Return the most new tokens of a step for so many sequences, where nothing else is asked for."""
    return max(STEP_TOKENS, places)


def check_batching(batching: str, step_tokens: int, places: int) -> None:
    """Refuse what cannot be, or contradicts itself.

    Parameters
    ----------
    batching : str
        One of ``BATCHINGS``.
    step_tokens : int
        Most new tokens of a step.
    places : int
        Sequences that run at the same time.

    Raises
    ------
    LoweringError
        Names the field, its value and what is allowed.
    """
    if places < 1:
        raise LoweringError(f"batch: {places}; run at least 1 sequence")
    if batching not in BATCHINGS:
        raise LoweringError(f"batching: {batching!r}; use {' or '.join(BATCHINGS)}")
    if step_tokens < 1:
        raise LoweringError(f"step_tokens: {step_tokens}; use at least 1")
    if batching == "mixed" and step_tokens < places:
        raise LoweringError(
            f"step_tokens: {step_tokens}; batching mixed gives each of {places} sequences a token in every step: use "
            f"{places} or more, a batch of at most {step_tokens}, or batching prefill-first"
        )
