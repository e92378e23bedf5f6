# SPDX-License-Identifier: Apache-2.0
"""The sequencer block on GEMMs with a slot: what each tier of a gang finds in the routing table, and when."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pytest

from hdl.config import MachineConfig
from hdl.control.operation import OperationSetup
from hdl.control.sequencers import SequencerBlock
from hdl.isa import Instruction, Mapping3D, Opcode
from hdl.isa.slots import slot_gemm
from tests.support.control.sequencer_bench import (
    Bench,
    check_gang_timing,
    check_waves,
    gang_of,
    issue_spans,
    rng_of,
    small_config,
)
from tests.support.control.sequencer_model import ListEntry, Lists, random_gemm, random_lists

GARBAGE = (3, 1)
"""Tokens and first entry of a slot that nobody may look up: before its instruction is granted, and once it works."""


@dataclass
class SlotBench(Bench):
    """A program in which every instruction has a slot of its own, which is good only while it may be looked up.

    A slot is written just before its leader's waits are granted, in place of something else, and is overwritten when
    the instruction's first waves have gone. That of an instruction without waits is written at the begin.

    Attributes
    ----------
    slots : list of (int, int)
        Tokens and first list entry of each instruction's slot.
    late : callable
        ``late(number)``: cycles after the request in which an instruction's waits are granted, at the earliest.
    """

    slots: list[tuple[int, int]] = field(default_factory=list)
    late: Any = lambda number: 0

    def __post_init__(self) -> None:
        coded = self.program
        self.coded = coded
        empty = len(self.lists[0]) - 1
        for entries in self.lists:
            entries[empty] = ListEntry(gate=1, drop=1)
        self.program = [effective(gemm, *slot, empty) for gemm, slot in zip(coded, self.slots, strict=True)]
        self.grant = self._grant
        self._writes: deque[tuple[int, tuple[int, int]]] = deque()
        self._written: dict[int, int] = {}
        self._asked: dict[int, int] = {}
        self._cycle = 0
        self._begun: set[int] = set()
        self._granted = [0] * self.config.tiers
        self._led = [
            [n for n, gemm in enumerate(coded) if gemm["tier_base"] == tier and gemm["wait0_count"]]
            for tier in range(self.config.tiers)
        ]
        for number, gemm in enumerate(coded):
            self._writes.append((number, GARBAGE if gemm["wait0_count"] else self.slots[number]))

    def _grant(self, cycle: int, tier: int) -> bool:
        number = self._led[tier][self._granted[tier]]
        if number not in self._asked:
            self._asked[number] = cycle
            self._writes.append((number, self.slots[number]))
        written = self._written.get(number)
        if written is None or cycle <= written or cycle < self._asked[number] + self.late(number):
            return False
        self._granted[tier] += 1
        return True

    def _first_waves(self) -> list[int]:
        """Return the instructions whose first wave has gone in all their tiers."""
        found = []
        done = [0] * self.config.tiers
        for number, gemm in enumerate(self.program):
            if all(len(self.record.issues[tier]) > done[tier] for tier in gang_of(gemm)):
                found.append(number)
            for tier in gang_of(gemm):
                done[tier] += gemm["tokens"] * gemm["k_slices"] * gemm["n_tiles"]
        return found

    async def prepare(self, ctx: Any, block: SequencerBlock) -> None:
        await super().prepare(ctx, block)
        while self._writes:
            await self._tick(ctx, block)
        self._written.clear()

    async def _tick(self, ctx: Any, block: SequencerBlock) -> None:
        if self.record.cycles:
            for number in self._first_waves():
                if number not in self._begun:
                    self._begun.add(number)
                    self._writes.append((number, GARBAGE))
        ctx.set(block.slot_write.valid, bool(self._writes))
        if self._writes:
            number, (count, base) = self._writes.popleft()
            ctx.set(block.slot_write, {"valid": 1, "slot": number, "count": count, "base": base, "expert": 0})
            if self.slots[number] == (count, base):
                self._written[number] = self.record.cycles
        await super()._tick(ctx, block)


def effective(gemm: Instruction, count: int, base: int, empty: int) -> Instruction:
    """Return what a GEMM does with its slot; skipped, one wave whose row goes nowhere."""
    found = slot_gemm(gemm, count, base)
    if found is not None:
        return found
    one = {"tokens": 1, "k_slices": 1, "n_tiles": 1, "act_list": 0, "dest_list": 1, "list_base": empty}
    values = {name: value for name, value in gemm.values.items() if name not in ("slot_en", "slot")}
    return replace(gemm, values=values | one)


def slot_machine(tiers: int, **changes: Any) -> MachineConfig:
    return small_config(tiers, **{"expert_slots": 32, "vcache_tiles": 128, **changes})


def with_slot(gemm: Instruction, number: int, **changes: int) -> Instruction:
    values = {**gemm.values, "slot_en": 1, "slot": number, **changes}
    if not (values["act_list"] or values["dest_list"]):
        values["dest_list"] = 1
    return replace(gemm, values=values)


def gemm(number: int, **values: int) -> Instruction:
    fields = {
        "tier_count": 2, "mapping": Mapping3D.N, "tokens": 4, "k_slices": 2, "n_tiles": 1, "tag": 9, "act_list": 1,
        "dest_list": 1, "dest_kind": 1, "wait0_sem": 1, "wait0_count": 1, "slot_en": 1, "slot": number, **values,
    }  # fmt: skip
    return Instruction(Opcode.GEMM, {name: int(value) for name, value in fields.items()})


def low_lists(seed: object, config: MachineConfig) -> Lists:
    return random_lists(rng_of("lists", seed), config)


@pytest.mark.parametrize("feed", ["vertical", "edge"])
@pytest.mark.parametrize("tiers", [2, 3, 4])
@pytest.mark.parametrize("seed", range(3))
def test_gangs_find_what_is_there_when_their_leader_is_granted(feed: str, tiers: int, seed: int) -> None:
    """Random gangs with leaders of their own, some tiers alone and some GEMMs without waits between."""
    rng = rng_of("slots", feed, tiers, seed)
    config = slot_machine(tiers, stationary_feed=feed, row_fifo_depth=tiers * 5 + 16)
    lists = low_lists((feed, tiers, seed), config)
    program, slots = [], []
    for number in range(20):
        mapping = rng.choice([Mapping3D.N, Mapping3D.N, Mapping3D.ALONE])
        waits = {"wait0_sem": 1, "wait0_count": int(rng.random() < 0.8)}
        one = random_gemm(
            rng, config, lists, least=1, most=30, mapping=mapping, tag=9, list_base=0, dest_tiers=0, **waits
        )
        count = rng.choice([0, 0, 1, one["tokens"], one["tokens"] + 3, rng.randint(0, 8)])
        slots.append((count, rng.randint(0, config.list_depth - 18)))
        program.append(with_slot(one, number, list_base=rng.choice([0, 0, 1, 2]), act_base=0, dest_base=0))
    bench = SlotBench(
        config, program, lists, slots=slots, late=lambda number: rng.choice([0, 0, 1, 40]),
        credit_delay=lambda: rng.choice([5, 10, 60]), room=rng.choice([1, 4]),
        dispatch_gap=lambda: rng.choice([0, 0, 0, 20]),
    )  # fmt: skip
    record = bench.run()
    assert record.error is None
    check_waves(bench)
    check_gang_timing(bench)


@pytest.mark.parametrize("late", [0, 60])
@pytest.mark.parametrize("busy", [0, 60])
@pytest.mark.parametrize("count", [0, 1, 3, 4, 9])
def test_leader_granted_before_and_after_its_follower_arrives(late: int, busy: int, count: int) -> None:
    """An empty slot, one token, fewer and more tokens than planned; the follower has something else to do first."""
    config = slot_machine(2)
    program = [gemm(0, tier_base=1, tier_count=1, mapping=0, tokens=5, k_slices=1 + busy // 5), gemm(1), gemm(2)]
    bench = SlotBench(
        config, program, low_lists(count, config), slots=[(9, 0), (count, 5), (4, 9)], late=lambda n: late if n else 0
    )
    record = bench.run()
    assert record.error is None
    check_waves(bench)
    check_gang_timing(bench)
    if late and not busy:  # the leader waits for its semaphore, the follower for the leader
        assert record.stats[0]["wait_semaphore"] > late and record.stats[1]["wait_gang"] > late


def test_two_leaders_share_a_follower() -> None:
    """Tier 2 has a gang of tier 1 first, and later one of tier 0, whose leader is granted long before."""
    config = slot_machine(3)
    program = [gemm(0, tier_base=1), gemm(1, tier_count=3), gemm(2, tier_base=1), gemm(3, tier_count=3)]
    for late in ([90, 0, 0, 0], [0, 90, 0, 0], [0, 0, 90, 0]):
        bench = SlotBench(
            config, program, low_lists(1, config), slots=[(2, 3), (4, 8), (1, 0), (3, 7)], late=lambda n, w=late: w[n]
        )
        record = bench.run()
        assert record.error is None
        check_waves(bench)
        check_gang_timing(bench)


@pytest.mark.parametrize("waves", [1, 3, 6, 7, 8, 12])
def test_look_up_hides_behind_seven_waves(waves: int) -> None:
    """Gangs with slots follow each other as fast as those without."""
    config = slot_machine(2)
    program = [gemm(n, tokens=1, k_slices=waves, wait0_count=0) for n in range(12)]
    bench = SlotBench(config, program, low_lists(2, config), slots=[(1, 0)] * 12, release=12)
    bench.run()
    check_waves(bench)
    starts = [first for first, _ in issue_spans(bench)[0]]
    assert [b - a for a, b in pairwise(starts)][3:] == [max(waves, OperationSetup.LATENCY + 1)] * 8
