# SPDX-License-Identifier: Apache-2.0
"""Whole steps of a language model on the RTL against the roofline: decode at several batch sizes, and prefill."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hdl.config import MachineConfig
from hdl.errors import A3dError
from scheduler.system import SystemConfig
from sim.machine.byte_model import read_byte_model
from sim.machine.engines import RtlEngine, simulated_memory_bits
from sim.machine.generator import Generator, StepRecord
from sim.machine.system import SimulatedMachine
from sim.view.report import stalls_of

__all__ = ["ModelBench", "point_of"]

DECODE_STEPS = 2
"""Decode steps that are run; the last one is measured."""


def point_of(config: MachineConfig, record: StepRecord) -> dict[str, Any]:
    """Return a step's figures.

    Returns
    -------
    dict
        ``phase, batch, tokens, lengths, cycles, model_cycles`` (of the cycle model), ``macs`` (useful), ``bytes``
        (moved), ``compulsory_bytes``, ``roofline_cycles`` (the larger of MACs / PEs and compulsory bytes / peak
        bandwidth), ``bound`` (which), ``roofline_fraction, utilisation, instructions, stalls`` (by unit and cause; each
        unit's add up to its cycles).
    """
    assert record.cycles is not None
    counters = record.counters
    beats = counters["fetch_beats"] + sum(counters[f"{way}_beats_{g}"] for way in ("read", "write") for g in range(2))
    compute, memory = record.macs / config.pes, record.least_bytes / config.peak_bytes
    return {
        "phase": record.phase,
        "batch": len(record.sequences),
        "tokens": record.tokens,
        "lengths": list(record.lengths),
        "cycles": record.cycles,
        "model_cycles": record.forecast,
        "macs": record.macs,
        "bytes": beats * config.group_bytes,
        "vertical_bytes": record.links.vertical,
        "lateral_bytes": record.links.lateral,
        "offchip_bytes": record.links.offchip,
        "compulsory_bytes": record.least_bytes,
        "roofline_cycles": max(compute, memory),
        "bound": "compute" if compute > memory else "memory",
        "roofline_fraction": max(compute, memory) / record.cycles,
        "utilisation": record.macs / (config.pes * record.cycles),
        "instructions": record.instructions,
        "stalls": stalls_of(config, counters),
    }


class ModelBench:
    """Measures steps of a model; every byte and the exact counters of every step are compared with the executor.

    Parameters
    ----------
    folder : path
        Model directory with ``heldout.txt``.
    system : SystemConfig
        Its policy is used without residency.
    batches : sequence of int
        Batch sizes of decode.
    prefill : int
        Tokens of the one prompt of prefill.
    context : (int, int)
        Shortest and longest prompt of the decode batches.
    routing : str
        One of ``sim.machine.generator.ROUTINGS``.
    announce : callable, optional
        Called before a simulator is compiled.

    Attributes
    ----------
    total : int
        Tokens that will run.

    Raises
    ------
    A3dError
        A model, a batch or a length that the machine cannot run.
    """

    def __init__(
        self,
        folder: Path,
        system: SystemConfig,
        *,
        batches: Sequence[int] = (1, 8, 32),
        prefill: int = 128,
        context: tuple[int, int] = (24, 64),
        routing: str = "host",
        announce: Callable[[], None] | None = None,
    ) -> None:
        config = system.machine
        model = read_byte_model(folder, config)
        windows, size = model.text.shape
        if max(batches) > windows:
            raise A3dError(f"--batches {max(batches)}: the held-out text has {windows} excerpts; use at most {windows}")
        if prefill > size:
            raise A3dError(f"--prefill {prefill}: excerpts of the held-out text have {size} bytes; use at most {size}")
        # A step alone: what is loaded for the next one is what `a3d bench residency` measures.
        system = replace(system, policy=replace(system.policy, residency=False))
        self.system, self.config = system, config
        self.routing = routing
        self.model_name = model.name
        self._announce = announce
        self._generators = [
            Generator(
                model.model,
                config,
                model.excerpts(1, prefill, prefill),
                1,
                routing=routing,
                policy=system.policy,
                timing=system.memory,
            )
        ]
        self._generators += [
            Generator(
                model.model,
                config,
                model.excerpts(batch, *context),
                DECODE_STEPS + 1,
                routing=routing,
                policy=system.policy,
                timing=system.memory,
            )
            for batch in batches
        ]
        self.total = sum(sum(len(p) for p in g.prompts) for g in self._generators) + DECODE_STEPS * sum(batches)
        self._points: list[dict[str, Any]] = []

    def run(self) -> Iterator[None]:
        """Run everything; yields once for every token that ran, `total` times.

        Raises
        ------
        MismatchError
            The machine and the executor differ.
        """
        # One simulator for all, with memory for the largest batch.
        bits = max(simulated_memory_bits(generator.memory) for generator in self._generators)
        machine = SimulatedMachine(self.config, memory_bits=bits, announce=self._announce)
        for generator in self._generators:
            with RtlEngine(self.config, machine=machine, timing=self.system.memory) as engine:
                engine.start(generator.memory)
                records = []
                for record in generator.run(engine, forecast=True):
                    records.append(record)
                    yield from itertools.repeat(None, record.tokens)
            self._points.append(point_of(self.config, records[-1]))

    def result(self) -> dict[str, Any]:
        """Return ``config, model, routing`` and the list ``points`` of :func:`point_of`."""
        return {
            "config": self.config.to_dict(),
            "system": self.system.to_dict(),
            "model": self.model_name,
            "routing": self.routing,
            "points": self._points,
        }
