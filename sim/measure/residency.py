# SPDX-License-Identifier: Apache-2.0
"""What a decode step reads when weights stay in V-Cache from step to step, and when they do not: the RTL's counters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hdl.errors import A3dError
from hdl.scratch import whole_file
from scheduler.system import SystemConfig
from sim.machine.byte_model import read_byte_model
from sim.machine.engines import RtlEngine, simulated_memory_bits
from sim.machine.generator import Generator, StepRecord
from sim.machine.system import SimulatedMachine

__all__ = ["ResidencyBench", "draw"]

LENGTHS = (24, 64)
"""Shortest and longest prompt, in held-out bytes."""


class ResidencyBench:
    """Runs each batch with and without residency; every byte of every step is compared with the executor.

    Parameters
    ----------
    folder : path
        Model directory with ``heldout.txt``.
    system : SystemConfig
        Its policy is used with and without residency.
    batches : sequence of int
        Sequences that decode together.
    steps : int
        Decode steps that count; two more come before, and the second of these brings what stays.
    routings : sequence of str
        Of ``sim.machine.generator.ROUTINGS``.
    announce : callable, optional
        Called before a simulator is compiled.

    Raises
    ------
    A3dError
        A model or a batch that the machine cannot run.
    """

    def __init__(
        self,
        folder: Path,
        system: SystemConfig,
        *,
        batches: Sequence[int],
        steps: int,
        routings: Sequence[str],
        announce: Callable[[], None] | None = None,
    ) -> None:
        self.system, self.config = system, system.machine
        self._steps, self._announce = steps, announce
        model = read_byte_model(folder, self.config)
        if max(batches) > model.text.shape[0]:
            raise A3dError(
                f"--batches {max(batches)}: the held-out text has {model.text.shape[0]} excerpts; use at most that many"
            )
        self.model_name = model.name
        self._cases = [(batch, routing, stays) for batch in batches for routing in routings for stays in (False, True)]
        self._generators = [
            Generator(
                model.model, self.config, model.excerpts(batch, *LENGTHS), steps + 3, routing=routing,
                policy=replace(system.policy, residency=stays), timing=system.memory,
            )
            for batch, routing, stays in self._cases
        ]  # fmt: skip
        self._points: list[dict[str, Any]] = []
        self._compared = self._wrong = 0

    @property
    def total(self) -> int:
        """Tokens that run."""
        return sum(sum(map(len, g.prompts)) + (self._steps + 2) * len(g.prompts) for g in self._generators)

    def run(self) -> Iterator[None]:
        """Run everything; yields for each token that runs.

        Raises
        ------
        MismatchError
            The machine and the executor differ.
        """
        bits = max(simulated_memory_bits(generator.memory) for generator in self._generators)
        machine = SimulatedMachine(self.config, memory_bits=bits, announce=self._announce)
        for (batch, routing, stays), generator in zip(self._cases, self._generators, strict=True):
            records = []
            with RtlEngine(self.config, machine=machine, timing=self.system.memory) as engine:
                engine.start(generator.memory)
                for record in generator.run(engine, forecast=True):
                    records.append(record)
                    yield from [None] * record.tokens
            self._note(batch, routing, stays, records)

    def _note(self, batch: int, routing: str, stays: bool, records: Sequence[StepRecord]) -> None:
        self._compared += sum(record.compared_bytes for record in records)
        self._wrong += sum(record.mismatched_bytes for record in records)
        decode = [record for record in records if record.phase == "decode"][1:]
        bytes_ = [
            (record.counters["read_beats_0"] + record.counters["read_beats_1"]) * self.config.group_bytes
            for record in decode
        ]
        cycles = [record.cycles or 0 for record in decode]
        self._points.append({
            "batch": batch, "routing": routing, "residency": stays, "first_bytes": bytes_[0], "first_cycles": cycles[0],
            "bytes": float(np.mean(bytes_[1:])), "cycles": float(np.mean(cycles[1:])), "bytes_of_steps": bytes_[1:],
            "cycles_of_steps": cycles[1:], "forecasts": [record.forecast for record in decode[1:]],
        })  # fmt: skip

    def result(self) -> dict[str, Any]:
        """Return the figures: list ``points``, with what residency saves beside each that has it."""
        without = {(p["batch"], p["routing"]): p for p in self._points if not p["residency"]}
        errors = []
        for point in self._points:
            other = without[point["batch"], point["routing"]]
            point["saved_bytes"] = 1 - point["bytes"] / other["bytes"]
            point["speedup"] = other["cycles"] / point["cycles"]
            errors += [abs(f / c - 1) for f, c in zip(point["forecasts"], point["cycles_of_steps"], strict=True)]
        return {
            "config": self.config.to_dict(), "memory": self.system.memory.to_dict(), "model": self.model_name,
            "steps": self._steps, "points": self._points, "mean_error": float(np.mean(errors)),
            "worst_error": max(errors), "compared_bytes": self._compared, "mismatched_bytes": self._wrong,
        }  # fmt: skip


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw the bytes of every decode step."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cases = list(dict.fromkeys((p["batch"], p["routing"]) for p in result["points"]))
    figure, axes = plt.subplots(1, len(cases), figsize=(4 * len(cases), 3.4), squeeze=False, layout="constrained")
    for axis, case in zip(axes[0], cases, strict=True):
        for point in result["points"]:
            if (point["batch"], point["routing"]) == case:
                label = "weights stay" if point["residency"] else "all loaded"
                values = np.array([point["first_bytes"], *point["bytes_of_steps"]]) / 1e6
                axis.plot(
                    range(len(values)), values, marker="o", label=label, color="C2" if point["residency"] else "C0"
                )
        axis.set(title=f"batch {case[0]}, routing {case[1]}", xlabel="decode step", ylabel="MB read", ylim=(0, None))
        axis.legend()
    with whole_file(path) as scratch:
        figure.savefig(scratch, dpi=120)
    plt.close(figure)
