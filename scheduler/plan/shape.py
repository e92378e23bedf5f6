# SPDX-License-Identifier: Apache-2.0
"""A language model's dimensions in units of a machine: words of R bytes, rows of C lanes, tiles of R x C."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from hdl.config import MachineConfig
from hdl.errors import A3dError
from hdl.isa import Opcode, most_of
from scheduler.memory.layout import memory_unit
from scheduler.models.checkpoint import MixtralConfig

__all__ = ["MOST_COUNT", "LoweringError", "ModelShape"]


class LoweringError(A3dError):
    """A model, batch or context that the machine cannot run; the message names the limit and what would fit."""


MOST_ROWS = most_of(Opcode.VECTOR, "rows")
"""Combine rows of a vector."""

MOST_COUNT = min(
    most_of(Opcode.GEMM, "tokens", "k_slices", "n_tiles"), most_of(Opcode.VECTOR, "vectors"),
    most_of(Opcode.ROUTE, "tokens"),
)  # fmt: skip
"""Tokens, tiles and slices of an instruction."""


@dataclass(frozen=True)
class ModelShape:
    """Dimensions of a model on a machine.

    Attributes
    ----------
    config : MachineConfig
        The machine.
    hidden, intermediate, heads, kv_heads, head_dim, experts, chosen, layers, vocabulary, context : int
        Of the model; `chosen` experts per token, `context` the longest sequence.
    """

    config: MachineConfig
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    experts: int
    chosen: int
    layers: int
    vocabulary: int
    context: int

    def __post_init__(self) -> None:
        """Check that every dimension is a whole number of what the machine works in.

        Raises
        ------
        LoweringError
            Names the dimension, its value, the unit and the nearest value that fits.
        """
        c = self.config
        if c.stationary_feed == "edge":  # whose banks take no transposed tiles, and keys are transposed as they load
            raise LoweringError(
                "config stationary_feed: 'edge' runs experts alone, no attention, whose keys it cannot load; set it to "
                "'vertical' to run a language model"
            )
        for name, unit, why in (
            ("hidden", c.rows, "words of activations"),
            ("head_dim", c.rows, "words of activations"),
            ("intermediate", c.rows, "words of activations"),
            ("vocabulary", c.columns, "output tiles"),
        ):
            value = getattr(self, name)
            if value % unit:
                near = max(unit, (value + unit // 2) // unit * unit)
                raise LoweringError(
                    f"model {name}: {value}; {c.name} works in {why} of {unit}: use a multiple of {unit} such as "
                    f"{near}, or a machine with fewer rows and columns"
                )
        if self.head_dim // c.columns not in (1, 2, 4, 8):
            raise LoweringError(
                f"model head_dim: {self.head_dim}; the rotation's tables take 1, 2, 4 or 8 rows of {c.columns}: "
                f"use a machine with columns between {max(4, self.head_dim // 8)} and {self.head_dim}"
            )
        unit = memory_unit(c)
        for name, size, what in (
            ("hidden", 2 * self.hidden, "an embedding"),
            ("head_dim", 4 * self.head_dim, "a position's rotation table"),
        ):
            if size % unit:
                raise LoweringError(
                    f"model {name}: {getattr(self, name)}; {what} takes {size} bytes and loads start at multiples of "
                    f"{unit}: use a larger {name} or smaller memory channels"
                )
        if self.heads % self.kv_heads:
            raise LoweringError(f"model heads: {self.heads} with {self.kv_heads} kv_heads; use a multiple of kv_heads")
        if self.chosen > min(self.experts, c.columns):
            raise LoweringError(
                f"model chosen experts: {self.chosen} of {self.experts}; at most {min(self.experts, c.columns)} here: "
                "use a machine with more columns"
            )
        self._check_fields()

    def _check_fields(self) -> None:
        """Refuse dimensions that an instruction cannot say, by the widths of its fields."""
        c = self.config
        for name, value, count, most in (
            ("hidden", self.hidden, self.hidden_rows, MOST_ROWS),
            ("heads x head_dim", self.heads * self.head_dim, self.query_rows, MOST_ROWS),
            ("kv_heads x head_dim", self.kv_heads * self.head_dim, self.key_rows, MOST_ROWS),
            ("(heads + 2 kv_heads) x head_dim", self.projected_rows * c.columns, self.projected_rows, MOST_COUNT),
            ("intermediate", self.intermediate, self.up_tiles, MOST_COUNT),
            ("vocabulary", self.vocabulary, self.logit_rows, MOST_COUNT),
            ("experts", self.experts, self.router_rows, MOST_ROWS),
        ):
            if count > most:
                fits = value * most // count // c.columns * c.columns
                raise LoweringError(
                    f"model {name}: {value}; instructions count up to {most} rows of {c.columns}, and this takes "
                    f"{count}: use at most {fits}, or a machine with more columns"
                )

    @staticmethod
    def of(config: MachineConfig, model: MixtralConfig) -> ModelShape:
        """Return the dimensions of a Mixtral model on a machine."""
        return ModelShape(
            config, model.hidden_size, model.intermediate_size, model.num_attention_heads, model.num_key_value_heads,
            model.head_dim, model.num_local_experts, model.num_experts_per_tok, model.num_hidden_layers,
            model.vocab_size, model.max_position_embeddings,
        )  # fmt: skip

    @property
    def group(self) -> int:
        """Query heads that share a key/value head."""
        return self.heads // self.kv_heads

    @cached_property
    def hidden_words(self) -> int:
        """Activation words of a token."""
        return self.hidden // self.config.rows

    @cached_property
    def hidden_rows(self) -> int:
        """Combine rows of a token's residual."""
        return self.hidden // self.config.columns

    @cached_property
    def head_words(self) -> int:
        """Activation words of a head's query, and reduction slices of its scores."""
        return self.head_dim // self.config.rows

    @cached_property
    def head_rows(self) -> int:
        """Combine rows of a head, and output tiles of its context."""
        return self.head_dim // self.config.columns

    @cached_property
    def query_words(self) -> int:
        """Activation words of all of a token's heads."""
        return self.heads * self.head_words

    @cached_property
    def query_rows(self) -> int:
        """Combine rows of a token's queries, and of its context."""
        return self.heads * self.head_rows

    @cached_property
    def key_rows(self) -> int:
        """Combine rows of a token's keys; as many hold its values."""
        return self.kv_heads * self.head_rows

    @cached_property
    def projected_rows(self) -> int:
        """Combine rows of a token's queries, keys and values."""
        return self.query_rows + 2 * self.key_rows

    @cached_property
    def rope_rows(self) -> int:
        """Combine rows of a position's cosines and sines."""
        return 2 * self.head_rows

    @cached_property
    def inner_words(self) -> int:
        """Activation words of an expert's h for one token."""
        return self.intermediate // self.config.rows

    @cached_property
    def router_rows(self) -> int:
        """Combine rows of a token's router logits."""
        return -(-self.experts // self.config.columns)

    @cached_property
    def logit_rows(self) -> int:
        """Combine rows of a token's logits."""
        return self.vocabulary // self.config.columns

    @cached_property
    def up_tiles(self) -> int:
        """Output tiles of an expert's gate and up projections."""
        return 2 * self.intermediate // self.config.columns

    @cached_property
    def expert_tiles(self) -> int:
        """V-Cache tiles of a whole expert."""
        return self.up_tiles * self.hidden_words + self.hidden_rows * self.inner_words

    @cached_property
    def expert_words(self) -> int:
        """Requantisation words of a whole expert."""
        return self.up_tiles + self.hidden_rows

    def gang(self, n_tiles: int, k_slices: int) -> int:
        """Return the largest gang over which `n_tiles` output tiles of `k_slices` each can be spread evenly.

        Each tier's share of the planes must begin where a load can begin. Without vertical links there are no gangs.
        """
        column, unit = k_slices * self.config.plane_bytes, memory_unit(self.config)
        most = self.config.tiers if self.config.vertical_links else 1
        return max(g for g in range(1, most + 1) if g == 1 or (n_tiles % g == 0 and n_tiles // g * column % unit == 0))

    @cached_property
    def dense_gangs(self) -> dict[str, int]:
        """Tiers that share each dense matrix, by its name."""
        return {
            "qkv": self.gang(self.projected_rows, self.hidden_words),
            "output": self.gang(self.hidden_rows, self.query_words),
            "router": 1,
            "head": self.gang(self.logit_rows, self.hidden_words),
        }

    @cached_property
    def key_unit(self) -> int:
        """Granularity in keys of what is loaded and scored: whole tiles of keys and of values."""
        return max(self.config.rows, self.config.columns)

    def key_tiles(self, keys: int) -> int:
        """Return the V-Cache tiles of the keys (or of the values) of one head for `keys` keys."""
        units = -(-keys // self.key_unit) * self.key_unit
        return units // self.config.columns * self.head_words
