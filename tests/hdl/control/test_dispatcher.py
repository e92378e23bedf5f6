# SPDX-License-Identifier: Apache-2.0
"""Decode and dispatch against the Python statement of legality."""

from __future__ import annotations

import random
from typing import Any

import pytest
from amaranth.sim import Simulator

from hdl.config import PRESETS, MachineConfig
from hdl.control.dispatcher import Dispatcher, InstructionChecker
from hdl.errors_hw import ErrorCode
from hdl.isa import (
    Dest,
    Format,
    Instruction,
    LoadDest,
    Mapping3D,
    Mode,
    Opcode,
    StoreFormat,
    encode,
    fields_of,
)
from hdl.legality import Limits, check_word, gang_tiers


def random_instruction(rng: random.Random, config: MachineConfig) -> bytes:
    """Return an instruction that is legal more often than not, sometimes with one bit or field spoilt."""
    opcode = rng.choice(list(Opcode))
    values: dict[str, int] = {}
    if opcode == Opcode.LOAD:
        kind = rng.choice(list(LoadDest))
        values = {
            "format": rng.choice(list(Format)) if kind == LoadDest.VCACHE else Format.BYTES,
            "group": rng.randrange(2),
            "dest_kind": kind,
            "dest_tiers": rng.randrange(1, 1 << config.tiers),
            "dest_base": rng.randrange(config.list_depth),
            "count": rng.randrange(1, config.list_depth),
            "addr": rng.randrange(1 << 10),
        }
    elif opcode == Opcode.STORE:
        values = {
            "format": rng.choice(list(StoreFormat)),
            "group": rng.randrange(2),
            "row_base": rng.randrange(config.combine_rows),
            "rows": rng.randrange(1, config.combine_rows),
        }
    elif opcode == Opcode.GEMM:
        base = rng.randrange(config.tiers)
        count = rng.randint(1, config.tiers - base)
        dest = rng.choice(list(Dest))
        values = {
            "tier_base": base,
            "tier_count": count,
            "mapping": Mapping3D.ALONE if count == 1 else rng.choice([Mapping3D.M, Mapping3D.N, Mapping3D.K]),
            "order": rng.randrange(2),
            "tokens": rng.randint(1, config.accumulator_depth),
            "k_slices": rng.randint(1, 3),
            "n_tiles": rng.randint(1, 3),
            "mode": Mode.REQUANT8 if dest == Dest.ACTIVATION else Mode.REQUANT16,
            "shift": rng.randrange(48),
            "dest_kind": dest,
            "dest_tiers": rng.randrange(1 << config.tiers),
        }
    if opcode not in (Opcode.NOP, Opcode.END):
        values |= {"wait0_sem": 1, "wait0_count": rng.randrange(3), "wait1_sem": 2, "wait1_count": rng.randrange(3)}
        values |= {"post0_en": rng.randrange(2), "post0_sem": rng.randrange(config.semaphores)}
    word = bytearray(encode(Instruction(opcode, values)))
    spoil = rng.randrange(4)
    if spoil == 0:
        word[rng.randrange(32)] ^= 1 << rng.randrange(8)
    elif spoil == 1:
        fields = fields_of(opcode)
        index = rng.randrange(len(fields))
        lsb = sum(field.width for field in fields[:index])
        mask = ((1 << fields[index].width) - 1) << lsb
        value = rng.choice([0, mask, rng.getrandbits(fields[index].width) << lsb])
        word = bytearray(((int.from_bytes(word, "little") & ~mask) | value).to_bytes(32, "little"))
    return bytes(word)


def static_code(word: bytes, config: MachineConfig) -> int:
    """Return what the dispatcher itself reports: the rest (addresses, GEMM ranges) is the units' business."""
    violation = check_word(word, config, Limits.whole(config))
    if violation is None or violation.code == ErrorCode.ADDRESS:
        return 0
    gemm = word[0] & 0x3F == Opcode.GEMM
    if gemm and violation.code == ErrorCode.RANGE and violation.field != "tokens":
        return 0
    return int(violation.code)


@pytest.mark.parametrize("name", ["nano", "tiny", "small"])
def test_checker_agrees_with_legality(name: str) -> None:
    """Random and spoilt instructions: same code, same target queues."""
    config = PRESETS[name]
    rng = random.Random(name)
    dut = InstructionChecker(config)
    seen: set[int] = set()

    async def bench(ctx: Any) -> None:
        for _ in range(1500):
            word = random_instruction(rng, config)
            ctx.set(dut.word, int.from_bytes(word, "little"))
            await ctx.delay(1e-9)
            expected = static_code(word, config)
            assert ctx.get(dut.code) == expected, word.hex()
            seen.add(expected)
            if not expected and word[0] & 0x3F == Opcode.GEMM:
                from hdl.isa import decode

                mask = sum(1 << tier for tier in gang_tiers(decode(word)))
                assert ctx.get(dut.targets) == mask

    sim = Simulator(dut)
    sim.add_testbench(bench)
    sim.run()
    assert seen >= {0, ErrorCode.ILLEGAL_OPCODE, ErrorCode.ILLEGAL_FIELD, ErrorCode.RANGE}


def test_dispatch_is_in_order_and_atomic() -> None:
    """A gang's instruction enters both queues in the same cycle, also when one of them is full."""
    config = PRESETS["tiny"]
    dut = Dispatcher(config)
    alone = {"tier_count": 1, "tokens": 1, "k_slices": 1, "n_tiles": 1}
    to_tier0 = encode(Instruction(Opcode.GEMM, alone))
    gang = encode(Instruction(Opcode.GEMM, alone | {"tier_count": 2, "mapping": int(Mapping3D.N)}))
    stream = [to_tier0] * (config.queue_depth + 3) + [gang, encode(Instruction(Opcode.END, {}))]
    taken: list[list[int]] = [[], []]

    async def feed(ctx: Any) -> None:
        for pc, word in enumerate(stream):
            ctx.set(dut.instructions.payload.word, int.from_bytes(word, "little"))
            ctx.set(dut.instructions.payload.pc, pc)
            ctx.set(dut.instructions.valid, 1)
            await ctx.tick().until(dut.instructions.ready)
        ctx.set(dut.instructions.valid, 0)

    async def drain(ctx: Any) -> None:
        for _ in range(40):
            await ctx.tick()
        assert not ctx.get(dut.queue[1].valid), "the gang's instruction must wait for both queues"
        assert ctx.get(dut.full)
        for tier in range(2):
            ctx.set(dut.queue[tier].ready, 1)
        for _ in range(60):
            for tier in range(2):
                if ctx.get(dut.queue[tier].valid):
                    taken[tier].append(ctx.get(dut.queue[tier].payload.pc))
            await ctx.tick()
        assert ctx.get(dut.ended)
        assert ctx.get(dut.empty)

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(feed)
    sim.add_testbench(drain)
    sim.run()
    last = len(stream) - 2
    assert taken == [[*range(last), last], [last]]
