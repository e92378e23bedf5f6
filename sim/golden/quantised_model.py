# SPDX-License-Identifier: Apache-2.0
"""The float model with its mixture-of-experts layers in the machine's integers: calibration and measurement."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from scheduler.models.checkpoint import LayerWeights
from scheduler.models.float_model import FloatModel, LayerTrace
from scheduler.models.quantise import (
    ExpertRanges,
    ExpertWeights,
    QuantisedLayer,
    quantise_activations,
    quantise_gates,
)
from scheduler.models.quantise_experts import quantise_layer
from sim.golden.integer_experts import moe_layer

__all__ = ["IntegerMoeModel", "quantise_model"]

Float = npt.NDArray[np.floating]


def quantise_model(model: FloatModel, text: bytes, *, window: int = 256, margin: float = 1.0) -> list[QuantisedLayer]:
    """Quantise every mixture-of-experts layer with ranges that the model shows on a text.

    Parameters
    ----------
    model : FloatModel
        The float model.
    text : bytes
        Calibration text, at least `window` bytes; whole windows are used.
    window : int
        Bytes per sequence.
    margin : float
        Factor on every range.
    """
    ids = np.frombuffer(text[: len(text) // window * window], dtype=np.uint8).reshape(-1, window)
    traces = model.forward(ids, trace=True).layers
    return [_quantise(weights, trace, margin) for weights, trace in zip(model.layers, traces, strict=True)]


def _quantise(weights: LayerWeights, trace: LayerTrace, margin: float) -> QuantisedLayer:
    experts, ranges = [], []
    for number in range(weights.w1.shape[0]):
        experts.append(ExpertWeights(gate=weights.w1[number], up=weights.w3[number], down=weights.w2[number]))
        chosen = trace.expert_index == number
        h = trace.expert_hidden[chosen]
        found = (trace.expert_up[chosen], h, h @ weights.w2[number].T)
        ranges.append(ExpertRanges(*(float(np.abs(v).max(initial=0.0)) for v in found)))
    return quantise_layer(experts, float(np.abs(trace.moe_input).max()), ranges, margin)


class IntegerMoeModel(FloatModel):
    """A float model whose experts compute in integers, exactly as the machine does.

    Parameters
    ----------
    model : FloatModel
        Everything but the experts.
    layers : sequence of QuantisedLayer
        The experts of each layer.
    """

    def __init__(self, model: FloatModel, layers: Sequence[QuantisedLayer]) -> None:
        self.__dict__.update(model.__dict__)
        self._quantised = tuple(layers)

    def run_layer(self, x: Float, number: int) -> LayerTrace:
        """Return what a layer makes of the residual (B, S, hidden)."""
        trace = super().run_layer(x, number)
        layer = self._quantised[number]
        flat = trace.moe_input.reshape(-1, trace.moe_input.shape[-1])
        k = trace.expert_index.shape[-1]
        rows = moe_layer(
            layer,
            quantise_activations(flat, layer.x_scale),
            trace.expert_index.reshape(-1, k),
            quantise_gates(trace.expert_weight.reshape(-1, k)),
        )
        output = (rows * layer.y_scale).astype(self.dtype).reshape(trace.moe_output.shape)
        return dataclasses.replace(
            trace, moe_output=output, hidden_out=trace.hidden_in + trace.attention_output + output
        )
