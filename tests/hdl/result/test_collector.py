# SPDX-License-Identifier: Apache-2.0
"""The collector against its cycle-exact reference: destinations, order, posts, throughput, back-pressure."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from hdl.config import PRESETS, MachineConfig
from tests.support.result.collector_bench import FOUR, WIDE, Row, Stimulus, run
from tests.support.result.row_ports import RowStimulus

TINY = PRESETS["tiny"]


def int16_row(rng: np.random.Generator, config: MachineConfig) -> tuple[int, ...]:
    corners = [-32768, -1, 0, 1, 32767]
    return tuple(
        int(rng.choice(corners)) if rng.random() < 0.3 else int(rng.integers(-32768, 32768))
        for _ in range(config.columns)
    )


def int8_row(rng: np.random.Generator, config: MachineConfig) -> tuple[int, ...]:
    return tuple(int(v) for v in rng.integers(-128, 128, config.columns))


def random_row(rng: np.random.Generator, config: MachineConfig, out_of_range: float = 0.0) -> Row:
    posts = {
        "op_end": int(rng.random() < 0.4),
        "post0_en": int(rng.integers(0, 2)),
        "post0_sem": int(rng.integers(0, config.semaphores)),
        "post1_en": int(rng.integers(0, 2)),
        "post1_sem": int(rng.integers(0, config.semaphores)),
    }
    drop = int(rng.random() < 0.1)
    if rng.random() < 0.5:
        return Row(
            int16_row(rng, config),
            combine=1,
            accumulate=int(rng.integers(0, 2)),
            drop=drop,
            # Few rows, so that the same one is hit in consecutive cycles.
            addr=config.combine_rows if rng.random() < out_of_range else int(rng.integers(0, 6)),
            gate=int(rng.choice([0, 1, 32768, 65535, rng.integers(0, 65536)])),
            **posts,
        )
    half = int(rng.integers(0, 2))
    count = config.columns // (2 if half else 1)
    return Row(
        int8_row(rng, config),
        tiers=int(rng.integers(1, 1 << config.tiers)),
        drop=drop,
        half=half,
        addr=config.activation_words + 3 if rng.random() < out_of_range else int(rng.integers(0, 16)),
        byte=count * int(rng.integers(0, config.rows // count)),
        **posts,
    )


def random_load(rng: np.random.Generator, config: MachineConfig) -> dict[str, object]:
    parameter = int(rng.integers(0, 2))
    return {
        "valid": 1,
        "parameter": parameter,
        "tiers": int(rng.integers(1, 1 << config.tiers)),
        "addr": int(rng.integers(0, config.parameter_words if parameter else config.activation_words)),
        "enable": (1 << config.rows) - 1,
        "data": [int(v) for v in rng.integers(0, 256, config.rows)],
    }


@pytest.mark.parametrize("config", [FOUR, WIDE, TINY, PRESETS["nano"]], ids=lambda c: c.name)
@pytest.mark.parametrize(("gaps", "stalls"), [(0.0, 0.0), (0.3, 0.6), (0.0, 0.9)])
def test_random_traffic(config: MachineConfig, gaps: float, stalls: float) -> None:
    rng = np.random.default_rng(int(10 * gaps + 100 * stalls))
    rows = [[random_row(rng, config) for _ in range(120)] for _ in range(config.tiers)]
    reads = [(int(rng.integers(0, 6)), int(rng.integers(0, 2))) for _ in range(100)]
    loads = [random_load(rng, config) for _ in range(100)]
    out = run(config, Stimulus(rows, RowStimulus(reads, loads=loads), seed=5, gaps=gaps, stalls=stalls))
    written = [row for tier in rows for row in tier if not row.drop]
    assert len(out.order) == out.stats["rows"] == 120 * config.tiers
    assert out.stats["combine"] == sum(row.combine for row in written)
    assert out.stats["activation"] == sum(not row.combine for row in written)
    assert len(out.posts) == sum(row.posts for tier in rows for row in tier)
    assert len(out.reads) == len(reads)
    assert out.errors == 0


def test_full_rate_to_different_activation_buffers() -> None:
    rows = [[Row((t, i % 100, 0, -1), tiers=1 << t, addr=i % 64) for i in range(200)] for t in range(FOUR.tiers)]
    out = run(FOUR, Stimulus(rows))
    busy = out.moved[30:400]
    assert set(busy) == {2}, "two rows in every cycle"
    # And fairly: no tier gets ahead of another by more than a turn.
    for end in range(100, 700, 50):
        counts = np.bincount(out.order[:end], minlength=FOUR.tiers)
        assert counts.max() - counts.min() <= 2


def test_full_rate_to_different_combine_units() -> None:
    rows = [
        [Row((i, 1, 2, 3), combine=1, accumulate=1, addr=2 * (i % 8) + t % 2) for i in range(200)]
        for t in range(FOUR.tiers)
    ]
    out = run(FOUR, Stimulus(rows))
    assert sum(out.moved[30:330]) == 600


def test_all_tiers_to_one_tier() -> None:
    rows = [[Row((t, i % 100, 0, -1), tiers=0b0100, addr=4 * (i % 16) + t) for i in range(100)] for t in range(4)]
    out = run(FOUR, Stimulus(rows))
    assert max(out.moved) == 1
    assert set(out.moved[30:300]) == {1}, "its write port is busy in every cycle"
    assert out.stats["conflicts"] > 300
    counts = np.bincount(out.order[20:220], minlength=4)
    assert counts.max() - counts.min() <= 1


def test_one_combine_row_from_every_tier_back_to_back() -> None:
    """Every operation after the first needs the sum of the cycle before."""
    rng = np.random.default_rng(3)
    rows = [
        [
            Row(int16_row(rng, FOUR), combine=1, accumulate=1, addr=5, gate=int(rng.integers(0, 65536)))
            for _ in range(80)
        ]
        for _ in range(4)
    ]
    rows[0][0] = Row(rows[0][0].data, combine=1, accumulate=0, addr=5, gate=1)
    out = run(FOUR, Stimulus(rows, RowStimulus([(5, 0)] * 10), gaps=0.0))
    assert set(out.moved[30:250]) == {1}


def test_clear_on_read_then_accumulate() -> None:
    """Reads that clear, interleaved with results to the same row in neighbouring cycles."""
    rng = np.random.default_rng(4)
    rows = [[Row(int16_row(rng, FOUR), combine=1, accumulate=1, addr=7) for _ in range(150)], [], [], []]
    out = run(FOUR, Stimulus(rows, RowStimulus([(7, 1)] * 150), gaps=0.5, stalls=0.1))
    assert len(out.reads) == 150
    assert sum(any(values) for values in out.reads) > 20
    assert sum(not any(values) for values in out.reads) > 20


def test_stores_read_one_row_per_cycle() -> None:
    out = run(FOUR, Stimulus([[], [], [], []], RowStimulus([(i % 32, 0) for i in range(200)])))
    assert out.cycles < 200 + 20


def test_posts_are_kept_when_nobody_takes_them() -> None:
    rows = [
        [Row((1, 2, 3, 4), tiers=1 << t, addr=i, op_end=1, post0_en=1, post0_sem=i % 16) for i in range(20)]
        for t in range(4)
    ]
    out = run(FOUR, Stimulus(rows, hold_posts=200))
    assert len(out.posts) == 80
    assert sum(out.moved[:200]) < 12, "the queue of posts holds the rows back"


def test_rows_without_posts_pass_a_blocked_post() -> None:
    ends = [Row((1, 2, 3, 4), tiers=1, addr=i, op_end=1, post1_en=1, post1_sem=3) for i in range(20)]
    others = [[Row((t, 0, 0, 0), tiers=1 << t, addr=i) for i in range(40)] for t in (1, 2, 3)]
    out = run(FOUR, Stimulus([ends, *others], hold_posts=300))
    assert sum(out.moved[:200]) >= 120


def test_dropped_rows_need_no_lane() -> None:
    rows = [[Row((1, 1, 1, 1), drop=1, tiers=1, addr=9) for _ in range(50)] for _ in range(4)]
    rows[0][-1] = Row((1, 1, 1, 1), drop=1, op_end=1, post0_en=1, post0_sem=2)
    out = run(FOUR, Stimulus(rows))
    assert max(out.moved) == 4
    assert out.posts == [(1, 2, 0, 0)]
    assert not out.activation.any()


def test_range_errors_write_nothing() -> None:
    rng = np.random.default_rng(9)
    rows = [[random_row(rng, FOUR, out_of_range=0.3) for _ in range(60)] for _ in range(4)]
    assert run(FOUR, Stimulus(rows)).errors > 20


def test_rows_of_a_tier_stay_in_order() -> None:
    """Overwrites of one word by one tier end with the last; the reference checks each one on its way too."""
    rows = [[Row((i, i, i, i), tiers=0b1111, addr=t) for i in range(60)] for t in range(4)]
    out = run(FOUR, Stimulus(rows, gaps=0.4))
    assert (out.activation[:, :4] == 59).all()


def test_a_loser_is_first_in_the_next_cycle() -> None:
    """With one common destination no tier waits for more than one row of each other tier."""
    rows = [[Row((t, 0, 0, 0), tiers=1, addr=t) for _ in range(60)] for t in range(4)]
    order = run(FOUR, Stimulus(rows)).order[20:200]
    for tier in range(4):
        turns = [i for i, t in enumerate(order) if t == tier]
        assert max(b - a for a, b in pairwise(turns)) <= 4
