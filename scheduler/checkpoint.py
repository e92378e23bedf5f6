# SPDX-License-Identifier: Apache-2.0
"""Read the weights of a Mixtral model from the directory that Hugging Face tools write.

A directory holds ``config.json`` and either ``model.safetensors`` or shards named by
``model.safetensors.index.json``. Everything is checked before it is used: the architecture, every field that the
shapes depend on, and the presence, shape and type of every tensor. Weights come out as float32 NumPy arrays.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors

from hdl.errors import A3dError

__all__ = ["Checkpoint", "CheckpointError", "LayerWeights", "MixtralConfig", "read_checkpoint", "read_config"]

FloatArray = npt.NDArray[np.float32]

_ARCHITECTURE = "MixtralForCausalLM"


class CheckpointError(A3dError):
    """The model directory is not one that can be used; the message names what is wrong and how to fix it."""


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


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LayerWeights:
    """Float32 weights of one decoder layer; matrices are (outputs, inputs), so that ``y = x @ w.T``.

    Parameters
    ----------
    input_norm, post_attention_norm : ndarray, shape (hidden,)
        Scales of the RMSNorm before attention and before the mixture of experts.
    q_proj : ndarray, shape (heads * head_dim, hidden)
    k_proj, v_proj : ndarray, shape (kv_heads * head_dim, hidden)
    o_proj : ndarray, shape (hidden, heads * head_dim)
    router : ndarray, shape (experts, hidden)
    w1, w3 : ndarray, shape (experts, intermediate, hidden)
        Gate (goes through SiLU) and up projection of every expert.
    w2 : ndarray, shape (experts, hidden, intermediate)
        Down projection of every expert.
    """

    input_norm: FloatArray
    q_proj: FloatArray
    k_proj: FloatArray
    v_proj: FloatArray
    o_proj: FloatArray
    post_attention_norm: FloatArray
    router: FloatArray
    w1: FloatArray
    w2: FloatArray
    w3: FloatArray


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """A whole model.

    Parameters
    ----------
    config : MixtralConfig
    embed : ndarray, shape (vocab, hidden)
    layers : tuple of LayerWeights
    norm : ndarray, shape (hidden,)
        Scale of the last RMSNorm.
    lm_head : ndarray, shape (vocab, hidden)
        The same array as `embed` in a model with tied embeddings.
    """

    config: MixtralConfig
    embed: FloatArray
    layers: tuple[LayerWeights, ...]
    norm: FloatArray
    lm_head: FloatArray

    @property
    def parameters(self) -> int:
        """Number of weights, tied ones counted once."""
        arrays = [self.embed, self.norm] + ([] if self.config.tie_word_embeddings else [self.lm_head])
        arrays += [getattr(layer, field.name) for layer in self.layers for field in dataclasses.fields(layer)]
        return sum(array.size for array in arrays)


def _read_json(path: Path, what: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: not found; {what}") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({error}); {what}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds a {type(value).__name__}, expected a JSON object; {what}")
    return value


def read_config(folder: Path | str) -> MixtralConfig:
    """Read and check ``config.json`` of a Mixtral model.

    Parameters
    ----------
    folder : path
        Model directory.

    Raises
    ------
    CheckpointError
        When the file is missing or malformed, or describes a model that is not a plain Mixtral.
    """
    path = Path(folder) / "config.json"
    raw = _read_json(path, "point at a Hugging Face model directory (config.json and model.safetensors)")
    if raw.get("architectures") != [_ARCHITECTURE]:
        raise CheckpointError(
            f"{path}: architectures is {raw.get('architectures')!r}, expected ['{_ARCHITECTURE}']; "
            "only Mixtral checkpoints can be read, convert the model first"
        )
    for name, allowed in (
        ("model_type", ("mixtral",)),
        ("hidden_act", ("silu",)),
        ("rope_scaling", (None,)),
        ("attention_bias", (None, False)),
    ):
        default = None if None in allowed else allowed[0]
        if raw.get(name, default) not in allowed:
            raise CheckpointError(
                f"{path}: {name} is {raw[name]!r}, expected {allowed[0]!r}; "
                "the model uses a feature that is not implemented"
            )

    def number(name: str, kind: type, source: dict[str, Any] = raw, default: Any = None) -> Any:
        value = source.get(name, default)
        allowed = (int, float) if kind is float else (int,)
        if isinstance(value, bool) or not isinstance(value, allowed) or not math.isfinite(value) or value <= 0:
            state = f"is {value!r}" if name in source else "is missing"
            raise CheckpointError(
                f"{path}: {name} {state}, expected a positive "
                f"{'number' if kind is float else 'integer'}; correct config.json"
            )
        return kind(value)

    # transformers 5 moved rope_theta into a table that also names the kind of RoPE
    rope = raw.get("rope_parameters") or {}
    if not isinstance(rope, dict) or rope.get("rope_type", "default") != "default":
        raise CheckpointError(
            f"{path}: rope_parameters is {rope!r}, expected rope_type 'default'; "
            "scaled rotary embeddings are not implemented"
        )
    hidden, heads = number("hidden_size", int), number("num_attention_heads", int)
    head_dim = raw.get("head_dim")
    if head_dim is None:
        if hidden % heads:
            raise CheckpointError(
                f"{path}: hidden_size {hidden} is not a multiple of num_attention_heads {heads}; "
                "correct one of them or add head_dim"
            )
        head_dim = hidden // heads
    tied = raw.get("tie_word_embeddings", False)
    if not isinstance(tied, bool):
        raise CheckpointError(f"{path}: tie_word_embeddings is {tied!r}, expected true or false")
    config = MixtralConfig(
        vocab_size=number("vocab_size", int),
        hidden_size=hidden,
        intermediate_size=number("intermediate_size", int),
        num_hidden_layers=number("num_hidden_layers", int),
        num_attention_heads=heads,
        num_key_value_heads=number("num_key_value_heads", int),
        head_dim=number("head_dim", int, {"head_dim": head_dim}),
        num_local_experts=number("num_local_experts", int),
        num_experts_per_tok=number("num_experts_per_tok", int),
        max_position_embeddings=number("max_position_embeddings", int),
        rms_norm_eps=number("rms_norm_eps", float),
        rope_theta=number("rope_theta", float, rope if "rope_theta" in rope else raw),
        tie_word_embeddings=tied,
    )
    if heads % config.num_key_value_heads:
        raise CheckpointError(
            f"{path}: num_key_value_heads is {config.num_key_value_heads}, "
            f"expected a divisor of num_attention_heads {heads}"
        )
    if config.head_dim % 2:
        raise CheckpointError(f"{path}: head_dim is {config.head_dim}, expected an even number (RoPE rotates pairs)")
    if config.num_experts_per_tok > config.num_local_experts:
        raise CheckpointError(
            f"{path}: num_experts_per_tok is {config.num_experts_per_tok}, "
            f"expected at most num_local_experts {config.num_local_experts}"
        )
    window = raw.get("sliding_window")
    if window is not None and (not isinstance(window, int) or window < config.max_position_embeddings):
        raise CheckpointError(
            f"{path}: sliding_window is {window!r}, expected null or at least "
            f"{config.max_position_embeddings} (max_position_embeddings); "
            "sliding-window attention is not implemented"
        )
    return config


def _shapes(config: MixtralConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor that a checkpoint of this shape holds."""
    c = config
    q, kv = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    yield "model.embed_tokens.weight", (c.vocab_size, c.hidden_size)
    for number in range(c.num_hidden_layers):
        layer = f"model.layers.{number}."
        yield layer + "input_layernorm.weight", (c.hidden_size,)
        yield layer + "self_attn.q_proj.weight", (q, c.hidden_size)
        yield layer + "self_attn.k_proj.weight", (kv, c.hidden_size)
        yield layer + "self_attn.v_proj.weight", (kv, c.hidden_size)
        yield layer + "self_attn.o_proj.weight", (c.hidden_size, q)
        yield layer + "post_attention_layernorm.weight", (c.hidden_size,)
        yield layer + "block_sparse_moe.gate.weight", (c.num_local_experts, c.hidden_size)
        for expert in range(c.num_local_experts):
            prefix = f"{layer}block_sparse_moe.experts.{expert}."
            yield prefix + "w1.weight", (c.intermediate_size, c.hidden_size)
            yield prefix + "w2.weight", (c.hidden_size, c.intermediate_size)
            yield prefix + "w3.weight", (c.intermediate_size, c.hidden_size)
    yield "model.norm.weight", (c.hidden_size,)
    if not c.tie_word_embeddings:
        yield "lm_head.weight", (c.vocab_size, c.hidden_size)


def _to_float32(name: str, dtype: str, data: bytes, path: Path) -> FloatArray:
    """Decode a tensor's little-endian bytes."""
    if dtype == "F32":
        return np.frombuffer(data, dtype="<f4").astype(np.float32)
    if dtype == "F16":
        return np.frombuffer(data, dtype="<f2").astype(np.float32)
    if dtype == "BF16":  # the upper half of a float32
        return (np.frombuffer(data, dtype="<u2").astype(np.uint32) << 16).view(np.float32)
    raise CheckpointError(
        f"{path}: tensor {name} has type {dtype}, expected F32, F16 or BF16; dequantise the model and save it again"
    )


def _files(folder: Path) -> list[Path]:
    """The safetensors files of a model directory."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.exists():
        return [whole]
    if not index.exists():
        raise CheckpointError(
            f"{folder}: has neither model.safetensors nor model.safetensors.index.json; "
            "save the model in safetensors format (save_pretrained does)"
        )
    shards = _read_json(index, "save the model again").get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
        raise CheckpointError(f"{index}: weight_map is missing or not a table of file names; save the model again")
    names = sorted(set(shards.values()))
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(f"{index}: weight_map names the file {name!r}, expected a file in {folder}")
        if not (folder / name).exists():
            raise CheckpointError(
                f"{folder / name}: not found, but weight_map of {index.name} names it; download the missing shard"
            )
    return [folder / name for name in names]


def _tensors(folder: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, FloatArray]:
    """Read every tensor, checked against `shapes`."""
    found: dict[str, FloatArray] = {}
    for path in _files(folder):
        try:
            # raw bytes rather than safetensors.numpy, which has no bfloat16
            entries = safetensors.deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
        except (OSError, safetensors.SafetensorError) as error:
            raise CheckpointError(
                f"{path}: not a readable safetensors file ({error}); download or save it again"
            ) from error
        for name, entry in entries:
            if name.endswith("rotary_emb.inv_freq"):  # old checkpoints store what follows from rope_theta
                continue
            if name not in shapes:
                raise CheckpointError(
                    f"{path}: tensor {name} is not part of a {_ARCHITECTURE} of this config.json; "
                    "check num_hidden_layers, num_local_experts and tie_word_embeddings"
                )
            if name in found:
                raise CheckpointError(f"{path}: tensor {name} is in another shard too; save the model again")
            shape = tuple(entry["shape"])
            if shape != shapes[name]:
                raise CheckpointError(
                    f"{path}: tensor {name} has shape {shape}, expected {shapes[name]}; "
                    "config.json and the weights are of different models"
                )
            array = _to_float32(name, entry["dtype"], bytes(entry["data"]), path).reshape(shape)
            if not np.isfinite(array).all():
                raise CheckpointError(
                    f"{path}: tensor {name} holds infinities or NaNs, expected finite weights; "
                    "save the model in a type with a wider range"
                )
            array.flags.writeable = False
            found[name] = array
    for name, shape in shapes.items():
        if name not in found:
            raise CheckpointError(
                f"{folder}: tensor {name} is missing, expected shape {shape}; "
                "check config.json, or download or save the weights again"
            )
    return found


def read_checkpoint(folder: Path | str) -> Checkpoint:
    """Read a Mixtral model directory.

    Parameters
    ----------
    folder : path
        Directory with ``config.json`` and ``model.safetensors`` (or an index and its shards); tensors in
        float32, float16 or bfloat16.

    Returns
    -------
    Checkpoint
        The weights as read-only float32 arrays.

    Raises
    ------
    CheckpointError
        When a file, field or tensor is missing or not as expected.
    """
    folder = Path(folder)
    config = read_config(folder)
    tensors = _tensors(folder, dict(_shapes(config)))
    layers: list[LayerWeights] = []
    for number in range(config.num_hidden_layers):
        prefix = f"model.layers.{number}."

        def experts(weight: str, prefix: str = prefix) -> FloatArray:
            stacked = np.stack(
                [
                    tensors[f"{prefix}block_sparse_moe.experts.{expert}.{weight}.weight"]
                    for expert in range(config.num_local_experts)
                ]
            )
            stacked.flags.writeable = False
            return stacked

        layers.append(
            LayerWeights(
                input_norm=tensors[prefix + "input_layernorm.weight"],
                q_proj=tensors[prefix + "self_attn.q_proj.weight"],
                k_proj=tensors[prefix + "self_attn.k_proj.weight"],
                v_proj=tensors[prefix + "self_attn.v_proj.weight"],
                o_proj=tensors[prefix + "self_attn.o_proj.weight"],
                post_attention_norm=tensors[prefix + "post_attention_layernorm.weight"],
                router=tensors[prefix + "block_sparse_moe.gate.weight"],
                w1=experts("w1"),
                w2=experts("w2"),
                w3=experts("w3"),
            )
        )
    embed = tensors["model.embed_tokens.weight"]
    return Checkpoint(
        config=config,
        embed=embed,
        layers=tuple(layers),
        norm=tensors["model.norm.weight"],
        lm_head=embed if config.tie_word_embeddings else tensors["lm_head.weight"],
    )
