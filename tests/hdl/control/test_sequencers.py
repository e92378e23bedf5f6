# SPDX-License-Identifier: Apache-2.0
"""The sequencer block against nested loops and an ideal timetable."""

from __future__ import annotations

import pytest

from hdl.isa import Mapping3D
from tests.support.control.sequencer_bench import Bench, check_waves, issue_spans, rng_of, small_config
from tests.support.control.sequencer_model import edge_timetable, random_gemm, random_lists, timetable


def check_timetable(bench: Bench) -> None:
    """The waves come in exactly the cycles of a timetable without a single bubble."""
    spans = issue_spans(bench)
    wanted = timetable(bench.program, bench.config, bench.chaining)
    offset = min(tier[0][0] for tier in spans if tier)
    shifted = [[(a + offset, b + offset) for a, b in tier] for tier in wanted]
    assert spans == shifted


@pytest.mark.parametrize("tiers", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(3))
def test_random_programs_have_no_bubble(tiers: int, seed: int) -> None:
    rng = rng_of("program", tiers, seed)
    config = small_config(tiers, vcache_tiles=128)
    lists = random_lists(rng, config)
    program = [random_gemm(rng, config, lists, tag=9) for _ in range(20)]
    bench = Bench(config, program, lists, credit_delay=lambda: 4, release=len(program))
    bench.run()
    assert bench.record.error is None
    check_waves(bench)
    check_timetable(bench)


@pytest.mark.parametrize("mapping", list(Mapping3D))
@pytest.mark.parametrize("tokens", [1, 3, 16])
def test_same_gang_back_to_back(mapping: Mapping3D, tokens: int) -> None:
    rng = rng_of("same", mapping, tokens)
    config = small_config(4)
    lists = random_lists(rng, config)
    count = 1 if mapping == Mapping3D.ALONE else 4
    program = [
        random_gemm(
            rng, config, lists, mapping=mapping, tier_base=0, tier_count=count, tokens=tokens, tag=5, vcache_base=0
        )
        for _ in range(8)
    ]
    bench = Bench(config, program, lists, credit_delay=lambda: 4, release=len(program))
    bench.run()
    check_waves(bench)
    check_timetable(bench)
    for tier in range(count):
        cycles = [issue.cycle for issue in bench.record.issues[tier]]
        assert cycles == list(range(cycles[0], cycles[0] + len(cycles)))


def test_k_gang_without_dispatcher_ports_meets_every_time() -> None:
    rng = rng_of("unchained")
    config = small_config(3)
    lists = random_lists(rng, config)
    program = [random_gemm(rng, config, lists, mapping=Mapping3D.K, tier_base=0, tier_count=3, tag=5) for _ in range(5)]
    bench = Bench(config, program, lists, credit_delay=lambda: 4, release=len(program), chaining=False)
    bench.run()
    check_waves(bench)
    check_timetable(bench)


def check_edge_timetable(bench: Bench) -> None:
    waves, requests = edge_timetable(bench.program, bench.config, bench.chaining)
    offset = min(edges[0][0] for edges in bench.record.edges if edges)
    for tier in range(bench.config.tiers):
        assert [edge[0] - offset for edge in bench.record.edges[tier]] == requests[tier]
        assert [issue.cycle - offset for issue in bench.record.issues[tier]] == waves[tier]
        tiles = [issue for issue in bench.record.issues[tier] if issue.fields["new"]]
        assert [edge[1:] for edge in bench.record.edges[tier]] == [
            (issue.fields["vcache_addr"], issue.fields["stationary_below"]) for issue in tiles
        ]


@pytest.mark.parametrize("tiers", [1, 2, 4])
@pytest.mark.parametrize("seed", range(3))
def test_edge_feed(tiers: int, seed: int) -> None:
    rng = rng_of("edge", tiers, seed)
    config = small_config(tiers, vcache_tiles=128, stationary_feed="edge")
    lists = random_lists(rng, config)
    program = [random_gemm(rng, config, lists, tag=9) for _ in range(12)]
    bench = Bench(config, program, lists, credit_delay=lambda: 4, release=len(program))
    bench.run()
    assert bench.record.error is None
    check_waves(bench)
    check_edge_timetable(bench)
