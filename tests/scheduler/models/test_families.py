# SPDX-License-Identifier: Apache-2.0
"""Families: the table is complete, what is unknown or half known is named, what they differ in is understood."""

from __future__ import annotations

import dataclasses
import importlib
import json
import pkgutil
from pathlib import Path
from typing import Any

import pytest

from hdl.errors import A3dError
from scheduler.models import families
from scheduler.models.checkpoint import CheckpointError, check_checkpoint, read_config
from scheduler.models.description import DenseMlp, Experts, Model, QkNorm
from scheduler.models.families.table import FAMILIES
from scheduler.models.shapes import shape_file
from tests.support.checkpoints import config_json, small_model

COMPLETE = ("mixtral", "qwen3_moe", "olmoe")
SHAPES = {
    "mixtral": "mixtral-8x7b", "qwen3_moe": "qwen3-30b-a3b", "olmoe": "olmoe-1b-7b", "gpt_oss": "gpt-oss-20b",
    "deepseek_v2": "deepseek-v2-lite", "deepseek_v3": "deepseek-v3",
}  # fmt: skip


def read(folder: Path, config: dict[str, Any], **changes: Any) -> Model:
    (folder / "config.json").write_text(json.dumps({k: v for k, v in (config | changes).items() if v != "absent"}))
    return read_config(folder)


def refused(folder: Path, config: dict[str, Any], **changes: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(folder, config, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value).partition("config.json: ")[2]


def test_the_table_has_every_file() -> None:
    files = {module.name for module in pkgutil.iter_modules(families.__path__)} - {"table"}
    assert [importlib.import_module(f"{families.__name__}.{family.model_type}").FAMILY for family in FAMILIES] == [
        *FAMILIES
    ]
    assert files == {family.model_type for family in FAMILIES}
    assert len({family.architecture for family in FAMILIES}) == len(FAMILIES)


@pytest.mark.parametrize("family", COMPLETE)
def test_what_a_config_says_is_what_the_model_is(tmp_path: Path, family: str) -> None:
    for changes in ({}, {"tied": True}, {"normalised": True}, {"head_dim": 4 if family != "olmoe" else None}):
        model = small_model(family, **changes)  # type: ignore[arg-type]
        found = read(tmp_path, config_json(model))
        assert found == dataclasses.replace(model, name=tmp_path.name)


@pytest.mark.parametrize(
    ("architectures", "model_type", "message"),
    [
        (["LlamaForCausalLM"], "llama", "architectures is ['LlamaForCausalLM'] and model_type 'llama', expected one of "
         "MixtralForCausalLM (mixtral), Qwen3MoeForCausalLM (qwen3_moe), OlmoeForCausalLM (olmoe), "),
        (["Qwen3MoeForSequenceClassification"], "qwen3_moe", "architectures is ['Qwen3MoeForSequenceClassification'], "
         "expected ['Qwen3MoeForCausalLM'] with model_type 'qwen3_moe'; other heads on a Qwen3-MoE are not known"),
        ("absent", "olmoe", "architectures is None, expected ['OlmoeForCausalLM'] with model_type 'olmoe'"),
        (["OlmoeForCausalLM"], "mixtral", "model_type is 'mixtral', expected 'olmoe' with architectures ['OlmoeForCau"),
        (["Qwen2MoeForCausalLM"], "qwen2_moe", "architectures is ['Qwen2MoeForCausalLM'] and model_type 'qwen2_moe'"),
        ("absent", "absent", "architectures is None and model_type None, expected one of"),
        (["OlmoeForCausalLM", "MixtralForCausalLM"], "absent", "architectures is ['OlmoeForCausalLM', 'Mixtral"),
        ([["OlmoeForCausalLM"]], ["olmoe"], "architectures is [['OlmoeForCausalLM']] and model_type ['olmoe']"),
    ],
)  # fmt: skip
def test_unknown_and_half_known_families(tmp_path: Path, architectures: Any, model_type: Any, message: str) -> None:
    config = config_json(small_model("mixtral"))
    found = refused(tmp_path, config, architectures=architectures, model_type=model_type)
    assert found.startswith(message) and "; " in found, found


def test_dense_layers_of_qwen3(tmp_path: Path) -> None:
    config = config_json(small_model("qwen3_moe", layers=4)) | {"intermediate_size": 28}

    def dense(**changes: Any) -> list[int]:
        layers = read(tmp_path, config, **changes).layers
        assert all(layer.mlp.intermediate == 28 for layer in layers if isinstance(layer.mlp, DenseMlp))
        return [n for n, layer in enumerate(layers) if isinstance(layer.mlp, DenseMlp)]

    assert dense() == dense(mlp_only_layers=[], decoder_sparse_step=1) == dense(intermediate_size="absent") == []
    assert dense(mlp_only_layers=[0, 3]) == [0, 3]
    assert dense(decoder_sparse_step=2) == [0, 2]
    assert dense(decoder_sparse_step=2, mlp_only_layers=[1]) == [0, 1, 2]
    for changes, message in (
        ({"mlp_only_layers": [4]}, "mlp_only_layers is [4], expected null or a list of layers from 0 to 3"),
        ({"mlp_only_layers": 1}, "mlp_only_layers is 1, expected null or a list"),
        ({"mlp_only_layers": [True]}, "mlp_only_layers is [True], expected null or a list"),
        ({"decoder_sparse_step": 0}, "decoder_sparse_step is 0, expected null or a positive integer"),
        ({"mlp_only_layers": [0], "intermediate_size": "absent"}, "intermediate_size is missing, expected a positive"),
    ):
        assert refused(tmp_path, config, **changes).startswith(message)


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("qwen3_moe", {"use_sliding_window": True}, "use_sliding_window is True, expected null or false"),
        ("qwen3_moe", {"attention_bias": True}, "attention_bias is True, expected null or false"),
        ("qwen3_moe", {"norm_topk_prob": 1}, "norm_topk_prob is 1, expected true or false"),
        ("qwen3_moe", {"shared_expert_intermediate_size": 8}, "shared_expert_intermediate_size is 8, expected null"),
        ("qwen3_moe", {"qk_norm": False}, "qk_norm is False, expected null or true"),
        ("qwen3_moe", {"num_local_experts": 7}, "num_local_experts is 7, expected null or 5, as num_experts says"),
        ("qwen3_moe", {"num_experts": "absent"}, "num_experts is missing, expected a positive integer"),
        ("qwen3_moe", {"moe_intermediate_size": None}, "moe_intermediate_size is None, expected a positive integer"),
        ("qwen3_moe", {"num_experts_per_tok": 6}, "num_experts_per_tok is 6, expected at most num_experts 5"),
        ("olmoe", {"clip_qkv": 8.0}, "clip_qkv is 8.0, expected null"),
        ("olmoe", {"head_dim": 6}, "head_dim is 6, expected null or hidden_size / num_attention_heads, 4"),
        ("olmoe", {"sliding_window": 8}, "sliding_window is 8, expected null or at least 64"),
        ("olmoe", {"moe_intermediate_size": 9}, "moe_intermediate_size is 9, expected null or 20"),
        ("mixtral", {"norm_topk_prob": False}, "norm_topk_prob is False, expected null or true"),
        ("mixtral", {"num_hidden_layers": 5000}, "num_hidden_layers is 5000, expected a positive integer up to 4096"),
        ("gpt_oss", {"swiglu_limit": 5.0}, "swiglu_limit is 5.0, expected null or 7.0"),
        ("gpt_oss", {"attention_bias": False}, "attention_bias is False, expected null or true"),
        ("gpt_oss", {"layer_types": ["full_attention"]}, "layer_types is ['full_attention'], expected null or sliding"),
        ("gpt_oss", {"sliding_window": None}, "sliding_window is None, expected a positive integer"),
        ("gpt_oss", {"experts_per_token": 3}, "experts_per_token is 3, expected null or 4, as num_experts_per_tok"),
        ("deepseek_v2", {"topk_method": "noaux_tc"}, "topk_method is 'noaux_tc', expected 'greedy' or 'group_limited"),
        ("deepseek_v2", {"scoring_func": "sigmoid"}, "scoring_func is 'sigmoid', expected null or 'softmax'"),
        ("deepseek_v2", {"num_key_value_heads": 2}, "num_key_value_heads is 2, expected null or num_attention_heads"),
        ("deepseek_v2", {"moe_layer_freq": 2}, "moe_layer_freq is 2, expected null or 1"),
        ("deepseek_v2", {"kv_lora_rank": None}, "kv_lora_rank is None, expected a positive integer"),
        ("deepseek_v3", {"scoring_func": "softmax"}, "scoring_func is 'softmax', expected null or 'sigmoid'"),
        ("deepseek_v3", {"routed_scaling_factor": -1}, "routed_scaling_factor is -1, expected a positive number"),
        ("deepseek_v3", {"q_lora_rank": -1}, "q_lora_rank is -1, expected an integer, 0 or more"),
        ("deepseek_v3", {"n_group": 7}, "n_group is 7, expected a divisor of n_routed_experts 256"),
        ("deepseek_v3", {"topk_group": 9}, "topk_group is 9, expected at most n_group 8"),
        ("deepseek_v3", {"topk_group": 1, "num_experts_per_tok": 64}, "num_experts_per_tok is 64, expected at most 32"),
        (
            "deepseek_v2",
            {"topk_method": "group_limited_greedy", "n_group": 3},
            "n_group is 3, expected a divisor of n_",
        ),
        ("deepseek_v2", {"first_k_dense_replace": 99}, "first_k_dense_replace is 99, expected at most num_hidden_laye"),
        ("deepseek_v2", {"qk_rope_head_dim": 63}, "qk_rope_head_dim is 63, expected an even number"),
        ("deepseek_v3", {"head_dim": 128}, "head_dim is 128, expected null or 64"),
        (
            "deepseek_v3",
            {"rope_scaling": {"type": "spiral"}},
            "rope_scaling is {'type': 'spiral'}, expected type 'defa",
        ),
        ("gpt_oss", {"head_dim": None}, "hidden_size 2880 / num_attention_heads 64 is 45, expected an even number"),
        ("deepseek_v3", {"mystery": 1}, "mystery is 1, a key that is not understood"),
    ],
)
def test_values_that_a_family_does_not_have(tmp_path: Path, family: str, changes: dict[str, Any], message: str) -> None:
    config = config_json(small_model(family)) if family in COMPLETE else shape_file(SHAPES[family])["config"]
    read(tmp_path, config)
    assert refused(tmp_path, config, **changes).startswith(message)


def test_defaults_are_those_of_the_family(tmp_path: Path) -> None:
    absent = {"norm_topk_prob": "absent", "rope_theta": "absent", "num_key_value_heads": "absent"}
    for family, theta, kv_heads in (("mixtral", 1e6, 8), ("qwen3_moe", 1e4, 4), ("olmoe", 1e4, 16)):
        config = config_json(small_model(family, hidden=64, heads=16, kv_heads=8))
        if family == "mixtral":
            config.pop("norm_topk_prob", None)
        model = read(tmp_path, config, **absent)
        assert (model.rope_theta, model.attention.kv_heads) == (theta, kv_heads)
        mlp = model.layers[0].mlp
        assert isinstance(mlp, Experts) and mlp.router.normalised is (family == "mixtral")


def test_a_window_that_is_switched_off_is_none(tmp_path: Path) -> None:
    config = config_json(small_model("qwen3_moe"))
    model = read(tmp_path, config, sliding_window=4, use_sliding_window=False, max_window_layers=1)
    assert model.attention.window is None and model.attention.qk_norm == QkNorm.HEAD


def test_numbers_of_experts_under_another_name(tmp_path: Path) -> None:
    for family in COMPLETE:
        config = config_json(small_model(family))
        names = ("num_local_experts", "num_experts")
        for name, other in (names, names[::-1]):
            assert read(tmp_path, config, **{name: 5, other: "absent"}) == read(tmp_path, config)


@pytest.mark.parametrize("family", ["deepseek_v2", "deepseek_v3"])
def test_keys_that_transformers_adds_to_a_deepseek(tmp_path: Path, family: str) -> None:
    config = shape_file(SHAPES[family])["config"]
    assert read(tmp_path, config, head_dim=64, qk_head_dim=192) == read(tmp_path, config)


@pytest.mark.parametrize("family", ["gpt_oss", "deepseek_v2", "deepseek_v3"])
def test_checkpoints_of_shapes_are_refused(tmp_path: Path, family: str) -> None:
    read(tmp_path, shape_file(SHAPES[family])["config"])
    with pytest.raises(A3dError, match=f"{family} can be planned and timed only, .* not implemented are "):
        check_checkpoint(tmp_path)


def test_the_page_shows_the_family_that_is_there() -> None:
    root = Path(__file__).parents[3]
    page = (root / "docs" / "families.md").read_text().splitlines()
    begin = page.index("+++ b/scheduler/models/families/olmoe.py") + 1
    source = (root / "scheduler" / "models" / "families" / "olmoe.py").read_text().splitlines()
    assert [line[1:] for line in page[begin : begin + len(source)]] == source
