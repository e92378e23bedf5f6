# SPDX-License-Identifier: Apache-2.0
"""The exceptions that every error a user can cause derives from."""

from typing import ClassVar

__all__ = ["A3dError", "CheckError"]


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
