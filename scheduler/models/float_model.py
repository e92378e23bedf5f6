# SPDX-License-Identifier: Apache-2.0
"""The float model: a forward pass in NumPy, the reference that integer models are measured against.

It follows Hugging Face ``MixtralForCausalLM`` and its relatives: RMSNorm, rotary embeddings that pair element i with
i + head_dim/2, grouped-query causal attention with or without QK-norm, a softmax over all router logits of which the
top k are kept and, in some families, renormalised, and SwiGLU experts ``w2 @ (silu(w1 @ x) * (w3 @ x))``. Equal router
probabilities go to the lower expert number, as in the hardware. The whole sequence is computed at once; there is no
key-value cache. Matrices that lie in files are read layer by layer.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from hdl.errors import A3dError
from scheduler.models.checkpoint import Checkpoint, LayerWeights
from scheduler.models.description import Experts, QkNorm

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
    query_rows, key_rows : ndarray, shape (B, S, heads * head_dim) and (B, S, kv_heads * head_dim)
        As they are projected: before QK-norm and RoPE.
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
        Without experts in a dense layer, as all that follows.
    expert_index : ndarray of int64, shape (B, S, k)
        Chosen experts, the most probable first.
    expert_weight : ndarray, shape (B, S, k)
        Their probabilities, renormalised (each token's sum is 1) or not.
    expert_gate, expert_up, expert_hidden : ndarray, shape (B, S, k, intermediate)
        ``w1 @ x``, ``w3 @ x`` and ``silu(gate) * up`` of each chosen expert.
    common_up, common_hidden : ndarray, shape (B, S, intermediate), or None
        The same of the MLP that every token uses.
    moe_output : ndarray, shape (B, S, hidden)
        Weighted sum of the experts, or the MLP's output, before the residual add.
    hidden_out : ndarray, shape (B, S, hidden)
        Residual stream as it leaves the layer.
    """

    hidden_in: Array
    attention_input: Array
    query_rows: Array
    key_rows: Array
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
    common_up: Array | None
    common_hidden: Array | None
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
    """A model in NumPy.

    Parameters
    ----------
    checkpoint : Checkpoint
        Weights.
    dtype : {numpy.float32, numpy.float64}
        Type of all arithmetic. The rotary angles are computed in float64 and rounded to it.
    """

    def __init__(self, checkpoint: Checkpoint, *, dtype: type[np.floating] = np.float32) -> None:
        self.description = checkpoint.description
        self.dtype = np.dtype(dtype)
        self.layers = checkpoint.layers
        self.norm = self._convert(checkpoint.norm)
        self._checkpoint = checkpoint
        model, head_dim = self.description, self.description.attention.head_dim
        inverse = model.rope_theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
        angle = np.outer(np.arange(model.context), inverse)
        self._cos, self._sin = self._convert(np.cos(angle)), self._convert(np.sin(angle))

    def _convert(self, array: Array) -> Array:
        return array.astype(self.dtype, copy=False)

    @property
    def embed(self) -> Array:
        """Embeddings [vocabulary, hidden]."""
        return self._convert(self._checkpoint.embed)

    @property
    def lm_head(self) -> Array:
        """The head's matrix [vocabulary, hidden]."""
        return self._convert(self._checkpoint.lm_head)

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
        x = self.embedded(tokens)
        traces: list[LayerTrace] = []
        for number in range(len(self.layers)):
            result = self.run_layer(x, number)
            x = result.hidden_out
            if trace:
                traces.append(result)
        return ForwardResult(logits=self.logits(x), layers=tuple(traces))

    def embedded(self, tokens: npt.ArrayLike) -> Array:
        """Return the residual (B, S, hidden) of tokens before the first layer; as `forward`."""
        ids = np.atleast_2d(np.asarray(tokens, dtype=np.int64))
        model = self.description
        length = ids.shape[1]
        if ids.ndim != 2 or not 1 <= length <= model.context:
            raise A3dError(
                f"tokens: shape {ids.shape}, expected 1 to {model.context} tokens a sequence "
                "(max_position_embeddings); use shorter windows"
            )
        if ids.size and not (0 <= ids.min() and ids.max() < model.vocabulary):
            raise A3dError(
                f"tokens: values {ids.min()} to {ids.max()}, expected 0 to {model.vocabulary - 1} (vocab_size)"
            )
        return self.embed[ids]

    def logits(self, x: Array) -> Array:
        """Return the logits (B, S, vocabulary) of the residual after the last layer."""
        normed = rms_norm(x, self.norm, self.description.norm_eps)
        logits: Array = normed @ self.lm_head.T
        return logits

    def _heads(self, x: Array) -> Array:
        """(B, S, count * head_dim) to (B, count, S, head_dim)."""
        return x.reshape(*x.shape[:2], -1, self.description.attention.head_dim).transpose(0, 2, 1, 3)

    def _normed(self, rows: Array, scale: Array | None) -> Array:
        """Queries or keys (B, S, count * head_dim) as heads, after QK-norm where there is one."""
        if scale is None:
            return self._heads(rows)
        scale, eps = self._convert(scale), self.description.norm_eps
        if self.description.attention.qk_norm == QkNorm.HEAD:
            return rms_norm(self._heads(rows), scale, eps)
        return self._heads(rms_norm(rows, scale, eps))

    def _attention(self, x: Array, w: LayerWeights) -> dict[str, Any]:
        """What grouped-query causal attention makes, by the names of a `LayerTrace`."""
        a, (batch, length, _) = self.description.attention, x.shape
        cos, sin = self._cos[:length], self._sin[:length]
        query_rows, key_rows = x @ self._convert(w.q_proj).T, x @ self._convert(w.k_proj).T
        query = rotate(self._normed(query_rows, w.q_norm), cos, sin)
        key = rotate(self._normed(key_rows, w.k_norm), cos, sin)
        value = self._heads(x @ self._convert(w.v_proj).T)
        # query head h uses key/value head h // group: add an axis for the heads of a group
        grouped = query.reshape(batch, a.kv_heads, -1, length, a.head_dim)
        scores = grouped @ key[:, :, None].swapaxes(-1, -2) * np.asarray(a.head_dim**-0.5, self.dtype)
        scores = np.where(np.tri(length, dtype=bool), scores, np.asarray(-np.inf, self.dtype))
        context = (softmax(scores) @ value[:, :, None]).reshape(batch, a.heads, length, a.head_dim)
        flat = context.transpose(0, 2, 1, 3).reshape(batch, length, -1)
        return {
            "query_rows": query_rows, "key_rows": key_rows, "query": query, "key": key, "value": value,
            "context": flat, "attention_output": flat @ self._convert(w.o_proj).T,
        }  # fmt: skip

    def run_layer(self, x: Array, number: int) -> LayerTrace:
        """Return what a layer makes of the residual (B, S, hidden)."""
        w, eps = self.layers[number], self.description.norm_eps
        attention_input = rms_norm(x, self._convert(w.input_norm), eps)
        attention = self._attention(attention_input, w)
        middle = x + attention["attention_output"]
        moe_input = rms_norm(middle, self._convert(w.post_attention_norm), eps)
        mlp = self._mlp(moe_input, w, number)
        return LayerTrace(
            hidden_in=x, attention_input=attention_input, **attention, moe_input=moe_input, **mlp,
            hidden_out=middle + mlp["moe_output"],
        )  # fmt: skip

    def _mlp(self, x: Array, w: LayerWeights, number: int) -> dict[str, Any]:
        """What a mixture of experts or a dense MLP makes, by the names of a `LayerTrace`."""
        mlp = self.description.layers[number].mlp
        output = np.zeros_like(x)
        none = np.zeros((*x.shape[:2], 0), self.dtype)
        found: dict[str, Any] = {"router_logits": none, "router_probs": none, "expert_weight": none}
        found |= {"expert_index": none.astype(np.int64), "common_up": None, "common_hidden": None}
        gate = np.empty((*none.shape, 0), self.dtype)
        up, hidden = gate, gate
        if isinstance(mlp, Experts):
            logits = x @ self._convert(w.router).T
            probs = softmax(logits)
            index = np.argsort(-probs, axis=-1, kind="stable")[..., : mlp.chosen]
            weight = np.take_along_axis(probs, index, axis=-1)
            if mlp.router.normalised:
                weight = weight / weight.sum(axis=-1, keepdims=True)
            found |= {"router_logits": logits, "router_probs": probs, "expert_index": index, "expert_weight": weight}
            gate = np.empty((*index.shape, mlp.intermediate), self.dtype)
            up, hidden = np.empty_like(gate), np.empty_like(gate)
            for expert in range(mlp.count):
                b, s, place = np.nonzero(index == expert)
                if b.size:
                    tokens = x[b, s]
                    g, u = tokens @ self._convert(w.w1[expert]).T, tokens @ self._convert(w.w3[expert]).T
                    h = silu(g) * u
                    gate[b, s, place], up[b, s, place], hidden[b, s, place] = g, u, h
                    output[b, s] += weight[b, s, place][:, None] * (h @ self._convert(w.w2[expert]).T)
        if w.common is not None:
            u = x @ self._convert(w.common.up).T
            h = silu(x @ self._convert(w.common.gate).T) * u
            output += h @ self._convert(w.common.down).T
            found |= {"common_up": u, "common_hidden": h}
        return found | {"expert_gate": gate, "expert_up": up, "expert_hidden": hidden, "moe_output": output}


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
    experts = max(layer.mlp.count for layer in model.description.layers if isinstance(layer.mlp, Experts))
    counts = np.zeros((len(model.layers), experts), dtype=np.int64)
    for i in range(0, len(inputs), batch):
        for number, layer in enumerate(model.forward(inputs[i : i + batch], trace=True).layers):
            counts[number] += np.bincount(layer.expert_index.ravel(), minlength=experts)
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
