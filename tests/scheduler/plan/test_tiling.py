# SPDX-License-Identifier: Apache-2.0
"""A model in words, rows and tiles: widths that are no multiples, and what is refused with the nearest that fits."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from hdl.config import PRESETS, MachineConfig
from scheduler.models.description import Experts, LatentAttention, Layer, Model
from scheduler.plan.limits import LoweringError
from scheduler.plan.tiling import Tiling
from tests.support.checkpoints import small_model

TINY = PRESETS["tiny"]  # words of 8 bytes, rows of 8
TALL = TINY.replace(name="tall", columns=4, row_fifo_depth=64)  # a word is two rows
ODD = small_model("mixtral", hidden=21, heads=4, kv_heads=2, head_dim=6, intermediate=13, vocabulary=21)


def shape(**changes: int) -> Model:
    """Return a model with some dimensions changed."""
    own = {"hidden": 32, "heads": 4, "kv_heads": 2, "head_dim": 8, "intermediate": 16, "vocabulary": 32}
    return small_model("mixtral", **{**own, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "hidden", "head", "expert", "logits"),
    [(TINY, (3, 3), (1, 1), (2, 4, 3), 3), (TALL, (3, 6), (1, 2), (2, 8, 6), 6)],
    ids=["square", "tall"],
)
def test_odd_widths_are_padded_to_whole_words(
    config: MachineConfig, hidden: tuple[int, int], head: tuple[int, int], expert: tuple[int, int, int], logits: int
) -> None:
    """Hidden 21, heads of 6, experts of 13, 21 tokens, 5 experts."""
    tiling, layer = Tiling(config, ODD), ODD.layers[0]
    heads, own = tiling.heads(layer), tiling.expert(13)
    assert (tiling.hidden_words, tiling.hidden_rows) == hidden
    assert (heads.key_words, heads.key_rows) == (heads.value_words, heads.value_rows) == head
    assert (own.inner_words, own.up.n_tiles, own.down.n_tiles) == expert
    assert (own.up.k_slices, own.down.k_slices) == (3, 2)
    assert own.tiles == own.up.tiles + own.down.tiles == 3 * expert[1] + 2 * expert[2]
    assert tiling.logit_rows == tiling.head.n_tiles == logits
    sizes = {name: (m.k_slices, m.n_tiles) for name, m in tiling.dense(layer).items()}
    assert sizes == {"qkv": (3, 8 * head[1]), "output": (4, hidden[1]), "router": (3, 5 // config.columns + 1)}


@pytest.mark.parametrize(("width", "rows"), [(1, 1), (7, 1), (8, 1), (9, 2), (16, 2), (17, 4), (33, 8), (64, 8)])
def test_a_head_takes_the_rows_of_a_rotation_table(width: int, rows: int) -> None:
    model = shape(head_dim=width)
    heads = Tiling(TINY, model).heads(model.layers[0])
    assert heads.key_rows == heads.key_words == heads.value_rows == rows
    assert heads.projected_rows == 8 * rows and heads.rope_rows == 2 * rows


def test_keys_come_in_whole_units() -> None:
    for config, unit in ((TINY, 8), (TALL, 8)):
        tiling = Tiling(config, ODD)
        heads = tiling.heads(ODD.layers[0])
        assert tiling.key_alignment == unit
        assert tiling.key_tiles(heads, 0) == tiling.value_tiles(heads, 0) == 0
        for keys in (1, unit - 1, unit, unit + 1):
            units = -(-keys // unit)
            assert tiling.key_tiles(heads, keys) == units * (unit // config.columns) * heads.key_words
            assert tiling.value_tiles(heads, keys) == units * (unit // config.rows) * heads.value_rows


def test_a_kind_of_layer_counts_once() -> None:
    model = small_model("mixtral", layers=5, dense=(0, 3))
    tiling = Tiling(TINY, model)
    assert tiling.kinds == (model.layers[0], model.layers[1])
    assert tiling.inner_widths(model.layers[0]) == (28,) and tiling.inner_widths(model.layers[1]) == (20,)
    shared = replace(model.layers[1], mlp=replace(model.layers[1].mlp, shared=9))  # type: ignore[arg-type]
    assert tiling.inner_widths(shared) == (20, 9)


@pytest.mark.parametrize(("family", "rows"), [("mixtral", (0, 0)), ("qwen3_moe", (2, 2)), ("olmoe", (8, 4))])
def test_weights_of_norms_of_heads(family: str, rows: tuple[int, int]) -> None:
    """Of one head for all (Qwen), or of all heads' widths side by side (OLMoE)."""
    model = small_model(family, hidden=24, heads=4, kv_heads=2, head_dim=16)
    tiling = Tiling(TINY, model)
    assert tiling.norm_rows(model.layers[0]) == rows and tiling.most_norm_rows == sum(rows)


def test_latent_attention_is_one_head_of_keys() -> None:
    attention = LatentAttention(heads=3, query_rank=0, kv_rank=20, plain_dim=5, rope_dim=4, value_dim=9)
    layer = Layer(attention=attention, mlp=Experts(count=4, chosen=2, intermediate=16))
    model = Model(family="deepseek_v2", name="latent", hidden=24, vocabulary=16, context=32, layers=(layer,))
    tiling = Tiling(TINY, model)
    heads = tiling.heads(layer)
    assert (heads.kv_heads, heads.key_words, heads.value_words, heads.rotated_rows) == (1, 3 + 1, 3, 1)
    sizes = {name: (m.k_slices, m.n_tiles) for name, m in tiling.dense(layer).items()}
    assert sizes == {
        "latent": (3, 3 + 1), "query plain": (3, 3), "query rotated": (3, 3), "absorb": (1, 9), "expand": (3, 6),
        "output": (6, 3), "router": (3, 1),
    }  # fmt: skip
    assert [tiling.per_head(layer, name) for name in ("absorb", "expand", "output")] == [3, 2, 0]


def test_a_head_that_is_too_wide_names_machines_that_take_it() -> None:
    assert Tiling(TINY, shape(head_dim=64))
    with pytest.raises(LoweringError, match="model head_dim: 65; .* at most 64, or a machine with 16 columns or more"):
        Tiling(TINY, shape(head_dim=65))
    assert Tiling(TINY.replace(rows=16, columns=16, row_fifo_depth=96, channel_bytes=8), shape(head_dim=65))


@pytest.mark.parametrize("config", [TINY, TALL], ids=["square", "tall"])
@pytest.mark.parametrize("name", ["hidden", "intermediate", "experts", "heads"])
def test_what_is_named_as_the_most_fits_and_one_more_does_not(config: MachineConfig, name: str) -> None:
    def refused(value: int) -> str:
        try:
            Tiling(config, shape(**{"kv_heads": 1, "head_dim": 8, name: value}))
        except LoweringError as error:
            return str(error)
        return ""

    message = refused(1 << 14)
    found = re.fullmatch(r"model (.*): \d+; .* use at most (\d+), or a machine with more columns", message)
    assert found and name in found[1], message
    most = int(found[2]) // (8 if name == "heads" else 1)  # named as heads x head_dim
    assert refused(most) == "" and refused(most + 1)
    if name != "heads":
        assert refused(most + 1).startswith(f"model {name}: {most + 1};")


def test_attention_needs_transposed_tiles() -> None:
    with pytest.raises(LoweringError, match="config stationary_feed: 'edge' runs experts alone"):
        Tiling(TINY.replace(stationary_feed="edge"), shape())
