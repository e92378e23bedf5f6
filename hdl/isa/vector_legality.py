# SPDX-License-Identifier: Apache-2.0
"""What is legal in a VECTOR instruction: fields (checked by the dispatcher) and ranges (checked by the vector unit).

The dispatcher finds every field violation before the instruction has any effect. All RANGE checks are the unit's,
which makes each when it uses the address; the highest address of an operand is the last vector's, so that what is
stated here over whole operands is what the unit reports. GATHER's indices are known only when it runs.
"""

from __future__ import annotations

from hdl.config import MachineConfig
from hdl.isa import Instruction, VectorBits, VectorDest, VectorFn, VectorOp, VectorSum
from hdl.isa.vector_access import REDUCTIONS, TWO_OPERANDS, has_sum, reads_scalar, scalar_span, writes_scalar
from hdl.isa.violation import Violation, field_violation, range_violation

__all__ = ["INDEX_LIMIT", "check_vector_fields", "check_vector_ranges"]

INDEX_LIMIT = 1 << 16
"""Elements of the longest vector whose elements ARGMAX and GATHER can name."""

_B_ROWS = (1, 2, 4, 8)


def check_vector_fields(instruction: Instruction, config: MachineConfig) -> Violation | None:
    """Return the first field of a VECTOR that is not legal, or None."""
    op = VectorOp(instruction["op"])
    for name in ("vectors", "rows"):
        if not instruction[name]:
            return field_violation(instruction, name, "1 or more")
    if op != VectorOp.MAP:
        for name in ("fn", "sum"):
            if instruction[name]:
                first = VectorFn(0).name if name == "fn" else VectorSum(0).name
                return field_violation(instruction, name, f"{first} with an operation other than MAP")
    if op in TWO_OPERANDS and (instruction["b_rows"] not in _B_ROWS or instruction["rows"] % instruction["b_rows"]):
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
    dest = VectorDest(instruction["dest_kind"])
    if op in REDUCTIONS and dest != VectorDest.NONE:
        return field_violation(instruction, "dest_kind", f"NONE with {op.name}, which makes no rows")
    if op not in REDUCTIONS and dest == VectorDest.NONE and not has_sum(instruction):
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
    i, op, last = instruction, instruction["op"], instruction["vectors"] - 1
    depth, what = config.combine_rows, "combine rows"
    wrong = range_violation(i, "a_base", i["a_base"] + last * i["a_stride"] + i["rows"], depth, what)
    if not wrong and op in TWO_OPERANDS:
        tables = 2 if op == VectorOp.ROTATE else 1
        wrong = range_violation(i, "b_base", i["b_base"] + last * i["b_stride"] + tables * i["b_rows"], depth, what)
    if not wrong and reads_scalar(i):
        wrong = range_violation(i, "s_base", i["s_base"] + scalar_span(i), config.scalar_depth, "scalars")
    if not wrong and writes_scalar(i):
        wrong = range_violation(i, "d_scalar", i["d_scalar"] + i["vectors"], config.scalar_depth, "scalars")
    if wrong or i["dest_kind"] == VectorDest.NONE:
        return wrong
    per_vector = 1 if op == VectorOp.GATHER else i["rows"]
    if i["dest_kind"] == VectorDest.ACTIVATION:
        per_vector = -(-per_vector * config.columns // config.rows)
        depth, what = config.activation_words, "activation words"
    return range_violation(i, "dest_base", i["dest_base"] + last * i["dest_stride"] + per_vector, depth, what)
