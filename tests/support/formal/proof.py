# SPDX-License-Identifier: Apache-2.0
"""What a proof is: a block, a harness of claims and covers, and bugs that the claims must catch."""

from __future__ import annotations

import inspect
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.support.formal.bench import Bench
from tests.support.formal.engine import How, Method, graphs, proved, reached

__all__ = ["Bug", "Outcome", "Proof", "bench_of", "broken", "row", "run"]


_ALWAYS = How()


@dataclass(frozen=True)
class Bug:
    """A deliberate breakage of the block.

    Attributes
    ----------
    what : str
        What is broken, in words.
    old, new : str
        Text of the block's source file that is replaced, once, and its replacement.
    """

    what: str
    old: str
    new: str


@dataclass(frozen=True)
class Proof:
    """One proof.

    Attributes
    ----------
    name : str
        Its name on the command line.
    block : type
        The component that it is about.
    says : str
        What is proved, in words.
    harness : callable
        Given an empty bench and the block's class, or a broken one, it places the block and says the claims.
    bugs : tuple of Bug
        Each must make a claim fail.
    how : How
        How it is proved; reachability unless it says another.
    search : int
        Cycles in which each cover must be reached, and each bug caught.
    slow : bool
        Not part of the fast tests.
    """

    name: str
    block: type[Any]
    says: str
    harness: Callable[[Bench, Any], None]
    bugs: tuple[Bug, ...]
    how: How = _ALWAYS
    search: int = 30
    slow: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a run of a proof found.

    Attributes
    ----------
    proved : bool
        No claim can fail.
    fails : tuple, optional
        Else the claim that fails first, and in which cycle, if `search` cycles show it.
    covers : dict
        Each cover with the cycle in which it is first reached, or None.
    bugs : dict
        Each bug with the claim that fails first, and its cycle, or None.
    seconds : float
        Processor time of the proof itself, without covers and bugs.
    """

    proved: bool
    fails: tuple[str, int] | None
    covers: dict[str, int | None]
    bugs: dict[str, tuple[str, int] | None]
    seconds: float


def broken(block: type[Any], bug: Bug) -> type[Any]:
    """Return the class as it would be with the bug in its source file; the module itself is not touched."""
    module = sys.modules[block.__module__]
    source = inspect.getsource(module)
    assert source.count(bug.old) == 1, f"{bug.what}: the text is {source.count(bug.old)} times in {block.__module__}"
    assert bug.old != bug.new
    copy = ModuleType(f"{block.__module__}_broken")
    sys.modules[copy.__name__] = copy  # dataclasses and named tuples look their module up
    try:
        exec(compile(source.replace(bug.old, bug.new), f"{module.__file__} (broken)", "exec"), copy.__dict__)
    finally:
        del sys.modules[copy.__name__]
    made: type[Any] = getattr(copy, block.__name__)
    return made


def bench_of(proof: Proof, block: type[Any]) -> Bench:
    """Return the bench of a proof around a class of block."""
    bench = Bench()
    proof.harness(bench, block)
    assert bench.claims and bench.covers, f"{proof.name} has no claim or no cover"
    return bench


def run(proof: Proof, folder: Path) -> Outcome:
    """Run a proof, look for its covers, and for what its bugs do."""
    benches = [bench_of(proof, proof.block), *(bench_of(proof, broken(proof.block, bug)) for bug in proof.bugs)]
    claims, covers = list(benches[0].claims), list(benches[0].covers)
    good, *bad = graphs([bench.circuit() for bench in benches], folder)
    began = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    holds = proved(good, len(claims), proof.how)
    seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - began
    found = reached(good, len(claims), len(covers), proof.search, all=True)

    def first_failure(graph: Path) -> tuple[str, int] | None:
        failed = reached(graph, 0, len(claims), proof.search, all=False)
        return next(((claims[which], cycle) for which, cycle in failed.items()), None)

    return Outcome(
        proved=holds,
        fails=None if holds else first_failure(good),
        covers={name: found.get(number) for number, name in enumerate(covers)},
        bugs={bug.what: first_failure(graph) for bug, graph in zip(proof.bugs, bad, strict=True)},
        seconds=seconds,
    )


def row(proof: Proof, seconds: str) -> str:
    """Return a proof's line in the table of ``docs/proofs.md``."""
    file = proof.block.__module__.replace(".", "/") + ".py"
    how = {
        Method.REACHABILITY: "always (reachability)",
        Method.INDUCTION: f"always (induction over {proof.how.cycles} cycles)",
        Method.BOUNDED: f"{proof.how.cycles} cycles from reset",
    }[proof.how.method]
    covers = "; ".join(bench_of(proof, proof.block).covers)
    bugs = "; ".join(bug.what for bug in proof.bugs)
    name = f"`{proof.name}`{' (slow)' if proof.slow else ''}"
    return f"| {name} | `{proof.block.__name__}` in `{file}` | {proof.says} | {how} | {seconds} | {covers} | {bugs} |"
