# SPDX-License-Identifier: Apache-2.0
"""The machine on HBM: what its channels give, whether they do what their specification says, and the cycle model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hdl.config import MachineConfig
from hdl.errors import CheckError
from hdl.memory.axi import FETCH_ID
from hdl.scratch import whole_file
from scheduler.cost.blocks import blocks_of
from scheduler.cost.energy.count import counted, derived_counts, differing
from scheduler.cost.energy.work import work_of
from scheduler.cost.hbm.channel import ACTIVATE, COMMAND, NONE, REFRESH
from scheduler.cost.hbm.timing import HbmTiming, T
from scheduler.cost.memory_timing import MemoryTiming
from scheduler.cost.model import simulate
from scheduler.plan.policy import SEQUENTIAL, Policy
from scheduler.stream.choose import Chooser
from sim.machine.hbm_record import HbmRecord
from sim.machine.session import MachineSession
from sim.machine.system import Job, JobResult, MemoryKnobs, SimulatedMachine
from sim.measure.cycle_model import errors_of
from sim.measure.timed_streams import Group, TimedStream, groups_of

__all__ = ["HbmBench", "draw"]

RARE_REFI = 60_000
"""Clocks in which each bank is refreshed once, the longest there are: for what a stream gets outside refresh."""


class HbmBench:
    """Runs streams on the emitted machine, with memories that have a latency and with HBM.

    Parameters
    ----------
    config : MachineConfig
        A preset of `sim.measure.timed_streams.CONFIGS`.
    timing : HbmTiming
    mhz : float
        The machine's clock.
    groups : sequence of Group, optional
        Default: all of the preset's, planned for these memories.
    policy : Policy
        What is tried for the steps of those.
    announce : callable, optional
        Called before the simulator is compiled.
    """

    def __init__(
        self,
        config: MachineConfig,
        timing: HbmTiming,
        mhz: float,
        *,
        groups: Sequence[Group] | None = None,
        policy: Policy = SEQUENTIAL,
        announce: Callable[[], None] | None = None,
    ) -> None:
        self._config = config
        self._timing = timing
        self._mhz = mhz
        self._memory = MemoryTiming(hbm=timing, mhz=mhz)
        self._parameters = self._memory.hbm_parameters()
        self._rare = MemoryTiming(hbm=dataclasses.replace(timing, refi=RARE_REFI), mhz=mhz)
        self._announce = announce
        self._policy = dataclasses.replace(policy, residency=False)  # steps come alone
        chooser = Chooser(self._policy, self._memory)
        self._groups = groups_of(config, chooser) if groups is None else list(groups)
        self._points: list[dict[str, Any]] = []

    @property
    def total(self) -> int:
        """Points that will be measured."""
        return sum(group.total for group in self._groups)

    def run(self) -> Iterator[None]:
        """Measure everything; yields after each point.

        Raises
        ------
        CheckError
            The machine stopped with an error or left other bytes in its memories than without HBM, or a channel gave
            other commands than its specification.
        """
        bits = max(group.memory_bits for group in self._groups)
        machine = SimulatedMachine(self._config, memory_bits=bits, announce=self._announce)
        with MachineSession(machine) as session:
            for group in self._groups:
                before: tuple[bytes, bytes] | None = None
                for stream in group.streams():
                    images = stream.job.images or before
                    plain = self._run(session, stream, dataclasses.replace(stream.job, images=images, dump=True))
                    rare, result = (
                        self._recorded(session, stream, images, memory) for memory in (self._rare, self._memory)
                    )
                    self._points.append(self._point(stream, plain, result, rare))
                    assert result.memory is not None
                    before = (result.memory[0].tobytes(), result.memory[1].tobytes())
                    yield

    def _recorded(
        self, session: MachineSession, stream: TimedStream, images: tuple[bytes, bytes] | None, memory: MemoryTiming
    ) -> JobResult:  # fmt: skip
        """Run a stream on HBM; each command of the channels is compared."""
        knobs = MemoryKnobs.like(memory)
        job = dataclasses.replace(stream.job, images=images, dump=True, knobs=knobs, record_hbm=True)
        result = self._run(session, stream, job)
        for group, record in enumerate(result.hbm):
            wrong = record.differs(memory.hbm_parameters())
            if wrong:
                raise CheckError(
                    f"{self._config.name}, {stream.name}, routing {stream.routing}: group {group}'s channel gave other "
                    f"commands than its specification in {wrong} cycles"
                )
        return result

    def _run(self, session: MachineSession, stream: TimedStream, job: Job) -> JobResult:
        result = session.run(job)
        if not result.done:
            raise CheckError(
                f"{self._config.name}, {stream.name}, routing {stream.routing}: the machine stopped with "
                f"{result.error!r} at instruction {result.error_pc}"
            )
        return result

    def _point(self, stream: TimedStream, plain: JobResult, result: JobResult, rare: JobResult) -> dict[str, Any]:
        work = work_of(self._config, stream.table.rows, stream.slot_counts, fetch_room=stream.fetch_room)
        derived = derived_counts(
            self._config, counted(work, result.counters), int(result.counters["cycles"]), self._timing, self._mhz
        )
        assert plain.memory is not None and result.memory is not None
        wrong = sum(int((a != b).sum()) for a, b in zip(plain.memory, result.memory, strict=True))
        if wrong:
            raise CheckError(
                f"{self._config.name}, {stream.name}, routing {stream.routing}: {wrong} bytes of the memories are "
                "others than without HBM"
            )
        cycles, own = int(result.counters["cycles"]), [self._group(record) for record in result.hbm]
        seldom = [self._group(record) for record in rare.hbm]
        model = simulate(
            self._config, stream.table, memory=self._memory, slot_counts=stream.slot_counts,
            fetch_room=stream.fetch_room, stream_base=stream.job.stream_base, begun=self._begun(result.hbm[0]),
        ).cycles  # fmt: skip
        return {
            "config": self._config.name, "stream": stream.name, "routing": stream.routing, "cycles": cycles,
            "model_cycles": model, "error": model / cycles - 1,
            "bytes_compared": sum(image.size for image in result.memory),
            "latency_cycles": int(plain.counters["cycles"]), "groups": own,
            "share": max(one["beats"] for one in own) / cycles,
            "latency_share": max(one["beats"] for one in own) / int(plain.counters["cycles"]),
            "asked_share": _asked_share(own), "rare_cycles": int(rare.counters["cycles"]),
            "rare_asked_share": _asked_share(seldom),
            "row_hits": 1 - sum(one["activates"] for one in own) / max(1, sum(one["beats"] for one in own)),
            "commands": sum(one["commands"] for one in own),
            "derived_activates": derived.activates / max(1, sum(one["activates"] for one in own)),
            "counts_that_differ": differing(work, result.counters),
        }  # fmt: skip

    def _begun(self, record: HbmRecord) -> int:
        """Return how many cycles the channels have run when the machine starts: the first fetch says so."""
        first = record.requests[record.requests[:, 1] == FETCH_ID][0, 0]
        return int(first) - 1 - blocks_of(self._config).fetch_first  # it is told of an address one cycle later

    def _group(self, record: HbmRecord) -> dict[str, Any]:
        """Return what a group's channel did, and the cycles in which it was asked for beats."""
        commands = record.commands
        columns, rows = commands[:, 1 + COMMAND.column], commands[:, 1 + COMMAND.row]
        ends = commands[(columns != NONE) & (commands[:, 1 + COMMAND.column_last] == 1), 0]
        # Bursts that wait, at each moment that a burst comes (just behind its cycle) or is done.
        times = np.concatenate([record.requests[:, 0] + 1, ends + 1])
        steps = np.concatenate([np.ones(len(record.requests), np.int64), -np.ones(len(ends), np.int64)])
        order = np.lexsort((-steps, times))
        waiting = np.cumsum(steps[order])[:-1]
        asked = int(np.diff(times[order])[waiting > 0].sum()) if len(times) else 0
        refreshes, banks = (
            int((rows == REFRESH).sum()),
            1 << int(self._parameters[T.group_bits : T.bank_bits + 1].sum()),
        )
        span = int(commands[-1, 0]) if len(commands) else 1
        return {
            "bursts": len(record.requests), "beats": int((columns != NONE).sum()),
            "activates": int((rows == ACTIVATE).sum()), "refreshes": refreshes, "asked_cycles": asked,
            "refresh_share": refreshes * int(self._parameters[T.rfc_pb]) / (banks * span),
            "commands": int((columns != NONE).sum() + (rows != NONE).sum()),
        }  # fmt: skip

    def result(self) -> dict[str, Any]:
        """Return the timing and ``points``.

        A point has ``cycles`` on HBM, ``latency_cycles`` on memories of a constant latency, of the busier group the
        share of the cycles with a beat (``share``, ``latency_share``), the share of the cycles in which a channel was
        asked for something that it gave a beat (``asked_share``; ``rare_asked_share`` and ``rare_cycles``: with
        refreshes every `RARE_REFI` clocks), ``row_hits``, and ``commands`` that were compared with the specification's;
        ``derived_activates``: rows opened by the addresses of the stream, as energy has them without a channel, over
        those that the channels opened; ``counts_that_differ``: names of what the counters and the stream's own work,
        from which energy is made, say otherwise. ``mean_ratio`` is the mean of the points' cycles over those with a
        constant latency. ``model_cycles`` are the cycle model's, whose ``error`` is a part of ``cycles``;
        ``mean_error`` and ``worst_error`` are magnitudes. ``bytes_compared`` of both memories were the same after the
        runs with and without HBM, which began with the same ones.
        """
        mean, worst = errors_of(self._points)
        return {
            "mean_error": mean, "worst_error": worst,
            "config": self._config.to_dict(), "timing": self._timing.to_dict(), "mhz": self._mhz,
            "policy": self._policy.name, "points": self._points,
            "commands": sum(point["commands"] for point in self._points),
            "mean_ratio": float(np.mean([point["cycles"] / point["latency_cycles"] for point in self._points])),
            "mean_asked_share": float(np.mean([point["asked_share"] for point in self._points])),
            "mean_rare_asked_share": float(np.mean([point["rare_asked_share"] for point in self._points])),
        }  # fmt: skip


def _asked_share(groups: Sequence[dict[str, Any]]) -> float:
    """Return the beats in the cycles in which both groups' channels were asked for some."""
    beats, asked = (sum(one[name] for one in groups) for name in ("beats", "asked_cycles"))
    return float(beats / max(1, asked))


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw the shares of the bandwidth, stream by stream."""
    from matplotlib.figure import Figure

    points = result["points"]
    figure = Figure(figsize=(0.55 * len(points) + 3, 4.6), layout="constrained")
    axis = figure.subplots()
    places = np.arange(len(points))
    kinds = {
        "latency_share": "of all cycles, constant latency", "share": "of all cycles, HBM",
        "asked_share": "of the cycles in which HBM was asked",
    }  # fmt: skip
    for number, (key, label) in enumerate(kinds.items()):
        axis.bar(places + (number - 1) * 0.27, [point[key] for point in points], 0.27, label=label)
    axis.set_xticks(places, [f"{p['stream']}, {p['routing']}" for p in points], rotation=40, ha="right", fontsize=7)
    axis.set_ylabel("beats of the busier group / cycles")
    axis.set_ylim(0, 1.15)
    axis.set_xlim(-0.6, len(points) - 0.4)
    axis.grid(axis="y", alpha=0.3)
    axis.legend(fontsize=8, ncols=3, loc="upper center")
    axis.set_title(
        f"{result['config']['name']} at {result['mhz']:g} MHz on {result['timing']['name']}, emitted Verilog"
    )
    with whole_file(path) as scratch:
        figure.savefig(scratch, dpi=110)
