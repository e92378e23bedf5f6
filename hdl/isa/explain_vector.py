# SPDX-License-Identifier: Apache-2.0
"""Says in plain words what a VECTOR instruction does."""

from __future__ import annotations

from hdl.config import MachineConfig
from hdl.isa import Instruction, VectorBits, VectorDest, VectorFn, VectorOp, VectorSum
from hdl.isa.explain_words import count_of, span_of, tiers_text
from hdl.isa.legality import tiers_of_mask
from hdl.isa.vector_access import has_sum, reads_scalar, scalar_span, writes_scalar

__all__ = ["describe_vector"]

_FUNCTIONS = {
    VectorFn.IDENTITY: "scales",
    VectorFn.EXP2: "takes powers of two of",
    VectorFn.SIGMOID: "takes sigmoids of",
}

_WORK = {
    VectorOp.SCALE: "multiplies by a scalar",
    VectorOp.RESCALE: "multiplies by the maximum's correction",
    VectorOp.MUL: "multiplies by operand B",
    VectorOp.ROTATE: "rotates pairs of elements of",
    VectorOp.ADD: "scales and adds operand B to",
    VectorOp.MAX: "takes the running maximum of",
    VectorOp.SUMSQ: "takes one over the root of the sum of squares of",
    VectorOp.ARGMAX: "takes the next largest element of",
    VectorOp.GATHER: "gathers chosen elements of",
}


def _rows(base: int, stride: int, instruction: Instruction, per_vector: int) -> str:
    """Return the rows of all vectors, or of the first and the distance to the next."""
    vectors = instruction["vectors"]
    if vectors == 1 or stride == per_vector:
        return span_of(base, vectors * per_vector)
    return f"{span_of(base, per_vector)} and every {stride} on" if stride else f"{span_of(base, per_vector)}, always"


def _valid(instruction: Instruction) -> str:
    if instruction["op"] == VectorOp.GATHER or not instruction["masked"]:
        return ""
    signed = instruction["length"] - (instruction["length"] >> 15 << 16)
    more = ", one more for each vector" if instruction["length_step"] else ""
    return f", the first {signed} elements{more}"


def _shifts(instruction: Instruction) -> str:
    op = instruction["op"]
    parts = [f"shifted right by {instruction['in_shift']}"] if instruction["in_shift"] else []
    if op in (VectorOp.MAP, VectorOp.ADD):
        parts.append(f"times {instruction['mult']} / 2**{instruction['shift']}")
    elif op in (VectorOp.MUL, VectorOp.ROTATE, VectorOp.SCALE):
        parts.append(f"result shift {instruction['shift']}")
    elif op == VectorOp.SUMSQ:
        parts.append(f"plus {instruction['imm'] << instruction['shift']:,}, times {instruction['mult']} / 2**15")
    return ", " + ", ".join(parts) if parts else ""


def describe_vector(instruction: Instruction, config: MachineConfig) -> str:
    """Return one sentence, without semaphores, on what a VECTOR does."""
    i, op = instruction, VectorOp(instruction["op"])
    work = _FUNCTIONS[VectorFn(i["fn"])] if op == VectorOp.MAP else _WORK[op]
    text = f"{work} {count_of(i['vectors'], 'vector')} of {count_of(i['rows'], 'row')}"
    text += f" (combine rows {_rows(i['a_base'], i['a_stride'], i, i['rows'])}{_valid(i)}{_shifts(i)})"
    if op in (VectorOp.MUL, VectorOp.ROTATE, VectorOp.ADD):
        tables = 2 if op == VectorOp.ROTATE else 1
        text += f" with rows {_rows(i['b_base'], i['b_stride'], i, tables * i['b_rows'])}"
    if reads_scalar(i):
        text += f", reading scalars {span_of(i['s_base'], scalar_span(i))}"
    if i["dest_kind"] != VectorDest.NONE:
        bits = VectorBits(i["bits"]).name.replace("BITS", "int")
        text += f", into {bits} " + _destination(i, config)
    if writes_scalar(i):
        what = "scalars"
        if has_sum(i):
            what = "sums" if i["sum"] == VectorSum.SUM else "reciprocal sums"
        how = ", starting afresh" if i["first"] and op != VectorOp.SUMSQ else ""
        text += f"; {what} into {span_of(i['d_scalar'], i['vectors'])}{how}"
    return text


def _destination(instruction: Instruction, config: MachineConfig) -> str:
    i = instruction
    if i["dest_kind"] == VectorDest.ROWS:
        per_vector = 1 if i["op"] == VectorOp.GATHER else i["rows"]
        return f"rows {_rows(i['dest_base'], i['dest_stride'], i, per_vector)}"
    words = -(-i["rows"] * config.columns // config.rows)
    tiers = tiers_text(tiers_of_mask(i["dest_tiers"]))
    return f"activation words {_rows(i['dest_base'], i['dest_stride'], i, words)} of {tiers}"
