# SPDX-License-Identifier: Apache-2.0
"""Norms and dense matrices: every output tile is computed once, from its own weights and words, where it belongs."""

from __future__ import annotations

import pytest

from hdl.config import MachineConfig
from hdl.isa import Dest, LoadDest, Mapping3D, Mode, Opcode, VectorBits, VectorOp
from scheduler.ops.batch import Chunk
from scheduler.stream.emit.dense import Dense, Group, emit_norm
from scheduler.stream.emit.work import Work
from tests.support.emitting import ODD, STREAMED, TINY, emitted, weights_of, work_of

CHUNKS = [Chunk(0, 5, (1, 2, 3, 4)), Chunk(1, 8, (5,))]
CONFIGS = {"resident": TINY, "streamed": STREAMED, "flat": STREAMED.replace(vertical_links=False)}


def test_a_norm_is_two_vectors() -> None:
    work = work_of(CHUNKS)
    norm = work.constants.final_norm
    emit_norm(work, "n", norm, row=7, stride=3, count=4, scalar=9, word=11, tiers=3)
    (one, squares), (two, scale) = emitted(work)
    assert (one, two) == ("n: sum of squares", "n: scale")
    assert (squares["op"], scale["op"]) == (VectorOp.SUMSQ, VectorOp.SCALE)
    for vector in (squares, scale):
        assert [vector[f] for f in ("a_base", "a_stride", "vectors", "rows")] == [7, 3, 4, 3]
        assert vector["in_shift"] == norm.in_shift
    assert squares["d_scalar"] == scale["s_base"] == 9
    assert [scale[f] for f in ("dest_base", "dest_stride", "dest_tiers", "bits")] == [11, 3, 3, VectorBits.BITS8]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_output_tile_once_from_its_own_weights(config: MachineConfig) -> None:
    work = work_of(CHUNKS, config)
    dense = Dense(work)
    for layer in (0, 1):
        dense.load_layer(layer)
    dense.load_head()
    matrices = [(n, name, m) for n in (0, 1) for name, m in work.residence.matrices[ODD.layers[n]].items()]
    for layer, name, matrix in [*matrices, (-1, "head", work.tiling.head)]:
        before = len(weights_of(work))
        groups = [Group(2, 0, 100), Group(1, 6, 200)]
        dense.project(layer, name, groups, act_stride=3, shift=9, dest_kind=Dest.COMBINE, dest_stride=50)
        high, _ = work.memory.planes("head" if layer < 0 else f"layer{layer}.{name}")
        seen: dict[int, list[int]] = {100: [], 200: []}
        for label, gemm, tiers in weights_of(work)[before:]:
            assert label == name and gemm["k_slices"] == matrix.k_slices and gemm["mode"] == Mode.REQUANT16
            assert gemm["mapping"] == (Mapping3D.N if gemm["tier_count"] > 1 else Mapping3D.ALONE)
            base = 100 if gemm["act_base"] == 0 else 200
            for place, tiles in enumerate(tiers):
                first = gemm["dest_base"] - base + place * gemm["n_tiles"]  # N: a tier's rows after the one's before
                seen[base] += range(first, first + gemm["n_tiles"])
                wanted = high.address + first * matrix.k_slices * config.plane_bytes
                assert tiles == [(high.group, wanted + n * config.plane_bytes) for n in range(len(tiles))]
        assert seen == {100: list(range(matrix.n_tiles)), 200: list(range(matrix.n_tiles))}, name


def words_of(work: Work) -> dict[str, list[int]]:
    """Return for each GEMM's label the addresses of the words that tier 0 reads, by its `param_base`."""
    held: dict[int, int] = {}
    found: dict[str, list[int]] = {}
    for label, one in emitted(work):
        if one.opcode == Opcode.LOAD and one["dest_kind"] == LoadDest.PARAMETER and one["dest_tiers"] & 1:
            held |= {one["dest_base"] + n: one["addr"] * 32 + n * 16 for n in range(one["count"])}
        if one.opcode == Opcode.GEMM:
            found.setdefault(label, []).extend(held[one["param_base"] + n] for n in range(one["n_tiles"]))
    return found


def test_streamed_words_come_with_their_share() -> None:
    work = work_of(CHUNKS, STREAMED)
    dense = Dense(work)
    dense.project(0, "qkv", [Group(1, 0, 0)], act_stride=3, shift=9, dest_kind=Dest.COMBINE)
    wanted = []
    for number, share in enumerate(work.residence.shares[ODD.layers[0]]["qkv"]):
        place = work.memory.words("layer0.qkv", number, 0)
        wanted += [place.address + n * 16 for n in range(share.each)]
    assert words_of(work)["qkv"] == wanted


def test_resident_words_follow_each_other_in_the_order_of_the_matrices() -> None:
    """A layer: 4 of qkv, 1 + 1 of output, 1 of the router, 4 of attention."""
    work = work_of(CHUNKS)
    dense = Dense(work)
    for layer in (0, 1):
        dense.load_layer(layer)
        for name in ("qkv", "output", "router"):
            dense.project(layer, name, [Group(1, 0, 0)], act_stride=3, shift=9, dest_kind=Dest.COMBINE)
    assert [gemm["param_base"] for _, gemm, _ in weights_of(work)] == [0, 4, 5, 6, 11, 15, 16, 17]
    assert [dense.score_word(n, h) for n in (0, 1) for h in (0, 1)] == [7, 8, 18, 19]
    assert [dense.context_word(n, h) for n in (0, 1) for h in (0, 1)] == [9, 10, 20, 21]


def test_prefetching_stops_where_the_ring_is_full_and_never_overwrites_what_is_to_come() -> None:
    work = work_of(CHUNKS, STREAMED)
    dense = Dense(work)
    dense.prefetch(0, "qkv")
    ahead = len(emitted(work))
    shares = work.residence.shares[ODD.layers[0]]["qkv"]
    assert len({one["tag"] for _, one in emitted(work) if one["tag"]}) == len(shares) == 4, "the ring has room for all"
    dense.prefetch(0, "qkv")
    assert len(emitted(work)) == ahead, "what is on the chip is not loaded again"
    for name in ("qkv", "output", "router"):
        dense.project(0, name, [Group(1, 0, 0)], act_stride=3, shift=9, dest_kind=Dest.COMBINE)
    assert len(weights_of(work)) == sum(len(own) for own in work.residence.shares[ODD.layers[0]].values())
    for _, one in emitted(work):
        if one.opcode == Opcode.LOAD and one["dest_kind"] == LoadDest.VCACHE:
            assert one["dest_base"] + one["count"] <= work.residence.dense_tiles


def test_after_the_last_layer_comes_the_head_if_it_is_wanted() -> None:
    for layer, head, label in ((0, False, "qkv"), (1, True, "head"), (1, False, None)):
        work = work_of(CHUNKS, STREAMED)
        Dense(work).prefetch_after(layer, head)
        labels = {name.split()[0] for name, _ in emitted(work)}
        assert labels == ({label} if label else set())
    work = work_of(CHUNKS)  # resident: nothing
    Dense(work).prefetch_after(0, True)
    assert not emitted(work)


def test_activations_count_words_and_gated_ones_half() -> None:
    """h: output tile n of up is half a row of 8: two tiles a word."""
    work = work_of(CHUNKS, STREAMED.replace(tiers=1, row_fifo_depth=64))
    dense = Dense(work)
    groups = [Group(1, 0, 40)]
    dense.project(0, "qkv", groups, act_stride=3, shift=9, dest_kind=Dest.ACTIVATION)
    shares = work.residence.shares[ODD.layers[0]]["qkv"]
    assert len(shares) > 1
    assert [gemm["dest_base"] for _, gemm, _ in weights_of(work)] == [40 + share.first for share in shares]
    assert dense._offset(6, Mode.SWIGLU, {}) == 3 and dense._offset(6, Mode.REQUANT8, {}) == 6
    assert dense._offset(6, Mode.SWIGLU, {"dest_kind": Dest.COMBINE}) == 6
