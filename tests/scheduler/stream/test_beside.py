# SPDX-License-Identifier: Apache-2.0
"""Micro-batches that stream weights, each for itself in a part of the chip: the same bits, whatever the order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hdl.config import PRESETS
from hdl.isa import Opcode
from scheduler.cost.model import simulate
from scheduler.models.description import Experts, Model
from scheduler.ops.batch import Chunk, Prefix
from scheduler.plan.limits import LoweringError
from scheduler.plan.policy import FUSED, POLICIES
from scheduler.plan.residence import Residence, plan_residence
from scheduler.plan.tiling import Tiling
from scheduler.stream.blocks import BEGIN, INNER, OUTER, SPACE, STRIDE, most_blocks
from scheduler.stream.choose import Chooser, Plan
from scheduler.stream.cuts import cut_chunks, spread_chunks, spread_sizes
from scheduler.stream.emit.emitter import Emitter
from scheduler.stream.lists import token_lists
from scheduler.stream.machine import ACTIVATION, COMBINE, LIST, PARAMETER, SCALAR, VCACHE, machine_of
from scheduler.stream.region import split
from scheduler.stream.touched import new_touched, touch
from tests.support.checkpoints import small_model
from tests.support.language import TINY, LanguageRun, varied
from tests.support.plans import Forced

NARROW = TINY.replace(
    name="narrow", vcache_tiles=128, combine_rows=2048, activation_words=2048, scalar_depth=1024, parameter_words=256,
    list_depth=256, semaphores=64,
)  # fmt: skip
"""Weights stream, and there is room for two steps of some tokens."""
FAMILIES = ("mixtral", "qwen3_moe", "olmoe")


def prompt(slot: int, position: int, count: int) -> Chunk:
    """Return new tokens of a sequence."""
    return Chunk(slot, position, tuple((7 * slot + 3 * n + position) % 20 for n in range(count)))


STEPS = (
    [prompt(0, 0, 37), prompt(2, 0, 3)], [prompt(0, 37, 1), prompt(1, 0, 20), prompt(2, 3, 1)],
    [prompt(0, 38, 1), prompt(1, 20, 1), prompt(2, 4, 1)],
)  # fmt: skip


class Spread(Chooser):
    """Cuts every step into two micro-batches."""

    def __init__(self, listed: bool, prefixes: bool = False) -> None:
        super().__init__(FUSED)
        self._listed, self._prefixes = listed, prefixes

    def plans(
        self, residence: Residence, chunks: Sequence[Chunk], slots: bool, pinned: object = None, scored: bool = False
    ) -> list[Plan]:
        cuts = spread_sizes(chunks, 2)
        return [Plan(cuts, listed=self._listed, spread=True, prefixes=self._prefixes)]


def streamed(family: str, experts: int = 4, **sizes: int) -> Model:
    """Return a model that does not fit V-Cache, its second layer with a shared expert."""
    model = small_model(
        family, **({"hidden": 40, "heads": 4, "kv_heads": 2, "head_dim": 8, "vocabulary": 60} | sizes), experts=experts
    )
    mlp = model.layers[1].mlp
    assert isinstance(mlp, Experts)
    return replace(model, layers=(model.layers[0], replace(model.layers[1], mlp=replace(mlp, shared=9))))


@pytest.mark.parametrize("listed", [False, True], ids=["in order", "listed"])
@pytest.mark.parametrize("family", FAMILIES)
def test_they_compute_the_same(family: str, listed: bool) -> None:
    one = LanguageRun(NARROW, varied(streamed(family), 3), step_bytes=1 << 19, chooser=Spread(listed))
    assert not one.memory.residence.resident
    for chunks in STEPS:
        program = one.step(chunks, alone=True)
        assert len(program.parts) == 2 and len(program.plan.cuts) == 2
        numbers = np.concatenate([part.numbers for part in program.parts])
        assert sorted(numbers.tolist()) == list(range(sum(len(chunk.tokens) for chunk in chunks)))


@pytest.mark.parametrize("spread", [True, False])
def test_prefixes_are_read_once_by_each_micro_batch_and_in_small_blocks(spread: bool) -> None:
    """Seven sequences have a prompt's first tokens in common; another prompt comes beside them."""
    prefix, rest = Prefix(0, 32), range(1, 7)
    first = [Chunk(0, 0, prompt(0, 0, 37).tokens)]
    second = [Chunk(slot, 32, prompt(slot, 32, slot).tokens, prefix) for slot in rest]
    both = [replace(prompt(slot, 32 + (slot or 5), 1), prefix=prefix) for slot in range(7)]
    chooser = Spread(True, True) if spread else Forced([Plan(listed=True, fine=True, prefixes=True)] * 3)
    one = LanguageRun(
        NARROW, varied(streamed("mixtral"), 3), step_bytes=1 << 19, sequences=8, key_block=16, chooser=chooser
    )  # fmt: skip
    for chunks in (first, second, [*both, prompt(7, 0, 20)]):
        program = one.step(chunks, alone=True)
    assert max(part.places.size.sharing for part in program.parts) == (4 if spread else 7)


def test_an_order_that_takes_turns_is_another_and_shorter() -> None:
    cycles = []
    for listed in (False, True):
        one = LanguageRun(NARROW, varied(streamed("olmoe"), 3), step_bytes=1 << 19, chooser=Spread(listed))
        cycles.append(simulate(NARROW, one.step(STEPS[0]).table).cycles)
    assert cycles[1] < 0.95 * cycles[0]


def test_each_micro_batch_keeps_to_its_part_of_the_chip() -> None:
    one = LanguageRun(NARROW, varied(streamed("mixtral"), 3), step_bytes=1 << 19, chooser=Spread(False))
    program = one.step(STEPS[0])
    machine = machine_of(NARROW)
    rows = program.table.rows[:-1]
    touched, lists = new_touched(machine), token_lists(program.table, machine, one.memory.images)
    depth = {
        VCACHE: machine.vcache_tiles, ACTIVATION: machine.activation_words * machine.parts, LIST: machine.list_depth,
        PARAMETER: machine.parameter_words, COMBINE: NARROW.combine_rows, SCALAR: NARROW.scalar_depth,
    }  # fmt: skip
    first = {
        VCACHE: machine.vcache, ACTIVATION: machine.activation, LIST: machine.lists, PARAMETER: machine.parameter,
        COMBINE: machine.combine, SCALAR: machine.scalar,
    }  # fmt: skip
    halves: dict[int, set[int]] = {}
    while touched.part[1] < len(rows):
        touch(rows, touched.part[1], len(rows), machine, lists, most_blocks(machine), touched)
        for n in range(touched.part[0], touched.part[1]):
            place = n - touched.part[0]
            for b in range(touched.blocks_at[place], touched.blocks_at[place + 1]):
                block = touched.blocks[b]
                space = int(block[SPACE])
                if space not in depth:
                    continue
                last = block[BEGIN] + (block[OUTER] - 1) * block[STRIDE] + block[INNER] - 1
                for cell in (int(block[BEGIN]), int(last)):
                    halves.setdefault(n, set()).add((cell - first[space]) % depth[space] * 2 // depth[space])
    assert all(len(own) == 1 for own in halves.values())
    assert {half for own in halves.values() for half in own} == {0, 1}


def test_a_part_of_the_chip_that_is_too_small_is_no_plan() -> None:
    model = varied(streamed("mixtral"), 3)
    residence = plan_residence(Tiling(NARROW, model.description))
    with pytest.raises(LoweringError, match="8 micro-batches: V-Cache has no room for the weights of each"):
        split(residence, 8)
    few = NARROW.replace(combine_rows=512)
    program = LanguageRun(few, model, step_bytes=1 << 19, chooser=Chooser(FUSED)).step(STEPS[0])
    assert not any(tried.plan.spread for tried in program.tried) and len(program.tried) > 1


def test_a_routing_that_is_not_known_is_refused() -> None:
    one = LanguageRun(NARROW, varied(streamed("mixtral"), 3), slots=True, step_bytes=1 << 19, chooser=Spread(True))
    with pytest.raises(LoweringError, match="weights of their own: the routing has to be known"):
        one.step(STEPS[0])


@pytest.mark.parametrize(
    ("policy", "slots", "listed", "spread"),
    [
        ("sequential", False, False, False), ("list", False, True, False), ("micro-batches", False, False, False),
        ("fused", True, True, False), ("fused", False, True, True),
    ],
)  # fmt: skip
def test_what_is_tried_where_weights_stream(policy: str, slots: bool, listed: bool, spread: bool) -> None:
    """Micro-batches need another order to be worth anything, and a routing that is known."""
    residence = plan_residence(Tiling(NARROW, streamed("mixtral")))
    chunks = [prompt(0, 0, 37), *(prompt(n, 5, 1) for n in (1, 2, 3))]
    expected = [Plan(), *[Plan(listed=True, fine=True)] * listed, *[Plan((34, 6), listed=True, spread=True)] * spread]
    assert Chooser(POLICIES[policy]).plans(residence, chunks, slots) == expected


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(sizes=st.lists(st.one_of(st.just(1), st.integers(1, 90)), min_size=1, max_size=9), count=st.integers(1, 4))
def test_spreading_keeps_every_token_once_and_all_in_order(sizes: list[int], count: int) -> None:
    chunks = [prompt(slot, 3, size) for slot, size in enumerate(sizes)]
    found = spread_chunks(chunks, count)
    assert tuple(sum(len(c.tokens) for c in own) for own, _, _ in found) == spread_sizes(chunks, count)
    tokens = {slot: [] for slot in range(len(sizes))}
    flat = [token for chunk in chunks for token in chunk.tokens]
    rows: list[int] = []
    for own, outputs, spread in found:
        assert [flat[number] for number in spread.numbers] == [token for chunk in own for token in chunk.tokens]
        assert [own[place].sequence for place in outputs] == list(spread.rows)
        rows += spread.rows
        for chunk in own:
            assert chunk.position == 3 + len(tokens[chunk.sequence]), "a prompt's pieces come in order"
            tokens[chunk.sequence] += chunk.tokens
    assert all(tuple(tokens[chunk.sequence]) == chunk.tokens for chunk in chunks)
    assert sorted(rows) == list(range(len(sizes)))
    [(whole, _)] = cut_chunks(chunks, [sum(sizes)])
    assert whole == tuple(chunks)


@pytest.mark.parametrize("lists", [(0, 0), (1, 0), (0, 1), (1, 1)], ids=str)
def test_a_long_gemm_is_cut_by_tokens(lists: tuple[int, int]) -> None:
    """All tokens once, where they would have been."""
    emitter = Emitter(PRESETS["tiny"])
    fields = {
        "tier_count": 1, "tokens": 11, "k_slices": 3, "n_tiles": 2, "list_base": 9,
        "act_base": 5, "act_stride": 3, "act_list": lists[0], "dest_base": 7, "dest_stride": 2, "dest_list": lists[1],
    }  # fmt: skip
    emitter.gemm("whole", 0, **fields)
    emitter.most_waves = 25
    emitter.gemm("cut", 0, **fields)
    whole, *parts = [dict(one.values) for one in emitter.stream.table().instructions() if one.opcode == Opcode.GEMM]

    def places(one: dict[str, int]) -> list[tuple[int, int]]:
        at = one.get("list_base", 0)
        return [
            (
                at + n if lists[0] else one["act_base"] + n * one["act_stride"],
                at + n if lists[1] else one["dest_base"] + n * one["dest_stride"],
            )
            for n in range(one["tokens"])
        ]

    assert [place for one in parts for place in places(one)] == places(whole)
    assert len(parts) == 3 and all(one["tokens"] * 6 <= 25 for one in parts)
