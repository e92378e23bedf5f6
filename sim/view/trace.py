# SPDX-License-Identifier: Apache-2.0
"""Traces of the simulated machine: what ``sim/rtl/trace_recorder.v`` wrote about one stream, as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hdl.common.queues import load_queue, queue_count, store_queue, vector_queue
from hdl.config import MachineConfig
from hdl.errors import A3dError
from hdl.interfaces import trace_layout
from hdl.regs import traced_counters

__all__ = ["Trace", "TraceError", "queue_names", "read_trace"]

Cycles = npt.NDArray[np.int64]


class TraceError(A3dError):
    """A trace file is not what the recorder writes, or does not belong to the stream."""


def queue_names(config: MachineConfig) -> list[str]:
    """Return the queues' names in the order of ``hdl.common.queues``, as ``scheduler.stream.ordering`` calls them."""
    names = {load_queue(config, group): f"load{group}" for group in range(2)}
    names |= {store_queue(config): "store", vector_queue(config): "vector"}
    return [names.get(queue, f"tier{queue}") for queue in range(queue_count(config))]


@dataclass(frozen=True, eq=False)
class Trace:
    """One stream's trace. Cycles count from the stream's start, as the performance counters do.

    Attributes
    ----------
    cycles : int
        Length of the stream; the counter ``cycles``.
    taken, begin, end : dict of str to int64 array [n]
        For each queue the cycles in which its instructions left it, did their first work, did their last: the n-th
        entry is that of the n-th instruction. Fewer entries than instructions: the stream stopped with an error.
    pair_end : int64 array [n]
        ``end`` of load engine 1's PAIR loads, which are not among ``end["load1"]``.
    since : int64 array [m]
        Cycles in which the activity changed, ascending from 0.
    activity : bool array [m, counters]
        Which events happen in each cycle from ``since[i]`` on, in the order of ``counters``.
    counters : tuple of str
        Names of the performance counters that count these events.
    """

    cycles: int
    taken: Mapping[str, Cycles]
    begin: Mapping[str, Cycles]
    end: Mapping[str, Cycles]
    pair_end: Cycles
    since: Cycles
    activity: npt.NDArray[np.bool_]
    counters: tuple[str, ...]

    def totals(self) -> dict[str, int]:
        """Return how many cycles each event happened: what the performance counters must show."""
        lengths = np.diff(self.since, append=self.cycles)
        sums = lengths @ self.activity.astype(np.int64)
        return {name: int(count) for name, count in zip(self.counters, sums, strict=True)}

    def cycles_of(self, name: str) -> Cycles:
        """Return all cycles with the event of a counter, ascending."""
        here = self.activity[:, self.counters.index(name)]
        spans = zip(self.since[here], np.append(self.since[1:], self.cycles)[here], strict=True)
        return np.concatenate([np.zeros(0, np.int64), *(np.arange(low, high) for low, high in spans)])

    def shares(self, name: str, edges: Cycles) -> npt.NDArray[np.float64]:
        """Return the share of cycles with an event in each bin of cycles.

        Parameters
        ----------
        name : str
            One of ``counters``.
        edges : int64 array [bins + 1]
            Ascending, 0 to ``cycles``.
        """
        ends = np.append(self.since[1:], self.cycles)
        here = self.activity[:, self.counters.index(name)]
        bounds = np.concatenate(([0], ends))
        sums = np.concatenate(([0], np.cumsum((ends - self.since) * here)))
        counts = np.diff(np.interp(edges, bounds, sums))
        return np.asarray(counts / np.diff(edges), dtype=np.float64)


def read_trace(path: Path, config: MachineConfig) -> Trace:
    """Read a file of the recorder.

    Parameters
    ----------
    path : path
        A file with one stream's lines.
    config : MachineConfig
        The machine that ran.

    Raises
    ------
    TraceError
        The file has no stream, or more than one.
    """
    lines = path.read_text().splitlines()
    if not lines or not lines[-1].startswith("end "):
        raise TraceError(f"{path}: no stream ends in it; record from start to interrupt")
    rows = [line.split() for line in lines[:-1]]
    if any(row[0] == "end" for row in rows):
        raise TraceError(f"{path}: more than one stream; record each on its own")
    cycles = np.array([int(row[0]) for row in rows], dtype=np.int64)
    layout = trace_layout(config)
    counters = tuple(name for names in traced_counters(config).values() for name in names)
    events = _bits([row[1] for row in rows], layout["activity"].offset - 1)
    activity = _bits([row[2] for row in rows], len(counters))

    def column(field: str, bit: int) -> Cycles:
        return cycles[events[:, layout[field].offset - 1 + bit]]

    fields = {
        field: {name: column(field, queue) for queue, name in enumerate(queue_names(config))}
        for field in ("taken", "begin", "end")
    }
    changed = np.ones(len(rows), dtype=np.bool_)
    changed[1:] = (activity[1:] != activity[:-1]).any(axis=1)
    return Trace(
        cycles=int(lines[-1].split()[1]), **fields, pair_end=column("pair_end", 0), since=cycles[changed],
        activity=activity[changed], counters=counters,
    )  # fmt: skip


def _bits(words: list[str], width: int) -> npt.NDArray[np.bool_]:
    """Return hexadecimal numbers as bits [numbers, width], lowest first."""
    size = -(-width // 8)
    raw = b"".join(int(word, 16).to_bytes(size, "little") for word in words)
    bits = np.unpackbits(np.frombuffer(raw, dtype=np.uint8).reshape(len(words), size), axis=1, bitorder="little")
    return bits[:, :width].astype(np.bool_)
