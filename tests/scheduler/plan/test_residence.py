# SPDX-License-Identifier: Apache-2.0
"""Which weights stay on the chip: resident where all fits, else in pieces, else refused by the field that is short."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from hdl.config import PRESETS, MachineConfig
from scheduler.memory.placement import Part
from scheduler.models.description import DenseMlp, Model
from scheduler.plan.limits import LoweringError
from scheduler.plan.residence import (
    ExpertPiece,
    Residence,
    Run,
    attention_words,
    pieces_of_expert,
    plan_residence,
    tiles_of_piece,
)
from scheduler.plan.tiling import Tiling
from tests.support.checkpoints import small_model

TINY = PRESETS["tiny"]
ODD = small_model("mixtral", hidden=21, heads=4, kv_heads=2, head_dim=6, intermediate=13, vocabulary=21)


def plan(config: MachineConfig, model: Model = ODD) -> Residence:
    """Return the residence of a model on a machine."""
    return plan_residence(Tiling(config, model))


def test_a_small_model_is_resident() -> None:
    """Of a tier, qkv has 4 of 8 tiles of 3 slices, output 2 of 3 of 4, router 1 of 3, the head 2 of 3 of 3."""
    found, layer = plan(TINY), ODD.layers[0]
    assert found.resident and found.layer_tiles(layer) == 4 * 3 + 2 * 4 + 3
    assert found.dense_tiles == 2 * 23 + 2 * 3
    assert found.layer_words(layer) == 4 + 2 + 1 + attention_words(found.tiling, layer) == 7 + 2 * 2
    assert found.dense_words == 2 * 11 + 2
    assert found.piece_tiles == found.tiling.expert(13).tiles == 18 and not found.gangs


def test_the_last_tile_and_the_last_word_decide() -> None:
    """52 tiles of dense matrices, an expert of 18 and 2 x 3 or so of keys: 128 tiles hold them, 64 do not."""
    assert plan(TINY.replace(vcache_tiles=128)).resident and not plan(TINY.replace(vcache_tiles=64)).resident
    # 24 words and an expert's 7 make 31.
    assert plan(TINY.replace(parameter_words=32)).resident
    deeper = replace(ODD, layers=ODD.layers[:1] * 3)
    assert plan(TINY.replace(parameter_words=64), deeper).resident
    assert not plan(TINY.replace(parameter_words=32), deeper).resident


@pytest.mark.parametrize("tiles", [32, 64])
@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_streamed_pieces_are_whole_matrices_and_fit(tiles: int, links: bool) -> None:
    config = TINY.replace(vcache_tiles=tiles, vertical_links=links)
    found = plan(config)
    assert not found.resident and bool(found.gangs) == links
    expert = found.tiling.expert(13)
    assert found.dense_tiles + found.piece_buffers * found.piece_tiles < tiles and found.piece_buffers >= 2
    runs = [run for piece in found.pieces[13] for run in piece.runs]
    for part, matrix in ((Part.UP, expert.up), (Part.DOWN, expert.down)):
        own = [run for run in runs if run.part == part]
        assert [n for run in own for n in range(run.first, run.first + run.count)] == list(range(matrix.n_tiles))
        assert all(run.count * matrix.k_slices <= found.piece_tiles for run in own)
    for layer in found.tiling.kinds:
        for name, shares in found.shares[layer].items():
            assert all(2 * s.each * found.matrices[layer][name].k_slices <= found.dense_tiles for s in shares), name
    if links:
        up, down = found.gangs[13]
        assert found.gang_words(13) == sum(share.each for share in (*up, *down))


def test_an_expert_is_cut_only_where_it_must_be() -> None:
    """Up has 4 tiles of 3 slices, cut at whole words of h (2 tiles); down 3 of 2 slices."""
    tiling = Tiling(TINY, ODD)
    expert = tiling.expert(13)
    assert pieces_of_expert(tiling, expert, 18) == (ExpertPiece((Run(Part.UP, 0, 4), Run(Part.DOWN, 0, 3))),)
    cut = pieces_of_expert(tiling, expert, 17)
    assert cut == (ExpertPiece((Run(Part.UP, 0, 4),)), ExpertPiece((Run(Part.DOWN, 0, 3),)))
    assert [tiles_of_piece(expert, piece) for piece in cut] == [12, 6]
    cut = pieces_of_expert(tiling, expert, 6)
    assert [piece.runs[0] for piece in cut] == [Run(Part.UP, 0, 2), Run(Part.UP, 2, 2), Run(Part.DOWN, 0, 3)]
    with pytest.raises(LoweringError, match="intermediate: 13; 2 output tiles .* up projection take 6 .* room for 5:"):
        pieces_of_expert(tiling, expert, 5)


def test_a_shared_mlp_and_a_dense_one_are_dense_matrices() -> None:
    mixed = small_model("mixtral", dense=(0,))
    layers = (mixed.layers[0], replace(mixed.layers[1], mlp=replace(mixed.layers[1].mlp, shared=11)))  # type: ignore[arg-type]
    found = plan(TINY.replace(vcache_tiles=1024, parameter_words=256), replace(mixed, layers=layers))
    assert isinstance(layers[0].mlp, DenseMlp)
    widths = {layer: found.matrices[layer]["mlp.down"].inputs for layer in layers}
    assert widths == {layers[0]: 28, layers[1]: 11} and set(found.pieces) == {20}


def test_a_model_without_experts_has_no_slots() -> None:
    dense = small_model("mixtral", dense=(0,))
    found = plan(TINY, replace(dense, layers=dense.layers[:1]))
    assert (found.pieces, found.piece_tiles, found.gangs) == ({}, 0, {})


@pytest.mark.parametrize("vocabulary", [21, 21 * 8], ids=["layer", "head"])
@pytest.mark.parametrize("words", [4, 16])
def test_too_few_words_are_named_and_what_is_named_is_enough(words: int, vocabulary: int) -> None:
    model = replace(ODD, vocabulary=vocabulary)
    with pytest.raises(LoweringError, match="requantisation words take .* raise parameter_words") as caught:
        plan(TINY.replace(parameter_words=words), model)
    found = re.search(rf"take (\d+) of tiny's {words}:", str(caught.value))
    assert found and int(found[1]) > words
    own = plan(TINY.replace(parameter_words=1 << (int(found[1]) - 1).bit_length()), model)
    for shares in (own.head, *own.shares[model.layers[0]].values()):  # streamed: two of a matrix at a time
        assert own.resident or own.dense_words >= 2 * max(share.each for share in shares)


def test_too_few_tiles_are_named() -> None:
    with pytest.raises(LoweringError, match="matrix qkv: 1 output tiles of 3 slices; V-Cache has room for 1 tiles: "):
        plan(TINY.replace(vcache_tiles=16))


def test_a_head_larger_than_memory_is_refused_before_it_is_cut() -> None:
    config = PRESETS["tiny"]
    most = 2 * (1 << config.address_bits) // 24
    with pytest.raises(LoweringError, match=f"vocabulary: {most + 1};.* address_bits = .*: use at most {most},"):
        plan_residence(Tiling(config, small_model("mixtral", vocabulary=most + 1)))
