# SPDX-License-Identifier: Apache-2.0
"""The memory of a machine that serves a model: every address is inside its region, and names what it should."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from hdl.config import PRESETS, MachineConfig
from scheduler.memory.contents import Weights
from scheduler.memory.layout import REGION_BEATS
from scheduler.memory.model import ModelMemory
from scheduler.memory.placement import Part
from scheduler.models.description import Model
from scheduler.models.random_model import random_model
from scheduler.plan.limits import LoweringError
from scheduler.plan.residence import plan_residence
from scheduler.plan.tiling import Tiling
from tests.support.checkpoints import small_model

TINY = PRESETS["tiny"]
STREAMED = TINY.replace(name="streamed", vcache_tiles=64)
ODD = small_model(
    "qwen3_moe", hidden=21, heads=6, kv_heads=3, head_dim=6, intermediate=13, vocabulary=21, layers=3, dense=(1,),
    context=20,
)  # fmt: skip
BOTH = pytest.mark.parametrize("config", [TINY, STREAMED], ids=["resident", "streamed"])


def memory_of(config: MachineConfig, model: Model = ODD, *, weights: bool = True, **options: int) -> ModelMemory:
    """Return the memory of three sequences of up to 20 tokens."""
    tiling = Tiling(config, model)
    own = Weights(random_model(model, 4), tiling) if weights else None
    sizes = {"sequences": 3, "context": 20, "step_bytes": 4096, **options}
    return ModelMemory(plan_residence(tiling), own, **sizes)


@BOTH
def test_regions_do_not_overlap(config: MachineConfig) -> None:
    memory = memory_of(config)
    assert memory.residence.resident == (config is TINY)
    for group in (0, 1):
        own = sorted((s.address, s.size) for s in memory.symbols.values() if s.group == group and s.size)
        assert all(a + size <= b for (a, size), (b, _) in pairwise(own))
        assert own[-1][0] + own[-1][1] <= memory.sizes[group] == memory.images[group].size


@BOTH
def test_planes_and_words_are_those_of_their_matrices(config: MachineConfig) -> None:
    memory = memory_of(config)
    weights = Weights(random_model(ODD, 4), memory.tiling)
    names = [f"layer{n}.{m}" for n, layer in enumerate(ODD.layers) for m in memory.residence.matrices[layer]]
    assert "layer1.mlp.up" in names
    for name in [*names, "head"]:
        planes = weights.matrix_planes(name)
        for first in (0, 1):
            for place, own in zip(memory.planes(name, first), planes, strict=True):
                begin = first * config.plane_bytes
                found = memory.images[place.group][place.address : place.address + len(own) - begin]
                assert found.tobytes() == own[begin:]
        if config is STREAMED:
            words = weights.matrix_words(name)
            key, matrix = ("", "head") if name == "head" else name.split(".", 1)
            shares = memory.residence.head if not key else memory.residence.shares[ODD.layers[int(key[5:])]][matrix]
            for number, share in enumerate(shares):
                for tier in range(share.tiers):
                    place = memory.words(name, number, tier)
                    own = words[share.first + tier * share.each :][: share.each].astype("<u2").tobytes()
                    assert memory.images[place.group][place.address :][: len(own)].tobytes() == own


@BOTH
def test_caches_lie_apart_in_both_groups_within_the_window(config: MachineConfig) -> None:
    """Three sequences of three heads: nine in turn, so that neither group has more than five."""
    memory = memory_of(config)
    window, found = memory.window, []
    for layer in range(3):
        for slot in range(3):
            for head in range(3):
                keys, values = (memory.cache(layer, slot, head, what) for what in ("keys", "values"))
                assert keys.group == values.group == (slot + head) % 2
                assert keys.size == values.size == 24 * 8  # 20 keys in whole units of 8, a row of 8 bytes each
                found += [(s.group, s.address, s.address + s.size) for s in (keys, values)]
    logits = memory.logits
    found.append((logits.group, logits.address, logits.address + logits.size))
    assert logits.size == 3 * 3 * 16
    for group in (0, 1):
        own = sorted((a, b) for g, a, b in found if g == group)
        assert all(end <= begin for (_, end), (begin, _) in pairwise(own))
        assert window[group][0] <= own[0][0] and own[-1][1] <= window[group][1]
        for name, symbol in memory.symbols.items():  # the machine writes over nothing else
            if symbol.group == group and symbol.size and ".cache." not in name and name != "logits":
                end = symbol.address + symbol.size
                assert end <= window[group][0] or window[group][1] <= symbol.address, name


def test_tables_have_a_stride_that_loads_take() -> None:
    """A token has 3 rows of 16 bytes, in units of 32: 64; a position 2 rows: 32."""
    memory = memory_of(TINY)
    assert (memory.embedding_stride, memory.rope_stride) == (64, 32)
    model = random_model(ODD, 4)
    for token in (0, 20):
        place = memory.embedding(token)
        row = memory.images[place.group][place.address : place.address + place.size].view("<i2")
        np.testing.assert_array_equal(row[:21], model.embedding[token])
        assert not row[21:].any()
    assert memory.rope(19).address == memory.rope(0).address + 19 * 32


@BOTH
def test_a_shape_without_weights_has_the_same_regions(config: MachineConfig) -> None:
    """Only in another order: what the scheduler writes comes first, so that its image stays small."""
    own, bare = memory_of(config), memory_of(config, weights=False)
    assert {n: (s.group, s.size) for n, s in own.symbols.items()} == {
        n: (s.group, s.size) for n, s in bare.symbols.items()
    }
    align = REGION_BEATS * config.group_bytes
    start = -(-own.symbol("list").size // align) * align  # of the step area
    assert bare.images[1].size == 0 and bare.images[0].size == start + 4096
    for memory in (own, bare):
        entries = memory.symbol("list")
        table = memory.images[0][entries.address :][: entries.size].view("<u2").reshape(-1, 4)
        assert table[:, 1].tolist() == [3 * n for n in range(memory.block)] and set(table[:, 2]) == {1 << 15}
    assert own.experts.stride(0, Part.UP) == bare.experts.stride(0, Part.UP)


def test_the_step_area_is_used_again_and_no_further_than_it_goes() -> None:
    memory = memory_of(TINY, step_bytes=96)
    first = memory.add(b"ab")
    second = memory.add(b"c" * 33)
    assert second.address - first.address == 32 and memory.step.size == 96
    with pytest.raises(LoweringError, match="step area: 128 bytes .* it has 96: .* or raise step_bytes"):
        memory.add(b"d")
    memory.begin_step()
    assert memory.step.size == 0 and memory.add(b"e") == first.__class__(0, first.address, 1)
    assert memory.images[0][first.address : first.address + 2].tobytes() == b"eb"


def test_what_does_not_fit_the_memory_is_named() -> None:
    with pytest.raises(
        LoweringError, match=r"memory: .* address_bits = 13 gives 8,192: raise address_bits to "
    ) as caught:
        memory_of(TINY.replace(address_bits=13))
    named = int(str(caught.value).partition("raise address_bits to ")[2].partition(" ")[0])
    memory_of(TINY.replace(address_bits=named))
    with pytest.raises(LoweringError, match=f"raise address_bits to {named} "):
        memory_of(TINY.replace(address_bits=named - 1))
    with pytest.raises(
        LoweringError, match="the most of any machine: serve fewer or shorter sequences, or fewer layers"
    ):
        memory_of(TINY, sequences=1 << 34)
