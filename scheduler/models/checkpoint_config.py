# SPDX-License-Identifier: Apache-2.0
"""Reads ``config.json`` of a Mixtral model: every key is used, known to change nothing, or named in the refusal.

A key that is not understood could change what the model computes, and what it computes is then not the model's: it is
refused unless its value is null, which is everywhere the same as no key. Three lists say what is understood:

- keys that are used, those of :class:`MixtralConfig` and of :mod:`scheduler.models.checkpoint_rope`;
- ``_HARMLESS``, keys that do not reach the arithmetic of inference: training, defaults of generation, tokens,
  bookkeeping, and all that begin with ``_``;
- ``_PLAIN``, keys of related architectures with the value for which that architecture computes what Mixtral does.

Sizes and counts must be there. A key that is absent otherwise has the value that Mixtral's definition gives it:
``num_key_value_heads`` 8 (null: as many as heads), ``head_dim`` ``hidden_size / num_attention_heads``, ``hidden_act``
silu, ``rope_theta`` 1e6, ``tie_word_embeddings`` false. Integers are integers: 32.0 is refused, as transformers 5 does.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hdl.errors import one_line, shown
from scheduler.models.checkpoint_json import CheckpointError, read_object
from scheduler.models.checkpoint_rope import ROPE_KEYS, rope_theta

__all__ = ["ARCHITECTURE", "MixtralConfig", "read_config"]

ARCHITECTURE = "MixtralForCausalLM"

MOST_ROTATIONS = 1 << 25
"""Largest context times head width: the rotation of every position is computed, and held in memory, in advance."""

MOST_SIZE = 1 << 31
"""No size or count is larger."""

_DEFAULT_KV_HEADS = 8

_USED = frozenset({
    "architectures", "eos_token_id", "head_dim", "hidden_act", "hidden_size", "intermediate_size", "layer_types",
    "max_position_embeddings", "model_type", "num_attention_heads", "num_experts", "num_experts_per_tok",
    "num_hidden_layers", "num_key_value_heads", "num_local_experts", "rms_norm_eps", "sliding_window",
    "tie_word_embeddings", "vocab_size", *ROPE_KEYS,
})  # fmt: skip

_HARMLESS = frozenset({
    # bookkeeping
    "name_or_path", "transformers_version", "transformers.js_config", "model_max_length", "tokenizer_class", "prefix",
    "torchscript", "torch_dtype", "dtype", "use_bfloat16", "return_dict", "output_attentions", "output_hidden_states",
    "output_router_logits", "use_cache", "cache_implementation", "attn_implementation", "experts_implementation",
    "use_flash_attention_2", "pretraining_tp", "chunk_size_feed_forward", "world_size", "unsloth_version",
    "unsloth_fixed", "tf_legacy_loss", "tie_encoder_decoder", "is_decoder", "original_max_position_embeddings",
    "max_window_layers", "finetuning_task", "problem_type",
    "task_specific_params", "num_labels", "id2label", "label2id", "classifier_dropout", "decoder_start_token_id",
    # tokens; where a text ends is used
    "bos_token_id", "pad_token_id", "sep_token_id", "cls_token_id", "unk_token_id", "mask_token_id",
    # training
    "attention_dropout", "hidden_dropout", "residual_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop",
    "initializer_range", "router_aux_loss_coef", "router_z_loss_coef", "router_jitter_noise", "gradient_checkpointing",
    "aux_loss_alpha", "seq_aux",
    # what a model recommends for generating
    "max_length", "max_new_tokens", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups",
    "diversity_penalty", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty",
    "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "output_scores",
    "return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values",
    "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens",
})  # fmt: skip

_OFF: tuple[Any, ...] = (False, 0)
_NONE: tuple[Any, ...] = ()
_ONE: tuple[Any, ...] = (1,)

_PLAIN: dict[str, tuple[Any, ...]] = {
    "hidden_activation": ("silu", "swish"), "activation_function": ("silu", "swish"),
    # attention
    "attention_bias": _OFF, "qkv_bias": _OFF, "use_qkv_bias": _OFF, "attention_out_bias": _OFF, "use_bias": _OFF,
    "bias": _OFF, "mlp_bias": _OFF, "lm_head_bias": _OFF, "add_bias_linear": _OFF, "add_qkv_bias": _OFF,
    "use_qk_norm": _OFF, "qk_norm": _OFF, "qk_layernorm": _OFF, "use_sliding_window": _OFF, "clip_qkv": _NONE,
    "attn_logit_softcapping": _NONE, "q_lora_rank": _NONE, "kv_lora_rank": _NONE, "use_mla": _OFF,
    "attention_chunk_size": _NONE,
    "add_cross_attention": _OFF, "cross_attention_hidden_size": _NONE, "is_encoder_decoder": _OFF,
    "pruned_heads": ({},), "position_embedding_type": ("rope", "rotary"), "rope_interleave": _OFF,
    "rope_interleaved": _OFF, "rope_local_base_freq": _NONE, "no_rope_layers": ([],), "alibi": _OFF,
    "parallel_attn": _OFF, "use_parallel_residual": _OFF,
    # experts
    "norm_topk_prob": (True,), "scoring_func": ("softmax",), "topk_method": ("greedy",), "n_group": _ONE,
    "topk_group": _ONE, "routed_scaling_factor": _ONE, "n_shared_experts": _OFF, "num_shared_experts": _OFF,
    "shared_expert_intermediate_size": _OFF, "moe_layer_freq": _ONE, "decoder_sparse_step": _ONE,
    "first_k_dense_replace": _OFF, "mlp_only_layers": ([],), "num_nextn_predict_layers": _OFF,
    "swiglu_limit": _NONE, "expert_capacity": _NONE, "capacity_factor": _NONE, "use_routing_bias": _OFF,
    # scales
    "embedding_multiplier": _ONE, "residual_multiplier": _ONE, "logits_scaling": _ONE, "logit_scale": _ONE,
    "lm_head_multiplier": _ONE, "scale_emb": _ONE, "final_logit_softcapping": _NONE, "logits_soft_cap": _NONE,
    "normalize_embedding": _OFF, "scale_embedding": _OFF,
    # storage
    "quantization_config": ({},), "compression_config": ({},), "auto_map": ({},), "adapter_config": ({},),
}  # fmt: skip
"""Values besides null that change nothing."""

_HINTS = {
    "quantization_config": "dequantise the model and save it again",
    "compression_config": "dequantise the model and save it again",
    "auto_map": "the model has code of its own, which is not run; remove auto_map if it computes what Mixtral does",
}
_NOT_IMPLEMENTED = "the model uses a feature that is not implemented"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtralConfig:
    """Shape of a Mixtral model, named as in its ``config.json``.

    Parameters
    ----------
    vocab_size : int
        Number of tokens (256 for a byte-level model).
    hidden_size : int
        Width of the residual stream.
    intermediate_size : int
        Width of one expert's SwiGLU.
    num_hidden_layers : int
        Decoder layers.
    num_attention_heads, num_key_value_heads : int
        Query heads, and the key/value heads they share (the first is a multiple of the second).
    head_dim : int
        Width of a head; even, because RoPE rotates pairs.
    num_local_experts, num_experts_per_tok : int
        Experts per layer, and how many of them each token uses.
    max_position_embeddings : int
        Longest sequence.
    rms_norm_eps : float
        Added to the mean square in RMSNorm.
    rope_theta : float
        Base of the rotary frequencies.
    tie_word_embeddings : bool
        The output layer is the embedding table.
    eos_token_id : tuple of int
        Tokens that end a text.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    num_local_experts: int
    num_experts_per_tok: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    tie_word_embeddings: bool = False
    eos_token_id: tuple[int, ...] = ()


def read_config(folder: Path | str) -> MixtralConfig:
    """Read and check ``config.json`` of a Mixtral model.

    Parameters
    ----------
    folder : path
        Model directory.

    Raises
    ------
    CheckpointError
        When the file is missing or malformed, describes a model that is not a plain Mixtral, or has a key that is not
        understood.
    """
    folder = Path(folder)
    _check_folder(folder)
    path = folder / "config.json"
    raw = read_object(path, "point at a Hugging Face model directory (config.json and model.safetensors)")
    file = one_line(path)
    if raw.get("architectures") != [ARCHITECTURE]:
        raise CheckpointError(
            f"{file}: architectures is {shown(raw.get('architectures'))}, expected ['{ARCHITECTURE}']; "
            "only Mixtral checkpoints can be read, convert the model first"
        )
    _check_options(raw, file)
    return _config(raw, file)


def _check_folder(folder: Path) -> None:
    """Refuse what is no folder with what it is taken for."""
    name = one_line(folder)
    try:
        if folder.is_dir():
            return
        if folder.exists():
            raise CheckpointError(f"{name}: is a file, expected the model's directory; name the directory it lies in")
    except (OSError, ValueError) as error:  # a name that is too long, or has a NUL
        raise CheckpointError(f"{name}: cannot be looked at ({one_line(error)}); name a model directory") from error
    if not folder.is_absolute() and len(folder.parts) == 2 and not folder.parent.exists():
        raise CheckpointError(
            f"{name}: not found; models are read from disk: if this is a name on the Hugging Face hub, "
            "download the model first and name the directory that it is in"
        )
    raise CheckpointError(f"{name}: not found; name a model directory (config.json and model.safetensors)")


def _check_options(raw: dict[str, Any], file: str) -> None:
    """Refuse every key that is not understood, and every value that asks for what is not implemented."""
    for name, values in (("model_type", ("mixtral",)), ("hidden_act", ("silu", "swish"))):
        if raw.get(name, values[0]) not in values:
            raise CheckpointError(f"{file}: {name} is {shown(raw[name])}, expected {values[0]!r}; {_NOT_IMPLEMENTED}")
    for name, value in raw.items():
        if value is None or name in _USED or name in _HARMLESS or name.startswith("_"):
            continue
        if name in _PLAIN:
            if not any(value == plain and isinstance(value, bool) is isinstance(plain, bool) for plain in _PLAIN[name]):
                allowed = " or ".join(["null", *(_json(v) for v in _PLAIN[name] if v != 0 or v is False)])
                raise CheckpointError(
                    f"{file}: {name} is {shown(value)}, expected {allowed}; {_HINTS.get(name, _NOT_IMPLEMENTED)}"
                )
        elif name not in _RELATED:
            raise CheckpointError(
                f"{file}: {shown(name).strip(chr(39))} is {shown(value)}, a key that is not understood; it may change "
                "what the model computes: remove it from config.json if it does not"
            )


def _json(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else shown(value)


def _integer(value: Any, low: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= MOST_SIZE


def _config(raw: dict[str, Any], file: str) -> MixtralConfig:
    """Return the checked values of the keys that are used."""

    def integer(name: str, value: Any) -> int:
        if not _integer(value):
            state = f"is {shown(value)}" if name in raw else "is missing"
            most = f" up to {MOST_SIZE}" if isinstance(value, int) and value > MOST_SIZE else ""
            raise CheckpointError(f"{file}: {name} {state}, expected a positive integer{most}; correct config.json")
        return int(value)

    def own(name: str) -> int:
        return integer(name, raw.get(name))

    eps = raw.get("rms_norm_eps")
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not 0 < eps < 1 or math.isnan(eps):
        state = f"is {shown(eps)}" if "rms_norm_eps" in raw else "is missing"
        raise CheckpointError(
            f"{file}: rms_norm_eps {state}, expected a positive number below 1, such as 1e-05; correct config.json"
        )
    hidden, heads = own("hidden_size"), own("num_attention_heads")
    head_dim = raw.get("head_dim")
    if head_dim is None:
        if hidden % heads:
            raise CheckpointError(
                f"{file}: hidden_size {hidden} is not a multiple of num_attention_heads {heads}; "
                "correct one of them or add head_dim"
            )
        head_dim = hidden // heads
    kv_heads = raw.get("num_key_value_heads", _DEFAULT_KV_HEADS)
    tied = raw.get("tie_word_embeddings")
    if not isinstance(tied, bool | None):
        raise CheckpointError(
            f"{file}: tie_word_embeddings is {shown(tied)}, expected true or false; correct config.json"
        )
    experts = "num_experts" if raw.get("num_local_experts") is None and "num_experts" in raw else "num_local_experts"
    config = MixtralConfig(
        vocab_size=own("vocab_size"),
        hidden_size=hidden,
        intermediate_size=own("intermediate_size"),
        num_hidden_layers=own("num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=heads if kv_heads is None else integer("num_key_value_heads", kv_heads),
        head_dim=integer("head_dim", head_dim),
        num_local_experts=own(experts),
        num_experts_per_tok=own("num_experts_per_tok"),
        max_position_embeddings=own("max_position_embeddings"),
        rms_norm_eps=float(eps),
        rope_theta=rope_theta(raw, file),
        tie_word_embeddings=bool(tied),
        eos_token_id=_eos(raw, file),
    )
    _check_sizes(config, raw, file)
    _check_window(config, raw, file)
    for name, same in _RELATED.items():
        if raw.get(name) is not None and raw[name] != same(config):
            raise CheckpointError(
                f"{file}: {name} is {shown(raw[name])}, expected null or {same(config)}; {_NOT_IMPLEMENTED}"
            )
    return config


_RELATED: dict[str, Callable[[MixtralConfig], int | float]] = {
    "num_experts": lambda c: c.num_local_experts,
    "moe_intermediate_size": lambda c: c.intermediate_size,
    "rotary_dim": lambda c: c.head_dim,
    "v_head_dim": lambda c: c.head_dim,
    "kv_channels": lambda c: c.head_dim,
    "query_pre_attn_scalar": lambda c: c.head_dim,  # scores are divided by its root
    "attention_multiplier": lambda c: c.head_dim**-0.5,  # it replaces that division: 1 would change the scores
    "layer_norm_eps": lambda c: c.rms_norm_eps,
    "norm_eps": lambda c: c.rms_norm_eps,
}
"""Other names of what Mixtral has, and the value that they must have."""


def _check_sizes(config: MixtralConfig, raw: dict[str, Any], file: str) -> None:
    """Refuse numbers that do not fit each other."""
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    if heads % kv_heads:
        state = "is" if "num_key_value_heads" in raw else "is missing, which means"
        raise CheckpointError(
            f"{file}: num_key_value_heads {state} {kv_heads}, expected a divisor of num_attention_heads {heads}; "
            "correct config.json"
        )
    if config.head_dim % 2:
        raise CheckpointError(
            f"{file}: head_dim is {config.head_dim}, expected an even number (RoPE rotates pairs); correct it"
        )
    if config.num_experts_per_tok > config.num_local_experts:
        raise CheckpointError(
            f"{file}: num_experts_per_tok is {config.num_experts_per_tok}, "
            f"expected at most num_local_experts {config.num_local_experts}; correct config.json"
        )
    most = MOST_ROTATIONS // config.head_dim
    if config.max_position_embeddings > most:
        raise CheckpointError(
            f"{file}: max_position_embeddings is {config.max_position_embeddings}, expected at most {most} with "
            f"head_dim {config.head_dim}: the rotation of every position is held in memory; write a smaller context"
        )


def _check_window(config: MixtralConfig, raw: dict[str, Any], file: str) -> None:
    """Refuse attention that does not see all of the past."""
    context, window = config.max_position_embeddings, raw.get("sliding_window")
    if window is not None and window is not False and (not isinstance(window, int) or window < context):
        raise CheckpointError(
            f"{file}: sliding_window is {shown(window)}, expected null or at least {context} "
            "(max_position_embeddings); sliding-window attention is not implemented"
        )
    types = raw.get("layer_types")
    if types is None:
        return
    if not isinstance(types, list) or any(kind != "full_attention" for kind in types):
        raise CheckpointError(
            f"{file}: layer_types is {shown(types)}, expected null or full_attention for every layer; "
            "sliding-window attention is not implemented"
        )
    if len(types) != config.num_hidden_layers:
        raise CheckpointError(
            f"{file}: layer_types has {len(types)} entries, expected one for each of the num_hidden_layers "
            f"{config.num_hidden_layers}; correct config.json"
        )


def _eos(raw: dict[str, Any], file: str) -> tuple[int, ...]:
    """Return the tokens that end a text; some files have none, some one, some a list."""
    value = raw.get("eos_token_id")
    tokens = value if isinstance(value, list) else [] if value is None else [value]
    if not all(_integer(token, -1) for token in tokens):
        raise CheckpointError(
            f"{file}: eos_token_id is {shown(value)}, expected null, a token's number or a list of them; correct it"
        )
    return tuple(token for token in tokens if token >= 0)
