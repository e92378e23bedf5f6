# SPDX-License-Identifier: Apache-2.0
"""Streams with exactly one thing wrong, and what the machine must report for each."""

from __future__ import annotations

import random
from collections.abc import Iterator

from hdl.config import ADDRESS_UNIT, INSTRUCTION_BYTES, MachineConfig
from hdl.isa import INSTRUCTION_BITS, Dest, Format, LoadDest, Mapping3D, Mode, Opcode, Order, fields_of
from hdl.isa.error_codes import ErrorCode
from sim.stimulus.illegal_base import IllegalStream, StreamBase, pack
from sim.stimulus.illegal_slot_streams import illegal_slot_streams
from sim.stimulus.illegal_vector_streams import illegal_vector_streams

__all__ = ["IllegalStream", "illegal_streams", "pack"]


def illegal_streams(config: MachineConfig, seed: int = 0, *, vector: bool = False) -> Iterator[IllegalStream]:
    """Yield one stream for each way of being wrong that this configuration can express.

    Each stream fills memories, waits for that, and then makes its one mistake in an instruction that would be legal
    otherwise. (A watchdog case is among them: give the machine a limit of some thousand cycles.) With `vector` come
    those that need the vector unit, loads of rows or columns, stores with gaps, or slots.
    """
    base = _Array(config, random.Random(f"illegal {seed}"))
    yield from base.encoding()
    yield from base.loads()
    yield from base.stores()
    yield from base.gemm_fields()
    yield from base.gemm_ranges()
    yield from base.when_it_runs()
    if vector:
        yield from illegal_vector_streams(base)
        yield from illegal_slot_streams(base)


class _Array(StreamBase):
    def encoding(self) -> Iterator[IllegalStream]:
        """Yield unknown opcodes, reserved bits and undefined enumeration values."""
        illegal = ErrorCode.ILLEGAL_FIELD
        unknown = [code for code in range(64) if code not in list(Opcode)]
        for code in (0, 63, self.random.choice(unknown)):
            yield self.make(f"opcode {code}", ErrorCode.ILLEGAL_OPCODE, pack(code, {}))
        for opcode, base in ((Opcode.LOAD, self.load), (Opcode.STORE, self.store), (Opcode.GEMM, self.gemm)):
            used = sum(f.width for f in fields_of(opcode))
            for bit in (42 + self.random.randrange(6), used, INSTRUCTION_BITS - 1):
                yield self.make(f"{opcode.name} reserved bit {bit}", illegal, pack(opcode, base, 1 << bit))
            same = {"wait0_sem": 1, "wait0_count": 1, "wait1_sem": 1, "wait1_count": 1}
            yield self.change(opcode, base, illegal, "the same semaphore twice", **same)
            if self.config.semaphores < 64:
                outside = self.config.semaphores
                yield self.change(opcode, base, illegal, wait1_sem=outside, wait1_count=1)
                yield self.change(opcode, base, illegal, post1_sem=outside, post1_en=1)
        yield self.make("NOP reserved bit", illegal, pack(Opcode.NOP, {}, 1 << 48))
        yield self.make("NOP waits", illegal, pack(Opcode.NOP, {"wait0_count": 1}))
        yield self.make("NOP posts", illegal, pack(Opcode.NOP, {"post1_en": 1}))
        yield self.change(Opcode.GEMM, self.gemm, illegal, mode=3)

    def loads(self) -> Iterator[IllegalStream]:
        """Yield loads with wrong fields, ranges and addresses."""
        c, base = self.config, self.load
        field, reach, address = ErrorCode.ILLEGAL_FIELD, ErrorCode.RANGE, ErrorCode.ADDRESS
        yield self.change(Opcode.LOAD, base, field, count=0)
        yield self.change(Opcode.LOAD, base, field, dest_tiers=0)
        if c.tiers < 8:
            yield self.change(Opcode.LOAD, base, field, dest_tiers=1 << c.tiers)
            yield self.change(Opcode.LOAD, base, field, dest_tiers=0x80 | 1)
        for kind in (LoadDest.ACTIVATION, LoadDest.LIST, LoadDest.PARAMETER):
            for form in (Format.PAIR, Format.HIGH, Format.LOW):
                yield self.change(Opcode.LOAD, base, field, kind.name, dest_kind=kind, format=form)
        depths = {
            LoadDest.VCACHE: c.vcache_tiles,
            LoadDest.ACTIVATION: c.activation_words,
            LoadDest.LIST: c.list_depth,
            LoadDest.PARAMETER: c.parameter_words,
        }
        for kind, depth in depths.items():
            yield self.change(Opcode.LOAD, base, reach, dest_kind=kind, dest_base=depth - 1, count=2)
            if depth < 1 << 16:
                yield self.change(Opcode.LOAD, base, reach, dest_kind=kind, dest_base=depth, count=1)
            yield self.change(Opcode.LOAD, base, reach, dest_kind=kind, dest_base=0xFFFF, count=0xFFFF)
        end = self.limits.memory_bytes[0] // self.unit * self.unit // ADDRESS_UNIT
        for group in (0, 1):
            yield self.change(Opcode.LOAD, base, address, group=group, addr=end)
            yield self.change(Opcode.LOAD, base, address, group=group, addr=0xFFFFFFFF & -(self.unit // ADDRESS_UNIT))
            pair = {**base, "format": Format.PAIR}
            yield self.change(Opcode.LOAD, pair, address, "low plane", group=group, addr_low=end)
        yield self.change(Opcode.LOAD, base, address, "last beats", addr=end - self.unit // ADDRESS_UNIT, count=4)
        if c.group_bytes > ADDRESS_UNIT:
            yield self.change(Opcode.LOAD, base, address, "misaligned", addr=base["addr"] + 1)

    def stores(self) -> Iterator[IllegalStream]:
        """Yield stores with wrong fields, ranges and addresses."""
        c, base = self.config, self.store
        address = ErrorCode.ADDRESS
        step = self.unit // ADDRESS_UNIT
        low, high = (edge // ADDRESS_UNIT for edge in self.window)
        yield self.change(Opcode.STORE, base, ErrorCode.ILLEGAL_FIELD, rows=0)
        yield self.change(Opcode.STORE, base, ErrorCode.RANGE, row_base=c.combine_rows - 1, rows=2)
        yield self.change(Opcode.STORE, base, ErrorCode.RANGE, row_base=0xFFFF, rows=0xFFFF)
        for group in (0, 1):
            yield self.change(Opcode.STORE, base, address, "before the window", group=group, addr=low - step)
            yield self.change(Opcode.STORE, base, address, "at the window's end", group=group, addr=high)
        rows = min(c.combine_rows, self.unit // (4 * c.columns) + 1)
        yield self.change(Opcode.STORE, base, address, "across the end", rows=rows, addr=high - step)
        yield self.change(Opcode.STORE, base, address, "far", addr=0xFFFFFFFF & -step)
        if c.group_bytes > ADDRESS_UNIT:
            yield self.change(Opcode.STORE, base, address, "misaligned", addr=low + 1)

    def gemm_fields(self) -> Iterator[IllegalStream]:
        """Yield GEMMs with fields that are not legal."""
        c, base, field = self.config, self.gemm, ErrorCode.ILLEGAL_FIELD
        for name in ("tokens", "k_slices", "n_tiles", "tier_count"):
            yield self.change(Opcode.GEMM, base, field, **{name: 0})
        yield self.change(Opcode.GEMM, base, field, tier_base=c.tiers - 1, tier_count=2, mapping=Mapping3D.N)
        if c.tiers < 8:
            yield self.change(Opcode.GEMM, base, field, tier_base=c.tiers)
        yield self.change(Opcode.GEMM, base, field, tier_count=c.tiers + 1, mapping=Mapping3D.K)
        if c.tiers > 1:
            yield self.change(Opcode.GEMM, base, field, tier_count=2, mapping=Mapping3D.ALONE)
            if not c.vertical_links:
                yield self.change(Opcode.GEMM, base, field, tier_count=2, mapping=Mapping3D.M)
        yield self.change(Opcode.GEMM, base, field, shift=48)
        yield self.change(Opcode.GEMM, base, field, mode=Mode.SWIGLU)
        to_buffer = {**base, "dest_kind": int(Dest.ACTIVATION), "dest_base": 4}
        yield self.change(Opcode.GEMM, to_buffer, field, mode=Mode.REQUANT16)
        yield self.change(Opcode.GEMM, {**to_buffer, "mode": int(Mode.SWIGLU)}, field, post_shift=63)
        if c.tiers < 8:
            yield self.change(Opcode.GEMM, to_buffer, field, dest_tiers=1 << c.tiers)

    def gemm_ranges(self) -> Iterator[IllegalStream]:
        """Yield GEMMs that reach beyond a memory."""
        c, base, reach = self.config, self.gemm, ErrorCode.RANGE
        if c.accumulator_depth < 1023:
            more = c.accumulator_depth + 1
            yield self.change(Opcode.GEMM, base, reach, tokens=more, act_stride=0, dest_stride=0)
        tokens, tiles = c.accumulator_depth // 2, 3
        if 3 * tiles <= c.vcache_tiles and tiles <= c.parameter_words:
            values = {"tokens": tokens, "n_tiles": tiles, "order": Order.N_INNER, "act_stride": 0, "dest_stride": 0}
            yield self.change(Opcode.GEMM, base, reach, **values)
        yield self.change(Opcode.GEMM, base, reach, vcache_base=c.vcache_tiles - 1, k_slices=2)
        if c.vcache_tiles < 1 << 16:
            yield self.change(Opcode.GEMM, base, reach, vcache_base=c.vcache_tiles)
        yield self.change(Opcode.GEMM, base, reach, act_base=c.activation_words - 1)
        if c.list_depth <= 1 << 11:
            yield self.change(Opcode.GEMM, base, reach, list_base=c.list_depth - 1, act_list=1)
            yield self.change(Opcode.GEMM, base, reach, list_base=c.list_depth - 1, dest_list=1)
        if c.parameter_words < 1 << 12:
            yield self.change(Opcode.GEMM, base, reach, param_base=c.parameter_words)
        yield self.change(Opcode.GEMM, base, reach, dest_base=c.combine_rows - 1)
        to_buffer = {**base, "dest_kind": int(Dest.ACTIVATION), "dest_base": 4}
        yield self.change(
            Opcode.GEMM, to_buffer, reach, dest_kind=to_buffer["dest_kind"], dest_base=c.activation_words - 1
        )

    def when_it_runs(self) -> Iterator[IllegalStream]:
        """Yield mistakes that show only when the instruction runs."""
        c, base = self.config, self.gemm
        reach, miss = ErrorCode.RANGE, ErrorCode.VCACHE_MISS
        # From bases of 1 on, 16 bits of a list entry reach beyond the largest memory.
        listed = {**base, "list_base": 2, "tokens": 1, "act_base": 1, "dest_base": 1}
        yield self.change(Opcode.GEMM, listed, reach, "source", act_list=1)
        yield self.change(Opcode.GEMM, {**listed, "list_base": 3}, reach, "row", dest_list=1)
        to_buffer = {**listed, "dest_kind": int(Dest.ACTIVATION), "dest_base": 4, "list_base": 3}
        yield self.change(Opcode.GEMM, to_buffer, reach, "word", dest_list=1)
        yield self.change(Opcode.GEMM, base, miss, "never filled", vcache_base=2)
        yield self.change(Opcode.GEMM, base, miss, "other tag", tag=6)
        yield self.change(Opcode.GEMM, base, miss, "second tile", vcache_base=1, k_slices=2)
        never = pack(Opcode.GEMM, {**base, "wait1_sem": 1, "wait1_count": 1})
        yield self.make("GEMM waits for a semaphore that nothing posts", ErrorCode.WATCHDOG, never, None)
        if c.semaphore_bits <= 8 and len(self.prefix) + (1 << c.semaphore_bits) < self.stream_room // INSTRUCTION_BYTES:
            post = {k: v for k, v in self.load.items() if k != "wait0_count"} | {"post0_en": 1, "post0_sem": 2}
            posts = [pack(Opcode.LOAD, {**post, "count": 1})] * (1 << c.semaphore_bits)
            yield self.make("semaphore overflow", ErrorCode.SEMAPHORE, posts, None)
