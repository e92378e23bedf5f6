# SPDX-License-Identifier: Apache-2.0
"""RMSNorm of queries and keys before the rotation, in place on the rows of the projection.

:mod:`scheduler.models.quantised_model` says which instruction takes which constant.
"""

from __future__ import annotations

from hdl.isa import VectorBits, VectorDest, VectorOp
from scheduler.models.constants import HeadNorm
from scheduler.models.description import LatentAttention, QkNorm
from scheduler.plan.pools import NORM_TURNS
from scheduler.stream.emit.dense import Dense
from scheduler.stream.emit.work import Work

__all__ = ["HeadNorms"]

_TABLE_ROWS = 8
"""Most rows of MUL's second operand."""


class HeadNorms:
    """Norms of a layer's queries and keys; nothing where it has none.

    Parameters
    ----------
    work : Work
        What a step's emission shares.
    dense : Dense
        Which knows where the weights lie.
    layer : int
    """

    def __init__(self, work: Work, dense: Dense, layer: int) -> None:
        attention = work.layer(layer).attention
        self._kind = QkNorm.NONE if isinstance(attention, LatentAttention) else attention.qk_norm
        self._constants = work.constants_of(layer).qk_norm
        self._emit = work.emitter
        self._heads = work.heads(layer)
        self._scalar = work.places.scalars["attention"]["heads"]
        self._weights = dense.norm_row(layer)
        self._query_weights, _ = work.tiling.norm_rows(work.layer(layer))

    def emit_shared(self, row: int, tokens: int) -> None:
        """Divide every head of queries and keys by its root mean square (`QkNorm.HEAD`); `row` is the first query's."""
        if self._kind != QkNorm.HEAD:
            return
        assert self._constants is not None
        heads, norm = self._heads, self._constants[0]
        count, stride = heads.heads + heads.kv_heads, heads.projected_rows
        # As few instructions as possible: a token's heads, or a head of all tokens, at a time.
        if tokens <= count:
            parts = [(row + t * stride, count, heads.key_rows) for t in range(tokens)]
        else:
            parts = [(row + h * heads.key_rows, tokens, stride) for h in range(count)]
        turns = NORM_TURNS if tokens <= count else 1
        self._divide("q and k", norm, parts, heads.key_rows, turns)

    def _divide(self, name: str, norm: HeadNorm, parts: list[tuple[int, int, int]], rows: int, turns: int) -> None:
        """Emit SUMSQ and SCALE of (first row, vectors, stride), SCALE behind the next SUMSQ where there is room."""

        def fields(part: tuple[int, int, int]) -> dict[str, int]:
            first, vectors, stride = part
            return {"vectors": vectors, "rows": rows, "a_base": first, "a_stride": stride}

        def scale(number: int) -> None:
            first, vectors, stride = parts[number]
            self._emit.vector(
                f"{name} norm: scale", op=VectorOp.SCALE, **fields(parts[number]), shift=norm.norm.shift,
                s_base=self._scalar + number % turns * vectors, bits=VectorBits.BITS16, dest_kind=VectorDest.ROWS,
                dest_base=first, dest_stride=stride,
            )  # fmt: skip

        for number, part in enumerate(parts):
            self._emit.vector(
                f"{name} norm: sum of squares", op=VectorOp.SUMSQ, **fields(part), imm=norm.norm.eps,
                shift=norm.norm.eps_shift, mult=norm.norm.mult, d_scalar=self._scalar + number % turns * part[1],
            )  # fmt: skip
            if turns == 1:
                scale(number)
            elif number:
                scale(number - 1)
        if turns > 1:
            scale(len(parts) - 1)

    def emit_queries(self, row: int, tokens: int) -> None:
        """Norm queries, or multiply them by their weights when :meth:`emit_shared` has divided them."""
        if self._constants is not None:
            self._one("q", self._constants[0], row, tokens, self._heads.query_rows, self._weights)

    def emit_keys(self, row: int, tokens: int) -> None:
        """Do the same with keys."""
        if self._constants is not None:
            rows = self._heads.kv_heads * self._heads.key_rows
            self._one("k", self._constants[1], row, tokens, rows, self._weights + self._query_weights)

    def _one(self, name: str, norm: HeadNorm, row: int, tokens: int, rows: int, weights: int) -> None:
        stride = self._heads.projected_rows
        if self._kind == QkNorm.HEAD:
            self._multiply(name, norm, row, tokens, rows, weights, self._heads.key_rows)
            return
        self._divide(name, norm, [(row, tokens, stride)], rows, 1)
        done = 0
        while done < rows:
            count = 1 << min(_TABLE_ROWS.bit_length() - 1, (rows - done).bit_length() - 1)
            self._multiply(name, norm, row + done, tokens, count, weights + done, count)
            done += count

    def _multiply(self, name: str, norm: HeadNorm, row: int, tokens: int, rows: int, weights: int, period: int) -> None:
        stride = self._heads.projected_rows
        self._emit.vector(
            f"{name} norm: weights", op=VectorOp.MUL, vectors=tokens, rows=rows, a_base=row, a_stride=stride,
            b_base=weights, b_rows=period, shift=norm.shift, bits=VectorBits.BITS16, dest_kind=VectorDest.ROWS,
            dest_base=row, dest_stride=stride,
        )  # fmt: skip
