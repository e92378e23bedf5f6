# SPDX-License-Identifier: Apache-2.0
"""The exceptions that every error a user can cause derives from."""

from typing import ClassVar

__all__ = ["A3dError", "CheckError", "one_line", "shown"]

_MOST_SHOWN = 80
"""Characters of a value in a message."""


class A3dError(Exception):
    """Bad input, or a tool that is missing or failed: shown to the user as one line, without a traceback.

    The message names the field, its value, what is allowed, and how to fix it. Defects of the project itself
    are *not* reported this way: they keep their ordinary exception and traceback.
    """

    exit_status: ClassVar[int] = 2
    """What the command line exits with: 2 for bad input."""


class CheckError(A3dError):
    """Something was checked, and does not hold: a failing test, a lint finding, a mismatch."""

    exit_status: ClassVar[int] = 1


def one_line(text: object) -> str:
    """Return a text, such as a path or another library's message, without anything that would break its line."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in str(text))


def shown(value: object) -> str:
    """Return a value as a message shows it: its ``repr`` on one line, cut where it is long.

    Parameters
    ----------
    value : object
        Whatever came from a user's file.
    """
    try:
        text = one_line(repr(value))
    except (ValueError, RecursionError):  # an integer of thousands of digits, or what is nested as deeply
        text = f"a very long {type(value).__name__}"
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 4]} ..."
