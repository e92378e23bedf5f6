# SPDX-License-Identifier: Apache-2.0
"""Reads a file of steps: what a server asks of the machine, one JSON object a line.

::

    {"sequences": [{"id": "a", "cached": 0, "new": 96}, {"id": "b", "cached": 512, "new": 1}]}
    {"sequences": [{"id": "a", "cached": 96, "new": 1}, {"id": "b", "cached": 513, "tokens": [17]}]}
    {"sequences": [{"id": "c", "cached": 64, "new": 9, "prefix": {"id": "a", "tokens": 64}}]}

A sequence has an ``id`` (a text or a number; default: its place in the line), tokens that are ``cached`` (default 0),
and either a number of ``new`` tokens or the ``tokens`` themselves. ``routing`` may give the experts of all new tokens
of the step, ``[layers][tokens][chosen]``, layers without experts left out, and ``gates`` their gates from 0 to 1.
With ``prefix`` a sequence's first tokens are those of another one, which has run them and has no prefix itself: their
keys and values lie in its place. They are a multiple of what the machine loads as a whole
(`Tiling.key_alignment`: 16 on `small`, 128 on `large`). A prefix is said in the sequence's first line; later ones may
say it again. A sequence that starts again (``cached`` 0) has none; who has a prefix of it must start again too.
A sequence's first step in the file may have any number of cached tokens; later ones no more than the file has run.
Empty lines are skipped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hdl.errors import A3dError, one_line, shown
from scheduler.models.description import Experts, Model
from scheduler.ops.json_lines import MISSING, JsonLine, read_lines

__all__ = ["Step", "StepSequence", "StepsError", "parse_steps", "read_steps"]

Q15 = 1 << 15
_GONE = 1 << 62
"""Tokens of a prefix whose sequence has started again: more than any has run."""


class StepsError(A3dError):
    """A file of steps that cannot be used; the message names line and field."""


@dataclass(frozen=True)
class StepSequence:
    """One sequence's part of a step.

    Attributes
    ----------
    name : str
        Its ``id``.
    cached : int
        Tokens that have been run before.
    new : int
        New tokens.
    tokens : tuple of int
        Their numbers; empty: not given.
    prefix : str or None
        Sequence in whose place the keys and values of the first tokens lie.
    prefix_tokens : int
        How many these are.
    """

    name: str
    cached: int
    new: int
    tokens: tuple[int, ...] = ()
    prefix: str | None = None
    prefix_tokens: int = 0


@dataclass(frozen=True, eq=False)
class Step:
    """One step.

    Attributes
    ----------
    line : int
        Of the file, from 1.
    sequences : tuple of StepSequence
    experts : tuple of int arrays [tokens, chosen]
        Of each layer with experts; empty: not given.
    gates : tuple of uint16 arrays [tokens, chosen]
        Q15; as many as `experts`.
    """

    line: int
    sequences: tuple[StepSequence, ...]
    experts: tuple[npt.NDArray[np.int64], ...] = ()
    gates: tuple[npt.NDArray[np.uint16], ...] = ()

    @property
    def tokens(self) -> int:
        """New tokens of all sequences."""
        return sum(sequence.new for sequence in self.sequences)


def read_steps(path: Path, model: Model, context: int | None = None) -> list[Step]:
    """Read a file of steps.

    Parameters
    ----------
    path : Path
    model : Model
        Whose steps they are.
    context : int, optional
        Longest sequence; default: the model's.

    Raises
    ------
    StepsError
        A file that cannot be read, or the first line that is wrong.
    """
    name = f"steps {one_line(path)}"
    steps = parse_steps(read_lines(path, name, "step", StepsError), model, name, context)
    if not steps:
        raise StepsError(f'{name}: no steps; write at least one, such as {{"sequences": [{{"new": 8}}]}}')
    return steps


def parse_steps(lines: Iterable[str], model: Model, name: str = "steps", context: int | None = None) -> list[Step]:
    """Return the steps that some lines describe; see :func:`read_steps`."""
    found = []
    known: dict[str, int] = {}
    prefixes: dict[str, tuple[str, int]] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            step = _Line(f"{name}, line {number}", model, context or model.context).step(line, number, known, prefixes)
            known |= {sequence.name: sequence.cached + sequence.new for sequence in step.sequences}
            found.append(step)
    return found


class _Line(JsonLine):
    """One line while it is read."""

    def __init__(self, where: str, model: Model, context: int) -> None:
        super().__init__(where, StepsError)
        self._model = model
        self._context = context

    def step(
        self, line: str, number: int, known: Mapping[str, int], prefixes: dict[str, tuple[str, int]]
    ) -> Step:  # fmt: skip
        """Return the step; earlier lines have run the tokens in `known` of each sequence, and gave them `prefixes`."""
        value = self.parse(line, "sequences")
        self.check_known(value, ("sequences", "routing", "gates"), "")
        items = value.get("sequences", MISSING)
        if not isinstance(items, list) or not items:
            raise self.error("sequences", items, "a list with at least one object")
        sequences = tuple(self._sequence(item, place) for place, item in enumerate(items))
        names = [sequence.name for sequence in sequences]
        for name in names:
            if names.count(name) > 1:
                raise self.error("id", name, "each id once in a step")
        for place, own in enumerate(sequences):
            if own.cached > known.get(own.name, own.cached):
                raise self.error(
                    f"sequences[{place}].cached", own.cached,
                    f"at most {known[own.name]}, the tokens of {shown(own.name)} up to here, or another id",
                )  # fmt: skip
        sequences = self._share(sequences, known, prefixes)
        experts, gates = self._routing(value, sum(s.new for s in sequences))
        return Step(number, sequences, experts, gates)

    def _sequence(self, value: Any, place: int) -> StepSequence:
        where = f"sequences[{place}]."
        if not isinstance(value, dict):
            raise self.error(where[:-1], value, 'an object such as {"cached": 0, "new": 8}')
        self.check_known(value, ("id", "cached", "new", "tokens", "prefix"), where)
        name = value.get("id", place)
        if not isinstance(name, str | int) or isinstance(name, bool):
            raise self.error(f"{where}id", name, "a text or an integer")
        tokens = value.get("tokens")
        if tokens is not None:
            most = self._model.vocabulary - 1
            if not isinstance(tokens, list) or not tokens:
                raise self.error(f"{where}tokens", tokens, "a list of token numbers")
            tokens = tuple(self.integer(token, f"{where}tokens", 0, most) for token in tokens)
        cached = self.integer(value.get("cached", 0), f"{where}cached", 0, self._context - 1)
        most = self._context - cached
        prefix, shared = self._prefix(value.get("prefix"), where, cached)
        if tokens is None:
            new = self.integer(value.get("new", MISSING), f"{where}new", 1, most)
            return StepSequence(str(name), cached, new, (), prefix, shared)
        if len(tokens) > most:
            raise self.error(f"{where}tokens", len(tokens), f"at most {most} tokens: the context is {self._context}")
        if value.get("new", len(tokens)) != len(tokens):
            raise self.error(f"{where}new", value["new"], f"{len(tokens)}, as many as tokens, or leave it out")
        return StepSequence(str(name), cached, len(tokens), tokens, prefix, shared)

    def _prefix(self, value: Any, where: str, cached: int) -> tuple[str | None, int]:
        """Return whose prefix it is and its tokens."""
        if value is None:
            return None, 0
        if not isinstance(value, dict):
            raise self.error(f"{where}prefix", value, 'an object such as {"id": "a", "tokens": 64}')
        self.check_known(value, ("id", "tokens"), f"{where}prefix.")
        name = value.get("id", MISSING)
        if not isinstance(name, str | int) or isinstance(name, bool):
            raise self.error(f"{where}prefix.id", name, "the id of another sequence")
        if not cached:
            raise self.error(f"{where}prefix", value, "it with cached tokens only")
        why = ", the tokens that the sequence itself has cached"
        return str(name), self.integer(value.get("tokens", MISSING), f"{where}prefix.tokens", 1, cached, why)

    def _share(
        self, sequences: Sequence[StepSequence], known: Mapping[str, int], prefixes: dict[str, tuple[str, int]]
    ) -> tuple[StepSequence, ...]:
        """Return the sequences with their prefixes, those of earlier lines too; refuse what nobody has run."""
        there = {**known, **{own.name: own.cached for own in sequences}}
        found = []
        for place, own in enumerate(sequences):
            field, before = f"sequences[{place}]", prefixes.get(own.name)
            if before is not None and own.cached == 0:
                before = None
                del prefixes[own.name]  # it starts again
            if before is not None and before[1] == _GONE:
                what = f"0: {shown(before[0])}, whose first tokens it has, has started again"
                raise self.error(f"{field}.cached", own.cached, what)
            if before is not None and own.cached < before[1]:
                what = f"0 to start again, or at least {before[1]}, the tokens of its prefix"
                raise self.error(f"{field}.cached", own.cached, what)
            if own.prefix is not None:
                self._check_prefix(f"{field}.prefix", own, own.name in known, before, there)
                prefixes[own.name] = own.prefix, own.prefix_tokens
            elif before is not None:
                own = replace(own, prefix=before[0], prefix_tokens=before[1])
            found.append(own)
        for place, own in enumerate(found):
            if own.prefix is None:
                continue
            if own.prefix in prefixes:
                raise self.error(f"sequences[{place}].prefix.id", own.prefix, "a sequence that has no prefix itself")
            if own.prefix_tokens > there[own.prefix]:
                raise self.error(
                    f"sequences[{place}].prefix.tokens", own.prefix_tokens,
                    f"at most {there[own.prefix]}, what {shown(own.prefix)} has run, or start again with cached 0",
                )  # fmt: skip
        restarted = {own.name for own in sequences if own.cached < known.get(own.name, 0)}
        for name, (owner, tokens) in list(prefixes.items()):
            if owner in restarted and tokens > there[owner]:
                prefixes[name] = owner, _GONE
        return tuple(found)

    def _check_prefix(
        self, field: str, own: StepSequence, seen: bool, before: tuple[str, int] | None, there: Mapping[str, int]
    ) -> None:  # fmt: skip
        """Refuse a prefix of nobody, or another one than before."""
        if own.prefix == own.name or own.prefix not in there:
            raise self.error(f"{field}.id", own.prefix, "the id of another sequence, of this line or an earlier one")
        if before is not None and before != (own.prefix, own.prefix_tokens):
            what = f"{before[1]} tokens of {shown(before[0])}, as before, or leave it out"
            raise self.error(field, f"{own.prefix_tokens} tokens of {own.prefix}", what)
        if before is None and seen and own.cached:
            raise self.error(field, own.prefix, "it in a sequence's first line, or a new id")

    def _routing(
        self, value: Mapping[str, Any], tokens: int
    ) -> tuple[tuple[npt.NDArray[np.int64], ...], tuple[npt.NDArray[np.uint16], ...]]:
        given, weights = value.get("routing"), value.get("gates")
        if given is None:
            if weights is not None:
                raise self.error("gates", weights, "them with routing only")
            return (), ()
        layers = [layer.mlp for layer in self._model.layers if isinstance(layer.mlp, Experts)]
        if not isinstance(given, list) or len(given) != len(layers):
            raise self.error(
                "routing", len(given) if isinstance(given, list) else given,
                f"a list of {len(layers)}, one for each layer with experts",
            )  # fmt: skip
        if weights is not None and (not isinstance(weights, list) or len(weights) != len(layers)):
            raise self.error("gates", weights, f"a list of {len(layers)}, as routing")
        experts, gates = [], []
        for place, (own, mlp) in enumerate(zip(given, layers, strict=True)):
            array = self._array(own, f"routing[{place}]", tokens, mlp.chosen)
            for token, row in enumerate(own):
                if not all(type(expert) is int and 0 <= expert < mlp.count for expert in row):
                    raise self.error(f"routing[{place}][{token}]", row, f"experts from 0 to {mlp.count - 1}")
                if len(set(row)) < mlp.chosen:
                    raise self.error(
                        f"routing[{place}][{token}]", row, f"{mlp.chosen} different experts for each token"
                    )  # fmt: skip
            experts.append(array.astype(np.int64))
            if weights is None:
                gates.append(np.full(array.shape, Q15 // mlp.chosen, dtype=np.uint16))
                continue
            floats = self._array(weights[place], f"gates[{place}]", tokens, mlp.chosen)
            for token, row in enumerate(weights[place]):
                if not all(type(gate) in (int, float) and 0 <= gate <= 1 for gate in row):
                    raise self.error(f"gates[{place}][{token}]", row, "numbers from 0 to 1")
            gates.append(np.rint(floats * Q15).astype(np.uint16))
        return tuple(experts), tuple(gates)

    def _array(self, value: Any, field: str, tokens: int, chosen: int) -> npt.NDArray[Any]:
        try:
            array = np.asarray(value)
        except ValueError:
            array = np.zeros(0)
        if array.shape != (tokens, chosen):
            size = len(value) if isinstance(value, list) else value
            raise self.error(field, size, f"{tokens} lists, one for each new token, of {chosen}")
        return array
