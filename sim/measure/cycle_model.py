# SPDX-License-Identifier: Apache-2.0
"""The cycle model against the emitted machine: the same streams on both, with memories that behave alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from hdl.config import MachineConfig
from hdl.errors import CheckError
from scheduler.cost.memory_timing import MemoryTiming
from scheduler.cost.model import simulate
from sim.machine.session import MachineSession
from sim.machine.system import MemoryKnobs, SimulatedMachine
from sim.measure.timed_streams import TimedStream, groups_of

__all__ = ["MEMORIES", "MOST_MEAN", "MOST_WORST", "CycleModelBench", "errors_of"]

MEMORIES: Mapping[str, MemoryTiming] = {
    "even": MemoryTiming(), "stalls": MemoryTiming(stall_rate=32, random_latency=24),
}  # fmt: skip
"""How the memories behave."""

MOST_MEAN, MOST_WORST = 0.02, 0.05
"""What the cycle model may be off, in the mean and at worst."""


def errors_of(points: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Return the mean and the largest magnitude of the points' errors."""
    errors = [abs(point["error"]) for point in points]
    return sum(errors) / len(errors), max(errors)


class CycleModelBench:
    """Runs streams on both.

    Parameters
    ----------
    configs : sequence of MachineConfig
        Presets of `sim.measure.timed_streams.CONFIGS`.
    announce : callable, optional
        Called with a configuration before its simulator is compiled.
    """

    def __init__(
        self, configs: Sequence[MachineConfig], *, announce: Callable[[MachineConfig], None] | None = None
    ) -> None:
        self._announce = announce
        self._groups = [(config, groups_of(config)) for config in configs]
        self._points: list[dict[str, Any]] = []

    @property
    def total(self) -> int:
        """Points that will be measured."""
        return len(MEMORIES) * sum(group.total for _, groups in self._groups for group in groups)

    def run(self) -> Iterator[None]:
        """Measure everything; yields after each point.

        Raises
        ------
        CheckError
            The machine stopped with an error.
        """
        for config, groups in self._groups:
            bits = max(group.memory_bits for group in groups)
            machine = SimulatedMachine(config, memory_bits=bits, announce=self._announcement(config))
            with MachineSession(machine) as session:
                for group in groups:
                    for stream in group.streams():
                        yield from self._measure(config, session, stream)

    def _announcement(self, config: MachineConfig) -> Callable[[], None] | None:
        announce = self._announce
        return None if announce is None else lambda: announce(config)

    def _measure(self, config: MachineConfig, session: MachineSession, stream: TimedStream) -> Iterator[None]:
        job = stream.job
        for memory, timing in MEMORIES.items():
            result = session.run(dataclasses.replace(job, knobs=MemoryKnobs.like(timing)))
            if not result.done:
                raise CheckError(
                    f"{config.name}, {stream.name}, routing {stream.routing}: the machine stopped with "
                    f"{result.error!r} at instruction {result.error_pc}"
                )
            job = dataclasses.replace(job, images=None)  # the memory is there
            cycles = int(result.counters["cycles"])
            model = simulate(
                config, stream.table, memory=timing, slot_counts=stream.slot_counts, fetch_room=stream.fetch_room
            ).cycles
            self._points.append(
                {
                    "config": config.name, "stream": stream.name, "routing": stream.routing, "memory": memory,
                    "rtl_cycles": cycles, "model_cycles": model, "error": model / cycles - 1,
                }
            )  # fmt: skip
            yield

    def result(self) -> dict[str, Any]:
        """Return ``points`` (``config, stream, routing, memory, rtl_cycles, model_cycles, error``) and the errors.

        ``mean_error`` and ``worst_error`` are magnitudes, an error is the model's cycles / the machine's - 1.
        """
        mean, worst = errors_of(self._points)
        return {
            "points": self._points, "mean_error": mean, "worst_error": worst,
            "memories": {name: dataclasses.asdict(timing) for name, timing in MEMORIES.items()},
        }  # fmt: skip
