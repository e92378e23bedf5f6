# SPDX-License-Identifier: Apache-2.0
"""The store unit alone: gaps, offsets and formats against the specification, bursts, throughput, errors, halt."""

from __future__ import annotations

import random

import numpy as np
import pytest

from hdl.config import ADDRESS_UNIT, PRESETS, MachineConfig
from hdl.isa import Instruction, Opcode, StoreFormat
from hdl.isa.error_codes import ErrorCode
from hdl.isa.legality import Limits, check_instruction, store_span, store_start, store_step
from tests.support.memory.axi_slave import Behaviour
from tests.support.memory.store_bench import StoreBench, bursts

TINY = PRESETS["tiny"]
CONFIGS = {
    # Rows of one beat or more.
    "nano": PRESETS["nano"],
    "tiny": TINY,
    # Two channels a group, short bursts.
    "wide": TINY.replace(name="wide", channels_per_group=2, channel_bytes=8, columns=16, rows=16, burst_beats=4),
    # Four, two and one row in a beat.
    "broad": TINY.replace(name="broad", channels_per_group=2, channel_bytes=32, columns=16, rows=16),
    # Eight, four and two rows in a beat.
    "vast": TINY.replace(
        name="vast", channels_per_group=2, channel_bytes=128, columns=32, rows=32, row_fifo_depth=96, combine_rows=64
    ),
    # Bursts of one beat.
    "single": PRESETS["nano"].replace(name="single", burst_beats=1),
}
STALLS = Behaviour(latency=5, jitter=20, stall=0.3)
MEMORY = 1 << 15
FORMATS = (StoreFormat.INT8, StoreFormat.INT16, StoreFormat.INT32)


def random_memory(seed: int) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 256, MEMORY, np.uint8) for _ in range(2)]


def combine_rows(config: MachineConfig, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    rows = generator.integers(-(1 << 31), 1 << 31, (config.combine_rows, config.columns), np.int64)
    return (rows >> generator.integers(0, 28, rows.shape)).astype(np.int32)


def store(**values: int) -> Instruction:
    return Instruction(Opcode.STORE, {"format": StoreFormat.INT32, "rows": 8} | values)


def at(start: int) -> dict[str, int]:
    """Return the fields of a byte address."""
    return {"addr": start // ADDRESS_UNIT, "offset": start % ADDRESS_UNIT}


def random_store(rng: random.Random, config: MachineConfig) -> Instruction:
    form = rng.choice([*FORMATS, *FORMATS, StoreFormat.DISCARD])
    rows = rng.choice([1, 2, 3, rng.randint(1, 20)])
    row_gap = rng.choice([0, 0, 1, 2, rng.randrange(0, config.combine_rows // rows)])
    row_gap = min(row_gap, (config.combine_rows - 1) // max(1, rows - 1) - 1, 1023)
    reach = (rows - 1) * (1 + row_gap) + 1
    values = {
        "format": form, "group": rng.randrange(2), "shift": rng.choice([0, 1, 7, 16, 24, 31]),
        "clear": rng.randrange(2), "rows": rows, "row_gap": row_gap,
        "row_base": rng.randint(0, config.combine_rows - reach),
        "post0_en": rng.randrange(2), "post0_sem": rng.randrange(config.semaphores),
    }  # fmt: skip
    if rng.random() < 0.3:
        values |= {"wait0_sem": rng.randrange(config.semaphores), "wait0_count": rng.randint(1, 31)}
    if form == StoreFormat.DISCARD:
        # Whatever these say, nothing is written.
        values |= {"addr": rng.getrandbits(32), "offset": rng.getrandbits(5), "addr_gap": rng.getrandbits(16)}
        return Instruction(Opcode.STORE, values)
    row_bytes = store_step(Instruction(Opcode.STORE, values), config)[0]
    most = max(0, (MEMORY - row_bytes) // (row_bytes * max(1, rows - 1)) - 1)
    values["addr_gap"] = min(most, rng.choice([0, 0, 1, 2, 3, 7, rng.randint(0, most)]))
    start, end = store_span(Instruction(Opcode.STORE, values), config)
    step = min(row_bytes, config.group_bytes)
    last = (MEMORY - (end - start)) // step
    # Often at the edges of the memory or near a 4 KiB line.
    line = min(last, max(0, (4096 * config.channels_per_group - rng.randint(0, end - start)) // step))
    spot = rng.choice([0, last, line, line, rng.randint(0, last)])
    return Instruction(Opcode.STORE, values | at(spot * step))


CASES = [(name, seed) for name in CONFIGS for seed in (0, 1)]
MORE = [pytest.param(name, seed, marks=pytest.mark.slow) for name in CONFIGS for seed in range(2, 10)]


@pytest.mark.parametrize(("name", "seed"), CASES + MORE)
def test_random_stores(name: str, seed: int) -> None:
    """Seed 0 runs without stalls."""
    config = CONFIGS[name]
    rng = random.Random(f"{name} {seed}")
    stores = [random_store(rng, config) for _ in range(25)]
    for instruction in stores:
        limits = Limits((MEMORY, MEMORY), ((0, MEMORY), (0, MEMORY)))
        assert check_instruction(instruction, config, limits) is None
    bench = StoreBench(
        config, random_memory(seed), combine_rows(config, seed), stores, seed=seed,
        stall=0.3 * bool(seed), wait_delay=3 * bool(seed), behaviour=STALLS if seed else Behaviour(),
    )  # fmt: skip
    want = bench.expect()
    bench.run()
    bench.check(want)


@pytest.mark.parametrize("form", FORMATS, ids=lambda f: f.name)
@pytest.mark.parametrize("name", ["nano", "broad", "vast"])
def test_every_place_in_a_beat(name: str, form: StoreFormat) -> None:
    """First rows at each place of a beat, packed and apart, with as many rows as fill it up and one more."""
    config = CONFIGS[name]
    row_bytes = store_step(store(format=form), config)[0]
    places = max(1, config.group_bytes // row_bytes)
    stores = [
        store(format=form, rows=rows, addr_gap=gap, **at(0x400 * n + place * min(row_bytes, config.group_bytes)))
        for n, (place, rows, gap) in enumerate(
            (place, rows, gap) for place in range(places) for rows in (1, places, places + 1) for gap in (0, 1)
        )
        if 0x400 * n < MEMORY - 0x800
    ]
    bench = StoreBench(config, random_memory(1), combine_rows(config, 2), stores)
    want = bench.expect()
    bench.run()
    bench.check(want)


def test_keys_of_one_token() -> None:
    """The layout of `docs/vector.md` section 4: rows of one token, R - 1 other tokens' rows between them."""
    config = TINY
    token = 5
    instruction = store(
        format=StoreFormat.INT8, rows=4, row_base=9, addr_gap=config.rows - 1, **at(0x1000 + token * config.columns)
    )
    memory = random_memory(3)
    before = memory[0].copy()
    combine = combine_rows(config, 3)
    StoreBench(config, memory, combine, [instruction]).run()
    tiles = memory[0][0x1000:].view(np.int8)[: 4 * config.tile_bytes].reshape(4, config.rows, config.columns)
    assert np.array_equal(tiles[:, token], np.clip(combine[9:13], -128, 127))
    tiles[:, token] = before[0x1000:].view(np.int8)[: 4 * config.tile_bytes].reshape(tiles.shape)[:, token]
    assert np.array_equal(memory[0], before), "only these rows"


def span(cycles: list[int]) -> int:
    return cycles[-1] - cycles[0] + 1


@pytest.mark.parametrize("name", ["tiny", "broad"])
@pytest.mark.parametrize("form", FORMATS, ids=lambda f: f.name)
def test_packed_rows_at_full_speed(name: str, form: StoreFormat) -> None:
    """One beat or one row per cycle, whichever is slower, in the longest bursts; also when they begin inside a beat."""
    config = CONFIGS[name]
    row_bytes = store_step(store(format=form), config)[0]
    start = 0 if row_bytes >= config.group_bytes else row_bytes
    one = store(format=form, rows=64, **at(start))
    bench = StoreBench(config, random_memory(4), combine_rows(config, 4), [one], behaviour=Behaviour(latency=10))
    want = bench.expect()
    bench.run()
    bench.check(want)
    beats = len(bench.beat_cycles)
    # A few cycles: what is read ahead of the first beat, and the bursts' requests.
    assert max(64, beats) - 6 <= span(bench.beat_cycles) + 64 // max(1, beats) <= max(64, beats) + 6
    longest = config.burst_beats * config.group_bytes
    assert len(bench.request_cycles) == -(-(start + 64 * row_bytes) // longest)


@pytest.mark.parametrize(("name", "form"), [("nano", 0), ("broad", 0), ("broad", 1), ("broad", 2), ("vast", 2)])
def test_rows_apart_one_per_cycle(name: str, form: int) -> None:
    """Rows of a beat or less, many bursts on their way: a row in almost every cycle."""
    config = CONFIGS[name].replace(outstanding_bursts=32)
    one = store(format=form, rows=48, addr_gap=1)
    bench = StoreBench(config, random_memory(5), combine_rows(config, 5), [one], behaviour=Behaviour(latency=16))
    want = bench.expect()
    bench.run()
    bench.check(want)
    assert len(bench.request_cycles) == 48
    assert span(bench.beat_cycles) <= 52


def test_rows_apart_are_limited_by_outstanding_bursts_only() -> None:
    """At a latency of 40 cycles, 9 bursts on their way: a row in less than 5 cycles."""
    config = CONFIGS["broad"]
    one = store(format=StoreFormat.INT8, rows=60, addr_gap=3)
    bench = StoreBench(config, random_memory(6), combine_rows(config, 6), [one], behaviour=Behaviour(latency=40)).run()
    assert span(bench.beat_cycles) <= 5 * 60


def test_rows_of_several_beats_apart() -> None:
    """Rows of four beats that cross burst boundaries keep one beat per cycle."""
    config = CONFIGS["wide"]
    one = store(rows=32, addr_gap=2, **at(3 * config.group_bytes))
    bench = StoreBench(config, random_memory(7), combine_rows(config, 7), [one], behaviour=Behaviour(latency=8))
    want = bench.expect()
    bench.run()
    bench.check(want)
    assert len(bench.request_cycles) == len(bursts(config, one)) == 64
    assert span(bench.beat_cycles) <= 32 * 4 + 64 * 2


WINDOW = ((0x1000, 0x2000), (0x4000, 0x5000))
BAD = {
    "below": ("nano", store(**at(0x1000 - 4))),
    "offset misaligned": ("nano", store(**at(0x1000 + 2))),
    "offset inside a row": ("broad", store(format=StoreFormat.INT16, rows=1, **at(0x1000 + 16))),
    "inside a beat": ("broad", store(rows=1, **at(0x1000 + 32))),
    "last row ends above": ("nano", store(rows=3, addr_gap=7, **at(0x2000 - 2 * 8 * 16 - 15 // 4 * 4))),
    "last row is above": ("nano", store(group=1, rows=17, addr_gap=15, **at(0x4000))),
    "far above": ("nano", store(rows=200, addr_gap=0xFFFF, **at(0x1000))),
    "only the end": ("broad", store(format=StoreFormat.INT8, rows=2, addr_gap=14, **at(0x2000 - 15 * 16))),
    "packed end": ("broad", store(format=StoreFormat.INT8, rows=3, **at(0x2000 - 2 * 16))),
}


@pytest.mark.parametrize("case", BAD)
def test_address_errors(case: str) -> None:
    """As `hdl.isa.legality` says; nothing is written, no row is read or cleared, what came before is done."""
    name, bad = BAD[case]
    config = CONFIGS[name]
    bad = Instruction(Opcode.STORE, {**bad.values, "clear": 1})
    wrong = check_instruction(bad, config, Limits((0, 0), WINDOW))
    assert wrong is not None and wrong.code == ErrorCode.ADDRESS
    good = store(rows=2, addr_gap=1, **at(0x1800))
    memory, combine = random_memory(8), combine_rows(config, 8)
    want = StoreBench(config, memory, combine, [good]).expect()
    bench = StoreBench(config, memory, combine, [good, bad, good], window=WINDOW)
    rest: list[int] = []

    def at_rest(bench: StoreBench, get) -> bool:  # type: ignore[no-untyped-def]
        if bench.error and get("store_quiet"):
            rest.append(bench.cycle)
        return len(rest) > 60

    bench.run(at_rest)
    assert bench.error == (ErrorCode.ADDRESS, 1, wrong.address) == (ErrorCode.ADDRESS, 1, store_start(bad))
    # The error may come while the good store still runs: then the rest of its beats have their strobes off.
    changed = [np.flatnonzero(memory[g] != want.memory[g]) for g in range(2)]
    own = set(range(*store_span(good, config)))
    assert not len(changed[1]) and set(changed[0].tolist()) <= own
    assert np.array_equal(combine, want.combine)


@pytest.mark.parametrize("name", ["nano", "broad"])
def test_the_last_row_may_end_at_the_window(name: str) -> None:
    config = CONFIGS[name]
    stores = []
    for form in FORMATS:
        row_bytes, step = store_step(store(format=form, addr_gap=5), config)
        for rows in (1, 2, 4):
            start = 0x5000 - (rows - 1) * step - row_bytes
            if start % min(row_bytes, config.group_bytes) == 0:
                stores.append(store(group=1, format=form, rows=rows, addr_gap=5, post0_en=1, **at(start)))
    assert len(stores) >= 6
    bench = StoreBench(config, random_memory(9), combine_rows(config, 9), stores, window=WINDOW)
    want = bench.expect()
    bench.run()
    bench.check(want)
    assert bench.posts == len(stores)


def test_write_error_of_a_row_apart() -> None:
    """The burst's address is reported; rows that were not asked for stay unwritten, and no post comes."""
    config = CONFIGS["broad"]
    memory, combine = random_memory(10), combine_rows(config, 10)
    before = memory[0].copy()
    stores = [store(format=0, rows=60, addr_gap=7, post0_en=1, **at(0x2000 * n + 16)) for n in range(3)]
    bad = (0x2000 + 20 * 128) // config.channels_per_group
    behaviour = Behaviour(latency=12, write_errors=range(bad, bad + 1), stall=0.2)
    rest: list[int] = []

    def at_rest(bench: StoreBench, get) -> bool:  # type: ignore[no-untyped-def]
        if bench.error and get("store_quiet"):
            rest.append(bench.cycle)
        else:
            assert not rest, "quiet fell again"
        return len(rest) > 60

    bench = StoreBench(config, memory, combine, stores, seed=10, stall=0.1, behaviour=behaviour).run(at_rest)
    assert bench.error == (ErrorCode.AXI_WRITE, 1, 0x2000 + 20 * 128)
    assert bench.posts == 1
    assert np.array_equal(memory[0][0x4000:], before[0x4000:]), "the store after the error wrote something"
    assert not any(slave.writes or slave.replies for slave in bench.slaves)


@pytest.mark.parametrize("halt_at", [4, 7, 12, 30, 61])
@pytest.mark.parametrize("name", ["nano", "wide", "broad"])
def test_halt_with_rows_apart(name: str, halt_at: int) -> None:
    """No more bursts than the two registers hold; beats of started bursts have no strobes; all comes to rest."""
    config = CONFIGS[name]
    rest: list[int] = []

    def at_rest(bench: StoreBench, get) -> bool:  # type: ignore[no-untyped-def]
        if bench.cycle > halt_at and get("store_quiet"):
            rest.append(bench.cycle)
        else:
            assert not rest, "quiet fell again"
        return len(rest) > 40

    one = store(format=StoreFormat.INT16, rows=100, addr_gap=1)
    config = config.replace(combine_rows=128)
    bench = StoreBench(
        config, random_memory(11), combine_rows(config, 11), [one], halt_at=halt_at, behaviour=Behaviour(latency=9)
    ).run(at_rest)
    assert sum(cycle > halt_at + 1 for cycle in bench.request_cycles) <= 2
    assert not any(slave.writes or slave.replies for slave in bench.slaves)
    after = [strobes for slave in bench.slaves for cycle, strobes in slave.strobes if cycle > halt_at + 2]
    assert not any(after), "beats after the halt must have their strobes off"
