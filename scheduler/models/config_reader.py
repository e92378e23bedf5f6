# SPDX-License-Identifier: Apache-2.0
"""Reads the values of a ``config.json`` that a family's description asks for, and names each that is wrong.

Sizes and counts must be there. Integers are integers: 32.0 is refused, as transformers 5 does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NoReturn

from hdl.errors import shown
from scheduler.models.checkpoint_json import CheckpointError
from scheduler.models.checkpoint_rope import rope_theta
from scheduler.models.config_keys import NOT_IMPLEMENTED
from scheduler.models.description import Experts, GroupedAttention, Layer, Model, QkNorm, Router
from scheduler.models.family import Family

__all__ = ["MOST_LAYERS", "ConfigReader"]

MOST_ROTATIONS = 1 << 25
"""Largest context times head width: the rotation of every position is computed, and held in memory, in advance."""

MOST_SIZE = 1 << 31
"""No size or count is larger."""

MOST_LAYERS = 1 << 12
"""No model is deeper."""

_PLAIN_ROUTER = Router()


class ConfigReader:
    """Values of one ``config.json``.

    Parameters
    ----------
    raw : dict
        What the file holds.
    family : Family
        Of the model.
    file : str
        Name of the file, for messages.
    name : str
        Of the model.
    """

    def __init__(self, raw: dict[str, Any], family: Family, file: str, name: str) -> None:
        self.raw = raw
        self.family = family
        self.file = file
        self.name = name

    def wrong(self, name: str, expected: str, remedy: str = "correct config.json") -> NoReturn:
        """Refuse the value of a key.

        Raises
        ------
        CheckpointError
            Always.
        """
        state = f"is {shown(self.raw[name])}" if name in self.raw else "is missing"
        raise CheckpointError(f"{self.file}: {name} {state}, expected {expected}; {remedy}")

    def get(self, name: str) -> Any:
        """Return the value of a key, or of another name of it."""
        return self.raw.get(self._key(name))

    def _key(self, name: str) -> str:
        """Return the name under which a key is there."""
        if self.raw.get(name) is None:
            for alias, meant in self.family.aliases.items():
                if meant == name and alias in self.raw:
                    return alias
        return name

    def count(self, name: str, *, most: int = MOST_SIZE) -> int:
        """Return a positive integer, which must be there."""
        name = self._key(name)
        value = self.raw.get(name)
        if value is None or not _integer(value) or value > most:
            limit = f" up to {most}" if isinstance(value, int) and value > most else ""
            self.wrong(name, f"a positive integer{limit}")
        return int(value)

    def natural(self, name: str, absent: int) -> int:
        """Return an integer, 0 or more; `absent` where there is none."""
        value = self.get(name)
        if value is None:
            return absent
        if not _integer(value, 0):
            self.wrong(name, "an integer, 0 or more")
        return int(value)

    def flag(self, name: str, absent: bool = False) -> bool:
        """Return a truth value; `absent` where there is none."""
        value = self.get(name)
        if value is None:
            return absent
        if not isinstance(value, bool):
            self.wrong(name, "true or false")
        return value

    def factor(self, name: str, absent: float = 1.0) -> float:
        """Return a positive number; `absent` where there is none."""
        value = self.get(name)
        if value is None:
            return absent
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e30:
            self.wrong(name, "a positive number")
        return float(value)

    def choice(self, name: str, values: Sequence[str]) -> str:
        """Return one of some words; the first where there is none."""
        value = self.get(name)
        if value is None:
            return values[0]
        if value not in values:
            self.wrong(name, " or ".join(map(repr, values)), NOT_IMPLEMENTED)
        return str(value)

    @property
    def layers(self) -> int:
        """Number of layers."""
        return self.count("num_hidden_layers", most=MOST_LAYERS)

    @property
    def hidden(self) -> int:
        """Width of the residual."""
        return self.count("hidden_size")

    def grouped_attention(
        self, *, qk_norm: QkNorm = QkNorm.NONE, window: int | None = None, sinks: bool = False, bias: bool = False
    ) -> GroupedAttention:
        """Return the attention that the numbers of heads and their width describe."""
        hidden, heads = self.hidden, self.count("num_attention_heads")
        if self.get("head_dim") is None:
            if hidden % heads:
                raise CheckpointError(
                    f"{self.file}: hidden_size {hidden} is not a multiple of num_attention_heads {heads}; "
                    "correct one of them or add head_dim"
                )
            head_dim = hidden // heads
        else:
            head_dim = self.count("head_dim")
        kv_heads = heads
        if self.raw.get("num_key_value_heads") is not None:
            kv_heads = self.count("num_key_value_heads")
        elif "num_key_value_heads" not in self.raw:
            kv_heads = self.family.kv_heads or heads
        if heads % kv_heads:
            state = "is" if "num_key_value_heads" in self.raw else "is missing, which means"
            raise CheckpointError(
                f"{self.file}: num_key_value_heads {state} {kv_heads}, expected a divisor of num_attention_heads "
                f"{heads}; correct config.json"
            )
        if head_dim % 2:
            if self.get("head_dim") is None:
                raise CheckpointError(
                    f"{self.file}: hidden_size {hidden} / num_attention_heads {heads} is {head_dim}, expected an even "
                    "number (RoPE rotates pairs); correct one of them or add head_dim"
                )
            self.wrong("head_dim", "an even number (RoPE rotates pairs)", "correct it")
        self._check_rotations(head_dim)
        return GroupedAttention(
            heads=heads, kv_heads=kv_heads, head_dim=head_dim, qk_norm=qk_norm, window=window, sinks=sinks, bias=bias
        )

    def _check_rotations(self, head_dim: int) -> None:
        most = MOST_ROTATIONS // head_dim
        if self.count("max_position_embeddings") > most:
            self.wrong(
                "max_position_embeddings", f"at most {most} with head_dim {head_dim}: the rotation of every position "
                "is held in memory", "write a smaller context",
            )  # fmt: skip

    def experts(self, *, router: Router = _PLAIN_ROUTER, shared: int = 0) -> Experts:
        """Return the mixture of experts that their number and width describe, with the plain activation."""
        keys = self.family.keys
        count, chosen = self.count(keys.experts), self.count("num_experts_per_tok")
        if chosen > count:
            self.wrong("num_experts_per_tok", f"at most {keys.experts} {count}")
        return Experts(
            count=count, chosen=chosen, intermediate=self.count(keys.intermediate), shared=shared, router=router
        )

    def require_full_attention(self) -> None:
        """Refuse attention that does not see all of the past."""
        context, window = self.count("max_position_embeddings"), self.raw.get("sliding_window")
        if window is not None and window is not False and (not isinstance(window, int) or window < context):
            self.wrong(
                "sliding_window", f"null or at least {context} (max_position_embeddings)",
                "sliding-window attention is not implemented",
            )  # fmt: skip
        types = self.raw.get("layer_types")
        if types is None:
            return
        if not isinstance(types, list) or any(kind != "full_attention" for kind in types):
            self.wrong(
                "layer_types", "null or full_attention for every layer", "sliding-window attention is not implemented"
            )
        if len(types) != self.layers:
            raise CheckpointError(
                f"{self.file}: layer_types has {len(types)} entries, expected one for each of the num_hidden_layers "
                f"{self.layers}; correct config.json"
            )

    def model(self, layers: Sequence[Layer], *, missing: str = "") -> Model:
        """Return the model that has these layers; what else it has is the same for all families."""
        family, raw = self.family, self.raw
        eps = raw.get("rms_norm_eps")
        if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not 0 < eps < 1 or math.isnan(eps):
            self.wrong("rms_norm_eps", "a positive number below 1, such as 1e-05")
        model = Model(
            family=family.model_type, name=self.name, hidden=self.hidden, vocabulary=self.count("vocab_size"),
            context=self.count("max_position_embeddings"), layers=tuple(layers),
            tied=self.flag("tie_word_embeddings"), norm_eps=float(eps),
            rope_theta=rope_theta(raw, self.file, absent=family.theta, scaled=family.scaled_rotation),
            end_tokens=self._end_tokens(), missing=missing,
        )  # fmt: skip
        for alias, meant in family.aliases.items():
            if raw.get(alias) is not None and raw.get(meant) is not None and raw[alias] != raw[meant]:
                self.wrong(alias, f"null or {shown(raw[meant])}, as {meant} says", NOT_IMPLEMENTED)
        for name, same in family.related.items():
            if raw.get(name) is not None and (raw[name] != same(model) or isinstance(raw[name], bool)):
                self.wrong(name, f"null or {same(model)}", NOT_IMPLEMENTED)
        return model

    def _end_tokens(self) -> tuple[int, ...]:
        """Return the tokens that end a text; some files have none, some one, some a list."""
        value = self.raw.get("eos_token_id")
        tokens = value if isinstance(value, list) else [] if value is None else [value]
        if not all(_integer(token, -1) for token in tokens):
            self.wrong("eos_token_id", "null, a token's number or a list of them", "correct it")
        return tuple(token for token in tokens if token >= 0)


def _integer(value: Any, low: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= MOST_SIZE
