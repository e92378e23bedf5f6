# SPDX-License-Identifier: Apache-2.0
"""Surroundings of a `SequencerBlock` in Amaranth's simulator: dispatcher queues, semaphores, fills, collector."""

from __future__ import annotations

import random
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from amaranth.hdl import Value
from amaranth.sim import Simulator

from hdl.config import PRESETS, MachineConfig
from hdl.control.sequencers import SequencerBlock, sequencer_stats_layout
from hdl.emit.hierarchy import ports_of
from hdl.interfaces import dispatch_layout, error_layout, row_descriptor_layout, wait_layout
from hdl.isa import Instruction, Mapping3D, encode
from tests.support.control.sequencer_model import Lists, gang_of, waves_of

CAUSES = ("wave", "stall_tag", "stall_credit", "stall_edge", "wait_semaphore", "wait_gang", "idle")


def small_config(tiers: int, **changes: Any) -> MachineConfig:
    """Return a machine with small memories (4x4 PEs a tier) and long queues."""
    values = {
        "name": f"test{tiers}", "tiers": tiers, "vcache_tiles": 256, "activation_words": 512, "result_lanes": 1,
        "combine_rows": 512, "row_fifo_depth": 64, "queue_depth": 64, "accumulator_depth": 64, "list_depth": 32,
    }  # fmt: skip
    return PRESETS["nano"].replace(**{**values, **changes})


@dataclass
class Issue:
    """A wave as seen on a dispatch lane."""

    cycle: int
    fields: dict[str, int]
    descriptor: dict[str, int] | None


@dataclass
class Record:
    """What a run showed."""

    issues: list[list[Issue]]
    stats: list[dict[str, int]]
    edges: list[list[tuple[int, int, int]]]
    grants: list[tuple[int, int, tuple[int, ...]]]
    most_outstanding: int = 0
    error: tuple[int, int] | None = None
    cycles: int = 0


@dataclass
class Bench:
    """One run of a program of GEMMs.

    Attributes
    ----------
    fills : callable or None
        ``fills(cycle)`` returns up to two fill words ``(lane, tiers, tile, word, tag)`` of a cycle.
    pending_until : int
        ``loads_pending`` is high before this cycle.
    resident : bool
        Fill all tiles that the program reads (with the tags that it wants) before it starts.
    credit_delay : callable
        Cycles from a descriptor to its credit's return.
    grant : callable
        ``grant(cycle, tier)``: whether a semaphore wait is granted.
    chaining : bool
        Drive the ``enter`` ports.
    vectors : list or None
        Gets the input and output words of every cycle, ``rst`` on top of the inputs.
    room : int
        Depth of the modelled queues.
    release : int
        The queues show their heads from this cycle on (so that the whole program can be in them).
    coded : list of Instruction or None
        What the queues hold, where that is not `program` itself: instructions with slots.
    """

    config: MachineConfig
    program: list[Instruction]
    lists: Lists
    fills: Callable[[int], list[tuple[int, int, int, int, int]]] | None = None
    pending_until: int = 0
    resident: bool = True
    credit_delay: Callable[[], int] = lambda: 20
    grant: Callable[[int, int], bool] = lambda cycle, tier: True
    chaining: bool = True
    room: int = 1000
    release: int = 0
    coded: list[Instruction] | None = None
    dispatch_gap: Callable[[], int] = lambda: 0
    limit: int = 20000
    halt_at: int | None = None
    trace: str | None = None
    vectors: list[tuple[str, str]] | None = None
    record: Record = field(init=False)

    def run(self) -> Record:
        tiers = self.config.tiers
        self.record = Record([[] for _ in range(tiers)], [{} for _ in range(tiers)], [[] for _ in range(tiers)], [])
        block = SequencerBlock(self.config)
        simulator = Simulator(block)
        simulator.add_clock(1e-6)
        simulator.add_testbench(partial(self._testbench, block=block))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            if self.trace is None:
                simulator.run()
            else:
                with simulator.write_vcd(self.trace):
                    simulator.run()
        return self.record

    async def _tick(self, ctx: Any, block: SequencerBlock) -> None:
        if self.vectors is not None:
            words = {"input": "", "output": ""}
            for port in ports_of(block):
                value = ctx.get(port.value) & ((1 << port.width) - 1)
                words[port.direction] = f"{value:0{port.width}b}" + words[port.direction]
            self.vectors.append(("0" + words["input"], words["output"]))
        await ctx.tick()

    async def _fill(
        self, ctx: Any, block: SequencerBlock, lane: int, tiers: int, tile: int, word: int, tag: int
    ) -> None:
        control = block.fill_control[lane]
        ctx.set(control, {"valid": 1, "tiers": tiers, "tile": tile, "word": word})
        ctx.set(block.fill_tag[lane], tag)

    async def prepare(self, ctx: Any, block: SequencerBlock) -> None:
        """Write the token lists and, for resident runs, the tags."""
        config = self.config
        for index in range(config.list_depth):
            for tier in range(config.tiers):
                ctx.set(block.list_write_valid, 1)
                ctx.set(block.list_write_tiers, 1 << tier)
                ctx.set(block.list_write_addr, index)
                ctx.set(block.list_write_entry, self.lists[tier][index].bits())
                await self._tick(ctx, block)
        ctx.set(block.list_write_valid, 0)
        while not ctx.get(block.tags_ready):
            await self._tick(ctx, block)
        if self.resident:
            needed: dict[tuple[int, int], int] = {}
            for gemm in self.program:
                gang = gang_of(gemm)
                mask = 1 << gang.start if gemm["mapping"] == Mapping3D.M else sum(1 << t for t in gang)
                for tile in range(gemm["k_slices"] * gemm["n_tiles"]):
                    key = (gemm["vcache_base"] + tile, gemm["tag"])
                    needed[key] = needed.get(key, 0) | mask
            for (tile, tag), mask in needed.items():
                await self._fill(ctx, block, tile % 2, mask, tile, config.fill_words - 1, tag)
                await self._tick(ctx, block)
                ctx.set(block.fill_control[tile % 2].valid, 0)

    async def _testbench(self, ctx: Any, block: SequencerBlock) -> None:
        config, record, tiers = self.config, self.record, self.config.tiers
        await self.prepare(ctx, block)
        queues: list[deque[tuple[int, int]]] = [deque() for _ in range(tiers)]
        todo = deque(enumerate(self.program))
        gap = 0
        credits: list[list[int]] = [[] for _ in range(tiers)]
        expected = [
            sum(g["tokens"] * g["k_slices"] * g["n_tiles"] for g in self.program if t in gang_of(g))
            for t in range(tiers)
        ]
        layouts = dispatch_layout(config), row_descriptor_layout(config)
        stats_layout = sequencer_stats_layout()
        idle = 0
        for cycle in range(self.limit):
            # The dispatcher: one instruction a cycle into all queues of its gang.
            ctx.set(block.enter_valid, 0)
            for tier in range(tiers):
                shown = bool(queues[tier]) and cycle >= self.release
                ctx.set(block.queue[tier].valid, shown)
                if shown:
                    word, pc = queues[tier][0]
                    ctx.set(block.queue[tier].payload, {"word": word, "pc": pc})
            entering = None
            if todo and gap == 0 and all(len(queues[t]) < self.room for t in gang_of(todo[0][1])):
                entering = todo.popleft()
                gap = self.dispatch_gap()
                if self.chaining:
                    ctx.set(block.enter_valid, 1)
                    ctx.set(block.enter_tiers, sum(1 << t for t in gang_of(entering[1])))
                    ctx.set(block.enter_k, entering[1]["mapping"] == Mapping3D.K)
            elif gap:
                gap -= 1
            for tier in range(tiers):
                ctx.set(block.credit[tier], cycle in credits[tier])
                if cycle in credits[tier]:
                    credits[tier].remove(cycle)
                record.most_outstanding = max(record.most_outstanding, len(credits[tier]))
            for lane in range(2):
                ctx.set(block.fill_control[lane].valid, 0)
            for lane, *word in self.fills(cycle) if self.fills else ():
                await self._fill(ctx, block, lane, *word)
            ctx.set(block.loads_pending, cycle < self.pending_until)
            ctx.set(block.halt, self.halt_at is not None and cycle >= self.halt_at)

            for tier in range(tiers):
                wait = block.wait[tier]
                granted = bool(ctx.get(wait.valid)) and self.grant(cycle, tier)
                ctx.set(wait.ready, granted)
                if granted:
                    bits = wait_layout(config).from_bits(ctx.get(Value.cast(wait.payload)))
                    record.grants.append((cycle, tier, (bits.sem0, bits.count0, bits.sem1, bits.count1)))
            for tier in range(tiers):
                if ctx.get(block.queue[tier].valid) and ctx.get(block.queue[tier].ready):
                    queues[tier].popleft()
            if entering is not None:
                pc, gemm = entering
                word = int.from_bytes(encode(self.coded[pc] if self.coded else gemm), "little")
                for tier in gang_of(gemm):
                    queues[tier].append((word, pc))

            busy = False
            for tier in range(tiers):
                busy |= self._observe(ctx, block, tier, cycle, layouts, stats_layout, credits[tier])
            error = error_layout().from_bits(ctx.get(Value.cast(block.error)))
            if error.valid:
                record.error = (error.code, error.pc)
            record.cycles = cycle + 1
            done = all(len(record.issues[t]) == expected[t] for t in range(tiers)) and not busy
            idle = idle + 1 if done or error.valid or (self.halt_at is not None and cycle > self.halt_at + 50) else 0
            if idle == 5:
                return
            await self._tick(ctx, block)
        raise AssertionError(f"not finished after {self.limit} cycles: {[len(i) for i in record.issues]} of {expected}")

    def _observe(
        self,
        ctx: Any,
        block: SequencerBlock,
        tier: int,
        cycle: int,
        layouts: Any,
        stats_layout: Any,
        credits: list[int],
    ) -> bool:
        record = self.record
        lane = layouts[0].from_bits(ctx.get(Value.cast(block.dispatch[tier])))
        pushed = bool(ctx.get(block.descriptor_valid[tier]))
        if lane.edge_load:
            record.edges[tier].append((cycle, lane.edge_tile, lane.edge_below))
        if lane.wave.valid:
            names = ("new", "stationary_below", "activation_below", "psum_below", "vcache_addr", "activation_addr")
            fields = {name: getattr(lane.wave, name) for name in names}
            fields |= {name: getattr(lane.tail, name) for name in layouts_fields(lane.tail)}
            descriptor = None
            if pushed:
                bits = layouts[1].from_bits(ctx.get(Value.cast(block.descriptor[tier])))
                descriptor = {name: getattr(bits, name) for name in layouts_fields(bits)}
                credits.append(cycle + 1 + self.credit_delay())
                while credits.count(credits[-1]) > 1:
                    credits[-1] += 1
            record.issues[tier].append(Issue(cycle, fields, descriptor))
        else:
            assert not pushed, "a descriptor without its wave"
        stats = stats_layout.from_bits(ctx.get(Value.cast(block.stats[tier])))
        causes = [name for name in CAUSES if getattr(stats, name)]
        assert len(causes) == 1, causes
        for name in layouts_fields(stats):
            record.stats[tier][name] = record.stats[tier].get(name, 0) + getattr(stats, name)
        return bool(ctx.get(block.busy[tier]))


def layouts_fields(view: Any) -> list[str]:
    return [name for name, _ in view.shape()]


def check_waves(bench: Bench) -> None:
    """Every tier issued exactly the waves of its program, in order, with the right descriptors."""
    config = bench.config
    for tier in range(config.tiers):
        wanted = [
            wave
            for gemm in bench.program
            if tier in gang_of(gemm)
            for wave in waves_of(gemm, config, tier, bench.lists)
        ]
        seen = bench.record.issues[tier]
        for number, (want, have) in enumerate(zip(wanted, seen, strict=True)):
            # A dropped row's address means nothing.
            skip = {"addr", "byte"} if want.descriptor and want.descriptor["drop"] else set()
            assert have.fields == want.fields, f"tier {tier} wave {number}"
            assert (have.descriptor is None) == (want.descriptor is None), f"tier {tier} wave {number}"
            if want.descriptor and have.descriptor:
                for name, value in want.descriptor.items():
                    assert name in skip or have.descriptor[name] == value, f"tier {tier} wave {number} {name}"


def issue_spans(bench: Bench) -> list[list[tuple[int, int]]]:
    """Return per tier (first, last) issue cycle of each of its GEMMs."""
    result: list[list[tuple[int, int]]] = []
    for tier in range(bench.config.tiers):
        cycles = [issue.cycle for issue in bench.record.issues[tier]]
        spans = []
        for gemm in bench.program:
            if tier in gang_of(gemm):
                length = gemm["tokens"] * gemm["k_slices"] * gemm["n_tiles"]
                spans.append((cycles[0], cycles[length - 1]))
                cycles = cycles[length:]
        result.append(spans)
    return result


def rng_of(*seed: object) -> random.Random:
    return random.Random(repr(seed))


@dataclass
class Streaming:
    """Fill words of all tiles that a program reads, in program order, at random times; lane = tier % 2.

    ``filled[tier, tile]`` is the cycle of the tile's last word.
    """

    config: MachineConfig
    program: list[Instruction]
    rng: random.Random
    rate: float
    filled: dict[tuple[int, int], int] = field(default_factory=dict)
    words: list[deque[tuple[int, int, int, int]]] = field(init=False)

    def __post_init__(self) -> None:
        self.words = [deque(), deque()]
        seen = set()
        for gemm in self.program:
            for index in range(gemm["k_slices"] * gemm["n_tiles"]):
                for tier in gang_of(gemm):
                    tile = gemm["vcache_base"] + index
                    if (tier, tile) in seen or (gemm["mapping"] == Mapping3D.M and tier != gemm["tier_base"]):
                        continue
                    seen.add((tier, tile))
                    for word in range(self.config.fill_words):
                        self.words[tier % 2].append((1 << tier, tile, word, gemm["tag"]))

    def __call__(self, cycle: int) -> list[tuple[int, int, int, int, int]]:
        result = []
        for lane, words in enumerate(self.words):
            if words and self.rng.random() < self.rate:
                word = words.popleft()
                result.append((lane, *word))
                if word[2] == self.config.fill_words - 1:
                    self.filled[word[0].bit_length() - 1, word[1]] = cycle
        return result


def check_gang_timing(bench: Bench) -> None:
    """Gangs issue together (M, N) or ``skew_k - 1`` cycles apart (K), wave by wave."""
    position = [0] * bench.config.tiers
    lag = bench.config.skew_k - 1
    for gemm in bench.program:
        length = gemm["tokens"] * gemm["k_slices"] * gemm["n_tiles"]
        cycles = []
        for tier in gang_of(gemm):
            part = bench.record.issues[tier][position[tier] : position[tier] + length]
            position[tier] += length
            cycles.append([issue.cycle for issue in part])
        for number, tier_cycles in enumerate(cycles):
            late = number * lag if gemm["mapping"] == Mapping3D.K else 0
            assert tier_cycles == [cycle + late for cycle in cycles[0]]
