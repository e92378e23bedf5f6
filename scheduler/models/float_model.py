# SPDX-License-Identifier: Apache-2.0
"""The float model: a Mixtral forward pass in NumPy, the reference that integer models are measured against.

It follows Hugging Face ``MixtralForCausalLM``: RMSNorm, rotary embeddings that pair element i with i + head_dim/2,
grouped-query causal attention, a softmax over all router logits of which the top k are kept and renormalised, and
SwiGLU experts ``w2 @ (silu(w1 @ x) * (w3 @ x))``. Equal router probabilities go to the lower expert number, as in
the hardware. The whole sequence is computed at once; there is no key-value cache.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt

from hdl.errors import A3dError
from scheduler.models.checkpoint import Checkpoint, LayerWeights

__all__ = ["FloatModel", "ForwardResult", "LayerTrace", "bits_per_byte", "byte_losses", "expert_usage", "generate"]

Array = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LayerTrace:
    """What one decoder layer computed; B sequences of S tokens, k experts per token.

    Parameters
    ----------
    hidden_in : ndarray, shape (B, S, hidden)
        Residual stream as it enters the layer.
    attention_input : ndarray, shape (B, S, hidden)
        After the RMSNorm before attention.
    query : ndarray, shape (B, heads, S, head_dim)
        After RoPE.
    key, value : ndarray, shape (B, kv_heads, S, head_dim)
        Keys after RoPE.
    context : ndarray, shape (B, S, heads * head_dim)
        Input of the output projection.
    attention_output : ndarray, shape (B, S, hidden)
        Output of the output projection, before the residual add.
    moe_input : ndarray, shape (B, S, hidden)
        After the RMSNorm before the mixture of experts.
    router_logits, router_probs : ndarray, shape (B, S, experts)
    expert_index : ndarray of int64, shape (B, S, k)
        Chosen experts, the most probable first.
    expert_weight : ndarray, shape (B, S, k)
        Their renormalised probabilities; each token's sum is 1.
    expert_gate, expert_up, expert_hidden : ndarray, shape (B, S, k, intermediate)
        ``w1 @ x``, ``w3 @ x`` and ``silu(gate) * up`` of each chosen expert.
    moe_output : ndarray, shape (B, S, hidden)
        Weighted sum of the experts, before the residual add.
    hidden_out : ndarray, shape (B, S, hidden)
        Residual stream as it leaves the layer.
    """

    hidden_in: Array
    attention_input: Array
    query: Array
    key: Array
    value: Array
    context: Array
    attention_output: Array
    moe_input: Array
    router_logits: Array
    router_probs: Array
    expert_index: IntArray
    expert_weight: Array
    expert_gate: Array
    expert_up: Array
    expert_hidden: Array
    moe_output: Array
    hidden_out: Array


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ForwardResult:
    """Result of a forward pass.

    Parameters
    ----------
    logits : ndarray, shape (B, S, vocab)
    layers : tuple of LayerTrace
        Empty unless traces were asked for.
    """

    logits: Array
    layers: tuple[LayerTrace, ...]


def rms_norm(x: Array, scale: Array, eps: float) -> Array:
    """``x / sqrt(mean(x^2) + eps) * scale`` over the last axis."""
    normalised: Array = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.asarray(eps, x.dtype)) * scale
    return normalised


def softmax(x: Array) -> Array:
    """Softmax over the last axis."""
    e: Array = np.exp(x - x.max(axis=-1, keepdims=True))
    e /= e.sum(axis=-1, keepdims=True)
    return e


def silu(x: Array) -> Array:
    """``x * sigmoid(x)``; written with tanh, which cannot overflow."""
    half = np.asarray(0.5, x.dtype)
    return x * (half * np.tanh(half * x) + half)


def rotate(x: Array, cos: Array, sin: Array) -> Array:
    """Rotary embedding of `x` (..., S, head_dim); `cos` and `sin` are (S, head_dim / 2)."""
    low, high = np.split(x, 2, axis=-1)
    return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)


class FloatModel:
    """Mixtral in NumPy.

    Parameters
    ----------
    checkpoint : Checkpoint
        Weights.
    dtype : {numpy.float32, numpy.float64}
        Type of all arithmetic. The rotary angles are computed in float64 and rounded to it.
    """

    def __init__(self, checkpoint: Checkpoint, *, dtype: type[np.floating] = np.float32) -> None:
        self.config = checkpoint.config
        self.dtype = np.dtype(dtype)

        def convert(array: Array) -> Array:
            return array.astype(self.dtype, copy=False)

        self.embed, self.norm, self.lm_head = map(convert, (checkpoint.embed, checkpoint.norm, checkpoint.lm_head))
        self.layers = tuple(
            LayerWeights(**{field.name: convert(getattr(layer, field.name)) for field in dataclasses.fields(layer)})
            for layer in checkpoint.layers
        )
        c = self.config
        inverse = c.rope_theta ** (-np.arange(0, c.head_dim, 2, dtype=np.float64) / c.head_dim)
        angle = np.outer(np.arange(c.max_position_embeddings), inverse)
        self._cos, self._sin = convert(np.cos(angle)), convert(np.sin(angle))

    def forward(self, tokens: npt.ArrayLike, *, trace: bool = False) -> ForwardResult:
        """Logits of every position.

        Parameters
        ----------
        tokens : array of int, shape (S,) or (B, S)
            Token numbers; a single sequence is treated as a batch of one.
        trace : bool
            Also return what every layer computed.

        Raises
        ------
        A3dError
            When a sequence is empty or longer than `max_position_embeddings`, or a token is out of range.
        """
        ids = np.atleast_2d(np.asarray(tokens, dtype=np.int64))
        c = self.config
        length = ids.shape[1]
        if ids.ndim != 2 or not 1 <= length <= c.max_position_embeddings:
            raise A3dError(
                f"tokens: shape {ids.shape}, expected 1 to {c.max_position_embeddings} tokens a sequence "
                "(max_position_embeddings); use shorter windows"
            )
        if ids.size and not (0 <= ids.min() and ids.max() < c.vocab_size):
            raise A3dError(f"tokens: values {ids.min()} to {ids.max()}, expected 0 to {c.vocab_size - 1} (vocab_size)")
        x = self.embed[ids]
        traces: list[LayerTrace] = []
        for layer in self.layers:
            result = self._layer(x, layer)
            x = result.hidden_out
            if trace:
                traces.append(result)
        return ForwardResult(logits=rms_norm(x, self.norm, c.rms_norm_eps) @ self.lm_head.T, layers=tuple(traces))

    def _heads(self, x: Array, count: int) -> Array:
        """(B, S, count * head_dim) to (B, count, S, head_dim)."""
        return x.reshape(*x.shape[:2], count, self.config.head_dim).transpose(0, 2, 1, 3)

    def _attention(self, x: Array, w: LayerWeights) -> tuple[Array, Array, Array, Array, Array]:
        """Query, key, value, context and output of grouped-query causal attention."""
        c, (batch, length, _) = self.config, x.shape
        cos, sin = self._cos[:length], self._sin[:length]
        query = rotate(self._heads(x @ w.q_proj.T, c.num_attention_heads), cos, sin)
        key = rotate(self._heads(x @ w.k_proj.T, c.num_key_value_heads), cos, sin)
        value = self._heads(x @ w.v_proj.T, c.num_key_value_heads)
        # query head h uses key/value head h // group: add an axis for the heads of a group
        grouped = query.reshape(batch, c.num_key_value_heads, -1, length, c.head_dim)
        scores = grouped @ key[:, :, None].swapaxes(-1, -2) * np.asarray(c.head_dim**-0.5, self.dtype)
        scores = np.where(np.tri(length, dtype=bool), scores, np.asarray(-np.inf, self.dtype))
        context = (softmax(scores) @ value[:, :, None]).reshape(batch, c.num_attention_heads, length, c.head_dim)
        flat = context.transpose(0, 2, 1, 3).reshape(batch, length, -1)
        return query, key, value, flat, flat @ w.o_proj.T

    def _layer(self, x: Array, w: LayerWeights) -> LayerTrace:
        c = self.config
        attention_input = rms_norm(x, w.input_norm, c.rms_norm_eps)
        query, key, value, context, attention_output = self._attention(attention_input, w)
        middle = x + attention_output
        moe_input = rms_norm(middle, w.post_attention_norm, c.rms_norm_eps)
        logits = moe_input @ w.router.T
        probs = softmax(logits)
        index = np.argsort(-probs, axis=-1, kind="stable")[..., : c.num_experts_per_tok]
        weight = np.take_along_axis(probs, index, axis=-1)
        weight = weight / weight.sum(axis=-1, keepdims=True)
        gate = np.empty((*index.shape, c.intermediate_size), self.dtype)
        up, hidden = np.empty_like(gate), np.empty_like(gate)
        moe_output = np.zeros_like(x)
        for expert in range(c.num_local_experts):
            b, s, slot = np.nonzero(index == expert)
            if b.size:
                tokens = moe_input[b, s]
                g, u = tokens @ w.w1[expert].T, tokens @ w.w3[expert].T
                h = silu(g) * u
                gate[b, s, slot], up[b, s, slot], hidden[b, s, slot] = g, u, h
                moe_output[b, s] += weight[b, s, slot][:, None] * (h @ w.w2[expert].T)
        return LayerTrace(
            hidden_in=x,
            attention_input=attention_input,
            query=query,
            key=key,
            value=value,
            context=context,
            attention_output=attention_output,
            moe_input=moe_input,
            router_logits=logits,
            router_probs=probs,
            expert_index=index,
            expert_weight=weight,
            expert_gate=gate,
            expert_up=up,
            expert_hidden=hidden,
            moe_output=moe_output,
            hidden_out=middle + moe_output,
        )


def _windows(data: bytes, window: int) -> tuple[IntArray, IntArray]:
    """Inputs and next-byte targets of `data` in windows of `window` bytes, each (windows, window)."""
    array = np.frombuffer(data, dtype=np.uint8).astype(np.int64)
    count = (len(array) - 1) // window
    if window < 1 or count < 1:
        raise A3dError(f"window: {window} bytes, expected 1 to {max(len(array) - 1, 1)} for {len(array)} bytes of text")
    end = count * window
    return array[:end].reshape(count, window), array[1 : end + 1].reshape(count, window)


def byte_losses(logits: Array, targets: IntArray) -> Array:
    """Bits that `logits` (..., vocab) need to code `targets` (...): ``-log2 softmax(logits)[target]``."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    chosen = np.take_along_axis(shifted, targets[..., None], axis=-1)[..., 0]
    losses: Array = (np.log(np.exp(shifted).sum(axis=-1)) - chosen) / math.log(2)
    return losses


def bits_per_byte(model: FloatModel, data: bytes, *, window: int = 256, batch: int = 8) -> float:
    """Mean bits per byte on `data`.

    The text is cut into windows that do not overlap; each is predicted from its own earlier bytes only, so the
    first bytes of each window count with little context. Up to `window` bytes at the end are left out.

    Parameters
    ----------
    data : bytes
        Text, at least `window` + 1 bytes.
    window : int
        Bytes per window, at most `max_position_embeddings`.
    batch : int
        Windows computed at a time.
    """
    inputs, targets = _windows(data, window)
    total = sum(
        float(byte_losses(model.forward(inputs[i : i + batch]).logits, targets[i : i + batch]).sum())
        for i in range(0, len(inputs), batch)
    )
    return total / inputs.size


def expert_usage(model: FloatModel, data: bytes, *, window: int = 256, batch: int = 8) -> IntArray:
    """How often each expert is chosen on `data`: counts, shape (layers, experts); windows as in `bits_per_byte`."""
    inputs, _ = _windows(data, window)
    c = model.config
    counts = np.zeros((c.num_hidden_layers, c.num_local_experts), dtype=np.int64)
    for i in range(0, len(inputs), batch):
        for number, layer in enumerate(model.forward(inputs[i : i + batch], trace=True).layers):
            counts[number] += np.bincount(layer.expert_index.ravel(), minlength=c.num_local_experts)
    return counts


def generate(
    model: FloatModel, prompt: bytes, *, length: int, temperature: float = 0.7, seed: int = 0, context: int = 256
) -> bytes:
    """Continue `prompt` by `length` bytes.

    Parameters
    ----------
    temperature : float
        Divides the logits; 0 takes the most probable byte.
    seed : int
        Of the random choice.
    context : int
        Bytes of context that each byte is predicted from.
    """
    rng = np.random.default_rng(seed)
    text = list(prompt)
    for _ in range(length):
        logits = model.forward(np.array(text[-context:])).logits[0, -1].astype(np.float64)
        text.append(
            int(logits.argmax()) if temperature == 0 else int(rng.choice(len(logits), p=softmax(logits / temperature)))
        )
    return bytes(text[len(prompt) :])
