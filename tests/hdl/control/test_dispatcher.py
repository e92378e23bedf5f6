# SPDX-License-Identifier: Apache-2.0
"""Decode and dispatch against the Python statement of legality."""

from __future__ import annotations

import random
from typing import Any

import pytest
from amaranth.sim import Simulator

from hdl.common.queues import load_queue, queue_count, store_queue, vector_queue
from hdl.config import PRESETS, MachineConfig
from hdl.control.dispatcher import Dispatcher, InstructionChecker
from hdl.isa import (
    Dest,
    Format,
    Instruction,
    Limits,
    LoadDest,
    Mapping3D,
    Mode,
    Opcode,
    StoreFormat,
    VectorBits,
    VectorDest,
    VectorFn,
    VectorOp,
    VectorSum,
    check_word,
    decode,
    encode,
    fields_of,
    gang_tiers,
)
from hdl.isa.error_codes import ErrorCode


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
            "dest_tiers": 0 if kind == LoadDest.ROWS else rng.randrange(1, 1 << config.tiers),
            "shift": rng.choice([0, 1, 16]) if kind == LoadDest.ROWS else 0,
            "dest_base": rng.randrange(config.list_depth),
            "count": rng.randrange(1, config.list_depth),
            "addr": rng.randrange(1 << 10),
        }
        if kind in (LoadDest.VCACHE, LoadDest.PARAMETER) and rng.random() < 0.3:
            values |= {"slot_en": 1, "slot": rng.randrange(config.expert_slots + 1), "slot_stride": rng.randrange(99)}
    elif opcode == Opcode.STORE:
        values = {
            "format": rng.choice(list(StoreFormat)),
            "group": rng.randrange(2),
            "row_base": rng.randrange(config.combine_rows),
            "rows": rng.choice([1, 2, rng.randrange(1, 10), rng.randrange(1, config.combine_rows)]),
            "row_gap": rng.choice([0, 0, 1, 3, 31, 32, 1023]),
            "addr_gap": rng.choice([0, 3]),
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
            "param_hold": rng.randrange(2),
        }
    elif opcode == Opcode.VECTOR:
        values = random_vector(rng, config)
    elif opcode == Opcode.ROUTE:
        values = {
            "tokens": rng.choice([0, 1, 5, 1023]),
            "choices": rng.choice([0, 1, 2, min(15, config.columns), 15]),
            "experts": rng.choice([0, 1, config.expert_slots, min(511, config.expert_slots + 1)]),
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


def random_vector(rng: random.Random, config: MachineConfig) -> dict[str, int]:
    """Return fields of a VECTOR that are often legal, and often just not."""
    op = rng.choice(list(VectorOp))
    reduction = op in (VectorOp.MAX, VectorOp.SUMSQ, VectorOp.ARGMAX)
    dest = VectorDest.NONE if reduction else rng.choice([VectorDest.ROWS, VectorDest.ROWS, VectorDest.ACTIVATION])
    to_buffer = dest == VectorDest.ACTIVATION
    b_rows = rng.choice([1, 1, 2, 4, 8])
    values = {
        "op": op,
        "vectors": rng.randint(1, 5),
        "rows": b_rows * rng.randint(1, 5) if rng.random() < 0.8 else rng.randint(1, 511),
        "b_rows": b_rows,
        "dest_kind": dest,
        "dest_tiers": rng.randrange(1, 1 << config.tiers) if to_buffer else 0,
        "bits": VectorBits.BITS8 if to_buffer else rng.choice(list(VectorBits)),
        "masked": 0 if op == VectorOp.GATHER else rng.randrange(2),
        "length": rng.choice([0, 1, config.columns, config.columns + 1, 0xFFFF]),
    }
    if op == VectorOp.MAP:
        values |= {"fn": rng.choice(list(VectorFn)), "sum": rng.choice(list(VectorSum))}
    return {name: int(value) for name, value in values.items()}


def static_code(word: bytes, config: MachineConfig) -> int:
    """Return what the dispatcher itself reports: the rest (addresses, GEMM ranges) is the units' business."""
    violation = check_word(word, config, Limits.whole(config))
    if violation is None or violation.code == ErrorCode.ADDRESS:
        return 0
    if violation.code == ErrorCode.RANGE:
        opcode = word[0] & 0x3F
        if opcode in (Opcode.VECTOR, Opcode.ROUTE) or (opcode == Opcode.GEMM and violation.field != "tokens"):
            return 0
    return int(violation.code)


def target_queues(word: bytes, config: MachineConfig) -> int:
    """Return the queues of a legal instruction."""
    instruction = decode(word)
    if instruction.opcode == Opcode.GEMM:
        return sum(1 << tier for tier in gang_tiers(instruction))
    if instruction.opcode == Opcode.LOAD:
        groups = (0, 1) if instruction["format"] == Format.PAIR else (instruction["group"],)
        return sum(1 << load_queue(config, group) for group in groups)
    vector = 1 << vector_queue(config)
    queues = {Opcode.STORE: 1 << store_queue(config), Opcode.VECTOR: vector, Opcode.ROUTE: vector}
    return queues.get(instruction.opcode, 0)


@pytest.mark.parametrize("name", ["nano", "tiny", "small"])
def test_checker_agrees_with_legality(name: str) -> None:
    """Random and spoilt instructions: same code, same target queues."""
    config = PRESETS[name]
    rng = random.Random(name)
    dut = InstructionChecker(config)
    seen: set[int] = set()
    legal: set[int] = set()

    async def bench(ctx: Any) -> None:
        for _ in range(2500):
            word = random_instruction(rng, config)
            ctx.set(dut.word, int.from_bytes(word, "little"))
            await ctx.delay(1e-9)
            expected = static_code(word, config)
            assert ctx.get(dut.code) == expected, word.hex()
            seen.add(expected)
            if not expected:
                assert ctx.get(dut.targets) == target_queues(word, config), word.hex()
                legal.add(word[0] & 0x3F)
                assert ctx.get(dut.is_end) == (word[0] & 0x3F == Opcode.END)

    sim = Simulator(dut)
    sim.add_testbench(bench)
    sim.run()
    assert legal == set(Opcode)
    assert seen >= {0, ErrorCode.ILLEGAL_OPCODE, ErrorCode.ILLEGAL_FIELD, ErrorCode.RANGE}


@pytest.mark.parametrize("name", ["nano", "tiny", "small", "medium", "large"])
def test_gaps_reach_to_the_last_row_and_no_further(name: str) -> None:
    """For each gap and number of rows: the last base that is legal, and the first that is not."""
    config = PRESETS[name]
    dut = InstructionChecker(config)

    async def bench(ctx: Any) -> None:
        for gap in (0, 1, 2, 31, 32, 33, 62, 63, 512, 992, 1022, 1023):
            most = [min(config.combine_rows // (gap + 1), 65535), min(config.combine_rows, 65535)]
            for rows in (1, 2, 3, 7, 31, 64, 255, *most, 65535):
                last = config.combine_rows - 1 - (rows - 1) * (1 + gap)
                for base in (0, last - 1, last, last + 1, 65535):
                    if 0 <= base < 1 << 16 and rows:
                        values = {"format": int(StoreFormat.DISCARD), "row_base": base, "rows": rows, "row_gap": gap}
                        word = encode(Instruction(Opcode.STORE, values))
                        ctx.set(dut.word, int.from_bytes(word, "little"))
                        await ctx.delay(1e-9)
                        assert ctx.get(dut.code) == (0 if base <= last else ErrorCode.RANGE), values
                        assert static_code(word, config) == ctx.get(dut.code)

    sim = Simulator(dut)
    sim.add_testbench(bench)
    sim.run()


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


VECTOR = {"vectors": 1, "rows": 1, "dest_kind": int(VectorDest.ROWS)}
ILLEGAL = bytes([63]) + bytes(31)


def run_dispatcher(
    config: MachineConfig, stream: list[bytes], cycles: int, feed_rate: float = 1.0, drain_rate: float = 1.0
) -> tuple[dict[str, list[int]], list[list[int]]]:
    """Feed a stream and take from the queues at random.

    Returns
    -------
    dict of str to list of int
        ``issued``, ``full``, ``starved``, ``error``, ``ended``, ``empty``, ``oldest_pc``: value in every cycle, and
        ``taken``: instructions accepted so far.
    list of list of int
        Per queue, the instructions it handed out.
    """
    dut = Dispatcher(config)
    rng = random.Random(f"{feed_rate} {drain_rate} {len(stream)}")
    names = ("issued", "full", "starved", "ended", "empty", "oldest_pc")
    trace: dict[str, list[int]] = {name: [] for name in (*names, "error", "taken")}
    out: list[list[int]] = [[] for _ in range(queue_count(config))]

    async def bench(ctx: Any) -> None:
        position = 0
        offered = False
        for _ in range(cycles):
            offered = offered or (position < len(stream) and rng.random() < feed_rate)
            ctx.set(dut.instructions.valid, offered)
            if offered:
                ctx.set(dut.instructions.payload.word, int.from_bytes(stream[position], "little"))
                ctx.set(dut.instructions.payload.pc, position)
            for queue in dut.queue:
                ctx.set(queue.ready, rng.random() < drain_rate)
            for name in names:
                trace[name].append(int(ctx.get(getattr(dut, name))))
            trace["error"].append(int(ctx.get(dut.error.code)) if ctx.get(dut.error.valid) else 0)
            trace["taken"].append(position)
            for index, queue in enumerate(dut.queue):
                if ctx.get(queue.valid) and ctx.get(queue.ready):
                    out[index].append(ctx.get(queue.payload.pc))
            if offered and ctx.get(dut.instructions.ready):
                position += 1
                offered = False
            await ctx.tick()

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(bench)
    sim.run()
    return trace, out


def test_one_instruction_a_cycle() -> None:
    """The checks take two cycles of latency and none of throughput."""
    config = PRESETS["nano"]
    stream = [encode(Instruction(Opcode.VECTOR, VECTOR))] * 20 + [encode(Instruction(Opcode.END, {}))]
    trace, out = run_dispatcher(config, stream, 40)
    assert trace["issued"] == [0, 0, 0, *[1] * 21, *[0] * 16]
    assert out[vector_queue(config)] == list(range(20))
    assert trace["starved"] == [1, 1, 1, *[0] * 37], "before the first instruction; not after END"
    assert trace["ended"].index(1) == 24
    assert trace["empty"][0] and not any(trace["empty"][1:24]) and trace["empty"][-1]


def test_an_illegal_instruction_parts_the_stream() -> None:
    """All before it enter, however slowly the queues drain; nothing after it does; the report is the first one's."""
    config = PRESETS["nano"]
    legal = [encode(Instruction(Opcode.VECTOR, VECTOR)), encode(Instruction(Opcode.NOP, {}))]
    for place in range(1, 12):
        for feed, drain in ((1.0, 1.0), (0.4, 1.0), (1.0, 0.3)):
            stream = [legal[i % 3 == 2] for i in range(place)] + [ILLEGAL, legal[0], ILLEGAL, legal[0]]
            trace, out = run_dispatcher(config, stream, 120, feed, drain)
            assert out[vector_queue(config)] == [i for i in range(place) if i % 3 != 2]
            assert sum(trace["issued"]) == place
            assert trace["error"][-1] == ErrorCode.ILLEGAL_OPCODE and trace["oldest_pc"][-1] == place
            first = trace["error"].index(ErrorCode.ILLEGAL_OPCODE)
            assert all(trace["error"][first:]) and not any(trace["issued"][first:])
            assert sum(trace["issued"][:first]) == place
            assert not trace["ended"][-1] and not trace["empty"][-1]


def test_nothing_after_end_counts() -> None:
    """What was taken behind END is dropped, legal or not, and no more is taken."""
    config = PRESETS["nano"]
    legal = encode(Instruction(Opcode.VECTOR, VECTOR))
    stream = [legal, encode(Instruction(Opcode.END, {})), ILLEGAL, legal, legal, legal, legal]
    trace, out = run_dispatcher(config, stream, 40)
    assert out[vector_queue(config)] == [0]
    assert trace["ended"][-1] and trace["empty"][-1] and not any(trace["error"])
    assert trace["taken"][-1] < len(stream) and sum(trace["issued"]) == 2


def test_every_waiting_cycle_is_an_event() -> None:
    """Until END, a cycle issues, finds a full queue, or has nothing to dispatch: exactly one of them."""
    config = PRESETS["nano"]
    stream = [encode(Instruction(Opcode.VECTOR, VECTOR))] * 40 + [encode(Instruction(Opcode.END, {}))]
    for feed, drain in ((0.5, 0.5), (1.0, 0.2), (0.2, 1.0)):
        trace, out = run_dispatcher(config, stream, 600, feed, drain)
        assert out[vector_queue(config)] == list(range(40))
        end = trace["ended"].index(1)
        for events in zip(*(trace[name][:end] for name in ("issued", "full", "starved")), strict=True):
            assert sum(events) == 1
        assert not any(trace[name][i] for name in ("issued", "full", "starved") for i in range(end, 600))
        if feed != drain:
            assert sum(trace["full" if drain < feed else "starved"]) > 50


def test_halt_keeps_everything_out() -> None:
    config = PRESETS["nano"]
    dut = Dispatcher(config)

    async def bench(ctx: Any) -> None:
        word = encode(Instruction(Opcode.VECTOR, VECTOR))
        ctx.set(dut.instructions.payload.word, int.from_bytes(word, "little"))
        ctx.set(dut.instructions.valid, 1)
        for _ in range(2):
            await ctx.tick()
        ctx.set(dut.halt, 1)
        for _ in range(20):
            assert not ctx.get(dut.instructions.ready) and not ctx.get(dut.issued) and not ctx.get(dut.error.valid)
            await ctx.tick()
        assert not ctx.get(dut.waiting)

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(bench)
    sim.run()
