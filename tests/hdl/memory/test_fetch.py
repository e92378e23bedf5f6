# SPDX-License-Identifier: Apache-2.0
"""Instruction fetch: order, END, stop and restart, and errors only of instructions that are needed."""

from __future__ import annotations

import numpy as np
import pytest

from hdl.config import PRESETS, MachineConfig
from hdl.isa import Opcode
from hdl.isa.error_codes import ErrorCode
from hdl.memory.axi import fetch_buffer_beats
from tests.hdl.memory.test_path import CONFIGS
from tests.support.memory.axi_slave import AxiSlave, Behaviour
from tests.support.memory.environment import Environment, Get
from tests.support.memory.programs import random_memory
from tests.support.memory.simulate import simulate

FETCH_CONFIGS = {
    **{name: CONFIGS[name] for name in ("nano", "wide", "broad")},
    "exact": PRESETS["tiny"].replace(name="exact", channel_bytes=32, rows=16, columns=16),
}


def program(memory: np.ndarray, base: int, count: int, seed: int) -> list[int]:
    """Write `count` random instructions, the last of them END, and return them."""
    words = np.random.default_rng(seed).integers(0, 256, (count, 32), np.uint8)
    words[:, 0] = words[:, 0] & 0xC0 | Opcode.GEMM
    words[-1, 0] = Opcode.END
    memory[base : base + 32 * count] = words.reshape(-1)
    return [int.from_bytes(word.tobytes(), "little") for word in words]


def fetch(
    config: MachineConfig,
    memory: list[np.ndarray],
    base: int,
    *,
    limit: int = 1 << 16,
    behaviour: Behaviour | None = None,
    seed: int = 0,
) -> tuple[Environment, list[AxiSlave]]:
    """Run until the unit is at rest after END or an error."""
    env = Environment(config, memory, seed=seed, stall=0.3 if seed else 0.0, limit=(limit, limit))
    env.start = base
    rest: list[int] = []

    def until(env: Environment, get: Get) -> bool:
        ended = bool(env.log.instructions) and env.log.instructions[-1][2] & 0x3F == Opcode.END
        if (ended or env.log.errors) and get("fetch_quiet"):
            rest.append(env.cycle)
        return len(rest) > 30

    slaves = simulate(env, behaviour, until=until, cycles=8000)
    return env, slaves


def words_of(env: Environment) -> list[int]:
    assert [pc for _, pc, _ in env.log.instructions] == list(range(len(env.log.instructions)))
    return [word for _, _, word in env.log.instructions]


@pytest.mark.parametrize("name", FETCH_CONFIGS)
@pytest.mark.parametrize("seed", [0, 1])
def test_order(name: str, seed: int) -> None:
    """All instructions, in order, up to END, and never more beats asked for than the buffer holds."""
    config = FETCH_CONFIGS[name]
    memory = random_memory(seed)
    base = 0xF80
    want = program(memory[0], base, 25, seed)
    behaviour = Behaviour(latency=20, jitter=10 * seed, stall=0.2 * seed)
    env, slaves = fetch(config, memory, base, behaviour=behaviour, seed=seed)
    assert words_of(env) == want and not env.log.errors
    total = sum(beats for _, _, _, beats in slaves[0].requests)
    assert total <= -(-25 * 32 // config.group_bytes) + fetch_buffer_beats(config) + 1
    assert all(id == 1 for _, id, _, _ in slaves[0].requests)
    if not seed and config.group_bytes >= 32:
        cycles = [cycle for cycle, _, _ in env.log.instructions]
        assert cycles[-1] - cycles[0] <= 25 * 2, "a 512-byte buffer covers most of a latency of 20 cycles"


@pytest.mark.parametrize("name", FETCH_CONFIGS)
def test_limit_and_errors_behind_end_do_not_matter(name: str) -> None:
    """END is the last instruction below the limit; then: the beats behind it answer with errors."""
    config = FETCH_CONFIGS[name]
    memory = random_memory(2)
    want = program(memory[0], 0x1000, 8, 2)
    env, slaves = fetch(config, memory, 0x1000, limit=0x1100)
    assert words_of(env) == want and not env.log.errors
    for slave in slaves:
        for _, _, addr, beats in slave.requests:
            assert (addr + beats * config.channel_bytes) * config.channels_per_group <= 0x1100, "read beyond the limit"
    poisoned = Behaviour(read_errors=range(0x1100 // config.channels_per_group, 1 << 16))
    env, _ = fetch(config, memory, 0x1000, behaviour=poisoned)
    assert words_of(env) == want and not env.log.errors


@pytest.mark.parametrize("name", FETCH_CONFIGS)
def test_errors_that_matter(name: str) -> None:
    """Every instruction before the faulty one is handed out, then the error names it."""
    config = FETCH_CONFIGS[name]
    memory = random_memory(3)
    want = program(memory[0], 0x1000, 12, 3)
    limit = 0x1000 + 32 * 6
    env, _ = fetch(config, memory, 0x1000, limit=limit, seed=1)
    assert words_of(env) == want[:6]
    assert env.log.errors == {"fetch": (ErrorCode.ADDRESS, 6, limit)}
    bad = 0x1000 + 32 * 6
    first = bad // config.channels_per_group
    env, _ = fetch(config, memory, 0x1000, behaviour=Behaviour(read_errors=range(first, first + 1)))
    assert words_of(env) == want[:6]
    assert env.log.errors == {"fetch": (ErrorCode.AXI_FETCH, 6, bad)}
    env, slaves = fetch(config, memory, 0x1010)
    assert env.log.errors == {"fetch": (ErrorCode.ADDRESS, 0, 0x1010)}
    assert not words_of(env) and not slaves[0].requests


@pytest.mark.parametrize("name", ["nano", "exact"])
def test_stop_and_start_again(name: str) -> None:
    """A stopped stream leaves nothing behind: the next one starts at its own first instruction."""
    config = FETCH_CONFIGS[name]
    memory = random_memory(4)
    program(memory[0], 0x1000, 40, 4)
    second = program(memory[0], 0x4000, 10, 5)
    env = Environment(config, memory, limit=(1 << 16, 1 << 16))
    env.start = 0x1000
    handed: list[int] = []

    def each(env: Environment, get: Get) -> None:
        env.stop = env.cycle == 70
        if env.cycle == 75:  # beats are still on their way
            assert not get("fetch_quiet")
            handed.append(len(env.log.instructions))
            env.log.instructions.clear()
            env.start = 0x4000

    def until(env: Environment, get: Get) -> bool:
        return env.cycle > 80 and len(env.log.instructions) == 10 and bool(get("fetch_quiet"))

    simulate(env, Behaviour(latency=30), each=each, until=until, cycles=2000)
    assert handed[0] > 0
    assert words_of(env) == second and not env.log.errors
