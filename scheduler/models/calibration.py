# SPDX-License-Identifier: Apache-2.0
"""Calibration of the integer language model: runs the float model on text and chooses static ranges.

What is held in 16 bits or more gets the largest magnitude seen. An int8 range is clipped where that makes the error
smallest: the squared error of each channel counts as much as the next matrix weighs the channel.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from hdl.errors import A3dError
from scheduler.models.checkpoint import Checkpoint, LayerWeights
from scheduler.models.fixed_point import INT8_MAX
from scheduler.models.float_model import FloatModel, LayerTrace, rms_norm
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


def _columns(*matrices: Float) -> npt.NDArray[np.float64]:
    """Return how much the matrices (..., outputs, inputs) weigh each input channel."""
    rows = np.concatenate([m.reshape(-1, m.shape[-1]) for m in matrices]).astype(np.float64)
    energy: npt.NDArray[np.float64] = np.square(rows).sum(axis=0)
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
    results = [model.forward(ids[i : i + _BATCH], trace=True) for i in range(0, len(ids), _BATCH)]
    layers: list[LayerRanges] = []
    residual = _largest(model.embed)
    for number, weights in enumerate(model.layers):
        traces = [result.layers[number] for result in results]
        own, largest = _layer(model, weights, traces, clip)
        layers.append(own)
        residual = max(residual, largest)
    last = np.concatenate([result.layers[-1].hidden_out for result in results])
    normed = rms_norm(last, np.ones_like(model.norm), model.config.rms_norm_eps)
    return ModelRanges(
        residual=residual,
        layers=tuple(layers),
        final_in=_largest(last),
        final_norm=best_range(normed, _columns(model.lm_head * model.norm), clip=clip),
        logits=_largest(*(result.logits for result in results)),
    )


def _layer(model: FloatModel, w: LayerWeights, traces: list[LayerTrace], clip: bool) -> tuple[LayerRanges, float]:
    """Return a layer's ranges and the largest magnitude on its residual."""
    c = model.config
    heads, d = c.num_key_value_heads, c.head_dim

    def seen(name: str) -> Float:
        array: Float = np.concatenate([getattr(trace, name) for trace in traces])
        return array

    before, attention, after = seen("hidden_in"), seen("attention_output"), seen("hidden_out")
    middle = before + attention
    ones = np.ones(c.hidden_size, dtype=model.dtype)
    query, key, value = seen("query"), seen("key"), seen("value")
    query = query.reshape(len(query), heads, -1, d)
    context = seen("context").reshape(len(key), -1, heads, c.num_attention_heads // heads * d)
    o_columns = _columns(w.o_proj).reshape(heads, -1)
    index, hidden, up = seen("expert_index"), seen("expert_hidden"), seen("expert_up")
    experts, largest_y = [], 0.0
    for expert in range(c.num_local_experts):
        chosen = index == expert
        h = hidden[chosen]
        largest_y = max(largest_y, _largest(h @ w.w2[expert].T))
        experts.append(ExpertRanges(_largest(up[chosen]), best_range(h, _columns(w.w2[expert]), clip=clip), 0.0))
    found = LayerRanges(
        attention_in=_largest(before),
        attention_norm=best_range(
            rms_norm(before, ones, c.rms_norm_eps),
            _columns(*(m * w.input_norm for m in (w.q_proj, w.k_proj, w.v_proj))),
            clip=clip,
        ),
        heads=tuple(
            HeadRanges(
                query=best_range(query[:, head], clip=clip),
                key=best_range(key[:, head], clip=clip),
                value=best_range(value[:, head], clip=clip),
                context=best_range(context[:, :, head], o_columns[head], clip=clip),
            )
            for head in range(heads)
        ),
        expert_in=_largest(middle),
        expert_norm=best_range(
            rms_norm(middle, ones, c.rms_norm_eps),
            _columns(*(m * w.post_attention_norm for m in (w.router, w.w1, w.w3))),
            clip=clip,
        ),
        experts=tuple(experts),
    )
    return found, max(_largest(before, middle, after, attention), largest_y)


def quantise_checkpoint(
    checkpoint: Checkpoint,
    tokens: npt.ArrayLike,
    *,
    clip: bool = True,
    headroom: float = 1.5,
    key_block: int = DEFAULT_KEY_BLOCK,
) -> QuantisedModel:
    """Calibrate on `tokens` [sequences, length] and quantise; the other parameters as in the functions that do it."""
    ranges = calibrate(checkpoint, tokens, clip=clip)
    return quantise_language_model(checkpoint, ranges, headroom=headroom, key_block=key_block)


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
