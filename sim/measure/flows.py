# SPDX-License-Identifier: Apache-2.0
"""What machines take and how fast they are in FPGA and standard-cell flows: resources, area, the worst paths."""

from __future__ import annotations

import importlib.metadata
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hdl.config import MachineConfig
from hdl.emit.design import EmittedDesign
from hdl.errors import A3dError
from hdl.flow.asic import AsicSynthesis
from hdl.flow.ecp5 import Part
from hdl.flow.fpga import FpgaSynthesis
from hdl.flow.liberty import WHERE, Liberty
from hdl.flow.nextpnr import PACKAGE, Options, find_nextpnr
from hdl.flow.opensta import find_sta
from hdl.flow.synth import MachineSynthesis
from hdl.flow.timing import TimedPath
from hdl.flow.wrapper import port_bits

__all__ = ["FLOWS", "FlowsBench", "draw", "read_before"]

FLOWS = ("generic", "ecp5", "sky130", "nangate45")
"""Flows that are known; that of another liberty file is called after its library."""

SHOWN = 12
"""Worst blocks of a target in the picture."""

_EMPTY: Mapping[str, Any] = dict.fromkeys(
    (
        "fmax_mhz",
        "luts",
        "carries",
        "ffs",
        "brams",
        "dsps",
        "lutrams",
        "area_um2",
        "cells",
        "seconds",
        "critical_path",
        "levels",
    )
)


class FlowsBench:
    """Takes machines through flows.

    Parameters
    ----------
    designs : sequence of (MachineConfig, EmittedDesign)
        The machines.
    flows : sequence of str
        Flows to take.
    liberties : sequence of Liberty
        Cells of the standard-cell flows.
    part : Part
        The ECP5.
    options : Options
        How it is placed.
    tell : callable
        Is handed what a long step is doing: an iterator of words, and what the step is about.  It exhausts it.
    """

    def __init__(
        self,
        designs: Sequence[tuple[MachineConfig, EmittedDesign]],
        flows: Sequence[str],
        liberties: Sequence[Liberty],
        part: Part,
        options: Options,
        tell: Callable[[Iterator[str], str], None],
    ) -> None:
        self._designs = designs
        self._liberties = {liberty.flow: liberty for liberty in liberties}
        self._flows = [*flows, *(flow for flow in self._liberties if flow not in FLOWS)]
        self._part = part
        self._options = options
        self._tell = tell
        self._targets: list[dict[str, Any]] = []
        self._left_out: list[dict[str, str]] = []

    def run(self) -> None:
        """Take every machine through every flow; what cannot be done is left out, with the reason."""
        for config, design in self._designs:
            for flow in self._flows:
                try:
                    found = self._take(flow, config.name, design)
                except A3dError as error:
                    self._left_out.append({"preset": config.name, "flow": flow, "reason": str(error)})
                else:
                    self._targets.append({"preset": config.name, "flow": flow, **_EMPTY, **found})

    def result(self) -> dict[str, Any]:
        """Return ``targets``, ``left_out`` (``preset, flow, reason``), the options of placement and ``versions``.

        A target has ``preset, flow, fmax_mhz, luts, ffs, brams, dsps, area_um2, seconds, critical_path`` (``from, to,
        block, ns, logic_ns, routing_ns``), and ``blocks``: the worst path that ends in each block, the worst first.
        What a flow does not give is None.
        """
        packages = ("pyosys", PACKAGE)
        return {
            "targets": self._targets,
            "left_out": self._left_out,
            "part": self._part.name,
            "options": vars(self._options),
            "libraries": {flow: liberty.library for flow, liberty in self._liberties.items()},
            "versions": {name: _version(name) for name in packages},
        }

    def _take(self, flow: str, name: str, design: EmittedDesign) -> dict[str, Any]:
        what = f"{name}, {flow}"
        if flow == "generic":
            return self._generic(what, design)
        if flow == "ecp5":
            return self._ecp5(name, what, design)
        if flow not in self._liberties:
            raise A3dError(f"no liberty file of {flow} was named: --liberty FILE; {WHERE}")
        return self._cells(what, design, self._liberties[flow])

    def _generic(self, what: str, design: EmittedDesign) -> dict[str, Any]:
        begin = time.monotonic()
        machine = MachineSynthesis(design.modules, design.top)
        self._tell(machine.run(), what)
        machine.targets()
        self._tell(machine.find_paths(), what)
        totals = machine.totals()
        start, end = totals.longest_path_start, totals.longest_path_end
        return {
            "ffs": totals.registers, "dsps": totals.multipliers, "cells": totals.cells,
            "levels": totals.longest_path_levels, "seconds": round(time.monotonic() - begin, 1),
            "critical_path": {"from": start, "to": end, "block": end.split(".")[0], "ns": None}, "blocks": [],
        }  # fmt: skip

    def _ecp5(self, name: str, what: str, design: EmittedDesign) -> dict[str, Any]:
        find_nextpnr()
        machine = FpgaSynthesis(design.modules, design.top)
        self._tell(machine.mapped.run(), what)
        machine.check_fit(name, self._part)
        self._tell(machine.place(name, self._part, self._options), what)
        placed = machine.placed
        assert placed is not None
        found = placed.resources
        return {
            "fmax_mhz": round(placed.worst.mhz, 2), "luts": found.luts, "carries": found.carries,
            # The wrapper has no logic, but a register at each bit of the ports.
            "ffs": found.ffs - port_bits(design.modules[design.top]), "brams": found.brams, "dsps": found.dsps,
            "lutrams": found.lutrams, "used": placed.used, "available": placed.available,
            "seconds": round(placed.synth_s + placed.route_s, 1),
            "critical_path": _path(placed.worst), "blocks": [_path(path) for path in placed.blocks],
        }  # fmt: skip

    def _cells(self, what: str, design: EmittedDesign, liberty: Liberty) -> dict[str, Any]:
        find_sta()
        machine = AsicSynthesis(design.modules, design.top, liberty)
        self._tell(machine.mapped.run(), what)
        self._tell(machine.time(), what)
        alone = [(block.name, block.path) for block in machine.blocks() if block.path is not None]
        worst = machine.worst
        return {
            "fmax_mhz": None if worst is None else round(worst.mhz, 2),
            "cells": machine.cells, "area_um2": round(machine.area_um2, 1), "seconds": machine.seconds,
            "critical_path": None if worst is None else _path(worst), "whole": machine.whole,
            "blocks": [_path(path) for path in machine.worst_ends()],
            "alone": [{**_path(path), "block": name} for name, path in sorted(alone, key=lambda item: -item[1].ns)],
        }  # fmt: skip


def read_before(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the targets of an earlier report by preset and flow.

    Raises
    ------
    A3dError
        It is none.
    """
    try:
        targets = json.loads(path.read_text(encoding="utf-8"))["targets"]
        return {(target["preset"], target["flow"]): {**_EMPTY, **target} for target in targets}
    except OSError as error:
        raise A3dError(f"--before {path}: cannot be read: {error.strerror}; name a report of a3d bench flows") from None
    except (ValueError, KeyError, TypeError):
        raise A3dError(f"--before {path}: is no report of a3d bench flows; write one with --json FILE") from None


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draw the worst path of each block of every target that was timed."""
    from matplotlib.figure import Figure

    targets = [target for target in result["targets"] if target["blocks"]]
    figure = Figure(figsize=(max(6.0, 5.0 * len(targets)), 4.5), layout="constrained")
    for number, target in enumerate(targets):
        axes = figure.add_subplot(1, len(targets), number + 1)
        blocks = target["blocks"][:SHOWN][::-1]
        names = [block["block"] for block in blocks]
        logic = [block["logic_ns"] or block["ns"] for block in blocks]
        axes.barh(names, logic, color="tab:blue", label="cells")
        if any(block["routing_ns"] for block in blocks):
            axes.barh(names, [b["routing_ns"] for b in blocks], left=logic, color="tab:orange", label="wires")
            axes.legend(loc="lower right")
        axes.set_title(f"{target['preset']}, {target['flow']}: {target['fmax_mhz']:.1f} MHz")
        axes.set_xlabel("ns")
    if not targets:
        figure.text(0.5, 0.5, "no target was timed", ha="center")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def _path(path: TimedPath) -> dict[str, Any]:
    return {
        "from": path.start, "to": path.end, "block": path.block, "ns": round(path.ns, 3),
        "logic_ns": path.logic_ns, "routing_ns": path.routing_ns,
    }  # fmt: skip


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"
