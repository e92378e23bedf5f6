# SPDX-License-Identifier: Apache-2.0
"""From a circuit of claims to an answer: Yosys makes an and-inverter graph of it, the ABC beside Yosys decides."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from hdl.flow.yosys import Job, run_jobs

__all__ = ["How", "Method", "graphs", "proved", "reached"]

_PASSES = (
    "proc",
    "flatten",
    # What is in a memory before the first write is anything.
    "delete t:$meminit*",
    "opt_clean",
    "memory -nomap",
    "memory_map",
    "opt -fast",
    "dffunmap",
    "techmap",
    "opt -fast",
    "dffunmap",
    # An undefined bit is anything, in every cycle anew.
    "setundef -anyseq",
    "aigmap",
    "opt_clean",
)

_REACHED = re.compile(r"Output (\d+) (?:of miter .*? )?was asserted in frame +(\d+)")
_ALL_SEEN = re.compile(r"No output asserted in (\d+) frames")


_PROVED = re.compile(r"Property proved|Networks are equivalent|^UNSATISFIABLE", re.MULTILINE)
_FAILED = re.compile(r"was asserted in frame|^SATISFIABLE", re.MULTILINE)
_STATELESS = re.compile(r"lat = +0 ")


class Method(Enum):
    """How a claim is proved."""

    REACHABILITY = "reachability"
    """For all times: property directed reachability finds an invariant that contains the claims."""

    INDUCTION = "induction"
    """For all times: true in the first cycles, and true in a cycle if it was in so many before, from any state."""

    BOUNDED = "bounded"
    """In so many cycles from reset."""


@dataclass(frozen=True)
class How:
    """A method, with its cycles."""

    method: Method = Method.REACHABILITY
    cycles: int = 0


def graphs(circuits: Sequence[str], folder: Path) -> list[Path]:
    """Return the and-inverter graph of each circuit, in the AIGER format."""
    jobs = []
    for number, text in enumerate(circuits):
        (folder / f"{number}.il").write_text(text, encoding="utf-8")
        read = (f"read_rtlil {number}.il", "hierarchy -top top")
        jobs.append(Job(str(number), (*read, *_PASSES, f"write_aiger -zinit {number}.aig")))
    for _ in run_jobs(jobs, folder):
        pass
    return [folder / f"{number}.aig" for number in range(len(circuits))]


def _abc(script: str, folder: Path, timeout: float) -> str:
    found = importlib.util.find_spec("pyosys")
    assert found is not None and found.submodule_search_locations
    program = Path(found.submodule_search_locations[0]) / "yosys-abc"
    done = subprocess.run(
        [program, "-c", script], cwd=folder, capture_output=True, text=True, timeout=timeout, check=True
    )
    return done.stdout


def _only(graph: Path, first: int, number: int) -> str:
    return f"read_aiger {graph.name}; cone -a -O {first} -R {number}"


def proved(graph: Path, claims: int, how: How, timeout: int = 300) -> bool:
    """Whether no claim fails. Registers that are always equal are merged first, by induction over one cycle.

    Raises
    ------
    AssertionError
        If the tool does not know.
    """
    merged = f"{_only(graph, 0, claims)}; orpos; scorr"
    bounded = f"bmc3 -g -F {how.cycles} -T {timeout}"
    checks = {
        Method.REACHABILITY: [f"pdr -T {timeout}"],
        Method.INDUCTION: [bounded, f"ind -F {how.cycles} -T {timeout}"],
        Method.BOUNDED: [bounded],
    }[how.method]
    if _STATELESS.search(_abc(f"{merged}; print_stats", graph.parent, timeout)):
        checks = ["sat"]  # the merging has left nothing but gates
    for check in checks:
        said = _abc(f"{merged}; {check}", graph.parent, timeout + 60)
        if _FAILED.search(said):
            return False
        seen = _ALL_SEEN.search(said)
        assert seen and int(seen[1]) >= how.cycles if check == bounded else _PROVED.search(said), said
    return True


def reached(graph: Path, first: int, number: int, cycles: int, *, all: bool, timeout: int = 300) -> dict[int, int]:
    """Return which of some outputs, counted from `first`, are high soonest, with the cycles that it takes.

    With `all`, which of all of them can be high within so many cycles.
    """
    every = "-a " if all else ""
    said = _abc(f"{_only(graph, first, number)}; bmc3 {every}-g -F {cycles} -T {timeout}", graph.parent, timeout + 60)
    return {int(found[1]): int(found[2]) + 1 for found in _REACHED.finditer(said)}
