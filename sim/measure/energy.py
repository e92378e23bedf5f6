# SPDX-License-Identifier: Apache-2.0
"""Energy of a language model's steps by component: on the cycle model, and on the counters of the simulated machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from hdl.errors import A3dError
from scheduler.cost.energy.activity import Activity
from scheduler.cost.energy.energy import energy_of
from scheduler.cost.energy.table import EnergyTable
from scheduler.system import SystemConfig
from sim.machine.byte_model import read_byte_model
from sim.machine.engines import IsaEngine, RtlEngine
from sim.machine.generator import Generator, StepRecord
from sim.machine.system import SimulatedMachine
from sim.view.energy import draw_energy

__all__ = ["SOURCES", "EnergyBench", "draw"]

SOURCES = ("cycle model", "RTL")
"""Where a point's activity is from."""

DECODE_STEPS = 2
"""Decode steps that are run; the last one is measured."""


class EnergyBench:
    """Measures one prefill and decode steps; the energy is that of the step that comes last.

    Parameters
    ----------
    folder : path
        Model directory with ``heldout.txt``.
    system : SystemConfig
        Its policy is used without residency, as `sim.measure.model.ModelBench` does.
    table : EnergyTable
    mhz : float
        The machine's clock.
    batches : sequence of int
        Batch sizes of decode.
    prefill : int
        Tokens of the one prompt of prefill; 0: no such step.
    rtl : sequence of int
        Batches of decode that are also run on the simulated machine, 0 standing for the prefill.
    context : (int, int)
        Shortest and longest prompt of the decode batches.
    routing : str
        One of ``sim.machine.generator.ROUTINGS``.
    machine : SimulatedMachine, optional
        A compiled simulator with enough memory; default: one is made.
    announce : callable, optional
        Called before a simulator is compiled.

    Raises
    ------
    A3dError
        A model, a batch or a length that the machine cannot run.
    """

    def __init__(
        self,
        folder: Path,
        system: SystemConfig,
        table: EnergyTable,
        mhz: float,
        *,
        batches: Sequence[int] = (1, 8, 32),
        prefill: int = 128,
        rtl: Sequence[int] = (),
        context: tuple[int, int] = (24, 64),
        routing: str = "host",
        machine: SimulatedMachine | None = None,
        announce: Callable[[], None] | None = None,
    ) -> None:
        model = read_byte_model(folder, system.machine)
        windows, size = model.text.shape
        if max(batches, default=0) > windows:
            raise A3dError(f"--batches {max(batches)}: the held-out text has {windows} excerpts; use at most {windows}")
        if prefill > size:
            raise A3dError(f"--prefill {prefill}: excerpts of the held-out text have {size} bytes; use at most {size}")
        self._system = replace(system, policy=replace(system.policy, residency=False))
        self._model = model
        self._table, self._mhz = table, mhz
        self._prefill, self._context, self._routing = prefill, context, routing
        self._machine, self._announce = machine, announce
        self._cases = [0] * bool(prefill) + list(batches)
        self._rtl = [case for case in rtl if case in self._cases]
        self._points: list[dict[str, Any]] = []

    @property
    def total(self) -> int:
        """Steps that will run, a batch's prompts counted as one."""
        return sum(1 + (DECODE_STEPS if case else 0) for case in self._cases)

    def run(self) -> Iterator[None]:
        """Run everything; yields after each step.

        Raises
        ------
        MismatchError
            On the simulated machine: it and the executor differ.
        """
        for case in self._cases:
            yield from self._case(case)

    def _case(self, case: int) -> Iterator[None]:
        system, config = self._system, self._system.machine
        prompts = (
            self._model.excerpts(case, *self._context) if case
            else self._model.excerpts(1, self._prefill, self._prefill)
        )  # fmt: skip
        generator = Generator(
            self._model.model, config, prompts, DECODE_STEPS + 1 if case else 1, routing=self._routing,
            policy=system.policy, timing=system.memory,
        )  # fmt: skip
        on_rtl = case in self._rtl
        engine: AbstractContextManager[IsaEngine | RtlEngine] = (
            RtlEngine(config, machine=self._machine, timing=system.memory, announce=self._announce) if on_rtl
            else IsaEngine(config, verify=False)
        )  # fmt: skip
        with engine as machine:
            machine.start(generator.memory)
            last = None
            for record in generator.run(machine, forecast=True, activity_mhz=self._mhz):
                last = record
                if record.phase == "decode" or not case:
                    yield
            if case:
                yield
        assert last is not None and last.planned is not None
        self._add(last, SOURCES[0], last.planned)
        if last.activity is not None:
            self._add(last, SOURCES[1], last.activity)

    def _add(self, record: StepRecord, source: str, activity: Activity) -> None:
        energy = energy_of(activity, self._table, self._mhz)
        total = energy.total
        self._points.append(
            {
                "phase": record.phase, "batch": len(record.sequences), "tokens": record.tokens, "source": source,
                "cycles": activity.cycles, "activity": activity.to_dict(), "energy": energy.to_dict(),
                "pj_per_token": (total / record.tokens).to_dict(),
                "components_pj_per_token": {
                    name: (band / record.tokens).to_dict() for name, band in energy.components.items()
                },
                "bytes_per_token": activity.offchip_bytes / record.tokens,
                "useful_macs": record.macs,
            }
        )  # fmt: skip

    def result(self) -> dict[str, Any]:
        """Return ``config, system, model, routing, table`` (whole, with sources), ``mhz`` and ``points``.

        A point has ``phase, batch, tokens, source`` (`SOURCES`), ``cycles, activity`` (counts), ``energy`` (pJ of the
        step by component), ``pj_per_token`` and ``components_pj_per_token`` (each ``value, low, high``),
        ``bytes_per_token`` (off chip), ``useful_macs`` (without padding).
        """
        return {
            "config": self._system.machine.to_dict(), "system": self._system.to_dict(), "model": self._model.name,
            "routing": self._routing, "table": self._table.to_dict(), "mhz": self._mhz, "points": self._points,
        }  # fmt: skip


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw the energy of a token in each point."""
    bars = [(f"{p['phase']} {p['batch']}\n{p['source']}", p["energy"], p["tokens"]) for p in result["points"]]
    title = f"{result['model']} on {result['config']['name']} at {result['mhz']:g} MHz, table {result['table']['name']}"
    draw_energy(bars, title, path)
