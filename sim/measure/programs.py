# SPDX-License-Identifier: Apache-2.0
"""Streams for the utilisation measurements: operands resident in V-Cache, or streamed from memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hdl.config import ADDRESS_UNIT, INSTRUCTION_BYTES, MachineConfig
from hdl.isa import Dest, Format, Instruction, LoadDest, Mapping3D, Mode, Opcode
from hdl.isa.legality import Limits
from sim.machine.system import place_stream

__all__ = [
    "Gang",
    "Program",
    "Residents",
    "StreamedProgram",
    "gangs_of",
    "macs_of",
    "memory_limits",
    "mix_program",
    "resident_images",
    "resident_program",
    "streamed_program",
]

K_SLICES = 8
"""Reduction slices of an output in these measurements, or what fits: 128 elements on `small`."""

MOST_N_TILES = 1024 // K_SLICES
"""Output tiles of an operation with one token."""

MEMORY_BYTES = 1 << 20
"""Memory of a group that these programs use at most."""

MOST_INSTRUCTIONS = 2048
"""Instructions of a stream; what would be longer is a shorter stream that runs several times."""

MOST_WAVES = 1 << 18
"""Waves per tier of a stream, likewise."""

TAG = 1


@dataclass(frozen=True)
class Gang:
    """A range of adjacent tiers that runs one operation."""

    base: int
    count: int
    mapping: Mapping3D


def gangs_of(config: MachineConfig, mapping: Mapping3D) -> list[Gang]:
    """Return the gangs that use the whole stack with one mapping: all tiers together, or each alone."""
    if mapping == Mapping3D.ALONE:
        return [Gang(tier, 1, mapping) for tier in range(config.tiers)]
    return [Gang(0, config.tiers, mapping)]


@dataclass(frozen=True)
class Residents:
    """What of a configuration's memories the measurements use, and where it lies in memory.

    Attributes
    ----------
    k_slices : int
        Reduction slices of every operation.
    tiles, words, parameters : int
        Resident tiles, activation words and requantisation words of each tier.
    setup_base, stream_base : int
        Byte addresses in group 0 of the stream that makes them resident and of the measured one.
    instructions : int
        Most instructions of the measured stream.
    """

    k_slices: int
    tiles: int
    words: int
    parameters: int
    setup_base: int
    stream_base: int
    instructions: int

    @staticmethod
    def of(config: MachineConfig) -> Residents:
        """Return what fits the on-chip memories and one group's memory."""
        room = memory_limits(config).memory_bytes[0]
        # Results go to the upper half of the activation buffer.
        words = min(config.activation_words // 2, room // 8 // config.rows)
        k_slices = min(K_SLICES, words, config.vcache_tiles)
        tiles = min(config.vcache_tiles, MOST_N_TILES * K_SLICES, room // 4 // config.plane_bytes)
        parameters = min(config.parameter_words, MOST_N_TILES, room // 8 // (2 * config.columns))
        data = tiles * config.plane_bytes + words * config.rows + parameters * 2 * config.columns
        setup = _aligned(config, data + 3 * _unit(config))
        base = _aligned(config, setup + 4 * INSTRUCTION_BYTES)
        instructions = min(MOST_INSTRUCTIONS, (room - base) // INSTRUCTION_BYTES)
        return Residents(k_slices, tiles, words, parameters, setup, base, instructions)

    def n_tiles(self, config: MachineConfig, mapping: Mapping3D, most: int) -> int:
        """Return the output tiles of an operation: at most `most`, and as many as weights and results have room for."""
        results = config.activation_words // 2 * config.rows // config.columns
        if mapping == Mapping3D.N:
            results //= config.tiers
        return max(1, min(self.tiles // self.k_slices, most, self.parameters, results))


def memory_limits(config: MachineConfig) -> Limits:
    """Return the register limits of these measurements: all of the memory that they use."""
    size = min(MEMORY_BYTES, 1 << config.address_bits)
    return Limits((size, size), ((0, size), (0, size)))


def _unit(config: MachineConfig) -> int:
    return max(ADDRESS_UNIT, config.group_bytes)


def _aligned(config: MachineConfig, address: int) -> int:
    return -(-address // _unit(config)) * _unit(config)


def gemm(config: MachineConfig, gang: Gang, tokens: int, k_slices: int, n_tiles: int, **more: int) -> Instruction:
    """Return a GEMM of `tokens` x (`k_slices` x R) x (`n_tiles` x C) per tier; results go to the tiers' own buffers.

    Result rows of all operations share the upper half of the activation buffer (nothing reads them).
    """
    values = {
        "tier_base": gang.base,
        "tier_count": gang.count,
        "mapping": int(gang.mapping),
        "tokens": tokens,
        "k_slices": k_slices,
        "n_tiles": n_tiles,
        "tag": TAG,
        "mode": int(Mode.REQUANT8),
        "shift": 20,
        "dest_kind": int(Dest.ACTIVATION),
        "dest_base": config.activation_words // 2,
        "dest_stride": 0,
    }
    return Instruction(Opcode.GEMM, values | more)


def _stride(words: int, tokens: int, k_slices: int) -> int:
    """Return the activation words from one token to the next; tokens share words where there are too few."""
    return min(k_slices, (words - k_slices) // max(1, tokens - 1))


def macs_of(config: MachineConfig, instructions: Sequence[Instruction]) -> int:
    """Return the useful multiply-accumulates of the GEMMs in a stream."""
    per_wave = config.rows * config.columns
    return sum(
        per_wave * i["tokens"] * i["k_slices"] * i["n_tiles"] * i["tier_count"]
        for i in instructions
        if i.opcode == Opcode.GEMM
    )


class _Image:
    """Both groups' memories, filled from the bottom."""

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        self.groups = (bytearray(), bytearray())

    def put(self, group: int, data: bytes) -> int:
        """Append data and return its address in the units of instructions."""
        image = self.groups[group]
        image.extend(bytes(_aligned(self.config, len(image)) - len(image)))
        base = len(image)
        image.extend(data)
        return base // ADDRESS_UNIT


def resident_images(config: MachineConfig, residents: Residents, seed: int = 7) -> tuple[bytes, bytes]:
    """Return both memories with operands and, at `setup_base`, a stream that makes them resident in every tier."""
    rng = np.random.default_rng(seed)
    image = _Image(config)
    stream: list[Instruction] = []
    all_tiers = (1 << config.tiers) - 1
    tiles, words = residents.tiles, residents.words
    plane = rng.integers(0, 256, tiles * config.plane_bytes, dtype=np.uint8).tobytes()
    high, low = image.put(0, plane), image.put(1, plane)
    stream.append(_load(LoadDest.VCACHE, all_tiers, 0, tiles, high, format=int(Format.PAIR), addr_low=low, tag=TAG))
    data = rng.integers(-128, 128, words * config.rows, dtype=np.int8).tobytes()
    stream.append(_load(LoadDest.ACTIVATION, all_tiers, 0, words, image.put(0, data)))
    multipliers = rng.integers(1, 1 << 16, residents.parameters * config.columns, dtype=np.uint16)
    address = image.put(0, multipliers.tobytes())
    stream.append(_load(LoadDest.PARAMETER, all_tiers, 0, residents.parameters, address))
    stream.append(Instruction(Opcode.END, {}))
    place_stream(image.groups, residents.setup_base, stream)
    return bytes(image.groups[0]), bytes(image.groups[1])


def _load(kind: LoadDest, tiers: int, dest: int, count: int, addr: int, **more: int) -> Instruction:
    values = {"dest_kind": int(kind), "dest_tiers": tiers, "dest_base": dest, "count": count, "addr": addr}
    return Instruction(Opcode.LOAD, values | more)


@dataclass(frozen=True)
class Program:
    """A stream on resident operands.

    Attributes
    ----------
    instructions : list of Instruction
        END included.
    waves : int
        Waves per tier.
    repeats : int
        How often it has to run for the waves that were asked for.
    """

    instructions: list[Instruction]
    waves: int
    repeats: int


def resident_program(
    config: MachineConfig, residents: Residents, mapping: Mapping3D, tokens: int, waves: int
) -> Program:
    """Return GEMMs of one shape on resident operands that, repeated, make at least `waves` waves per tier in all."""
    k_slices = residents.k_slices
    n_tiles = residents.n_tiles(config, mapping, MOST_N_TILES // tokens)
    gangs = gangs_of(config, mapping)
    per_op = tokens * k_slices * n_tiles
    ops = -(-waves // per_op)
    repeats = -(-ops // max(1, min((residents.instructions - 1) // len(gangs), MOST_WAVES // per_op)))
    ops = -(-ops // repeats)
    stream = []
    for op in range(ops):
        # Walk through V-Cache so that consecutive operations do not read the same tiles.
        vcache = op * n_tiles * k_slices % residents.tiles
        if vcache + n_tiles * k_slices > residents.tiles:
            vcache = 0
        stream += [
            gemm(
                config, gang, tokens, k_slices, n_tiles, vcache_base=vcache,
                act_stride=_stride(residents.words, tokens, k_slices),
            )
            for gang in gangs
        ]  # fmt: skip
    return Program([*stream, Instruction(Opcode.END, {})], ops * per_op, repeats)


def mix_program(config: MachineConfig, residents: Residents, gemv_share: float, waves: int, many: int) -> Program:
    """Return a mix of M=1 and M=`many` operations, each tier alone; `gemv_share` of the MACs are in M=1 operations."""
    k_slices, gangs = residents.k_slices, gangs_of(config, Mapping3D.ALONE)
    shapes = {many: 1, 1: residents.n_tiles(config, Mapping3D.ALONE, 32)}
    stream: list[Instruction] = []
    done = dict.fromkeys(shapes, 0)
    while not stream or sum(done.values()) < min(waves, MOST_WAVES):
        total = sum(done.values())
        take_gemv = done[1] < gemv_share * (total + 1) if total else gemv_share >= 0.5
        tokens = 1 if take_gemv else many
        if stream and len(stream) + len(gangs) >= residents.instructions:
            break
        stride = _stride(residents.words, tokens, k_slices)
        stream += [gemm(config, gang, tokens, k_slices, shapes[tokens], act_stride=stride) for gang in gangs]
        done[tokens] += tokens * k_slices * shapes[tokens]
    total = sum(done.values())
    return Program([*stream, Instruction(Opcode.END, {})], total, -(-waves // total))


@dataclass(frozen=True)
class StreamedProgram:
    """A stream whose stationary operands come from memory while it runs; `macs` and `total_bytes` are those of a run.

    `repeats` is how often it has to run for the rounds that were asked for.
    """

    images: tuple[bytes, bytes]
    stream_base: int
    instructions: Sequence[Instruction]
    macs: int
    total_bytes: int
    repeats: int


def _posts(semaphore: int, count: int) -> dict[str, int]:
    """Return the fields of at most two posts, to as many semaphores from `semaphore` on."""
    both = {"post0_en": 1, "post0_sem": semaphore, "post1_en": 1, "post1_sem": semaphore + 1}
    return {name: value for name, value in both.items() if count > 1 or name.startswith("post0")}


def streamed_program(config: MachineConfig, tokens: int, rounds: int, seed: int = 11) -> StreamedProgram:
    """Return an N-gang GEMM over `rounds` chunks of weights, each loaded once in full precision, ahead of use.

    Each round fills one slot of every tier's V-Cache (a quarter of it at most) and multiplies it with `tokens` resident
    tokens. Slots are reused when their reader has posted. Weights in memory repeat (the image would be large), every
    round reads them again. Without links the tiers work alone.
    """
    rng = np.random.default_rng(seed)
    room = memory_limits(config).memory_bytes[0]
    linked = config.tiers > 1 and config.vertical_links
    gangs = [Gang(0, config.tiers, Mapping3D.N)] if linked else gangs_of(config, Mapping3D.ALONE)
    slots = 4
    words = min(config.activation_words // 2, room // 8 // config.rows)
    most = max(1, min(config.vcache_tiles // slots, room // 4 // config.tiers // config.plane_bytes))
    k_slices = min(K_SLICES, most, words)
    parameters = min(config.parameter_words, room // 8 // (2 * config.columns))
    results = config.activation_words // 2 * config.rows // config.columns // (config.tiers if linked else 1)
    n_tiles = max(1, min(8, most // k_slices, parameters, results))
    chunk = n_tiles * k_slices
    stride = _stride(words, tokens, k_slices)
    sources = (tokens - 1) * stride + k_slices
    image = _Image(config)
    plane = chunk * config.plane_bytes
    high = [image.put(0, rng.integers(0, 256, plane, dtype=np.uint8).tobytes()) for _ in range(config.tiers)]
    low = [image.put(1, rng.integers(0, 256, plane, dtype=np.uint8).tobytes()) for _ in range(config.tiers)]
    activations = image.put(0, rng.integers(-128, 128, sources * config.rows, dtype=np.int8).tobytes())
    multipliers = image.put(0, rng.integers(1, 1 << 16, n_tiles * config.columns, dtype=np.uint16).tobytes())
    base = _aligned(config, len(image.groups[0]))
    most_rounds = (min(MOST_INSTRUCTIONS, (room - base) // INSTRUCTION_BYTES) - 2 - len(gangs)) // (
        config.tiers + len(gangs)
    )
    most_rounds = max(1, min(most_rounds, MOST_WAVES // (tokens * chunk)))
    repeats = -(-rounds // most_rounds)
    rounds = -(-rounds // repeats)
    all_tiers = (1 << config.tiers) - 1
    everyone = 1 if linked else all_tiers
    stream = [
        _load(LoadDest.PARAMETER, all_tiers, 0, n_tiles, multipliers),
        _load(LoadDest.ACTIVATION, everyone, 0, sources, activations, **_posts(slots, len(gangs))),
    ]
    # A load has two posts: for the other gangs there are loads that come after this one.
    stream += [
        _load(LoadDest.PARAMETER, all_tiers, 0, n_tiles, multipliers, **_posts(slots + told, len(gangs) - told))
        for told in range(2, len(gangs), 2)
    ]
    for index in range(rounds):
        slot = index % slots
        tag = 1 + (index // slots) % 2
        for tier in range(config.tiers):
            first = tier == 0 and index >= slots
            stream.append(
                _load(
                    LoadDest.VCACHE, 1 << tier, slot * chunk, chunk, high[tier],
                    format=int(Format.PAIR), addr_low=low[tier], tag=tag,
                    wait0_sem=slot, wait0_count=config.tiers if first else 0,
                )
            )  # fmt: skip
        stream += [
            gemm(
                config, gang, tokens, k_slices, n_tiles, vcache_base=slot * chunk, tag=tag, act_stride=stride,
                wait0_sem=slots + number, wait0_count=int(index == 0), post0_en=1, post0_sem=slot,
            )
            for number, gang in enumerate(gangs)
        ]  # fmt: skip
    macs = macs_of(config, stream)
    stream.append(Instruction(Opcode.END, {}))
    place_stream(image.groups, base, stream)
    total = 2 * plane * config.tiers * rounds + sources * config.rows
    total += 2 * n_tiles * config.columns * -(-len(gangs) // 2) + INSTRUCTION_BYTES * len(stream)
    images = (bytes(image.groups[0]), bytes(image.groups[1]))
    return StreamedProgram(images, base, stream, macs, total, repeats)
