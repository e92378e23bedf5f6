# SPDX-License-Identifier: Apache-2.0
"""Read the weights of a model from the directory that Hugging Face tools write.

A directory holds ``config.json`` and either ``model.safetensors`` or shards named by
``model.safetensors.index.json``. Everything is checked before it is used: the architecture and every key of
``config.json`` (:mod:`scheduler.models.checkpoint_config`), the presence, names and shapes of the tensors
(:mod:`scheduler.models.checkpoint_layout`), and only then are the weights read, one tensor at a time
(:mod:`scheduler.models.safetensors_file`). They come out as float32 NumPy arrays; those of a large model are read when
they are used, and dropped.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hdl.errors import one_line, shown
from scheduler.models.checkpoint_config import read_config
from scheduler.models.checkpoint_json import CheckpointError, read_object
from scheduler.models.checkpoint_layout import Layout, find_layout
from scheduler.models.deferred import ArrayField, Deferred, DeferredMatrices, Matrices
from scheduler.models.description import Experts, Model
from scheduler.models.quantise import ExpertWeights
from scheduler.models.safetensors_file import Tensor, read_header

__all__ = [
    "Checkpoint", "CheckpointError", "LayerWeights", "check_checkpoint", "has_weights",
    "read_checkpoint", "read_config",
]  # fmt: skip

FloatArray = npt.NDArray[np.float32]

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"

RESIDENT_WEIGHTS = 1 << 28
"""Weights of the largest model that is kept in memory unless something else is asked for."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LayerWeights:
    """Float32 weights of one decoder layer; matrices are (outputs, inputs), so that ``y = x @ w.T``.

    Matrices may be read from a file each time: use them once.

    Parameters
    ----------
    input_norm, post_attention_norm : ndarray, shape (hidden,)
        Scales of the RMSNorm before attention and before the mixture of experts.
    q_proj : ndarray, shape (heads * head_dim, hidden)
    k_proj, v_proj : ndarray, shape (kv_heads * head_dim, hidden)
    o_proj : ndarray, shape (hidden, heads * head_dim)
    router : ndarray, shape (experts, hidden)
        Without rows in a dense layer.
    w1, w3 : matrices, shape (experts, intermediate, hidden)
        Gate (goes through SiLU) and up projection of every expert; none in a dense layer.
    w2 : matrices, shape (experts, hidden, intermediate)
        Down projection of every expert.
    q_norm, k_norm : ndarray or None, shape (head_dim,) or (heads * head_dim,) and (kv_heads * head_dim,)
        Scales of QK-norm.
    common : ExpertWeights or None
        MLP that every token uses: a dense layer's.
    """

    input_norm: FloatArray
    q_proj: ArrayField[np.float32] = ArrayField()
    k_proj: ArrayField[np.float32] = ArrayField()
    v_proj: ArrayField[np.float32] = ArrayField()
    o_proj: ArrayField[np.float32] = ArrayField()
    post_attention_norm: FloatArray
    router: ArrayField[np.float32] = ArrayField()
    w1: Matrices
    w2: Matrices
    w3: Matrices
    q_norm: FloatArray | None = None
    k_norm: FloatArray | None = None
    common: ExpertWeights | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """A whole model.

    Parameters
    ----------
    description : Model
        What it is made of.
    embed : ndarray, shape (vocabulary, hidden)
    layers : tuple of LayerWeights
    norm : ndarray, shape (hidden,)
        Scale of the last RMSNorm.
    lm_head : ndarray, shape (vocabulary, hidden)
        The same array as `embed` in a model with tied embeddings.
    """

    description: Model
    embed: ArrayField[np.float32] = ArrayField()
    layers: tuple[LayerWeights, ...]
    norm: FloatArray
    lm_head: ArrayField[np.float32] = ArrayField()


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


class _Reader:
    """Reads tensors now, or when they are used."""

    def __init__(self, layout: Layout, resident: bool) -> None:
        self._layout = layout
        self._resident = resident

    def small(self, place: str) -> FloatArray:
        """Return a vector."""
        return self._layout.tensors[place].read()

    def matrix(self, place: str) -> FloatArray | Deferred[np.float32]:
        """Return a matrix."""
        tensor = self._layout.tensors[place]
        return tensor.read() if self._resident else Deferred(tensor.shape, tensor.read)

    def matrices(self, prefix: str, matrix: str, mlp: Experts) -> Matrices:
        """Return a matrix of all experts of a layer, which may lie in one tensor or in one for each expert."""
        inner = mlp.intermediate

        def tensor(expert: int) -> Tensor:
            if not self._layout.fused:
                return self._layout.tensors[f"{prefix}{matrix}.{expert}"]
            if matrix == "w2":
                return self._layout.tensors[prefix + "down"].at(expert)
            return self._layout.tensors[prefix + "gate_up"].at(expert).part(inner if matrix == "w3" else 0, inner)

        shape = (mlp.count, *tensor(0).shape)
        if not self._resident:
            return DeferredMatrices(shape, lambda expert: tensor(expert).read())
        result = np.empty(shape, dtype=np.float32)
        for expert in range(mlp.count):
            result[expert] = tensor(expert).read()
        result.flags.writeable = False
        return result

    def layer(self, number: int, model: Model) -> LayerWeights:
        """Return a layer."""
        prefix, mlp = f"layers.{number}.", model.layers[number].mlp
        normed = prefix + "self_attn.q_norm.weight" in self._layout.tensors
        hidden = np.zeros((0, model.hidden), dtype=np.float32)
        routed = isinstance(mlp, Experts)
        none = hidden[None][:0]
        return LayerWeights(
            input_norm=self.small(prefix + "input_layernorm.weight"),
            q_proj=self.matrix(prefix + "self_attn.q_proj.weight"),
            k_proj=self.matrix(prefix + "self_attn.k_proj.weight"),
            v_proj=self.matrix(prefix + "self_attn.v_proj.weight"),
            o_proj=self.matrix(prefix + "self_attn.o_proj.weight"),
            post_attention_norm=self.small(prefix + "post_attention_layernorm.weight"),
            router=self.matrix(prefix + "router") if routed else hidden,
            w1=self.matrices(prefix, "w1", mlp) if isinstance(mlp, Experts) else none,
            w2=self.matrices(prefix, "w2", mlp) if isinstance(mlp, Experts) else none,
            w3=self.matrices(prefix, "w3", mlp) if isinstance(mlp, Experts) else none,
            q_norm=self.small(prefix + "self_attn.q_norm.weight") if normed else None,
            k_norm=self.small(prefix + "self_attn.k_norm.weight") if normed else None,
            common=None if routed else ExpertWeights(
                gate=self.matrix(prefix + "dense.w1"), up=self.matrix(prefix + "dense.w3"),
                down=self.matrix(prefix + "dense.w2"),
            ),
        )  # fmt: skip


def has_weights(folder: Path | str) -> bool:
    """Return whether a model directory has a file of weights, or an index of such files."""
    return any(os.path.lexists(Path(folder) / name) for name in (WHOLE, INDEX))


def _find(folder: Path) -> tuple[Model, Layout]:
    """Return what a model is and where its tensors lie, compared with one another."""
    model = read_config(folder)
    model.require_complete()
    tensors = [tensor for path in _files(folder) for tensor in read_header(path)]
    return model, find_layout(tensors, model, one_line(folder))


def check_checkpoint(folder: Path | str) -> Model:
    """Check all of a model directory but the weights' values, and return what ``config.json`` says.

    Raises
    ------
    CheckpointError
        When a file, field or tensor is missing or not as expected.
    A3dError
        A family whose arithmetic is not implemented.
    """
    return _find(Path(folder))[0]


def read_checkpoint(folder: Path | str, *, resident: bool | None = None) -> Checkpoint:
    """Read a model directory.

    Parameters
    ----------
    folder : path
        Directory with ``config.json`` and ``model.safetensors`` (or an index and its shards); tensors in
        float32, float16 or bfloat16.
    resident : bool, optional
        Keep the matrices in memory, or read each whenever it is used. Default: by the model's size.

    Returns
    -------
    Checkpoint
        The weights as read-only float32 arrays.

    Raises
    ------
    CheckpointError
        When a file, field or tensor is missing or not as expected.
    A3dError
        A family whose arithmetic is not implemented.
    """
    model, layout = _find(Path(folder))
    reader = _Reader(layout, model.parameters <= RESIDENT_WEIGHTS if resident is None else resident)
    layers = tuple(reader.layer(number, model) for number in range(len(model.layers)))
    embed = reader.matrix("embed")
    head = embed
    if "head" in layout.tensors:
        if model.tied:
            _check_tied(layout.tensors["head"], layout.tensors["embed"])
        else:
            head = reader.matrix("head")
    return Checkpoint(description=model, embed=embed, layers=layers, norm=reader.small("norm"), lm_head=head)


def _check_tied(head: Tensor, embed: Tensor) -> None:
    """Refuse a head that differs from the embedding, some rows at a time."""
    rows, step = head.shape[0], 1 << 12
    for first in range(0, rows, step):
        count = min(step, rows - first)
        if not np.array_equal(head.part(first, count).read(), embed.part(first, count).read()):
            raise CheckpointError(
                f"{one_line(head.path)}: tensor {one_line(head.name)} differs from the embedding, but "
                "tie_word_embeddings is true; set it to false to use this tensor, or remove the tensor"
            )
