# SPDX-License-Identifier: Apache-2.0
"""What a layer's router and experts compute, exactly, at the precision that each expert is loaded with."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
import numpy.typing as npt

from hdl.isa import StoreFormat
from hdl.numerics import combine_add, requant, round_shift, saturate, store_convert, swiglu, wrap
from hdl.numerics.precision import ALL_FULL, Precision, Thresholds, precisions
from hdl.numerics.vector import exp2_q15, float_scale, recip
from scheduler.models.fixed_point import (
    GATE_IN_BITS,
    GATE_MULT,
    GATE_RECIP,
    GATE_SHIFT,
    gate_scale_shift,
)
from scheduler.models.planes import high_plane
from scheduler.models.quantise import GATE_BITS, QuantisedExpert, QuantisedLayer
from scheduler.ops.batch import Routing
from sim.golden.integer_attention import (
    product,
    scale_rows,
)

__all__ = ["Decision", "add_experts", "expert_rows", "moe_layer", "route", "threshold_decision"]

Int = npt.NDArray[np.int64]

Decision = Callable[[int, Routing, int], Int]
"""Returns what each choice of each token gets: numbers of `Precision` [tokens, k], from the number of the layer, the
routing of all tokens of the step, and the number of experts. An expert may not be HIGH for one and FULL for another
token where that is to be one machine's step."""


def threshold_decision(thresholds: Sequence[Thresholds | None]) -> Decision:
    """Return how a machine decides: from the sums of the gates of all tokens of the step.

    Parameters
    ----------
    thresholds : sequence [layers] of Thresholds or None
        None: all of that layer's experts are loaded with both planes.
    """

    def decide(layer: int, routing: Routing, experts: int) -> Int:
        found = precisions(routing.experts, routing.gates, experts, thresholds[layer] or ALL_FULL)
        chosen: Int = found[routing.experts]
        return chosen

    return decide


def expert_rows(expert: QuantisedExpert, x: npt.NDArray[np.int8], *, high_only: bool = False) -> Int:
    """Return one expert's int16 rows [tokens, hidden] for int8 activations [tokens, hidden].

    Parameters
    ----------
    expert : QuantisedExpert
        The expert.
    x : int8 array [tokens, hidden]
        Input.
    high_only : bool
        Only the high nibbles of the weights are used, with their own multipliers (a low-score expert's load of half
        the bytes).
    """
    gate, up, down = expert.gate, expert.up, expert.down
    mults = expert.gate_mult, expert.up_mult, expert.down_mult
    if high_only:
        gate, up, down = high_plane(gate), high_plane(up), high_plane(down)
        mults = expert.high_gate_mult, expert.high_up_mult, expert.high_down_mult
    h = swiglu(
        product(x, gate), product(x, up), mults[0], mults[1], expert.up_shift, expert.post_mult, expert.post_shift
    ).astype(np.int8)
    return requant(product(h, down), mults[2], expert.down_shift, 16)


def moe_layer(
    layer: QuantisedLayer,
    x: npt.NDArray[np.int8],
    experts: npt.NDArray[np.integer],
    gates: npt.NDArray[np.uint16],
    *,
    high_only: Collection[int] = (),
) -> npt.NDArray[np.int16]:
    """Return the layer's int16 output [tokens, hidden].

    Parameters
    ----------
    layer : QuantisedLayer
        The experts.
    x : int8 array [tokens, hidden]
        Input.
    experts : int array [tokens, k]
        Chosen experts of each token; an expert named twice counts twice.
    gates : uint16 array [tokens, k]
        Their gate scores, Q15.
    high_only : collection of int
        Experts of which only the high nibbles are used, with their own multipliers.
    """
    combined = np.zeros(x.shape, dtype=np.int64)
    chosen = np.where(np.isin(experts, list(high_only)), Precision.HIGH, Precision.FULL)
    add_experts(combined, layer, x, Routing(experts=np.asarray(experts), gates=gates), chosen)
    return store_convert(wrap(combined, 32), GATE_BITS, StoreFormat.INT16).astype(np.int16)


def add_experts(rows: Int, layer: QuantisedLayer, x: npt.NDArray[np.int8], routing: Routing, chosen: Int) -> None:
    """Add every token's experts, at the precision of each choice, to its row [tokens, hidden], without wrapping."""
    for number, expert in enumerate(layer.experts):
        for precision in (Precision.FULL, Precision.HIGH):
            tokens, slots = np.nonzero((routing.experts == number) & (chosen == precision))
            if tokens.size:
                high = precision == Precision.HIGH
                added = expert_rows(expert, x[tokens], high_only=high)
                gates = routing.gates[tokens, slots][:, None]
                np.add.at(rows, tokens, combine_add(np.zeros_like(added), gates, added))


def route(logits: npt.NDArray[np.integer], chosen: int, *, normalised: bool = True) -> Routing:
    """Return the experts and gates of tokens: ARGMAX `chosen` times, GATHER, MAX, MAP EXP2 with SUM_RECIP, SCALE.

    Parameters
    ----------
    logits : int16 values [tokens, experts]
        Router logits in Q9 of log2 units; of equal ones the lower expert comes first.
    chosen : int
        Experts of a token.
    normalised : bool
        The gates of a token's experts are divided by their sum, else by that of all experts.
    """
    values = np.asarray(logits, dtype=np.int64)
    index = np.argsort(-values, axis=-1, kind="stable")[:, :chosen]
    best = np.take_along_axis(values, index, axis=-1)
    # The first of them is the largest: what MAX finds.
    power, total = (
        saturate(round_shift(exp2_q15(own - best[:, :1]) * GATE_MULT, GATE_SHIFT), GATE_IN_BITS)
        for own in (best, best if normalised else values)
    )
    mantissa, exponent = float_scale(*recip(total.sum(axis=-1)), GATE_RECIP)
    gates = scale_rows(power, mantissa, exponent, gate_scale_shift(GATE_BITS), GATE_IN_BITS)
    return Routing(experts=index, gates=gates.astype(np.uint16))
