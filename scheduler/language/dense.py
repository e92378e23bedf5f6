# SPDX-License-Identifier: Apache-2.0
"""Norms and dense matrices: each matrix runs on a gang that spreads its output tiles over the tiers (N mapping)."""

from __future__ import annotations

from hdl.isa import Dest, Format, LoadDest, Mapping3D, Mode, VectorBits, VectorDest, VectorOp
from scheduler.language.work import Work
from scheduler.models.quantised_model import Norm

__all__ = ["load_dense", "load_head", "load_parameters", "lower_norm", "project", "project_head"]


def lower_norm(
    work: Work, name: str, norm: Norm, *, row: int, stride: int, count: int, scalar: int, word: int, tiers: int
) -> None:
    """Emit a normalisation of residual rows to int8 activations.

    Parameters
    ----------
    work : Work
        What a step's lowering shares.
    name : str
        For the timeline.
    norm : Norm
        Its constants.
    row, stride, count : int
        First row, rows from one token to the next, tokens.
    scalar, word : int
        First scalar and first activation word.
    tiers : int
        Mask of the tiers whose buffers get the result.
    """
    shape = work.shape
    rows = {"vectors": count, "rows": shape.hidden_rows, "a_base": row, "a_stride": stride, "in_shift": norm.in_shift}
    work.emitter.vector(
        f"{name}: sum of squares", op=VectorOp.SUMSQ, **rows, d_scalar=scalar, mult=norm.mult, shift=norm.eps_shift,
        imm=norm.eps,
    )  # fmt: skip
    work.emitter.vector(
        f"{name}: scale", op=VectorOp.SCALE, **rows, s_base=scalar, shift=norm.shift, bits=VectorBits.BITS8,
        dest_kind=VectorDest.ACTIVATION, dest_tiers=tiers, dest_base=word, dest_stride=shape.hidden_words,
    )  # fmt: skip


def _gang(work: Work, name: str) -> tuple[dict[str, int], int]:
    """Return the fields of a matrix's gang and its size."""
    size = work.shape.dense_gangs[name]
    return {"tier_base": 0, "tier_count": size, "mapping": Mapping3D.N if size > 1 else Mapping3D.ALONE}, size


def project(work: Work, name: str, layer: int, *, tokens: int, act: int, **dest: int) -> int:
    """Emit a dense matrix of a layer (``qkv`` or ``output``): int8 activations of tier 0 in, int16 rows out.

    Returns the cycle in which the rows are expected.
    """
    shape, parameters = work.shape, work.model.layers[layer]
    n_tiles, k_slices, matrix = {
        "qkv": (shape.projected_rows, shape.hidden_words, parameters.qkv),
        "output": (shape.hidden_rows, shape.query_words, parameters.output),
    }[name]
    fields, size = _gang(work, name)
    return work.emitter.gemm(
        name, **fields, tokens=tokens, k_slices=k_slices, n_tiles=n_tiles // size, vcache_base=work.tile(layer, name),
        tag=work.dense_tags[layer], act_base=act, act_stride=k_slices, mode=Mode.REQUANT16, shift=matrix.shift,
        param_base=work.word(layer, name), **dest,
    )  # fmt: skip


def project_head(work: Work, *, tokens: int, act: int, row: int) -> None:
    """Emit the language-model head: int8 activations of tier 0 to int16 logits."""
    shape = work.shape
    fields, size = _gang(work, "head")
    work.emitter.gemm(
        "head", **fields, tokens=tokens, k_slices=shape.hidden_words, n_tiles=shape.logit_rows // size,
        vcache_base=work.chip.head_tile, tag=work.head_tag, act_base=act, act_stride=shape.hidden_words,
        mode=Mode.REQUANT16, shift=work.model.head.shift, param_base=work.chip.head_word, dest_kind=Dest.COMBINE,
        dest_base=row, dest_stride=shape.logit_rows,
    )  # fmt: skip


def _load_matrix(work: Work, name: str, symbol: str, *, tiles: int, parts: int, base: int, tag: int) -> None:
    """Emit the loads of a matrix of `tiles` tiles, the same number of them to each of `parts` tiers."""
    high, low = work.memory.planes(symbol)
    share = tiles // parts
    for tier in range(parts):
        offset = tier * share * work.shape.config.plane_bytes // 32
        work.emitter.load(
            name, format=Format.PAIR, group=high.group, dest_tiers=1 << tier, dest_base=base, count=share, tag=tag,
            addr=high.units + offset, addr_low=low.units + offset,
        )  # fmt: skip


def load_dense(work: Work, layer: int) -> None:
    """Emit the loads of a layer's dense matrices."""
    shape = work.shape
    tag = work.dense_tags[layer] = work.next_tag()
    for name, n_tiles, k_slices in (
        ("qkv", shape.projected_rows, shape.hidden_words),
        ("output", shape.hidden_rows, shape.query_words),
        ("router", shape.router_rows, shape.hidden_words),
    ):
        parts = shape.dense_gangs[name]
        _load_matrix(
            work, f"{name} weights", f"layer{layer}.{name}", tiles=n_tiles * k_slices, parts=parts,
            base=work.tile(layer, name), tag=tag,
        )  # fmt: skip


def load_head(work: Work) -> None:
    """Emit the loads of the language-model head."""
    shape = work.shape
    work.head_tag = work.next_tag()
    _load_matrix(
        work, "head weights", "head", tiles=shape.logit_rows * shape.hidden_words, parts=shape.dense_gangs["head"],
        base=work.chip.head_tile, tag=work.head_tag,
    )  # fmt: skip


def load_parameters(work: Work) -> None:
    """Emit the loads of all dense requantisation words, and of the output projection's token list."""
    config = work.shape.config
    for tier in range(config.tiers):
        words = work.memory.symbol(f"words{tier}")
        work.emitter.load(
            "requantisation words", dest_kind=LoadDest.PARAMETER, dest_tiers=1 << tier, group=words.group,
            count=work.memory.dense_word_count, addr=words.units,
        )  # fmt: skip
    entries = work.memory.symbol("list")
    work.emitter.load(
        "residual list", dest_kind=LoadDest.LIST, dest_tiers=work.every_tier, group=entries.group,
        count=work.chip.block, addr=entries.units,
    )  # fmt: skip
