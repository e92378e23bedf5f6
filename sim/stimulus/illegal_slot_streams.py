# SPDX-License-Identifier: Apache-2.0
"""The ways in which ROUTE, and loads and GEMMs with a slot, can be wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hdl.config import ADDRESS_UNIT
from hdl.isa import INSTRUCTION_BITS, Format, LoadDest, Mapping3D, Opcode, VectorOp, fields_of
from hdl.isa.error_codes import ErrorCode
from sim.stimulus.illegal_base import IllegalStream, StreamBase, pack

__all__ = ["illegal_slot_streams"]

FIELD, REACH, ADDRESS = ErrorCode.ILLEGAL_FIELD, ErrorCode.RANGE, ErrorCode.ADDRESS
Fields = Mapping[str, int]


def illegal_slot_streams(base: StreamBase) -> Iterator[IllegalStream]:
    """Yield one stream for each way of being wrong; `base` makes them."""
    route = {"tokens": 2, "choices": 2, "experts": 2, "a_stride": 1, "wait0_count": len(base.prefix)}
    yield from _route(base, route)
    yield from _fields(base)
    yield from _when_it_runs(base, route)


def _route(base: StreamBase, route: Fields) -> Iterator[IllegalStream]:
    c, op = base.config, Opcode.ROUTE
    used = sum(f.width for f in fields_of(op))
    for bit in (42 + base.random.randrange(6), used, INSTRUCTION_BITS - 1):
        yield base.make(f"ROUTE reserved bit {bit}", FIELD, pack(op, route, 1 << bit))
    yield base.change(op, route, FIELD, "twice", wait0_sem=1, wait0_count=1, wait1_sem=1, wait1_count=1)
    for name in ("tokens", "choices", "experts"):
        yield base.change(op, route, FIELD, **{name: 0})
    if c.columns < 15:
        yield base.change(op, route, FIELD, choices=c.columns + 1)
    yield base.change(op, route, FIELD, experts=c.expert_slots + 1)
    yield base.change(op, route, FIELD, slot_base=c.expert_slots - 1)
    if c.scalar_depth < 1 << 12:
        yield base.change(op, route, REACH, s_base=c.scalar_depth - 3)
    if c.list_depth < 1 << 12:
        yield base.change(op, route, REACH, list_base=c.list_depth - 3)
    yield base.change(op, route, REACH, a_base=c.combine_rows - 1)
    yield base.change(op, route, REACH, dest_base=c.combine_rows - 1, dest_stride=1)
    yield base.change(op, route, REACH, "far", dest_base=0xFFFF, dest_stride=1023)
    if c.activation_words < 1023:
        yield base.change(op, route, REACH, source_stride=c.activation_words)
    yield base.change(op, route, REACH, source_base=c.activation_words - 1, source_stride=1)
    if 1023 * min(15, c.columns) > min(c.list_depth, c.scalar_depth):
        yield base.change(op, route, REACH, tokens=1023, choices=min(15, c.columns))


def _fields(base: StreamBase) -> Iterator[IllegalStream]:
    c = base.config
    for kind in (LoadDest.ACTIVATION, LoadDest.LIST):
        yield base.change(Opcode.LOAD, base.load, FIELD, kind.name, dest_kind=kind, slot_en=1)
    gemm = {**base.gemm, "act_list": 1}
    yield base.change(Opcode.GEMM, base.gemm, FIELD, "no list", slot_en=1)
    if c.tiers > 1:
        for mapping in (Mapping3D.M, Mapping3D.K):
            yield base.change(Opcode.GEMM, gemm, FIELD, mapping.name, tier_count=2, mapping=mapping, slot_en=1)
    if c.expert_slots < 1 << 8:
        for slot in (c.expert_slots, 255):
            yield base.change(Opcode.LOAD, base.load, FIELD, slot_en=1, slot=slot)
            yield base.change(Opcode.GEMM, gemm, FIELD, slot_en=1, slot=slot)


def _when_it_runs(base: StreamBase, route: Fields) -> Iterator[IllegalStream]:
    """Yield what only shows when the router has chosen: here expert 0, then expert 1, for both of two tokens."""
    choose = {"op": int(VectorOp.ARGMAX), "vectors": 2, "rows": 1, "a_stride": 1, "masked": 1, "length": 2}
    words = [
        pack(Opcode.VECTOR, {**choose, "first": 1, "wait0_count": len(base.prefix)}),
        pack(Opcode.VECTOR, {**choose, "d_scalar": 2}),
    ]
    route = {k: v for k, v in route.items() if k != "wait0_count"} | {"post0_en": 1, "post0_sem": 1}
    at = len(base.prefix) + 2
    yield base.make("ROUTE to what is no expert", REACH, [*words, pack(Opcode.ROUTE, {**route, "experts": 1})], at)
    words.append(pack(Opcode.ROUTE, route))
    waits = {"wait0_sem": 1, "wait0_count": 1, "slot_en": 1, "slot": 1}
    end = base.limits.memory_bytes[0] // base.unit * base.unit // ADDRESS_UNIT
    load = {k: v for k, v in base.load.items() if k != "wait0_count"} | waits

    def made(name: str, address: int, **fields: int) -> IllegalStream:
        wrong = pack(Opcode.LOAD, {**load, **fields})
        return base.make(
            f"slot's {name}, group {fields.get('group', 0)}", ADDRESS, [*words, wrong], at + 1, address * ADDRESS_UNIT
        )

    step = base.unit // ADDRESS_UNIT
    for group in (0, 1):
        yield made("expert outside memory", end, group=group, addr=end - step, slot_stride=step)
        low = {"format": Format.PAIR, "group": group, "addr_low": end}
        yield made("low plane outside memory", end, **low)
        yield made("planes outside memory", end + step, **{**low, "addr": end + step})
    far = 0xFFFFFFFF // step * step
    most = 0xFFFFFF // step * step
    yield made("expert far outside memory", far + most, addr=far, slot_stride=most)
    if base.unit > ADDRESS_UNIT:
        yield made("expert misaligned", base.load["addr"] + 1, slot_stride=1)
    gemm = {k: v for k, v in base.gemm.items() if k != "wait0_count"} | waits | {"act_list": 1, "tag": 9}
    yield base.make("slot's tile missing", ErrorCode.VCACHE_MISS, [*words, pack(Opcode.GEMM, gemm)], at + 1)
