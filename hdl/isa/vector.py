# SPDX-License-Identifier: Apache-2.0
"""VECTOR: elementwise operations and reductions on rows of the combine buffer (``docs/vector.md``, section 2).

The addresses are stated here once; executor, verifier and stream generators take them from here. The dispatcher finds
every field violation before the instruction has any effect. All RANGE checks are the vector unit's, which makes each
when it uses the address; the highest address of an operand is the last vector's, so that what is stated here over whole
operands is what the unit reports. GATHER's indices are known only when it runs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hdl.config import MachineConfig
from hdl.isa.checks import Limits, Violation, field_violation, memory_violation
from hdl.isa.description import OpcodeDescription, Work
from hdl.isa.fields import Field, Instruction, Opcode, tiers_of_mask
from hdl.isa.memories import Access, Memory
from hdl.isa.queues import VECTOR_QUEUE
from hdl.isa.vector_operations import (
    VECTOR_OPERATIONS,
    ScalarRead,
    VectorBits,
    VectorDest,
    VectorFn,
    VectorOp,
    VectorSum,
)
from hdl.isa.words import count_of, span_of, tiers_text

__all__ = [
    "INDEX_LIMIT", "VECTOR", "a_rows", "b_rows", "c_rows", "check_vector_fields", "check_vector_ranges", "dest_bytes",
    "dest_rows", "has_sum", "lengths", "reads_scalar", "row_count", "scalar_span", "scalars_read", "scalars_written",
    "writes_scalar",
]  # fmt: skip

Int = npt.NDArray[np.int64]

INDEX_LIMIT = 1 << 16
"""Elements of the longest vector whose elements ARGMAX and GATHER can name."""

_PERIODS = (1, 2, 4, 8)
"""Values of ``b_rows``: powers of two, so that the RTL can test divisibility."""

_BODY = (
    Field("op", 4, "operation", VectorOp),
    Field("fn", 2, "MAP: function of the elements", VectorFn),
    Field("sum", 2, "MAP: what is done with the sum of the results", VectorSum),
    Field("first", 1, "MAX, MAP with a sum, ARGMAX: 1 = start the recurrence, do not read what came before"),
    Field("vectors", 10, "vectors, 1 or more"),
    Field("rows", 9, "combine rows of a vector, 1 or more"),
    Field("a_base", 16, "first row of operand A"),
    Field("a_stride", 10, "rows of operand A from one vector to the next"),
    Field("b_base", 16, "first row of operand B (MUL, ROTATE, ADD)"),
    Field("b_stride", 10, "rows of operand B from one vector to the next"),
    Field("b_rows", 4, "period of operand B in rows; divides `rows` (ROTATE: its second table follows)"),
    Field("s_base", 12, "scalar of vector 0 that is read"),
    Field("d_scalar", 12, "scalar of vector 0 that is written"),
    Field("dest_kind", 2, "where result rows go", VectorDest),
    Field("dest_tiers", 8, "ACTIVATION: tier mask, at least one bit", form="tiers"),
    Field("dest_base", 16, "first activation word / combine row"),
    Field("dest_stride", 10, "words / rows from one vector to the next"),
    Field("in_shift", 5, "rounding right shift of operand A"),
    Field("mult", 16, "multiplier, 0 to 65535"),
    Field("shift", 6, "right shift of the result, 0 to 63"),
    Field("bits", 2, "width of the results", VectorBits),
    Field("masked", 1, "1 = only the first elements of a vector are valid"),
    Field("length", 16, "masked: valid elements of vector 0 (signed); GATHER: elements, 1 to columns", form="signed"),
    Field("length_step", 1, "masked: 1 = each vector has one valid element more than the one before"),
    Field("imm", 16, "SUMSQ: added to the sum, shifted left by `shift`"),
)


# What it reads and writes.


def has_sum(instruction: Instruction) -> bool:
    """Return whether the instruction is a MAP that writes the sum of its results, or its reciprocal."""
    return instruction["op"] == VectorOp.MAP and instruction["sum"] != VectorSum.NONE


def reads_scalar(instruction: Instruction) -> bool:
    """Return whether the scalars from ``s_base`` are read."""
    return {
        ScalarRead.NEVER: False,
        ScalarRead.ALWAYS: True,
        ScalarRead.UNLESS_FIRST: not instruction["first"],
        ScalarRead.WITH_EXP2: instruction["fn"] == VectorFn.EXP2,
    }[VECTOR_OPERATIONS[VectorOp(instruction["op"])].reads_scalar]


def writes_scalar(instruction: Instruction) -> bool:
    """Return whether the scalars from ``d_scalar`` are written."""
    return not VECTOR_OPERATIONS[VectorOp(instruction["op"])].makes_rows or has_sum(instruction)


def row_count(instruction: Instruction) -> int:
    """Return the rows of operand A that the unit takes in: one cycle each (GATHER: one for each lane it fills).

    Of a ROUTE: the rows of gates.
    """
    if instruction.opcode == Opcode.ROUTE:
        return instruction["tokens"]
    per_vector = instruction["length"] if instruction["op"] == VectorOp.GATHER else instruction["rows"]
    return instruction["vectors"] * per_vector


def lengths(instruction: Instruction, config: MachineConfig) -> Int:
    """Return the valid elements of each vector, 0 to ``rows * columns``: shape [vectors]."""
    whole, vectors = instruction["rows"] * config.columns, np.arange(instruction["vectors"])
    if not instruction["masked"]:
        return np.full(vectors.shape, whole, dtype=np.int64)
    valid: Int = np.clip(_signed_length(instruction) + vectors * instruction["length_step"], 0, whole)
    return valid


def _signed_length(instruction: Instruction) -> int:
    return instruction["length"] - (instruction["length"] >> 15 << 16)


def _rows(base: int, instruction: Instruction, stride: int, offsets: Int) -> Int:
    """Return the words of all vectors: shape [vectors, len(offsets)]."""
    words: Int = base + np.arange(instruction["vectors"])[:, None] * stride + offsets
    return words


def a_rows(instruction: Instruction) -> Int:
    """Return the combine rows of operand A: shape [vectors, rows]."""
    return _rows(instruction["a_base"], instruction, instruction["a_stride"], np.arange(instruction["rows"]))


def b_rows(instruction: Instruction) -> Int:
    """Return the combine rows of operand B (ROTATE: of the first table): shape [vectors, rows]."""
    offsets = np.arange(instruction["rows"]) % instruction["b_rows"]
    return _rows(instruction["b_base"], instruction, instruction["b_stride"], offsets)


def c_rows(instruction: Instruction) -> Int:
    """Return the combine rows of ROTATE's second table: shape [vectors, rows]."""
    return b_rows(instruction) + instruction["b_rows"]


def _rows_made(instruction: Instruction) -> int:
    """Return the result rows of a vector."""
    return 1 if instruction["op"] == VectorOp.GATHER else instruction["rows"]


def dest_rows(instruction: Instruction) -> Int:
    """Return the combine rows that are written, with dest_kind ROWS: shape [vectors, rows] (GATHER: [vectors, 1])."""
    offsets = np.arange(_rows_made(instruction))
    return _rows(instruction["dest_base"], instruction, instruction["dest_stride"], offsets)


def dest_bytes(instruction: Instruction, config: MachineConfig) -> tuple[Int, Int]:
    """Return where result rows go with dest_kind ACTIVATION; the two arrays index an activation buffer together.

    Returns
    -------
    words : int64 array [vectors, rows, 1]
        Activation words.
    places : int64 array [rows, columns]
        Bytes of the word: all of it, or with R = 2C the lower half for even rows and the upper for odd ones.
    """
    halves = config.rows // config.columns
    row = np.arange(instruction["rows"])
    words = _rows(instruction["dest_base"], instruction, instruction["dest_stride"], row // halves)
    places: Int = (row % halves * config.columns)[:, None] + np.arange(config.columns)
    return words[:, :, None], places


def scalar_span(instruction: Instruction) -> int:
    """Return how many scalars are read from ``s_base`` on (when any are)."""
    many = instruction["length"] if instruction["op"] == VectorOp.GATHER else 1
    return instruction["vectors"] * many


def scalars_read(instruction: Instruction) -> Int:
    """Return the scalars that are read; MAP with a sum that goes on reads what it writes as well."""
    read = [np.zeros(0, dtype=np.int64)]
    if reads_scalar(instruction):
        read.append(instruction["s_base"] + np.arange(scalar_span(instruction)))
    if has_sum(instruction) and not instruction["first"]:
        read.append(instruction["d_scalar"] + np.arange(instruction["vectors"]))
    return np.concatenate(read)


def scalars_written(instruction: Instruction) -> Int:
    """Return the scalars that are written."""
    count = instruction["vectors"] if writes_scalar(instruction) else 0
    written: Int = instruction["d_scalar"] + np.arange(count)
    return written


# What is legal.


def check_vector_fields(instruction: Instruction, config: MachineConfig) -> Violation | None:
    """Return the first field of a VECTOR that is not legal, or None; the dispatcher checks these."""
    op = VectorOp(instruction["op"])
    for name in ("vectors", "rows"):
        if not instruction[name]:
            return field_violation(instruction, name, "1 or more")
    if op != VectorOp.MAP:
        for name in ("fn", "sum"):
            if instruction[name]:
                first = VectorFn(0).name if name == "fn" else VectorSum(0).name
                return field_violation(instruction, name, f"{first} with an operation other than MAP")
    period = instruction["b_rows"]
    if VECTOR_OPERATIONS[op].tables and (period not in _PERIODS or instruction["rows"] % period):
        return field_violation(instruction, "b_rows", "1, 2, 4 or 8, a divisor of rows")
    if op in (VectorOp.ARGMAX, VectorOp.GATHER) and instruction["rows"] * config.columns > INDEX_LIMIT:
        return field_violation(instruction, "rows", f"up to {INDEX_LIMIT // config.columns}: indices have 16 bits")
    if op == VectorOp.GATHER:
        if not 1 <= instruction["length"] <= config.columns:
            return field_violation(instruction, "length", f"1 to {config.columns} with GATHER")
        if instruction["masked"]:
            return field_violation(instruction, "masked", "0 with GATHER")
    return _check_dest(instruction, op, config)


def _check_dest(instruction: Instruction, op: VectorOp, config: MachineConfig) -> Violation | None:
    dest, makes_rows = VectorDest(instruction["dest_kind"]), VECTOR_OPERATIONS[op].makes_rows
    if not makes_rows and dest != VectorDest.NONE:
        return field_violation(instruction, "dest_kind", f"NONE with {op.name}, which makes no rows")
    if makes_rows and dest == VectorDest.NONE and not has_sum(instruction):
        return field_violation(instruction, "dest_kind", "ROWS or ACTIVATION; NONE only with MAP and a sum")
    if dest != VectorDest.ACTIVATION:
        if instruction["dest_tiers"]:
            return field_violation(instruction, "dest_tiers", "0 unless results go to activation buffers")
        return None
    if op == VectorOp.GATHER:
        return field_violation(instruction, "dest_kind", "ROWS with GATHER")
    if instruction["bits"] != VectorBits.BITS8:
        return field_violation(instruction, "bits", "BITS8 when results go to activation buffers")
    if not instruction["dest_tiers"] or instruction["dest_tiers"] >> config.tiers:
        return field_violation(instruction, "dest_tiers", f"at least one of bits 0 to {config.tiers - 1}")
    return None


def check_vector_ranges(instruction: Instruction, config: MachineConfig) -> Violation | None:
    """Return the first operand of a VECTOR with legal fields that reaches beyond its memory, or None."""
    i, last = instruction, instruction["vectors"] - 1
    tables = VECTOR_OPERATIONS[VectorOp(i["op"])].tables
    ends = [("a_base", i["a_base"] + last * i["a_stride"] + i["rows"], Memory.COMBINE)]
    if tables:
        ends.append(("b_base", i["b_base"] + last * i["b_stride"] + tables * i["b_rows"], Memory.COMBINE))
    if reads_scalar(i):
        ends.append(("s_base", i["s_base"] + scalar_span(i), Memory.SCALAR))
    if writes_scalar(i):
        ends.append(("d_scalar", i["d_scalar"] + i["vectors"], Memory.SCALAR))
    first = i["dest_base"] + last * i["dest_stride"]
    if i["dest_kind"] == VectorDest.ROWS:
        ends.append(("dest_base", first + _rows_made(i), Memory.COMBINE))
    elif i["dest_kind"] == VectorDest.ACTIVATION:
        ends.append(("dest_base", first - (-_rows_made(i) * config.columns // config.rows), Memory.ACTIVATION))
    for name, end, memory in ends:
        wrong = memory_violation(i, name, end, memory, config)
        if wrong:
            return wrong
    return None


def _check(instruction: Instruction, config: MachineConfig, limits: Limits) -> Violation | None:
    return check_vector_fields(instruction, config) or check_vector_ranges(instruction, config)


# What it does, in words.

_FUNCTIONS = {
    VectorFn.IDENTITY: "scales",
    VectorFn.EXP2: "takes powers of two of",
    VectorFn.SIGMOID: "takes sigmoids of",
}


def _span(base: int, stride: int, instruction: Instruction, per_vector: int) -> str:
    """Return the rows of all vectors, or of the first and the distance to the next."""
    vectors = instruction["vectors"]
    if vectors == 1 or stride == per_vector:
        return span_of(base, vectors * per_vector)
    return f"{span_of(base, per_vector)} and every {stride} on" if stride else f"{span_of(base, per_vector)}, always"


def _valid(instruction: Instruction) -> str:
    if instruction["op"] == VectorOp.GATHER or not instruction["masked"]:
        return ""
    more = ", one more for each vector" if instruction["length_step"] else ""
    return f", the first {_signed_length(instruction)} elements{more}"


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


def _explain(instruction: Instruction, config: MachineConfig) -> str:
    i, op = instruction, VectorOp(instruction["op"])
    about = VECTOR_OPERATIONS[op]
    work = _FUNCTIONS[VectorFn(i["fn"])] if op == VectorOp.MAP else about.words
    text = f"{work} {count_of(i['vectors'], 'vector')} of {count_of(i['rows'], 'row')}"
    text += f" (combine rows {_span(i['a_base'], i['a_stride'], i, i['rows'])}{_valid(i)}{_shifts(i)})"
    if about.tables:
        text += f" with rows {_span(i['b_base'], i['b_stride'], i, about.tables * i['b_rows'])}"
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
        return f"rows {_span(i['dest_base'], i['dest_stride'], i, _rows_made(i))}"
    words = -(-i["rows"] * config.columns // config.rows)
    tiers = tiers_text(tiers_of_mask(i["dest_tiers"]))
    return f"activation words {_span(i['dest_base'], i['dest_stride'], i, words)} of {tiers}"


VECTOR = OpcodeDescription(
    opcode=Opcode.VECTOR,
    summary="does an elementwise operation or a reduction on vectors of combine rows",
    body=_BODY,
    queues=lambda instruction: (VECTOR_QUEUE,),
    queue_words="`vector`",
    accesses=(
        Access(Memory.COMBINE, "read", "operand A: `rows` rows of each vector from `a_base` on"),
        Access(Memory.COMBINE, "read", "MUL, ROTATE, ADD: operand B, `b_rows` rows of each vector from `b_base` on"),
        Access(Memory.SCALAR, "read", "from `s_base` on, where the operation takes one; the sum that goes on"),
        Access(Memory.SCALAR, "write", "reductions, and MAP with a sum: one of each vector from `d_scalar` on"),
        Access(Memory.COMBINE, "write", "ROWS: from `dest_base` on"),
        Access(Memory.ACTIVATION, "write", "ACTIVATION: words from `dest_base` on"),
    ),
    check=_check,
    explain=_explain,
    work=lambda instruction, config: Work(vector_rows=row_count(instruction)),
)
