# SPDX-License-Identifier: Apache-2.0
"""The bytes of a quantised model in the machine's memory: padded, in tiles, in nibble planes, in shares of words."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hdl.config import MachineConfig
from scheduler.memory.experts import ExpertContents
from scheduler.memory.layout import LayerShape, pack_planes, parameter_words, tiles_of
from scheduler.memory.placement import Part
from scheduler.models.description import LatentAttention
from scheduler.models.quantise import QuantisedExpert, QuantisedMatrix
from scheduler.models.quantised_model import QuantisedModel
from scheduler.plan.residence import Residence
from scheduler.plan.shares import Matrix, Share
from scheduler.plan.tiling import Tiling

__all__ = ["Weights"]

Words = npt.NDArray[np.uint16]


def matrix_tiles(matrix: QuantisedMatrix, shape: Matrix, config: MachineConfig) -> npt.NDArray[np.int8]:
    """Return a matrix's tiles [n_tiles * k_slices, R, C], the reduction innermost, padded with zeros."""
    outputs, inputs = matrix.weights.shape
    n, k = shape.n_tiles, shape.k_slices
    padded = np.zeros((k * config.rows, n * config.columns), dtype=np.int8)
    padded[:inputs, :outputs] = matrix.weights.T
    tiles = padded.reshape(k, config.rows, n, config.columns).transpose(2, 0, 1, 3)
    return tiles.reshape(-1, config.rows, config.columns).copy()


def pad_heads(values: npt.NDArray[np.generic], axis: int, width: int, padded: int) -> npt.NDArray[np.generic]:
    """Give every head along an axis zeros behind its `width` channels, up to `padded`."""
    if width == padded:
        return values
    moved = np.moveaxis(values, axis, 0)
    heads = moved.shape[0] // width
    result = np.zeros((heads, padded, *moved.shape[1:]), dtype=values.dtype)
    result[:, :width] = moved.reshape(heads, width, *moved.shape[1:])
    return np.moveaxis(result.reshape(heads * padded, *moved.shape[1:]), 0, axis)


class Weights(ExpertContents):
    """Contents of the regions of :class:`scheduler.memory.model.ModelMemory`.

    Parameters
    ----------
    model : QuantisedModel
        Of a family whose arithmetic is complete.
    tiling : Tiling
        The model on the machine.
    """

    def __init__(self, model: QuantisedModel, tiling: Tiling) -> None:
        super().__init__(tiling.config, [layer.experts for layer in model.layers])
        self._model = model
        self._tiling = tiling

    def _matrix(self, name: str) -> tuple[QuantisedMatrix, Matrix]:
        """Return a dense matrix, its heads padded, and its tiling."""
        if name == "head":
            return self._model.head, self._tiling.head
        number, kind = int(name.split(".", 1)[0][5:]), name.split(".", 1)[1]
        layer = self._tiling.model.layers[number]
        attention = layer.attention
        assert not isinstance(attention, LatentAttention)
        matrix: QuantisedMatrix = getattr(self._model.layers[number], kind)
        padded = self._tiling.heads(layer).key_rows * self._config.columns
        width = attention.head_dim
        if kind == "qkv":
            weights, mult = pad_heads(matrix.weights, 0, width, padded), pad_heads(matrix.mult, 0, width, padded)
            matrix = QuantisedMatrix(weights=weights.astype(np.int8), mult=mult.astype(np.uint16), shift=matrix.shift)
        elif kind == "output":
            matrix = QuantisedMatrix(
                weights=pad_heads(matrix.weights, 1, width, padded).astype(np.int8),
                mult=matrix.mult,
                shift=matrix.shift,
            )
        return matrix, self._tiling.dense(layer)[kind]

    def matrix_planes(self, name: str) -> tuple[bytes, bytes]:
        """Return the nibble planes of a dense matrix such as ``layer3.qkv`` or ``head``."""
        common = self._common(name)
        if common is not None:
            part, shape, weights = common
            return pack_planes(tiles_of(shape, part, weights))
        matrix, tiling = self._matrix(name)
        return pack_planes(matrix_tiles(matrix, tiling, self._config))

    def _common(self, name: str) -> tuple[Part, LayerShape, QuantisedExpert] | None:
        """Return a part of the MLP that all tokens use, if the name is one's."""
        if ".mlp." not in name:
            return None
        weights = self._model.layers[int(name.split(".", 1)[0][5:])].common
        assert weights is not None
        inner, hidden = weights.gate.shape
        return Part(name.rsplit(".", 1)[1]), LayerShape(self._config, hidden, inner), weights

    def matrix_words(self, name: str) -> Words:
        """Return a dense matrix's requantisation words [n_tiles, C]; padded channels get 0."""
        common = self._common(name)
        if common is not None:
            part, layer_shape, weights = common
            known = parameter_words(layer_shape, part, weights)
            padded = np.zeros((self._tiling.hidden_rows, self._config.columns), dtype=np.uint16)
            padded[: len(known)] = known if part == Part.DOWN else 0
            return padded if part == Part.DOWN else known
        matrix, shape = self._matrix(name)
        words = np.zeros(shape.n_tiles * self._config.columns, dtype=np.uint16)
        words[: matrix.mult.size] = matrix.mult
        return words.reshape(shape.n_tiles, self._config.columns)

    def attention_words(self, layer: int) -> Words:
        """Return the words of a layer's scores, then of its contexts: [2 * kv_heads, C], all lanes the same."""
        heads = self._model.layers[layer].heads
        mults = np.array([h.score_mult for h in heads] + [h.value_mult for h in heads], dtype=np.uint16)
        return np.repeat(mults[:, None], self._config.columns, axis=1)

    def norm_rows(self, layer: int) -> bytes:
        """Return the weights of a layer's norms of queries, then of keys, in rows of C int16."""
        own, kind = self._model.layers[layer], self._tiling.model.layers[layer]
        assert own.query_norm is not None and own.key_norm is not None
        attention = kind.attention
        assert not isinstance(attention, LatentAttention)
        padded = self._tiling.heads(kind).key_rows * self._config.columns
        rows = [pad_heads(norm.weights, 0, attention.head_dim, padded) for norm in (own.query_norm, own.key_norm)]
        return np.concatenate(rows).astype("<i2").tobytes()

    def resident_words(self, residence: Residence, tier: int) -> bytes:
        """Return all dense words of a tier, layer by layer: shares, then attention's; outside a gang: zeros."""
        parts = []
        for number, layer in enumerate(self._tiling.model.layers):
            for name, shares in residence.shares[layer].items():
                parts += self._shares(f"layer{number}.{name}", shares, tier)
            parts.append(self.attention_words(number))
        parts += self._shares("head", residence.head, tier)
        return np.concatenate(parts).astype("<u2").tobytes()

    def _shares(self, name: str, shares: tuple[Share, ...], tier: int) -> list[Words]:
        words, parts = self.matrix_words(name), []
        for share in shares:
            if tier < share.tiers:
                first = share.first + tier * share.each
                parts.append(words[first : first + share.each])
            else:
                parts.append(np.zeros((share.each, self._config.columns), dtype=np.uint16))
        return parts

    def embedding(self, stride: int) -> bytes:
        """Return the embeddings, each `stride` bytes."""
        table = self._model.embedding
        rows = np.zeros((len(table), stride // 2), dtype="<i2")
        rows[:, : table.shape[1]] = table
        return rows.tobytes()

    def rope(self, positions: int, stride: int) -> bytes:
        """Return the rotation tables of the first positions, each `stride` bytes: cosines, then sines."""
        model = self._model
        width = model.rope_cos.shape[1]
        layer = self._tiling.model.layers[0]
        padded = self._tiling.heads(layer).key_rows * self._config.columns
        rows = np.zeros((positions, stride // 2), dtype="<i2")
        rows[:, :width] = model.rope_cos[:positions]
        rows[:, padded : padded + width] = model.rope_sin[:positions]
        return rows.tobytes()
