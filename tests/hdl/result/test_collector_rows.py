# SPDX-License-Identifier: Apache-2.0
"""The combine buffer's ports for stores, vector unit and loads: order, priority, turns, throughput, errors.

The bench checks each row that is read, that a port that someone can use is used, and that two who want it take turns.
"""

from __future__ import annotations

import numpy as np
import pytest

from hdl.config import PRESETS, MachineConfig
from tests.hdl.result.test_collector import int16_row, random_load, random_row
from tests.support.result.collector_bench import FOUR, WIDE, Row, Stimulus, run
from tests.support.result.row_ports import RowData, RowStimulus

NANO, TINY = PRESETS["nano"], PRESETS["tiny"]
EIGHT = FOUR.replace(name="eight", tiers=8, result_lanes=8, row_fifo_depth=64, combine_rows=8)
"""A bank holds one row only."""


def int32_row(rng: np.random.Generator, config: MachineConfig) -> RowData:
    corners = [-(1 << 31), -1, 0, 1, (1 << 31) - 1]
    return tuple(
        int(rng.choice(corners)) if rng.random() < 0.3 else int(rng.integers(-(1 << 31), 1 << 31))
        for _ in range(config.columns)
    )


def random_ports(
    rng: np.random.Generator, config: MachineConfig, count: int, out_of_range: float = 0.0, rows: int = 6
) -> RowStimulus:
    """Return `count` accesses of each kind (and bank) to the first `rows` rows."""
    banks = range(config.result_lanes)
    each = max(1, min(rows, config.combine_rows) // config.result_lanes)

    def buffer_row() -> int:
        if rng.random() < out_of_range:
            return config.combine_rows + int(rng.integers(0, 3))
        return int(rng.integers(0, min(rows, config.combine_rows)))

    return RowStimulus(
        reads=[(int(rng.integers(0, min(rows, config.combine_rows))), int(rng.integers(0, 2))) for _ in range(count)],
        vector_reads=[[int(row) for row in rng.integers(0, each, count)] for _ in banks],
        vector_writes=[[(int(rng.integers(0, each)), int32_row(rng, config)) for _ in range(count)] for _ in banks],
        load_rows=[(buffer_row(), int32_row(rng, config)) for _ in range(count)],
        loads=[random_load(rng, config) for _ in range(count)],
        acts=[random_load(rng, config) for _ in range(count)],
    )


def no_rows(config: MachineConfig) -> list[list[Row]]:
    return [[] for _ in range(config.tiers)]


PAUSES = [(0.0, 0.0), (0.3, 0.4), (0.7, 0.1)]
CASES = [(config, *pause) for config in (FOUR, TINY, NANO) for pause in PAUSES] + [
    (WIDE, *PAUSES[1]),
    (EIGHT, 0.1, 0.1),
]


@pytest.mark.parametrize(("config", "gaps", "stalls"), CASES, ids=lambda c: getattr(c, "name", str(c)))
def test_random_traffic(config: MachineConfig, gaps: float, stalls: float) -> None:
    """Everything at once on few rows, then the whole buffer."""
    rng = np.random.default_rng(int(100 * gaps))
    count = 40 if config is EIGHT else 150
    rows = [[random_row(rng, config) for _ in range(2 * count // 3)] for _ in range(config.tiers)]
    ports = random_ports(rng, config, count)
    out = run(config, Stimulus(rows, ports, seed=7, gaps=gaps, stalls=stalls)).ports
    lanes = config.result_lanes
    assert (len(out.reads), len(out.load_rows), len(out.words)) == (count, count, 2 * count)
    assert (len(out.vector_reads), len(out.vector_writes)) == (count * lanes, count * lanes)
    if not gaps:
        assert set(out.wins) >= {"read0", "write0", "lane"}


@pytest.mark.parametrize("config", [NANO, TINY, FOUR], ids=lambda c: c.name)
def test_vector_unit_reads_and_writes_a_row_per_cycle(config: MachineConfig) -> None:
    """On every bank at once, with nothing else to do; in place, the write three cycles behind the read."""
    rng = np.random.default_rng(1)
    lanes, depth = config.result_lanes, config.bank_rows
    reads = [[i % depth for i in range(100)] for _ in range(lanes)]
    writes = [[((i - 3) % depth, int32_row(rng, config)) for i in range(100)] for _ in range(lanes)]
    out = run(config, Stimulus(no_rows(config), RowStimulus(vector_reads=reads, vector_writes=writes))).ports
    assert out.vector_reads == out.vector_writes == [i for i in range(100) for _ in range(lanes)]


def test_result_rows_that_only_write_leave_the_read_port() -> None:
    """A bank whose write port is busy in every cycle still gives a row per cycle to the vector unit."""
    rng = np.random.default_rng(2)
    rows = [[Row(int16_row(rng, FOUR), combine=1, addr=2 * (i % 4)) for i in range(60)] for _ in range(4)]
    out = run(FOUR, Stimulus(rows, RowStimulus(vector_reads=[[i % 4 for i in range(150)], []])))
    assert set(out.moved[30:150]) == {1}
    assert out.ports.vector_reads == list(range(150))


def test_result_rows_go_first() -> None:
    """Accumulating rows in every cycle keep the bank to themselves; the other bank is not disturbed."""
    rng = np.random.default_rng(3)
    rows = [[Row(int16_row(rng, FOUR), combine=1, accumulate=1, addr=2 * (i % 4)) for i in range(60)] for _ in range(4)]
    ports = RowStimulus(
        reads=[(2, 1)] * 40,
        vector_reads=[[1] * 40, [2] * 120],
        vector_writes=[[(1, int32_row(rng, FOUR))] * 40, [(3, int32_row(rng, FOUR))] * 120],
        load_rows=[(4, int32_row(rng, FOUR))] * 40,
    )
    out = run(FOUR, Stimulus(rows, ports))
    first = next(i for i, moved in enumerate(out.moved) if moved)
    assert set(out.moved[first : first + 200]) == {1}
    busy = range(first, first + 200)
    assert not set(out.ports.reads) & set(busy)
    assert not set(out.ports.load_rows) & set(busy[1:])
    assert sum(cycle < 120 for cycle in out.ports.vector_reads) >= 120, "bank 1"
    assert sum(cycle < 120 for cycle in out.ports.vector_writes) >= 120, "bank 1"


def test_store_and_vector_reads_share_the_read_port() -> None:
    out = run(NANO, Stimulus([[]], RowStimulus([(i, 0) for i in range(60)], [[i % 9 for i in range(60)]]))).ports
    assert sorted(out.reads + out.vector_reads) == list(range(120)), "one of them in every cycle"
    assert len(out.wins["read0"]) >= 118, "in turns, as the bench checks"


def test_store_reads_do_not_slow_the_other_bank() -> None:
    ports = RowStimulus([(2 * i % 32, 0) for i in range(60)], [[], [i % 9 for i in range(60)]])
    out = run(FOUR, Stimulus(no_rows(FOUR), ports)).ports
    assert out.reads == out.vector_reads == list(range(60))


def test_a_store_that_is_full_does_not_take_turns() -> None:
    """While nobody takes the store's rows, its waiting read costs the vector unit nothing."""
    ports = RowStimulus([(i, 0) for i in range(12)], [[i % 9 for i in range(100)]])
    out = run(NANO, Stimulus([[]], ports, hold_stores=200)).ports
    assert out.vector_reads[16:] == list(range(out.vector_reads[16], out.vector_reads[16] + 84))


def test_loads_and_vector_writes_share_the_write_port() -> None:
    rng = np.random.default_rng(4)
    data = [int32_row(rng, NANO) for _ in range(60)]
    ports = RowStimulus(
        vector_writes=[[(i % 7, row) for i, row in enumerate(data)]],
        load_rows=[(100 + i, row) for i, row in enumerate(data)],
    )
    out = run(NANO, Stimulus([[]], ports)).ports
    assert sorted(out.vector_writes + out.load_rows) == list(range(120))
    assert out.load_rows[-1] > 110 and out.vector_writes[-1] > 110, "they take turns"


def test_loads_alternate_banks_at_full_speed() -> None:
    rng = np.random.default_rng(5)
    ports = RowStimulus(load_rows=[(i % 32, int32_row(rng, FOUR)) for i in range(64)])
    assert run(FOUR, Stimulus(no_rows(FOUR), ports)).ports.load_rows == list(range(64))


@pytest.mark.parametrize("writer", ["vector", "load"])
def test_clearing_reads_do_not_starve_writes(writer: str) -> None:
    """A store that clears a row per cycle lets every second cycle to a write that waits."""
    rng = np.random.default_rng(6)
    data = [int32_row(rng, NANO) for _ in range(40)]
    ports = RowStimulus([(i, 1) for i in range(100)])
    if writer == "vector":
        ports.vector_writes = [[(200 + i % 7, row) for i, row in enumerate(data)]]
    else:
        ports.load_rows = [(200 + i % 7, row) for i, row in enumerate(data)]
    out = run(NANO, Stimulus([[]], ports)).ports
    written = out.vector_writes or out.load_rows
    assert written[-1] < 84
    assert out.reads[-1] < 145


def test_vector_words_and_loads_share_the_lane() -> None:
    """Every second word each, and both give way to result rows for their tiers only."""
    rng = np.random.default_rng(7)
    words = [{**random_load(rng, FOUR), "tiers": 0b0010} for _ in range(80)]
    rows = [[Row((t, i % 100, 0, -1), tiers=0b0100, addr=i % 16) for i in range(40)] for t in range(4)]
    out = run(FOUR, Stimulus(rows, RowStimulus(loads=words, acts=list(reversed(words))))).ports
    assert out.words == list(range(160))
    assert out.wins["lane"][:10] in (["vector", "other"] * 5, ["other", "vector"] * 5)
    blocked = [{**word, "tiers": 0b0110} for word in words]
    out = run(FOUR, Stimulus(rows, RowStimulus(loads=blocked, acts=words))).ports
    assert len(out.words) == 160
    assert out.words[:60] == list(range(60)), "the vector unit's words fill the gaps"


def test_rows_of_loads_out_of_range() -> None:
    """Each raises RANGE and is dropped; the buffer is compared as a whole."""
    rng = np.random.default_rng(8)
    far = [FOUR.combine_rows, FOUR.combine_rows + 1, 1 << 15, (1 << 16) - 1]
    rows = [int(rng.choice(far)) if i % 3 == 0 else i % 32 for i in range(90)]
    ports = RowStimulus(load_rows=[(row, int32_row(rng, FOUR)) for row in rows])
    out = run(FOUR, Stimulus(no_rows(FOUR), ports))
    assert out.errors == 30
    assert len(out.ports.load_rows) == 60
