# SPDX-License-Identifier: Apache-2.0
"""A cycle model of the machine: how long a stream takes, and when each instruction runs, without RTL.

Event-driven at the level of instructions. Queues, the in-order dispatcher, semaphores, gangs, fill tags and the rates
of all units are modelled as ``docs/architecture.md`` and ``docs/vector.md`` state them; pipelines inside a unit are
latencies. Conflicts on the result bus and on
the banks of the combine buffer are not modelled, nor are refreshes and random stalls of the memory.
``a3d bench model`` prints its forecast beside the cycles of the emitted machine, and
``tests/sim/machine/test_cycle_model.py`` holds the two against each other.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hdl.config import INSTRUCTION_BYTES, MachineConfig
from hdl.isa import Instruction, LoadDest, Opcode, StoreFormat
from hdl.isa.gemm import maker_tiers
from hdl.isa.legality import beats, gang_tiers, issue_queues, load_item_bytes, store_beats, tiers_of_mask
from scheduler.cost.vector_timing import VectorTiming

__all__ = ["ROW", "STORE_SETUP", "CycleModel", "Slice", "simulate"]

# Latencies in cycles, as the units' docstrings state them or as counters of the emitted machine show them.
START = 70
"""From the start to the first instruction in a queue: tag sweep aside, the first fetch."""
SETUP = 6
"""Sequencer: from the queue to the first wave."""
ROW = 22
"""From a tier's last wave to its post, beside the R rows that the wave passes and the hops between tiers."""
LOAD_SETUP = 6
DATA = 8
"""Load: from a beat to its place."""
STORE_SETUP, STORE_END = 13, 16
VECTOR_SETUP = 8


@dataclass(frozen=True)
class Slice:
    """What one unit did for one instruction.

    Attributes
    ----------
    queue : str
        ``tier0`` ..., ``load0``, ``load1``, ``store``, ``vector``.
    number : int
        Instruction.
    taken, start, end : int
        Cycle in which the unit took it up, in which it began (waits granted), and in which the unit was free again.
    """

    queue: str
    number: int
    taken: int
    start: int
    end: int


@dataclass(eq=False)
class _Fill:
    """What a load brings into a tile: the cycle in which it is there; None before the load has begun."""

    there: int | None = None


_RESIDENT = _Fill(0)
"""A tile that no load of the stream fills."""


class CycleModel:
    """One run of one stream.

    Parameters
    ----------
    config : MachineConfig
        The machine.
    instructions : sequence of Instruction
        The stream; END and NOP take no time.
    latency : int
        Cycles of the memories from a read request to its first beat.
    slot_counts : sequence of sequences of int, optional
        Tokens of each slot, from slot 0 on, after each ROUTE of the stream; slots beyond are empty. Without them
        instructions with a slot take as long as if it had the most tokens that they are planned for.

    Attributes
    ----------
    slices : list of Slice
        In the order in which they ended.
    cycles : int
        From start to the end of the last instruction.
    """

    def __init__(
        self,
        config: MachineConfig,
        instructions: Sequence[Instruction],
        *,
        latency: int = 40,
        slot_counts: Sequence[Sequence[int]] = (),
    ) -> None:
        self.config = config
        self.latency = latency
        self.slices: list[Slice] = []
        self.cycles = 0
        self._stream = instructions
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._order = 0
        self._now = 0
        names = [f"tier{t}" for t in range(config.tiers)] + ["load0", "load1", "store", "vector"]
        self._queues: dict[str, deque[int]] = {name: deque() for name in names}
        self._held: dict[str, int | None] = dict.fromkeys(names)  # at the head, waiting for semaphores or partners
        self._granted: dict[str, bool] = dict.fromkeys(names, False)
        self._taken: dict[str, int] = dict.fromkeys(names, 0)
        self._free: dict[str, int] = dict.fromkeys(names, 0)
        self._vector_unit = VectorTiming()
        self._values = [0] * config.semaphores
        self._next = 0
        self._fetch = beats(INSTRUCTION_BYTES, config)
        self._in_flight = config.outstanding_bursts * config.burst_beats
        self._next_dispatch = START
        # Tiles by (tier, tile, tag) as the instructions that were dispatched leave them; what each one fills or reads.
        self._tiles: dict[tuple[int, int, int], _Fill] = {}
        self._fills: dict[int, list[_Fill]] = {}
        self._stalled: list[Callable[[], None]] = []
        self._slot_counts = slot_counts
        self._routed = 0  # ROUTEs that are through

    def run(self) -> int:
        """Run the stream; return its cycles.

        Raises
        ------
        RuntimeError
            The stream deadlocks.
        """
        self._at(START, self._dispatch)
        while self._events:
            self._now, _, action = heapq.heappop(self._events)
            action()
        stuck = [n for n in self._held.values() if n is not None]
        if stuck or self._next < len(self._stream):
            raise RuntimeError(f"deadlock at instruction {min([*stuck, self._next])}")
        self.cycles = max((s.end for s in self.slices), default=self._now)
        return self.cycles

    def _at(self, cycle: int, action: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._events, (max(cycle, self._now), self._order, action))

    # Dispatch.

    def _dispatch(self) -> None:
        while self._next < len(self._stream):
            if self._now < self._next_dispatch:
                self._at(self._next_dispatch, self._dispatch)
                return
            instruction = self._stream[self._next]
            targets = issue_queues(instruction)
            if any(len(self._queues[q]) >= self.config.queue_depth for q in targets):
                return  # tried again when a queue moves
            for queue in targets:
                self._queues[queue].append(self._next)
            self._note_tiles(self._next, instruction)
            self._next += 1
            self._next_dispatch = self._now + self._fetch
            # Instructions come over the channels of group 0, ahead of what is loaded from there.
            self._free["load0"] = max(self._free["load0"], self._now) + self._fetch
            for queue in targets:
                self._take(queue)

    def _note_tiles(self, number: int, instruction: Instruction) -> None:
        """Keep which tiles an instruction fills or reads, tile by tile and for each of its tiers."""
        if instruction.opcode == Opcode.LOAD and instruction["dest_kind"] == LoadDest.VCACHE:
            tiers, base = tiers_of_mask(instruction["dest_tiers"]), instruction["dest_base"]
            keys = [(tier, base + n, instruction["tag"]) for n in range(instruction["count"]) for tier in tiers]
            self._tiles.update((key, _Fill()) for key in keys)
        elif instruction.opcode == Opcode.GEMM:
            tiles, base = instruction["k_slices"] * instruction["n_tiles"], instruction["vcache_base"]
            keys = [(tier, base + n, instruction["tag"]) for n in range(tiles) for tier in gang_tiers(instruction)]
        else:
            return
        self._fills[number] = [self._tiles.get(key, _RESIDENT) for key in keys]

    def _take(self, queue: str) -> None:
        if self._held[queue] is None and self._queues[queue]:
            self._held[queue] = self._queues[queue].popleft()
            self._granted[queue] = False
            self._taken[queue] = self._now
            self._at(self._now, self._dispatch)
            self._try(queue)

    # Semaphores.

    def _post(self, number: int) -> None:
        instruction = self._stream[number]
        posted = False
        for n in (0, 1):
            if instruction[f"post{n}_en"]:
                self._values[instruction[f"post{n}_sem"]] += 1
                posted = True
        if posted:
            for queue in self._queues:
                self._try(queue)

    def _grant(self, number: int) -> bool:
        instruction = self._stream[number]
        waits = [(instruction[f"wait{n}_sem"], instruction[f"wait{n}_count"]) for n in (0, 1)]
        if any(self._values[s] < c for s, c in waits if c):
            return False
        for semaphore, count in waits:
            if count:
                self._values[semaphore] -= count
        return True

    def _try(self, queue: str) -> None:
        """Start what a queue holds when its waits are granted and its partners have it too."""
        number = self._held[queue]
        if number is None or number < 0:
            return
        instruction = self._stream[number]
        queues = issue_queues(instruction)
        pair = instruction.opcode == Opcode.LOAD and len(queues) == 2
        if pair and any(self._held[q] != number for q in queues):
            return
        leader = queues[0]
        if not self._granted[leader]:
            if self._held[leader] != number or not self._grant(number):
                return
            self._granted[leader] = True
        if any(self._held[q] != number for q in queues):
            return
        runner = {
            Opcode.LOAD: self._load, Opcode.STORE: self._store, Opcode.GEMM: self._gemm, Opcode.VECTOR: self._vector,
            Opcode.ROUTE: self._vector,
        }[instruction.opcode]  # fmt: skip
        runner(number, instruction, queues)

    def _release(self, queues: Sequence[str], cycle: int) -> None:
        """Let units that have begun take their next instruction in a cycle."""

        def free() -> None:
            for queue in queues:
                self._held[queue] = None
            for queue in queues:
                self._take(queue)

        self._at(cycle, free)

    def _record(self, queues: Sequence[str], number: int, start: int, end: int) -> None:
        self.slices += [Slice(q, number, self._taken[q], start, end) for q in queues]

    # Units. What is held is marked as started (-1), so that it is not started twice.

    def _begin(self, queues: Sequence[str]) -> None:
        for queue in queues:
            self._held[queue] = -1

    def _gemm(self, number: int, instruction: Instruction, queues: Sequence[str]) -> None:
        self._begin(queues)
        ready = max(self._taken[q] for q in queues) + SETUP
        start = max(self._now + 1, ready, *(self._free[q] for q in queues))
        self._at(start, lambda: self._waves(number, instruction, queues, start))

    def _waves(self, number: int, instruction: Instruction, queues: Sequence[str], start: int) -> None:
        tokens = min(instruction["tokens"], self._slot_tokens(instruction))
        cycle, tiers = start + (tokens == 0), len(queues)
        for place, fill in enumerate(self._fills[number] if tokens else ()):
            if fill.there is None:
                self._stalled.append(lambda: self._waves(number, instruction, queues, start))
                return
            cycle = max(cycle, fill.there)
            if place % tiers == tiers - 1:
                cycle += tokens
        for queue in queues:
            self._free[queue] = cycle
        self._record(queues, number, start, cycle)
        self._release(queues, max(self._now, start + 1))
        end = cycle + self.config.rows + ROW
        for place in range(len(maker_tiers(instruction))):
            self._at(end + place, lambda: self._post(number))

    def _slot_tokens(self, instruction: Instruction) -> int:
        """Return how many tokens an instruction's slot has for it (without a slot: no limit)."""
        if not instruction["slot_en"] or not self._slot_counts:
            return instruction["tokens"] if instruction.opcode == Opcode.GEMM else 1
        counts = self._slot_counts[self._routed - 1]
        count = counts[instruction["slot"]] if instruction["slot"] < len(counts) else 0
        return max(0, count - (instruction["list_base"] if instruction.opcode == Opcode.GEMM else 0))

    def _load(self, number: int, instruction: Instruction, queues: Sequence[str]) -> None:
        self._begin(queues)
        config = self.config
        size = beats(instruction["count"] * load_item_bytes(instruction, config), config)
        start = max(self._now + LOAD_SETUP, *(self._free[q] for q in queues))
        units = instruction["count"]
        work = size = size if self._slot_tokens(instruction) else 0
        if instruction["dest_kind"] in (LoadDest.LIST, LoadDest.ROWS, LoadDest.PARAMETER):
            per = {LoadDest.LIST: 1, LoadDest.ROWS: 1, LoadDest.PARAMETER: config.parameter_parts}
            work = max(size, units * per[LoadDest(instruction["dest_kind"])]) if size else 0
        end = start + work
        for queue in queues:
            self._free[queue] = end
        there = end + self.latency + DATA
        if instruction["dest_kind"] == LoadDest.VCACHE:
            first = start + self.latency + DATA
            fills = self._fills[number]
            for place, fill in enumerate(fills):
                tile = place * units // len(fills)
                fill.there = first + -(-size * (tile + 1) // units)
            stalled, self._stalled = self._stalled, []
            for waves in stalled:
                waves()
        self._record(queues, number, start, end)
        self._release(queues, max(self._now + 3, there - DATA - self._in_flight))
        self._at(there, lambda: self._post(number))

    def _store(self, number: int, instruction: Instruction, queues: Sequence[str]) -> None:
        self._begin(queues)
        rows = instruction["rows"]
        writes = 0
        if instruction["format"] != StoreFormat.DISCARD:
            writes = rows if instruction["addr_gap"] else store_beats(instruction, self.config)
        start = max(self._now, self._free["store"])
        end = start + STORE_SETUP + max(rows, writes)
        self._free["store"] = end
        self._record(queues, number, start, end)
        self._release(queues, end)
        self._at(end + STORE_END, lambda: self._post(number))

    def _vector(self, number: int, instruction: Instruction, queues: Sequence[str]) -> None:
        self._begin(queues)
        ready = max(self._now + 1, self._taken["vector"] + VECTOR_SETUP)
        start, end, done = self._vector_unit.add(instruction, ready)
        self._record(queues, number, start, end)
        self._release(queues, start + 1)
        if instruction.opcode == Opcode.ROUTE:
            self._at(done + 1, self._route)
        self._at(done + 1, lambda: self._post(number))

    def _route(self) -> None:
        self._routed += 1


def simulate(
    config: MachineConfig,
    instructions: Sequence[Instruction],
    *,
    latency: int = 40,
    slot_counts: Sequence[Sequence[int]] = (),
) -> CycleModel:
    """Run a stream through the model and return it; parameters as for :class:`CycleModel`."""
    model = CycleModel(config, instructions, latency=latency, slot_counts=slot_counts)
    model.run()
    return model
