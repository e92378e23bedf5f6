# SPDX-License-Identifier: Apache-2.0
"""Drives the combine buffer's ports of stores, vector unit and loads, and the load lane, and checks who gets what.

In a cycle all reads see the rows as they were before it; result rows and clearing reads override writes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hdl.config import MachineConfig
from hdl.result import Collector

STORE_DEPTH = 8
"""Store reads that can be on their way."""

RowData = tuple[int, ...]


@dataclass
class RowStimulus:
    """What the units ask for, in order."""

    reads: list[tuple[int, int]] = field(default_factory=list)
    """(row, clear) of store reads."""
    vector_reads: list[list[int]] = field(default_factory=list)
    """Rows of each bank."""
    vector_writes: list[list[tuple[int, RowData]]] = field(default_factory=list)
    """(row of the bank, data) for each bank."""
    load_rows: list[tuple[int, RowData]] = field(default_factory=list)
    """(row of the buffer, data)."""
    loads: list[dict[str, Any]] = field(default_factory=list)
    acts: list[dict[str, Any]] = field(default_factory=list)
    """Words for the load lane from loads and from the vector unit."""


@dataclass
class RowOutcome:
    """Cycles in which something was accepted."""

    reads: list[int] = field(default_factory=list)
    vector_reads: list[int] = field(default_factory=list)
    vector_writes: list[int] = field(default_factory=list)
    load_rows: list[int] = field(default_factory=list)
    words: list[int] = field(default_factory=list)
    wins: dict[str, list[str]] = field(default_factory=dict)
    """Who won when two wanted the same port, by port."""


class Offer:
    """A stream that offers items one after another, with pauses; an offer stays until it is taken."""

    def __init__(self, stream: Any, items: Sequence[Any], payload: Callable[[Any], Any], pause: Callable[[], bool]):
        self.stream, self.items, self.payload, self.pause = stream, deque(items), payload, pause
        self.valid = False

    def drive(self, ctx: Any) -> None:
        if not self.valid and self.items and not self.pause():
            self.valid = True
            ctx.set(self.stream.payload, self.payload(self.items[0]))
        ctx.set(self.stream.valid, self.valid)

    @property
    def head(self) -> Any:
        return self.items[0] if self.valid else None

    def taken(self, ctx: Any) -> bool:
        """Whether the offer is accepted in this cycle; removes it."""
        if not (self.valid and ctx.get(self.stream.ready)):
            return False
        self.valid = False
        self.items.popleft()
        return True


class RowPorts:
    """One cycle is: :meth:`look`, :meth:`drive`, then :meth:`settle` when all inputs of the cycle are set."""

    def __init__(
        self, dut: Collector, config: MachineConfig, todo: RowStimulus, combine: np.ndarray, pause: Callable[[], bool]
    ) -> None:
        self.dut, self.config, self.combine = dut, config, combine
        banks = self.banks = range(config.result_lanes)
        self.out = RowOutcome()

        def row(item: tuple[int, RowData]) -> dict[str, Any]:
            return {"row": item[0], "data": list(item[1])}

        def per_bank(items: list[list[Any]]) -> list[list[Any]]:
            return items or [[] for _ in banks]

        self.store = Offer(dut.store_read, todo.reads, lambda item: {"row": item[0], "clear": item[1]}, pause)
        reads, writes = per_bank(todo.vector_reads), per_bank(todo.vector_writes)
        self.vector_read = [Offer(dut.vector_read[b], reads[b], lambda item: item, pause) for b in banks]
        self.vector_write = [Offer(dut.vector_write[b], writes[b], row, pause) for b in banks]
        self.load = Offer(dut.load_rows, todo.load_rows, row, pause)
        self.bus_write = Offer(dut.bus_write, todo.loads, lambda item: item, pause)
        self.vector_act = Offer(dut.vector_act, todo.acts, lambda item: item, pause)
        self.offers = [
            self.store, self.load, self.bus_write, self.vector_act, *self.vector_read, *self.vector_write
        ]  # fmt: skip
        self.expected_reads: deque[list[int]] = deque()
        self.expected_rows: list[list[int] | None] = [None for _ in banks]
        self.expected_word: dict[str, Any] | None = None
        self.beyond = False
        self.reserved = 0
        self.dumping = False
        self.writing: set[int] = set()  # banks whose operation of the cycle before writes now
        self.clearing: set[int] = set()

    @property
    def left(self) -> int:
        """What is not done yet."""
        return sum(len(offer.items) for offer in self.offers) + len(self.expected_reads)

    def dump(self) -> None:
        """Read the whole buffer, when everything else is done; each row is compared on its way."""
        self.dumping = True
        self.store.items.extend((row, 0) for row in range(self.config.combine_rows))

    def look(self, ctx: Any, busy_tiers: int) -> None:
        """Check what answers the cycle before; `busy_tiers` are written by result rows now."""
        dut = self.dut
        word = ctx.get(dut.load_lane)
        assert bool(word.valid) == (self.expected_word is not None)
        if self.expected_word is not None:
            assert not busy_tiers & word.tiers, "a load and a result for one tier"
            for name, value in self.expected_word.items():
                got = list(word.data) if name == "data" else getattr(word, name)
                assert got == value, name
        for bank, want in enumerate(self.expected_rows):
            if want is not None:
                assert list(ctx.get(dut.vector_data[bank])) == want, f"bank {bank}"
        if self.expected_word is not None or any(want is not None for want in self.expected_rows):
            assert ctx.get(dut.busy)

    def drive(self, ctx: Any) -> None:
        for offer in self.offers:
            offer.drive(ctx)

    def settle(
        self, ctx: Any, cycle: int, before: np.ndarray, results: Sequence[tuple[int, int]], busy_tiers: int
    ) -> None:
        """See what is accepted, and do it to `combine`.

        `before` is the buffer as it was before this cycle, `results` are (row, accumulate) of the result rows that
        enter the combine units now, `busy_tiers` those of the rows that go to activation buffers.
        """
        lanes, out = self.config.result_lanes, self.out
        store, load = self.store.head, self.load.head
        store_bank = store[0] % lanes if store and self.reserved < STORE_DEPTH else None
        beyond = load is not None and load[0] >= self.config.combine_rows
        load_bank = load[0] % lanes if load is not None and not beyond else None
        vector_reads = [offer.head for offer in self.vector_read]
        vector_writes = [offer.head for offer in self.vector_write]
        by_bank = {row % lanes: accumulate for row, accumulate in results}
        stored, loaded = self.store.taken(ctx), self.load.taken(ctx)
        assert not stored or store_bank is not None, "a read beyond the room that is left"
        assert not beyond or loaded, "nothing can hold back a row that is nowhere"
        overridden = {row for row, _ in results}
        clears = {store_bank} if stored and store[1] else set()
        if stored:
            self.expected_reads.append(before[store[0]].tolist())
            if not self.dumping:
                out.reads.append(cycle)
            if store[1]:
                overridden.add(store[0])
                self.combine[store[0]] = 0
        self.reserved += stored
        if loaded and not beyond:
            out.load_rows.append(cycle)
        for bank in self.banks:
            # The read port.
            looked = self.vector_read[bank].taken(ctx)
            self.expected_rows[bank] = before[vector_reads[bank] * lanes + bank].tolist() if looked else None
            if looked:
                out.vector_reads.append(cycle)
            writers = vector_writes[bank] is not None or load_bank == bank
            hold = bank in self.clearing and writers and store is not None and store[1]
            store_able = store_bank == bank and bank not in by_bank and not hold
            read_able = vector_reads[bank] is not None and not by_bank.get(bank, 0)
            self._check(f"read{bank}", store_able, store_bank == bank and stored, read_able, looked)
            # The write port.
            wrote = self.vector_write[bank].taken(ctx)
            free = bank not in self.writing
            write_able = vector_writes[bank] is not None and free
            put = loaded and load_bank == bank
            self._check(f"write{bank}", load_bank == bank and free, put, write_able, wrote)
            if wrote:
                out.vector_writes.append(cycle)
            for accepted, place, item in (
                (wrote, wrote and vector_writes[bank][0] * lanes + bank, vector_writes[bank]),
                (put, put and load[0], load),
            ):
                if accepted and place not in overridden:
                    self.combine[place] = item[1]
        self.clearing = clears
        self.writing = clears | set(by_bank)
        self.beyond = beyond

        word, act = self.bus_write.head, self.vector_act.head
        able = [item is not None and not item["tiers"] & busy_tiers for item in (word, act)]
        taken = [self.bus_write.taken(ctx), self.vector_act.taken(ctx)]
        self._check("lane", able[0], taken[0], able[1], taken[1])
        self.expected_word = word if taken[0] else act if taken[1] else None
        if any(taken):
            out.words.append(cycle)

    def _check(self, port: str, able: bool, took: bool, vector_able: bool, vector_took: bool) -> None:
        """One of the two gets the port when it can, and they take turns when both can."""
        assert not (took and vector_took), f"{port}: two at once"
        assert took <= able and vector_took <= vector_able, f"{port}: not free"
        assert (took or vector_took) == (able or vector_able), f"{port}: nobody got it"
        if able and vector_able:
            wins = self.out.wins.setdefault(port, [])
            winner = "vector" if vector_took else "other"
            assert not wins or wins[-1] != winner, f"{port}: not in turns"
            wins.append(winner)

    def sink(self, ctx: Any, take: bool) -> list[int] | None:
        """Take a row of the store's data stream, if there is one and `take`."""
        ctx.set(self.dut.store_data.ready, take)
        if not (take and ctx.get(self.dut.store_data.valid)):
            return None
        self.reserved -= 1
        row = list(ctx.get(self.dut.store_data.payload))
        assert row == self.expected_reads.popleft()
        return row
