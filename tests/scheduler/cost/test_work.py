# SPDX-License-Identifier: Apache-2.0
"""How much work instructions are: the legality's counts of beats, and what one instruction alone takes in the model."""

from __future__ import annotations

import random

import pytest

from hdl.config import ADDRESS_UNIT, PRESETS, MachineConfig
from hdl.isa import (
    Format,
    Instruction,
    LoadDest,
    Mapping3D,
    Opcode,
    Order,
    StoreFormat,
    VectorDest,
    VectorFn,
    VectorOp,
    VectorSum,
)
from hdl.isa.legality import beats, load_item_bytes, store_beats
from hdl.isa.vector_access import reads_scalar, writes_scalar
from scheduler.cost import work
from scheduler.cost.blocks import blocks_of
from scheduler.cost.memory_timing import MemoryTiming
from scheduler.cost.model import simulate

CONFIGS = [PRESETS[name] for name in ("nano", "tiny", "small", "medium", "large")]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_beats_of_loads_are_the_isas(config: MachineConfig) -> None:
    for dest in LoadDest:
        for form in Format if dest == LoadDest.VCACHE else (Format.BYTES,):
            for count in (1, 2, 7, 33):
                instruction = Instruction(Opcode.LOAD, {"dest_kind": dest, "format": form, "count": count})
                expected = beats(count * load_item_bytes(instruction, config), config)
                assert work.load_beats(config.rows, config.columns, config.group_bytes, dest, form, count) == expected
    assert work.tile_steps(config, 9) == 9 * config.fill_words


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_beats_of_stores_are_the_isas(config: MachineConfig) -> None:
    for form in (StoreFormat.INT8, StoreFormat.INT16, StoreFormat.INT32):
        for rows in (1, 3, 8):
            for addr in (0, 1, 5):
                store = Instruction(Opcode.STORE, {"format": form, "rows": rows, "addr": addr})
                own = work.store_beats(config.columns, config.group_bytes, form, rows, False, ADDRESS_UNIT * addr)
                assert own == store_beats(store, config)
    assert work.store_beats(config.columns, config.group_bytes, StoreFormat.DISCARD, 9, False, 0) == 0


def test_vectors_read_and_write_scalars_as_the_isa_says() -> None:
    rng = random.Random(3)
    for _ in range(300):
        fields = {
            "op": rng.choice(list(VectorOp)), "fn": rng.choice(list(VectorFn)), "sum": rng.choice(list(VectorSum)),
            "first": rng.randrange(2), "dest_kind": rng.choice(list(VectorDest)),
        }  # fmt: skip
        instruction = Instruction(Opcode.VECTOR, fields)
        assert bool(work.makes_scalars(fields["op"], fields["sum"])) == writes_scalar(instruction), fields
        assert bool(work.reads_scalars(fields["op"], fields["fn"], fields["first"])) == reads_scalar(instruction), (
            fields
        )


@pytest.mark.parametrize("name", ["tiny", "small"])
@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize(
    ("mapping", "gang"), [(Mapping3D.ALONE, 1), (Mapping3D.M, 2), (Mapping3D.N, 2), (Mapping3D.K, 2)]
)
def test_a_gemm_alone(name: str, order: Order, mapping: Mapping3D, gang: int) -> None:
    """From its first wave to the first grant that can take its last post."""
    config = PRESETS[name]
    b = blocks_of(config)
    for tokens, slices, tiles in ((1, 1, 1), (4, 2, 3), (9, 3, 1)):
        fields = {"tokens": tokens, "k_slices": slices, "n_tiles": tiles, "order": order}
        gemm = Instruction(
            Opcode.GEMM, {**fields, "mapping": mapping, "tier_count": gang, "post0_en": 1, "post0_sem": 1}
        )
        posts = 1 if mapping == Mapping3D.K else gang
        after = Instruction(Opcode.STORE, {"rows": 1, "wait0_sem": 1, "wait0_count": posts})
        forecast = simulate(config, [gemm, after])
        s = forecast.slices
        store = s.granted[s.of(forecast.units.index("store"))][0]
        took = store - s.start[s.of(0)][0]
        assert took == work.gemm_cycles(b, tokens, slices, tiles, mapping, gang, order)


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("form", list(StoreFormat))
def test_a_store_alone(form: StoreFormat, apart: bool) -> None:
    config = PRESETS["small"]
    b = blocks_of(config)
    for rows in (1, 5, 24):
        fields = {"format": form, "rows": rows, "addr_gap": 16 if apart else 0, "post0_en": 1, "post0_sem": 1}
        after = Instruction(Opcode.VECTOR, {"vectors": 1, "rows": 1, "wait0_sem": 1, "wait0_count": 1})
        forecast = simulate(config, [Instruction(Opcode.STORE, fields), after], memory=MemoryTiming(latency=25))
        s = forecast.slices
        took = s.granted[s.of(forecast.units.index("vector"))][0] - s.start[s.of(forecast.units.index("store"))][0]
        off = abs(took - work.store_cycles(b, 25, form, rows, apart, 0, True))
        assert off <= (took // 10 if apart and rows > b.tracker else 0), rows
