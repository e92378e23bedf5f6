# SPDX-License-Identifier: Apache-2.0
"""Streams for the utilisation measurements: operands resident in V-Cache, or streamed from memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hdl.config import ADDRESS_UNIT, MachineConfig
from hdl.isa import Dest, Format, Instruction, LoadDest, Mapping3D, Mode, Opcode
from sim.system import place_stream

__all__ = [
    "Gang",
    "StreamedProgram",
    "gangs_of",
    "mix_program",
    "resident_images",
    "resident_program",
    "streamed_program",
]

K_SLICES = 8
"""Reduction slices of an output in these measurements: 128 elements on `small`."""

SETUP_BASE = 0
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


def gemm(config: MachineConfig, gang: Gang, tokens: int, n_tiles: int, *, vcache: int = 0, **more: int) -> Instruction:
    """Return a GEMM of `tokens` x (K_SLICES x R) x (`n_tiles` x C) per tier; results go to the tiers' own buffers.

    Result rows of all operations share the upper half of the activation buffer (nothing reads them).
    """
    half = config.activation_words // 2
    values = {
        "tier_base": gang.base,
        "tier_count": gang.count,
        "mapping": int(gang.mapping),
        "tokens": tokens,
        "k_slices": K_SLICES,
        "n_tiles": n_tiles,
        "vcache_base": vcache,
        "tag": TAG,
        "act_stride": K_SLICES,
        "mode": int(Mode.REQUANT8),
        "shift": 20,
        "dest_kind": int(Dest.ACTIVATION),
        "dest_base": half,
        "dest_stride": 0,
    }
    return Instruction(Opcode.GEMM, values | more)


def macs_of(config: MachineConfig, instructions: Sequence[Instruction]) -> int:
    """Return the useful multiply-accumulates of the GEMMs in a stream."""
    per_wave = config.rows * config.columns
    return sum(
        per_wave * i["tokens"] * i["k_slices"] * i["n_tiles"] * i["tier_count"]
        for i in instructions
        if i.opcode == Opcode.GEMM
    )


def resident_images(config: MachineConfig, seed: int = 7) -> tuple[bytearray, bytearray, int]:
    """Return both memories with operands and a set-up stream that makes them resident, and the stream's address.

    Every tier gets all its V-Cache tiles, activations for 64 tokens (or as many as fit below the result area), and
    requantisation words.
    """
    rng = np.random.default_rng(seed)
    words = config.activation_words // 2
    tiles = config.vcache_tiles
    images = (bytearray(), bytearray())
    stream: list[Instruction] = []

    def put(group: int, data: bytes) -> int:
        image = images[group]
        unit = max(ADDRESS_UNIT, config.group_bytes)
        image.extend(bytes(-len(image) % unit))
        base = len(image)
        image.extend(data)
        return base // ADDRESS_UNIT

    all_tiers = (1 << config.tiers) - 1
    plane = rng.integers(0, 256, tiles * config.plane_bytes, dtype=np.uint8).tobytes()
    high = put(0, plane)
    low = put(1, plane)
    stream.append(_load(LoadDest.VCACHE, all_tiers, 0, tiles, high, format=int(Format.PAIR), addr_low=low, tag=TAG))
    data = rng.integers(-128, 128, words * config.rows, dtype=np.int8).tobytes()
    stream.append(_load(LoadDest.ACTIVATION, all_tiers, 0, words, put(0, data)))
    multipliers = rng.integers(1, 1 << 16, config.parameter_words * config.columns, dtype=np.uint16)
    address = put(0, multipliers.tobytes())
    stream.append(_load(LoadDest.PARAMETER, all_tiers, 0, config.parameter_words, address))
    stream.append(Instruction(Opcode.END, {}))
    base = -(-len(images[0]) // 4096) * 4096
    place_stream(images, base, stream)
    return (*images, base)


def _load(kind: LoadDest, tiers: int, dest: int, count: int, addr: int, **more: int) -> Instruction:
    values = {"dest_kind": int(kind), "dest_tiers": tiers, "dest_base": dest, "count": count, "addr": addr}
    return Instruction(Opcode.LOAD, values | more)


def resident_program(config: MachineConfig, mapping: Mapping3D, tokens: int, waves: int) -> list[Instruction]:
    """Return GEMMs of one shape, at least `waves` waves per tier in all, on resident operands."""
    n_tiles = max(1, min(config.vcache_tiles // K_SLICES, 1024 // (K_SLICES * tokens), config.parameter_words))
    per_op = tokens * K_SLICES * n_tiles
    ops = -(-waves // per_op)
    stream = []
    for op in range(ops):
        # Walk through V-Cache so that consecutive operations do not read the same tiles.
        vcache = op * n_tiles * K_SLICES % config.vcache_tiles
        if vcache + n_tiles * K_SLICES > config.vcache_tiles:
            vcache = 0
        stream += [gemm(config, gang, tokens, n_tiles, vcache=vcache) for gang in gangs_of(config, mapping)]
    return [*stream, Instruction(Opcode.END, {})]


def mix_program(config: MachineConfig, gemv_share: float, waves: int, many: int = 64) -> list[Instruction]:
    """Return a mix of M=1 and M=`many` operations, each tier alone; `gemv_share` of the MACs are in M=1 operations."""
    gemv_tiles = min(config.vcache_tiles // K_SLICES, config.parameter_words, 32)
    gemm_tiles = 1
    gemv_waves = K_SLICES * gemv_tiles
    gemm_waves = K_SLICES * gemm_tiles * many
    stream: list[Instruction] = []
    done = [0, 0]
    while sum(done) < waves:
        total = sum(done)
        take_gemv = done[0] < gemv_share * (total + 1) if total else gemv_share >= 0.5
        tokens, tiles = (1, gemv_tiles) if take_gemv else (many, gemm_tiles)
        stream += [gemm(config, gang, tokens, tiles) for gang in gangs_of(config, Mapping3D.ALONE)]
        done[0 if take_gemv else 1] += gemv_waves if take_gemv else gemm_waves
    return [*stream, Instruction(Opcode.END, {})]


@dataclass(frozen=True)
class StreamedProgram:
    """A stream whose stationary operands come from memory while it runs."""

    images: tuple[bytes, bytes]
    stream_base: int
    instructions: Sequence[Instruction]
    macs: int
    total_bytes: int


def streamed_program(config: MachineConfig, tokens: int, rounds: int, seed: int = 11) -> StreamedProgram:
    """Return an N-gang GEMM over `rounds` chunks of weights, each loaded once in full precision, ahead of use.

    Each round fills one slot of every tier's V-Cache (a quarter of it at most) and multiplies it with `tokens` resident
    tokens. Slots are reused when their reader has posted. Weights in memory repeat (the image would be large), every
    round reads them again.
    """
    rng = np.random.default_rng(seed)
    gang = Gang(0, config.tiers, Mapping3D.N if config.tiers > 1 else Mapping3D.ALONE)
    n_tiles = max(1, min(8, config.vcache_tiles // (4 * K_SLICES)))
    chunk = n_tiles * K_SLICES
    slots = min(config.vcache_tiles // chunk, 4)
    images = (bytearray(), bytearray())
    unit = max(ADDRESS_UNIT, config.group_bytes)

    def put(group: int, data: bytes) -> int:
        images[group].extend(bytes(-len(images[group]) % unit))
        base = len(images[group])
        images[group].extend(data)
        return base // ADDRESS_UNIT

    plane = chunk * config.plane_bytes
    high = [put(0, rng.integers(0, 256, plane, dtype=np.uint8).tobytes()) for _ in range(config.tiers)]
    low = [put(1, rng.integers(0, 256, plane, dtype=np.uint8).tobytes()) for _ in range(config.tiers)]
    activations = put(0, rng.integers(-128, 128, tokens * K_SLICES * config.rows, dtype=np.int8).tobytes())
    multipliers = put(0, rng.integers(1, 1 << 16, n_tiles * config.columns, dtype=np.uint16).tobytes())
    all_tiers = (1 << config.tiers) - 1
    stream = [
        _load(LoadDest.PARAMETER, all_tiers, 0, n_tiles, multipliers),
        _load(LoadDest.ACTIVATION, 1, 0, tokens * K_SLICES, activations, post0_en=1, post0_sem=slots),
    ]
    for index in range(rounds):
        slot = index % slots
        for tier in range(config.tiers):
            first = tier == 0 and index >= slots
            stream.append(
                _load(
                    LoadDest.VCACHE, 1 << tier, slot * chunk, chunk, high[tier],
                    format=int(Format.PAIR), addr_low=low[tier], tag=1 + (index // slots) % 2,
                    wait0_sem=slot, wait0_count=gang.count if first else 0,
                )
            )  # fmt: skip
        stream.append(
            gemm(
                config, gang, tokens, n_tiles, vcache=slot * chunk, tag=1 + (index // slots) % 2,
                wait0_sem=slots, wait0_count=1 if index == 0 else 0, post0_en=1, post0_sem=slot, dest_tiers=0,
                dest_stride=0,
            )
        )  # fmt: skip
    macs = macs_of(config, stream)
    stream.append(Instruction(Opcode.END, {}))
    base = -(-len(images[0]) // 4096) * 4096
    place_stream(images, base, stream)
    total = 2 * plane * config.tiers * rounds
    total += tokens * K_SLICES * config.rows + 2 * n_tiles * config.columns + 32 * len(stream)
    return StreamedProgram((bytes(images[0]), bytes(images[1])), base, stream, macs, total)
