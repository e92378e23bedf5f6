# SPDX-License-Identifier: Apache-2.0
"""Slots mode: ROUTE, as many slots as there can be experts, each for as many tokens as it can have; what is refused."""

from __future__ import annotations

import dataclasses

import pytest

from hdl.config import MachineConfig
from hdl.isa import Mapping3D, Opcode
from scheduler.memory.placement import Placement
from scheduler.models.description import Model
from scheduler.ops.batch import Chunk
from scheduler.plan.limits import LoweringError
from scheduler.stream.emit.slots import SlotQueues
from tests.support.checkpoints import small_model
from tests.support.emitting import ODD, STREAMED, TINY, emitted, work_of

UNLINKED = STREAMED.replace(name="unlinked", vertical_links=False)


@pytest.mark.parametrize("config", [TINY, STREAMED, UNLINKED], ids=["whole", "gangs", "pieces"])
@pytest.mark.parametrize(
    ("tokens", "counts"),
    [
        (1, [1, 1, 1]),  # three choices of one token: as many slots
        (2, [2, 2, 2, 1, 1]),
        (7, [7, 7, 7, 5, 4]),  # 21 choices: a slot behind two others has at most a third
    ],
)
def test_a_slot_has_as_many_tokens_as_it_can_have(config: MachineConfig, tokens: int, counts: list[int]) -> None:
    work = work_of([Chunk(0, 0, (1,) * tokens)], config, slots=True)
    queues = SlotQueues(work)
    queues.prime()
    queues.load_lists(0)
    assert not emitted(work)
    queues.run(0)
    (label, route), *rest = emitted(work)
    assert label == "route" and route.opcode == Opcode.ROUTE
    places = work.places
    assert [route[f] for f in ("tokens", "choices", "experts", "source_stride", "dest_stride")] == [tokens, 3, 5, 3, 3]
    assert route["s_base"] == places.scalars["experts"]["choice"] and route["a_base"] == places.rows["experts"]["gates"]
    found: dict[int, int] = {}
    gangs: set[int] = set()
    for name, one in rest:
        assert one["slot_en"] == 1 and name.startswith(f"slot {one['slot']} ")
        tier = one["slot"] % 2
        if config is not STREAMED:
            assert (one["tier_base"] == tier) if one.opcode == Opcode.GEMM else (one["dest_tiers"] == 1 << tier)
        elif one.opcode == Opcode.GEMM:  # what a gang cannot divide goes to a smaller one
            assert (one["tier_base"], one["mapping"] == Mapping3D.N) == (0, one["tier_count"] > 1)
            gangs.add(one["tier_count"])
        if name.endswith("down") and one["dest_base"] == 0:
            found[one["slot"]] = found.get(one["slot"], 0) + one["tokens"]
    assert found == dict(enumerate(counts))
    assert gangs == ({1, 2} if config is STREAMED else set())


def test_lists_of_layers_do_not_meet() -> None:
    work = work_of([Chunk(0, 0, (1,) * 7)], slots=True)
    queues = SlotQueues(work)
    for layer in (0, 1):
        queues.run(layer)
    first, second = (one["list_base"] for _, one in emitted(work) if one.opcode == Opcode.ROUTE)
    assert (first, second) == (work.places.list_entries[0], work.places.list_entries[0] + 21)


def test_a_dense_layer_has_no_route() -> None:
    model = small_model("mixtral", dense=(0,))
    work = work_of([Chunk(0, 0, (1,))], TINY, model, slots=True)
    SlotQueues(work).run(0)
    assert not emitted(work)


def refused(config: MachineConfig = TINY, model: Model = ODD, tokens: int = 7) -> str:
    """Return what slots mode says to a step that was planned for a known routing."""
    with pytest.raises(LoweringError) as caught:
        SlotQueues(work_of([Chunk(0, 0, (1,) * tokens)], config, model))
    return str(caught.value)


def test_what_is_refused() -> None:
    assert refused(TINY.replace(expert_slots=4)).startswith(
        "slots: 5 experts; the machine has expert_slots of 4: raise expert_slots"
    )
    assert refused(TINY.replace(list_depth=16)).startswith("slots: 21 choices of 7 tokens; list_depth leaves ")
    work = work_of([Chunk(0, 0, (1,))])
    work.experts.placement = Placement.ONE_GROUP
    with pytest.raises(LoweringError, match="slots: placement one_group; place experts even_odd"):
        SlotQueues(work)


def test_experts_must_have_their_constants_in_common() -> None:
    work = work_of([Chunk(0, 0, (1,))])
    layers = list(work.constants.layers)
    one = layers[1].experts[0]
    layers[1] = dataclasses.replace(layers[1], experts=(one, dataclasses.replace(one, up_shift=one.up_shift + 1)))
    work.constants = dataclasses.replace(work.constants, layers=tuple(layers))
    with pytest.raises(LoweringError, match="slots: layer 1: its experts differ in up_shift, .* common"):
        SlotQueues(work)
