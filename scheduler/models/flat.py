# SPDX-License-Identifier: Apache-2.0
"""The flat shape of a model that computes what a Mixtral does: the one kind that ``scheduler.language`` lowers."""

from __future__ import annotations

import dataclasses

from hdl.errors import A3dError
from scheduler.models.description import Experts, GroupedAttention, Layer, Model

__all__ = ["MixtralConfig"]


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

    @property
    def model(self) -> Model:
        """What the model is made of."""
        layer = Layer(
            attention=GroupedAttention(
                heads=self.num_attention_heads, kv_heads=self.num_key_value_heads, head_dim=self.head_dim
            ),
            mlp=Experts(
                count=self.num_local_experts, chosen=self.num_experts_per_tok, intermediate=self.intermediate_size
            ),
        )
        return Model(
            family="mixtral", name="mixtral", hidden=self.hidden_size, vocabulary=self.vocab_size,
            context=self.max_position_embeddings, layers=(layer,) * self.num_hidden_layers,
            tied=self.tie_word_embeddings, norm_eps=self.rms_norm_eps, rope_theta=self.rope_theta,
            end_tokens=self.eos_token_id,
        )  # fmt: skip

    @staticmethod
    def of(model: Model) -> MixtralConfig:
        """Return the flat shape of a model that computes what a Mixtral does.

        Raises
        ------
        A3dError
            Its layers are others.
        """
        attention, mlp = model.attention, model.layers[0].mlp
        plain = GroupedAttention(heads=attention.heads, kv_heads=attention.kv_heads, head_dim=attention.head_dim)
        if (
            not isinstance(mlp, Experts)
            or mlp != Experts(count=mlp.count, chosen=mlp.chosen, intermediate=mlp.intermediate)
            or any(layer != Layer(attention=plain, mlp=mlp) for layer in model.layers)
        ):
            raise A3dError(
                f"{model.name}: its layers are those of a {model.family}, of which no stream is made; use a Mixtral"
            )
        return MixtralConfig(
            vocab_size=model.vocabulary, hidden_size=model.hidden, intermediate_size=mlp.intermediate,
            num_hidden_layers=len(model.layers), num_attention_heads=attention.heads,
            num_key_value_heads=attention.kv_heads, head_dim=attention.head_dim, num_local_experts=mlp.count,
            num_experts_per_tok=mlp.chosen, max_position_embeddings=model.context, rms_norm_eps=model.norm_eps,
            rope_theta=model.rope_theta, tie_word_embeddings=model.tied, eos_token_id=model.end_tokens,
        )  # fmt: skip
