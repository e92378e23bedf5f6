# SPDX-License-Identifier: Apache-2.0
"""Experts alone: on any layer and routing, the executor's memory equals the integer model, and the stream is proved."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hdl.config import MachineConfig
from hdl.isa import Format, LoadDest, Opcode
from scheduler.memory.image import ImageError
from scheduler.memory.placement import Placement
from scheduler.plan.layer import Way
from scheduler.plan.limits import LoweringError
from scheduler.stream.lower_layer import LayerOptions, lower_layer
from sim.golden.executor import Executor
from tests.support.layers import EDGE, FLAT, NANO, SMALL, TINY, WIDE, batch, random_layer, run_and_compare

CONFIGS = [NANO, TINY, WIDE, EDGE, FLAT, TINY.replace(name="scarce", vcache_tiles=32, parameter_words=64)]
LINKED = (TINY, WIDE, EDGE)


def check_any(data: st.DataObject) -> None:
    config = data.draw(st.sampled_from(CONFIGS))
    hidden, intermediate = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    experts = data.draw(st.integers(1, 9))
    k = data.draw(st.integers(1, min(3, experts)))
    tokens = data.draw(st.sampled_from([1, 2, 3, 7, 20, 45]))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    layer = random_layer(rng, experts, hidden, intermediate)
    high = frozenset(data.draw(st.sets(st.integers(0, experts - 1), max_size=2)))
    placements = [p for p in Placement if p != Placement.WHOLE or config.stationary_feed == "vertical"]
    placement = data.draw(st.sampled_from(placements))
    way = data.draw(st.sampled_from([None, *Way] if config in LINKED else [None, Way.ALONE]))
    options = LayerOptions(placement=placement, way=way, high_only=high)
    program = run_and_compare(config, layer, *batch(rng, layer, tokens, k), options)
    assert way is None or (program.meta["gang"] == "alone") == (way == Way.ALONE)


@settings(max_examples=60)
@given(st.data())
def test_any_layer_equals_the_integer_model(data: st.DataObject) -> None:
    check_any(data)


@pytest.mark.slow
@settings(max_examples=1500)
@given(st.data())
def test_any_layer_equals_the_integer_model_many_times(data: st.DataObject) -> None:
    check_any(data)


def test_the_edge_feed_keeps_planes_in_both_groups() -> None:
    rng = np.random.default_rng(5)
    layer = random_layer(rng, 2, 8, 8)
    with pytest.raises(LoweringError, match="placement: whole; the edge feed cannot add a low plane"):
        run_and_compare(EDGE, layer, *batch(rng, layer, 2, 1), LayerOptions(placement=Placement.WHOLE))


@pytest.mark.parametrize("way", list(Way))
def test_the_demo_models_layer_both_ways(way: Way) -> None:
    rng = np.random.default_rng(5)
    layer = random_layer(rng, 16, 128, 128)
    program = run_and_compare(SMALL, layer, *batch(rng, layer, 24, 2), LayerOptions(way=way))
    assert program.meta["gang"] == {Way.ALONE: "alone", Way.GANG: "n4"}[way]
    assert program.meta["whole_experts"] == (way == Way.ALONE)


@pytest.mark.parametrize("config", [NANO, TINY, WIDE, EDGE], ids=lambda c: c.name)
@pytest.mark.parametrize("tokens", [1, 50])
def test_all_tokens_on_one_expert(config: MachineConfig, tokens: int) -> None:
    rng = np.random.default_rng(6)
    layer = random_layer(rng, 4, 16, 24)
    x, _, gates = batch(rng, layer, tokens, 1)
    program = run_and_compare(config, layer, x, np.full((tokens, 1), 2), gates)
    assert program.meta["active_experts"] == {"2": tokens}
    own = [program.symbols[f"expert2.{part}.{plane}"] for part in ("up", "down") for plane in ("high", "low")]
    loads = [i for i in program.instructions if i.opcode == Opcode.LOAD and i["dest_kind"] == LoadDest.VCACHE]
    for load in loads:  # the others cost nothing
        ends = [load["addr"] * 32, load["addr_low"] * 32]
        assert all(any(s.address <= end < s.address + s.size for s in own) for end in ends)


def test_fewer_tiers_for_the_last_shares_than_for_the_first() -> None:
    """The last GEMM waits for two gangs and for the rows to be clear: more than an instruction has waits for."""
    layer = random_layer(np.random.default_rng(4), 1, 1, 17)
    work = batch(np.random.default_rng(4), layer, 3, 1)
    program = run_and_compare(WIDE, layer, *work, LayerOptions(way=Way.GANG))
    tiers = [i["tier_count"] for i in program.instructions if i.opcode == Opcode.GEMM]
    assert tiers == [4, 2, 1]


def test_an_expert_that_a_token_names_twice_counts_twice() -> None:
    rng = np.random.default_rng(3)
    layer = random_layer(rng, 3, 16, 16)
    x, _, gates = batch(rng, layer, 5, 2)
    run_and_compare(TINY, layer, x, np.array([[1, 1], [0, 2], [2, 2], [1, 0], [1, 1]]), gates)


@pytest.mark.parametrize("config", [NANO.replace(combine_rows=32), WIDE.replace(combine_rows=64)], ids=["nano", "wide"])
def test_many_parts_reuse_resident_weights(config: MachineConfig) -> None:
    rng = np.random.default_rng(7)
    layer = random_layer(rng, 2, 8, 8)
    program = run_and_compare(config, layer, *batch(rng, layer, 64, 2), LayerOptions(way=Way.ALONE))
    assert program.meta["parts"] >= 3 and program.meta["whole_experts"]
    loads = [i for i in program.instructions if i.opcode == Opcode.LOAD and i["dest_kind"] == LoadDest.VCACHE]
    assert len(loads) == 2 * 2  # two experts, two matrices: not again for every part


def test_experts_that_do_not_fit_a_tier_stream_in_pieces() -> None:
    rng = np.random.default_rng(17)
    layer = random_layer(rng, 5, 40, 64)
    for config in (TINY.replace(vcache_tiles=32), WIDE.replace(vcache_tiles=64), NANO.replace(parameter_words=128)):
        for way in (Way.ALONE, *([Way.GANG] if config.tiers > 1 else [])):
            program = run_and_compare(config, layer, *batch(rng, layer, 30, 2), LayerOptions(way=way))
            assert not program.meta["whole_experts"]


@pytest.mark.parametrize("way", list(Way))
def test_high_only_experts_cost_half_the_bytes(way: Way) -> None:
    rng = np.random.default_rng(8)
    layer = random_layer(rng, 4, 32, 32)
    work = batch(rng, layer, 12, 2)
    beats = []
    for high in ((), (0, 1, 2, 3)):
        program = lower_layer(TINY, layer, *work, LayerOptions(way=way, high_only=high))
        machine = Executor(TINY, program.images, program.limits)
        machine.run(program.stream)
        beats.append(machine.counters["read_bytes_pair"] + machine.counters["read_bytes_high"])
        assert program.meta["high_only"] == list(high)
    assert beats[0] == 2 * beats[1]


def test_high_planes_of_two_experts_load_at_once() -> None:
    rng = np.random.default_rng(9)
    layer = random_layer(rng, 2, 8, 8)
    program = lower_layer(TINY, layer, *batch(rng, layer, 4, 2))
    pairs = [i for i in program.instructions if i.opcode == Opcode.LOAD and i["format"] == Format.PAIR]
    assert {i["group"] for i in pairs} == {0, 1}
    assert program.symbols["expert0.up.high"].group == 0 and program.symbols["expert1.up.high"].group == 1


def test_the_faster_way_is_taken() -> None:
    rng = np.random.default_rng(1)
    layer = random_layer(rng, 16, 128, 128)
    x, _, gates = batch(rng, layer, 64, 1)
    one = lower_layer(SMALL, layer, x, np.full((64, 1), 3), gates)
    alone = lower_layer(SMALL, layer, x, np.full((64, 1), 3), gates, LayerOptions(way=Way.ALONE))
    assert one.meta["gang"] == "n4" and one.meta["estimated_cycles"] < alone.meta["estimated_cycles"] / 2
    for tokens in (1, 8, 64):
        work = batch(rng, layer, tokens, 2)
        cycles = {way: lower_layer(SMALL, layer, *work, LayerOptions(way=way)).meta["estimated_cycles"] for way in Way}
        assert lower_layer(SMALL, layer, *work).meta["estimated_cycles"] == min(cycles.values())


@pytest.mark.parametrize(("tokens", "most"), [(1, 1865), (16, 13560), (64, 14400), (128, 15770)])
def test_a_layer_takes_no_longer_than_recorded(tokens: int, most: int) -> None:
    """Uniform choices of two of sixteen experts of the demo model's size, by the cycle model."""
    rng = np.random.default_rng(11)
    layer = random_layer(rng, 16, 128, 128)
    x, _, gates = batch(rng, layer, tokens, 2)
    chosen = (np.arange(2 * tokens) * 7 % 16).reshape(tokens, 2)
    assert lower_layer(SMALL, layer, x, chosen, gates).meta["estimated_cycles"] <= most


@pytest.mark.parametrize(
    ("config", "sizes", "message"),
    [
        (
            NANO.replace(combine_rows=8),
            (64, 8),
            "size 64: one token takes 19 combine rows; 'nano' has 8: at most 20 fits",
        ),
        (
            NANO.replace(vcache_tiles=16),
            (128, 8),
            "2 output tiles of an expert's up projection take 64 tiles of V-Cache, .* room for 16: raise",
        ),
        (
            NANO.replace(activation_words=64, vcache_tiles=256, parameter_words=256),
            (16, 256),
            r"one token takes 4 \+ 2 x 64 activation words; 'nano' has 64: raise activation_words to at least 256",
        ),
        (
            NANO.replace(vcache_tiles=512),
            (16, 256),
            "an expert's requantisation words take 132 of nano's 64: raise param",
        ),
        (SMALL, (8192, 16), "model hidden: 8192; instructions count up to 511 rows"),
    ],
    ids=["rows", "tiles", "words", "parameters", "fields"],
)
def test_what_cannot_fit_is_refused_with_the_limit(config: MachineConfig, sizes: tuple[int, int], message: str) -> None:
    rng = np.random.default_rng(0)
    layer = random_layer(rng, 1, *sizes)
    with pytest.raises(LoweringError, match=message):
        lower_layer(config, layer, *batch(rng, layer, 4, 1))


def test_what_a_machine_does_not_have_is_refused() -> None:
    rng = np.random.default_rng(0)
    layer = random_layer(rng, 8, 64, 64)
    work = batch(rng, layer, 8, 2)
    for config in (FLAT, NANO):
        with pytest.raises(LoweringError, match=f"gang: {config.name} has . tiers .*; run experts alone"):
            lower_layer(config, layer, *work, LayerOptions(way=Way.GANG))
    with pytest.raises(ImageError, match="memory of group .: .* address_bits = 14 gives 16384: raise address_bits"):
        lower_layer(TINY.replace(address_bits=14), layer, *work)


def test_wrong_shapes_are_refused() -> None:
    rng = np.random.default_rng(11)
    layer = random_layer(rng, 2, 8, 8)
    x, chosen, gates = batch(rng, layer, 4, 2)
    with pytest.raises(LoweringError, match=r"x: int8 of shape \(4, 7\); the layer takes int8 \[1 or more tokens, 8\]"):
        lower_layer(TINY, layer, x[:, :7], chosen, gates)
    with pytest.raises(LoweringError, match="both must be"):
        lower_layer(TINY, layer, x, chosen[:3], gates[:3])
    with pytest.raises(LoweringError, match="both must be"):
        lower_layer(TINY, layer, x, chosen[:, :0], gates[:, :0])
    with pytest.raises(LoweringError, match="experts: 0 to 2; the layer has 0 to 1"):
        lower_layer(TINY, layer, x, np.full((4, 2), 2) - np.eye(4, 2, dtype=int) * 2, gates)


@pytest.mark.parametrize(("hidden", "intermediate", "experts"), [(1, 1, 2), (5, 33, 1)])
def test_a_list_stays_until_its_experts_last_gemm(hidden: int, intermediate: int, experts: int) -> None:
    """Two lists of 45 tokens do not fit `nano`; and a piece of an expert takes more than half of its V-Cache."""
    rng = np.random.default_rng(2)
    layer = random_layer(rng, experts, hidden, intermediate)
    run_and_compare(NANO, layer, *batch(rng, layer, 45, experts), LayerOptions())
