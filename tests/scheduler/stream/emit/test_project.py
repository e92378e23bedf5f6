# SPDX-License-Identifier: Apache-2.0
"""Before the scores: projection and rotation of each token once, and the cache's bytes where the loads want them."""

from __future__ import annotations

import pytest

from hdl.config import MachineConfig
from hdl.isa import Opcode, StoreFormat, VectorDest, VectorOp, store_span, store_step
from scheduler.models.description import Model
from scheduler.ops.batch import Chunk, Piece
from scheduler.stream.emit.dense import Dense
from scheduler.stream.emit.project import Appends, BlockPlace, append, append_cycles, project_block
from scheduler.stream.emit.work import Work
from tests.support.checkpoints import small_model
from tests.support.emitting import ODD, STREAMED, TINY, emitted, work_of

TALL = TINY.replace(
    name="tall", columns=4, row_fifo_depth=64, combine_rows=1024, vcache_tiles=1024, parameter_words=512
)
MODELS = {
    "heads of a row": (TINY, ODD),
    "heads of two rows": (TINY, small_model("mixtral", heads=4, kv_heads=2, head_dim=16)),
    "four heads of a row": (TINY, small_model("mixtral", heads=5, kv_heads=5, head_dim=8)),
    "tall tiles": (TALL, small_model("mixtral", heads=2, kv_heads=1, head_dim=16)),
}


def wanted_bytes(work: Work, piece: Piece, rows: tuple[int, int], stride: int) -> dict[tuple[int, int], int]:
    """Return for each (group, address) of a row in the cache the combine row that belongs there.

    Keys: blocks of C tokens; slices of R channels, in each the tokens side by side. Values: blocks of R tokens; tiles
    of C channels, in each the tokens one after the other.
    """
    c, heads, found = work.config, work.heads(0), {}
    for head in range(heads.kv_heads):
        for what, base, own, unit in (
            ("keys", rows[0], heads.key_rows, c.columns), ("values", rows[1], heads.value_rows, c.rows)
        ):  # fmt: skip
            area = work.memory.cache(0, piece.chunk.sequence, head, what)
            for n in range(piece.count):
                block, place = divmod(piece.position + n, unit)
                for row in range(own):
                    at = area.address + block * unit * own * c.columns
                    if what == "keys":
                        piece_of, channel = divmod(row * c.columns, c.rows)
                        at += piece_of * c.rows * c.columns + place * c.rows + channel
                    else:
                        at += row * c.rows * c.columns + place * c.columns
                    found[area.group, at] = base + n * stride + head * own + row
    return found


def stored(work: Work) -> tuple[dict[tuple[int, int], int], int]:
    """Return the same of the stores that were emitted, and their number."""
    found: dict[tuple[int, int], int] = {}
    stores = [one for _, one in emitted(work) if one.opcode == Opcode.STORE]
    for one in stores:
        assert one["format"] == StoreFormat.INT8
        _, step = store_step(one, work.config)
        start, _ = store_span(one, work.config)
        for n in range(one["rows"]):
            place = one["group"], start + n * step
            assert place not in found
            found[place] = one["row_base"] + n * (1 + one["row_gap"])
    return found, len(stores)


@pytest.mark.parametrize(("config", "model"), MODELS.values(), ids=MODELS)
@pytest.mark.parametrize(("position", "count"), [(0, 1), (7, 1), (13, 1), (0, 8), (5, 4), (6, 19), (15, 2)])
def test_every_row_goes_where_the_loads_want_it(config: MachineConfig, model: Model, position: int, count: int) -> None:
    chunk = Chunk(3, position, (1,) * count)
    work = work_of([chunk], config, model)
    stride = work.heads(0).projected_rows
    piece, rows = Piece(chunk, 0, position, count), (200, 230)
    append(work, 0, piece, rows, stride)
    found, many = stored(work)
    assert found == wanted_bytes(work, piece, rows, stride)
    if count == 1:
        one_row = work.heads(0).key_rows == 1
        assert many == (4 if one_row and work.heads(0).kv_heads >= 4 else 2 * work.heads(0).kv_heads) or config is TALL


def block_of(work: Work, pieces: list[Piece]) -> BlockPlace:
    """Return the place of the first block."""
    pools = work.places
    return BlockPlace(
        first=0, tokens=sum(p.count for p in pieces), rows=pools.rows["attention"]["qkv"],
        query=pools.words["attention"]["query"], scalar=pools.scalars["attention"]["norm"],
        context_rows=pools.rows["attention"]["context"], context_words=pools.words["attention"]["context"], section=2,
    )  # fmt: skip


@pytest.mark.parametrize("config", [TINY, STREAMED], ids=["resident", "streamed"])
def test_a_block_is_projected_and_rotated_in_sections(config: MachineConfig) -> None:
    """Five tokens, two at a time, of 8 rows: 4 queries, 2 keys, 2 values."""
    chunks = [Chunk(0, 5, (1, 2, 3, 4)), Chunk(1, 8, (5,))]
    work = work_of(chunks, config)
    dense, appends = Dense(work), Appends(work, 0)
    dense.load_layer(0)
    pieces = [Piece(chunks[0], 0, 5, 4), Piece(chunks[1], 4, 8, 1)]
    place = block_of(work, pieces)
    times = list(project_block(work, dense, 0, pieces, place, appends))
    assert times == sorted(times) or 0 in times
    rope = work.places.rows["attention"]["rope"]
    for label, first, rows in (("rotate q", 0, 4), ("rotate k", 4, 2)):
        own = [one for name, one in emitted(work) if name == label]
        assert [one["vectors"] for one in own] == [2, 2, 1]
        assert [one["a_base"] for one in own] == [place.rows + first + 16 * n for n in range(3)]
        assert [one["b_base"] for one in own] == [rope + 4 * n for n in range(3)]  # tables of two rows
        assert {(one["op"], one["rows"], one["a_stride"]) for one in own} == {(VectorOp.ROTATE, rows, 8)}
        assert {one["dest_kind"] for one in own} == {
            VectorDest.ACTIVATION if label == "rotate q" else VectorDest.ROWS
        }  # fmt: skip
    tokens = [one["tokens"] for name, one in emitted(work) if name == "qkv"]
    assert sum(tokens) == 5 * len(work.residence.shares[ODD.layers[0]]["qkv"])
    resident = config is TINY
    assert bool(stored(work)[0]) == resident, "streamed: keys wait until jobs read them"
    appends.emit(3)
    first, _ = stored(work)
    keys = place.rows + 4
    wanted = wanted_bytes(work, pieces[0], (keys, keys + 2), 8)
    later = wanted_bytes(work, pieces[1], (keys + 32, keys + 34), 8)
    assert first == (wanted | later if resident else wanted)
    appends.emit(4)
    assert stored(work)[0] == wanted | later


def test_the_forecast_of_appends_grows_with_rows() -> None:
    work = work_of([Chunk(0, 0, (1,) * 8)])
    chunk = Chunk(0, 0, (1,) * 8)
    few, many = (append_cycles(TINY, work.heads(0), [Piece(chunk, 0, 0, n)]) for n in (1, 8))
    assert 0 < few < many
    assert append_cycles(TINY, work.heads(0), []) == 0
