# SPDX-License-Identifier: Apache-2.0
"""Bytes across bonds, on the dies and off chip, of streams small enough to count by hand."""

from typing import Any

import numpy as np
import pytest

from hdl.array.bonds import describe_stack, word_bits
from hdl.config import PRESETS, MachineConfig
from hdl.errors import A3dError
from hdl.isa import Dest, Format, Instruction, LoadDest, Mapping3D, Mode, Opcode, StoreFormat, VectorDest, VectorOp
from scheduler.cost.links import LinkBytes, count_words, link_bytes

THREE = PRESETS["tiny"].replace(name="three", tiers=3, semaphores=16)  # 8 x 8, 8 bytes a beat of each group
R, C = THREE.rows, THREE.columns


def load(**fields: int) -> Instruction:
    return Instruction(Opcode.LOAD, {"dest_tiers": 1, "count": 1, **fields})


def gemm(**fields: int) -> Instruction:
    base = {"tier_count": 1, "tokens": 1, "k_slices": 1, "n_tiles": 1, "dest_kind": Dest.COMBINE}
    return Instruction(Opcode.GEMM, {**base, **fields})


def moved(*instructions: Instruction, config: MachineConfig = THREE, **options: Any) -> LinkBytes:
    return link_bytes(config, instructions, **options)


def words(*instructions: Instruction, **options: Any) -> Any:
    return count_words(THREE, instructions, **options)


def test_a_tile_climbs_to_the_highest_tier_that_takes_it() -> None:
    pair = load(dest_kind=LoadDest.VCACHE, format=Format.PAIR, count=3, dest_tiers=0b011)
    found = words(pair)
    assert found.fills.tolist() == [0, 3 * THREE.fill_words, 0]
    assert found.read_beats.tolist() == [3 * R * C // 2 // THREE.group_bytes] * 2
    one = word_bits(THREE)["fill"] * 3 * THREE.fill_words
    own = moved(pair)
    assert own.vertical_by["fill"] == 2 * one // 8 and own.bonds == (-(-one // 8), -(-one // 8), 0)
    assert own.lateral_by["launch"] == 3 * R * C
    assert own.offchip_by == {"fetch": 32, "read": 3 * R * C, "write": 0}
    assert own.offchip == own.lateral_by["memory"] == 32 + 3 * R * C


def test_loads_of_buffers_climb_and_those_of_the_base_die_do_not() -> None:
    acts = load(dest_kind=LoadDest.ACTIVATION, count=5, dest_tiers=0b100)
    mult = load(dest_kind=LoadDest.PARAMETER, count=2, dest_tiers=0b001)
    assert words(acts, mult).writes.tolist() == [2 * THREE.parameter_parts, 0, 5]
    for kind in (LoadDest.LIST, LoadDest.ROWS):
        own = moved(load(dest_kind=kind, count=4, dest_tiers=0b111 if kind == LoadDest.LIST else 0))
        assert own.vertical == 0
        assert own.lateral_by["combine"] == (4 * 4 * C if kind == LoadDest.ROWS else 0)


@pytest.mark.parametrize(
    ("mapping", "link", "rows"),
    [
        (Mapping3D.M, ("stationary", 6 * R * C), [0, 8, 8]),
        (Mapping3D.N, ("activation", 24 * R), [0, 8, 8]),
        (Mapping3D.K, ("psum", 24 * 4 * C), [0, 0, 8]),
    ],
)
def test_a_gang_on_each_mapping(mapping: Mapping3D, link: tuple[str, int], rows: list[int]) -> None:
    # Tiers 1 and 2, 4 tokens, 3 slices, 2 tiles: 24 waves and 6 tiles in each.
    own = gemm(tier_base=1, tier_count=2, mapping=mapping, tokens=4, k_slices=3, n_tiles=2)
    found, bits = words(own), word_bits(THREE)
    assert found.waves.tolist() == [0, 24, 24] and found.tiles.tolist() == [0, 6, 6]
    assert found.rows.tolist() == rows
    by = moved(own).vertical_by
    expected = dict.fromkeys(("fill", "write", "stationary", "activation", "psum"), 0)
    expected |= dict([link])  # one link, between tiers 1 and 2
    expected["dispatch"] = -(-24 * (2 + 3) * bits["wave"] // 8)
    expected["result"] = -(-(rows[1] * 2 + rows[2] * 3) * (16 * C + 1) // 8)
    assert by == expected
    lateral = moved(own).lateral_by
    assert lateral["array"] == 48 * (R + 4 * C) and lateral["rows"] == sum(rows) * 2 * C


def test_rows_go_up_again_when_they_are_activations() -> None:
    own = {"dest_kind": Dest.ACTIVATION, "mode": Mode.REQUANT8, "tokens": 4, "n_tiles": 2, "tier_base": 1}
    assert words(gemm(**own)).writes.tolist() == [0, 8, 0]  # to the tier that made them
    assert words(gemm(**own, dest_tiers=0b101)).writes.tolist() == [0, 0, 8]
    assert words(gemm(**own | {"dest_kind": Dest.COMBINE})).writes.tolist() == [0, 0, 0]


def test_the_edge_feed_pays_on_the_die_and_asks_for_tiles() -> None:
    edge = THREE.replace(name="edge", stationary_feed="edge")
    own = gemm(tokens=4, k_slices=3)
    vertical, control = moved(own), moved(own, config=edge)
    assert control.lateral_by["array"] - vertical.lateral_by["array"] == 3 * R * C
    bits = word_bits(edge)
    assert bits["request"] == 2 + edge.vcache_bits and word_bits(THREE)["request"] == 0
    assert control.vertical_by["dispatch"] == -(-(12 * bits["wave"] + 3 * bits["request"]) // 8)


def test_stores_and_vectors_move_rows_of_the_combine_buffer() -> None:
    store = Instruction(Opcode.STORE, {"rows": 3, "format": StoreFormat.INT16, "group": 1})
    own = moved(store)
    assert own.offchip_by["write"] == 3 * 2 * C and own.lateral_by["combine"] == 3 * 4 * C and own.vertical == 0
    assert words(store).write_beats.tolist() == [0, 3 * 2 * C // THREE.group_bytes]
    discard = Instruction(Opcode.STORE, {"rows": 3, "format": StoreFormat.DISCARD, "clear": 1})
    assert moved(discard).lateral_by["combine"] == moved(discard).offchip_by["write"] == 0
    fields = {"op": VectorOp.MUL, "vectors": 2, "rows": 4, "b_rows": 1, "dest_kind": VectorDest.ROWS}
    assert words(Instruction(Opcode.VECTOR, fields)).combine_rows == 2 * 4 * 3  # two operands and a result
    act = fields | {"op": VectorOp.MAP, "dest_kind": VectorDest.ACTIVATION, "dest_tiers": 0b10}
    found = words(Instruction(Opcode.VECTOR, act))
    assert found.combine_rows == 8 and found.writes.tolist() == [0, 8, 0]


def test_slots_move_what_their_tokens_need() -> None:
    route = Instruction(Opcode.ROUTE, {"tokens": 6, "choices": 2, "experts": 3, "slot_base": 4})
    weights = [load(dest_kind=LoadDest.VCACHE, format=Format.PAIR, slot_en=1, slot=n, count=2) for n in (4, 5, 6)]
    gemms = [gemm(slot_en=1, slot=n, act_list=1, tokens=9, k_slices=2, list_base=1) for n in (4, 5, 6)]
    planned = words(route, *weights, *gemms)
    assert planned.waves[0] == 3 * 9 * 2 and planned.fills[0] == 3 * 2 * THREE.fill_words
    known = words(route, *weights, *gemms, slot_counts=[[11, 1]])
    # Slot 4: 9 of its 10 further tokens. Slot 5 has no second token, slot 6 none: one wave each, and 6 loads nothing.
    assert known.waves[0] == 9 * 2 + 1 + 1 and known.rows[0] == 9 + 1 + 1
    assert known.tiles[0] == 2 + 1 + 1 and known.fills[0] == 2 * 2 * THREE.fill_words
    again = words(route, *weights, route, *gemms, slot_counts=[[2, 2], [0, 3, 1]])
    assert again.fills[0] == 2 * 2 * THREE.fill_words and again.waves[0] == 1 + 2 * 2 + 1
    with pytest.raises(A3dError, match="slot_counts: 2 lists for 1 ROUTEs; give the tokens"):
        words(route, *gemms, slot_counts=[[1], [1]])


def test_fetch_is_what_was_counted_or_what_the_stream_takes() -> None:
    stream = [Instruction(Opcode.NOP, {})] * 3
    assert moved(*stream).offchip_by["fetch"] == 96
    assert moved(*stream, fetch_beats=20).offchip == 20 * THREE.group_bytes
    assert moved(config=THREE).offchip == 0  # no instructions


def test_sums_and_plain_data() -> None:
    one = moved(gemm(tier_base=2))
    assert (one + LinkBytes()).to_dict() == (LinkBytes() + one).to_dict() == one.to_dict()
    two = one + one
    assert (two.vertical, two.lateral, two.offchip) == (2 * one.vertical, 2 * one.lateral, 2 * one.offchip)
    assert two.bonds == tuple(2 * n for n in one.bonds)
    assert sum(one.bonds) - one.vertical in range(-len(one.vertical_by), 1 + len(one.bonds))  # each is rounded up


@pytest.mark.parametrize("changes", [{}, {"vertical_links": False}, {"stationary_feed": "edge"}], ids=str)
def test_words_are_as_wide_as_the_bonds(changes: dict[str, Any]) -> None:
    config = THREE.replace(**changes)
    bits, base = word_bits(config), {s.name: s for s in describe_stack(config).bonds[0].signals}
    assert base["dispatch"].used == config.tiers * (bits["wave"] + bits["request"])
    assert base["fill_control"].used + base["fill_data"].used == 2 * bits["fill"]
    assert base["write"].used == (config.result_lanes + 1) * bits["write"]
    assert base["result"].used == config.tiers * bits["result"]
    assert (base["stationary"].bits, base["activation"].bits, base["psum"].bits) == (
        bits["tile"], bits["activation"], bits["psum"],
    )  # fmt: skip
    assert np.all(np.array(list(bits.values())) >= 0)
