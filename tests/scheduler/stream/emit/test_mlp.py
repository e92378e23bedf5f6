# SPDX-License-Identifier: Apache-2.0
"""Router, choice of experts and the MLP that all tokens use."""

from __future__ import annotations

import dataclasses

import pytest

from hdl.isa import Dest, Mode, Opcode, VectorOp, VectorSum
from scheduler.models.description import Experts, Model, Router, Scoring
from scheduler.ops.batch import Chunk
from scheduler.stream.emit.dense import Dense
from scheduler.stream.emit.mlp import emit_choices, emit_mlp, emit_router
from tests.support.checkpoints import small_model
from tests.support.emitting import ODD, TINY, emitted, work_of

CHUNKS = [Chunk(0, 5, (1, 2, 3, 4)), Chunk(1, 8, (5,))]


def with_router(**changes: object) -> Model:
    """Return the model with another router."""
    mlp = ODD.layers[0].mlp
    assert isinstance(mlp, Experts)
    layer = dataclasses.replace(ODD.layers[0], mlp=dataclasses.replace(mlp, **changes))  # type: ignore[arg-type]
    return dataclasses.replace(ODD, layers=(layer, layer))


def test_a_router_norms_its_tokens_for_all_tiers() -> None:
    """Tokens 2 to 4: rows 6 to 14, words 6 on."""
    work = work_of(CHUNKS)
    dense = Dense(work)
    dense.load_layer(0)
    (ready,) = emit_router(work, dense, 0, 2, 3)
    assert ready > 0
    own = [one for label, one in emitted(work) if label.startswith("norm 2")]
    assert [(one["a_base"], one["vectors"]) for one in own] == [(6, 3), (6, 3)]
    assert own[1]["dest_tiers"] == 3 and own[1]["dest_base"] == work.places.words["experts"]["x"] + 6
    (gemm,) = [one for label, one in emitted(work) if label == "router"]
    assert (gemm["tokens"], gemm["dest_base"]) == (3, work.places.rows["experts"]["router"] + 2)


def test_a_layer_without_experts_has_no_router() -> None:
    work = work_of(CHUNKS, TINY, small_model("mixtral", dense=(0,)))
    dense = Dense(work)
    dense.load_layer(0)
    list(emit_router(work, dense, 0, 0, 5))
    assert not [label for label, _ in emitted(work) if label == "router"]


@pytest.mark.parametrize("experts", [8, 5, 13])
def test_each_choice_reads_the_one_before(experts: int) -> None:
    """A mask where the experts do not fill their rows."""
    work = work_of(CHUNKS, model=with_router(count=experts))
    emit_choices(work, 0, 1, 3)
    scalars, rows = work.places.scalars["experts"], work.places.rows["experts"]
    choices = [one for label, one in emitted(work) if label.startswith("choose")]
    assert [one["first"] for one in choices] == [1, 0, 0]
    assert [one["d_scalar"] - scalars["choice"] for one in choices] == [0, 3, 6]
    assert [one["s_base"] - scalars["choice"] for one in choices] == [0, 0, 3]
    many = -(-experts // 8)
    for one in choices:
        assert one["op"] == VectorOp.ARGMAX and (one["rows"], one["vectors"]) == (many, 3)
        assert one["a_base"] == rows["router"] + many
        assert (one["masked"], one["length"]) == ((0, 0) if experts % 8 == 0 else (1, experts))
    (gather,) = [one for label, one in emitted(work) if label == "gather"]
    assert (gather["length"], gather["s_base"], gather["dest_base"]) == (3, scalars["choice"], rows["gates"])


def test_gates_of_a_normalised_router_sum_over_the_chosen() -> None:
    work = work_of(CHUNKS)
    emit_choices(work, 0, 0, 5)
    found = {label: one for label, one in emitted(work) if "gate" in label or "exp" in label}
    assert list(found) == ["gate max", "gate exp", "gates"]
    assert {one["length"] for one in found.values()} == {3}
    assert found["gate exp"]["sum"] == VectorSum.SUM_RECIP
    assert found["gates"]["s_base"] == found["gate exp"]["d_scalar"] == work.places.scalars["experts"]["sum"]


def test_gates_of_another_router_sum_over_all() -> None:
    work = work_of(CHUNKS, model=with_router(router=Router(normalised=False)))
    emit_choices(work, 0, 0, 5)
    found = {label: one for label, one in emitted(work) if "gate" in label or "exp" in label}
    assert list(found) == ["gate max", "all exp", "gate exp", "gates"]
    assert found["all exp"]["length"] == 5 and found["all exp"]["a_base"] == work.places.rows["experts"]["router"]
    assert found["all exp"]["sum"] == VectorSum.SUM_RECIP and not found["gate exp"]["sum"]


@pytest.mark.parametrize("correction", [False, True])
def test_sigmoids_are_chosen_from_with_their_correction_and_gated_without(correction: bool) -> None:
    router = Router(scoring=Scoring.SIGMOID, correction=correction)
    work = work_of(CHUNKS, model=dataclasses.replace(with_router(router=router), missing="its arithmetic"))
    emit_choices(work, 0, 0, 5)
    rows, found = work.places.rows["experts"], dict(emitted(work))
    assert found["sigmoid"]["dest_base"] == rows["sigmoid"] == found["gather"]["a_base"]
    assert found["choose 0"]["a_base"] == rows["biased" if correction else "sigmoid"]
    assert ("correction" in found) == correction and "gate exp" not in found
    assert found["gate sum"]["sum"] == VectorSum.SUM_RECIP and found["gates"]["op"] == VectorOp.SCALE


def test_an_mlp_of_all_tokens_goes_in_parts_that_h_has_room_for() -> None:
    """A dense MLP of 28 inside takes 4 words a token, a routed one of 20 3; h has two places for a chunk of these."""
    model = small_model("mixtral", dense=(0,))
    chunks = [Chunk(0, 0, (1,) * 23)]
    for depth, parts in ((64, 1), (8, 2)):
        work = work_of(chunks, TINY.replace(accumulator_depth=depth), model)
        dense = Dense(work)
        dense.load_layer(0)
        emit_mlp(work, dense, 0, 0, work.places.size.tokens)
        pool = work.places.words["experts"]
        assert -(-23 // (pool.sizes["h"] // 4)) == parts
        written: dict[int, int] = {}
        ups, downs = [0] * 23, [0] * 23
        for label, one in emitted(work):
            if one.opcode != Opcode.GEMM:
                continue
            tiles = one["n_tiles"] * one["tier_count"]
            if label == "mlp.up":
                first = (one["act_base"] - pool["x"]) // 3
                assert one["mode"] == Mode.SWIGLU and one["dest_stride"] == 4
                for n in range(one["tokens"]):
                    place = one["dest_base"] + 4 * n
                    assert pool["h"] <= place < pool["h"] + pool.sizes["h"]
                    written[place // 4] = first + n
                    ups[first + n] += tiles
            else:
                assert one["dest_list"] and one["accumulate"] and one["dest_kind"] == Dest.COMBINE
                first = one["dest_base"] // 3
                for n in range(one["tokens"]):
                    assert written[one["act_base"] // 4 + n] == first + n
                    downs[first + n] += tiles
        assert ups == [8] * 23 and downs == [3] * 23


def test_experts_alone_have_no_common_mlp() -> None:
    work = work_of(CHUNKS)
    emit_mlp(work, Dense(work), 0, 0, work.places.size.tokens)
    assert not emitted(work)
    work = work_of(CHUNKS, model=with_router(shared=9))
    dense = Dense(work)
    dense.load_layer(0)
    emit_mlp(work, dense, 0, 0, work.places.size.tokens)
    assert {label for label, one in emitted(work) if one.opcode == Opcode.GEMM} == {"mlp.up", "mlp.down"}
