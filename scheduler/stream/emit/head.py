# SPDX-License-Identifier: Apache-2.0
"""The beginning and the end of a step: embeddings and rotation tables in, the head's logits out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hdl.isa import Dest, LoadDest, StoreFormat
from scheduler.ops.batch import Chunk
from scheduler.plan.shares import Share
from scheduler.stream.emit.dense import Dense, Group, emit_norm
from scheduler.stream.emit.work import Work

__all__ = ["emit_embeddings", "emit_head", "emit_rotations", "logit_parts"]


def emit_embeddings(work: Work, chunks: Sequence[Chunk]) -> None:
    """Load each token's embedding into the residual."""
    row = 0
    for chunk in chunks:
        for token in chunk.tokens:
            symbol = work.memory.embedding(token)
            work.emitter.load(
                "embedding", dest_kind=LoadDest.ROWS, group=symbol.group, dest_base=row, count=work.tiling.hidden_rows,
                shift=work.constants.embedding_shift, addr=symbol.addr,
            )  # fmt: skip
            row += work.tiling.hidden_rows


def emit_rotations(work: Work, chunks: Sequence[Chunk]) -> None:
    """Load the rotation tables of all tokens' positions; every layer uses them."""
    rows = max(work.tiling.heads(k).rope_rows for k in work.tiling.kinds)
    row = work.places.rows["attention"]["rope"]
    dense = work.memory.rope_stride == rows * 2 * work.config.columns  # positions lie side by side
    for chunk in chunks:
        step = len(chunk.tokens) if dense else 1
        for done in range(0, len(chunk.tokens), step):
            table = work.memory.rope(chunk.position + done)
            work.emitter.load(
                "rope", dest_kind=LoadDest.ROWS, dest_base=row, group=table.group, count=step * rows, addr=table.addr
            )
            row += step * rows


def logit_parts(shares: Sequence[Share], most: int) -> list[list[int]]:
    """Return the numbers of the head's shares in parts of up to `most` output tiles, one share at least."""
    parts: list[list[int]] = []
    size = 0
    for number, share in enumerate(shares):
        own = share.end - share.first
        if not parts or size + own > most:
            parts.append([])
            size = 0
        parts[-1].append(number)
        size += own
    return parts


def emit_head(work: Work, dense: Dense, chunks: Sequence[Chunk], outputs: Sequence[int], done: int) -> None:
    """Emit the last norm, the head and the store of the logits of some sequences' last tokens.

    Logits lie part by part: of a part's output tiles the rows of the first sequence, of the second, and so on.

    Parameters
    ----------
    work : Work
        What a step's emission shares.
    dense : Dense
        Dense matrices.
    chunks : sequence of Chunk
        What the step works on.
    outputs : sequence of int
        Numbers of the chunks whose logits are wanted.
    done : int
        Outputs of earlier parts of the step, whose logits come first in memory.
    """
    places, tiling, emit = work.places, work.tiling, work.emitter
    words, rows, scalars = places.words["head"]["x"], places.rows["head"]["logits"], places.scalars["head"]["norm"]
    last = np.cumsum([len(chunk.tokens) for chunk in chunks]) - 1
    count = len(outputs)
    decode = len(outputs) == len(chunks) and all(len(chunk.tokens) == 1 for chunk in chunks)
    groups = [(0, 0, count)] if decode else [(n, int(last[chunk]), 1) for n, chunk in enumerate(outputs)]
    for number, token, own in groups:
        emit_norm(
            work, "norm", work.constants.final_norm, row=token * tiling.hidden_rows, stride=tiling.hidden_rows,
            count=own, scalar=scalars + number, word=words + number * tiling.hidden_words, tiers=1,
        )  # fmt: skip
    size = min(count, work.config.accumulator_depth)
    shares = work.residence.head
    row_bytes = 2 * work.config.columns
    address = work.memory.logits.address + done * tiling.logit_rows * row_bytes
    parts = logit_parts(shares, places.head_tiles)
    for number, part in enumerate(parts):
        here = rows + (number % 2 * count * places.head_tiles if len(parts) > 1 else 0)
        first = shares[part[0]].first
        width = shares[part[-1]].end - first
        dense.project(
            -1, "head",
            [
                Group(min(size, count - at), words + at * tiling.hidden_words, here + at * width - first)
                for at in range(0, count, size)
            ],
            act_stride=tiling.hidden_words, shift=work.constants.head_shift, only=part, dest_kind=Dest.COMBINE,
            dest_stride=width,
        )  # fmt: skip
        emit.store(
            "logits", format=StoreFormat.INT16, group=work.memory.logits.group, row_base=here, rows=count * width,
            addr=address // 32, offset=address % 32,
        )  # fmt: skip
        address += count * width * row_bytes
