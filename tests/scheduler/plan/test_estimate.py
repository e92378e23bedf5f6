# SPDX-License-Identifier: Apache-2.0
"""What operations cost as they are planned, counted by hand on padded widths."""

from __future__ import annotations

import numpy as np
import pytest

from hdl.config import PRESETS, MachineConfig
from scheduler.ops.batch import Chunk, Routing
from scheduler.ops.graph import step_operations
from scheduler.plan.estimate import Estimate, Roofline, estimate, roofline
from scheduler.plan.places import Places, plan_places
from scheduler.plan.pools import StepSize
from scheduler.plan.residence import plan_residence
from scheduler.plan.tiling import Tiling
from tests.support.checkpoints import small_model

TINY = PRESETS["tiny"]  # 2 tiers of 8 x 8 PEs, 8 bytes a cycle, tiles of 64 bytes
ODD = small_model("mixtral", hidden=21, heads=4, kv_heads=2, head_dim=6, intermediate=13, vocabulary=21, layers=1)
CHUNKS = [Chunk(0, 5, (1, 2, 3, 4)), Chunk(1, 8, (5,))]


def places_of(config: MachineConfig) -> Places:
    """Return the places of the step."""
    return plan_places(plan_residence(Tiling(config, ODD)), StepSize(5, 2, 4, 9, 16))


def named(config: MachineConfig = TINY, routing: Routing | None = None) -> dict[str, Estimate]:
    """Return the step's estimates by operation."""
    found = estimate(places_of(config), CHUNKS, None if routing is None else [routing])
    return {one.operation.name.removeprefix("layer0."): one for one in found}


def test_dense_matrices() -> None:
    """qkv: 8 tiles of 3 slices on two tiers; output: two tiers have one tile of 4 slices, then one has one."""
    found = named()
    qkv, output, head = found["qkv"], found["output"], found["head"]
    assert (qkv.waves, qkv.bytes) == (5 * 4 * 3, 8 * 3 * 64) and qkv.how == "gang of 2, N"
    assert qkv.padding == pytest.approx(1 - 5 * 21 * 48 / (60 * 128))
    assert (output.waves, output.how) == (5 * (4 + 4), "gang of 2/1, N")
    assert (head.waves, head.bytes, head.operation.tokens) == (2 * (3 + 3), 9 * 64, 2)
    assert qkv.cycles == 8 * 3 * 8 and qkv.bound == "memory"


def test_streamed_matrices_are_read_for_every_block() -> None:
    places = places_of(TINY.replace(vcache_tiles=64))
    assert not places.residence.resident and places.block == 5
    (qkv,) = [one for one in estimate(places, CHUNKS) if one.operation.name.endswith("qkv")]
    assert qkv.bytes == 24 * 64 and "shares streamed" in qkv.where and " x " not in qkv.where
    long = plan_places(places.residence, StepSize(40, 0, 40, 40, 8))
    passes = -(-40 // long.block)
    assert passes > 1
    (qkv,) = [one for one in estimate(long, [Chunk(0, 0, (1,) * 40)], outputs=0) if one.operation.name.endswith("qkv")]
    assert qkv.bytes == passes * 24 * 64 and qkv.where.endswith(f" x {passes}")


def test_experts_take_as_long_as_the_tier_with_the_most_tokens() -> None:
    """An expert is 18 tiles. Tokens an expert: 4, 3, 2, 1, so that two tiers have 5 each; or all 10 on two experts."""
    gates = np.full((5, 2), 9, np.uint16)
    spread = Routing(np.array([[0, 1], [0, 1], [0, 1], [0, 2], [3, 2]]), gates)
    assert named(routing=spread)["experts"].waves == 5 * 18
    assert named(routing=spread)["experts"].bytes == 4 * 18 * 64
    one_sided = Routing(np.array([[0, 1]] * 4 + [[0, 2]]), gates)  # 5, 4, 1
    assert named(routing=one_sided)["experts"].waves == 5 * 18
    assert named(routing=one_sided)["experts"].bytes == 3 * 18 * 64
    # Without a routing: round(5 * (1 - 0.4**5)) = 5 experts with 15 / 5 tokens (the model chooses three), 3 to 2.
    assert named()["experts"].waves == 3 * 3 * 18


def test_attention_reads_keys_of_the_step_too() -> None:
    """Tokens see 6 + 7 + 8 + 9 and 9 keys: 39 pairs of four heads, of 16 channels each where the model has 12."""
    attend = named()["attend"]
    assert attend.operation.macs == 39 * 4 * 12
    assert attend.waves == -(-39 * 4 * 16 // 128)
    assert attend.bytes == (9 + 9) * 2 * 2 * 6
    assert attend.rows == -(-attend.operation.elements // 8) == attend.cycles and attend.bound == "vector"


def test_what_no_unit_does_costs_its_bytes() -> None:
    found = named()
    assert (found["embed"].how, found["embed"].cycles) == ("loads", -(-5 * 21 * 2 // 8))
    assert (found["append"].how, found["append"].cycles) == ("stores", 5 * 2 * 2 * 6 // 8)
    assert (found["norm1"].how, found["norm1"].cycles) == ("vector unit", -(-2 * 5 * 21 // 8))
    nothing = named()["head"].__class__(found["head"].operation, "", "", 0, 0, 0, 0, 0.0)
    assert nothing.bound == "-"


def test_no_estimate_is_below_the_roofline() -> None:
    places, operations = places_of(TINY), step_operations(ODD, CHUNKS)
    least = roofline(operations, places)
    assert least.compute == sum(op.macs for op in operations) / 128
    assert least.memory == sum(op.bytes for op in operations) / 8
    assert sum(one.cycles for one in estimate(places, CHUNKS)) >= least.cycles
    for one in estimate(places, CHUNKS):
        assert one.cycles >= int(roofline([one.operation], places).cycles), one.operation.name
        assert 0 <= one.padding < 1


def test_the_largest_of_three_bounds() -> None:
    assert [Roofline(*own).bound for own in ((3, 2, 1), (1, 3, 2), (1, 2, 3))] == ["compute", "memory", "vector"]
    assert Roofline(3, 5, 4).cycles == 5


def test_streamed_experts_run_on_gangs_one_after_the_other() -> None:
    """All tiers share an expert's output tiles, so that they are equally long whatever the routing. Slots have none."""
    gates = np.full((5, 2), 9, np.uint16)
    one_sided = Routing(np.array([[0, 1]] * 5), gates)
    residence = plan_residence(Tiling(TINY.replace(vcache_tiles=64), ODD))
    up, down = residence.gangs[13]
    expert = residence.tiling.expert(13)
    each = sum(s.each for s in up) * expert.up.k_slices + sum(s.each for s in down) * expert.down.k_slices
    for slots in (False, True):
        places = plan_places(residence, StepSize(5, 2, 4, 9, 16, slots))
        (found,) = [one for one in estimate(places, CHUNKS, [one_sided]) if one.operation.name.endswith("experts")]
        assert found.how.startswith("gang of 2")
        assert found.waves == 10 * each
