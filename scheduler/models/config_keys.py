# SPDX-License-Identifier: Apache-2.0
"""What the keys of a ``config.json`` mean that families have in common, and the refusal of those that nobody knows.

A key that is not understood could change what the model computes, and what it computes is then not the model's: it is
refused unless its value is null, which is everywhere the same as no key. Lists say what is understood:

- keys that are used: `USED` and those of the family;
- `HARMLESS` and those of the family, keys that do not reach the arithmetic of inference: training, defaults of
  generation, tokens, bookkeeping, and all that begin with ``_``;
- `PLAIN`, keys of other families with the value for which these compute what a plain model does; a family's own table
  is looked at first;
- the family's `related`: other names of what it has, with the value that they must have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hdl.errors import one_line, shown
from scheduler.models.checkpoint_json import CheckpointError
from scheduler.models.checkpoint_rope import ROPE_KEYS

if TYPE_CHECKING:
    from scheduler.models.family import Family

__all__ = ["HARMLESS", "NONE", "NOT_IMPLEMENTED", "OFF", "ONE", "PLAIN", "USED", "check_keys"]

USED = frozenset({
    "architectures", "eos_token_id", "hidden_act", "hidden_size", "max_position_embeddings", "model_type",
    "num_attention_heads", "num_experts_per_tok", "num_hidden_layers", "num_key_value_heads", "rms_norm_eps",
    "tie_word_embeddings", "vocab_size", *ROPE_KEYS,
})  # fmt: skip

HARMLESS = frozenset({
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

OFF: tuple[Any, ...] = (False, 0)
NONE: tuple[Any, ...] = ()
ONE: tuple[Any, ...] = (1,)

PLAIN: dict[str, tuple[Any, ...]] = {
    "hidden_activation": ("silu", "swish"), "activation_function": ("silu", "swish"),
    # attention
    "attention_bias": OFF, "qkv_bias": OFF, "use_qkv_bias": OFF, "attention_out_bias": OFF, "use_bias": OFF,
    "bias": OFF, "mlp_bias": OFF, "lm_head_bias": OFF, "add_bias_linear": OFF, "add_qkv_bias": OFF,
    "use_qk_norm": OFF, "qk_norm": OFF, "qk_layernorm": OFF, "use_sliding_window": OFF, "clip_qkv": NONE,
    "attn_logit_softcapping": NONE, "q_lora_rank": NONE, "kv_lora_rank": NONE, "use_mla": OFF,
    "attention_chunk_size": NONE,
    "add_cross_attention": OFF, "cross_attention_hidden_size": NONE, "is_encoder_decoder": OFF,
    "pruned_heads": ({},), "position_embedding_type": ("rope", "rotary"), "rope_interleave": OFF,
    "rope_interleaved": OFF, "rope_local_base_freq": NONE, "no_rope_layers": ([],), "alibi": OFF,
    "parallel_attn": OFF, "use_parallel_residual": OFF,
    # experts
    "norm_topk_prob": (True,), "scoring_func": ("softmax",), "topk_method": ("greedy",), "n_group": ONE,
    "topk_group": ONE, "routed_scaling_factor": ONE, "n_shared_experts": OFF, "num_shared_experts": OFF,
    "shared_expert_intermediate_size": OFF, "moe_layer_freq": ONE, "decoder_sparse_step": ONE,
    "first_k_dense_replace": OFF, "mlp_only_layers": ([],), "num_nextn_predict_layers": OFF,
    "swiglu_limit": NONE, "expert_capacity": NONE, "capacity_factor": NONE, "use_routing_bias": OFF,
    # scales
    "embedding_multiplier": ONE, "residual_multiplier": ONE, "logits_scaling": ONE, "logit_scale": ONE,
    "lm_head_multiplier": ONE, "scale_emb": ONE, "final_logit_softcapping": NONE, "logits_soft_cap": NONE,
    "normalize_embedding": OFF, "scale_embedding": OFF,
    # storage
    "quantization_config": ({},), "compression_config": ({},), "auto_map": ({},), "adapter_config": ({},),
}  # fmt: skip
"""Values besides null that change nothing."""

NOT_IMPLEMENTED = "the model uses a feature that is not implemented"


def check_keys(raw: dict[str, Any], family: Family, file: str) -> None:
    """Refuse every key that is not understood, and every value that asks for what is not implemented.

    Parameters
    ----------
    raw : dict
        ``config.json``.
    family : Family
        Of the model.
    file : str
        Name of the file, for messages.

    Raises
    ------
    CheckpointError
        Names the key, its value and what is expected.
    """
    activations = ("silu", "swish")
    if raw.get("hidden_act", "silu") not in activations:
        raise CheckpointError(f"{file}: hidden_act is {shown(raw['hidden_act'])}, expected 'silu'; {NOT_IMPLEMENTED}")
    understood = USED | HARMLESS | family.used | family.harmless | family.aliases.keys() | family.related.keys()
    plain = PLAIN | dict(family.plain)
    for name, value in raw.items():
        if value is None or name in understood or name.startswith("_"):
            continue
        if name not in plain:
            raise CheckpointError(
                f"{file}: {one_line(shown(name)).strip(chr(39))} is {shown(value)}, a key that is not understood; it "
                "may change what the model computes: remove it from config.json if it does not"
            )
        if not any(value == own and isinstance(value, bool) is isinstance(own, bool) for own in plain[name]):
            allowed = " or ".join(["null", *(_json(own) for own in plain[name] if own != 0 or own is False)])
            raise CheckpointError(f"{file}: {name} is {shown(value)}, expected {allowed}; {_hint(name, family)}")


def _json(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else shown(value)


def _hint(name: str, family: Family) -> str:
    if name in ("quantization_config", "compression_config"):
        return "dequantise the model and save it again"
    if name == "auto_map":
        return (
            "the model has code of its own, which is not run; remove auto_map if it computes what "
            f"{family.architecture} does"
        )
    return NOT_IMPLEMENTED
