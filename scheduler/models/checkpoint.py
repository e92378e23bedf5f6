# SPDX-License-Identifier: Apache-2.0
"""Read the weights of a Mixtral model from the directory that Hugging Face tools write.

A directory holds ``config.json`` and either ``model.safetensors`` or shards named by
``model.safetensors.index.json``. Everything is checked before it is used: the architecture and every key of
``config.json`` (:mod:`scheduler.models.checkpoint_config`), the presence, names and shapes of the tensors
(:mod:`scheduler.models.checkpoint_layout`), and only then are the weights read, one tensor at a time
(:mod:`scheduler.models.safetensors_file`). They come out as float32 NumPy arrays.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hdl.errors import one_line, shown
from scheduler.models.checkpoint_config import MixtralConfig, read_config
from scheduler.models.checkpoint_json import CheckpointError, read_object
from scheduler.models.checkpoint_layout import Layout, find_layout
from scheduler.models.safetensors_file import read_header

__all__ = [
    "Checkpoint", "CheckpointError", "LayerWeights", "MixtralConfig", "check_checkpoint", "has_weights",
    "read_checkpoint", "read_config",
]  # fmt: skip

FloatArray = npt.NDArray[np.float32]

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"


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


def _files(folder: Path) -> list[Path]:
    """The safetensors files of a model directory."""
    whole, index, name = folder / WHOLE, folder / INDEX, one_line(folder)
    if os.path.lexists(whole):
        if not whole.exists():
            raise CheckpointError(f"{one_line(whole)}: is a link to a file that is not there; download the model again")
        return [whole]
    if not index.exists():
        others = sorted(
            p.name for p in folder.iterdir() if p.suffix in (".safetensors", ".bin", ".pt", ".pth", ".gguf")
        )
        there = f", only {one_line(', '.join(others[:3]))}" if others else ""
        raise CheckpointError(
            f"{name}: has neither {WHOLE} nor {INDEX}{there}; "
            "save the model in safetensors format (save_pretrained does)"
        )
    shards = read_object(index, "save the model again").get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(file, str) for file in shards.values()):
        raise CheckpointError(
            f"{one_line(index)}: weight_map is missing or not a table of file names; save the model again"
        )
    files = sorted(set(shards.values()))
    for file in files:
        if Path(file).name != file or "\0" in file:
            raise CheckpointError(
                f"{one_line(index)}: weight_map names the file {shown(file)}, expected a file in {name}"
            )
        if not (folder / file).exists():
            raise CheckpointError(
                f"{one_line(folder / file)}: not found, but weight_map of {INDEX} names it; download the missing shard"
            )
    return [folder / file for file in files]


def _stacked(layout: Layout, prefix: str, matrix: str, config: MixtralConfig) -> FloatArray:
    """Return a matrix of all experts of a layer, which may lie in one tensor or in one for each expert."""
    if not layout.fused:
        first = layout.tensors[f"{prefix}{matrix}.0"]
        result = np.empty((config.num_local_experts, *first.shape), dtype=np.float32)
        for expert in range(config.num_local_experts):
            result[expert] = layout.tensors[f"{prefix}{matrix}.{expert}"].read()
    elif matrix == "w2":
        return layout.tensors[prefix + "down"].read()
    else:
        both, inner = layout.tensors[prefix + "gate_up"].read(), config.intermediate_size
        result = both[:, :inner].copy() if matrix == "w1" else both[:, inner:].copy()
    result.flags.writeable = False
    return result


def _layer(layout: Layout, number: int, config: MixtralConfig) -> LayerWeights:
    prefix = f"layers.{number}."

    def dense(name: str) -> FloatArray:
        return layout.tensors[prefix + name].read()

    return LayerWeights(
        input_norm=dense("input_layernorm.weight"),
        q_proj=dense("self_attn.q_proj.weight"),
        k_proj=dense("self_attn.k_proj.weight"),
        v_proj=dense("self_attn.v_proj.weight"),
        o_proj=dense("self_attn.o_proj.weight"),
        post_attention_norm=dense("post_attention_layernorm.weight"),
        router=dense("router"),
        w1=_stacked(layout, prefix, "w1", config),
        w2=_stacked(layout, prefix, "w2", config),
        w3=_stacked(layout, prefix, "w3", config),
    )


def has_weights(folder: Path | str) -> bool:
    """Return whether a model directory has a file of weights, or an index of such files."""
    return any(os.path.lexists(Path(folder) / name) for name in (WHOLE, INDEX))


def _find(folder: Path) -> tuple[MixtralConfig, Layout]:
    """Return what a model is and where its tensors lie, compared with one another."""
    config = read_config(folder)
    tensors = [tensor for path in _files(folder) for tensor in read_header(path)]
    return config, find_layout(tensors, config, one_line(folder))


def check_checkpoint(folder: Path | str) -> MixtralConfig:
    """Check all of a model directory but the weights' values, and return what ``config.json`` says.

    Raises
    ------
    CheckpointError
        When a file, field or tensor is missing or not as expected.
    """
    return _find(Path(folder))[0]


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
    config, layout = _find(Path(folder))
    layers = tuple(_layer(layout, number, config) for number in range(config.num_hidden_layers))
    embed = layout.tensors["embed"].read()
    head = embed
    if "head" in layout.tensors:
        head = layout.tensors["head"].read()
        if config.tie_word_embeddings:
            if not np.array_equal(head, embed):
                raise CheckpointError(
                    f"{one_line(layout.tensors['head'].path)}: tensor {one_line(layout.tensors['head'].name)} differs "
                    "from the embedding, but tie_word_embeddings is true; set it to false to use this tensor, or "
                    "remove the tensor"
                )
            head = embed
    return Checkpoint(config=config, embed=embed, layers=layers, norm=layout.tensors["norm"].read(), lm_head=head)
