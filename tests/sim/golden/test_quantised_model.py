# SPDX-License-Identifier: Apache-2.0
"""The demo model with integer experts: close to the float model on text, and equal to what the machine computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hdl.config import PRESETS
from scheduler.models.checkpoint import read_checkpoint
from scheduler.models.float_model import FloatModel, bits_per_byte
from scheduler.models.quantise import QuantisedLayer, quantise_activations, quantise_gates
from scheduler.stream.lower_layer import lower_layer
from scheduler.stream.prove import check
from scheduler.stream.table import Table
from sim.golden.executor import Executor
from sim.golden.integer_experts import moe_layer
from sim.golden.quantised_model import IntegerMoeModel, quantise_model

DEMO = Path(__file__).resolve().parents[3] / "models" / "demo"
WINDOW = 128


@pytest.fixture(scope="module")
def demo() -> tuple[FloatModel, list[QuantisedLayer], bytes]:
    model = FloatModel(read_checkpoint(DEMO))
    text = (DEMO / "heldout.txt").read_bytes()
    return model, quantise_model(model, text[-8 * WINDOW :], window=WINDOW), text


def test_integer_experts_cost_less_than_one_percent(demo: tuple[FloatModel, list[QuantisedLayer], bytes]) -> None:
    model, layers, text = demo
    sample = text[: 4 * WINDOW + 1]
    exact = bits_per_byte(model, sample, window=WINDOW)
    integer = bits_per_byte(IntegerMoeModel(model, layers), sample, window=WINDOW)
    assert integer != exact
    assert abs(integer / exact - 1) < 0.01


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_a_real_layer_on_the_executor(name: str, demo: tuple[FloatModel, list[QuantisedLayer], bytes]) -> None:
    model, layers, text = demo
    config = PRESETS[name]
    trace = model.forward(np.frombuffer(text[:24], dtype=np.uint8), trace=True).layers[1]
    x = quantise_activations(trace.moe_input[0], layers[1].x_scale)
    chosen, gates = trace.expert_index[0], quantise_gates(trace.expert_weight[0])
    program = lower_layer(config, layers[1], x, chosen, gates)
    check(Table.of(program.instructions), config, program.images, program.limits)
    machine = Executor(config, program.images, program.limits, strict=True)
    machine.run(program.stream)
    rows = program.read_output(machine.memory)
    np.testing.assert_array_equal(rows, moe_layer(layers[1], x, chosen, gates))
    error = rows * layers[1].y_scale - trace.moe_output[0]
    assert np.sqrt((error**2).mean()) < 0.05 * trace.moe_output[0].std()
