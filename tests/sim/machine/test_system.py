# SPDX-License-Identifier: Apache-2.0
"""The emitted machine against the executor: every byte of both memories, every exact counter, every error."""

from __future__ import annotations

import random
from functools import cache

import numpy as np
import pytest

from hdl.config import PRESETS, MachineConfig
from hdl.isa import Opcode
from hdl.isa.asm import assemble, to_binary
from hdl.isa.error_codes import ErrorCode
from hdl.isa.legality import Limits
from scheduler.cost.links import count_words, link_bytes
from scheduler.cost.model import simulate
from scheduler.stream.prove import check
from scheduler.stream.table import Table
from sim.machine.system import Job, MemoryKnobs, SimulatedMachine
from sim.measure.crosscheck import check_illegal, check_random, random_knobs
from sim.stimulus.streams import RandomStream, StreamOptions, illegal_streams, random_stream
from tests.support.links import compare_words, counted

CONFIGS: dict[str, MachineConfig] = {
    "nano": PRESETS["nano"],
    "tiny": PRESETS["tiny"],
    # Three tiers, rows twice the columns, two channels in each group: what no preset has.
    "odd": PRESETS["nano"].replace(
        name="odd", tiers=3, rows=8, columns=4, channels_per_group=2, channel_bytes=4, row_fifo_depth=64, result_lanes=2
    ),
    "edge": PRESETS["tiny"].replace(name="edge", stationary_feed="edge"),
}


@cache
def machine(name: str) -> SimulatedMachine:
    """Return the compiled simulator of a configuration (built once per content)."""
    return SimulatedMachine(CONFIGS[name], memory_bits=18)


EVERYTHING = StreamOptions.everything(slots=True)


def run_random(name: str, first: int, count: int, options: StreamOptions | None = None) -> None:
    """Run `count` random streams with random memory behaviour."""
    rng = random.Random(first)
    streams = [random_stream(CONFIGS[name], seed, options=options) for seed in range(first, first + count)]
    check_random(machine(name), streams, [random_knobs(rng) for _ in streams])


@pytest.mark.parametrize("name", ["nano", "tiny"])
def test_random_streams(name: str) -> None:
    """Random streams under random stalls leave exactly the executor's memory and counters."""
    run_random(name, 0, 30)


@pytest.mark.parametrize("name", ["nano", "tiny"])
def test_random_streams_with_vectors_and_slots(name: str) -> None:
    """The same with the whole instruction set: VECTOR, all loads and stores, ROUTE, slots."""
    run_random(name, 200, 20, EVERYTHING)


def test_a_slot_is_not_looked_up_ahead_of_a_gang() -> None:
    """Tier 0's GEMM with a slot comes after a gang's; what this waits for in tier 1 is behind the ROUTE."""
    config = CONFIGS["tiny"]
    gemm = "gemm tokens=2 k_slices=1 n_tiles=1 act_stride=1 tag=1 mode=requant16 dest_kind=combine dest_stride=1"
    text = f"""
        load dest_kind=activation dest_tiers=0..1 count=4
        load dest_kind=parameter dest_tiers=0..1 count=1 addr=32 post=s0
        load dest_tiers=0..1 count=1 tag=1 addr=64
        {gemm} wait=s0
        {gemm} dest=6 post=s1
        vector op=argmax first=1 vectors=2 rows=1 a_stride=1 wait=s1
        route tokens=2 choices=1 experts=8 a_stride=1 source_stride=1 dest=6 dest_stride=1 post=s2
        {gemm} dest=2 tiers=1 wait=s2 post=s3
        {gemm} dest=4 tiers=0..1 mapping=k post=s3
        {gemm} act_list=1 dest_list=1 slot_en=1 slot=0 post=s3
        store format=int32 rows=8 addr=512 group=1 wait=s3:3
        end"""
    instructions = assemble(text)
    image = random.Random(1).randbytes(8192) + to_binary(instructions)
    stream = RandomStream(config, 0, instructions, (image, bytes(32768)), Limits.whole(config), 8192)
    arrays = [np.frombuffer(data, dtype=np.uint8) for data in stream.images]
    check(Table.of(instructions), config, (arrays[0], arrays[1]), stream.limits)
    knobs = [MemoryKnobs(latency=latency) for latency in (2, 7, 20, 60)]
    check_random(machine("tiny"), [stream] * len(knobs), knobs)


def test_off_chip_bytes_are_those_of_the_machine() -> None:
    """Reads, writes and fetch on the RTL; the fetch runs ahead past END, but not further than its buffer."""
    config = PRESETS["nano"]
    streams = [random_stream(config, seed, options=EVERYTHING) for seed in range(600, 604)]
    results = machine("nano").run([Job(images=s.images, stream_base=s.stream_base, limits=s.limits) for s in streams])
    for stream, result in zip(streams, results, strict=True):
        assert result.done
        counters, (_, slots) = result.counters, counted(stream)
        compare_words(config, count_words(config, stream.instructions, slot_counts=slots), counters)
        own = link_bytes(config, stream.instructions, slot_counts=slots)
        reads, writes = (sum(counters[f"{way}_beats_{g}"] for g in range(2)) for way in ("read", "write"))
        assert own.offchip_by["read"] == reads * config.group_bytes
        assert own.offchip_by["write"] == writes * config.group_bytes
        fetched = counters["fetch_beats"]
        assert 0 <= fetched * config.group_bytes - own.offchip_by["fetch"] <= 512
        exact = link_bytes(config, stream.instructions, slot_counts=slots, fetch_beats=fetched)
        assert exact.offchip == (reads + writes + fetched) * config.group_bytes


def test_tiles_that_are_kept() -> None:
    """A second stream finds the tiles below KEPT_TILES as the first has left them, no others; an error takes all."""
    gemm = "gemm tokens=2 k_slices=1 n_tiles=1 act_stride=1 tag=63 mode=requant16 dest_kind=combine"
    first = f"""
        load dest_kind=activation dest_tiers=0 count=2 post=s0
        load dest_kind=parameter dest_tiers=0 count=1 addr=32 post=s0
        load dest_tiers=0 dest=3 count=1 tag=63 addr=64
        {gemm} vcache=3 wait=s0:2 post=s1
        store format=int32 rows=2 addr=512 group=1 wait=s1
        end"""
    again = f"{gemm} vcache=3 post=s1\nstore format=int32 rows=2 addr=640 group=1 wait=s1\nend"
    image, base = bytearray(random.Random(1).randbytes(8192)), 8192
    second = base + len(to_binary(assemble(first)))
    image += to_binary(assemble(first)) + to_binary(assemble(again))
    both = {"images": (bytes(image), bytes(32768)), "stream_base": base}
    kept, less = ({"images": None, "stream_base": second, "kept_tiles": tiles} for tiles in (4, 3))
    jobs = [Job(**own) for own in (both, kept, less, kept, both, kept)]  # type: ignore[arg-type]
    results = machine("tiny").run(jobs)
    assert [result.done for result in results] == [True, True, False, False, True, True]
    assert {result.error for result in results if not result.done} == {ErrorCode.VCACHE_MISS}
    for number in (1, 5):
        memory = results[number].memory
        assert memory is not None and memory[1][512 * 32 : 514 * 32].any()
        assert np.array_equal(memory[1][512 * 32 : 514 * 32], memory[1][640 * 32 : 642 * 32])


def scored_stream(experts: tuple[int, int], full_score: int, tier: int = 1) -> RandomStream:
    """Return a stream that routes a token to each of two experts, and loads and uses the weights of both.

    Those of the first go to tier 0, those of the second to another one, or to the same. The second GEMM has nothing
    but the posts of the loads behind theirs, of which engine 0's stays behind those that wait for engine 1.
    """
    config = CONFIGS["tiny"]
    load = "load format=pair count=48 slot_en=1 slot_stride=128 addr=64 addr_low=640 scored=1"
    gemm = "gemm tokens=1 k_slices=48 n_tiles=1 act_list=1 dest_list=1 slot_en=1"
    text = f"""
        load dest_kind=rows count=3 addr=16
        load dest_kind=activation dest_tiers=0..1 count=2
        load dest_kind=parameter dest_tiers=0..1 count=1 addr=32 post=s0
        vector op=argmax first=1 vectors=2 rows=1 a=0 a_stride=1 wait=s0
        route tokens=2 choices=1 experts=4 a=2 by_number=1 full_score={full_score} list=4 dest_stride=1 post=s2,s3
        {load} slot={experts[0]} tag=1 dest_tiers=0 wait=s2 post=s4
        {load} slot={experts[1]} tag=2 dest_tiers={tier} dest=100 post=s4
        load dest_kind=parameter dest_tiers=0 dest=1 count=1 addr=40 post=s5
        load dest_kind=parameter dest_tiers=0 dest=2 count=1 addr=48 group=1 post=s5
        {gemm} tiers={tier} vcache=100 tag=2 slot={experts[1]}
        {gemm} vcache=0 tag=1 slot={experts[0]}
        store format=int32 rows=4 addr=2048 group=1 wait=s6
        end"""
    lines = text.replace("act_list=1", "mode=requant16 dest_kind=combine act_list=1").splitlines()
    numbers = [n for n, line in enumerate(lines) if "gemm" in line]
    lines[numbers[0]] += " wait=s3,s4:2 post=s7"
    lines[numbers[1]] += " wait=s7,s5:2 post=s6"
    instructions = assemble("\n".join(lines))
    rng = random.Random(3)
    image = bytearray(rng.randbytes(65536))
    rows = np.zeros((3, config.columns), "<i2")
    rows[0, experts[0]] = rows[1, experts[1]] = 9
    rows[2] = 30000  # every gate
    image[16 * 32 : 16 * 32 + rows.nbytes] = rows.tobytes()
    base = len(image)
    image += to_binary(instructions)
    return RandomStream(
        config, 0, instructions, (bytes(image), rng.randbytes(1 << 18)[: 1 << 17]), Limits.whole(config), base
    )


def test_loads_of_important_experts() -> None:
    """Of unimportant experts half the bytes are read.

    Two of opposite parity load at the same time, in either order, also to the same tier.
    """
    pairs = ((0, 1, 1), (1, 0, 1), (1, 0, 0), (0, 2, 1), (3, 1, 1), (0, 2, 0))
    streams = {
        (pair, score): scored_stream(pair[:2], score, pair[2]) for pair in pairs for score in (30000, 30001)
    }  # fmt: skip
    config, jobs, cycles = CONFIGS["tiny"], [], {}
    for stream in streams.values():
        images = [np.frombuffer(data, dtype=np.uint8) for data in stream.images]
        check(Table.of(stream.instructions), config, (images[0], images[1]), stream.limits)
        jobs.append(Job(images=stream.images, stream_base=stream.stream_base))
    for seed in range(3):
        knobs = [random_knobs(random.Random(seed))] * len(streams)
        check_random(machine("tiny"), list(streams.values()), knobs)
    for key, result in zip(streams, machine("tiny").run(jobs), strict=True):
        counters = result.counters
        half = 48 * config.plane_bytes // config.group_bytes
        assert counters["loads_reduced"] == 2 * (key[1] > 30000)
        _, slots = counted(streams[key])
        forecast = simulate(config, streams[key].instructions, slot_counts=slots)
        assert abs(forecast.cycles - counters["cycles"]) <= 12
        cycles[key] = counters["cycles"], half
    for pair in pairs[:3]:
        saved = cycles[pair, 30000][0] - cycles[pair, 30001][0]
        assert saved > 0.9 * cycles[pair, 30000][1], (pair, saved)
    for pair in pairs[3:]:  # one group is idle
        assert abs(cycles[pair, 30000][0] - cycles[pair, 30001][0]) < 0.1 * cycles[pair, 30000][1]


@pytest.mark.parametrize(("group", "address", "pc"), [(0, 2048, 5), (1, 2048 + 4096, 6), (1, 640 * 32, 5)])
def test_an_axi_error_in_one_plane(group: int, address: int, pc: int) -> None:
    """An error on one group while the other works: its code, its load, and the next stream is right.

    The first two are high planes that an engine reads alone, the third is the low plane of a load of both.
    """
    reduced, full = scored_stream((0, 3), 30001), scored_stream((0, 3), 30000)
    bad = MemoryKnobs(read_error=(group, address + 64, address + 68))
    stream = full if address == 640 * 32 else reduced
    jobs = [
        Job(images=stream.images, stream_base=stream.stream_base, knobs=bad),
        Job(images=stream.images, stream_base=stream.stream_base),
    ]
    broken, again = machine("tiny").run(jobs)
    assert (broken.done, broken.error, broken.error_pc) == (False, ErrorCode.AXI_READ, pc)
    assert again.done
    expected = np.frombuffer(stream.images[1], np.uint8)
    assert broken.memory is not None and np.array_equal(broken.memory[1][: expected.size], expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["odd", "edge"])
def test_random_streams_on_unusual_machines(name: str) -> None:
    """The same on rectangular tiers, three of them, two channels a group; and on the edge-fed control."""
    run_random(name, 1000, 30)
    run_random(name, 1100, 30, EVERYTHING)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CONFIGS))
def test_many_random_streams(name: str) -> None:
    """A longer random regression."""
    run_random(name, 5000, 300)
    run_random(name, 6000, 300, EVERYTHING)


def test_a_gang_that_has_not_begun_is_a_barrier_for_semaphores() -> None:
    """Tier 0's instruction after a gang wants the semaphore that the one before the gang waits for in tier 1."""
    config = CONFIGS["tiny"]
    gemm = "gemm tokens=2 k_slices=1 n_tiles=1 act_stride=1 tag=1 mode=requant16 dest_kind=combine dest_stride=1"
    text = f"""
        load dest_kind=activation dest_tiers=0..1 count=2 post=s1
        load dest_tiers=0..1 count=1 tag=1 addr=64
        store format=discard rows=1 wait=s1 post=s0
        {gemm} tiers=1 wait=s0 post=s2
        {gemm} dest=4 tiers=0..1 mapping=k post=s0
        {gemm} dest=8 wait=s0 post=s2
        store format=int32 rows=12 addr=512 group=1 wait=s2:2
        end"""
    instructions = assemble(text)
    image = random.Random(1).randbytes(8192) + to_binary(instructions)
    limits = Limits.whole(config)
    images = (image, bytes(8192))
    arrays = (np.frombuffer(image, dtype=np.uint8), np.zeros(8192, dtype=np.uint8))
    check(Table.of(instructions), config, arrays, limits)
    jobs = [
        Job(images=images, stream_base=8192, knobs=MemoryKnobs(latency=latency), max_cycles=20_000, watchdog=2_000)
        for latency in (2, 7, 20, 60)
    ]
    for result in machine("tiny").run(jobs):
        assert result.done, f"{result.error!r} at instruction {result.error_pc}"


def test_bad_streams_stop_and_the_machine_restarts() -> None:
    """Every kind of illegal stream: right code, instruction and address, nothing changed, next stream correct."""
    config = CONFIGS["nano"]
    bad = list(illegal_streams(config, vector=True))
    rng = random.Random(1)
    check_illegal(machine("nano"), bad, random_stream(config, 5, 10, EVERYTHING), [random_knobs(rng) for _ in bad])


@pytest.mark.slow
def test_bad_streams_on_two_tiers() -> None:
    """The same with gangs."""
    config = CONFIGS["tiny"]
    bad = list(illegal_streams(config, vector=True))
    rng = random.Random(2)
    check_illegal(machine("tiny"), bad, random_stream(config, 5, 10, EVERYTHING), [random_knobs(rng) for _ in bad])


@pytest.mark.parametrize("channel", ["read", "write", "fetch"])
def test_axi_errors(channel: str) -> None:
    """An error response on each channel stops the machine with the code and the failing address."""
    config = CONFIGS["nano"]
    stream = random_stream(config, 11)
    group, first = {
        "read": next((i["group"], i["addr"] * 32) for i in stream.instructions if i.opcode == Opcode.LOAD),
        "write": next((i["group"], i["addr"] * 32) for i in stream.instructions if i.opcode == Opcode.STORE),
        "fetch": (0, stream.stream_base + 32 * 3),
    }[channel]
    if channel == "write":
        stores = [i for i in stream.instructions if i.opcode == Opcode.STORE and i["format"] != 3]
        group, first = stores[0]["group"], stores[0]["addr"] * 32
    span = (group, first, first + config.group_bytes)
    knobs = MemoryKnobs(
        read_error=None if channel == "write" else span, write_error=span if channel == "write" else None
    )
    failing = Job(images=stream.images, stream_base=stream.stream_base, limits=stream.limits, knobs=knobs)
    again = Job(images=stream.images, stream_base=stream.stream_base, limits=stream.limits)
    failed, restarted = machine("nano").run([failing, again])
    assert failed.error is not None
    assert failed.error.name == {"read": "AXI_READ", "write": "AXI_WRITE", "fetch": "AXI_FETCH"}[channel]
    assert failed.error_address // 4096 == first // 4096
    assert failed.memory is not None
    for g in range(2):
        low, high = stream.limits.window[g]
        image = stream.images[g]
        outside = [i for i in range(len(image)) if failed.memory[g][i] != image[i] and not low <= i < high]
        assert not outside
    assert restarted.done
