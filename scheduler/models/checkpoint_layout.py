# SPDX-License-Identifier: Apache-2.0
"""Finds a Mixtral's tensors by the names that they have been given, and compares them with ``config.json``.

Tools name the same weights differently. What comes before ``layers.0.`` differs (``model.``, nothing, the name of a
wrapper); a layer's experts are called ``block_sparse_moe`` or ``mlp``, their matrices ``w1, w2, w3`` or ``gate_proj,
down_proj, up_proj``; transformers 5 keeps the experts of a layer in two tensors, ``experts.gate_up_proj`` of shape
[experts, 2 x intermediate, hidden], gate first, and ``experts.down_proj`` of [experts, hidden, intermediate].

Only headers are looked at here. How many layers and experts there are is compared before anything is listed, so that
a ``config.json`` with a wrong number is answered at once, whatever the number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from hdl.errors import one_line
from scheduler.models.checkpoint_config import ARCHITECTURE, MixtralConfig
from scheduler.models.checkpoint_json import CheckpointError
from scheduler.models.safetensors_file import Tensor

__all__ = ["Layout", "find_layout"]

_EMBED = "embed_tokens.weight"
_HEAD = "lm_head.weight"

_LAYER = re.compile(r"layers\.(0|[1-9][0-9]{0,8})\.(.+)")
_EXPERT = re.compile(r"experts\.(0|[1-9][0-9]{0,8})\.(.+)\.weight")
_MATRICES = {"w1": "w1", "w2": "w2", "w3": "w3", "gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
_FUSED = ("experts.gate_up_proj", "experts.down_proj")
_DENSE = (
    "input_layernorm.weight", "post_attention_layernorm.weight", "self_attn.q_proj.weight", "self_attn.k_proj.weight",
    "self_attn.v_proj.weight", "self_attn.o_proj.weight",
)  # fmt: skip

_EXTRAS = (
    (r"lora_|\.adapter", "the weights of an adapter: merge it into the model"),
    (
        r"scale|zero_?point|qweight|qzeros|g_idx|absmax|quant_|\.SCB$|_packed$|bitsandbytes|codebook",
        "the numbers of a quantisation: dequantise the model and save it again",
    ),
    (r"\.bias$|_bias$", "biases, which a Mixtral does not have: the model is of another architecture"),
    (r"[qk]_norm|norm", "norms that a Mixtral does not have: the model is of another architecture"),
    (r"expert|\.mlp\.(gate|up|down)_proj", "dense or shared experts: the model is of another architecture"),
    (r"score\.weight$|classifier", "a classifier's head: save the language model"),
    (r"rotary|inv_freq", "tables of the rotary embedding of another model"),
)
"""What a tensor that is not expected can be, by its name."""

_NOT_FOUND = (
    f"are not named as those of a {ARCHITECTURE} (model.embed_tokens.weight, model.layers.0.self_attn.q_proj.weight, "
    "...); save the model with transformers' save_pretrained"
)


@dataclass(frozen=True)
class Layout:
    """Where each tensor lies.

    Attributes
    ----------
    tensors : dict of str to Tensor
        By the names of `expected`: ``embed``, ``norm``, ``head``; ``layers.<n>.`` with what the model calls it and
        ``router``, ``w1.<expert>`` and so on, or ``gate_up`` and ``down`` where the experts lie together.
    fused : bool
        Whether a layer's experts lie together.
    """

    tensors: dict[str, Tensor]
    fused: bool


def find_layout(tensors: Iterable[Tensor], config: MixtralConfig, folder: str) -> Layout:
    """Return where the tensors of a model lie.

    Parameters
    ----------
    tensors : iterable of Tensor
        All tensors of all files.
    config : MixtralConfig
        What ``config.json`` says.
    folder : str
        The model's directory, for messages.

    Raises
    ------
    CheckpointError
        Names that are not understood, a tensor too many or too few, or a shape that is not what `config` says.
    """
    found = _by_file_name(tensors)
    prefix = _prefix(found, folder)
    places: dict[str, Tensor] = {}
    extras: list[Tensor] = []
    for name, tensor in found.items():
        place = _place(name, prefix)
        if place is None:
            extras.append(tensor)
        elif place in places:
            raise CheckpointError(
                f"{one_line(tensor.path)}: tensor {one_line(name)} holds what {one_line(places[place].name)} holds "
                "too; save the model again"
            )
        else:
            places[place] = tensor
    fused = any(place.endswith((".gate_up", ".down")) for place in places)
    if extras:
        raise _unexpected(extras)
    _compare_counts(places, config, folder, fused)
    left = dict(places)
    for place, shape, keys in _expected(config, fused):
        own = left.pop(place, None)
        if own is None:
            if place == "head" and config.tie_word_embeddings:
                continue
            remedy = "check config.json, or download or save the weights again"
            if place == "head":
                remedy = "set tie_word_embeddings to true if the model has no head of its own, or download it again"
            raise CheckpointError(
                f"{folder}: tensor {_usual(place, prefix)} is missing, expected shape {shape}; {remedy}"
            )
        if own.shape != shape:
            raise CheckpointError(
                f"{one_line(own.path)}: tensor {one_line(own.name)} has shape {own.shape}, expected {shape}; "
                f"config.json and the weights are of different models (compare {keys})"
            )
        own.check_dtype()
    if left:  # single experts beside those that lie together
        raise _unexpected(list(left.values()))
    return Layout(places, fused)


def _by_file_name(tensors: Iterable[Tensor]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for tensor in tensors:
        if tensor.name.endswith("rotary_emb.inv_freq"):  # old checkpoints store what follows from rope_theta
            continue
        if tensor.name in found:
            raise CheckpointError(
                f"{one_line(tensor.path)}: tensor {one_line(tensor.name)} is in another shard too; save the model again"
            )
        found[tensor.name] = tensor
    return found


def _prefix(names: Iterable[str], folder: str) -> str:
    """Return what comes before the names of the decoder's tensors."""
    names = list(names)
    prefixes = [name[: -len(_EMBED)] for name in names if name == _EMBED or name.endswith("." + _EMBED)]
    if len(prefixes) == 1:
        return prefixes[0]
    if prefixes:
        listed = ", ".join(one_line(p + _EMBED) for p in prefixes[:3])
        raise CheckpointError(f"{folder}: has several embeddings ({listed}); save the language model alone")
    # No embedding: perhaps only that tensor is missing.
    heads = {name[: match.start()] for name in names if (match := re.search(r"layers\.[0-9]+\.self_attn\.", name))}
    if len(heads) == 1:
        return heads.pop()
    listed = ", ".join(one_line(name) for name in names[:3]) or "none"
    raise CheckpointError(f"{folder}: the tensors ({listed}{', ...' if len(names) > 3 else ''}) {_NOT_FOUND}")


def _place(name: str, prefix: str) -> str | None:
    """Return which tensor of the model a file's name means, or None."""
    if name in (_HEAD, prefix + _HEAD, prefix.removesuffix("model.") + _HEAD):
        return "head"
    if not name.startswith(prefix):
        return None
    name = name[len(prefix) :]
    if name in (_EMBED, "norm.weight"):
        return "embed" if name == _EMBED else "norm"
    layer = _LAYER.fullmatch(name)
    if layer is None:
        return None
    start, rest = f"layers.{layer[1]}.", layer[2]
    if rest in _DENSE:
        return start + rest
    block, _, rest = rest.partition(".")
    if block not in ("block_sparse_moe", "mlp"):
        return None
    if rest == "gate.weight":
        return start + "router"
    for whole, short in zip(_FUSED, ("gate_up", "down"), strict=True):
        if rest in (whole, whole + ".weight"):
            return start + short
    expert = _EXPERT.fullmatch(rest)
    return f"{start}{_MATRICES[expert[2]]}.{expert[1]}" if expert is not None and expert[2] in _MATRICES else None


def _usual(place: str, prefix: str) -> str:
    """Return how transformers 4 calls a tensor."""
    names = {"embed": prefix + _EMBED, "norm": prefix + "norm.weight", "head": _HEAD}
    if place in names:
        return one_line(names[place])
    _, layer, rest = place.split(".", 2)
    matrix, _, expert = rest.partition(".")
    if rest == "router":
        rest = "block_sparse_moe.gate.weight"
    elif rest in ("gate_up", "down"):
        rest = f"mlp.{_FUSED[rest == 'down']}"
    elif matrix in ("w1", "w2", "w3"):
        rest = f"block_sparse_moe.experts.{expert}.{matrix}.weight"
    return one_line(f"{prefix}layers.{layer}.{rest}")


def _unexpected(extras: list[Tensor]) -> CheckpointError:
    """Return the error for tensors that have no place."""
    first = extras[0]
    more = f" (nor are {len(extras) - 1} others)" if len(extras) > 1 else ""
    what = "the model is of another architecture"
    for pattern, kind in _EXTRAS:
        if re.search(pattern, first.name):
            what = f"such names are of {kind}"
            break
    return CheckpointError(
        f"{one_line(first.path)}: tensor {one_line(first.name)} is not part of a {ARCHITECTURE}{more}; {what}"
    )


def _compare_counts(places: dict[str, Tensor], config: MixtralConfig, folder: str, fused: bool) -> None:
    """Compare how many layers and experts the files hold with ``config.json``."""
    layers = {int(place.split(".")[1]) for place in places if place.startswith("layers.")}
    experts = {int(place.rpartition(".")[2]) for place in places if re.search(r"\.w[123]\.[0-9]+$", place)}
    counts = [("num_hidden_layers", config.num_hidden_layers, "layers", layers)]
    if not fused:
        counts.append(("num_local_experts", config.num_local_experts, "experts", experts))
    for key, said, what, numbers in counts:
        there = max(numbers, default=-1) + 1  # what is missing before is named as a tensor
        if said != there:
            raise CheckpointError(
                f"{folder}: {key} in config.json is {said}, but the tensor files hold {there} {what}; correct "
                "config.json, or download or save the weights again"
            )


def _expected(config: MixtralConfig, fused: bool) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """Yield (place, shape, the keys of config.json that it follows from) of every tensor."""
    c = config
    hidden, inner, experts = c.hidden_size, c.intermediate_size, c.num_local_experts
    q, kv = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    queries = "num_attention_heads, head_dim, hidden_size"
    keys = "num_key_value_heads, head_dim, hidden_size"
    sizes = "intermediate_size, hidden_size"
    yield "embed", (c.vocab_size, hidden), "vocab_size, hidden_size"
    for number in range(c.num_hidden_layers):
        layer = f"layers.{number}."
        yield layer + "input_layernorm.weight", (hidden,), "hidden_size"
        yield layer + "self_attn.q_proj.weight", (q, hidden), queries
        yield layer + "self_attn.k_proj.weight", (kv, hidden), keys
        yield layer + "self_attn.v_proj.weight", (kv, hidden), keys
        yield layer + "self_attn.o_proj.weight", (hidden, q), queries
        yield layer + "post_attention_layernorm.weight", (hidden,), "hidden_size"
        yield layer + "router", (experts, hidden), "num_local_experts, hidden_size"
        if fused:
            yield layer + "gate_up", (experts, 2 * inner, hidden), f"num_local_experts, {sizes}"
            yield layer + "down", (experts, hidden, inner), f"num_local_experts, {sizes}"
            continue
        for expert in range(experts):
            yield f"{layer}w1.{expert}", (inner, hidden), sizes
            yield f"{layer}w2.{expert}", (hidden, inner), sizes
            yield f"{layer}w3.{expert}", (inner, hidden), sizes
    yield "norm", (hidden,), "hidden_size"
    yield "head", (c.vocab_size, hidden), "vocab_size, hidden_size"
