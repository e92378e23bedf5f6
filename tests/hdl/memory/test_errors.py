# SPDX-License-Identifier: Apache-2.0
"""Errors, halt and waits of loads and stores: what is reported, what is not started, and how it all comes to rest."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hdl.config import MachineConfig
from hdl.isa import Format, Instruction, Limits, LoadDest, Opcode, StoreFormat, check_instruction
from hdl.isa.error_codes import ErrorCode
from tests.hdl.memory.test_path import CONFIGS, combine_rows
from tests.support.memory.axi_slave import Behaviour
from tests.support.memory.environment import Environment, Get
from tests.support.memory.programs import MEMORY_BYTES, random_loads, random_memory, random_stores
from tests.support.memory.simulate import simulate

NANO = CONFIGS["nano"]


def load(**values: int) -> Instruction:
    defaults = {"dest_kind": LoadDest.ACTIVATION, "count": 4, "dest_tiers": 1}
    return Instruction(Opcode.LOAD, defaults | values)


def tiles(form: Format, **values: int) -> Instruction:
    return load(dest_kind=LoadDest.VCACHE, format=form, **({"count": 2} | values))


def store(**values: int) -> Instruction:
    return Instruction(Opcode.STORE, {"format": StoreFormat.INT32, "rows": 8} | values)


def at_rest(unit: str) -> Callable[[Environment, Get], bool]:
    """Return the condition that `unit` reported an error and that nothing is on its way 50 cycles later."""
    since: list[int] = []

    def until(env: Environment, get: Get) -> bool:
        if unit in env.log.errors and get(f"{unit}_quiet"):
            since.append(env.cycle)
        else:
            assert not since, "quiet fell again"
        return len(since) > 50

    return until


LIMIT = 0x8000

BAD_LOADS = {
    "beyond": (NANO, load(group=1, addr=LIMIT // 32 - 1, count=9)),
    "far beyond": (NANO, load(addr=0xFFFFFFFF)),
    "high plane": (NANO, tiles(Format.PAIR, group=1, addr=LIMIT // 32)),
    "low plane": (NANO, tiles(Format.PAIR, group=0, addr_low=LIMIT // 32)),
    "both planes": (NANO, tiles(Format.PAIR, group=1, addr=LIMIT // 32, addr_low=LIMIT // 32 + 3)),
    "misaligned": (CONFIGS["broad"], load(addr=5)),
    "last beat": (CONFIGS["broad"], load(addr=LIMIT // 32 - 4, count=9)),
    "misaligned low plane": (CONFIGS["broad"], tiles(Format.PAIR, addr=4, addr_low=7)),
}


@pytest.mark.parametrize("case", BAD_LOADS)
def test_load_address(case: str) -> None:
    """As `hdl.isa.legality` says; nothing of the bad load is read, and what came before it arrives."""
    config, bad = BAD_LOADS[case]
    limits = Limits((LIMIT, LIMIT), ((0, 0), (0, 0)))
    wrong = check_instruction(bad, config, limits)
    assert wrong is not None and wrong.code == ErrorCode.ADDRESS
    before = [load(group=g, addr=0x100, dest_base=8 * g) for g in range(2)]
    env = Environment(config, random_memory(1), [*before, bad, load(addr=0x180, dest_base=32)], limit=(LIMIT, LIMIT))
    slaves = simulate(env, until=at_rest("load"))
    assert env.log.errors["load"] == (wrong.code, 2, wrong.address)
    for slave in slaves:
        for _, _, addr, _ in slave.requests:
            assert 0x100 * 32 <= addr * config.channels_per_group < 0x181 * 32, "only the good loads may read"


@pytest.mark.parametrize("form", Format)
@pytest.mark.parametrize("bad_group", [0, 1])
def test_read_error(form: Format, bad_group: int) -> None:
    """The beat's address is reported, the tile with the bad beat never gets its last word."""
    config = NANO
    loads = [tiles(form, group=1, addr=0x40 * n, addr_low=0x40 * n, dest_base=2 * n, tag=n) for n in range(4)]
    address = 0x40 * 2 * 32 + 3 * config.group_bytes
    env = Environment(config, random_memory(2), loads, seed=3, stall=0.2)
    uses = bad_group == 1 or form == Format.PAIR

    def in_group(env: Environment, get: Get) -> bool:
        return env.finished(get)

    slaves = simulate(
        env,
        [Behaviour(jitter=9, read_errors=range(address, address + 1) if g == bad_group else range(0)) for g in (0, 1)],
        until=at_rest("load") if uses else in_group,
    )
    assert slaves
    if not uses:
        env.check_loads()
        return
    assert env.log.errors["load"] == (ErrorCode.AXI_READ, 2, address)
    for good in loads[:2]:
        env.check_done(good)
    last_row = (loads[2]["dest_base"] + 1) * config.rows - 1
    assert (LoadDest.VCACHE, 0, last_row + config.rows) not in env.words


WINDOW = ((0x1000, 0x2000), (0x4000, 0x5000))

BAD_STORES = {
    "below": (NANO, store(addr=0x1000 // 32 - 1)),
    "above": (NANO, store(group=1, addr=0x5000 // 32 - 3)),
    "far above": (NANO, store(addr=0xFFFFFFFF)),
    "misaligned": (CONFIGS["broad"], store(addr=0x1000 // 32 + 1)),
}


@pytest.mark.parametrize("case", BAD_STORES)
def test_store_address(case: str) -> None:
    """As `hdl.isa.legality` says; nothing is written, no row is read or cleared."""
    config, bad = BAD_STORES[case]
    wrong = check_instruction(bad, config, Limits((0, 0), WINDOW))
    assert wrong is not None and wrong.code == ErrorCode.ADDRESS
    memory = random_memory(4)
    before = [group.copy() for group in memory]
    combine = combine_rows(config, 4)
    bad = Instruction(Opcode.STORE, {**bad.values, "clear": 1})
    kept = combine.copy()
    env = Environment(config, memory, (), [bad], combine=combine, window=WINDOW)
    simulate(env, until=at_rest("store"))
    assert env.log.errors["store"] == (ErrorCode.ADDRESS, 0, wrong.address)
    assert all(np.array_equal(a, b) for a, b in zip(memory, before, strict=True))
    assert np.array_equal(combine, kept)


def test_store_to_the_window_edges() -> None:
    """A store of exactly the window is legal, also when its last beat is not full."""
    config = CONFIGS["wide"]
    memory = random_memory(5)
    combine = combine_rows(config, 5)
    stores = [store(group=1, addr=0x4000 // 32, rows=5, format=StoreFormat.INT8, post0_en=1)]
    env = Environment(config, memory, (), stores, combine=combine, window=((0, 0), (0x4000, 0x4000 + 5 * 16)))
    simulate(env)
    assert not env.log.errors
    want = np.clip(combine[:5], -128, 127).astype(np.int8).view(np.uint8).reshape(-1)
    assert np.array_equal(memory[1][0x4000 : 0x4000 + 80], want)


def test_write_error() -> None:
    """The burst's address is reported; later stores write nothing; started bursts finish with strobes off."""
    config = NANO
    memory = random_memory(6)
    before = memory[0].copy()
    stores = [store(addr=0x100 * n, rows=40) for n in range(3)]
    bad = 0x100 * 32 + 5 * config.group_bytes
    env = Environment(config, memory, (), stores, combine=combine_rows(config, 6), seed=6, stall=0.1)
    simulate(env, Behaviour(latency=9, write_errors=range(bad, bad + 1), stall=0.2), until=at_rest("store"))
    burst = config.burst_beats * config.group_bytes
    assert env.log.errors["store"] == (ErrorCode.AXI_WRITE, 1, bad // burst * burst)
    assert np.array_equal(memory[0][0x200 * 32 :], before[0x200 * 32 :]), "the store after the error wrote something"


@pytest.mark.parametrize("seed", range(4))
def test_halt(seed: int) -> None:
    """After a halt at any moment nothing new is asked for, and everything comes to rest."""
    config = CONFIGS["nano" if seed % 2 else "wide"]
    memory = random_memory(seed)
    env = Environment(
        config, memory, random_loads(seed, config, 20), random_stores(seed, config, 6),
        combine=combine_rows(config, seed), seed=seed, stall=0.1,
    )  # fmt: skip
    env.start = 0
    env.check_done = lambda instruction: None  # type: ignore[method-assign]
    for sink in (*env.post_sinks, env.bus_sink, env.read_sink, env.fetch_sink):
        sink.check = False  # a halted unit may withdraw an offer
    halt_at = 60 + 37 * seed
    rest: list[int] = []
    requests: list[int] = []

    def each(env: Environment, get: Get) -> None:
        env.halt = env.cycle >= halt_at
        if env.cycle > halt_at + 3:  # words that were offered still leave
            for name in ("load_fill_control__0", "load_fill_control__1"):
                assert not get(name) & 1, "a fill word after the halt"
            if all(get(f"{unit}_quiet") for unit in ("load", "store", "fetch")):
                rest.append(env.cycle)
            else:
                assert not rest, "quiet fell again"

    slaves = simulate(
        env, Behaviour(latency=12, jitter=9, stall=0.2, reorder=True), until=lambda env, get: len(rest) > 60, each=each
    )
    requests = [cycle for slave in slaves for cycle, *_ in slave.requests]
    assert max(requests) < halt_at + 25, "a burst was asked for after the halt"
    assert not any(slave.writes or slave.replies or any(slave.reads) for slave in slaves)


@pytest.mark.parametrize("halt_at", [3, 4, 50, 54])
def test_halt_in_long_transfers(halt_at: int) -> None:
    """In long transfers: no more bursts than the two registers hold, and beats of a started store have no strobes.

    The early halts come while bursts are issued one a cycle, the late ones when the skew FIFOs' room holds them back.
    """
    config = NANO
    memory = random_memory(9)
    loads = [load(group=g, count=100, addr=0x100, dest_base=100 * g) for g in range(2)]
    env = Environment(config, memory, loads, [store(rows=100)], combine=combine_rows(config, 9))
    env.bus_sink.check = env.read_sink.check = False
    rest: list[int] = []

    def each(env: Environment, get: Get) -> None:
        env.halt = env.cycle >= halt_at
        if env.cycle > halt_at and get("load_quiet") and get("store_quiet"):
            rest.append(env.cycle)

    slaves = simulate(env, Behaviour(latency=9), until=lambda env, get: len(rest) > 40, each=each)
    started = halt_at + 1  # the first cycle in which the unit sees it
    for slave in slaves:
        assert sum(cycle > started for cycle, *_ in slave.requests) <= 2
        assert sum(cycle > started for cycle in slave.write_requests) <= 2
    after = [strobes for cycle, strobes in slaves[0].strobes if cycle > started]
    assert halt_at < 50 or len(after) > 2
    assert not any(after[1:]), "beats after the halt must have their strobes off"


def test_waits_come_before_reads() -> None:
    """No address of a waiting load is issued before its grant; a PAIR load waits once, in engine 0."""
    config = NANO
    wait = {"wait0_sem": 3, "wait0_count": 2}
    loads = [
        tiles(Format.HIGH, group=0, addr=0x10, dest_base=0),
        tiles(Format.PAIR, group=1, addr=0x40, addr_low=0x40, dest_base=2, **wait),
        tiles(Format.HIGH, group=1, addr=0x80, dest_base=4, **wait),
    ]
    env = Environment(config, random_memory(7), loads, wait_delay=100)
    grants: list[int] = []

    def each(env: Environment, get: Get) -> None:
        if sum(env.log.granted.values()) > len(grants):
            grants.append(env.cycle)

    slaves = simulate(env, each=each)
    env.check_loads()
    assert env.log.granted == {0: 1, 1: 1}
    for slave in slaves:
        for cycle, _, addr, _ in slave.requests:
            if 0x40 * 32 <= addr < 0x80 * 32:
                assert cycle > grants[0]
            elif addr >= 0x80 * 32:
                assert cycle > grants[1]


@pytest.mark.parametrize("seed", range(2))
def test_pairs_and_singles_do_not_deadlock(seed: int) -> None:
    """Many short loads of all formats, one engine far slower than the other."""
    config: MachineConfig = NANO
    loads = [i for i in random_loads(90 + seed, config, 60, most=3) if i["dest_kind"] == LoadDest.VCACHE]
    env = Environment(config, random_memory(8, MEMORY_BYTES), loads, seed=seed)
    slow = Behaviour(latency=60, stall=0.7)
    simulate(env, [Behaviour(latency=2), slow] if seed else [slow, Behaviour(latency=2)])
    env.check_loads()


def test_read_data_always_find_room() -> None:
    """However slowly the words are taken, the memory can always deliver: `AxiSlave` asserts it (deadlock freedom)."""
    loads = [load(group=g, count=60, addr=0x100, dest_base=64 * g) for g in range(2)]
    loads += [tiles(Format.PAIR, addr=0x200, addr_low=0x200, count=8)]
    env = Environment(NANO, random_memory(10), loads, seed=1)
    env.bus_sink.stall = 0.9
    simulate(env, [Behaviour(latency=3), Behaviour(latency=40)])
    env.check_loads()
