# SPDX-License-Identifier: Apache-2.0
"""Experts on gangs: what the loads that run ahead may not overwrite."""

from __future__ import annotations

import numpy as np
import pytest

from hdl.isa import LoadDest, Opcode
from scheduler.plan.layer import Way
from scheduler.stream.lower_layer import LayerOptions
from tests.support.layers import TINY, batch, random_layer, run_and_compare


@pytest.mark.parametrize("list_depth", [32, 64])
@pytest.mark.parametrize("tokens", [16, 24, 30])
def test_a_token_list_stays_until_its_experts_last_gemm(list_depth: int, tokens: int) -> None:
    """Lists are as long as the memory for them, or half as long, and weights of several experts are loaded ahead."""
    rng = np.random.default_rng(tokens)
    layer = random_layer(rng, 6, 24, 24)
    config = TINY.replace(name="short_lists", list_depth=list_depth, parameter_words=256)
    x, _, gates = batch(rng, layer, tokens, 2)
    everywhere = np.stack([np.array([0, n % 5 + 1]) for n in range(tokens)])
    program = run_and_compare(config, layer, x, everywhere, gates, LayerOptions(way=Way.GANG))
    lists = [i for i in program.instructions if i.opcode == Opcode.LOAD and i["dest_kind"] == LoadDest.LIST]
    assert sum(i["count"] for i in lists) == 2 * tokens
    every = np.stack([rng.permutation(6)[:4] for _ in range(tokens)])
    run_and_compare(config, layer, x, every, np.repeat(gates, 2, axis=1), LayerOptions(way=Way.GANG))
