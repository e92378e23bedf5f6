# SPDX-License-Identifier: Apache-2.0
"""Calibration of the integer language model: runs the float model on text and chooses static ranges.

What is held in 16 bits or more gets the largest magnitude seen. An int8 range is clipped where that makes the error
smallest: the squared error of each channel counts as much as the next matrix weighs the channel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import chain

import numpy as np
import numpy.typing as npt

from hdl.errors import A3dError
from hdl.numerics import WEIGHT_MAX
from scheduler.models.checkpoint import Checkpoint, LayerWeights
from scheduler.models.description import GroupedAttention, QkNorm
from scheduler.models.fixed_point import INT8_MAX
from scheduler.models.float_model import FloatModel, LayerTrace, rms_norm
from scheduler.models.moments import expert_moments
from scheduler.models.quantise import ExpertRanges
from scheduler.models.quantise_language import (
    DEFAULT_KEY_BLOCK,
    HeadRanges,
    LayerRanges,
    ModelRanges,
    quantise_language_model,
)
from scheduler.models.quantised_model import QuantisedModel

__all__ = ["best_range", "calibrate", "quantise_checkpoint", "split_text"]

Float = npt.NDArray[np.floating]
Int = npt.NDArray[np.int64]

_CLIPS = np.arange(1.0, 0.19, -0.05)
"""Fractions of the largest magnitude that are tried as ranges."""

_MOST_SAMPLES = 1 << 19
"""About as many values are enough to find the best clip."""

_BATCH = 16
"""Sequences that the float model runs at a time."""


def best_range(samples: Float, weight: Float | None = None, *, clip: bool = True) -> float:
    """Return the magnitude for which int8's 127 should stand.

    Parameters
    ----------
    samples : array [..., channels]
        Values seen.
    weight : array [channels], optional
        How much each channel's squared error counts; default: all the same.
    clip : bool
        False: the largest magnitude seen, whatever the error.
    """
    values = samples.reshape(-1, samples.shape[-1])
    largest = float(np.abs(values).max(initial=0.0))
    if not clip or largest == 0:
        return _few_bits(largest)
    values = values[:: max(1, values.size // _MOST_SAMPLES)]
    errors = []
    for fraction in _CLIPS:
        scale = largest * fraction / INT8_MAX
        rounded = np.clip(np.rint(values / scale), -INT8_MAX - 1, INT8_MAX) * scale
        squared = np.square(values - rounded, dtype=np.float64).sum(axis=0)
        errors.append(float(squared.sum() if weight is None else squared @ weight))
    return _few_bits(float(largest * _CLIPS[int(np.argmin(errors))]))


def _largest(*arrays: Float) -> float:
    return _few_bits(max(float(np.abs(array).max(initial=0.0)) for array in arrays))


def _few_bits(value: float) -> float:
    """Round a range up to 12 bits.

    The last bits of what the float model computes depend on the library under NumPy and on its number of threads; the
    integer model, and with it every figure that is measured on it, must not.
    """
    mantissa, exponent = math.frexp(value)
    return math.ldexp(math.ceil(mantissa * (1 << 12)), exponent - 12)


def _columns(*matrices: Iterable[Float]) -> npt.NDArray[np.float64]:
    """Return how much matrices (outputs, inputs), or stacks of them, weigh each input channel."""
    energy: npt.NDArray[np.float64] | None = None
    for stack in matrices:
        for matrix in stack:
            rows = np.square(matrix.astype(np.float64))
            energy = (rows if energy is None else np.concatenate([energy[None], rows])).sum(axis=0)
    assert energy is not None
    return energy


def calibrate(checkpoint: Checkpoint, tokens: npt.ArrayLike, *, clip: bool = True) -> ModelRanges:
    """Return the ranges that a model shows on some sequences.

    Parameters
    ----------
    checkpoint : Checkpoint
        The model.
    tokens : int array [sequences, length]
        Calibration text.
    clip : bool
        Clip int8 ranges where it lowers the error.

    Raises
    ------
    A3dError
        No tokens, tokens that the model does not have, or numbers beyond float32.
    """
    try:
        with np.errstate(over="raise", invalid="raise", divide="raise"):
            return _calibrate(checkpoint, tokens, clip)
    except FloatingPointError as error:
        raise A3dError(
            f"calibration: the model's numbers exceed float32 on this text ({error}); its weights are too large, or "
            "config.json is of another model"
        ) from error


def _calibrate(checkpoint: Checkpoint, tokens: npt.ArrayLike, clip: bool) -> ModelRanges:
    model = FloatModel(checkpoint)
    ids = np.atleast_2d(np.asarray(tokens, dtype=np.int64))
    if not ids.size:
        raise A3dError("calibration: no tokens; give at least one sequence")
    residuals = [model.embedded(ids[i : i + _BATCH]) for i in range(0, len(ids), _BATCH)]
    layers: list[LayerRanges] = []
    residual = _largest(model.embed)
    for number in range(len(model.layers)):  # layer by layer: its weights and traces are dropped before the next
        traces = [model.run_layer(x, number) for x in residuals]
        residuals = [trace.hidden_out for trace in traces]
        own, largest = _layer(model, number, traces, clip)
        layers.append(own)
        residual = max(residual, largest)
    last = np.concatenate(residuals)
    normed = rms_norm(last, np.ones_like(model.norm), model.description.norm_eps)
    return ModelRanges(
        residual=residual,
        layers=tuple(layers),
        final_in=_largest(last),
        final_norm=best_range(normed, _columns([model.lm_head * model.norm]), clip=clip),
        logits=_largest(*(model.logits(x) for x in residuals)),
    )


def _layer(model: FloatModel, number: int, traces: list[LayerTrace], clip: bool) -> tuple[LayerRanges, float]:
    """Return a layer's ranges and the largest magnitude on its residual."""
    w, attention, eps = model.layers[number], model.description.attention, model.description.norm_eps

    def seen(name: str) -> Float:
        array: Float = np.concatenate([getattr(trace, name) for trace in traces])
        return array

    before, added, after = seen("hidden_in"), seen("attention_output"), seen("hidden_out")
    middle = before + added
    ones = np.ones(model.description.hidden, dtype=model.dtype)
    experts, common, largest_y = _expert_ranges(w, seen, clip)
    router = [w.router * w.post_attention_norm] if len(w.w1) else []
    ups = chain(w.w1, w.w3) if w.common is None else chain((w.common.gate, w.common.up))
    found = LayerRanges(
        attention_in=_largest(before),
        attention_norm=best_range(
            rms_norm(before, ones, eps), _columns(m * w.input_norm for m in (w.q_proj, w.k_proj, w.v_proj)), clip=clip
        ),
        projected=(_largest(seen("query_rows")), _largest(seen("key_rows"))),
        heads=_head_ranges(attention, w, seen, clip),
        expert_in=_largest(middle),
        expert_norm=best_range(
            rms_norm(middle, ones, eps), _columns(router, (m * w.post_attention_norm for m in ups)), clip=clip
        ),
        experts=experts,
        common=common,
        shares=_shares(seen("expert_index"), len(w.w2)),
    )
    return found, max(_largest(before, middle, after, added), largest_y)


def _head_ranges(
    attention: GroupedAttention, w: LayerWeights, seen: Callable[[str], Float], clip: bool
) -> tuple[HeadRanges, ...]:
    """Return the ranges of every key/value head; heads that share a norm's weights share the ranges of q and k."""
    heads = attention.kv_heads
    query, key, value = seen("query"), seen("key"), seen("value")
    query = query.reshape(len(query), heads, -1, attention.head_dim)
    context = seen("context").reshape(len(key), -1, heads, attention.heads // heads * attention.head_dim)
    o_columns = _columns([w.o_proj]).reshape(heads, -1)
    shared = attention.qk_norm == QkNorm.HEAD
    of_all = [best_range(query, clip=clip), best_range(key, clip=clip)] if shared else []
    return tuple(
        HeadRanges(
            query=of_all[0] if shared else best_range(query[:, head], clip=clip),
            key=of_all[1] if shared else best_range(key[:, head], clip=clip),
            value=best_range(value[:, head], clip=clip),
            context=best_range(context[:, :, head], o_columns[head], clip=clip),
        )
        for head in range(heads)
    )


def _shares(index: Float, experts: int) -> tuple[float, ...]:
    """Return the part of the choices that each expert had; none had no part at all."""
    counts = 1.0 + np.bincount(index.astype(np.int64).ravel(), minlength=experts)
    return tuple((counts / counts.sum()).tolist()) if experts else ()


def _expert_ranges(
    w: LayerWeights, seen: Callable[[str], Float], clip: bool
) -> tuple[tuple[ExpertRanges, ...], ExpertRanges | None, float]:
    """Return the ranges of every expert and of the MLP of every token, and the largest magnitude of their outputs."""
    index, hidden, up = seen("expert_index"), seen("expert_hidden"), seen("expert_up")
    experts, largest = [], 0.0

    def ranges(up: Float, h: Float, down: Float) -> ExpertRanges:
        nonlocal largest
        largest = max(largest, _largest(h @ down.T))
        return ExpertRanges(_largest(up), best_range(h, _columns([down]), clip=clip), 0.0)

    for expert in range(len(w.w2)):
        chosen = index == expert
        experts.append(ranges(up[chosen], hidden[chosen], w.w2[expert]))
    common = None if w.common is None else ranges(seen("common_up"), seen("common_hidden"), w.common.down)
    return tuple(experts), common, largest


def quantise_checkpoint(
    checkpoint: Checkpoint,
    tokens: npt.ArrayLike,
    *,
    clip: bool = True,
    headroom: float = 1.5,
    key_block: int = DEFAULT_KEY_BLOCK,
    resident: bool = True,
    reach: int | None = None,
    levels: int = WEIGHT_MAX,
) -> QuantisedModel:
    """Calibrate on `tokens` [sequences, length] and quantise; the other parameters as in the functions that do it.

    With `reach` (`DEFAULT_REACH` of ``scheduler.models.planes`` is a good one) the experts' integers are chosen with
    error compensation, for both planes and for the high one alone; this takes a second pass over the text.
    """
    ranges = calibrate(checkpoint, tokens, clip=clip)
    moments = None if reach is None else expert_moments(checkpoint, tokens, ranges)
    return quantise_language_model(
        checkpoint, ranges, headroom=headroom, key_block=key_block, resident=resident, moments=moments, reach=reach,
        levels=levels,
    )  # fmt: skip


def split_text(text: bytes, *, window: int = 256, calibration: int = 32, evaluation: int = 64) -> tuple[Int, Int]:
    """Cut a text into windows and take some to calibrate, others to evaluate, both spread over the whole text.

    Parameters
    ----------
    text : bytes
        Text of a byte-level model.
    window : int
        Bytes of a sequence.
    calibration, evaluation : int
        Sequences of each kind; no window is of both.

    Returns
    -------
    calibration : int array [calibration, window]
        Tokens.
    evaluation : int array [evaluation, window + 1]
        Tokens, with the one after the window, which is predicted last.

    Raises
    ------
    A3dError
        The text is too short.
    """
    array = np.frombuffer(text, dtype=np.uint8).astype(np.int64)
    count = (array.size - 1) // window if window >= 1 else 0
    if min(calibration, evaluation) < 1 or calibration + evaluation > count:
        raise A3dError(
            f"text: {array.size} bytes hold {count} windows of {window} bytes, {calibration} to calibrate and "
            f"{evaluation} to evaluate are asked for (at least 1 each); ask for fewer or use a longer text"
        )
    first = np.arange(calibration) * count // calibration
    rest = np.setdiff1d(np.arange(count), first)
    second = rest[np.arange(evaluation) * rest.size // evaluation]
    return array[first[:, None] * window + np.arange(window)], array[second[:, None] * window + np.arange(window + 1)]
