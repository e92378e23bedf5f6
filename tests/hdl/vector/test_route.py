# SPDX-License-Identifier: Apache-2.0
"""The route unit, inside the vector unit, against the executor: table, lists, order, errors, timing."""

from __future__ import annotations

import random

import numpy as np
import pytest

from hdl.config import PRESETS, MachineConfig
from hdl.isa import Instruction, Opcode
from hdl.isa.asm import assemble
from hdl.isa.error_codes import ErrorCode
from hdl.numerics.precision import MAX_IMPORTANCE
from sim.golden.executor import Executor
from sim.golden.route import execute_route
from tests.support.vector.unit_bench import VectorBench

WIDE = PRESETS["nano"].replace(
    name="wide", tiers=2, rows=8, columns=4, result_lanes=2, row_fifo_depth=64, scalar_depth=128, expert_slots=32
)
CONFIGS = {"nano": PRESETS["nano"], "tiny": PRESETS["tiny"], "wide": WIDE}
FIRST_ROW = 16


def choose(choice: np.ndarray, s_base: int) -> list[Instruction]:
    """Return instructions that make CHOICE scalars of `choice` [tokens, k], read from row FIRST_ROW on by ARGMAX."""
    lines = []
    tokens, k = choice.shape
    for j in range(k):
        lines.append(
            f"vector op=argmax first=1 vectors={tokens} rows=8 a={FIRST_ROW + 8 * tokens * j} a_stride=8 "
            f"d_scalar={s_base + j * tokens}"
        )
    return assemble("\n".join(lines))


def play(config: MachineConfig, cases: list[tuple[np.ndarray, dict[str, int]]], seed: int, stall: float) -> VectorBench:
    """Run some ROUTEs one after the other and compare everything that each leaves behind with the last one's model."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(-(1 << 31), 1 << 31, (config.combine_rows, config.columns)).astype(np.int32)
    program, model = [], Executor(config)
    combine = rows.copy()
    for choice, fields in cases:
        tokens, k = choice.shape
        ins = Instruction(Opcode.ROUTE, {"tokens": tokens, "choices": k, "post0_en": 1, **fields})
        for (t, j), expert in np.ndenumerate(choice):
            model.scalars[ins["s_base"] + j * tokens + t] = int(expert) << 16
        model.combine[:] = combine
        execute_route(model, ins, 0)
        program.append(ins)
    bench = VectorBench(config, combine, np.zeros((config.tiers, config.activation_words, config.rows), np.int8))
    bench.stall, bench.seed = stall, seed
    # All ROUTEs have the same choices in the bench's memory: one case, or several with one choice.
    choice, fields = cases[0]
    tokens, k = choice.shape
    for (t, j), expert in np.ndenumerate(choice):
        block = combine[FIRST_ROW + 8 * (tokens * j + t) :][:8]
        block[:] = 0
        block.reshape(-1)[expert] = 5
    model.combine[:] = combine
    for ins in program:
        execute_route(model, ins, 0)
    bench.run([*choose(choice, fields.get("s_base", 0)), *program])
    assert set(bench.table) == set(range(config.expert_slots))  # all were cleared
    for slot, own in bench.table.items():
        assert list(own) == model.slots[slot].tolist() if own[0] else not model.slots[slot].any(), slot
    for place, entry in bench.lists.items():
        assert list(entry) == model.lists[0, place].tolist(), place
    assert len(bench.posts) == len(program)
    return bench


def fields_for(config: MachineConfig, rng: random.Random, tokens: int, k: int) -> dict[str, int]:
    """Return random places that fit."""
    n = tokens * k
    return {
        "s_base": rng.randrange(config.scalar_depth - n + 1), "a_base": rng.randrange(8), "a_stride": rng.randrange(4),
        "list_base": rng.randrange(config.list_depth - n + 1), "source_stride": rng.randrange(8),
        "source_base": rng.randrange(20), "by_number": rng.randrange(2),
        "dest_base": rng.randrange(20), "dest_stride": rng.randrange(8), "first_full": rng.randrange(2),
        "full_score": rng.choice([0, rng.randrange(1 << 18), 1 << 15]),
        "high_score": rng.choice([0, rng.randrange(1 << 16), 1 << 14]),
    }  # fmt: skip


@pytest.mark.parametrize("name", list(CONFIGS))
@pytest.mark.parametrize("stall", [0.0, 0.4])
@pytest.mark.parametrize("seed", range(2))
def test_random_routing(name: str, stall: float, seed: int) -> None:
    config, rng = CONFIGS[name], random.Random(f"{name} {seed}")
    experts = rng.randint(1, config.expert_slots)
    k = rng.randint(1, min(experts, config.columns, 3))
    tokens = rng.randint(1, 6)
    choice = np.array([rng.sample(range(experts), k) for _ in range(tokens)])
    cases = []
    place = fields_for(config, rng, tokens, k)
    for _ in range(2):  # twice, so that what the first leaves in the unit's memories would show
        slot_base = rng.randrange(config.expert_slots - experts + 1)
        fields = {"s_base": place["s_base"], "experts": experts, "slot_base": slot_base}
        cases.append((choice, {**fields_for(config, rng, tokens, k), **fields}))
    bench = play(config, cases, seed, stall)
    written = {n for _, f in cases for n in range(f["list_base"], f["list_base"] + tokens * k)}
    assert set(bench.lists) == written


@pytest.mark.parametrize(
    ("choice", "experts"),
    [
        ([[3], [3], [3]], 5),
        ([[4], [0], [2]], 5),
        ([[1], [2], [2], [0], [1], [2]], 3),
        ([[0, 1, 2], [2, 1, 0]], 3),
        ([[0], [0]], 1),
        ([[6, 6], [5, 6]], 7),
    ],
    ids=["one expert", "ties", "ascending", "k is E", "E is 1", "twice"],
)
@pytest.mark.parametrize("by_number", [0, 1])
def test_corners(choice: list[list[int]], experts: int, by_number: int) -> None:
    place = {
        "by_number": by_number,
        "slot_base": 16 - experts,
        "a_stride": 1,
        "source_stride": 3,
        "dest_base": 9,
        "dest_stride": 2,
        "list_base": 5,
        "experts": experts,
    }
    play(PRESETS["tiny"], [(np.array(choice), place)], 1, 0.0)


@pytest.mark.parametrize(("by_number", "sorting"), [(0, 16 + 2 + 5), (1, 0)])
@pytest.mark.parametrize("scored", [0, 1])
def test_cycles(by_number: int, sorting: int, scored: int) -> None:
    """As the unit's docstring says: T*k + 2E + m + T*(k + 2) and about 20, less without sorting, more with scores."""
    choice = np.array([[n % 7, 8 + n % 5] for n in range(8)])
    with_route = play(
        PRESETS["tiny"],
        [(choice, {"experts": 16, "a_stride": 1, "by_number": by_number, "full_score": scored})],
        0,
        0.0,
    )
    before = VectorBench(PRESETS["tiny"], with_route.combine, with_route.activation)
    before.run(choose(choice, 0))
    assert 0 <= with_route.cycles - before.cycles - (16 + 16 + sorting + 32 + 19 * scored) <= 20


@pytest.mark.parametrize("by_number", [0, 1])
@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, {2: (2, 0), 0: (1, 0), 1: (1, 0)}),
        ({"full_score": 1}, {2: (2, 0), 0: (1, 0), 1: (1, 0)}),
        ({"full_score": 12768, "high_score": 2768}, {2: (2, 0), 0: (1, 1), 1: (1, 0)}),
        ({"full_score": 12769, "high_score": 2769}, {2: (2, 0), 1: (1, 1)}),
        ({"full_score": 65535, "high_score": 50000}, {2: (2, 1)}),
        ({"full_score": 65535, "high_score": 65535, "first_full": 1}, {2: (2, 0)}),
        ({"full_score": 9, "high_score": 65535}, {2: (2, 0), 0: (1, 0), 1: (1, 0)}),
    ],
)
def test_scores(by_number: int, fields: dict[str, int], found: dict[int, tuple[int, int]]) -> None:
    """Expert 2 is chosen first by two tokens, whose gates add up to 50000; 0 and 1 are second choices."""
    config, choice = PRESETS["tiny"], np.array([[2, 0], [2, 1]])
    combine = np.zeros((config.combine_rows, config.columns), np.int32)
    combine[1, :2], combine[2, :2] = (30000, 2768), (20000 | -65536, 12768)  # low halves count
    for (t, j), expert in np.ndenumerate(choice):
        combine[FIRST_ROW + 8 * (2 * j + t), expert] = 5
    bench = VectorBench(config, combine, np.zeros((config.tiers, config.activation_words, config.rows), np.int8))
    values = {"tokens": 2, "choices": 2, "experts": 5, "a_base": 1, "a_stride": 1, "by_number": by_number, **fields}
    bench.run([*choose(choice, 0), Instruction(Opcode.ROUTE, values)])
    assert {own[2]: (own[0], own[3]) for own in bench.table.values() if own[0]} == found


@pytest.mark.parametrize(("tokens", "full"), [(16, False), (17, True)])
def test_sums_of_gates_saturate(tokens: int, full: bool) -> None:
    """16 times 65535 is just below the most that a sum can be; what is above counts as the most."""
    config, choice = PRESETS["tiny"], np.zeros((tokens, 1), np.int64)
    combine = np.full((config.combine_rows, config.columns), -1, np.int32)
    for t in range(tokens):
        combine[FIRST_ROW + 8 * t : FIRST_ROW + 8 * t + 8] = 0
    bench = VectorBench(config, combine, np.zeros((config.tiers, config.activation_words, config.rows), np.int8))
    values = {"tokens": tokens, "choices": 1, "experts": 2, "by_number": 1, "full_score": MAX_IMPORTANCE}
    bench.run([*choose(choice, 0), Instruction(Opcode.ROUTE, values)])
    assert [own[0] for own in bench.table.values() if own[0]] == [tokens]
    assert [own[3] for own in bench.table.values() if own[0]] == [not full]


@pytest.mark.parametrize(
    "line",
    [
        "route tokens=2 choices=1 experts=3",
        "route tokens=16 choices=8 experts=16 s=129",
        "route tokens=4 choices=2 experts=16 a=482 a_stride=10",
        "route tokens=4 choices=2 experts=16 list=121",
        "route tokens=8 choices=1 experts=16 source_stride=74",
        "route tokens=1 choices=1 experts=16 source_base=512",
        "route tokens=4 choices=2 experts=16 dest=497 dest_stride=5",
    ],
)
def test_errors(line: str) -> None:
    """The first: a choice that is no expert; the others: a range."""
    config = PRESETS["tiny"]
    combine = np.zeros((config.combine_rows, config.columns), np.int32)
    combine[FIRST_ROW + 8, 3] = 1  # token 1 chooses expert 3, token 0 expert 0
    bench = VectorBench(config, combine, np.zeros((config.tiers, config.activation_words, config.rows), np.int8))
    bench.run([*choose(np.array([[0], [3]]), 0), *assemble(line)])
    assert bench.error == (ErrorCode.RANGE, 1)
    assert not bench.lists and not any(own[0] for own in bench.table.values()) and not bench.posts


def test_vectors_before_and_after_stay_in_order() -> None:
    """A VECTOR behind a ROUTE writes over the gates that the ROUTE reads; one before it makes them."""
    config = PRESETS["tiny"]
    combine = np.zeros((config.combine_rows, config.columns), np.int32)
    combine[0, 0] = 77
    text = """
        vector op=argmax first=1 vectors=1 rows=1 a=0 d_scalar=0
        vector vectors=1 rows=1 a=0 dest_kind=rows dest=1 mult=2 bits=bits16
        route tokens=1 choices=1 experts=8 a=1 post=s3
        vector vectors=1 rows=1 a=0 dest_kind=rows dest=1 mult=5 bits=bits16 post=s4
    """
    bench = VectorBench(config, combine, np.zeros((config.tiers, config.activation_words, config.rows), np.int8))
    bench.run(assemble(text))
    assert bench.lists == {0: (0, 0, 154, 0)} and [s for s, own in bench.table.items() if own[0]] == [0]
    assert bench.combine[1, 0] == 385
    assert [post[1] for post in bench.posts] == [3, 4]
