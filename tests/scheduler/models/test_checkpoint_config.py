# SPDX-License-Identifier: Apache-2.0
"""``config.json``: what real Mixtrals have is accepted, what changes the numbers and is not understood is refused."""

from __future__ import annotations

import enum
import json
import os
from pathlib import Path
from typing import Any

import pytest

from hdl.errors import A3dError
from scheduler.models.checkpoint import CheckpointError, MixtralConfig, read_config
from tests.support.small_config import CONFIG


class Absent(enum.Enum):
    """Stands for a key that is left out; an object's own name would differ from process to process."""

    ABSENT = "absent"


ABSENT = Absent.ABSENT


def read(folder: Path, **changes: Any) -> MixtralConfig:
    """Read CONFIG with some keys changed or, by ABSENT, removed."""
    (folder / "config.json").write_text(json.dumps({k: v for k, v in (CONFIG | changes).items() if v is not ABSENT}))
    return read_config(folder)


def refused(folder: Path, **changes: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(folder, **changes)
    message = str(caught.value)
    assert "\n" not in message and "config.json" in message and isinstance(caught.value, A3dError)
    return message


# What accompanies the sizes in the config.json of models that people have published, by age of their tools.
PUBLISHED: dict[str, dict[str, Any]] = {
    "4.36": {
        "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.02,
        "output_router_logits": False, "router_aux_loss_coef": 0.02, "torch_dtype": "bfloat16",
        "transformers_version": "4.36.0.dev0", "use_cache": True,
    },
    "4.37 converted from Llama": {
        "_name_or_path": "mine-8x101", "attention_bias": False, "pretraining_tp": 1, "rope_scaling": None,
        "output_router_logits": True, "use_cache": False,
    },
    "4.46": {
        "_attn_implementation_autoset": True, "head_dim": 2, "router_jitter_noise": 0.0, "pad_token_id": 0,
        "unsloth_version": "2024.9", "max_length": 4096, "temperature": 0.7, "id2label": {"0": "LABEL_0"},
    },
    "5": {
        "dtype": "bfloat16", "head_dim": None, "rope_theta": ABSENT, "layer_types": ["full_attention"] * 2,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}, "eos_token_id": [2, 3],
        "tie_word_embeddings": ABSENT, "chunk_size_feed_forward": 0, "is_encoder_decoder": False,
    },
}  # fmt: skip


@pytest.mark.parametrize("changes", PUBLISHED.values(), ids=PUBLISHED)
def test_what_published_models_have_is_accepted(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = read(tmp_path, **changes)
    assert config.rope_theta == 10000.0 and config.head_dim == 2 and not config.tie_word_embeddings


ROTATIONS: dict[str, tuple[dict[str, Any], float]] = {
    "theta alone": ({"rope_theta": 5000}, 5000.0),
    "nothing": ({"rope_theta": ABSENT}, 1e6),
    "null": ({"rope_theta": None}, 1e6),
    "empty tables": ({"rope_scaling": {}, "rope_parameters": {}}, 1e4),
    "type": ({"rope_scaling": {"type": "default"}}, 1e4),
    "rope_type and equal theta": ({"rope_scaling": {"rope_type": "default", "rope_theta": 1e4}}, 1e4),
    "theta in the table": ({"rope_theta": ABSENT, "rope_parameters": {"rope_type": "default", "rope_theta": 7e3}}, 7e3),
    "theta in the old table": ({"rope_theta": ABSENT, "rope_scaling": {"rope_theta": 7e3}}, 7e3),
    "nulls in the table": ({"rope_parameters": {"rope_type": None, "rope_theta": None, "factor": None}}, 1e4),
    "factor 1": ({"rope_parameters": {"rope_type": "default", "factor": 1.0}}, 1e4),
    "whole heads": ({"partial_rotary_factor": 1.0, "rope_parameters": {"partial_rotary_factor": 1}}, 1e4),
    "a table for each type": (
        {"rope_theta": ABSENT, "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 7e3}}},
        7e3,
    ),
    "equal tables": (
        {
            "rope_theta": ABSENT,
            "rope_parameters": {"full_attention": {"rope_theta": 7e3}, "sliding_attention": {"rope_theta": 7000}},
        },
        7e3,
    ),
}


@pytest.mark.parametrize(("changes", "theta"), ROTATIONS.values(), ids=ROTATIONS)
def test_a_plain_rotation_is_understood_in_every_spelling(
    tmp_path: Path, changes: dict[str, Any], theta: float
) -> None:
    assert read(tmp_path, **changes).rope_theta == theta


SCALED = "scaled rotary embeddings are not implemented"


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"rope_scaling": {"type": "yarn"}}, ["rope_scaling is {'type': 'yarn'}, expected type 'default'", SCALED]),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, ["rope_scaling is ", "linear", SCALED]),
        ({"rope_parameters": {"type": "yarn", "factor": 4.0}}, ["rope_parameters is ", "yarn", SCALED]),
        ({"rope_parameters": {"rope_type": "default", "type": "yarn"}}, ["rope_parameters is ", "yarn", SCALED]),
        ({"rope_parameters": {"rope_type": 3}}, ["rope_parameters is ", "expected rope_type 'default'"]),
        ({"rope_parameters": {"factor": 8.0}}, ["rope_parameters has 'factor': 8.0", SCALED]),
        ({"rope_scaling": {"low_freq_factor": 1.0}}, ["rope_scaling has 'low_freq_factor': 1.0", SCALED]),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, ["rope_parameters.partial_rotary_factor is 0.5"]),
        ({"partial_rotary_factor": 0.25}, ["partial_rotary_factor is 0.25, expected 1"]),
        ({"partial_rotary_factor": True}, ["partial_rotary_factor is True, expected 1"]),
        ({"rope_parameters": {"rope_theta": 5e5}}, ["rope_theta 10000 and rope_parameters.rope_theta 500000 do not"]),
        (
            {"rope_theta": None, "rope_scaling": {"rope_theta": 1}, "rope_parameters": {"rope_theta": 2}},
            ["rope_scaling.rope_theta 1 and rope_parameters.rope_theta 2 do not agree"],
        ),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}},
            ["rope_parameters.full_attention is ", "expected rope_type 'default'"],
        ),
        ({"rope_parameters": {"main": {"rope_type": "default"}}}, ["rope_parameters has a table 'main'"]),
        ({"rope_parameters": [1]}, ["rope_parameters is [1], expected null or a table"]),
        ({"rope_scaling": "yarn"}, ["rope_scaling is 'yarn', expected null or a table"]),
        ({"rope_theta": float("nan")}, ["rope_theta is nan, expected a positive number"]),
        ({"rope_theta": float("inf")}, ["rope_theta is inf, expected a positive number"]),
        ({"rope_theta": 10**400}, ["rope_theta is 1000", "expected a positive number"]),
        ({"rope_theta": "1e6"}, ["rope_theta is '1e6', expected a positive number"]),
        ({"rope_theta": True}, ["rope_theta is True, expected a positive number"]),
        ({"rope_parameters": {"rope_theta": 0}}, ["rope_parameters.rope_theta is 0, expected a positive number"]),
    ],
    ids=lambda v: str(v)[:60] if isinstance(v, dict) else "",
)
def test_every_other_rotation_is_refused(tmp_path: Path, changes: dict[str, Any], parts: list[str]) -> None:
    message = refused(tmp_path, **changes)
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("key", "plain", "other"),
    [
        ("attention_bias", False, True),
        ("mlp_bias", None, True),
        ("qk_norm", False, True),
        ("sliding_window", 32, 31),
        ("sliding_window", False, 0),
        ("sliding_window", 1 << 20, "64"),
        ("layer_types", ["full_attention"] * 2, ["full_attention", "sliding_attention"]),
        ("layer_types", None, ["full_attention"] * 3),
        ("hidden_act", "swish", "gelu"),
        ("hidden_act", "silu", None),
        ("hidden_activation", "silu", "gelu"),
        ("clip_qkv", None, 8.0),
        ("attn_logit_softcapping", None, 50.0),
        ("final_logit_softcapping", None, 30.0),
        ("attention_multiplier", 2**-0.5, 1.0),
        ("query_pre_attn_scalar", 2, 256),
        ("logits_scaling", 1.0, 8.0),
        ("logit_scale", 1, 0.0625),
        ("logit_scale", None, True),
        ("embedding_multiplier", 1.0, 12.0),
        ("residual_multiplier", 1, 0.22),
        ("routed_scaling_factor", 1.0, 2.5),
        ("norm_topk_prob", True, False),
        ("scoring_func", "softmax", "sigmoid"),
        ("n_shared_experts", 0, 1),
        ("shared_expert_intermediate_size", None, 64),
        ("moe_intermediate_size", 6, 12),
        ("num_experts", 3, 4),
        ("first_k_dense_replace", 0, 1),
        ("mlp_only_layers", [], [0]),
        ("quantization_config", None, {"quant_method": "awq"}),
        ("quantization_config", {}, {"quant_method": "fp8"}),
        ("auto_map", None, {"AutoModelForCausalLM": "m.M"}),
        ("is_encoder_decoder", False, True),
        ("some_future_option", None, 3),
        ("some_future_option", None, False),
        ("text_config", None, {"hidden_size": 8}),
    ],
)
def test_an_option_is_accepted_with_the_value_that_changes_nothing(
    tmp_path: Path, key: str, plain: object, other: object
) -> None:
    assert read(tmp_path, **{key: plain}) == read(tmp_path)
    message = refused(tmp_path, **{key: other})
    assert f"config.json: {key} " in message and "; " in message, message


def test_an_unknown_key_is_refused_with_the_way_on(tmp_path: Path) -> None:
    assert "mystery is 1, a key that is not understood; it may change what the model computes: remove it" in refused(
        tmp_path, mystery=1
    )
    read(tmp_path, _mystery=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "architectures is ['LlamaForCausalLM'], expected ['MixtralFor"),
        ({"architectures": ABSENT}, "architectures is None, expected"),
        ({"architectures": "MixtralForCausalLM"}, "architectures is 'MixtralForCausalLM', expected ['Mix"),
        ({"model_type": "llama"}, "model_type is 'llama', expected 'mixtral'"),
        ({"hidden_size": ABSENT}, "hidden_size is missing, expected a positive integer"),
        ({"hidden_size": None}, "hidden_size is None, expected a positive integer"),
        ({"hidden_size": "8"}, "hidden_size is '8', expected a positive integer"),
        ({"hidden_size": 8.0}, "hidden_size is 8.0, expected a positive integer"),
        ({"hidden_size": 10**30}, "hidden_size is 1000000000000000000000000000000, expected a positive integer up to"),
        ({"num_local_experts": 0}, "num_local_experts is 0, expected a positive integer"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True, expected a positive integer"),
        ({"vocab_size": [11]}, "vocab_size is [11], expected a positive integer"),
        ({"rms_norm_eps": -1.0}, "rms_norm_eps is -1.0, expected a positive number below 1"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan, expected a positive number below 1"),
        ({"rms_norm_eps": float("inf")}, "rms_norm_eps is inf, expected a positive number below 1"),
        ({"rms_norm_eps": 10**400}, "rms_norm_eps is 1000"),
        ({"rms_norm_eps": ABSENT}, "rms_norm_eps is missing"),
        ({"num_attention_heads": 3}, "hidden_size 8 is not a multiple of num_attention_heads 3"),
        ({"num_key_value_heads": 3}, "num_key_value_heads is 3, expected a divisor of num_attention_heads 4"),
        ({"num_key_value_heads": ABSENT}, "num_key_value_heads is missing, which means 8, expected a divisor of"),
        ({"head_dim": 3}, "head_dim is 3, expected an even number"),
        ({"num_experts_per_tok": 4}, "num_experts_per_tok is 4, expected at most num_local_experts 3"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no', expected true or false"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings is 1, expected true or false"),
        ({"max_position_embeddings": 1 << 30}, "max_position_embeddings is 1073741824, expected at most 16777216"),
        ({"max_position_embeddings": 10**15}, "max_position_embeddings is 1000000000000000, expected a positive"),
        ({"eos_token_id": "</s>"}, "eos_token_id is '</s>', expected null, a token's number or a list of them"),
        ({"eos_token_id": [2, None]}, "eos_token_id is [2, None], expected null"),
        ({"eos_token_id": True}, "eos_token_id is True, expected null"),
    ],
    ids=lambda v: str(v)[:40] if isinstance(v, dict) else "",
)
def test_wrong_values_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    assert message in refused(tmp_path, **changes)


def test_keys_that_may_be_absent(tmp_path: Path) -> None:
    assert read(tmp_path, num_key_value_heads=None).num_key_value_heads == 4, "null: one for each head"
    absent = dict.fromkeys(("num_key_value_heads", "hidden_act", "model_type", "tie_word_embeddings"), ABSENT)
    config = read(tmp_path, num_attention_heads=8, head_dim=2, **absent)
    assert config.num_key_value_heads == 8 and not config.tie_word_embeddings
    assert read(tmp_path, num_local_experts=ABSENT, num_experts=3).num_local_experts == 3
    assert read(tmp_path, tie_word_embeddings=None) == read(tmp_path)


def test_tokens_that_end_a_text(tmp_path: Path) -> None:
    for value, tokens in ((None, ()), (2, (2,)), ([2, 5], (2, 5)), ([], ()), (-1, ()), (0, (0,))):
        assert read(tmp_path, eos_token_id=value).eos_token_id == tokens


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "config.json: cannot be read as JSON"),
        (b"[1]", "config.json: holds a list, expected a JSON object; point at a Hugging Face model directory"),
        (b'{"a": 1, "a": 2}', "config.json: 'a' is there twice; remove one of them"),
        (b'{"a": "sil\xfc"}', "config.json: cannot be read as JSON (byte 0xfc at position 10 is not UTF-8)"),
        (b'{"a": ' + b"[" * 100_000, "config.json: cannot be read as JSON (nested too deeply)"),
        (b'{"a": ' + b"9" * 5000 + b"}", "config.json: cannot be read as JSON (Exceeds the limit"),
        (b"", "config.json: cannot be read as JSON"),
    ],
    ids=range(7),
)
def test_files_that_are_no_json_object(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        read_config(tmp_path)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_spellings_of_a_file(tmp_path: Path) -> None:
    expected, text = read(tmp_path), json.dumps(CONFIG, indent=2)
    for data in (b"\xef\xbb\xbf" + text.encode(), text.replace("\n", "\r\n").encode()):
        (tmp_path / "config.json").write_bytes(data)
        assert read_config(tmp_path) == expected


def test_what_is_no_model_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("x")
    folder.mkdir()
    for path, message in (
        (folder, "config.json: not found; point at a Hugging Face model directory"),
        (file, "file: is a file, expected the model's directory"),
        (tmp_path / "absent", "absent: not found; name a model directory"),
        (Path("mistralai/Mixtral-8x7B-v0.1"), "if this is a name on the Hugging Face hub, download the model first"),
        (tmp_path / ("x" * 300), "name a model directory"),
        (Path("a\0b"), "a\\x00b: "),
    ):
        with pytest.raises(CheckpointError) as caught:
            read_config(path)
        assert message in str(caught.value) and "\n" not in str(caught.value)
    (folder / "config.json").mkdir()
    with pytest.raises(CheckpointError, match=r"config.json: is a directory, expected a file"):
        read_config(folder)
    (folder / "config.json").rmdir()
    os.mkfifo(folder / "config.json")
    with pytest.raises(CheckpointError, match=r"config.json: is not a regular file"):
        read_config(folder)
