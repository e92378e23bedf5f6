# SPDX-License-Identifier: Apache-2.0
"""Watches which attributes of a configuration code reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from hdl.config import MachineConfig

__all__ = ["ConfigReads"]

_PUBLIC = {field.name for field in dataclasses.fields(MachineConfig)} | {
    name for name in dir(MachineConfig) if not name.startswith("_")
}


class ConfigReads:
    """Notes the attributes that are read, of any configuration; those that a derived one reads itself do not count.

    Parameters
    ----------
    monkeypatch : pytest.MonkeyPatch
        Watches until the end of the test.

    Attributes
    ----------
    sources : dict of str to set of str
        What each derived attribute that was read is computed from.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sources: dict[str, set[str]] = {}
        self._open: list[set[str]] = []
        self._deriving: list[str] = []
        original = MachineConfig.__getattribute__

        def getattribute(config: Any, name: str) -> Any:
            if name not in _PUBLIC:
                return original(config, name)
            if self._deriving:
                self.sources.setdefault(self._deriving[-1], set()).add(name)
            else:
                for reads in self._open:
                    reads.add(name)
            self._deriving.append(name)
            try:
                return original(config, name)
            finally:
                self._deriving.pop()

        monkeypatch.setattr(MachineConfig, "__getattribute__", getattribute)

    @contextmanager
    def collect(self) -> Iterator[set[str]]:
        """Yield the set of what is read meanwhile."""
        reads: set[str] = set()
        self._open.append(reads)
        try:
            yield reads
        finally:
            self._open.pop()

    def given(self, name: str, known: set[str]) -> bool:
        """Return whether an attribute is known when some others are."""
        return name in known or (name in self.sources and all(self.given(s, known) for s in self.sources[name]))
