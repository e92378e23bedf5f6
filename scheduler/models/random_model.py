# SPDX-License-Identifier: Apache-2.0
"""Random quantised models of any complete shape: they say nothing sensible, and use most of each number's range.

No float model and no calibration is needed. Scales follow from the sizes: weights are uniform over all that int8 may
hold here, norms make numbers of a known spread of them, and every requantisation is chosen so that its result has the
spread that trained models have. Each tensor follows from the seed and from its own name, so that tensors can be made
in any order, one at a time.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from hdl.errors import A3dError
from hdl.numerics import WEIGHT_MAX
from scheduler.models.checkpoint import RESIDENT_WEIGHTS
from scheduler.models.deferred import Deferred
from scheduler.models.description import DenseMlp, Experts, Model, QkNorm
from scheduler.models.fixed_point import INT8_MAX, LOG2_BITS, ONE_Q15, QUERY_KEY_BITS, VALUE_SHIFT
from scheduler.models.quantise import SILU_BITS, QuantisedExpert, QuantisedLayer, QuantisedMatrix, multipliers
from scheduler.models.quantise_language import DEFAULT_KEY_BLOCK, HeadRanges, attention_head
from scheduler.models.quantise_norm import head_norm, residual_norm
from scheduler.models.quantised_model import DecoderLayer, Norm, QuantisedModel, WeightedNorm
from scheduler.models.rope import rope_tables

__all__ = ["random_model"]

Int8 = npt.NDArray[np.int8] | Deferred[np.int8]

_WEIGHT = WEIGHT_MAX / math.sqrt(3)
"""Standard deviation of the weights, uniform from -WEIGHT_MAX to WEIGHT_MAX."""

_ACTIVATION = 32.0
"""Standard deviation of int8 activations: four of them fit."""

_Y_SCALE = 2.0**-11
"""Real value of 1 of what is added to the residual; embeddings have a deviation of 1.0."""

_SCORE = 1.5
"""Standard deviation of attention scores, in natural units."""

_ROUTER = 2.0
"""The same of router logits."""

_GATE = 1.5
"""The same of what enters SiLU."""

_SILU = 0.95
"""About the root mean square of SiLU of a normal number of that deviation."""

_UP, _HIDDEN, _ROWS, _LOGITS = 4096.0, 24.0, 4096.0, 4096.0
"""Standard deviations of up projections, of an MLP's int8, of int16 rows before QK-norm and of logits."""

_EMBEDDING_SHIFT = 13
_EMBEDDING = round((1 << 13) * math.sqrt(3))
"""Embeddings are uniform up to this."""

_SPREAD = 0.3
"""Channels' multipliers differ by this part, up and down."""


def random_model(
    model: Model, seed: int, *, key_block: int = DEFAULT_KEY_BLOCK, resident: bool | None = None
) -> QuantisedModel:
    """Return a model with random weights and with scales that keep most of its values in range.

    Parameters
    ----------
    model : Model
        Shape; complete.
    seed : int
        Seed that repeats it, 0 or more.
    key_block : int
        Largest block of keys that a context GEMM will get.
    resident : bool, optional
        Keep the weights, or make them whenever they are asked for. Default: by the model's size.

    Raises
    ------
    A3dError
        A model that is not complete, or a negative seed.
    """
    if seed < 0:
        raise A3dError(f"seed: {seed}; use 0 or more")
    model.require_complete()
    keep = model.parameters <= RESIDENT_WEIGHTS if resident is None else resident
    return _Draw(model, seed, key_block, keep).model()


class _Draw:
    """Draws the parts of a model."""

    def __init__(self, model: Model, seed: int, key_block: int, resident: bool) -> None:
        self._model = model
        self._seed = seed
        self._key_block = key_block
        self._resident = resident
        self._added = 1 / math.sqrt(2 * len(model.layers)) / _Y_SCALE
        """Standard deviation of a layer's two additions to the residual, so that all together double its square."""

    def _rng(self, name: str) -> np.random.Generator:
        return np.random.default_rng([self._seed, zlib.crc32(name.encode())])

    def _stored(self, shape: tuple[int, ...], make: Callable[[], npt.NDArray[np.int8]]) -> Int8:
        return make() if self._resident else Deferred(shape, make)

    def _weights(self, name: str, *shape: int) -> Int8:
        def make() -> npt.NDArray[np.int8]:
            return self._rng(name).integers(-WEIGHT_MAX, WEIGHT_MAX, shape, dtype=np.int8, endpoint=True)

        return self._stored(shape, make)

    def _spread(self, name: str, ratios: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return ratios of channels, each a little more or less."""
        varied: npt.NDArray[np.float64] = ratios * self._rng(f"{name}.mult").uniform(
            1 - _SPREAD, 1 + _SPREAD, ratios.shape
        )
        return varied

    def _matrix(self, name: str, inputs: int, *outputs: tuple[int, float]) -> QuantisedMatrix:
        """Return a matrix with groups of outputs (count, standard deviation)."""
        sums = _WEIGHT * _ACTIVATION * math.sqrt(inputs)
        ratios = np.concatenate([np.full(count, deviation / sums) for count, deviation in outputs])
        mult, shift = multipliers(self._spread(name, ratios))
        return QuantisedMatrix(weights=self._weights(name, len(ratios), inputs), mult=mult, shift=shift)

    def _norm(self, name: str) -> Norm:
        out_scale = float(self._rng(name).uniform(0.9, 1.2)) / _ACTIVATION
        return residual_norm(self._model, 8.0, out_scale, _Y_SCALE / ONE_Q15)

    def _experts(self, name: str, count: int, inner: int, added: float) -> tuple[QuantisedExpert, ...]:
        """Return experts that have all but weights and multipliers in common."""
        hidden = self._model.hidden
        sums, h_sums = _WEIGHT * _ACTIVATION * math.sqrt(hidden), _WEIGHT * _HIDDEN * math.sqrt(inner)
        names = [f"{name}.{number}" for number in range(count)]
        up_ratios = np.repeat([_GATE * (1 << SILU_BITS) / sums, _UP / sums], inner)
        ups, up_shift = multipliers(np.stack([self._spread(f"{own}.up", up_ratios) for own in names]))
        down_ratios = np.full(hidden, added / h_sums)
        downs, down_shift = multipliers(np.stack([self._spread(f"{own}.down", down_ratios) for own in names]))
        post, post_shift = multipliers(_HIDDEN / (_SILU * (1 << SILU_BITS) * _UP))
        return tuple(
            QuantisedExpert(
                gate=self._weights(f"{own}.gate", inner, hidden), up=self._weights(f"{own}.up", inner, hidden),
                down=self._weights(f"{own}.down", hidden, inner), gate_mult=up[:inner], up_mult=up[inner:],
                up_shift=up_shift, post_mult=int(post[0]), post_shift=post_shift, down_mult=down,
                down_shift=down_shift, high_gate_mult=up[:inner], high_up_mult=up[inner:], high_down_mult=down,
            )
            for own, up, down in zip(names, ups, downs, strict=True)
        )  # fmt: skip

    def _head_norm(self, name: str, heads: int) -> WeightedNorm | None:
        kind = self._model.attention
        if kind.qk_norm == QkNorm.NONE:
            return None
        channels = kind.head_dim * (heads if kind.qk_norm == QkNorm.WHOLE else 1)
        weights = self._rng(name).uniform(0.5, 1.5, channels) * math.sqrt(_SCORE)
        return head_norm(self._model, weights, 1 / _ROWS, math.sqrt(_SCORE) / _ACTIVATION)

    def _layer(self, number: int) -> DecoderLayer:
        model, kind, mlp, name = self._model, self._model.attention, self._model.layers[number].mlp, f"layers.{number}"
        queries, keys = kind.heads * kind.head_dim, kind.kv_heads * kind.head_dim
        rows = _ACTIVATION * (1 << QUERY_KEY_BITS) if kind.qk_norm == QkNorm.NONE else _ROWS
        largest = INT8_MAX / _ACTIVATION
        score = largest * math.sqrt(_SCORE)
        # A context is a mean of values: less spread than they have.
        head = attention_head(kind.head_dim, HeadRanges(score, score, largest, 0.75 * largest), self._key_block)
        count, inner, shared, chosen = 0, 0, 0, 1
        if isinstance(mlp, DenseMlp):
            shared = mlp.intermediate
        elif isinstance(mlp, Experts):
            count, inner, shared, chosen = mlp.count, mlp.intermediate, mlp.shared, mlp.chosen
        experts = self._experts(f"{name}.experts", count, inner, self._added * math.sqrt(chosen)) if count else ()
        common = self._experts(f"{name}.common", 1, shared, self._added) if shared else (None,)
        router = (count, _ROUTER / math.log(2) * (1 << LOG2_BITS))
        return DecoderLayer(
            attention_norm=self._norm(f"{name}.attention_norm"),
            qkv=self._matrix(
                f"{name}.qkv", model.hidden, (queries, rows), (keys, rows), (keys, _ACTIVATION * (1 << VALUE_SHIFT))
            ),
            query_norm=self._head_norm(f"{name}.query_norm", kind.heads),
            key_norm=self._head_norm(f"{name}.key_norm", kind.kv_heads),
            heads=(head,) * kind.kv_heads,
            output=self._matrix(f"{name}.output", queries, (model.hidden, self._added)),
            expert_norm=self._norm(f"{name}.expert_norm"),
            router=self._matrix(f"{name}.router", model.hidden, router),
            experts=QuantisedLayer(experts, 1 / _ACTIVATION, _Y_SCALE),
            common=common[0],
        )  # fmt: skip

    def model(self) -> QuantisedModel:
        """Return the model."""
        model = self._model
        shape = (model.vocabulary, model.hidden)
        cos, sin = rope_tables(model.attention.head_dim, model.context, model.rope_theta)

        def embedding() -> npt.NDArray[np.int16]:
            return self._rng("embedding").integers(-_EMBEDDING, _EMBEDDING, shape, dtype=np.int16, endpoint=True)

        return QuantisedModel(
            description=model, embedding=embedding() if self._resident else Deferred(shape, embedding),
            embedding_shift=_EMBEDDING_SHIFT, rope_cos=cos, rope_sin=sin,
            layers=tuple(self._layer(number) for number in range(len(model.layers))), final_norm=self._norm("norm"),
            head=self._matrix("head", model.hidden, (model.vocabulary, _LOGITS)), key_block=self._key_block,
            residual_scale=_Y_SCALE / ONE_Q15, logit_scale=1.0 / _LOGITS,
        )  # fmt: skip
