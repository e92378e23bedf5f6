# SPDX-License-Identifier: Apache-2.0
"""Published shapes: their parameters are as many as their makers say."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from hdl.errors import A3dError
from scheduler.models.description import DenseMlp, Experts, GroupedAttention, LatentAttention, QkNorm, Scoring
from scheduler.models.families.table import FAMILIES
from scheduler.models.shapes import load_shape, shape_file, shape_names


def agrees(count: int, published: str) -> bool:
    """Whether a count is what was published, rounded or cut off to as many digits."""
    number = published.removesuffix("B")
    scale = 10 ** len(number.partition(".")[2])
    return round(float(number) * scale) in (round(count / 1e9 * scale), math.floor(count / 1e9 * scale))


def test_agreement_is_to_the_last_digit() -> None:
    assert agrees(12_879_925_248, "12.9B") and agrees(3_353_032_704, "3.3B") and agrees(671_026_419_200, "671B")
    assert not agrees(12_951_000_000, "12.8B") and not agrees(3_290_000_000, "3.4B") and not agrees(669, "671B")


def test_all_that_were_asked_for_are_there() -> None:
    assert shape_names() == (
        "deepseek-v2-lite", "deepseek-v3", "gpt-oss-120b", "gpt-oss-20b", "mixtral-8x22b", "mixtral-8x7b",
        "olmoe-1b-7b", "qwen3-235b-a22b", "qwen3-30b-a3b",
    )  # fmt: skip
    assert {load_shape(name).family for name in shape_names()} == {family.model_type for family in FAMILIES}


@pytest.mark.parametrize("name", shape_names())
def test_parameters_are_the_published_ones(name: str) -> None:
    model, file = load_shape(name), shape_file(name)
    published = file["published"]
    left_out = model.vocabulary * model.hidden if published.get("active_without") == "embedding" else 0
    assert agrees(model.parameters, published["total"]), model.parameters
    assert agrees(model.active_parameters - left_out, published["active"]), model.active_parameters - left_out
    assert file["source"] and model.name == name


def test_exact_counts() -> None:
    """Those of the files of weights."""
    assert load_shape("mixtral-8x7b").parameters == 46_702_792_704
    assert load_shape("qwen3-30b-a3b").parameters == 30_532_122_624
    assert load_shape("gpt-oss-20b").parameters == 20_914_757_184
    assert load_shape("olmoe-1b-7b").parameters == 6_919_161_856
    assert load_shape("deepseek-v2-lite").parameters == 15_706_484_224


def test_what_the_families_differ_in() -> None:
    qwen, olmoe = load_shape("qwen3-30b-a3b"), load_shape("olmoe-1b-7b")
    assert qwen.attention.qk_norm == QkNorm.HEAD and qwen.attention.head_dim == 128 != qwen.hidden // 32
    assert olmoe.attention.qk_norm == QkNorm.WHOLE
    for model, normalised in ((qwen, True), (olmoe, False)):
        assert isinstance(model.layers[3].mlp, Experts) and model.layers[3].mlp.router.normalised is normalised
        model.require_complete()
    oss = [layer.attention for layer in load_shape("gpt-oss-20b").layers]
    assert all(isinstance(a, GroupedAttention) and a.sinks and a.bias for a in oss)
    assert [a.window for a in oss if isinstance(a, GroupedAttention)] == [128, None] * 12
    v3 = load_shape("deepseek-v3")
    assert [isinstance(layer.mlp, DenseMlp) for layer in v3.layers] == [True] * 3 + [False] * 58
    mlp, attention = v3.layers[3].mlp, v3.layers[0].attention
    assert isinstance(mlp, Experts) and mlp.shared == 2048 and mlp.router.scoring == Scoring.SIGMOID
    assert (mlp.router.groups, mlp.router.chosen_groups, mlp.router.scale) == (8, 4, 2.5) and mlp.router.correction
    assert isinstance(attention, LatentAttention) and (attention.query_rank, attention.kv_rank) == (1536, 512)
    lite = load_shape("deepseek-v2-lite")
    assert isinstance(lite.layers[1].mlp, Experts) and lite.layers[1].mlp.shared == 2816


@pytest.mark.parametrize("name", ["gpt-oss-120b", "deepseek-v2-lite", "deepseek-v3"])
def test_what_is_not_implemented_is_said(name: str) -> None:
    with pytest.raises(A3dError, match=rf"^{name}: .* can be planned and timed only, .* not implemented are .*rotary"):
        load_shape(name).require_complete()


def test_shapes_from_files(tmp_path: Path) -> None:
    expected = load_shape("olmoe-1b-7b")
    assert load_shape("OLMoE-1B-7B") == expected
    file = shape_file("olmoe-1b-7b")
    (tmp_path / "mine.json").write_text(json.dumps(file))
    (tmp_path / "config.json").write_text(json.dumps(file["config"]))
    assert load_shape(tmp_path / "mine.json").layers == load_shape(tmp_path / "config.json").layers == expected.layers
    assert load_shape(tmp_path / "mine.json").name == "mine"
    assert load_shape(tmp_path).name == load_shape(tmp_path / "config.json").name == tmp_path.name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("olmoe-1b", "shape 'olmoe-1b': not known, expected one of deepseek-v2-lite, .*; did you mean olmoe-1b-7b"),
        ("x" * 300, "shape 'xxx.*: not known, .*; name one of them, a config.json or a model directory"),
        ("a\0b", "shape 'a.*: not known"),
        ("absent.json", "absent.json: not found; name a config.json"),
    ],
)
def test_shapes_that_are_not_there(name: str, message: str) -> None:
    with pytest.raises(A3dError, match=message) as caught:
        load_shape(name)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_shape(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"config": 3}')
    with pytest.raises(A3dError, match=r"a.json: config is 3, expected an object"):
        load_shape(tmp_path / "a.json")
