# SPDX-License-Identifier: Apache-2.0
"""A cycle-exact reference of the collector's destinations, and a bench that drives the collector against it.

The bus may pick rows in any fair order.  `credit` tells which rows it picked, and everything behind that is exact:
rows that left their FIFO in cycle t are in the combine units in t+1 (when `credit` shows) and on the bond in t+2.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import reduce
from operator import or_

import numpy as np
from amaranth.sim import Simulator

from hdl import numerics as nx
from hdl.config import PRESETS, MachineConfig
from hdl.emit.hierarchy import ports_of
from hdl.result import Collector
from tests.support.result.row_ports import RowOutcome, RowPorts, RowStimulus

FOUR = PRESETS["nano"].replace(name="four", tiers=4, result_lanes=2, row_fifo_depth=40, combine_rows=32)
"""Four tiers, two result lanes."""

WIDE = FOUR.replace(name="wide", rows=8, row_fifo_depth=60)
"""The same with words of twice the row: a row fills half a word, a `half` row a quarter."""


@dataclass(frozen=True)
class Row:
    """A result row and its descriptor."""

    data: tuple[int, ...]
    tiers: int = 1
    combine: int = 0
    accumulate: int = 0
    drop: int = 0
    half: int = 0
    op_end: int = 0
    addr: int = 0
    byte: int = 0
    gate: int = 1
    post0_en: int = 0
    post0_sem: int = 0
    post1_en: int = 0
    post1_sem: int = 0

    def descriptor(self) -> dict[str, int]:
        return {name: value for name, value in self.__dict__.items() if name != "data"}

    @property
    def posts(self) -> bool:
        return bool(self.op_end and (self.post0_en or self.post1_en))


@dataclass
class Stimulus:
    """What to drive, and how unsteadily."""

    rows: list[list[Row]]
    """Per tier."""
    ports: RowStimulus = field(default_factory=RowStimulus)
    seed: int = 0
    gaps: float = 0.0
    """Probability that an input is idle although it has something."""
    stalls: float = 0.0
    """Probability that an output is not taken."""
    latency: tuple[int, int] = (3, 12)
    """Cycles from a descriptor to its row."""
    hold_posts: int = 0
    """Cycles before the first post is taken."""
    hold_stores: int = 0
    """Cycles before the first row of a store is taken."""


@dataclass
class Outcome:
    """What came out."""

    cycles: int = 0
    moved: list[int] = field(default_factory=list)
    """Rows that left the FIFOs, per cycle."""
    order: list[int] = field(default_factory=list)
    """Tiers in the order in which rows left."""
    posts: list[tuple[int, int, int, int]] = field(default_factory=list)
    reads: list[list[int]] = field(default_factory=list)
    ports: RowOutcome = field(default_factory=RowOutcome)
    errors: int = 0
    stats: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("rows", "activation", "combine", "conflicts"), 0)
    )
    activation: np.ndarray = field(default_factory=lambda: np.zeros(0))
    combine: np.ndarray = field(default_factory=lambda: np.zeros(0))


class Reference:
    """What the destinations hold, in plain Python."""

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        self.combine = np.zeros((config.combine_rows, config.columns), dtype=np.int64)
        self.activation = np.zeros((config.tiers, config.activation_words, config.rows), dtype=np.int64)

    def beyond(self, row: Row) -> bool:
        limit = self.config.combine_rows if row.combine else self.config.activation_words
        return not row.drop and row.addr >= limit

    def write_of(self, row: Row) -> tuple[int, int, int, tuple[int, ...]] | None:
        """(tiers, addr, enable, enabled bytes) of an activation write."""
        if row.drop or row.combine or self.beyond(row):
            return None
        count = self.config.columns // 2 if row.half else self.config.columns
        return row.tiers, row.addr, ((1 << count) - 1) << row.byte, tuple(v & 0xFF for v in row.data[:count])

    def add(self, row: Row) -> None:
        if row.combine and not row.drop and not self.beyond(row):
            old = self.combine[row.addr]
            self.combine[row.addr] = nx.combine_add(old, row.gate, np.array(row.data), bool(row.accumulate))


@dataclass
class Recording:
    """Words of the inputs (with a reset of 0 on top) and of the outputs, one a cycle, in the order of the ports."""

    stimuli: list[str] = field(default_factory=list)
    responses: list[str] = field(default_factory=list)


def run(config: MachineConfig, stimulus: Stimulus, limit: int = 20_000, recording: Recording | None = None) -> Outcome:
    """Drive the collector until everything is out; every write, post and read is checked on its way.

    Then the whole combine buffer is read and compared.
    """
    dut = Collector(config)
    ports = ports_of(dut)
    rng = np.random.default_rng(stimulus.seed)
    ref = Reference(config)
    out = Outcome()
    tiers, lanes = range(config.tiers), range(config.result_lanes)

    def chance(probability: float) -> bool:
        return probability > 0 and rng.random() < probability

    async def bench(ctx):
        to_issue = [deque(rows) for rows in stimulus.rows]
        in_flight: list[deque[tuple[int, Row]]] = [deque() for _ in tiers]
        waiting: list[deque[Row]] = [deque() for _ in tiers]
        credits = [config.row_fifo_depth for _ in tiers]
        expected_writes: list[tuple[int, int, int, tuple[int, ...]]] = []
        expected_posts: deque[tuple[int, tuple[int, int, int, int]]] = deque()
        row_ports = RowPorts(dut, config, stimulus.ports, ref.combine, lambda: chance(stimulus.gaps))
        out.ports = row_ports.out
        idle = in_work = 0
        for cycle in range(limit):
            # Rows whose credit shows in this cycle are at the combine units in this cycle.
            moved = [t for t in tiers if ctx.get(dut.credit[t])]
            before = ref.combine.copy()
            next_writes = []
            combined: list[tuple[int, int]] = []  # (row, accumulate)
            posts_moved = beyond = 0
            for t in moved:
                row = waiting[t].popleft()
                credits[t] += 1
                out.order.append(t)
                write = ref.write_of(row)
                if write is not None:
                    next_writes.append(write)
                if row.combine and not row.drop and not ref.beyond(row):
                    combined.append((row.addr, row.accumulate))
                ref.add(row)
                beyond += ref.beyond(row)
                if row.posts:
                    posts_moved += 1
                    post = (row.post0_en, row.post0_sem, row.post1_en, row.post1_sem)
                    expected_posts.append((cycle + 1, post))
            units = [row % config.result_lanes for row, _ in combined]
            assert len(units) == len(set(units)), "two rows for one combine unit"
            assert posts_moved <= 1
            assert len(next_writes) + len(units) <= config.result_lanes
            assert bool(ctx.get(dut.error.valid)) == bool(beyond or row_ports.beyond)
            out.errors += beyond + row_ports.beyond
            out.moved.append(len(moved))
            for name in out.stats:
                out.stats[name] += ctx.get(dut.stats[name])

            # Writes on the bond.
            got_writes, busy_tiers = [], 0
            for l in lanes:
                lane = ctx.get(dut.write[l])
                if lane.valid:
                    assert not lane.parameter
                    assert not busy_tiers & lane.tiers, "two writes to one tier"
                    busy_tiers |= lane.tiers
                    enabled = tuple(lane.data[i] for i in range(config.rows) if lane.enable >> i & 1)
                    got_writes.append((lane.tiers, lane.addr, lane.enable, enabled))
                    for t in tiers:
                        if lane.tiers >> t & 1:
                            where = [i for i in range(config.rows) if lane.enable >> i & 1]
                            ref.activation[t, lane.addr, where] = enabled
            assert sorted(got_writes) == sorted(expected_writes), f"cycle {cycle}"
            expected_writes = next_writes
            row_ports.look(ctx, busy_tiers)

            # Sources.
            for t in tiers:
                issue = bool(to_issue[t]) and credits[t] > 0 and not chance(stimulus.gaps)
                ctx.set(dut.descriptor_valid[t], issue)
                if issue:
                    row = to_issue[t].popleft()
                    credits[t] -= 1
                    ctx.set(dut.descriptor[t], row.descriptor())
                    due = cycle + int(rng.integers(*stimulus.latency))
                    if in_flight[t]:
                        due = max(due, in_flight[t][-1][0] + 1)
                    in_flight[t].append((due, row))
                arrive = bool(in_flight[t]) and in_flight[t][0][0] <= cycle
                ctx.set(dut.result[t].valid, arrive)
                if arrive:
                    row = in_flight[t].popleft()[1]
                    waiting[t].append(row)
                    ctx.set(dut.result[t].data, list(row.data))
            row_ports.drive(ctx)
            activation_tiers = reduce(or_, (tiers for tiers, *_ in next_writes), 0)
            row_ports.settle(ctx, cycle, before, combined, activation_tiers)

            # Sinks.
            take = not chance(stimulus.stalls) and cycle >= stimulus.hold_posts
            ctx.set(dut.post.ready, take)
            if ctx.get(dut.post.valid):
                earliest, want = expected_posts[0]
                post = ctx.get(dut.post.payload)
                assert cycle >= earliest, "a post before its row is on the bond"
                assert (post.en0, post.sem0, post.en1, post.sem1) == want
                if take:
                    out.posts.append(want)
                    expected_posts.popleft()
            take = row_ports.dumping or (cycle >= stimulus.hold_stores and not chance(stimulus.stalls))
            row = row_ports.sink(ctx, take)
            if row is not None and not row_ports.dumping:
                out.reads.append(row)

            left = sum(map(len, [*to_issue, *in_flight, *waiting, expected_posts])) + row_ports.left
            done = not left
            idle = idle + 1 if done else 0
            if any(in_flight) or any(waiting) or expected_posts or row_ports.expected_reads:
                in_work += 1
                # A descriptor that is being pushed shows from the next cycle on.
                assert in_work == 1 or ctx.get(dut.busy), f"cycle {cycle}"
            else:
                in_work = 0
            if idle > 8:
                assert not ctx.get(dut.busy)
                if row_ports.dumping:
                    return
                out.cycles = cycle
                row_ports.dump()
            if recording is not None:
                words = {"input": "", "output": ""}
                for port in ports:
                    bits = ctx.get(port.value) & ((1 << port.width) - 1)
                    words[port.direction] = f"{bits:0{port.width}b}" + words[port.direction]
                recording.stimuli.append("0" + words["input"])
                recording.responses.append(words["output"])
            await ctx.tick()
        raise AssertionError(f"not done after {limit} cycles")

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    out.activation, out.combine = ref.activation, ref.combine
    return out
