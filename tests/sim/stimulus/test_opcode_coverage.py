# SPDX-License-Identifier: Apache-2.0
"""Drawn streams and lowered models together have every opcode and every vector operation in them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from hdl.config import PRESETS
from hdl.isa import Instruction, Opcode, VectorFn, VectorOp, VectorSum
from scheduler.memory.model import ModelMemory
from scheduler.models.constants import placeholders
from scheduler.models.description import Experts, LatentAttention, Layer, Model, Router, Scoring
from scheduler.ops.batch import Chunk, Routing
from scheduler.plan.residence import plan_residence
from scheduler.plan.tiling import Tiling
from scheduler.stream.lower import lower_step
from sim.stimulus.streams import StreamOptions, random_stream
from tests.support.checkpoints import small_model

CONFIG = PRESETS["tiny"].replace(vcache_tiles=1024, parameter_words=512, combine_rows=1024)
CHUNKS = [Chunk(0, 0, (1, 2, 3, 4, 5, 6, 7, 8, 9)), Chunk(1, 20, (5,))]

WANTED = {
    *(opcode.name for opcode in Opcode), *(f"VECTOR {op.name}" for op in VectorOp),
    *(f"MAP {fn.name}" for fn in VectorFn), *(f"MAP sum {total.name}" for total in VectorSum),
}  # fmt: skip


def names_of(instructions: Iterable[Instruction]) -> set[str]:
    """Return what is in a stream, as `WANTED` names it."""
    found = set()
    for one in instructions:
        found.add(one.opcode.name)
        if one.opcode == Opcode.VECTOR:
            found.add(f"VECTOR {VectorOp(one['op']).name}")
            if one["op"] == VectorOp.MAP:
                found |= {f"MAP {VectorFn(one['fn']).name}", f"MAP sum {VectorSum(one['sum']).name}"}
    return found


def latent_model() -> Model:
    """Return a model of DeepSeek-V3's kind: latent attention, sigmoids with a correction, a shared expert."""
    attention = LatentAttention(heads=3, query_rank=12, kv_rank=20, plain_dim=5, rope_dim=4, value_dim=9)
    router = Router(scoring=Scoring.SIGMOID, correction=True)
    layer = Layer(attention=attention, mlp=Experts(count=5, chosen=2, intermediate=16, shared=8, router=router))
    return Model(
        family="deepseek_v3", name="latent", hidden=24, vocabulary=16, context=32, layers=(layer,),
        missing="the arithmetic of its attention",
    )  # fmt: skip


def lowered(model: Model, *, slots: bool) -> set[str]:
    """Return what is in the stream of a step."""
    tiling = Tiling(CONFIG, model)
    memory = ModelMemory(plan_residence(tiling), None, sequences=2, context=model.context, step_bytes=1 << 16)
    routing = []
    for layer in model.layers:
        assert isinstance(layer.mlp, Experts)
        chosen = np.tile(np.arange(layer.mlp.chosen), (10, 1))
        routing.append(Routing(chosen, np.ones(chosen.shape, np.uint16)))
    own = None if slots else tuple(routing)
    return names_of(lower_step(placeholders(model), memory, CHUNKS, own, key_block=8).instructions)


def drawn() -> set[str]:
    """Return what is in some dozens of random streams."""
    found: set[str] = set()
    for seed in range(24):
        options = StreamOptions.everything(slots=seed % 2 == 1)
        found |= names_of(random_stream(PRESETS["tiny"], seed, 40, options).instructions)
    return found


def test_nothing_that_the_machine_can_do_is_left_out() -> None:
    families = [small_model(family) for family in ("mixtral", "qwen3_moe", "olmoe")]
    models = set().union(*(lowered(model, slots=slots) for model in families for slots in (False, True)))
    models |= lowered(latent_model(), slots=False)
    streams = drawn()
    missing = sorted(WANTED - models - streams)
    assert not missing, f"neither drawn nor lowered: {', '.join(missing)}"
    missing = sorted(WANTED - streams)
    assert not missing, f"not drawn: {', '.join(missing)}"
    # No model needs a NOP.
    assert sorted(WANTED - models) == ["NOP"], "not lowered"
