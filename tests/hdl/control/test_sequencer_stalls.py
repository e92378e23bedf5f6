# SPDX-License-Identifier: Apache-2.0
"""The sequencer block when tiles, credits, semaphores or instructions are late."""

from __future__ import annotations

from itertools import pairwise

import pytest

from hdl.control.operation import OperationSetup
from hdl.control.sequencer import TIMING
from hdl.isa import Instruction, Mapping3D, Opcode, Order
from tests.support.control.sequencer_bench import (
    Bench,
    Streaming,
    check_gang_timing,
    check_waves,
    gang_of,
    issue_spans,
    rng_of,
    small_config,
)
from tests.support.control.sequencer_model import random_gemm, random_lists


def check_tiles(bench: Bench, streaming: Streaming) -> None:
    """No wave (edge feed: no request) went before its tile was there, in any tier of its K gang."""
    edge = bench.config.stationary_feed == "edge"
    position = [0] * bench.config.tiers
    requests = [0] * bench.config.tiers
    for gemm in bench.program:
        for tier in gang_of(gemm):
            tiles = gemm["k_slices"] * gemm["n_tiles"]
            length = gemm["tokens"] * tiles
            issues = bench.record.issues[tier][position[tier] : position[tier] + length]
            cycles = {issue.fields["vcache_addr"]: issue.cycle for issue in issues if issue.fields["new"]}
            if edge:
                cycles = {tile: cycle for cycle, tile, _ in bench.record.edges[tier][requests[tier] :][:tiles]}
            position[tier] += length
            requests[tier] += tiles
            for tile, cycle in cycles.items():
                readers = {Mapping3D.M: [gemm["tier_base"]], Mapping3D.K: list(gang_of(gemm))}
                for reader in readers.get(Mapping3D(gemm["mapping"]), [tier]):
                    delay = (tier - gemm["tier_base"]) * (bench.config.skew_k - 1)
                    launched = cycle - (delay if gemm["mapping"] == Mapping3D.K else 0)
                    # Registered output: the decision fell one cycle earlier, on a tag written before that.
                    assert streaming.filled[reader, tile] < launched - 1


@pytest.mark.parametrize("feed", ["vertical", "edge"])
@pytest.mark.parametrize("tiers", [1, 2, 4])
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_everything_late(feed: str, tiers: int, seed: int) -> None:
    rng = rng_of("late", feed, tiers, seed)
    config = small_config(tiers, vcache_tiles=128, stationary_feed=feed, row_fifo_depth=tiers * 5 + 16, queue_depth=4)
    lists = random_lists(rng, config)
    program = []
    for _ in range(25):
        waits = {
            "wait0_sem": 1,
            "wait0_count": rng.choice([0, 0, 1, 5]),
            "wait1_sem": 2,
            "wait1_count": rng.choice([0, 0, 3]),
        }
        program.append(random_gemm(rng, config, lists, least=1, most=30, tag=9, **waits))
    streaming = Streaming(config, program, rng, rate=0.8)
    bench = Bench(
        config,
        program,
        lists,
        fills=streaming,
        pending_until=10**9,
        resident=False,
        credit_delay=lambda: rng.choice([5, 10, 60]),
        grant=lambda cycle, tier: rng.random() < 0.2,
        room=rng.choice([1, 2, 4]),
        dispatch_gap=lambda: rng.choice([0, 0, 0, 20]),
    )
    record = bench.run()
    assert record.error is None
    check_waves(bench)
    check_gang_timing(bench)
    check_tiles(bench, streaming)
    assert record.most_outstanding <= config.row_fifo_depth
    # Every leader asked once, in order; nobody else did.
    for tier in range(tiers):
        wanted = [
            tuple(gemm[name] for name in ("wait0_sem", "wait0_count", "wait1_sem", "wait1_count"))
            for gemm in program
            if gemm["tier_base"] == tier and gemm["wait0_count"] + gemm["wait1_count"]
        ]
        assert [wait for _, t, wait in record.grants if t == tier] == wanted


def gemm(**values: int) -> Instruction:
    fields = {"tier_count": 1, "tokens": 1, "k_slices": 1, "n_tiles": 1, "order": Order.K_INNER, "tag": 9, **values}
    return Instruction(Opcode.GEMM, {name: int(value) for name, value in fields.items()})


def test_streamed_tiles_run_at_the_rate_of_the_fills() -> None:
    config = small_config(1)
    program = [gemm(k_slices=8, n_tiles=4)]
    streaming = Streaming(config, program, rng_of(), rate=1.0)
    bench = Bench(config, program, random_lists(rng_of(1), config), fills=streaming, pending_until=500, resident=False)
    record = bench.run()
    cycles = [issue.cycle for issue in record.issues[0]]
    # One tile per `fill_words` cycles; the wave goes when its tag is seen, and is on the lane in the cycle after.
    after = TIMING.tile + TIMING.dispatch
    late = [cycle for cycle in cycles if cycle > 20]
    filled = [streaming.filled[0, tile] + after for tile in range(len(cycles))]
    assert late == [cycle for cycle in filled if cycle > 20]
    assert record.stats[0]["stall_tag"] > 20
    assert record.stats[0]["wave"] == record.stats[0]["new_own"] == 32


@pytest.mark.parametrize("mapping", [Mapping3D.ALONE, Mapping3D.M, Mapping3D.K])
def test_rows_wait_for_credits(mapping: Mapping3D) -> None:
    config = small_config(2, row_fifo_depth=26, accumulator_depth=64)
    count = 1 if mapping == Mapping3D.ALONE else 2
    program = [gemm(tokens=40, mapping=mapping, tier_count=count, dest_kind=1, dest_stride=1)]
    bench = Bench(config, program, random_lists(rng_of(2), config), credit_delay=lambda: 200)
    record = bench.run()
    check_waves(bench)
    check_gang_timing(bench)
    assert record.most_outstanding == 26
    assert record.stats[0]["stall_credit"] > 100
    cycles = [issue.cycle for issue in record.issues[0]]
    assert cycles[25] - cycles[0] == 25 and cycles[26] - cycles[25] > 100


@pytest.mark.parametrize("feed", ["vertical", "edge"])
@pytest.mark.parametrize("tiers", [2, 3])
@pytest.mark.parametrize("waves", [1, 2, 3])
def test_tiny_chained_k_operations_after_a_late_follower(feed: str, tiers: int, waves: int) -> None:
    """The leader has several operations decoded when the last follower comes; the follower decodes one at a time."""
    config = small_config(tiers, stationary_feed=feed)
    top = gemm(tier_base=tiers - 1, tokens=5, k_slices=10)
    program = [top] + [gemm(tier_count=tiers, mapping=Mapping3D.K, k_slices=waves)] * 8
    bench = Bench(config, program, random_lists(rng_of(7), config), release=10, limit=1000)
    bench.run()
    check_waves(bench)
    check_gang_timing(bench)


@pytest.mark.parametrize("mapping", list(Mapping3D))
@pytest.mark.parametrize("waves", [1, 3, 6, 7])
def test_setup_hides_behind_seven_waves(mapping: Mapping3D, waves: int) -> None:
    """Operations follow each other every max(waves, LATENCY + 1) cycles."""
    config = small_config(2)
    count = 1 if mapping == Mapping3D.ALONE else 2
    program = [gemm(tier_count=count, mapping=mapping, k_slices=waves)] * 12
    bench = Bench(config, program, random_lists(rng_of(8), config), release=12)
    bench.run()
    starts = [first for first, _ in issue_spans(bench)[0]]
    assert [b - a for a, b in pairwise(starts)][3:] == [max(waves, OperationSetup.LATENCY + 1)] * 8


def test_statistics_of_links() -> None:
    config = small_config(3)
    lists = random_lists(rng_of(3), config)
    program = [
        gemm(tier_count=3, mapping=Mapping3D.M, tokens=4, k_slices=5),
        gemm(tier_count=3, mapping=Mapping3D.N, tokens=3, k_slices=7),
        gemm(tier_count=3, mapping=Mapping3D.K, tokens=2, k_slices=6),
    ]
    record = Bench(config, program, lists).run()
    for tier, stats in enumerate(record.stats):
        follower = int(tier > 0)
        assert stats["wave"] == 20 + 21 + 12
        assert stats["new_own"] == (1 - follower) * 5 + 7 + 6
        assert stats["link_m"] == follower * 5
        assert stats["link_n"] == follower * 21
        assert stats["link_k"] == follower * 12
        assert stats["last"] == 4 + 3 + (2 if tier == 2 else 0)


def test_leader_waits_for_semaphore_and_followers_for_the_leader() -> None:
    config = small_config(2)
    program = [gemm(tier_count=2, mapping=Mapping3D.N, k_slices=8, wait0_sem=3, wait0_count=2)]
    bench = Bench(config, program, random_lists(rng_of(4), config), grant=lambda cycle, tier: cycle >= 50)
    record = bench.run()
    assert [grant[:2] for grant in record.grants] == [(50, 0)]
    # Granted in 50: ready in 51, S0 in 52, S1 in 53, out in 54.
    assert record.issues[0][0].cycle == 54
    assert record.stats[0]["wait_semaphore"] > 40
    assert record.stats[1]["wait_gang"] > 40


@pytest.mark.parametrize("feed", ["vertical", "edge"])
@pytest.mark.parametrize("mapping", [Mapping3D.M, Mapping3D.N, Mapping3D.K])
@pytest.mark.parametrize("late", [0, 1])
def test_no_semaphores_past_a_gang_that_has_not_begun(feed: str, mapping: Mapping3D, late: int) -> None:
    """A gang that one tier keeps waiting is a barrier for the other: what follows takes no semaphores before it.

    Otherwise it could take a count that an instruction before the gang, in the late tier's queue, waits for.
    """
    config = small_config(2, stationary_feed=feed)
    early = 1 - late
    program = [
        gemm(tier_base=late, wait0_sem=1, wait0_count=1, k_slices=12),
        gemm(tier_count=2, mapping=mapping, k_slices=12),
        gemm(tier_base=early, wait0_sem=2, wait0_count=1, k_slices=12),
    ]
    # The semaphore of the last one is there all the time, that of the first one only from cycle 150 on.
    bench = Bench(
        config, program, random_lists(rng_of(4), config), grant=lambda cycle, tier: tier == early or cycle >= 150
    )
    record = bench.run()
    gang_begins = issue_spans(bench)[early][0][0]
    assert [(tier, wait[0]) for _, tier, wait in record.grants] == [(late, 1), (early, 2)]
    assert record.grants[0][0] == 150 and record.grants[1][0] >= gang_begins - 1


def test_list_entry_written_while_a_follower_waits() -> None:
    """An entry that a load writes before the leader's wait is granted counts, also in a follower that looked before."""
    config = small_config(2)
    lists = random_lists(rng_of(5), config)
    program = [
        gemm(
            tier_count=2,
            mapping=Mapping3D.M,
            tokens=8,
            act_list=1,
            dest_list=1,
            wait0_sem=1,
            wait0_count=1,
            dest_kind=1,
        )
    ]

    class Rewriting(Bench):
        async def prepare(self, ctx, block):  # type: ignore[no-untyped-def]
            await super().prepare(ctx, block)
            self.block, self.ctx = block, ctx

        def rewrite(self, cycle: int, tier: int) -> bool:
            if cycle == 40:
                self.lists[1][0] = lists[0][1]
                self.ctx.set(self.block.list_write_valid, 1)
                self.ctx.set(self.block.list_write_tiers, 2)
                self.ctx.set(self.block.list_write_addr, 0)
                self.ctx.set(self.block.list_write_entry, self.lists[1][0].bits())
            else:
                self.ctx.set(self.block.list_write_valid, 0)
            return cycle == 41

    assert lists[1][0] != lists[0][1]
    bench = Rewriting(config, program, lists)
    bench.grant = bench.rewrite
    bench.run()
    check_waves(bench)


def test_halt_stops_leaders() -> None:
    config = small_config(2)
    program = [gemm(tier_count=2, mapping=Mapping3D.K, k_slices=60)]
    record = Bench(config, program, random_lists(rng_of(6), config), halt_at=30).run()
    assert [len(issues) for issues in record.issues] == [len(record.issues[0])] * 2
    assert 0 < len(record.issues[0]) < 30
    assert max(issue.cycle for issue in record.issues[0]) <= 30
