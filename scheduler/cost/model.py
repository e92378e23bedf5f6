# SPDX-License-Identifier: Apache-2.0
"""A cycle model of the machine: how long a stream takes, and when each instruction runs, without RTL.

Event by event at the level of instructions, and cycle by cycle where result rows, vector unit, store and loads share
the result bus and the banks of the combine buffer. Latencies and rates are the blocks' own
(:mod:`scheduler.cost.blocks`). ``a3d bench cycle-model`` holds it against the emitted machine.

What it does not know, because a stream does not say it: the rows that token lists name (a token's first one is taken to
lie in the first bank), the rows that GATHER reads. What it leaves out: round robin among semaphores' waiters and posts
(the lower number wins), fill words of both engines for one tier in the same cycle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hdl.config import MachineConfig
from hdl.errors import A3dError
from hdl.isa import Instruction, Opcode
from scheduler.cost.blocks import blocks_of
from scheduler.cost.engine import notes_of, run, run_with_hbm, segments_of, slices_of
from scheduler.cost.hbm.cells import new_region
from scheduler.cost.hbm.channel import running_channel
from scheduler.cost.hbm.timing import T
from scheduler.cost.memory_timing import MemoryTiming
from scheduler.cost.slots import EXPERT, HIGH_ONLY
from scheduler.cost.stalls import stalls_of, unit_names
from scheduler.cost.state import NEVER, NOTE, SLICE, B, Int, M, N, S, new_state
from scheduler.cost.work import fetch_beats
from scheduler.stream.table import COL, Rows, Table

__all__ = ["Forecast", "ModelDeadlockError", "Slices", "simulate"]


class ModelDeadlockError(A3dError):
    """A stream that the cycle model cannot bring to its end."""


@dataclass(frozen=True, eq=False)
class Slices:
    """What units did for instructions: an instruction has a slice on each unit that it goes to, in program order.

    Attributes
    ----------
    number, unit : int64 arrays [slices]
        Instruction; unit, see :attr:`Forecast.units`.
    taken, granted, ready, start, end : int64 arrays [slices]
        Cycles in which the instruction left the queue, its waits were granted, its partners were there too, it began to
        work; the cycle after its last work (GEMM: wave; LOAD: word launched; STORE: response; VECTOR: row asked for).
    work : int64 array [slices]
        Cycles of work among those from `start` to `end`: waves, beats, rows.
    tiles : int64 array [slices]
        Cycles in which its waves waited for tiles after its first wave.
    """

    number: Int
    unit: Int
    taken: Int
    granted: Int
    ready: Int
    start: Int
    end: Int
    work: Int
    tiles: Int

    def of(self, unit: int) -> npt.NDArray[np.intp]:
        """Return the places of a unit's slices, in the order of its queue."""
        return np.flatnonzero(self.unit == unit)


@dataclass(frozen=True, eq=False)
class Forecast:
    """One stream on the cycle model.

    Attributes
    ----------
    config : MachineConfig
        The machine.
    cycles : int
        From start to done.
    slices : Slices
        Who worked when.
    dispatched, done : int64 arrays [instructions]
        Cycles in which each instruction was dispatched, and in which it was complete.
    units : tuple of str
        Names of the units by number: ``tier0`` ..., ``load0``, ``load1``, ``store``, ``vector``.
    """

    config: MachineConfig
    cycles: int
    slices: Slices
    dispatched: Int
    done: Int
    units: tuple[str, ...]
    _left_buffer: Int = field(repr=False)

    def busy(self) -> dict[str, int]:
        """Return the cycles of work of each unit."""
        s = self.slices
        return {name: int(s.work[s.of(number)].sum()) for number, name in enumerate(self.units)}

    def stalls(self) -> dict[str, dict[str, int]]:
        """Return for each unit where its cycles went; see :func:`scheduler.cost.stalls.stalls_of`."""
        s = self.slices
        columns = {name: getattr(s, name) for name in ("taken", "granted", "ready", "start", "end", "work", "tiles")}
        return {
            name: stalls_of(
                name, {key: column[s.of(number)] for key, column in columns.items()},
                self.dispatched[s.number[s.of(number)]], self.dispatched, self._left_buffer, self.cycles,
                blocks_of(self.config).dispatch,
            )
            for number, name in enumerate(self.units)
        }  # fmt: skip


def simulate(
    config: MachineConfig,
    stream: Table | Rows | Sequence[Instruction],
    *,
    memory: MemoryTiming | None = None,
    slot_counts: Sequence[Sequence[int]] = (),
    fetch_room: int | None = None,
    stream_base: int = 0,
    begun: int = 0,
) -> Forecast:
    """Run a stream on the cycle model.

    Parameters
    ----------
    config : MachineConfig
        The machine.
    stream : Table, int64 array [instructions, columns] or sequence of Instruction
        Legal instructions; END and NOP take no time of a unit.
    memory : MemoryTiming, optional
        How the memories behave; default: without randomness.
    slot_counts : sequence of sequences of int, optional
        Each slot that a ROUTE of the stream writes (:mod:`scheduler.cost.slots`), in their order, for each ROUTE;
        without them instructions with a slot take as long as if it had the most tokens that they are planned for. If no
        slot has an expert but 0, slots are taken to be in the order of their experts.
    fetch_room : int, optional
        Bytes from the stream's first one to the limit of group 0's memory, beyond which the machine fetches nothing;
        default: as many as it fetches ahead of END.
    stream_base : int, optional
        Byte address in group 0 of the stream's first one; it matters with HBM alone.
    begun : int, optional
        Cycles that HBM has run when the stream starts: they decide when its banks are refreshed.

    Raises
    ------
    ModelDeadlockError
        The stream cannot end; names the first instruction that is not complete.
    """
    if isinstance(stream, np.ndarray):
        rows: Rows = np.ascontiguousarray(stream, dtype=np.int64)
    else:
        rows = (stream if isinstance(stream, Table) else Table.of(stream)).rows
    memory = memory or MemoryTiming()
    counts = np.zeros((1 + len(slot_counts), config.expert_slots if slot_counts else 0), dtype=np.int64)
    for number, count in enumerate(slot_counts):
        counts[1 + number, : len(count)] = count
    scored, named = bool(np.any(counts & HIGH_ONLY)), bool(np.any(counts >= EXPERT))
    if scored:
        rows = rows.copy()  # loads whose engines part are changed
    notes, slices = notes_of(rows), slices_of(rows, config.tiers)
    segments = segments_of(rows, config.tiers, config.vcache_tiles, notes, slices)
    least = fetch_beats(config.group_bytes, len(rows))
    room = NEVER if fetch_room is None else max(fetch_room // config.group_bytes, least)
    knobs = (memory.latency, memory.random_latency, memory.stall_rate, config.channels_per_group, memory.seed, room)
    flags = int(scored), int(named)
    if memory.hbm is None:
        state = new_state(blocks_of(config), knobs, notes, segments, slices, counts, flags=flags)
        run(rows, state)
    else:
        timing = memory.hbm_parameters()
        region = new_region(
            rows, int(timing[T.cl] + timing[T.ccd_s] + timing[T.path]), stream_base // config.group_bytes
        )
        state = new_state(blocks_of(config), knobs, notes, segments, slices, counts, region, flags)
        run_with_hbm(rows, state, running_channel(timing, begun), running_channel(timing, begun))
    notes = state[state[M.notes] : state[M.segments]].reshape(-1, NOTE)
    slices = state[state[M.slices] : state[M.counts]].reshape(-1, SLICE)
    _check_end(rows, notes)
    return Forecast(
        config=config, cycles=int(state[M.done] + 1 + state[B.settle]),
        slices=Slices(
            *(
                slices[:, column]
                for column in (S.number, S.unit, S.taken, S.granted, S.ready, S.start, S.end, S.work, S.tiles)
            )
        ),
        dispatched=notes[:, N.dispatched], done=notes[:, N.done], units=unit_names(config.tiers),
        _left_buffer=notes[:, N.consumed],
    )  # fmt: skip


def _check_end(rows: Rows, notes: Int) -> None:
    """Refuse a stream with an instruction that is not complete."""
    opcodes = rows[:, COL.opcode]
    works = (opcodes != Opcode.NOP) & (opcodes != Opcode.END)
    stuck = np.flatnonzero(np.where(works, notes[:, N.done], notes[:, N.dispatched]) < 0)
    if not stuck.size:
        return
    number = int(stuck[0])
    row = rows[number]
    asks: Mapping[int, int] = {
        int(row[semaphore]): int(row[count])
        for semaphore, count in ((COL.wait0_sem, COL.wait0_count), (COL.wait1_sem, COL.wait1_count))
        if row[count]
    }
    waits = " and ".join(f"{count} of semaphore {semaphore}" for semaphore, count in asks.items())
    name = Opcode(int(row[COL.opcode])).name
    raise ModelDeadlockError(
        f"cycle model: deadlock at instruction {number} ({name}{f', which waits for {waits}' if waits else ''})"
    )
