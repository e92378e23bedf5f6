# SPDX-License-Identifier: Apache-2.0
"""The integer model's parts equal the sequences of VECTOR instructions that ``docs/vector.md`` names for them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hdl.config import PRESETS
from hdl.isa import Instruction, Opcode, VectorBits, VectorDest, VectorFn, VectorOp, VectorSum
from hdl.isa.legality import Limits, check_instruction
from hdl.numerics import combine_add, requant
from scheduler.models.fixed_point import (
    GATE_MULT,
    GATE_RECIP,
    GATE_SHIFT,
    PROBABILITY_MULT,
    PROBABILITY_SHIFT,
    ROTATE_SHIFT,
    gate_scale_shift,
)
from scheduler.models.quantise_language import DEFAULT_KEY_BLOCK, HeadRanges, attention_head
from scheduler.models.quantise_norm import residual_norm
from scheduler.models.quantised_model import AttentionHead, Norm, WeightedNorm
from scheduler.models.rope import rope_tables
from sim.golden.executor import Executor
from sim.golden.integer_attention import attend, normalise, normalise_heads, product, rotate, value_bytes
from sim.golden.integer_experts import route
from sim.golden.vector import execute_vector
from tests.scheduler.models.test_quantise_language import SHAPE

TINY = PRESETS["tiny"]
C = TINY.columns
D = 16
"""Channels of a head."""


class Machine:
    """The executor's vector unit, with rows put and read by hand."""

    def __init__(self) -> None:
        self.state = Executor(TINY)

    def put(self, row: int, values: np.ndarray) -> None:
        rows = values.reshape(-1, C)
        self.state.combine[row : row + len(rows)] = rows

    def rows(self, row: int, count: int) -> np.ndarray:
        return self.state.combine[row : row + count].astype(np.int64)

    def words(self, word: int, count: int) -> np.ndarray:
        return self.state.activation[0, word : word + count]

    def vector(self, op: VectorOp, **fields: int) -> None:
        instruction = Instruction(Opcode.VECTOR, {"op": op, **{k: int(v) & 0xFFFF for k, v in fields.items()}})
        assert check_instruction(instruction, TINY, Limits.whole(TINY)) is None
        state = self.state
        execute_vector(instruction, TINY, state.combine, state.scalars, state.activation)


@pytest.mark.parametrize(
    "norm",
    [Norm(12, 700, 3, 40000, 24), Norm(0, 0, 0, 32768, 30), Norm(15, 65535, 32, 65535, 22), Norm(8, 1, 0, 32768, 63)],
    ids=str,
)
def test_normalise(norm: Norm) -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(40, 32)) * 2.0 ** rng.uniform(0, 31, (40, 1))
    rows = np.clip(rows, -(2**31), 2**31 - 1).astype(np.int64)
    rows[0], rows[1], rows[2, 0] = 0, -(2**31), 2**31 - 1
    machine = Machine()
    machine.put(0, rows)
    shared = {"vectors": 40, "rows": 4, "a_stride": 4, "in_shift": norm.in_shift}
    machine.vector(VectorOp.SUMSQ, **shared, mult=norm.mult, shift=norm.eps_shift, imm=norm.eps)
    machine.vector(
        VectorOp.SCALE, **shared, shift=norm.shift, bits=VectorBits.BITS8, dest_kind=VectorDest.ACTIVATION,
        dest_tiers=1, dest_stride=4,
    )  # fmt: skip
    np.testing.assert_array_equal(normalise(rows, norm), machine.words(0, 160).reshape(40, 32))


@pytest.mark.parametrize("size", [0.02, 1.0, 4.9])
def test_normalise_is_rmsnorm(size: float) -> None:
    x = np.random.default_rng(2).normal(size=(50, 16)) * size
    unit = 7.5 / 2**31
    x = np.clip(x, -7, 7)
    norm = residual_norm(SHAPE, 7.5, 4.0 / 127, unit)
    expected = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + SHAPE.norm_eps)
    found = normalise(np.rint(x / unit).astype(np.int64), norm) * (4.0 / 127)
    assert np.abs(found - expected).max() < 0.51 * 4.0 / 127 + 0.02 * (size < 0.1)


def test_rotate() -> None:
    rng = np.random.default_rng(3)
    rows = rng.integers(-32768, 32768, (9, 2, D))
    rows[0], rows[1] = 32767, -32768
    cosines, sines = (table[100:109] for table in rope_tables(D, 200, 10000.0))
    machine = Machine()
    machine.put(0, rows)
    machine.put(100, np.concatenate([cosines, sines], axis=1))
    machine.vector(
        VectorOp.ROTATE, vectors=9, rows=2 * D // C, a_stride=2 * D // C, b_base=100, b_stride=2 * D // C,
        b_rows=D // C, shift=ROTATE_SHIFT, bits=VectorBits.BITS8, dest_kind=VectorDest.ROWS, dest_base=200,
        dest_stride=2 * D // C,
    )  # fmt: skip
    found = rotate(rows, cosines, sines)
    assert found.min() == -128 and found.max() == 127
    np.testing.assert_array_equal(found.ravel(), machine.rows(200, 36).ravel())


def test_values_saturate_and_round_half_up() -> None:
    assert value_bytes(np.array([-32768, 32767, 128, 127, -128, -129])).tolist() == [-128, 127, 1, 0, 0, -1]


@pytest.mark.parametrize(
    "norm", [Norm(0, 700, 3, 40000, 28), Norm(0, 65535, 32, 65535, 40), Norm(0, 0, 0, 32768, 18)], ids=str
)
@pytest.mark.parametrize("shift", [0, 11, 24, 47])
@pytest.mark.parametrize("whole", [False, True], ids=["head", "whole"])
def test_normalise_heads(whole: bool, norm: Norm, shift: int) -> None:
    """Both ways to group vectors into MULs give the bits of the integer model."""
    rng = np.random.default_rng(shift)
    tokens, heads, rows = 9, 3, D // C
    x = np.rint(rng.normal(size=(tokens, heads, D)) * 2.0 ** rng.uniform(0, 14, (tokens, heads, 1)))
    x = np.clip(x, -32768, 32767).astype(np.int64)
    x[0], x[1], x[2], x[3, 0, 0] = 0, -32768, 32767, -1
    weights = rng.integers(-32768, 32768, heads * D if whole else D).astype(np.int16)
    weights[:3] = -32768, 32767, 0
    expected = normalise_heads(x, WeightedNorm(norm, weights, shift))
    all_rows = heads * rows
    for by_token in (False, True):
        machine = Machine()
        machine.put(0, x)
        machine.put(200, weights)
        vectors = {"vectors": tokens, "rows": all_rows, "a_stride": all_rows} if whole else {
            "vectors": tokens * heads, "rows": rows, "a_stride": rows,
        }  # fmt: skip
        machine.vector(VectorOp.SUMSQ, **vectors, mult=norm.mult, shift=norm.eps_shift, imm=norm.eps)
        in_place = {"bits": VectorBits.BITS16, "dest_kind": VectorDest.ROWS, "dest_stride": vectors["a_stride"]}
        machine.vector(VectorOp.SCALE, **vectors, shift=norm.shift, **in_place)
        in_place["shift"] = shift
        if not whole:
            machine.vector(
                VectorOp.MUL, vectors=tokens, rows=all_rows, a_stride=all_rows, b_base=200, b_rows=rows,
                **{**in_place, "dest_stride": all_rows},
            )  # fmt: skip
        elif by_token:
            for token in range(tokens):
                first = token * all_rows
                machine.vector(
                    VectorOp.MUL, vectors=heads, rows=rows, a_base=first, a_stride=rows, b_base=200, b_stride=rows,
                    b_rows=rows, **{**in_place, "dest_base": first, "dest_stride": rows},
                )  # fmt: skip
        else:
            for row in range(0, all_rows, 2):
                machine.vector(
                    VectorOp.MUL, vectors=tokens, rows=2, a_base=row, a_stride=all_rows, b_base=200 + row, b_rows=2,
                    **{**in_place, "dest_base": row},
                )  # fmt: skip
        np.testing.assert_array_equal(expected.ravel(), machine.rows(0, tokens * all_rows).ravel())


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize(("experts", "chosen"), [(5, 1), (8, 2), (16, 4), (19, 8)])
def test_route(experts: int, chosen: int, normalised: bool) -> None:
    rng = np.random.default_rng(experts)
    tokens, rows = 20, -(-experts // C)
    logits = rng.integers(-3000, 3000, (tokens, experts))
    logits[0], logits[1], logits[2] = 7, -32768, 32767
    logits[3, ::2], logits[4, 0] = 32767, -32768
    logits[5] = rng.integers(0, 3, experts)
    machine = Machine()
    padded = np.full((tokens, rows * C), 12345)
    padded[:, :experts] = logits
    machine.put(0, padded)
    whole = {"vectors": tokens, "rows": rows, "a_stride": rows}
    for choice in range(chosen):
        machine.vector(
            VectorOp.ARGMAX, **whole, masked=1, length=experts, first=choice == 0, s_base=max(0, choice - 1) * tokens,
            d_scalar=choice * tokens,
        )  # fmt: skip
    places = {"dest_kind": VectorDest.ROWS, "dest_base": 100, "dest_stride": 1}
    machine.vector(VectorOp.GATHER, **whole, length=chosen, bits=VectorBits.BITS16, **places)
    index = (machine.state.scalars[: chosen * tokens] >> 16).reshape(chosen, tokens).T
    gates = {"vectors": tokens, "rows": 1, "a_base": 100, "a_stride": 1, "masked": 1, "length": chosen}
    machine.vector(VectorOp.MAX, **gates, first=1, d_scalar=200)
    power = {"fn": VectorFn.EXP2, "mult": GATE_MULT, "shift": GATE_SHIFT, "bits": VectorBits.BITS32, "s_base": 200}
    total = {"sum": VectorSum.SUM_RECIP, "first": 1, "imm": GATE_RECIP, "d_scalar": 220}
    if normalised:
        machine.vector(VectorOp.MAP, **power, **total, **gates, **places)
    else:
        machine.vector(VectorOp.MAP, **power, **total, **whole, masked=1, length=experts, dest_kind=VectorDest.NONE)
        machine.vector(VectorOp.MAP, **power, **gates, **places)
    machine.vector(VectorOp.SCALE, **gates, s_base=220, shift=gate_scale_shift(15), bits=VectorBits.BITS32, **places)
    found = route(logits, chosen, normalised=normalised)
    np.testing.assert_array_equal(found.experts, index)
    np.testing.assert_array_equal(found.gates, machine.rows(100, tokens)[:, :chosen])
    if normalised:
        assert np.abs(found.gates.sum(axis=1).astype(int) - 32768).max() <= chosen
    exact = np.exp2(logits / 512.0 - logits.max(axis=1, keepdims=True) / 512.0)
    best = np.take_along_axis(exact, found.experts, axis=1)
    exact = best / (best if normalised else exact).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.gates / 32768, exact, atol=3e-4)


def on_machine(
    query: np.ndarray, keys: np.ndarray, values: np.ndarray, position: int, head: AttentionHead, key_block: int
) -> np.ndarray:
    """Return the context [tokens, d] of one head's queries [tokens, d] with VECTOR instructions between products."""
    machine, tokens, count = Machine(), len(query), len(keys)
    context = {"vectors": tokens, "rows": D // C, "a_base": 300, "a_stride": D // C}
    for first in range(0, count, key_block):
        block = slice(first, first + key_block)
        size = len(keys[block])
        rows = -(-size // C)
        scores = np.full((tokens, rows * C), 32767)  # what lies beyond must not matter
        scores[:, :size] = requant(
            query.astype(np.int64) @ keys[block].T.astype(np.int64), head.score_mult, head.score_shift, 16
        )
        machine.put(0, scores)
        fields = {
            "vectors": tokens, "rows": rows, "a_stride": rows, "masked": 1, "length": position + 1 - first,
            "length_step": 1, "first": first == 0,
        }  # fmt: skip
        last = first + key_block >= count
        machine.vector(VectorOp.MAX, **fields)
        machine.vector(
            VectorOp.MAP, fn=VectorFn.EXP2, sum=VectorSum.SUM_RECIP if last else VectorSum.SUM, **fields, d_scalar=100,
            mult=PROBABILITY_MULT, shift=PROBABILITY_SHIFT, bits=VectorBits.BITS8, dest_kind=VectorDest.ACTIVATION,
            dest_tiers=1, dest_stride=rows, imm=head.context_mult,
        )  # fmt: skip
        if first:
            machine.vector(
                VectorOp.RESCALE, **context, bits=VectorBits.BITS32, dest_kind=VectorDest.ROWS, dest_base=300,
                dest_stride=D // C,
            )  # fmt: skip
        p = machine.words(0, tokens * rows).reshape(tokens, -1)[:, :size].astype(np.int64)
        added = requant(p @ values[block].astype(np.int64), head.value_mult, head.value_shift, 16)
        old = machine.rows(300, tokens * D // C).reshape(tokens, D)
        machine.put(300, combine_add(old, 1, added, accumulate=first > 0))
    machine.vector(
        VectorOp.SCALE, **context, s_base=100, shift=head.context_shift, bits=VectorBits.BITS8,
        dest_kind=VectorDest.ACTIVATION, dest_tiers=1, dest_base=400, dest_stride=D // C,
    )  # fmt: skip
    return machine.words(400, tokens * D // C).reshape(tokens, D)


HEADS = (
    attention_head(D, HeadRanges(4.0, 4.0, 3.0, 2.0), DEFAULT_KEY_BLOCK),
    attention_head(D, HeadRanges(0.7, 0.5, 1.0, 1.0), DEFAULT_KEY_BLOCK),
)


@pytest.mark.parametrize("kind", ["normal", "extreme", "rising", "flat"])
@pytest.mark.parametrize(
    ("position", "tokens", "key_block"),
    [(0, 1, 16), (0, 17, 16), (14, 1, 16), (15, 1, 16), (16, 1, 16), (30, 9, 8), (100, 3, 40), (0, 20, 128)],
)
def test_attend(kind: str, position: int, tokens: int, key_block: int) -> None:
    rng = np.random.default_rng(position + tokens)
    count = position + tokens
    query, keys, values = (
        np.clip(rng.normal(size=shape) * 40, -128, 127).astype(np.int8)
        for shape in ((tokens, 4, D), (2, count, D), (2, count, D))
    )
    if kind == "extreme":
        query, keys, values = (rng.choice(np.array([-128, 127], np.int8), a.shape) for a in (query, keys, values))
    elif kind == "rising":  # every block has a new maximum, far above
        query[:] = 100
        keys[:] = np.linspace(-128, 127, count).astype(np.int8)[None, :, None]
    elif kind == "flat":
        keys[:], values[0], values[1] = 0, -128, 127
    found = attend(query, keys, values, position, HEADS, key_block)
    assert found.shape == (tokens, 4, D) and found.dtype == np.int8
    for number in range(4):
        head = number // 2
        expected = on_machine(query[:, number], keys[head], values[head], position, HEADS[head], key_block)
        np.testing.assert_array_equal(found[:, number], expected, err_msg=f"query head {number}")


@pytest.mark.parametrize("key_block", [8, 16, 128])
def test_attend_is_attention(key_block: int) -> None:
    rng = np.random.default_rng(5)
    query, key, value = rng.normal(size=(30, 2, D)), rng.normal(size=(1, 70, D)), rng.normal(size=(1, 70, D))
    ranges = HeadRanges(*(float(np.abs(a).max()) for a in (query, key, value, value)))
    largest = (ranges.query, ranges.key, ranges.value)
    arrays = zip((query, key, value), largest, strict=True)
    integers = [np.rint(array / most * 127).astype(np.int8) for array, most in arrays]
    found = attend(*integers, 40, (attention_head(D, ranges, DEFAULT_KEY_BLOCK),), key_block) * ranges.context / 127
    scores = np.einsum("thd,kd->thk", query, key[0]) / math.sqrt(D)
    scores = np.where(np.arange(70) <= 40 + np.arange(30)[:, None, None], scores, -np.inf)
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    expected = p / p.sum(axis=-1, keepdims=True) @ value[0]
    assert np.abs(found - expected).max() < 0.08
    assert np.sqrt(np.square(found - expected).mean()) < 0.02


@pytest.mark.parametrize("depth", [1, 1024, 1025, 1051, 5001])
def test_products_are_exact(depth: int) -> None:
    x = np.full((3, depth), -128, dtype=np.int8)
    x[1, ::2], x[2] = 127, 127
    w = np.full((3, depth), -128, dtype=np.int8)
    w[1], w[2, ::3] = 127, 1
    np.testing.assert_array_equal(product(x, w), x.astype(np.int64) @ w.T.astype(np.int64))
