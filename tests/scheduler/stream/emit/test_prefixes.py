# SPDX-License-Identifier: Apache-2.0
"""Sequences that have a prefix in common: its keys lie in one place, and may be read once for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from hdl.isa import Opcode
from hdl.isa.legality import Limits
from scheduler.memory.model import ModelMemory
from scheduler.models.constants import placeholders
from scheduler.models.description import GroupedAttention, Model
from scheduler.ops.batch import Chunk, Prefix
from scheduler.plan.estimate import estimate
from scheduler.plan.limits import LoweringError
from scheduler.plan.policy import FUSED, SEQUENTIAL, policy_of
from scheduler.plan.residence import plan_residence
from scheduler.plan.tiling import Tiling
from scheduler.stream.choose import Chooser, Plan, sharing
from scheduler.stream.lower import lower_step
from scheduler.stream.prove import prove
from scheduler.stream.table import COL, Table
from tests.support.checkpoints import small_model
from tests.support.language import LanguageRun, varied
from tests.support.plans import ROOMY, Forced

BLOCK = 16
PREFIX = Prefix(0, 2 * BLOCK)
SHARED = Plan(prefixes=True)


def model(family: str = "mixtral", **shape: int) -> Model:
    """Return a small model."""
    return small_model(family, **({"hidden": 21, "heads": 4, "kv_heads": 2, "head_dim": 6, "vocabulary": 21} | shape))


def tokens(sequence: int, position: int, count: int) -> tuple[int, ...]:
    """Return new tokens."""
    return tuple((7 * sequence + 3 * n + position) % 20 for n in range(count))


def steps(sequences: int = 4, prefix: Prefix = PREFIX) -> list[list[Chunk]]:
    """Return a prompt, prompts that go on from a prefix of it, and two steps in which all are decoded."""
    first = prefix.tokens + 5
    found = [[Chunk(0, 0, tokens(0, 0, first))]]
    rest = range(1, sequences)
    found.append([Chunk(s, prefix.tokens, tokens(s, 0, s), prefix) for s in rest])
    for step in range(2):
        own = [Chunk(0, first + step, tokens(0, step, 1), prefix)]
        found.append(own + [Chunk(s, prefix.tokens + s + step, tokens(s, step, 1), prefix) for s in rest])
    return found


def run(what: Model, batch: Sequence[Sequence[Chunk]], plan: Plan, *, slots: bool = False) -> LanguageRun:
    """Run steps by a plan, each compared with the integer model and with sequences that run alone."""
    one = LanguageRun(
        ROOMY, varied(what, 3), slots=slots, step_bytes=1 << 19, key_block=BLOCK, sequences=8,
        chooser=Forced([plan] * len(batch)),
    )  # fmt: skip
    for chunks in batch:
        one.programs.append(one.step(list(chunks), alone=True))
    return one


def loaded_tiles(table: Table) -> int:
    """Return the V-Cache tiles that a stream loads."""
    return int(table.rows[table.rows[:, COL.opcode] == Opcode.LOAD, COL.count].sum())


@pytest.mark.parametrize("plan", [Plan(), SHARED, Plan(listed=True, early_keys=True, prefixes=True)], ids=str)
@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "olmoe"])
def test_the_same_bits(family: str, plan: Plan) -> None:
    run(model(family), steps(), plan)


@pytest.mark.parametrize("keys", [8, 24, 40])
def test_what_is_no_whole_block_is_read_by_each(keys: int) -> None:
    one = run(model(), steps(4, Prefix(0, keys)), SHARED)
    plain = run(model(), steps(4, Prefix(0, keys)), Plan())
    saved = loaded_tiles(plain.programs[-1].table) - loaded_tiles(one.programs[-1].table)
    assert (saved > 0) == (keys >= BLOCK)


@pytest.mark.parametrize("heads", [(1, 1), (2, 2), (6, 2), (3, 1)], ids=str)
def test_any_number_of_heads(heads: tuple[int, int]) -> None:
    """One query a head; more queries of a prefix than a job takes."""
    run(model(heads=heads[0], kv_heads=heads[1], head_dim=8), steps(8), SHARED)


def test_in_micro_batches() -> None:
    batch = steps(6)
    one = LanguageRun(
        ROOMY, varied(model(), 3), step_bytes=1 << 19, key_block=BLOCK, sequences=8,
        chooser=Forced([Plan(), SHARED, Plan((4, 2), prefixes=True), Plan((6,), True, True, prefixes=True)]),
    )  # fmt: skip
    for chunks in batch:
        one.step(chunks, alone=True)


def test_a_prompt_beside_sequences_that_share() -> None:
    """Sequences with two prefixes, one without, and a prompt that goes on from a prefix while others decode."""
    other = Prefix(5, BLOCK)
    batch = [
        [Chunk(0, 0, tokens(0, 0, 34)), Chunk(5, 0, tokens(5, 0, 17)), Chunk(7, 0, tokens(7, 0, 3))],
        [Chunk(1, 32, tokens(1, 0, 2), PREFIX), Chunk(2, 32, tokens(2, 0, 1), PREFIX)],
        [
            Chunk(3, 32, tokens(3, 0, 9), PREFIX), Chunk(7, 3, (4,)), Chunk(0, 34, (1,), PREFIX),
            Chunk(1, 34, (2,), PREFIX), Chunk(2, 33, (3,), PREFIX), Chunk(5, 17, (5,), other),
            Chunk(6, 16, (6,), other),
        ],
    ]  # fmt: skip
    run(model(), batch, SHARED)
    run(model(), batch, SHARED, slots=True)


@pytest.mark.parametrize(("tiles", "keys", "resident"), [(1024, 96, True), (128, 192, True), (64, 96, False)], ids=str)
def test_a_prefix_of_several_pieces(tiles: int, keys: int, resident: bool) -> None:
    """Where V-Cache has no room for all keys at once, and several jobs of a head look at them."""
    what = varied(model(heads=6, kv_heads=1, head_dim=8, context=320), 3)
    one = LanguageRun(
        ROOMY.replace(vcache_tiles=tiles), what, step_bytes=1 << 20, key_block=BLOCK, sequences=8,
        chooser=Forced([SHARED] * 4),
    )  # fmt: skip
    for chunks in steps(8, Prefix(0, keys)):
        program = one.step(chunks, alone=True)
    assert program.places.job_vectors < 8 * 6 and program.places.residence.resident == resident
    assert (program.places.key_piece < keys) == (tiles < 1024)


def test_it_is_read_once() -> None:
    """Keys and values of the prefix that every other sequence would read too are not loaded."""
    batch = steps(8)
    plain, shared = (run(model(), batch, plan) for plan in (Plan(), SHARED))
    for own, other in zip(plain.programs[2:], shared.programs[2:], strict=True):
        saved = loaded_tiles(own.table) - loaded_tiles(other.table)
        tiling = plain.tiling
        heads = tiling.heads(tiling.kinds[0])
        tiles = heads.kv_heads * (tiling.key_tiles(heads, PREFIX.tokens) + tiling.value_tiles(heads, PREFIX.tokens))
        assert saved == 7 * len(tiling.model.layers) * tiles


def test_layers_with_windows_do_not_share() -> None:
    """A window begins at another key for each sequence: each reads its own, the prefix's in its place."""
    plain = model(context=160)
    attention = plain.layers[0].attention
    assert isinstance(attention, GroupedAttention)
    windowed = replace(plain.layers[0], attention=replace(attention, window=20))
    both = replace(plain, layers=(windowed, *plain.layers[1:]))
    tiling, loaded = Tiling(ROOMY, both), list[int]()
    for plan in (Plan(), SHARED):
        chooser = Forced([plan] * 4)
        memory = ModelMemory(plan_residence(tiling), None, sequences=8, context=128, step_bytes=1 << 19)
        for chunks in steps(4):
            program = lower_step(placeholders(both), memory, chunks, None, key_block=BLOCK, chooser=chooser)
            assert prove(program.table, ROOMY, memory.images, Limits(memory.sizes, program.window)) == []
        loaded.append(loaded_tiles(program.table))
    heads = tiling.heads(plain.layers[1])
    tiles = heads.kv_heads * (tiling.key_tiles(heads, PREFIX.tokens) + tiling.value_tiles(heads, PREFIX.tokens))
    assert loaded[0] - loaded[1] == 3 * (len(both.layers) - 1) * tiles


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([Chunk(1, 32, (1,), Prefix(9, 32))], "prefix of 32 tokens of sequence 9; the memory has sequences 0 to 7"),
        ([Chunk(1, 31, (1,), Prefix(0, 32))], "prefix of 32 tokens of sequence 0; 1 to 31 of them have been run"),
        ([Chunk(0, 16, (1,)), Chunk(1, 32, (1,), Prefix(0, 32))], "1 to 16 of them have been run before the step"),
        ([Chunk(1, 32, (1,), Prefix(0, 20))], "prefix of 20 tokens of sequence 0; use a multiple of 8, what is loaded"),
    ],
)  # fmt: skip
def test_prefixes_that_cannot_be(chunks: list[Chunk], message: str) -> None:
    one = LanguageRun(ROOMY, varied(model(), 3), step_bytes=1 << 19, key_block=BLOCK, sequences=8)
    with pytest.raises(LoweringError, match=message):
        one.lower(chunks, None)


def test_weights_that_stream_share_prefixes_too() -> None:
    """In the sequential order, listed, and in micro-batches that run beside one another."""
    what, batch = varied(model(heads=6, kv_heads=1, head_dim=8, context=320), 3), steps(8, Prefix(0, 96))
    config = ROOMY.replace(vcache_tiles=64)
    one = LanguageRun(config, what, step_bytes=1 << 20, key_block=BLOCK, sequences=8, chooser=Chooser(FUSED))
    assert not one.memory.residence.resident
    plans = one.chooser.plans(one.memory.residence, batch[2], False)
    assert plans[0] == Plan() and all(plan.prefixes for plan in plans[1:]) and len(plans) > 1
    assert Chooser(policy_of("prefixes")).plans(one.memory.residence, batch[2], False) == [Plan(), SHARED]
    for plan in plans[1:]:
        one = LanguageRun(
            config, what, step_bytes=1 << 20, key_block=BLOCK, sequences=8, chooser=Forced([Plan(), Plan(), plan, plan])
        )  # fmt: skip
        for chunks in batch:
            one.step(chunks, alone=True)


def test_estimates_count_what_is_read() -> None:
    own, plain = (run(model(), steps(4), plan).programs[-1] for plan in (SHARED, Plan()))
    once, each = (sum(one.bytes for one in estimate(p.places, p.chunks) if "attend" in one.operation.name)
                  for p in (own, plain))  # fmt: skip
    cached = own.tiling.kinds[0].attention.kv_heads * 2 * 6 * len(own.tiling.model.layers)
    assert each - once == 3 * PREFIX.tokens * cached


def test_who_shares() -> None:
    own, other = Prefix(0, 16), Prefix(1, 16)
    assert sharing([Chunk(n, 20, (1,), own) for n in range(3)]) == 3
    assert sharing([Chunk(0, 20, (1,), own), Chunk(1, 20, (1,), other)]) == 0
    assert sharing([Chunk(0, 20, (1, 2), own), Chunk(1, 20, (1,), own)]) == 0
    assert sharing([Chunk(0, 20, (1,)), Chunk(1, 20, (1,))]) == 0


def test_the_policy_says_whether_plans_share() -> None:
    chunks = steps(4)[2]
    one = LanguageRun(ROOMY, varied(model(), 3), step_bytes=1 << 19, key_block=BLOCK, sequences=8)
    residence = one.memory.residence
    assert Chooser(SEQUENTIAL).plans(residence, chunks, False) == [Plan()]
    assert Chooser(policy_of("prefixes")).plans(residence, chunks, False) == [Plan(), SHARED]
    assert Chooser(policy_of("list")).plans(residence, chunks, False)[1:] == [Plan((), True), Plan((), True, True)]
    found = Chooser(FUSED).plans(residence, chunks, False)
    assert found[0] == Plan() and all(plan.prefixes for plan in found[1:])
    assert not any(plan.prefixes for plan in Chooser(FUSED).plans(residence, chunks[:1], False))
