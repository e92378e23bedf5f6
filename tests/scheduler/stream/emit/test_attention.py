# SPDX-License-Identifier: Apache-2.0
"""Attention of a layer: every head of every token sees all its keys once, and goes into the residual once."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterator

import pytest

from hdl.config import MachineConfig
from hdl.isa import Instruction, LoadDest, Opcode, VectorOp
from scheduler.models.description import GroupedAttention, Model
from scheduler.ops.batch import Chunk, blocks_of
from scheduler.stream.emit.attention import Segment, emit_attention
from scheduler.stream.emit.dense import Dense
from scheduler.stream.emit.work import Work
from tests.support.emitting import ODD, STREAMED, TINY, VCache, emitted, work_of

MIXED = [Chunk(0, 5, (1,) * 11), Chunk(1, 20, (5,)), Chunk(2, 0, (6,))]
CONFIGS = {"resident": TINY, "streamed": STREAMED}


def emit(chunks: list[Chunk], config: MachineConfig, model: Model = ODD) -> tuple[Work, list[tuple[int, int]]]:
    """Emit a layer's attention; return the step, and the tokens that were routed behind it."""
    work = work_of(chunks, config, model)
    dense, routed = Dense(work), []
    dense.load_constants()
    dense.load_layer(0)

    def route(first: int, count: int) -> Iterator[int]:
        routed.append((first, count))
        yield 0

    emit_attention(work, dense, [Segment(0, blocks_of(chunks, work.places.block), route)])
    return work, routed


def named(work: Work, what: str) -> list[tuple[str, Instruction]]:
    """Return the instructions whose label begins with a word, with the rest of it."""
    return [(label.removeprefix(f"{what} "), one) for label, one in emitted(work) if label.startswith(f"{what} ")]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_query_is_divided_once_and_projected_once(config: MachineConfig) -> None:
    work, routed = emit(MIXED, config)
    contexts: Counter[int] = Counter()
    for _, one in named(work, "divide"):
        contexts.update(one["dest_base"] + n * one["dest_stride"] for n in range(one["vectors"]))
    assert len(contexts) <= 13 * 4 and sum(contexts.values()) == 13 * 4  # a block's place may come again
    tokens: Counter[int] = Counter()
    for label, one in emitted(work):
        if label == "output" and one["dest_base"] % 3 == 0:  # the first share of a token's residual
            tokens.update(one["dest_base"] // 3 + n for n in range(one["tokens"]))
    assert tokens == Counter(range(13))
    assert sorted(n for first, count in routed for n in range(first, first + count)) == list(range(13))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_scores_are_with_the_keys_that_were_loaded(config: MachineConfig) -> None:
    """Each tile of a job's scores is the block of keys that its turn says, of its own sequence and head."""
    work, _ = emit(MIXED, config)
    cache, seen = VCache(config), defaultdict(Counter)
    areas = {
        (work.memory.cache(0, s, h, "keys").group, work.memory.cache(0, s, h, "keys").address + 64 * unit): (s, h, unit)
        for s in range(3) for h in range(2) for unit in range(3)
    }  # fmt: skip
    for label, one in emitted(work):
        if one.opcode == Opcode.LOAD and label.startswith("keys"):
            # COLUMNS takes a whole tile of bytes for each tile; the tiles of a plane are half as long.
            for n in range(one["count"]):
                part = Instruction(one.opcode, {**one.values, "count": 1, "dest_base": one["dest_base"] + n,
                                                "addr": one["addr"] + 2 * n})  # fmt: skip
                cache.load(part)
        else:
            cache.load(one)
        if label.startswith("scores"):
            (tiles,) = cache.read(one)
            whose = {areas[tile][:2] for tile in tiles}
            (found,) = whose
            sequence, head = (int(label.split()[n]) for n in (2, 4))
            assert sequence == found[0]
            for tile in tiles:
                seen[label][areas[tile][2]] += one["tokens"]
            if sequence:  # decoded: the name has the key/value head
                assert head == found[1]
            else:
                assert head // 2 == found[1]
    # 16, 21 and 1 keys. Decoded: both query heads of a key/value head at once, each unit once.
    assert {label: set(units) for label, units in seen.items() if "sequence 0" in label} == {
        f"scores sequence 0 head {h}": {0, 1} for h in range(4)
    }
    decoded = {(s, h): dict.fromkeys(range(units), 2) for s, units in ((1, 3), (2, 1)) for h in (0, 1)}
    assert {label: dict(units) for label, units in seen.items() if "sequence 0" not in label} == {
        f"scores sequence {s} head {h}": units for (s, h), units in decoded.items()
    }


def test_a_prompts_heads_are_loaded_once_when_they_fit() -> None:
    work, _ = emit([MIXED[0]], TINY)
    loads = Counter(label for label, _ in named(work, "keys"))
    assert loads == {"of sequence 0 head 0": 1, "of sequence 0 head 1": 1}
    decode, _ = emit([Chunk(0, 9, (1,)), Chunk(1, 9, (1,))], TINY)
    assert Counter(label for label, _ in named(decode, "keys")) == {
        f"of sequence {s} head {h}": 1 for s in (0, 1) for h in (0, 1)
    }


def test_keys_are_stored_before_they_are_loaded() -> None:
    for config in CONFIGS.values():
        work, _ = emit(MIXED, config)
        appended: set[tuple[int, int]] = set()
        for label, one in emitted(work):
            if label.startswith("append keys"):
                appended.add((one["group"], one["addr"]))
            if label.startswith("keys") and one["dest_kind"] == LoadDest.VCACHE:
                span = range(one["addr"], one["addr"] + 2 * one["count"])
                sequence = int(label.split()[3])
                chunk = MIXED[sequence]
                area = work.memory.cache(0, sequence, int(label.split()[5]), "keys")
                for position in range(chunk.position, chunk.end):
                    unit = (area.address + position // 8 * 64 + position % 8 * 8) // 32
                    if unit in span:
                        assert any(g == area.group and a <= unit for g, a in appended), label


def test_a_window_leaves_out_keys_before_its_first_unit() -> None:
    attention = ODD.layers[0].attention
    assert isinstance(attention, GroupedAttention)
    layer = dataclasses.replace(ODD.layers[0], attention=dataclasses.replace(attention, window=10))
    model = dataclasses.replace(ODD, layers=(layer, layer))
    work, _ = emit([Chunk(0, 30, (1,))], TINY, model)  # keys 21 to 30: from 16 on
    area = work.memory.cache(0, 0, 0, "keys")
    loads = [one for label, one in named(work, "keys") if label == "of sequence 0 head 0"]
    assert [(one["addr"] * 32, one["count"]) for one in loads] == [(area.address + 2 * 64, 2)]
    lengths = [one["length"] for label, one in named(work, "max") if label == "sequence 0 head 0"]
    assert lengths == [15, 7]


def test_residual_rows_are_added_to_by_list() -> None:
    work, _ = emit(MIXED, TINY)
    outputs = [one for label, one in emitted(work) if label == "output"]
    assert all(one["accumulate"] and one["dest_list"] for one in outputs)
    vectors = [one for _, one in emitted(work) if one.opcode == Opcode.VECTOR]
    assert {one["op"] for one in vectors} == {
        VectorOp.SUMSQ, VectorOp.SCALE, VectorOp.ROTATE, VectorOp.MAX, VectorOp.MAP, VectorOp.RESCALE
    }  # fmt: skip
