# SPDX-License-Identifier: Apache-2.0
"""Router, choice of experts, and the gated MLPs that all tokens use."""

from __future__ import annotations

from collections.abc import Iterator

from hdl.isa import Dest, Mode, VectorBits, VectorDest, VectorFn, VectorOp, VectorSum
from scheduler.models.description import DenseMlp, Experts, Scoring
from scheduler.models.fixed_point import GATE_IN_BITS, GATE_MULT, GATE_RECIP, GATE_SHIFT, gate_scale_shift
from scheduler.stream.emit.dense import Dense, Group, emit_norm
from scheduler.stream.emit.work import Work

__all__ = ["emit_choices", "emit_mlp", "emit_router"]

assert GATE_IN_BITS == 32


def emit_router(work: Work, dense: Dense, layer: int, first: int, count: int) -> Iterator[int]:
    """Emit norm and router logits of some tokens of a layer, one step of a chain."""
    places, tiling, emit = work.places, work.tiling, work.emitter
    x = places.words["experts"]["x"] + first * tiling.hidden_words
    constants, mlp = work.constants_of(layer), work.layer(layer).mlp
    emit_norm(
        work, "norm 2", constants.mlp_norm, row=first * tiling.hidden_rows, stride=tiling.hidden_rows, count=count,
        scalar=places.scalars["experts"]["norm"] + first, word=x, tiers=work.every_tier,
    )  # fmt: skip
    if isinstance(mlp, Experts):
        rows = tiling.router_rows(mlp)
        dense.project(
            layer, "router", [Group(count, x, places.rows["experts"]["router"] + first * rows)],
            act_stride=tiling.hidden_words, shift=constants.shifts["router"], dest_kind=Dest.COMBINE, dest_stride=rows,
        )  # fmt: skip
    yield emit.clock.vector


def emit_choices(work: Work, layer: int, first: int, tokens: int) -> None:
    """Emit top-k and gates of some tokens.

    The gates stay in rows; the token lists of a host-known stream hold the same numbers.
    """
    places, emit, mlp = work.places, work.emitter, work.layer(layer).mlp
    assert isinstance(mlp, Experts)
    rows, scalars = places.rows["experts"], places.scalars["experts"]
    router_rows = work.tiling.router_rows(mlp)
    logits = {
        "vectors": tokens, "rows": router_rows, "a_base": rows["router"] + first * router_rows, "a_stride": router_rows,
    }  # fmt: skip
    chosen_from = _sigmoid(work, logits, mlp) if mlp.router.scoring == Scoring.SIGMOID else logits
    mask = {} if mlp.count == router_rows * work.config.columns else {"masked": 1, "length": mlp.count}
    for choice in range(mlp.chosen):
        emit.vector(
            f"choose {choice}", op=VectorOp.ARGMAX, **chosen_from, **mask, first=int(choice == 0),
            s_base=scalars["choice"] + max(0, choice - 1) * tokens, d_scalar=scalars["choice"] + choice * tokens,
        )  # fmt: skip
    if chosen_from is not logits:
        logits = {**logits, "a_base": rows["sigmoid"]}
    emit.vector(
        "gather", op=VectorOp.GATHER, **logits, length=mlp.chosen, s_base=scalars["choice"], bits=VectorBits.BITS16,
        dest_kind=VectorDest.ROWS, dest_base=rows["gates"], dest_stride=1,
    )  # fmt: skip
    gates = {"vectors": tokens, "rows": 1, "a_base": rows["gates"], "a_stride": 1}
    some = {"masked": 1, "length": mlp.chosen}
    result = {"bits": VectorBits.BITS32, "dest_kind": VectorDest.ROWS, "dest_base": rows["gates"], "dest_stride": 1}
    if mlp.router.scoring == Scoring.SIGMOID:
        emit.vector(
            "gate sum", op=VectorOp.MAP, sum=VectorSum.SUM_RECIP, **gates, **some, first=1, d_scalar=scalars["sum"],
            mult=1, imm=GATE_RECIP, bits=VectorBits.BITS16, dest_kind=VectorDest.NONE,
        )  # fmt: skip
        emit.vector(
            "gates", op=VectorOp.SCALE, **gates, **some, s_base=scalars["sum"], shift=gate_scale_shift(15), **result
        )
        return
    emit.vector("gate max", op=VectorOp.MAX, **gates, **some, first=1, d_scalar=scalars["top"])
    power = {"op": VectorOp.MAP, "fn": VectorFn.EXP2, "s_base": scalars["top"], "mult": GATE_MULT, "shift": GATE_SHIFT}
    total = {"sum": VectorSum.SUM_RECIP, "first": 1, "d_scalar": scalars["sum"], "imm": GATE_RECIP}
    if mlp.router.normalised:
        emit.vector("gate exp", **power, **total, **gates, **some, **result)
    else:  # the largest of the chosen is the largest of all
        emit.vector("all exp", **power, **total, **logits, **mask, bits=VectorBits.BITS32, dest_kind=VectorDest.NONE)
        emit.vector("gate exp", **power, **gates, **some, **result)
    emit.vector(
        "gates", op=VectorOp.SCALE, **gates, **some, s_base=scalars["sum"], shift=gate_scale_shift(15), **result
    )


def _sigmoid(work: Work, logits: dict[str, int], mlp: Experts) -> dict[str, int]:
    """Emit the sigmoids of the router's logits, and with the bias that only the choice sees; return its operand.

    Groups of experts are not told apart: the choice is timed as one among all.
    """
    rows = work.places.rows["experts"]
    size = {"vectors": logits["vectors"], "rows": logits["rows"], "a_stride": logits["rows"]}
    result = {"bits": VectorBits.BITS16, "dest_kind": VectorDest.ROWS, "dest_stride": logits["rows"]}
    work.emitter.vector(
        "sigmoid", op=VectorOp.MAP, fn=VectorFn.SIGMOID, **size, a_base=logits["a_base"], mult=1 << 14, shift=16,
        **result, dest_base=rows["sigmoid"],
    )  # fmt: skip
    if not mlp.router.correction:
        return {**size, "a_base": rows["sigmoid"]}
    work.emitter.vector(
        "correction", op=VectorOp.ADD, **size, a_base=rows["sigmoid"], b_base=rows["correction"],
        b_rows=logits["rows"], mult=1, **result, dest_base=rows["biased"],
    )  # fmt: skip
    return {**size, "a_base": rows["biased"]}


def emit_mlp(work: Work, dense: Dense, layer: int, start: int, end: int) -> None:
    """Emit the gated MLP that tokens `start` to `end` - 1 use: a layer's shared experts, or its dense MLP."""
    mlp = work.layer(layer).mlp
    inner = mlp.intermediate if isinstance(mlp, DenseMlp) else mlp.shared
    if not inner:
        return
    places, tiling, constants = work.places, work.tiling, work.constants_of(layer).mlp
    assert constants is not None
    expert, words = tiling.expert(inner), places.words["experts"]
    size = min(places.block, work.config.accumulator_depth)  # the residual's list has as many entries
    room = max(1, words.sizes["h"] // expert.inner_words)
    for begin in range(start, end, room):
        firsts = range(begin, min(begin + room, end), size)
        counts = [min(size, end - first, begin + room - first) for first in firsts]
        h = [words["h"] + (first - begin) * expert.inner_words for first in firsts]
        dense.project(
            layer, "mlp.up",
            [Group(n, words["x"] + f * tiling.hidden_words, d) for n, f, d in zip(counts, firsts, h, strict=True)],
            act_stride=tiling.hidden_words, shift=constants.up_shift, mode=Mode.SWIGLU, dest_kind=Dest.ACTIVATION,
            post_mult=constants.post_mult, post_shift=constants.post_shift, dest_tiers=1,
            dest_stride=expert.inner_words,
        )  # fmt: skip
        dense.project(
            layer, "mlp.down",
            [Group(n, a, f * tiling.hidden_rows) for n, f, a in zip(counts, firsts, h, strict=True)],
            act_stride=expert.inner_words, shift=constants.down_shift, dest_kind=Dest.COMBINE, dest_list=1,
            accumulate=1,
        )  # fmt: skip
