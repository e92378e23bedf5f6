# SPDX-License-Identifier: Apache-2.0
"""Finds combinational blocks that read what they write, which event-driven tools take for loops."""

from __future__ import annotations

import re

__all__ = ["blocks", "self_reads"]

_BLOCK = re.compile(r"^  always @\*(.*?)^  end$", re.MULTILINE | re.DOTALL)
_ONE = r"\w+(?:\s*\[[\d:]+\])?"
_TARGET = re.compile(rf"({_ONE}|\{{\s*{_ONE}(?:\s*,\s*{_ONE})*\s*\}}) = ")
_WORD = re.compile(r"(?<![\w'])[A-Za-z_]\w*")


def blocks(text: str) -> list[str]:
    """Return the combinational blocks of emitted Verilog."""
    return [found[1] for found in _BLOCK.finditer(text)]


def self_reads(text: str) -> set[str]:
    """Return the signals that a combinational block both reads and writes; which of their bits does not matter."""
    found: set[str] = set()
    for block in blocks(text):
        written = {name for target in _TARGET.findall(block) for name in _WORD.findall(target)}
        found |= written & set(_WORD.findall(_TARGET.sub(" ", block)))
    return found
