# SPDX-License-Identifier: Apache-2.0
"""Lowers a layer of experts alone, with its batch and routing, to a program: the path of a model, with less on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hdl.config import INSTRUCTION_BYTES, MachineConfig
from hdl.isa import Instruction, Opcode
from hdl.isa.asm import to_binary
from scheduler.cost.model import simulate
from scheduler.memory.experts import ExpertContents
from scheduler.memory.layer import LayerMemory
from scheduler.memory.placement import Placement
from scheduler.models.constants import Constants, ExpertConstants, placeholders
from scheduler.models.description import Experts
from scheduler.models.quantise import QuantisedLayer
from scheduler.ops.batch import Routing
from scheduler.plan.layer import LayerPlan, Way, experts_alone, plan_layer
from scheduler.plan.limits import LoweringError
from scheduler.plan.tiling import Tiling
from scheduler.stream.emit.emitter import carriers
from scheduler.stream.emit.layer import emit_layer
from scheduler.stream.emit.work import Work
from scheduler.stream.program import OutputRegion, Program
from scheduler.stream.synchronise import synchronise

__all__ = ["LayerOptions", "lower_layer"]


@dataclass(frozen=True)
class LayerOptions:
    """Choices of the lowering.

    Attributes
    ----------
    placement : Placement
        Which group holds the high planes.
    way : Way, optional
        How experts use the tiers; default: what takes fewer cycles by the cycle model.
    high_only : collection of int
        Experts that run on their high nibbles only, for half the bytes.
    """

    placement: Placement = Placement.EVEN_ODD
    way: Way | None = None
    high_only: Collection[int] = ()


@dataclass(frozen=True, eq=False)
class _Lowered:
    """The layer lowered one way."""

    plan: LayerPlan
    memory: LayerMemory
    parts: Sequence[tuple[int, int]]
    queues: list[list[int]]
    instructions: tuple[Instruction, ...]
    cycles: int


def lower_layer(
    config: MachineConfig,
    layer: QuantisedLayer,
    x: npt.NDArray[np.int8],
    experts: npt.NDArray[np.integer],
    gates: npt.NDArray[np.uint16],
    options: LayerOptions | None = None,
) -> Program:
    """Return the program that computes a layer of experts for a batch.

    Parameters
    ----------
    config : MachineConfig
        The machine; also one with ``stationary_feed = "edge"``.
    layer : QuantisedLayer
        All experts; those without tokens cost memory only.
    x : int8 array [tokens, hidden]
        Input.
    experts : int array [tokens, k]
        Chosen experts of each token; one that is named twice counts twice.
    gates : uint16 array [tokens, k]
        Their gate scores, Q15.
    options : LayerOptions, optional
        Choices.

    Raises
    ------
    LoweringError
        Shapes that do not fit each other, an expert number outside the layer, a layer that the machine cannot run.
    ImageError
        Memory is too small.
    SyncError
        The machine has too few semaphores.
    """
    chosen, choices = np.asarray(experts, dtype=np.int64), options or LayerOptions()
    _check(layer, x, chosen, gates)
    routing = Routing(chosen, np.asarray(gates, dtype=np.uint16))
    expert = layer.experts[0]
    mlp = Experts(count=len(layer.experts), chosen=chosen.shape[1], intermediate=expert.gate.shape[0])
    tiling = Tiling(config, experts_alone(layer.hidden, mlp))
    ways = [choices.way] if choices.way else [Way.ALONE]
    if choices.way is None and config.tiers > 1 and config.vertical_links:
        ways.append(Way.GANG)
    found, reason = [], None
    for way in ways:
        try:
            found.append(_lower(tiling, layer, x, routing, choices, way))
        except LoweringError as error:
            reason = reason or error
    if not found:
        assert reason is not None
        raise reason
    return _program(min(found, key=lambda one: one.cycles), layer, x, routing, choices)


def _check(
    layer: QuantisedLayer, x: npt.NDArray[np.int8], experts: npt.NDArray[np.int64], gates: npt.NDArray[np.uint16]
) -> None:
    if x.ndim != 2 or x.shape[1] != layer.hidden or x.shape[0] < 1 or x.dtype != np.int8:
        raise LoweringError(f"x: {x.dtype} of shape {x.shape}; the layer takes int8 [1 or more tokens, {layer.hidden}]")
    if experts.ndim != 2 or experts.shape[0] != x.shape[0] or experts.shape != gates.shape or not experts.shape[1]:
        raise LoweringError(
            f"experts {experts.shape} and gates {gates.shape}: both must be [{x.shape[0]} tokens, 1 or more]"
        )
    if experts.min() < 0 or experts.max() >= len(layer.experts):
        raise LoweringError(f"experts: {experts.min()} to {experts.max()}; the layer has 0 to {len(layer.experts) - 1}")


def _parts(tokens: int, most: int) -> list[tuple[int, int]]:
    return [(first, min(most, tokens - first)) for first in range(0, tokens, most)]


def _lower(
    tiling: Tiling, layer: QuantisedLayer, x: npt.NDArray[np.int8], routing: Routing, options: LayerOptions, way: Way
) -> _Lowered:
    tokens, config = len(x), tiling.config

    def lists_fit(most: int) -> bool:
        counts = [int(np.bincount(routing.experts[f : f + n].ravel()).max()) for f, n in _parts(tokens, most)]
        return max(counts) <= config.list_depth

    plan = plan_layer(tiling, tokens, way, lists_fit)
    parts = _parts(tokens, plan.tokens)
    memory = LayerMemory(plan.places.residence, ExpertContents(config, [layer]), x, parts, options.placement)
    work = Work(_constants(tiling, layer), memory, plan.places)
    own = [Routing(routing.experts[f : f + n], routing.gates[f : f + n]) for f, n in parts]
    queues = emit_layer(work, memory, plan, own, options.high_only)
    table, _ = synchronise(work.emitter.stream, config, memory.build(), carriers(config))
    instructions = (*table.instructions(), Instruction(Opcode.END, {}))
    room = INSTRUCTION_BYTES * len(instructions)  # the stream is the last thing in memory
    return _Lowered(plan, memory, parts, queues, instructions, simulate(config, instructions, fetch_room=room).cycles)


def _constants(tiling: Tiling, layer: QuantisedLayer) -> Constants:
    """Return the constants of the experts; there is nothing else that would take any."""
    constants = placeholders(tiling.model)
    own = tuple(ExpertConstants(e.up_shift, e.post_mult, e.post_shift, e.down_shift) for e in layer.experts)
    return dataclasses.replace(constants, layers=(dataclasses.replace(constants.layers[0], experts=own),))


def _program(
    lowered: _Lowered, layer: QuantisedLayer, x: npt.NDArray[np.int8], routing: Routing, options: LayerOptions
) -> Program:
    memory, plan = lowered.memory, lowered.plan
    tiling = plan.places.tiling
    row_bytes = tiling.hidden_rows * tiling.config.columns * 2
    stream = memory.add_stream(to_binary(lowered.instructions))
    counts = {int(e): int(n) for e, n in zip(*np.unique(routing.experts, return_counts=True), strict=True)}
    return Program(
        config=tiling.config, instructions=lowered.instructions, images=memory.build(), symbols=memory.symbols,
        outputs=tuple(
            OutputRegion(symbol.group, symbol.address, first, count, row_bytes, layer.hidden)
            for symbol, (first, count) in zip(memory.outputs, lowered.parts, strict=True)
        ),
        window=memory.window, stream_base=stream.address,
        meta={
            "kind": "moe_layer", "hidden": layer.hidden, "intermediate": layer.intermediate, "tokens": len(x),
            "experts": len(layer.experts), "active_experts": {str(e): n for e, n in counts.items()},
            "high_only": sorted(int(e) for e in options.high_only if e in counts),
            "placement": options.placement.value,
            "gang": "alone" if plan.way == Way.ALONE else f"n{tiling.config.tiers}", "queues": lowered.queues,
            "parts": len(lowered.parts), "part_tokens": plan.tokens, "chunk_tokens": plan.places.chunk,
            "whole_experts": plan.whole, "instructions": len(lowered.instructions),
            "estimated_cycles": lowered.cycles,
        },
    )  # fmt: skip
