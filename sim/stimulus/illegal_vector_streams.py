# SPDX-License-Identifier: Apache-2.0
"""The ways in which VECTOR, loads of rows and columns, and stores with gaps can be wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hdl.config import ADDRESS_UNIT
from hdl.isa import (
    INDEX_LIMIT,
    INSTRUCTION_BITS,
    REDUCTIONS,
    TWO_OPERANDS,
    Format,
    LoadDest,
    Opcode,
    StoreFormat,
    VectorBits,
    VectorDest,
    VectorFn,
    VectorOp,
    VectorSum,
    element_bytes,
    fields_of,
)
from hdl.isa.error_codes import ErrorCode
from sim.stimulus.illegal_base import IllegalStream, StreamBase, pack

__all__ = ["illegal_vector_streams"]

FIELD, REACH, ADDRESS = ErrorCode.ILLEGAL_FIELD, ErrorCode.RANGE, ErrorCode.ADDRESS
Fields = Mapping[str, int]


def illegal_vector_streams(base: StreamBase) -> Iterator[IllegalStream]:
    """Yield one stream for each way of being wrong; `base` makes them."""
    waits = {"wait0_count": len(base.prefix)}
    vector = {
        "vectors": 2, "rows": 1, "a_stride": 1, "dest_kind": int(VectorDest.ROWS), "dest_base": 4, "dest_stride": 1,
        "mult": 1, "b_rows": 1, **waits,
    }  # fmt: skip
    yield from _encoding(base, vector)
    yield from _fields(base, vector)
    yield from _destinations(base, vector)
    yield from _ranges(base, vector)
    yield from _when_it_runs(base, vector)
    yield from _loads(base)
    yield from _stores(base)


def _encoding(base: StreamBase, vector: Fields) -> Iterator[IllegalStream]:
    op = Opcode.VECTOR
    used = sum(f.width for f in fields_of(op))
    for bit in (42 + base.random.randrange(6), *range(used, INSTRUCTION_BITS)):
        yield base.make(f"VECTOR reserved bit {bit}", FIELD, pack(op, vector, 1 << bit))
    yield base.change(op, vector, FIELD, "twice", wait0_sem=1, wait0_count=1, wait1_sem=1, wait1_count=1)
    if base.config.semaphores < 64:
        yield base.change(op, vector, FIELD, wait1_sem=base.config.semaphores, wait1_count=1)
        yield base.change(op, vector, FIELD, post1_sem=base.config.semaphores, post1_en=1)
    for value in (10, 15):
        yield base.change(op, vector, FIELD, op=value)
    yield base.change(op, vector, FIELD, fn=3)
    yield base.change(op, vector, FIELD, sum=3)
    yield base.change(op, vector, FIELD, dest_kind=3)
    yield base.change(op, vector, FIELD, bits=3)
    for kind in (5, 6, 7):
        yield base.change(Opcode.LOAD, base.load, FIELD, dest_kind=kind)


def _fields(base: StreamBase, vector: Fields) -> Iterator[IllegalStream]:
    op = Opcode.VECTOR
    for name in ("vectors", "rows"):
        yield base.change(op, vector, FIELD, **{name: 0})
    for kind in VectorOp:
        if kind != VectorOp.MAP:
            plain = {**vector, "op": int(kind), **({"dest_kind": 0} if kind in REDUCTIONS else {}), "length": 1}
            yield base.change(op, plain, FIELD, kind.name, fn=VectorFn.SIGMOID)
            yield base.change(op, plain, FIELD, kind.name, sum=VectorSum.SUM)
    for kind in sorted(TWO_OPERANDS):
        two = {**vector, "op": int(kind)}
        for rows, b_rows in ((1, 0), (6, 4), (3, 3), (10, 5), (1, 2), (12, 8), (9, 15)):
            yield base.change(op, {**two, "vectors": 1}, FIELD, kind.name, rows=rows, b_rows=b_rows)
    gather = {**vector, "op": int(VectorOp.GATHER), "length": 1}
    for length in (0, base.config.columns + 1, 0x8001, 0xFFFF):
        yield base.change(op, gather, FIELD, "GATHER", length=length)
    yield base.change(op, gather, FIELD, "GATHER", masked=1)
    for kind in (VectorOp.ARGMAX, VectorOp.GATHER):
        rows = INDEX_LIMIT // base.config.columns + 1
        if rows < 1 << 9:
            plain = {**gather, "op": int(kind), "dest_kind": int(kind == VectorOp.GATHER)}
            yield base.change(op, plain, FIELD, kind.name, rows=rows)


def _destinations(base: StreamBase, vector: Fields) -> Iterator[IllegalStream]:
    op, tiers = Opcode.VECTOR, base.config.tiers
    for kind in sorted(REDUCTIONS):
        yield base.change(op, vector, FIELD, kind.name, "to rows", op=kind)
        to_buffer = {"dest_kind": int(VectorDest.ACTIVATION), "dest_tiers": 1}
        yield base.change(op, {**vector, **to_buffer}, FIELD, kind.name, "to a buffer", op=kind)
    for kind in VectorOp:
        if kind not in REDUCTIONS:
            yield base.change(op, {**vector, "op": int(kind), "length": 1}, FIELD, kind.name, dest_kind=0)
    yield base.change(op, vector, FIELD, "rows", dest_tiers=1)
    summed = {**vector, "sum": int(VectorSum.SUM), "dest_kind": 0}
    yield base.change(op, summed, FIELD, "no rows", dest_tiers=1)
    to_buffer = {**vector, "dest_kind": int(VectorDest.ACTIVATION), "dest_tiers": 1}
    for bits in (VectorBits.BITS16, VectorBits.BITS32):
        yield base.change(op, to_buffer, FIELD, "to a buffer", bits=bits)
    yield base.change(op, to_buffer, FIELD, "to a buffer", dest_tiers=0)
    if tiers < 8:
        yield base.change(op, to_buffer, FIELD, "to a buffer", dest_tiers=1 << tiers)
        yield base.change(op, to_buffer, FIELD, "to a buffer", dest_tiers=0x80 | 1)
    yield base.change(op, {**to_buffer, "length": 1}, FIELD, "to a buffer", op=VectorOp.GATHER)


def _ranges(base: StreamBase, vector: Fields) -> Iterator[IllegalStream]:
    c, op = base.config, Opcode.VECTOR
    rows, scalars = c.combine_rows, c.scalar_depth
    yield base.change(op, vector, REACH, a_base=rows - 1)
    yield base.change(op, vector, REACH, a_base=rows - 2, a_stride=2)
    yield base.change(op, vector, REACH, a_base=0xFFFF, a_stride=1023, vectors=1023)
    for kind in sorted(TWO_OPERANDS):
        yield base.change(op, {**vector, "b_stride": 1}, REACH, kind.name, op=kind, b_base=rows - 1)
    yield base.change(op, vector, REACH, "second table", op=VectorOp.ROTATE, b_base=rows - 1)
    yield base.change(op, vector, REACH, dest_base=rows - 1)
    yield base.change(op, vector, REACH, dest_base=0xFFFF, dest_stride=1023, vectors=1023, a_stride=0)
    to_buffer = {**vector, "dest_kind": int(VectorDest.ACTIVATION), "dest_tiers": 1}
    yield base.change(op, to_buffer, REACH, "to a buffer", dest_base=c.activation_words - 1)
    if scalars < 1 << 12:
        yield base.change(op, {**vector, "fn": int(VectorFn.EXP2)}, REACH, "EXP2", s_base=scalars - 1)
        yield base.change(op, {**vector, "sum": int(VectorSum.SUM)}, REACH, "SUM", d_scalar=scalars - 1)
        for kind in (VectorOp.SCALE, VectorOp.RESCALE):
            yield base.change(op, vector, REACH, kind.name, op=kind, s_base=scalars - 1)
        for kind in sorted(REDUCTIONS):
            reduce = {**vector, "op": int(kind), "dest_kind": 0, "first": 1}
            yield base.change(op, reduce, REACH, kind.name, d_scalar=scalars - 1)
            if kind != VectorOp.SUMSQ:
                yield base.change(op, {**reduce, "first": 0}, REACH, kind.name, "going on", s_base=scalars - 1)
        # The indices of the second lane lie `vectors` further on.
        gather = {**vector, "op": int(VectorOp.GATHER), "length": 2}
        yield base.change(op, gather, REACH, "GATHER", s_base=scalars - 3)


def _when_it_runs(base: StreamBase, vector: Fields) -> Iterator[IllegalStream]:
    """Yield a GATHER of an element that is not there: no element was valid when it was to be chosen."""
    op = Opcode.VECTOR
    choose = {**vector, "op": int(VectorOp.ARGMAX), "dest_kind": 0, "first": 1, "masked": 1, "length": 0}
    gather = {k: v for k, v in vector.items() if k != "wait0_count"} | {"op": int(VectorOp.GATHER), "length": 1}
    if base.config.columns < INDEX_LIMIT:
        words = [pack(op, choose), pack(op, gather)]
        yield base.make("GATHER with nothing chosen", REACH, words, len(base.prefix) + 1)


def _loads(base: StreamBase) -> Iterator[IllegalStream]:
    c, op = base.config, Opcode.LOAD
    rows = {**base.load, "dest_kind": int(LoadDest.ROWS), "dest_tiers": 0, "tag": 0}
    yield base.change(op, rows, FIELD, "ROWS", dest_tiers=1)
    yield base.change(op, rows, FIELD, "ROWS", count=0)
    for shift in (17, 31):
        yield base.change(op, rows, FIELD, "ROWS", shift=shift)
    for form in (Format.PAIR, Format.HIGH, Format.COLUMNS, Format.LOW):
        yield base.change(op, rows, FIELD, "ROWS", format=form)
    for kind in (LoadDest.VCACHE, LoadDest.ACTIVATION, LoadDest.LIST, LoadDest.PARAMETER):
        yield base.change(op, base.load, FIELD, kind.name, dest_kind=kind, shift=1)
        if kind != LoadDest.VCACHE:
            yield base.change(op, base.load, FIELD, kind.name, dest_kind=kind, format=Format.COLUMNS)
    yield base.change(op, rows, REACH, "ROWS", dest_base=c.combine_rows - 1, count=2)
    yield base.change(op, rows, REACH, "ROWS", dest_base=0xFFFF, count=0xFFFF)
    end = base.limits.memory_bytes[0] // base.unit * base.unit // ADDRESS_UNIT
    yield base.change(op, rows, ADDRESS, "ROWS", addr=end)
    for unknown in range(max(Format) + 1, 8):
        yield base.change(op, base.load, FIELD, "unknown format", format=unknown)
    for form in (Format.COLUMNS, Format.LOW):
        if c.stationary_feed == "edge":
            yield base.change(op, base.load, FIELD, "edge feed", format=form)
        else:
            yield base.change(op, {**base.load, "format": int(form)}, ADDRESS, form.name, addr=end)


def _stores(base: StreamBase) -> Iterator[IllegalStream]:
    c, op, store = base.config, Opcode.STORE, base.store
    low, high = base.window
    yield base.change(op, store, REACH, "gap", row_base=c.combine_rows - 2, row_gap=1)
    yield base.change(op, store, REACH, "gap", rows=0xFFFF, row_gap=1023)
    discard = {**store, "format": int(StoreFormat.DISCARD)}
    yield base.change(op, discard, REACH, "DISCARD, gap", row_base=c.combine_rows - 2, row_gap=1)
    for form in (StoreFormat.INT8, StoreFormat.INT16, StoreFormat.INT32):
        plain, row = {**store, "format": int(form)}, c.columns * element_bytes(form)
        # Two rows, the second of which just does not fit; and far outside.
        last = (high - low) // row - 1
        if last < 1 << 16:
            yield base.change(op, plain, ADDRESS, f"{form.name}, gap", addr=low // ADDRESS_UNIT, addr_gap=last)
        far = {"addr": low // ADDRESS_UNIT, "addr_gap": 0xFFFF, "rows": min(c.combine_rows, 0xFFFF)}
        yield base.change(op, plain, ADDRESS, f"{form.name}, far", **far)
        step = min(row, c.group_bytes)
        if step > 1:
            offset = step // 2 if step <= ADDRESS_UNIT else 1
            yield base.change(op, plain, ADDRESS, f"{form.name}, misaligned", addr=low // ADDRESS_UNIT, offset=offset)
        if step < ADDRESS_UNIT:
            before = (low - ADDRESS_UNIT) // ADDRESS_UNIT
            yield base.change(op, plain, ADDRESS, f"{form.name}, before", addr=before, offset=ADDRESS_UNIT - step)
