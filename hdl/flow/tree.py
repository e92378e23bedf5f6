# SPDX-License-Identifier: Apache-2.0
"""The hierarchy of a synthesised machine: how often a module occurs in another, and which blocks there are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping

from hdl.errors import A3dError

__all__ = ["OPENED", "Hierarchy", "block_of", "module_at", "reachable"]

OPENED = ("stack", "stack/tier", "stack/tier/row", "stack/tier/drain", "sequencers", "sequencers/tier", "vector")
"""Blocks whose own blocks are listed too; the top level always is."""


_INSTANCE = re.compile(r"^\s*(\w+)\s+(\w+)\s*\(", re.MULTILINE)


def block_of(path: list[str]) -> str:
    """Return the block in which something is.

    Parameters
    ----------
    path : list of str
        Instances from the top down to it, without the top: ``["stack", "tier0", "row_1"]``.
    """
    name = ""
    for instance in path:
        name += re.sub(r"_?\d+$", "", instance)
        if name not in OPENED:
            break
        name += "/"
    return name.rstrip("/")


def module_at(texts: Mapping[str, str], top: str, place: str) -> str:
    """Return the module of a block, whatever is :data:`OPENED`.

    Parameters
    ----------
    texts : mapping of str to str
        Verilog of each module.
    top : str
        The top module.
    place : str
        Instances from the top down, with or without their numbers: ``loads/address0``, ``stack/tier/row/pe``.

    Raises
    ------
    A3dError
        There is no such block; the message names those that are there.
    """
    module = top
    for step in filter(None, place.split("/")):
        found = {name: kind for kind, name in _INSTANCE.findall(texts[module]) if kind in texts}
        named = {name: kind for name, kind in found.items() if step in (name, block_of([name]))}
        if not named:
            there = ", ".join(dict.fromkeys(block_of([name]) for name in found)) or "none"
            raise A3dError(f"--block {place}: no {step!r} in {module}; the blocks there are {there}")
        module = next(iter(named.values()))
    return module


def reachable(texts: Mapping[str, str], top: str) -> dict[str, str]:
    """Return the modules that are in `top`, itself included, children before parents."""
    found: dict[str, str] = {}

    def visit(module: str) -> None:
        if module not in found:
            for kind, _ in _INSTANCE.findall(texts[module]):
                if kind in texts:
                    visit(kind)
            found[module] = texts[module]

    visit(top)
    return found


class Hierarchy:
    """Instances of modules in modules.

    Parameters
    ----------
    children : callable
        Returns the module of each instance in a module.
    """

    def __init__(self, children: Callable[[str], Mapping[str, str]]) -> None:
        self.children = children
        self._contents: dict[tuple[str, frozenset[str]], Counter[str]] = {}

    def contents(self, name: str, cut: frozenset[str] = frozenset()) -> Counter[str]:
        """Return how often each module occurs in module `name`, itself included (once).

        Modules of `cut` and what is only in them are left out.
        """
        if (name, cut) not in self._contents:
            total = Counter({name: 1})
            for child, number in Counter(self.children(name).values()).items():
                if child not in cut:
                    for inner, times in self.contents(child, cut).items():
                        total[inner] += number * times
            self._contents[name, cut] = total
        return self._contents[name, cut]

    def blocks(self, top: str, is_memory: Callable[[str], bool]) -> dict[str, dict[str, int]]:
        """Return modules and their numbers by name of block, for the top level and what is :data:`OPENED`.

        Parameters
        ----------
        top : str
            The top module.
        is_memory : callable
            Whether a module is a memory: memories are no blocks.
        """
        tree: dict[str, dict[str, int]] = {}

        def visit(prefix: str, parents: Mapping[str, int]) -> None:
            found: dict[str, dict[str, int]] = {}
            for parent, times in parents.items():
                for instance, module in self.children(parent).items():
                    if is_memory(module):
                        continue
                    counts = found.setdefault(prefix + block_of([instance]), {})
                    counts[module] = counts.get(module, 0) + times
            for name, counts in found.items():
                tree[name] = counts
                if name in OPENED:
                    visit(f"{name}/", counts)

        visit("", {top: 1})
        return tree
