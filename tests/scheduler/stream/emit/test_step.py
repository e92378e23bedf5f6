# SPDX-License-Identifier: Apache-2.0
"""A whole step: its operations in order, in every way of running the experts."""

from __future__ import annotations

import numpy as np
import pytest

from hdl.config import MachineConfig
from hdl.isa import Limits, Opcode, check_instruction
from scheduler.ops.batch import Chunk, Routing
from scheduler.stream.emit.emitter import Emitter
from scheduler.stream.emit.labels import Labels
from scheduler.stream.emit.step import emit_step
from tests.support.checkpoints import small_model
from tests.support.emitting import STREAMED, TINY, labels_of, work_of

CHUNKS = [Chunk(0, 5, (1, 2, 3, 4)), Chunk(1, 8, (5,))]
ROUTING = Routing(np.array([[0, 1, 4]] * 5), np.ones((5, 3), np.uint16))
FLAT = STREAMED.replace(vertical_links=False)


def step(config: MachineConfig, *, slots: bool = False, outputs: tuple[int, ...] = (0, 1)) -> Emitter:
    """Return what a step emits."""
    work = work_of(CHUNKS, config, slots=slots)
    routing = None if slots else [ROUTING, ROUTING]
    return emit_step(work.constants, work.memory, work.places, CHUNKS, routing, outputs, 0, Labels())


@pytest.mark.parametrize("slots", [False, True], ids=["host", "slots"])
@pytest.mark.parametrize("config", [TINY, STREAMED, FLAT], ids=["resident", "gangs", "flat"])
def test_layers_come_in_order_and_all_is_legal(config: MachineConfig, slots: bool) -> None:
    emitter = step(config, slots=slots)
    instructions = list(emitter.stream.table().instructions())
    assert all(check_instruction(one, config, Limits.whole(config)) is None for one in instructions)
    gemms = [
        (label.layer, label.operation) for label, one in zip(labels_of(emitter), instructions, strict=True)
        if one.opcode == Opcode.GEMM
    ]  # fmt: skip
    layers = [layer for layer, _ in gemms]
    assert layers == [0] * layers.count(0) + [1] * layers.count(1) + [-1] * layers.count(-1)
    for layer in (0, 1):
        own = [name for number, name in gemms if number == layer]
        firsts = [own.index(name) for name in ("qkv", "output", "router")]
        experts = [n for n, name in enumerate(own) if name.startswith(("expert", "slot"))]
        assert firsts == sorted(firsts) and max(n for n, name in enumerate(own) if name == "router") < experts[0]
        assert len({own[n].split()[1] for n in experts}) == (5 if slots else 3)
    assert {name for layer, name in gemms if layer == -1} == {"head"}
    assert {label.operation for label in labels_of(emitter) if label.layer == -1} >= {"embedding", "rope", "logits"}
    routes = sum(one.opcode == Opcode.ROUTE for one in instructions)
    assert routes == (2 if slots else 0)


def test_without_outputs_there_is_no_head() -> None:
    """A part of a step none of whose sequences ends in it: the head's weights are loaded only where they stay."""
    for config in (TINY, STREAMED):
        labels = {label.operation for label in labels_of(step(config, outputs=()))}
        assert not labels & {"head", "logits", "norm: scale"}
        assert ("head weights" in labels) == (config is TINY)


def test_a_dense_layer_between() -> None:
    model = small_model("mixtral", layers=3, dense=(1,))
    work = work_of(CHUNKS, TINY.replace(vcache_tiles=1024, parameter_words=256), model)
    emitter = emit_step(work.constants, work.memory, work.places, CHUNKS, [ROUTING, None, ROUTING], [0], 0, Labels())
    own = {label.operation for label in labels_of(emitter) if label.layer == 1}
    assert {"mlp.up", "mlp.down"} <= own and not own & {"router", "token list"}
