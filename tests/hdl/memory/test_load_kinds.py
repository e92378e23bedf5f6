# SPDX-License-Identifier: Apache-2.0
"""Loads of transposed tiles and of combine rows: all bytes against the executor, rates, posts."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest

from hdl.config import PRESETS, MachineConfig
from hdl.isa import Format, Instruction, Limits, LoadDest, Opcode, check_instruction
from hdl.isa.error_codes import ErrorCode
from sim.golden.state import MachineState
from sim.golden.transfer import execute_load
from tests.hdl.memory.test_path import CONFIGS, STALLS
from tests.support.memory.axi_slave import Behaviour
from tests.support.memory.environment import Environment, Get
from tests.support.memory.programs import place, random_memory
from tests.support.memory.simulate import simulate

SHAPES = {
    "nano": CONFIGS["nano"],
    "tiny": CONFIGS["tiny"],
    "small": PRESETS["small"].replace(combine_rows=64, vcache_tiles=16),
    "wide": CONFIGS["wide"],
    "broad": CONFIGS["broad"],  # a beat holds two rows, a fill word eight columns
    "deep": CONFIGS["deep"],  # R = 2C, a column takes two fill words; a row four beats
    "tall": CONFIGS["deep"].replace(name="tall", channel_bytes=16),  # R = 2C, a word is two columns; a row one beat
}


def mixed_loads(seed: int, config: MachineConfig) -> list[Instruction]:
    """Return loads of transposed tiles, rows and tiles in BYTES, in both groups, that do not overlap."""
    rng = random.Random(seed)
    tiles, rows = 0, 0
    loads = []
    for index in range(14):
        values = {
            "group": rng.randrange(2), "post0_en": 1, "post0_sem": index % config.semaphores,
            "count": rng.randint(1, 4),
        }  # fmt: skip
        to_rows = index % 2 if index < 4 else rng.randrange(2)
        if to_rows and rows + values["count"] <= config.combine_rows:
            shift = rng.choice([0, 0, 3, 15, 16])
            values |= {"dest_kind": LoadDest.ROWS, "dest_base": rows, "shift": shift}
            rows += values["count"]
            size = 2 * config.columns * values["count"]
        elif tiles + values["count"] <= config.vcache_tiles:
            form = Format.COLUMNS if index < 4 else rng.choice([Format.COLUMNS, Format.BYTES])
            mask = rng.randrange(1, 1 << config.tiers)
            values |= {"format": form, "dest_base": tiles, "dest_tiers": mask, "tag": rng.randrange(64)}
            tiles += values["count"]
            size = config.tile_bytes * values["count"]
        else:
            continue
        loads.append(Instruction(Opcode.LOAD, values | {"addr": place(rng, config, size)}))
    return loads


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", SHAPES)
def test_against_the_executor(name: str, seed: int) -> None:
    """Seed 0 without stalls, others with; V-Cache and combine buffer as a whole."""
    config = SHAPES[name]
    loads = mixed_loads(seed, config)
    memory = random_memory(seed)
    machine = MachineState(config, [m.tobytes() for m in memory])
    for pc, load in enumerate(loads):
        execute_load(machine, load, pc)
    stall = 0.3 if seed else 0.0
    env = Environment(config, memory, loads, seed=seed, stall=stall)
    simulate(env, STALLS if seed else Behaviour())
    assert not env.log.errors
    env.check_loads()
    vcache, combine = np.zeros_like(machine.vcache), np.zeros_like(machine.combine)
    for (kind, tier, index), raw in env.words.items():
        if kind == LoadDest.ROWS:
            combine[index] = np.frombuffer(raw, "<i4")
        else:
            vcache[(tier, *divmod(index, config.rows))] = np.frombuffer(raw, np.int8)
    assert np.array_equal(vcache, machine.vcache)
    assert np.array_equal(combine, machine.combine)
    for (tier, tile), tag in env.log.tags.items():
        assert machine.tags[tier, tile] == tag
    assert sum(load["format"] == Format.COLUMNS for load in loads) > 1
    assert sum(load["dest_kind"] == LoadDest.ROWS for load in loads) > 1


def test_corner_elements() -> None:
    """The ends of int16 at every shift, first and last row of the buffer."""
    config = SHAPES["nano"]
    corners = np.array([-32768, -1, 1, 32767], "<i2")
    memory = random_memory(1)
    memory[1][:8] = corners.view(np.uint8)
    loads = [
        Instruction(
            Opcode.LOAD,
            {"dest_kind": LoadDest.ROWS, "group": 1, "dest_base": 15 * shift, "count": 1,
             "shift": shift},
        )
        for shift in range(17)
    ]  # fmt: skip
    loads.append(Instruction(Opcode.LOAD, loads[0].values | {"dest_base": config.combine_rows - 1}))
    env = Environment(config, memory, loads)
    simulate(env)
    for load in loads:
        got = np.frombuffer(env.words[LoadDest.ROWS, 0, load["dest_base"]], "<i4")
        assert got.tolist() == [int(v) << load["shift"] for v in corners]


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("kind", ["COLUMNS", "ROWS"])
def test_rate(name: str, kind: str) -> None:
    """Without stalls one beat a cycle: a fill word every second cycle; a row a cycle or every so many beats."""
    config = SHAPES[name].replace(outstanding_bursts=16)
    if kind == "ROWS":
        values = {"dest_kind": LoadDest.ROWS, "shift": 5}
        period = max(1, 2 * config.columns // config.group_bytes)
        items, item_bytes = min(48, config.combine_rows // 2), 2 * config.columns
    else:
        values = {"format": Format.COLUMNS, "dest_tiers": 1}
        period, items, item_bytes = 2, max(1, min(config.vcache_tiles // 2, 48 // config.fill_words)), config.tile_bytes
    # Two instructions, so that what is between them counts.
    loads = [
        Instruction(
            Opcode.LOAD,
            values | {"count": items, "dest_base": n * items, "addr": 64 * -(-n * items * item_bytes // 2048)},
        )
        for n in range(2)
    ]
    env = Environment(config, random_memory(3), loads)
    simulate(env, Behaviour(latency=3))
    env.check_loads()
    cycles = env.log.rows if kind == "ROWS" else [cycle for cycle, _ in env.log.fills]
    assert len(cycles) == 2 * items * (1 if kind == "ROWS" else config.fill_words)
    assert [b - a for a, b in pairwise(cycles)] == [period] * (len(cycles) - 1)


def test_post_waits_for_the_last_row() -> None:
    """No post, and still pending, while the last row is offered and not taken."""
    config = SHAPES["tiny"]
    rows = {"dest_kind": LoadDest.ROWS, "post0_en": 1}
    loads = [
        Instruction(Opcode.LOAD, rows | {"count": 3, "post0_sem": 1}),
        Instruction(Opcode.LOAD, rows | {"count": 2, "dest_base": 9, "group": 1, "post0_sem": 2}),
    ]
    env = Environment(config, random_memory(4), loads)
    drive, held = env.row_sink.drive, [0]

    def stubborn() -> dict[str, int]:
        values = drive()
        if len(env.log.rows) == 4 and held[0] < 200:
            held[0] += 1
            env.row_sink.ready = False
            return {f"{env.row_sink.name}__ready": 0}
        return values

    env.row_sink.drive = stubborn  # type: ignore[method-assign]

    def each(env: Environment, get: Get) -> None:
        if 0 < held[0] < 200:
            assert len(env.log.posts) < 2 and get("load_pending")

    simulate(env, each=each)
    assert held[0] == 200 and len(env.log.posts) == 2
    env.check_loads()


LIMIT = 0x8000

BAD = {
    "rows": {"dest_kind": LoadDest.ROWS, "count": 5, "addr": LIMIT // 32 - 1},
    "columns": {"format": Format.COLUMNS, "dest_tiers": 1, "count": 3, "addr": LIMIT // 32 - 1},
}
FITS = {
    "rows": {"dest_kind": LoadDest.ROWS, "count": 4, "addr": LIMIT // 32 - 1},
    "columns": {"format": Format.COLUMNS, "dest_tiers": 1, "count": 2, "addr": LIMIT // 32 - 1},
}


@pytest.mark.parametrize("kind", BAD)
def test_limit(kind: str) -> None:
    """The last item that fits arrives; one more is an address error, as `hdl.isa.legality` says."""
    config = SHAPES["nano"]
    limits = Limits((LIMIT, LIMIT), ((0, 0), (0, 0)))
    good, bad = (Instruction(Opcode.LOAD, values) for values in (FITS[kind], BAD[kind]))
    wrong = check_instruction(bad, config, limits)
    assert check_instruction(good, config, limits) is None
    assert wrong is not None and wrong.code == ErrorCode.ADDRESS
    env = Environment(config, random_memory(1), [good], limit=(LIMIT, LIMIT))
    simulate(env)
    env.check_loads()
    env = Environment(config, random_memory(1), [bad], limit=(LIMIT, LIMIT))

    def until(env: Environment, get: Get) -> bool:
        return "load" in env.log.errors and env.cycle > 200

    simulate(env, until=until)
    assert env.log.errors["load"] == (wrong.code, 0, wrong.address)
    assert not env.words
