# SPDX-License-Identifier: Apache-2.0
"""VECTOR in the executor: hand-computed cases, and the contract written out element by element."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest

from hdl.config import PRESETS, MachineConfig
from hdl.isa import Instruction, Limits, Opcode, VectorOp, check_instruction
from hdl.isa.asm import assemble
from hdl.numerics.vector import exp2_q15, recip, rsqrt
from sim.golden.executor import Executor
from sim.golden.order.vector_footprint import vector_conflict
from sim.golden.vector import VectorRangeError, execute_vector
from sim.golden.vector_nest import run_vector
from sim.stimulus.vector_streams import VectorDrawer

TINY = PRESETS["tiny"]
WIDE = TINY.replace(name="wide", tiers=3, rows=8, columns=4, row_fifo_depth=64)
CORNERS = [-(1 << 31), (1 << 31) - 1, -(1 << 23) - 1, 1 << 23, -32769, -32768, 32767, 32768, -1, 0, 1, 127, 128]


def machine(rows: list[list[int]], config: MachineConfig = TINY) -> Executor:
    """Return a machine with the first combine rows given, padded with zeros."""
    result = Executor(config)
    for number, values in enumerate(rows):
        result.combine[number, : len(values)] = values
    return result


def execute(state: Executor, line: str) -> None:
    (instruction,) = assemble(line)
    assert check_instruction(instruction, state.config, Limits.whole(state.config)) is None
    execute_vector(instruction, state.config, state.combine, state.scalars, state.activation)


def halves(state: Executor, scalar: int) -> tuple[int, int]:
    value = int(state.scalars[scalar])
    return value & 0xFFFF, value >> 16


def pack(low: int, high: int) -> int:
    return (low & 0xFFFF) | high << 16


@pytest.mark.parametrize("config", [PRESETS["nano"], TINY, WIDE], ids=lambda c: c.name)
def test_random_vectors_equal_the_contract_written_out(config: MachineConfig) -> None:
    rng, bits = random.Random(config.name), np.random.default_rng(1)
    state = Executor(config)
    shape = state.combine.shape
    seen = set()
    for number in range(500):
        wide = bits.integers(-(1 << 31), 1 << 31, shape)
        small = bits.integers(-40000, 40000, shape)
        corner = bits.choice(np.array(CORNERS), shape)
        kind = bits.random(shape)
        state.combine[:] = np.where(kind < 0.2, corner, np.where(kind < 0.5, wide, small))
        state.scalars[:] = bits.integers(0, 1 << 32, state.scalars.shape)
        # Half of the scalars' high parts are small, so that GATHER finds indices, and one in four has a real E.
        small_index = bits.random(state.scalars.shape) < 0.5
        state.scalars[small_index] &= 0x7_FFFF
        vector = VectorDrawer(config, rng, state, config.activation_words, shape[0]).draw()
        seen.add(VectorOp(vector["op"]))
        reference = copy.deepcopy(state)
        run_vector(reference, vector)
        execute_vector(vector, config, state.combine, state.scalars, state.activation)
        for name in ("combine", "scalars", "activation"):
            np.testing.assert_array_equal(
                getattr(state, name), getattr(reference, name), err_msg=f"{number}: {name}: {vector}"
            )
    assert seen == set(VectorOp)


def test_map_rounds_saturates_and_masks() -> None:
    state = machine([[5, -5, 6, -6, 7, 300, -300, 1 << 30]])
    execute(state, "vector vectors=1 rows=1 dest_kind=rows dest=1 mult=1 shift=1 bits=bits8")
    assert list(state.combine[1]) == [3, -2, 3, -3, 4, 127, -128, 127]
    execute(state, "vector vectors=1 rows=1 dest_kind=rows dest=1 mult=1 bits=bits32 masked=1 length=3")
    assert list(state.combine[1]) == [5, -5, 6, 0, 0, 0, 0, 0]
    # in_shift first, then 24 bits: 2**30 becomes 2**23 - 1, and -300 / 2 rounds up.
    execute(state, "vector vectors=1 rows=1 dest_kind=rows dest=1 mult=2 in_shift=1 bits=bits32")
    assert list(state.combine[1]) == [6, -4, 6, -6, 8, 300, -300, (1 << 24) - 2]
    # The largest shift: nothing is left of any product.
    execute(state, "vector vectors=1 rows=1 dest_kind=rows dest=1 mult=65535 shift=63 bits=bits32")
    assert not state.combine[1].any()


def test_sums_start_go_on_and_wrap() -> None:
    state = machine([[1, 2, 3, 4, -5], [10, 20]])
    line = "vector sum=sum vectors=2 rows=1 a_stride=1 mult=1 bits=bits32 d_scalar=3"
    execute(state, line + " first=1")
    assert list(state.scalars[3:5]) == [5, 30]
    execute(state, line)
    assert list(state.scalars[3:5]) == [10, 60]
    state.combine[0, :5] = [-100, 0, 0, 0, 0]
    execute(state, line)
    assert list(state.scalars[3:5]) == [(1 << 32) - 90, 90]
    # The sum is of what is written: saturated results of valid elements.
    state.combine[0] = 1000
    execute(state, "vector sum=sum vectors=1 rows=1 mult=1 bits=bits8 first=1 masked=1 length=3 d_scalar=0")
    assert state.scalars[0] == 3 * 127


def test_the_reciprocal_of_a_sum_is_scaled() -> None:
    state = machine([[3, 4, 5]])
    execute(state, "vector sum=sum_recip first=1 vectors=1 rows=1 mult=1 bits=bits32 d_scalar=7 imm=32768")
    mantissa, exponent = recip(12)
    assert halves(state, 7) == (int(mantissa), int(exponent))
    assert abs(halves(state, 7)[0] * 2.0 ** -halves(state, 7)[1] * 12 - 1) < 1e-3
    execute(state, "vector sum=sum_recip first=1 vectors=1 rows=1 mult=1 bits=bits32 d_scalar=7 imm=16384")
    assert abs(halves(state, 7)[0] * 2.0 ** -halves(state, 7)[1] * 24 - 1) < 1e-3
    # Nothing to add up counts as 1.
    empty = "vector sum=sum_recip first=1 vectors=1 rows=1 mult=1 masked=1 d_scalar=7 imm=32768"
    execute(state, empty)
    assert halves(state, 7) == tuple(int(v) for v in recip(1))


def test_a_running_softmax_equals_one_in_a_piece() -> None:
    """MAX, EXP2 with SUM and RESCALE over two blocks against the same over both at once."""
    scores = np.random.default_rng(3).integers(-3000, 3000, 16)
    state = machine([list(scores[:8]), list(scores[8:])])
    block = "vectors=1 rows=1 s=0 d_scalar={} first={} a={}"
    for number, first in ((0, 1), (1, 0)):
        execute(state, "vector op=max " + block.format(0, first, number))
        execute(state, "vector fn=exp2 sum=sum bits=bits16 mult=32767 shift=15 " + block.format(1, first, number))
    exact = np.sum(2.0 ** ((scores - scores.max()) / 512)) * 32767
    assert abs(int(state.scalars[1]) / exact - 1) < 2e-3
    low, high = halves(state, 0)
    assert low == int(scores.max()) & 0xFFFF
    assert high == int(exp2_q15(scores[:8].max() - scores.max()))
    # Rows that were made with the old maximum are brought to the new one by the same correction.
    state.combine[5] = 1000
    execute(state, "vector op=rescale vectors=1 rows=1 a=5 dest_kind=rows dest=5 bits=bits32")
    assert state.combine[5, 0] == (1000 * high + (1 << 14)) >> 15


def test_max_of_nothing() -> None:
    state = machine([[5, 6]])
    execute(state, "vector op=max first=1 vectors=1 rows=1 masked=1 length=-3")
    assert halves(state, 0) == (0x8000, 0)
    state.scalars[0] = pack(7, 123)
    execute(state, "vector op=max vectors=1 rows=1 masked=1")
    assert halves(state, 0) == (7, 32768)  # the maximum stays, and with it everything made with it
    execute(state, "vector op=max vectors=1 rows=1")
    assert halves(state, 0) == (7, 32768)


def test_lengths_grow_by_one_vector() -> None:
    """The mask of causal attention: query t sees one key more than query t - 1."""
    state = machine([[1] * 8] * 12)
    line = "vector sum=sum first=1 vectors=6 rows=2 a_stride=2 mult=1 bits=bits32 masked=1 length={} length_step={}"
    execute(state, line.format(-2, 1))
    assert list(state.scalars[:6]) == [0, 0, 0, 1, 2, 3]
    execute(state, line.format(14, 1))
    assert list(state.scalars[:6]) == [14, 15, 16, 16, 16, 16]
    execute(state, line.format(9, 0))
    assert list(state.scalars[:6]) == [9] * 6
    execute(state, line.format(32767, 1))
    assert list(state.scalars[:6]) == [16] * 6


def test_sumsq_and_scale_normalise() -> None:
    rows = np.random.default_rng(5).integers(-30000, 30000, (2, 8))
    state = machine([list(r) for r in rows])
    execute(state, "vector op=sumsq vectors=1 rows=2 mult=32768 imm=5 shift=4")
    total = int((rows.astype(np.int64) ** 2).sum()) + 80
    assert halves(state, 0) == tuple(int(v) for v in rsqrt(total))
    # x / root of the sum of squares, times 2**12.
    execute(state, "vector op=scale vectors=1 rows=2 dest_kind=rows dest=4 bits=bits16 shift=20")
    np.testing.assert_allclose(state.combine[4:6], rows / np.sqrt(total) * 4096, atol=2)


@pytest.mark.parametrize(("exponent", "shift", "right"), [(40, 15, 23), (16, 16, 0), (0, 0, 0), (63, 63, 47)])
def test_scale_clamps_its_shift(exponent: int, shift: int, right: int) -> None:
    state = machine([[-(1 << 31), (1 << 31) - 1, 3, -3]])
    state.scalars[0] = pack(65535, exponent | 0x3C0)  # bits above E do not count
    execute(state, f"vector op=scale vectors=1 rows=1 dest_kind=rows dest=1 bits=bits32 shift={shift}")
    for lane, x in enumerate((-(1 << 23), (1 << 23) - 1, 3, -3)):
        value = x * 65535
        value = value + (1 << right - 1) >> right if right else value
        assert state.combine[1, lane] == max(-(1 << 31), min((1 << 31) - 1, value))


def test_rotate_turns_pairs() -> None:
    state = machine([[100, 200, -32768, -32768, 1, 0, 0, 1], [16384, 0, 0, 16384], [0, 0], [0, 0]])
    state.combine[1] = [0, 0, -32768, -32768, 16384, 16384, 16384, 16384]
    state.combine[2] = [-16384, 16384, -32768, -32768, 0, 0, 0, 0]
    execute(state, "vector op=rotate vectors=1 rows=1 b=1 b_rows=1 dest_kind=rows dest=4 bits=bits16 shift=14")
    # A quarter turn; the largest sum of products; no turn.
    assert list(state.combine[4]) == [-200, 100, 32767, 32767, 1, 0, 0, 1]
    # Operand B's values are its low 16 bits.
    state.combine[1] += 5 << 16
    execute(state, "vector op=rotate vectors=1 rows=1 b=1 b_rows=1 dest_kind=rows dest=5 bits=bits16 shift=14")
    np.testing.assert_array_equal(state.combine[5], state.combine[4])


def test_operand_b_repeats_within_a_vector() -> None:
    state = machine([[1] * 8] * 4 + [[10] * 8, [20] * 8])
    execute(state, "vector op=mul vectors=1 rows=4 b=4 b_rows=2 dest_kind=rows dest=0 bits=bits32")
    assert [int(r[0]) for r in state.combine[:4]] == [10, 20, 10, 20]
    execute(state, "vector op=add vectors=2 rows=2 a_stride=2 b=4 b_rows=1 b_stride=1 mult=3 dest_kind=rows dest=8 "
                   "dest_stride=2 bits=bits32 masked=1 length=9")  # fmt: skip
    assert [int(r[0]) for r in state.combine[8:12]] == [40, 70, 50, 80]
    assert list(state.combine[9]) == [70, 0, 0, 0, 0, 0, 0, 0]
    # The sum is saturated, operand B is not rounded first.
    state.combine[4] = (1 << 31) - 1
    execute(state, "vector op=add vectors=1 rows=1 b=4 b_rows=1 mult=1 dest_kind=rows dest=8 bits=bits32")
    assert (state.combine[8] == (1 << 31) - 1).all()


def test_argmax_goes_through_equal_values_in_order() -> None:
    state = machine([[5, 9, -2, 9, 9, 5, -32768, -40000]])
    line = "vector op=argmax vectors=1 rows=1 first={} s=0 d_scalar=0"
    chosen = []
    for step in range(10):
        execute(state, line.format(int(step == 0)))
        chosen.append(halves(state, 0))
    none = (0x8000, 65535)
    assert chosen == [
        (9, 1), (9, 3), (9, 4), (5, 0), (5, 5), (0xFFFE, 2), (0x8000, 6), (0x8000, 7), none, none,
    ]  # fmt: skip
    state.scalars[0] = pack(9, 1)
    execute(state, "vector op=argmax vectors=1 rows=1 d_scalar=3 masked=1 length=4")
    assert halves(state, 3) == (9, 3)


def test_top_k_is_gathered() -> None:
    """What the router does: three choices for each of two tokens, then their values side by side."""
    state = machine([[1, 8, 3, 9, 2, 2, 0, 5], [40, 1, 2, 3, 4, 60, 6, 50]])
    for k in range(3):
        execute(state, f"vector op=argmax vectors=2 rows=1 a_stride=1 first={int(k == 0)} s={2 * (k - 1) if k else 0} "
                       f"d_scalar={2 * k}")  # fmt: skip
    execute(state, "vector op=gather vectors=2 rows=1 a_stride=1 length=3 s=0 dest_kind=rows dest=4 dest_stride=1 "
                   "bits=bits16")  # fmt: skip
    assert list(state.combine[4]) == [9, 8, 5, 0, 0, 0, 0, 0]
    assert list(state.combine[5]) == [60, 50, 40, 0, 0, 0, 0, 0]


def test_activations_get_their_bytes_only() -> None:
    state = machine([[n + 1] * 4 for n in range(3)], WIDE)
    state.activation[:] = 99
    execute(state, "vector vectors=1 rows=3 mult=1 dest_kind=activation dest_tiers=0,2 dest=6")
    assert list(state.activation[0, 6]) == [1] * 4 + [2] * 4 and list(state.activation[2, 7]) == [3] * 4 + [99] * 4
    assert (state.activation[1] == 99).all() and (state.activation == 99).sum() == state.activation.size - 24


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("vector vectors=1 rows=1 a=512 dest_kind=rows", "VECTOR.a_base: combine rows up to 512"),
        ("vector vectors=2 rows=1 dest=511 dest_stride=1 dest_kind=rows", "VECTOR.dest_base: combine rows up to 512"),
        ("vector op=scale vectors=2 rows=1 s=255 dest_kind=rows dest=9 dest_stride=1", "VECTOR.s_base: scalars up to"),
        ("vector op=gather vectors=1 rows=2 length=1 dest_kind=rows dest=9", "element 16 is chosen; a vector has 16"),
    ],
)
def test_ranges(line: str, message: str) -> None:
    state = machine([[1, 2, 3]])
    state.scalars[0] = pack(0, 16)
    before = copy.deepcopy(state)
    with pytest.raises(VectorRangeError, match=message):
        execute_vector(assemble(line)[0], TINY, state.combine, state.scalars, state.activation)
    for name in ("combine", "scalars", "activation"):
        np.testing.assert_array_equal(getattr(state, name), getattr(before, name))


def test_the_largest_index() -> None:
    """ARGMAX and GATHER name every element of the longest vector that they take."""
    config = PRESETS["large"]
    state = Executor(config)
    rows = 511
    state.combine[:rows] = -5
    state.combine[rows - 1, -1] = -4
    line = f"vector op=argmax first=1 vectors=1 rows={rows}"
    execute_vector(assemble(line)[0], config, state.combine, state.scalars, state.activation)
    assert halves(state, 0) == (0xFFFC, rows * 128 - 1)
    line = f"vector op=gather vectors=1 rows={rows} length=1 dest_kind=rows dest=600 bits=bits16"
    execute_vector(assemble(line)[0], config, state.combine, state.scalars, state.activation)
    assert list(state.combine[600, :2]) == [-4, 0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("dest_kind=rows vectors=2 rows=2 a_stride=2 dest=1 dest_stride=2", "other than in place"),
        ("dest_kind=rows vectors=2 rows=2 a_stride=1 dest_stride=1", "two of its rows overwrite"),
        ("dest_kind=rows vectors=2 rows=2 a_stride=2 dest=8", "two of its rows overwrite"),
        ("dest_kind=activation dest_tiers=0 vectors=2 rows=2 a_stride=2 dest=8", "same activation cell"),
        ("op=mul b_rows=1 b=3 dest_kind=rows vectors=2 rows=2 a_stride=2 dest_stride=2", "rows of its operand B"),
        ("op=rotate b_rows=1 b=3 dest_kind=rows vectors=1 rows=1 a=9 dest=4", "rows of its operand B"),
        ("op=max vectors=2 rows=1 s=1 d_scalar=0", "scalars that it also reads"),
        ("fn=exp2 sum=sum vectors=2 rows=1 s=1 d_scalar=1", "scalars that it also reads"),
        ("op=gather length=1 vectors=3 rows=2 a_stride=1 dest_stride=1 dest_kind=rows", "other than in place"),
        ("dest_kind=rows vectors=2 rows=2 a_stride=2 dest_stride=2", None),
        ("dest_kind=rows vectors=2 rows=2 a_stride=2 dest=4 dest_stride=2", None),
        ("op=max vectors=2 rows=1 s=1 d_scalar=1", None),
        ("op=max first=1 vectors=2 rows=1 s=1 d_scalar=0", None),
        ("fn=exp2 sum=sum vectors=2 rows=1 s=1 d_scalar=3", None),
        ("op=gather length=1 vectors=3 rows=1 a_stride=1 dest_stride=1 dest_kind=rows", None),
    ],
)
def test_what_disturbs_itself(line: str, message: str | None) -> None:
    (vector,) = assemble("vector " + line)
    assert isinstance(vector, Instruction) and vector.opcode == Opcode.VECTOR
    assert check_instruction(vector, TINY, Limits.whole(TINY)) is None
    found = vector_conflict(vector, TINY)
    assert found is None if message is None else found is not None and message in found
