# SPDX-License-Identifier: Apache-2.0
"""Errors that the sequencers report."""

from __future__ import annotations

import pytest

from hdl.isa import Dest, Instruction, Limits, Mapping3D, Mode, Opcode, Order, check_instruction
from hdl.isa.error_codes import ErrorCode
from tests.support.control.sequencer_bench import Bench, check_waves, rng_of, small_config
from tests.support.control.sequencer_model import ListEntry, random_lists

CONFIG = small_config(3, queue_depth=4)
GOOD = {"tier_count": 1, "tokens": 4, "k_slices": 3, "n_tiles": 2, "tag": 9, "dest_kind": Dest.COMBINE}


def gemm(**values: int) -> Instruction:
    return Instruction(Opcode.GEMM, {name: int(value) for name, value in {**GOOD, **values}.items()})


def run(program: list[Instruction], **changes: object) -> Bench:
    bench = Bench(CONFIG, program, random_lists(rng_of("errors"), CONFIG), **changes)  # type: ignore[arg-type]
    bench.run()
    return bench


EDGES = {
    "vcache": ({"vcache_base": 250}, "vcache_base"),
    "act_base": ({"act_base": 512 - 3}, "act_base"),
    "act_stride": ({"act_stride": 100, "act_base": 512 - 303}, "act_base"),
    "act_list": ({"act_list": 1, "act_base": 512 - 3}, "act_base"),
    "list": ({"dest_list": 1, "list_base": 28}, "list_base"),
    "accumulators": ({"tokens": 8, "n_tiles": 8, "k_slices": 1, "order": Order.N_INNER}, "tokens"),
    "param": ({"param_base": 62}, "param_base"),
    "combine": ({"dest_base": 512 - 2 - 21, "dest_stride": 7}, "dest_base"),
    "combine_n": ({"mapping": Mapping3D.N, "tier_count": 3, "dest_base": 512 - 6 - 3, "dest_stride": 1}, "dest_base"),
    "combine_m": ({"mapping": Mapping3D.M, "tier_count": 3, "dest_base": 512 - 2 - 22, "dest_stride": 2}, "dest_base"),
    "combine_k": ({"mapping": Mapping3D.K, "tier_count": 3, "dest_base": 512 - 2 - 6, "dest_stride": 2}, "dest_base"),
    "words": ({"dest_kind": Dest.ACTIVATION, "dest_base": 512 - 2 - 9, "dest_stride": 3}, "dest_base"),
    "words_half": (
        {"dest_kind": Dest.ACTIVATION, "mode": Mode.SWIGLU, "n_tiles": 3, "dest_base": 512 - 2, "dest_stride": 0},
        "dest_base",
    ),
    "words_m": (
        {"dest_kind": Dest.ACTIVATION, "dest_tiers": 7, "mapping": Mapping3D.M, "tier_count": 3, "dest_stride": 2,
         "dest_base": 512 - 2 - 22},
        "dest_base",
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", EDGES)
def test_dense_range(name: str) -> None:
    """The highest legal value runs; one more is RANGE before the first wave, as the static check says."""
    values, field = EDGES[name]
    limits = Limits((1 << 20, 1 << 20), ((0, 1 << 20), (0, 1 << 20)))
    good, bad = gemm(**values), gemm(**{**values, field: values.get(field, 0) + 1})
    if "list" in name:
        entries = [[ListEntry() for _ in range(CONFIG.list_depth)] for _ in range(CONFIG.tiers)]
    else:
        entries = random_lists(rng_of("errors"), CONFIG)
    assert check_instruction(good, CONFIG, limits) is None
    wrong = check_instruction(bad, CONFIG, limits)
    assert wrong is not None and wrong.code == ErrorCode.RANGE
    fine = Bench(CONFIG, [good], entries)
    assert fine.run().error is None
    check_waves(fine)
    record = Bench(CONFIG, [bad], entries, resident=False, pending_until=10**9).run()
    assert record.error == (ErrorCode.RANGE, 0)
    assert not any(record.issues)


@pytest.mark.parametrize("kind", [Dest.COMBINE, Dest.ACTIVATION])
@pytest.mark.parametrize("where", ["source", "dest", "dropped"])
def test_list_range(kind: Dest, where: str) -> None:
    lists = [[ListEntry() for _ in range(CONFIG.list_depth)] for _ in range(CONFIG.tiers)]
    lists[0][2] = {
        "source": ListEntry(source=512 - 2),
        "dest": ListEntry(dest=512 - 1),
        "dropped": ListEntry(dest=0xFFFF, drop=1),
    }[where]
    program = [gemm(tokens=8), gemm(act_list=1, dest_list=1, dest_kind=kind, n_tiles=3, k_slices=3)]
    record = Bench(CONFIG, program, lists).run()
    issues = record.issues[0]
    if where == "dropped":
        assert record.error is None
        return
    assert record.error == (ErrorCode.RANGE, 1)
    assert all(issue.fields["activation_addr"] < 512 for issue in issues)
    assert all(issue.descriptor["addr"] < 512 for issue in issues if issue.descriptor)
    # The first slices were fine: the error comes with the wave that would have left the memory.
    assert len(issues) >= 48 + (2 * 4 + 2 if where == "source" else 2 * 4)


@pytest.mark.parametrize("feed", ["vertical", "edge"])
@pytest.mark.parametrize("mapping", [Mapping3D.ALONE, Mapping3D.N, Mapping3D.K])
def test_tile_that_no_load_brings(feed: str, mapping: Mapping3D) -> None:
    config = CONFIG.replace(stationary_feed=feed)
    count = 1 if mapping == Mapping3D.ALONE else 3
    lists = random_lists(rng_of("miss"), config)
    program = [gemm(mapping=mapping, tier_count=count)]

    def all_but_one(cycle: int) -> list[tuple[int, int, int, int, int]]:
        # Tile 4 never comes in the top tier of the gang; elsewhere it does.
        if cycle >= 6:
            return []
        top = 1 << (count - 1)
        return [(0, (7 & ~top) if cycle == 4 else 7, cycle, config.fill_words - 1, 9)]

    bench = Bench(config, program, lists, fills=all_but_one, pending_until=100, resident=False)
    record = bench.run()
    assert record.error == (ErrorCode.VCACHE_MISS, 0)
    assert len(record.issues[0]) == 16
    assert record.cycles > 100


def test_wrong_tag_is_a_miss_and_a_refill_hides_the_tile() -> None:
    lists = random_lists(rng_of("miss"), CONFIG)
    program = [gemm(k_slices=1, n_tiles=1)]
    last = CONFIG.fill_words - 1
    schedules = {
        "wrong": {0: (0, 1, 0, last, 8)},
        "open": {0: (0, 1, 0, last, 9), 2: (1, 1, 0, 0, 9)},
        "other tier": {0: (0, 6, 0, last, 9)},
        "other tile": {0: (0, 1, 1, last, 9)},
    }
    for schedule in schedules.values():
        bench = Bench(
            CONFIG,
            program,
            lists,
            fills=lambda c, s=schedule: [s[c]] if c in s else [],
            resident=False,  # type: ignore[misc]
        )
        assert bench.run().error == (ErrorCode.VCACHE_MISS, 0)
        assert not bench.record.issues[0]
    fine = {0: (0, 1, 0, 0, 8), 1: (0, 1, 0, last, 8), 3: (1, 1, 0, 0, 9), 4: (1, 1, 0, last, 9)}
    bench = Bench(CONFIG, program, lists, fills=lambda c: [fine[c]] if c in fine else [], resident=False)
    assert bench.run().error is None


@pytest.mark.parametrize("field", ["wait0", "wait1", "post0", "post1"])
def test_semaphore_beyond_the_configuration(field: str) -> None:
    enable = {f"{field}_count": 1} if "wait" in field else {f"{field}_en": 1}
    bench = run([gemm(tokens=9), gemm(**enable, **{f"{field}_sem": CONFIG.semaphores})])
    assert bench.record.error == (ErrorCode.ILLEGAL_FIELD, 1)
    assert not bench.record.grants
    # Not enabled: the number means nothing.
    assert run([gemm(**{f"{field}_sem": CONFIG.semaphores})]).record.error is None


def test_first_error_stops_all_tiers() -> None:
    long = gemm(tier_base=1, tokens=20, k_slices=10, n_tiles=1)
    bench = run([long, gemm(), gemm(act_base=512)], pending_until=10**9)
    assert bench.record.error == (ErrorCode.RANGE, 2)
    assert 0 < len(bench.record.issues[1]) < 30
