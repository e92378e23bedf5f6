# SPDX-License-Identifier: Apache-2.0
"""Operations of a step: their work by hand, and that edges lead from what writes a value to what reads it."""

import dataclasses

import numpy as np
import pytest

from scheduler.models.description import DenseMlp, Experts, GroupedAttention, LatentAttention, Layer, Model
from scheduler.models.shapes import load_shape, shape_names
from scheduler.ops.batch import Chunk, Routing
from scheduler.ops.graph import expected_experts, seen_keys, step_operations
from scheduler.ops.operation import Kind


def one_layer(mlp, **attention):
    layer = Layer(attention=GroupedAttention(**{"heads": 4, "kv_heads": 2, "head_dim": 8, **attention}), mlp=mlp)
    return Model(family="mixtral", name="test", hidden=16, vocabulary=32, context=64, layers=(layer,))


def by_name(operations):
    return {op.name: op for op in operations}


def test_work_by_hand():
    model = one_layer(Experts(count=4, chosen=2, intermediate=24))
    chunks = [Chunk(0, 3, (1, 2)), Chunk(1, 9, (5,))]
    routing = Routing(np.array([[0, 1], [0, 1], [1, 0]]), np.full((3, 2), 9, np.uint16))
    ops = by_name(step_operations(model, chunks, [routing]))
    assert ops["layer0.qkv"].macs == 3 * 16 * 64 and ops["layer0.qkv"].weight_bytes == 16 * 64
    # Token 0 sees keys 0 to 3, token 1 one more, the other sequence's 10: 19 pairs of 4 heads, keys and values of 8.
    assert ops["layer0.attend"].macs == 19 * 4 * 16
    assert ops["layer0.attend"].cache_read == (3 + 9) * 2 * 16  # those of the new tokens are on the chip
    assert ops["layer0.append"].cache_written == 3 * 2 * 16
    assert ops["layer0.experts"].macs == 3 * 2 * 3 * 16 * 24
    assert ops["layer0.experts"].weight_bytes == 2 * 3 * 16 * 24  # two of four were chosen
    assert ops["head"].macs == 2 * 16 * 32
    assert sum(op.macs for op in ops.values() if op.kind == Kind.NORM) == 0


def test_a_window_bounds_what_is_seen_and_read():
    chunks = [Chunk(0, 10, (1, 2, 3))]
    assert seen_keys(chunks) == 11 + 12 + 13
    assert seen_keys(chunks, 4) == 12
    assert seen_keys([Chunk(0, 0, (1, 2, 3))], 2) == 1 + 2 + 2
    ops = by_name(step_operations(one_layer(DenseMlp(intermediate=8), window=4), chunks))
    assert ops["layer0.attend"].cache_read == 3 * 2 * 16  # the first token sees keys 7 to 9 and its own
    ops = by_name(
        step_operations(one_layer(DenseMlp(intermediate=8), window=4), [Chunk(0, 2, (1,)), Chunk(1, 0, (1,))])
    )
    assert ops["layer0.attend"].cache_read == 2 * 2 * 16  # a window wider than the sequence


def test_a_whole_step_by_hand():
    """Every weight that is used once, an embedding a token, earlier keys and values once, new ones once."""
    model = one_layer(Experts(count=4, chosen=2, intermediate=24, shared=5))
    chunks = [Chunk(0, 3, (1, 2)), Chunk(1, 9, (5,))]
    ops = step_operations(model, chunks, [Routing(np.array([[0, 1], [2, 1], [1, 0]]), np.full((3, 2), 9, np.uint16))])
    dense, expert = 16 * (32 + 32) + 32 * 16 + 16 * 4 + 3 * 16 * 5, 3 * 16 * 24
    assert sum(op.macs for op in ops) == 3 * (dense + 2 * expert) + 19 * 4 * 16 + 2 * 16 * 32
    assert sum(op.bytes for op in ops) == 3 * 2 * 16 + dense + 3 * expert + 16 * 32 + (3 + 9 + 3) * 32
    ops = step_operations(model, chunks[1:], None, outputs=0)
    assert ops[-1].macs == ops[-1].bytes == 0  # nobody asks for logits


def test_a_whole_step_of_latent_attention_by_hand():
    """Scores and contexts are with the latent vector, which is cached once for all heads."""
    attention = LatentAttention(heads=2, kv_rank=8, plain_dim=6, rope_dim=4, value_dim=10, query_rank=12)
    layer = Layer(attention=attention, mlp=DenseMlp(intermediate=24))
    model = Model(family="deepseek_v2", name="test", hidden=16, vocabulary=32, context=64, layers=(layer,))
    ops = step_operations(model, [Chunk(0, 5, (1, 2))])
    weights = 16 * (12 + 8 + 4) + 12 * 2 * (6 + 4) + 2 * 8 * (6 + 10) + 2 * 10 * 16 + 3 * 16 * 24
    seen = 6 + 7
    assert sum(op.macs for op in ops) == 2 * weights + seen * 2 * (8 + 4 + 8) + 16 * 32
    assert sum(op.bytes for op in ops) == 2 * 2 * 16 + weights + 16 * 32 + (5 + 2) * (8 + 4)


def test_expected_experts():
    assert expected_experts(8, 2, 0) == 0
    assert expected_experts(8, 2, 1) == pytest.approx(2)
    assert expected_experts(8, 8, 1) == 8
    assert 7.9 < expected_experts(8, 2, 64) < 8


@pytest.mark.parametrize("name", shape_names())
def test_values_are_written_before_they_are_read(name):
    full = load_shape(name)
    model = dataclasses.replace(full, layers=full.layers[:4])
    written: set[str] = set()
    operations = step_operations(model, [Chunk(0, 5, (1, 2)), Chunk(3, 0, (7,))])
    for op in operations:
        assert set(op.reads) <= written, op.name
        assert op.writes
        written |= set(op.writes)
    assert {"residual", "logits"} <= written
    assert {op.kind for op in operations} >= {Kind.EMBED, Kind.ATTEND, Kind.EXPERTS, Kind.HEAD}


@pytest.mark.parametrize("name", shape_names())
def test_weights_of_one_token_are_the_active_parameters(name):
    """All matrices that a token uses, and nothing else: norms, biases, tables and the embedding are not matrices."""
    model = load_shape(name)
    operations = step_operations(model, [Chunk(0, 0, (1,))])
    weights = sum(op.weight_bytes for op in operations if op.kind != Kind.EMBED)
    rest = model.active_parameters - weights - (0 if model.tied else model.vocabulary * model.hidden)
    assert 0 <= rest < 0.001 * model.active_parameters
