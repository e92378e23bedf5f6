# SPDX-License-Identifier: Apache-2.0
"""The integer model: what a quantised mixture-of-experts layer computes, exactly, without knowing instructions.

The executor, running the scheduler's streams, must give the same bits.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from hdl.isa import StoreFormat
from hdl.numerics import combine_add, requant, split_nibbles, store_convert, swiglu, wrap
from scheduler.quantise import GATE_BITS, QuantisedExpert, QuantisedLayer

__all__ = ["expert_rows", "moe_layer"]

Int = npt.NDArray[np.int64]


def _product(x: npt.NDArray[np.int8], weights: npt.NDArray[np.int8]) -> Int:
    # float64 holds these sums exactly, and has a fast matrix product.
    return wrap((x.astype(np.float64) @ weights.T.astype(np.float64)).astype(np.int64), 32)


def _high(weights: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    return (16 * split_nibbles(weights)[0]).astype(np.int8)


def expert_rows(expert: QuantisedExpert, x: npt.NDArray[np.int8], *, high_only: bool = False) -> Int:
    """Return one expert's int16 rows [tokens, hidden] for int8 activations [tokens, hidden].

    Parameters
    ----------
    expert : QuantisedExpert
        The expert.
    x : int8 array [tokens, hidden]
        Input.
    high_only : bool
        Only the high nibbles of the weights are used (a low-score expert's load of half the bytes).
    """
    gate, up, down = expert.gate, expert.up, expert.down
    if high_only:
        gate, up, down = _high(gate), _high(up), _high(down)
    h = swiglu(
        _product(x, gate), _product(x, up), expert.gate_mult, expert.up_mult, expert.up_shift,
        expert.post_mult, expert.post_shift,
    ).astype(np.int8)  # fmt: skip
    return requant(_product(h, down), expert.down_mult, expert.down_shift, 16)


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
        Experts of which only the high nibbles are used.
    """
    combined = np.zeros(x.shape, dtype=np.int64)
    for number, expert in enumerate(layer.experts):
        tokens, slots = np.nonzero(np.asarray(experts) == number)
        if not tokens.size:
            continue
        rows = expert_rows(expert, x[tokens], high_only=number in high_only)
        weighted = combine_add(np.zeros_like(rows), gates[tokens, slots][:, None], rows)
        np.add.at(combined, tokens, weighted)
    combined = wrap(combined, 32)
    return store_convert(combined, GATE_BITS, StoreFormat.INT16).astype(np.int16)
