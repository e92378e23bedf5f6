# SPDX-License-Identifier: Apache-2.0
"""What one emitter emits, for tests of it alone: a model with padded widths and places for a step."""

from __future__ import annotations

from collections.abc import Sequence

from hdl.config import PRESETS, MachineConfig
from hdl.isa import Instruction, LoadDest, Opcode, gang_tiers, tiers_of_mask
from scheduler.memory.model import ModelMemory
from scheduler.models.constants import constants_of, placeholders
from scheduler.models.description import Model
from scheduler.models.random_model import random_model
from scheduler.ops.batch import Chunk
from scheduler.plan.places import plan_places
from scheduler.plan.pools import StepSize
from scheduler.plan.residence import plan_residence
from scheduler.plan.tiling import Tiling
from scheduler.stream.emit.emitter import Emitter
from scheduler.stream.emit.labels import Label
from scheduler.stream.emit.work import Work
from tests.support.checkpoints import small_model

__all__ = ["ODD", "STREAMED", "TINY", "VCache", "emitted", "weights_of", "work_of"]

TINY = PRESETS["tiny"]  # two tiers of 8 x 8
STREAMED = TINY.replace(name="streamed", vcache_tiles=64)
ODD = small_model("mixtral", hidden=21, heads=4, kv_heads=2, head_dim=6, intermediate=13, vocabulary=21, context=40)
"""Tokens of 3 words, heads of 1, experts of 2 words inside: up 4 tiles of 3 slices, down 3 of 2."""


def work_of(
    chunks: Sequence[Chunk],
    config: MachineConfig = TINY,
    model: Model = ODD,
    *,
    key_block: int = 8,
    slots: bool = False,
) -> Work:
    """Return the state of a step's emission before anything is emitted."""
    tiling = Tiling(config, model)
    memory = ModelMemory(plan_residence(tiling), None, sequences=4, context=model.context, step_bytes=1 << 14)
    size = StepSize(
        tokens=sum(len(chunk.tokens) for chunk in chunks), outputs=len(chunks),
        longest=max(len(chunk.tokens) for chunk in chunks), keys=max(chunk.end for chunk in chunks),
        key_block=key_block, slots=slots,
    )  # fmt: skip
    constants = placeholders(model) if model.missing else constants_of(random_model(model, 1))
    return Work(constants, memory, plan_places(memory.residence, size))


def labels_of(emitter: Emitter) -> tuple[Label, ...]:
    """Return the labels of what was emitted so far."""
    return emitter.labels.of(emitter.stream.marks[: emitter.stream.count].tolist())


def emitted(work: Work) -> list[tuple[str, Instruction]]:
    """Return what was emitted so far, each with its label."""
    labels = [label.operation for label in labels_of(work.emitter)]
    return list(zip(labels, work.emitter.stream.table().instructions(), strict=True))


class VCache:
    """What lies in each tile as instructions are emitted: where its high plane was loaded from, and its tag."""

    def __init__(self, config: MachineConfig) -> None:
        self._config = config
        self._tiles: dict[tuple[int, int], tuple[int, int, int]] = {}

    def load(self, one: Instruction) -> None:
        """Take a LOAD of tiles; others change nothing."""
        if one.opcode == Opcode.LOAD and one["dest_kind"] == LoadDest.VCACHE:
            for tier in tiers_of_mask(one["dest_tiers"]):
                for n in range(one["count"]):
                    address = one["addr"] * 32 + n * self._config.plane_bytes
                    self._tiles[tier, one["dest_base"] + n] = one["group"], address, one["tag"]

    def read(self, gemm: Instruction) -> list[list[tuple[int, int]]]:
        """Return for each tier of a GEMM (group, address) of its tiles, which have its tag."""
        found = []
        for tier in gang_tiers(gemm):
            first, many = gemm["vcache_base"], gemm["k_slices"] * gemm["n_tiles"]
            tiles = [self._tiles[tier, n] for n in range(first, first + many)]
            assert {tag for _, _, tag in tiles} == {gemm["tag"]}, gemm
            found.append([(group, address) for group, address, _ in tiles])
        return found


def weights_of(work: Work) -> list[tuple[str, Instruction, list[list[tuple[int, int]]]]]:
    """Return every GEMM with its label and, tier by tier, where its tiles lie in memory."""
    cache, found = VCache(work.config), []
    for label, one in emitted(work):
        cache.load(one)
        if one.opcode == Opcode.GEMM:
            found.append((label, one, cache.read(one)))
    return found
