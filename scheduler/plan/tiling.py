# SPDX-License-Identifier: Apache-2.0
"""A model's matrices and vectors in the sizes of a machine: words of R bytes, rows of C lanes, tiles of R x C.

Widths that are no multiple of them are padded with zeros: the hidden width and an expert's inner width to whole
words, a head to whole words and to a rotation table of 1, 2, 4 or 8 rows, outputs to whole tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from hdl.config import ADDRESS_UNIT, MachineConfig
from scheduler.models.description import (
    Attention,
    DenseMlp,
    Experts,
    GroupedAttention,
    LatentAttention,
    Layer,
    Model,
    QkNorm,
)
from scheduler.plan.limits import MOST_COUNT, MOST_ROWS, MOST_STRIDE, LoweringError
from scheduler.plan.shares import Matrix

__all__ = ["ExpertTiling", "HeadTiling", "Tiling"]

KEY_BLOCK_TILES = 8
"""Tiles of keys that are scored at once, side by side, unless something else is asked for."""

_TABLE_ROWS = (1, 2, 4, 8)
"""Rows of a rotation's table."""


def _up(value: int, step: int) -> int:
    """Return the next multiple of a step."""
    return -(-value // step) * step


@dataclass(frozen=True)
class HeadTiling:
    """Attention of a layer in the sizes of a machine.

    Attributes
    ----------
    heads, kv_heads : int
        Query heads, and the key/value heads that they share.
    key_words, key_rows : int
        Activation words, and combine rows, of a query or key of one head.
    value_words, value_rows : int
        The same of a value, and of a context.
    rotated_rows : int
        Combine rows of what is rotated of a query or key.
    window : int or None
        Keys that a query sees.
    """

    heads: int
    kv_heads: int
    key_words: int
    key_rows: int
    value_words: int
    value_rows: int
    rotated_rows: int
    window: int | None = None

    @property
    def group(self) -> int:
        """Query heads that share a key/value head."""
        return self.heads // self.kv_heads

    @property
    def query_words(self) -> int:
        """Activation words of a token's queries."""
        return self.heads * self.key_words

    @property
    def query_rows(self) -> int:
        """Combine rows of a token's queries."""
        return self.heads * self.key_rows

    @property
    def context_words(self) -> int:
        """Activation words of a token's contexts."""
        return self.heads * self.value_words

    @property
    def context_rows(self) -> int:
        """Combine rows of a token's contexts."""
        return self.heads * self.value_rows

    @property
    def cached_rows(self) -> int:
        """Combine rows of a token's keys and values."""
        return self.kv_heads * (self.key_rows + self.value_rows)

    @property
    def projected_rows(self) -> int:
        """Combine rows of a token's queries, keys and values."""
        return self.query_rows + self.cached_rows

    @property
    def rope_rows(self) -> int:
        """Combine rows of a position's cosines and sines."""
        return 2 * self.rotated_rows


@dataclass(frozen=True)
class ExpertTiling:
    """An expert of a layer in the sizes of a machine.

    Attributes
    ----------
    inner_words : int
        Activation words of h for one token.
    up, down : Matrix
        Gate and up projection, their channels interleaved tile by tile; down projection.
    """

    inner_words: int
    up: Matrix
    down: Matrix

    @property
    def tiles(self) -> int:
        """V-Cache tiles of the whole expert."""
        return self.up.tiles + self.down.tiles

    @property
    def words(self) -> int:
        """Requantisation words of the whole expert."""
        return self.up.n_tiles + self.down.n_tiles


class Tiling:
    """A model on a machine.

    Parameters
    ----------
    config : MachineConfig
    model : Model

    Raises
    ------
    LoweringError
        Names the dimension, its value, the limit and the nearest value that fits.
    """

    def __init__(self, config: MachineConfig, model: Model) -> None:
        self.config = config
        self.model = model
        self._heads: dict[Attention, HeadTiling] = {}
        self._known: dict[int, tuple[Attention, HeadTiling]] = {}
        self._experts: dict[int, ExpertTiling] = {}
        for layer in self.kinds:
            self._check(layer)
        self._fits("hidden", model.hidden, self.hidden_rows, MOST_ROWS, config.rows)
        self._fits("hidden", model.hidden, self.hidden_words, MOST_STRIDE, config.rows, words=True)

    @cached_property
    def kinds(self) -> tuple[Layer, ...]:
        """The model's layers, equal ones once."""
        return tuple(dict.fromkeys(self.model.layers))

    def _fits(self, name: str, value: int, count: int, most: int, unit: int, *, words: bool = False) -> None:
        """Refuse a width of `count` combine rows (or words), more than an instruction says, that comes in units."""
        if count > most:
            width = self.config.rows if words else self.config.columns
            what = f"{'words' if words else 'rows'} of {width}"
            raise LoweringError(
                f"model {name}: {value}; instructions count up to {most} {what}, and this takes {count}: use at most "
                f"{most * width // unit * unit}, or a machine with more columns"
            )

    def _check(self, layer: Layer) -> None:
        """Refuse dimensions that an instruction cannot say, by the widths of its fields."""
        heads, columns = self.heads(layer), self.config.columns
        attention = layer.attention
        if heads.heads and self.config.stationary_feed == "edge":
            # whose banks take no transposed tiles, and keys are transposed as they load
            raise LoweringError(
                "config stationary_feed: 'edge' runs experts alone, no attention, whose keys it cannot load; set it to "
                "'vertical' to run a language model"
            )
        if not isinstance(attention, LatentAttention):
            self._check_grouped(attention, heads)
        elif heads.rotated_rows not in _TABLE_ROWS:
            raise LoweringError(
                f"model rope_dim: {attention.rope_dim}; the rotation's tables take 1, 2, 4 or 8 rows of {columns}"
            )
        rows = self.config.rows
        for name, count, unit in (
            ("heads x value_dim", heads.context_words, heads.value_words),
            ("heads x head_dim", heads.query_words, heads.key_words),
        ):
            self._fits(name, count * rows, count, MOST_STRIDE, max(1, unit) * rows, words=True)
        mlp = layer.mlp
        if isinstance(mlp, Experts):
            self._fits("experts", mlp.count, self.router_rows(mlp), MOST_ROWS, 1)
            most = min(mlp.count, columns)
            if mlp.chosen > most:
                raise LoweringError(
                    f"model chosen experts: {mlp.chosen} of {mlp.count}; at most {most} here: use a machine with more "
                    "columns"
                )
        for inner in self.inner_widths(layer):
            self._fits("intermediate", inner, self.expert(inner).up.n_tiles // 2, MOST_COUNT, rows)

    def _check_grouped(self, attention: GroupedAttention, heads: HeadTiling) -> None:
        """Refuse attention whose queries, keys and values an instruction cannot say."""
        columns, width = self.config.columns, attention.head_dim
        if not heads.heads:  # a layer of experts alone
            return
        if heads.heads % heads.kv_heads:
            raise LoweringError(
                f"model heads: {heads.heads} with {heads.kv_heads} kv_heads; use a multiple of kv_heads"
            )
        if heads.key_rows not in _TABLE_ROWS:
            raise LoweringError(
                f"model head_dim: {width}; the rotation's tables take 1, 2, 4 or 8 rows of {columns}: "
                f"use at most {columns * _TABLE_ROWS[-1]}, or a machine with "
                f"{1 << (-(-width // _TABLE_ROWS[-1]) - 1).bit_length()} columns or more"
            )
        for name, count, most in (
            ("heads x head_dim", heads.query_rows, MOST_ROWS),
            ("2 kv_heads x head_dim", heads.cached_rows, MOST_ROWS),
            ("(heads + 2 kv_heads) x head_dim", heads.projected_rows, MOST_COUNT),
        ):
            self._fits(name, count * columns, count, most, heads.key_rows * columns)

    # Sizes of a token.

    @cached_property
    def hidden_words(self) -> int:
        """Activation words of a token."""
        return -(-self.model.hidden // self.config.rows)

    @cached_property
    def hidden_rows(self) -> int:
        """Combine rows of a token's residual: whole words."""
        return self.hidden_words * self.config.rows // self.config.columns

    def heads(self, layer: Layer) -> HeadTiling:
        """Return a layer's attention."""
        attention = layer.attention
        known = self._known.get(id(attention))  # asked for very often, and a description's hash takes long
        if known is not None and known[0] is attention:
            return known[1]
        if attention not in self._heads:
            rows, columns = self.config.rows, self.config.columns

            def words(width: int) -> int:
                return -(-width // rows)

            def power(width: int) -> int:  # a rotation table's rows, and whole words
                count = words(width) * rows // columns
                return 1 << (count - 1).bit_length()

            if isinstance(attention, LatentAttention):
                key = words(attention.kv_rank) + words(attention.rope_dim)
                value = words(attention.kv_rank)
                self._heads[attention] = HeadTiling(
                    attention.heads, 1, key, key * rows // columns, value, value * rows // columns,
                    words(attention.rope_dim) * rows // columns,
                )  # fmt: skip
            else:
                own = power(attention.head_dim)
                self._heads[attention] = HeadTiling(
                    attention.heads, attention.kv_heads, own * columns // rows, own, own * columns // rows, own, own,
                    attention.window,
                )  # fmt: skip
        self._known[id(attention)] = attention, self._heads[attention]
        return self._heads[attention]

    def router_rows(self, mlp: Experts) -> int:
        """Return the combine rows of a token's router logits."""
        return -(-mlp.count // self.config.columns)

    @cached_property
    def logit_rows(self) -> int:
        """Combine rows of a token's logits."""
        return -(-self.model.vocabulary // self.config.columns)

    # Matrices.

    def expert(self, inner: int) -> ExpertTiling:
        """Return a gated MLP of a certain inner width."""
        if inner not in self._experts:
            config, hidden = self.config, self.model.hidden
            words = -(-inner // config.rows)
            up = Matrix("up", hidden, 2 * inner, self.hidden_words, words * 2 * config.rows // config.columns)
            down = Matrix("down", inner, hidden, words, self.hidden_rows)
            self._experts[inner] = ExpertTiling(words, up, down)
        return self._experts[inner]

    def inner_widths(self, layer: Layer) -> tuple[int, ...]:
        """Return the inner widths of a layer's gated MLPs: of its experts, then of those that all tokens use."""
        mlp = layer.mlp
        if isinstance(mlp, DenseMlp):
            return (mlp.intermediate,)
        return (mlp.intermediate, mlp.shared) if mlp.shared else (mlp.intermediate,)

    def dense(self, layer: Layer) -> dict[str, Matrix]:
        """Return the dense matrices of a layer that int8 words of tier 0 go into, in the order of their use."""
        heads, hidden = self.heads(layer), self.model.hidden
        found: list[Matrix] = []
        attention = layer.attention
        if isinstance(attention, LatentAttention):
            found += self._latent(attention)
        else:
            outputs = (attention.heads + 2 * attention.kv_heads) * attention.head_dim
            found.append(Matrix("qkv", hidden, outputs, self.hidden_words, heads.projected_rows))
        inputs = attention.heads * (
            attention.value_dim if isinstance(attention, LatentAttention) else attention.head_dim
        )
        words = self._output_words(layer)
        found.append(Matrix("output", inputs, hidden, words, self.hidden_rows))
        if isinstance(layer.mlp, Experts):
            rows = self.router_rows(layer.mlp)
            found.append(Matrix("router", hidden, layer.mlp.count, self.hidden_words, rows))
        return {matrix.name: matrix for matrix in found}

    def _output_words(self, layer: Layer) -> int:
        attention = layer.attention
        if isinstance(attention, LatentAttention):
            return attention.heads * -(-attention.value_dim // self.config.rows)
        return self.heads(layer).context_words

    def _latent(self, attention: LatentAttention) -> Sequence[Matrix]:
        """Return the matrices before latent attention: to the latent vectors, and from the queries' to the heads'."""
        rows, columns = self.config.rows, self.config.columns

        def words(width: int) -> int:
            return -(-width // rows)

        def tiles(width: int) -> int:
            return words(width) * rows // columns

        rank, key, rope = attention.query_rank, attention.kv_rank, attention.rope_dim
        source = rank or self.model.hidden
        slices, heads = words(source), attention.heads
        return (
            Matrix(
                "latent", self.model.hidden, rank + key + rope, self.hidden_words, sum(map(tiles, (rank, key, rope)))
            ),
            Matrix("query plain", source, heads * attention.plain_dim, slices, heads * tiles(attention.plain_dim)),
            Matrix("query rotated", source, heads * rope, slices, heads * tiles(rope)),
            Matrix("absorb", attention.plain_dim, heads * key, words(attention.plain_dim), heads * tiles(key)),
            Matrix("expand", key, heads * attention.value_dim, words(key), heads * tiles(attention.value_dim)),
        )

    def per_head(self, layer: Layer, name: str) -> int:
        """Return the output tiles of a head, of a matrix in which each head has its own inputs; 0: it is another."""
        if name not in ("absorb", "expand"):
            return 0
        return self.dense(layer)[name].n_tiles // self.heads(layer).heads

    @cached_property
    def head(self) -> Matrix:
        """The language-model head."""
        model = self.model
        return Matrix("head", model.hidden, model.vocabulary, self.hidden_words, self.logit_rows)

    def norm_rows(self, layer: Layer) -> tuple[int, int]:
        """Return the combine rows of the weights of a layer's norms of queries and of keys."""
        attention, heads = layer.attention, self.heads(layer)
        if isinstance(attention, LatentAttention) or attention.qk_norm == QkNorm.NONE:
            return 0, 0
        if attention.qk_norm == QkNorm.HEAD:
            return heads.key_rows, heads.key_rows
        return heads.query_rows, heads.kv_heads * heads.key_rows

    @cached_property
    def most_norm_rows(self) -> int:
        """The most combine rows of weights of norms of queries and keys that a layer has."""
        return max(sum(self.norm_rows(kind)) for kind in self.kinds)

    # Keys.

    @cached_property
    def key_alignment(self) -> int:
        """Granularity in keys of what is loaded and scored: whole tiles of keys and of values, at whole addresses."""
        rows, columns = self.config.rows, self.config.columns
        return max(rows, columns, ADDRESS_UNIT // min(rows, columns))

    @cached_property
    def key_block(self) -> int:
        """Keys that are scored at once unless something else is asked for."""
        return KEY_BLOCK_TILES * self.config.columns

    def key_tiles(self, heads: HeadTiling, keys: int) -> int:
        """Return the V-Cache tiles of one head's keys for `keys` keys, whole key alignments."""
        return _up(keys, self.key_alignment) // self.config.columns * heads.key_words

    def value_tiles(self, heads: HeadTiling, keys: int) -> int:
        """Return the V-Cache tiles of one head's values for `keys` keys, whole key alignments."""
        return _up(keys, self.key_alignment) // self.config.rows * heads.value_rows
