# SPDX-License-Identifier: Apache-2.0
"""Layers of experts of random integers, and their programs run on the executor and compared with the integer model."""

from __future__ import annotations

import numpy as np

from hdl.config import PRESETS, MachineConfig
from scheduler.models.quantise import QuantisedExpert, QuantisedLayer
from scheduler.stream.lower_layer import LayerOptions, lower_layer
from scheduler.stream.program import Program
from scheduler.stream.prove import check
from scheduler.stream.table import Table
from sim.golden.executor import Executor
from sim.golden.integer_experts import moe_layer

NANO, TINY, SMALL = (PRESETS[name] for name in ("nano", "tiny", "small"))
WIDE = TINY.replace(name="wide", tiers=4, rows=8, columns=4, row_fifo_depth=64)
EDGE = TINY.replace(name="edge", stationary_feed="edge")
FLAT = TINY.replace(name="flat", vertical_links=False)


def random_layer(rng: np.random.Generator, experts: int, hidden: int, intermediate: int) -> QuantisedLayer:
    """Return a layer of random integers whose results use most of their range."""

    def expert() -> QuantisedExpert:
        weights = [rng.integers(-119, 120, s) for s in ((intermediate, hidden), (intermediate, hidden))]
        weights.append(rng.integers(-119, 120, (hidden, intermediate)))
        up_shift = 19 + int(np.log2(hidden)) // 2
        mults = [rng.integers(0, 65536, n).astype(np.uint16) for n in (intermediate, intermediate, hidden)]
        highs = [own[::-1].copy() for own in mults]
        gate, up, down = (w.astype(np.int8) for w in weights)
        shifts = int(rng.integers(26, 34)), 17 + int(np.log2(intermediate)) // 2
        return QuantisedExpert(
            gate=gate, up=up, down=down, gate_mult=mults[0], up_mult=mults[1], up_shift=up_shift,
            post_mult=int(rng.integers(1, 65536)), post_shift=shifts[0], down_mult=mults[2], down_shift=shifts[1],
            high_gate_mult=highs[0], high_up_mult=highs[1], high_down_mult=highs[2],
        )  # fmt: skip

    return QuantisedLayer(tuple(expert() for _ in range(experts)))


def batch(
    rng: np.random.Generator, layer: QuantisedLayer, tokens: int, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return random activations, choices and gates."""
    x = rng.integers(-128, 128, (tokens, layer.hidden)).astype(np.int8)
    chosen = np.stack([rng.permutation(len(layer.experts))[:k] for _ in range(tokens)])
    return x, chosen, rng.integers(0, 16385, chosen.shape).astype(np.uint16)


def run_and_compare(
    config: MachineConfig,
    layer: QuantisedLayer,
    x: np.ndarray,
    chosen: np.ndarray,
    gates: np.ndarray,
    options: LayerOptions | None = None,
) -> Program:
    """Lower a layer, prove its stream, run it, and compare every result; return the program."""
    program = lower_layer(config, layer, x, chosen, gates, options)
    check(Table.of(program.instructions), config, program.images, program.limits)
    machine = Executor(config, program.images, program.limits, strict=True)
    machine.combine[:] = 12345  # what an earlier stream left
    report = machine.run(program.stream)
    assert report.semaphores_left == {}
    high_only = options.high_only if options else ()
    expected = moe_layer(layer, x, chosen, gates, high_only=high_only)
    np.testing.assert_array_equal(program.read_output(machine.memory), expected)
    rows = program.meta["part_tokens"] * program.outputs[0].row_bytes // (2 * config.columns)
    assert not machine.combine[:rows].any()  # the next layer finds the buffer clear
    # Nothing but the output regions was written.
    for group, (before, after) in enumerate(zip(program.images, machine.memory, strict=True)):
        for index in np.flatnonzero(before != after):
            low, high = program.window[group]
            assert low <= index < high
    return program
