# SPDX-License-Identifier: Apache-2.0
"""What a server is asked for, and files of it: one JSON object a line.

::

    {"prompt": "To be, or", "tokens": 32}
    {"prompt": [17, 4, 99], "tokens": 8, "arrival": 250000}

``prompt`` is a text, whose UTF-8 bytes are the tokens, or a list of token numbers. ``tokens`` says how many new ones
are wanted. ``arrival`` is the machine's cycle in which the request comes, 0 unless said; lines need not be in the
order of arrival. Empty lines are skipped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hdl.errors import A3dError, one_line
from scheduler.ops.json_lines import MISSING, JsonLine, read_lines
from scheduler.plan.limits import LoweringError

__all__ = ["Request", "RequestsError", "check_requests", "parse_requests", "read_requests"]

LATEST = 1 << 53
"""Last cycle in which a request may come: what a double holds exactly, as other readers of the file keep it."""


class RequestsError(A3dError):
    """A file of requests that cannot be used; the message names line and field."""


@dataclass(frozen=True)
class Request:
    """A prompt to continue.

    Attributes
    ----------
    number : int
        Which one it is, from 0; each has its own.
    prompt : tuple of int
        Token numbers, at least one.
    tokens : int
        Most new tokens, at least one.
    arrival : int
        Cycle of the machine in which it comes, 0 or more.
    """

    number: int
    prompt: tuple[int, ...]
    tokens: int
    arrival: int = 0

    @property
    def length(self) -> int:
        """Most tokens that the machine runs: the last new one is not run."""
        return len(self.prompt) + self.tokens - 1


def check_requests(requests: Sequence[Request], vocabulary: int, context: int) -> None:
    """Refuse what no machine can serve with a model.

    Parameters
    ----------
    requests : sequence of Request
    vocabulary : int
        Tokens that the model knows.
    context : int
        Most tokens of a sequence.

    Raises
    ------
    LoweringError
        Names the request's number, what is wrong and what would do.
    """
    if not requests:
        raise LoweringError("prompts: none; give at least one")
    for request in requests:
        if request.tokens < 1:
            raise LoweringError(f"tokens: {request.tokens}; generate at least 1")
        if request.arrival < 0:
            raise LoweringError(f"arrival: {request.arrival}; requests come in cycle 0 or later")
        if not request.prompt:
            raise LoweringError(f"prompt {request.number}: empty; give at least one token")
        wrong = [token for token in request.prompt if not 0 <= token < vocabulary]
        if wrong:
            raise LoweringError(
                f"prompt {request.number}: token {wrong[0]}; the model's vocabulary is 0 to {vocabulary - 1}"
            )
    longest = max(requests, key=lambda request: request.length)
    if longest.length > context:
        size, tokens = len(longest.prompt), longest.tokens
        remedies = [f"shorten the prompt to {context + 1 - tokens} tokens"] if context + 1 > tokens else []
        remedies += [f"generate {context + 1 - size}"] if context + 1 > size else []
        raise LoweringError(
            f"context: a prompt of {size} tokens and {tokens} new ones; the model's context is {context}: "
            + (" or ".join(remedies) or f"use at most {context} in all")
        )


def read_requests(path: Path, vocabulary: int, context: int) -> list[Request]:
    """Read a file of requests; they are numbered from 0 in the order of its lines.

    Parameters
    ----------
    path : Path
    vocabulary, context : int
        Of the model, as for `check_requests`.

    Raises
    ------
    RequestsError
        A file that cannot be read, or the first line that is wrong.
    """
    name = f"requests {one_line(path)}"
    requests = parse_requests(read_lines(path, name, "request", RequestsError), vocabulary, context, name)
    if not requests:
        raise RequestsError(
            f'{name}: no requests; write at least one, such as {{"prompt": "To be", "tokens": 8}}'
        )  # fmt: skip
    return requests


def parse_requests(lines: Iterable[str], vocabulary: int, context: int, name: str = "requests") -> list[Request]:
    """Return the requests that some lines describe; see :func:`read_requests`."""
    found: list[Request] = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            own = _Line(f"{name}, line {number}", vocabulary, context)
            found.append(own.request(line, len(found)))
    return found


class _Line(JsonLine):
    """One line while it is read."""

    def __init__(self, where: str, vocabulary: int, context: int) -> None:
        super().__init__(where, RequestsError)
        self._vocabulary = vocabulary
        self._context = context

    def request(self, line: str, number: int) -> Request:
        """Return the request."""
        value = self.parse(line, "prompt and tokens")
        self.check_known(value, ("prompt", "tokens", "arrival"))
        prompt = self._prompt(value.get("prompt", MISSING))
        why = f": the prompt takes {len(prompt)} of the model's context of {self._context}"
        tokens = self.integer(value.get("tokens", MISSING), "tokens", 1, self._context + 1 - len(prompt), why)
        return Request(number, prompt, tokens, self.integer(value.get("arrival", 0), "arrival", 0, LATEST))

    def _prompt(self, value: Any) -> tuple[int, ...]:
        most = self._vocabulary - 1
        if isinstance(value, str):
            try:
                prompt = tuple(value.encode())
            except UnicodeEncodeError as error:
                raise self.error("prompt", value, f"text without the lone surrogate at {error.start}") from error
            wrong = next((place for place, token in enumerate(prompt) if token > most), None)
            if wrong is not None:
                raise self.error(
                    "prompt", value,
                    f"bytes from 0 to {most}, the model's vocabulary: byte {wrong} is {prompt[wrong]:#04x}",
                )  # fmt: skip
        elif isinstance(value, list):
            prompt = tuple(self.integer(token, f"prompt[{place}]", 0, most) for place, token in enumerate(value))
        else:
            raise self.error("prompt", value, "a text or a list of token numbers")
        if not 1 <= len(prompt) <= self._context:
            why = f", the model's context: it has {len(prompt)}"
            raise self.error("prompt", value, f"1 to {self._context} tokens{why}")
        return prompt
