# SPDX-License-Identifier: Apache-2.0
"""What a VECTOR instruction does to combine rows, scalars and activation buffers, in NumPy (``docs/vector.md``)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hdl.config import MachineConfig
from hdl.errors import A3dError
from hdl.isa import Instruction, VectorBits, VectorDest, VectorFn, VectorOp, VectorSum
from hdl.isa.legality import tiers_of_mask
from hdl.isa.vector_access import a_rows, b_rows, c_rows, dest_bytes, dest_rows, lengths, scalar_span
from hdl.isa.vector_legality import check_vector_ranges
from hdl.numerics import round_shift, saturate, sigmoid_q16
from hdl.numerics.vector import (
    exp2_q15,
    float_scale,
    pack_choice,
    pack_float,
    pack_maxcorr,
    recip,
    rsqrt,
    unpack_choice,
    unpack_float,
    unpack_maxcorr,
)

__all__ = ["VectorRangeError", "execute_vector"]

Int = npt.NDArray[np.int64]

_BITS = {VectorBits.BITS8: 8, VectorBits.BITS16: 16, VectorBits.BITS32: 32}
_LOWEST = -32768
_NO_INDEX = 65535
_SUMSQ_BITS = 48


class VectorRangeError(A3dError):
    """A VECTOR instruction uses an address outside its memory, or GATHER an element outside its vector."""


@dataclass(frozen=True)
class _Operands:
    """What all operations share: the instruction, rows of A [vectors, rows, C], valid elements or None for all."""

    instruction: Instruction
    config: MachineConfig
    combine: npt.NDArray[np.int32]
    scalars: npt.NDArray[np.uint32]
    a: Int
    valid: npt.NDArray[np.bool_] | None

    def x(self, bits: int) -> Int:
        """Return operand A after the rounding shift, saturated."""
        shift = self.instruction["in_shift"]
        return saturate(round_shift(self.a, shift) if shift else self.a, bits)

    def mask(self, values: Int, fill: int) -> Int:
        """Return `values` with `fill` in the elements that are not valid."""
        return values if self.valid is None else np.where(self.valid, values, fill)

    def scalar(self) -> npt.NDArray[np.uint32]:
        """Return the scalars from ``s_base``, as many as the operation reads."""
        base = self.instruction["s_base"]
        return self.scalars[base : base + scalar_span(self.instruction)]

    def b(self) -> Int:
        """Return operand B as int32 values [vectors, rows, C]."""
        return self.combine[b_rows(self.instruction)].astype(np.int64)


def execute_vector(
    instruction: Instruction,
    config: MachineConfig,
    combine: npt.NDArray[np.int32],
    scalars: npt.NDArray[np.uint32],
    activation: npt.NDArray[np.int8],
) -> None:
    """Execute a VECTOR instruction, in place.

    Parameters
    ----------
    instruction : Instruction
        A VECTOR whose fields are legal.
    config : MachineConfig
        The machine.
    combine : int32 array [combine_rows, columns]
        Combine buffer.
    scalars : uint32 array [scalar_depth]
        The unit's scalars.
    activation : int8 array [tiers, activation_words, rows]
        Activation buffers.

    Raises
    ------
    VectorRangeError
        An address beyond its memory, or an index of GATHER outside the vector. Nothing has changed then.
    """
    wrong = check_vector_ranges(instruction, config)
    if wrong is not None:
        raise VectorRangeError(wrong.message)
    a = combine[a_rows(instruction)].astype(np.int64)
    valid = None
    if instruction["masked"]:
        element = np.arange(a.shape[1] * a.shape[2]).reshape(a.shape[1:])
        valid = element < lengths(instruction, config)[:, None, None]
    operands = _Operands(instruction, config, combine, scalars, a, valid)
    op = VectorOp(instruction["op"])
    if op == VectorOp.GATHER:
        result = _gather(operands)
    elif op in (VectorOp.MAX, VectorOp.SUMSQ, VectorOp.ARGMAX):
        made = {VectorOp.MAX: _max, VectorOp.SUMSQ: _sumsq, VectorOp.ARGMAX: _argmax}[op](operands)
        _put_scalars(operands, made)
        return
    elif op == VectorOp.MAP:
        result = operands.mask(saturate(_map(operands), _BITS[VectorBits(instruction["bits"])]), 0)
        if instruction["sum"] != VectorSum.NONE:
            _put_scalars(operands, _sum(operands, result))
    else:
        result = operands.mask(_elementwise(operands, op), 0)
    _deliver(operands, saturate(result, _BITS[VectorBits(instruction["bits"])]), activation)


def _put_scalars(operands: _Operands, made: npt.NDArray[np.uint32]) -> None:
    base = operands.instruction["d_scalar"]
    operands.scalars[base : base + made.size] = made


def _map(operands: _Operands) -> Int:
    """Return MAP's elements before saturation."""
    i = operands.instruction
    if i["fn"] == VectorFn.EXP2:
        highest, _ = unpack_maxcorr(operands.scalar())
        value = exp2_q15(operands.x(16) - highest[:, None, None])
    elif i["fn"] == VectorFn.SIGMOID:
        value = sigmoid_q16(operands.x(16))
    else:
        value = operands.x(24)
    return round_shift(value * i["mult"], i["shift"])


def _sum(operands: _Operands, result: Int) -> npt.NDArray[np.uint32]:
    """Return what MAP with a sum writes; `result` has 0 in invalid elements."""
    i = operands.instruction
    total = result.sum(axis=(1, 2))
    if not i["first"]:
        old = operands.scalars[i["d_scalar"] : i["d_scalar"] + i["vectors"]].astype(np.int64)
        if i["fn"] == VectorFn.EXP2:
            _, factor = unpack_maxcorr(operands.scalar())
            old = round_shift(old * factor, 15)
        total = total + old
    total &= (1 << 32) - 1
    if i["sum"] == VectorSum.SUM:
        wrapped: npt.NDArray[np.uint32] = total.astype(np.uint32)
        return wrapped
    mantissa, exponent = recip(total)
    return pack_float(*float_scale(mantissa, exponent, i["imm"]))


def _elementwise(operands: _Operands, op: VectorOp) -> Int:
    """Return SCALE's, RESCALE's, MUL's, ROTATE's or ADD's elements before saturation."""
    i = operands.instruction
    if op == VectorOp.SCALE:
        mantissa, exponent = unpack_float(operands.scalar())
        shift = np.clip(exponent + i["shift"] - 32, 0, 47)
        return round_shift(operands.x(24) * mantissa[:, None, None], shift[:, None, None])
    if op == VectorOp.RESCALE:
        _, factor = unpack_maxcorr(operands.scalar())
        return round_shift(operands.x(24) * factor[:, None, None], 15)
    if op == VectorOp.ADD:
        return round_shift(operands.x(24) * i["mult"], i["shift"]) + operands.b()
    x = operands.x(16)
    product = x * _low16(operands.b())
    if op == VectorOp.ROTATE:
        swapped = x.reshape(*x.shape[:2], -1, 2)[..., ::-1].reshape(x.shape)
        product = product + swapped * _low16(operands.combine[c_rows(i)].astype(np.int64))
    return round_shift(product, i["shift"])


def _low16(value: Int) -> Int:
    low: Int = ((value & 0xFFFF) ^ 0x8000) - 0x8000
    return low


def _max(operands: _Operands) -> npt.NDArray[np.uint32]:
    highest = operands.mask(operands.x(16), _LOWEST).max(axis=(1, 2))
    if operands.instruction["first"]:
        return pack_maxcorr(highest, np.zeros_like(highest))
    old, _ = unpack_maxcorr(operands.scalar())
    highest = np.maximum(highest, old)
    return pack_maxcorr(highest, exp2_q15(old - highest))


def _sumsq(operands: _Operands) -> npt.NDArray[np.uint32]:
    i = operands.instruction
    x = operands.mask(operands.x(16), 0)
    below = (1 << _SUMSQ_BITS) - 1
    total = (x * x).sum(axis=(1, 2)) + (i["imm"] << i["shift"] & below) & below
    mantissa, exponent = rsqrt(total)
    return pack_float(*float_scale(mantissa, exponent, i["mult"]))


def _argmax(operands: _Operands) -> npt.NDArray[np.uint32]:
    x = operands.x(16).reshape(operands.instruction["vectors"], -1)
    index = np.arange(x.shape[1])
    left = np.ones(x.shape, dtype=bool) if operands.valid is None else operands.valid.reshape(x.shape)
    if not operands.instruction["first"]:
        value, place = (v[:, None] for v in unpack_choice(operands.scalar()))
        left = left & ((x < value) | ((x == value) & (index > place)))
    # The lowest 17 bits count down with the index, so that the first of equal values wins.
    order = np.where(left, (x << 17) + (1 << 17) - 1 - index, (_LOWEST << 17) - 1)
    best = order.argmax(axis=1)
    some = left.any(axis=1)
    value = np.where(some, x[np.arange(len(x)), best], _LOWEST)
    return pack_choice(value, np.where(some, best, _NO_INDEX))


def _gather(operands: _Operands) -> Int:
    """Return GATHER's rows [vectors, 1, C]."""
    i, columns = operands.instruction, operands.config.columns
    x = operands.x(16).reshape(i["vectors"], -1)
    _, index = unpack_choice(operands.scalar())
    index = index.reshape(i["length"], i["vectors"]).T
    if index.max() >= x.shape[1]:
        text = f"element {index.max()} is chosen; a vector has {x.shape[1]} (0 to {x.shape[1] - 1})"
        raise VectorRangeError(f"VECTOR.s_base: {text}")
    result = np.zeros((i["vectors"], 1, columns), dtype=np.int64)
    result[:, 0, : i["length"]] = np.take_along_axis(x, index, axis=1)
    return result


def _deliver(operands: _Operands, result: Int, activation: npt.NDArray[np.int8]) -> None:
    """Write saturated result rows [vectors, rows, C]."""
    i = operands.instruction
    if i["dest_kind"] == VectorDest.ROWS:
        operands.combine[dest_rows(i)] = result
    elif i["dest_kind"] == VectorDest.ACTIVATION:
        words, lanes = dest_bytes(i, operands.config)
        for tier in tiers_of_mask(i["dest_tiers"]):
            activation[tier, words, lanes] = result
