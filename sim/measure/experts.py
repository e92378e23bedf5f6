# SPDX-License-Identifier: Apache-2.0
"""Experts of any shape alone, their weights streamed from memory: the vertical feed beside the edge feed.

The activations, routing and weights are random. Both machines run the same instructions, and every byte of both
memories, every exact counter and the integer model's output are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from hdl.config import MachineConfig
from scheduler.models.description import Experts, GroupedAttention, Layer, Model
from scheduler.models.random_model import random_model
from scheduler.plan.layer import Way
from sim.machine.system import SimulatedMachine
from sim.stimulus.moe_demo import LayerWork, edge_variant, lower_layers, measure_layers, memory_bits, with_control

__all__ = ["draw_works", "measure_experts"]


def draw_works(
    hidden: int, inner: int, tokens: Sequence[int], *, experts: int, chosen: int, seed: int
) -> list[LayerWork]:
    """Return one layer's work for each number of tokens.

    Parameters
    ----------
    hidden, inner : int
        Elements of a token's hidden state, and of an expert's intermediate vector.
    tokens : sequence of int
        Tokens of each work.
    experts, chosen : int
        Experts of the layer, and how many each token goes to.
    seed : int
        Seed that repeats weights, activations and routing.
    """
    rng = np.random.default_rng(seed)
    attention = GroupedAttention(heads=1, kv_heads=1, head_dim=hidden)
    block = Layer(attention=attention, mlp=Experts(count=experts, chosen=chosen, intermediate=inner))
    model = Model(family="mixtral", name="experts", hidden=hidden, vocabulary=2, context=2, layers=(block,))
    layer = random_model(model, seed, resident=True).layers[0].experts
    works = []
    for number, count in enumerate(tokens):
        routing = np.stack([rng.permutation(experts)[:chosen] for _ in range(count)]).astype(np.int64)
        gates = rng.integers(1, (1 << 15) // chosen + 1, routing.shape).astype(np.uint16)
        x = rng.integers(-128, 128, (count, hidden)).astype(np.int8)
        works.append(LayerWork(number, layer, x, routing, gates))
    return works


def measure_experts(
    config: MachineConfig, works: Sequence[LayerWork], *, edge: bool, announce: Callable[[], None]
) -> dict[str, Any]:
    """Run all works on a machine, and with `edge` on its edge-fed control; return the figures as plain data.

    All tiers share each expert's output tiles, so that each tier takes in its share of the weights.

    Parameters
    ----------
    config : MachineConfig
        The machine.
    works : sequence of LayerWork
        From `draw_works`.
    edge : bool
        Run the control too.
    announce : callable
        Called before a simulator is compiled.

    Raises
    ------
    CheckError
        A machine stopped, or a model disagrees with another.
    """
    way = Way.GANG if config.tiers > 1 and config.vertical_links else Way.ALONE
    bits = memory_bits(lower_layers(config, works, way))
    machines = [config, edge_variant(config)] if edge else [config]
    runs = []
    for each in machines:
        machine = SimulatedMachine(each, memory_bits=bits, announce=announce)
        runs.append(measure_layers(machine, works, way))
    reports = with_control(runs[0][0], runs[1][0]) if edge else runs[0][0]
    layer = works[0].layer
    return {
        "config": config.to_dict(),
        "hidden": layer.hidden,
        "intermediate": layer.intermediate,
        "experts": len(layer.experts),
        "chosen": int(works[0].experts.shape[1]),
        "mismatched_bytes": sum(differing for _, differing in runs),
        "points": [asdict(report) for report in reports],
    }
