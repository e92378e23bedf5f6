# SPDX-License-Identifier: Apache-2.0
"""What decode steps read with a part of the planner's policy and without it: bytes by the RTL's counters, and cycles.

*residency*: weights stay in V-Cache from step to step. *prefixes*: sequences begin with the same tokens, whose keys and
values are computed once, and read once a step.
"""

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

__all__ = ["LABELS", "PartBench", "draw"]

LENGTHS = (24, 64)
"""Shortest and longest prompt, in held-out bytes."""

OWN = (8, 24)
"""The same of what follows a common prefix."""

LABELS = {"residency": ("weights stay", "all loaded"), "prefixes": ("prefix once", "prefix for each")}
"""Parts of a policy that can be measured, and what steps with and without them are called."""


class PartBench:
    """Runs each batch with and without a part of the policy; every byte of every step is compared with the executor.

    Parameters
    ----------
    folder : path
        Model directory with ``heldout.txt``.
    system : SystemConfig
        Its policy is used with and without the part.
    part : str
        One of `LABELS`.
    batches : sequence of int
        Sequences that decode together.
    steps : int
        Decode steps that count; two more come before, and the second of these brings what stays.
    routings : sequence of str
        Of ``sim.machine.generator.ROUTINGS``.
    common : int
        Tokens with which all prompts begin.
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
        part: str,
        *,
        batches: Sequence[int],
        steps: int,
        routings: Sequence[str],
        common: int = 0,
        announce: Callable[[], None] | None = None,
    ) -> None:
        self.system, self.config = system, system.machine
        self._part, self._steps, self._common, self._announce = part, steps, common, announce
        model = read_byte_model(folder, self.config)
        windows, size = model.text.shape
        if max(batches) > windows - 1:
            raise A3dError(
                f"--batches {max(batches)}: the held-out text has {windows} excerpts; use at most {windows - 1}"
            )
        if common > size:
            raise A3dError(f"--common {common}: excerpts of the held-out text have {size} bytes; use at most that many")
        prefix = tuple(model.text[-1, :common].tolist())  # the last excerpt is none of the others
        self.model_name = model.name
        self._cases = [(batch, routing, on) for batch in batches for routing in routings for on in (False, True)]
        self._generators = [
            Generator(
                model.model, self.config,
                [prefix + own for own in model.excerpts(batch, *(OWN if common else LENGTHS))], steps + 3,
                routing=routing, policy=replace(system.policy, **{part: on}), timing=system.memory,
            )
            for batch, routing, on in self._cases
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
        for (batch, routing, on), generator in zip(self._cases, self._generators, strict=True):
            records = []
            with RtlEngine(self.config, machine=machine, timing=self.system.memory) as engine:
                engine.start(generator.memory)
                for record in generator.run(engine, forecast=True):
                    records.append(record)
                    yield from [None] * record.tokens
            self._note(batch, routing, on, records)

    def _note(self, batch: int, routing: str, on: bool, records: Sequence[StepRecord]) -> None:
        self._compared += sum(record.compared_bytes for record in records)
        self._wrong += sum(record.mismatched_bytes for record in records)
        all_bytes = [
            (record.counters["read_beats_0"] + record.counters["read_beats_1"]) * self.config.group_bytes
            for record in records
        ]
        steps = [n for n, record in enumerate(records) if record.phase == "decode" and len(record.sequences) == batch]
        decode = [records[n] for n in steps[1 : self._steps + 2]]
        bytes_ = [all_bytes[n] for n in steps[1 : self._steps + 2]]
        cycles = [record.cycles or 0 for record in decode]
        self._points.append({
            "batch": batch, "routing": routing, "on": on, "first_bytes": bytes_[0], "first_cycles": cycles[0],
            "bytes": float(np.mean(bytes_[1:])), "cycles": float(np.mean(cycles[1:])), "bytes_of_steps": bytes_[1:],
            "cycles_of_steps": cycles[1:], "forecasts": [record.forecast for record in decode[1:]],
            "run_tokens": sum(record.tokens for record in records), "run_bytes": sum(all_bytes),
            "run_cycles": sum(record.cycles or 0 for record in records),
        })  # fmt: skip

    def result(self) -> dict[str, Any]:
        """Return the figures: list ``points``, with what the part saves beside each that has it.

        ``first_bytes`` and ``first_cycles`` are those of the step that loads what stays; ``bytes`` and ``cycles`` are
        means over the decode steps behind it, ``run_tokens``, ``run_bytes`` and ``run_cycles`` sums over all steps.
        """
        without = {(p["batch"], p["routing"]): p for p in self._points if not p["on"]}
        errors = []
        for point in self._points:
            other = without[point["batch"], point["routing"]]
            point["saved_bytes"] = 1 - point["bytes"] / other["bytes"]
            point["speedup"] = other["cycles"] / point["cycles"]
            errors += [abs(f / c - 1) for f, c in zip(point["forecasts"], point["cycles_of_steps"], strict=True)]
        return {
            "config": self.config.to_dict(), "memory": self.system.memory.to_dict(), "model": self.model_name,
            "part": self._part, "steps": self._steps, "common": self._common, "points": self._points,
            "mean_error": float(np.mean(errors)),
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
                label = LABELS[result["part"]][not point["on"]]
                values = np.array([point["first_bytes"], *point["bytes_of_steps"]]) / 1e6
                axis.plot(range(len(values)), values, marker="o", label=label, color="C2" if point["on"] else "C0")
        axis.set(title=f"batch {case[0]}, routing {case[1]}", xlabel="decode step", ylabel="MB read", ylim=(0, None))
        axis.legend()
    with whole_file(path) as scratch:
        figure.savefig(scratch, dpi=120)
    plt.close(figure)
