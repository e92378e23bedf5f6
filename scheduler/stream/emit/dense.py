# SPDX-License-Identifier: Apache-2.0
"""Norms and dense matrices: each share of a matrix runs on a gang that spreads its output tiles over the tiers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hdl.config import ADDRESS_UNIT
from hdl.isa import Dest, Format, LoadDest, Mapping3D, Mode, VectorBits, VectorDest, VectorOp
from scheduler.models.quantised_model import Norm
from scheduler.plan.pinned import PINNED_TAG
from scheduler.plan.residence import attention_words
from scheduler.plan.shares import Matrix, Share
from scheduler.stream.emit.work import Work

__all__ = ["Dense", "Group", "emit_norm"]


def emit_norm(
    work: Work, name: str, norm: Norm, *, row: int, stride: int, count: int, scalar: int, word: int, tiers: int
) -> None:
    """Emit a normalisation of residual rows to int8 activations.

    Parameters
    ----------
    work : Work
        What a step's emission shares.
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
    tiling = work.tiling
    rows = {"vectors": count, "rows": tiling.hidden_rows, "a_base": row, "a_stride": stride, "in_shift": norm.in_shift}
    work.emitter.vector(
        f"{name}: sum of squares", op=VectorOp.SUMSQ, **rows, d_scalar=scalar, mult=norm.mult, shift=norm.eps_shift,
        imm=norm.eps,
    )  # fmt: skip
    work.emitter.vector(
        f"{name}: scale", op=VectorOp.SCALE, **rows, s_base=scalar, shift=norm.shift, bits=VectorBits.BITS8,
        dest_kind=VectorDest.ACTIVATION, dest_tiers=tiers, dest_base=word, dest_stride=tiling.hidden_words,
    )  # fmt: skip


@dataclass(frozen=True)
class Group:
    """Some tokens that go through a matrix together.

    Attributes
    ----------
    tokens : int
    act : int
        First activation word, in tier 0.
    dest : int
        First destination word or row.
    """

    tokens: int
    act: int
    dest: int


@dataclass(eq=False)
class _Loaded:
    """A share on the chip."""

    key: tuple[str, int]
    tile: int
    tiles: int
    word: int
    words: int
    tag: int
    retired: bool = False


class Dense:
    """Dense matrices on the chip: resident, or streamed share by share.

    Parameters
    ----------
    work : Work
        What a step's emission shares.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._residence = work.residence
        self._tags: dict[str, int] = {}
        self._words: dict[str, list[int]] = {}  # resident: first word of each share
        self._attention: dict[int, int] = {}
        self._loaded: list[_Loaded] = []
        self._tile = self._word = 0
        if self._residence.resident:
            self._number_words()

    def _number_words(self) -> None:
        word = 0
        layers = self._work.tiling.model.layers
        for number, layer in enumerate(layers):
            for name, shares in self._residence.shares[layer].items():
                word = self._number(f"layer{number}.{name}", shares, word)
            self._attention[number] = word
            word += attention_words(self._work.tiling, layer)
        self._number("head", self._residence.head, word)

    def _number(self, key: str, shares: Iterable[Share], word: int) -> int:
        own = self._words[key] = []
        for share in shares:
            own.append(word)
            word += share.each
        return word

    # Loads.

    def load_constants(self) -> None:
        """Emit the loads of the residual's token list and of resident requantisation words."""
        work = self._work
        if self._residence.resident:
            for tier in range(work.config.tiers):
                words = work.memory.symbol(f"words{tier}")
                work.emitter.load(
                    "requantisation words", dest_kind=LoadDest.PARAMETER, dest_tiers=1 << tier, group=words.group,
                    count=self._residence.dense_words, addr=words.addr,
                )  # fmt: skip
        entries = work.memory.symbol("list")
        work.emitter.load(
            "residual list", dest_kind=LoadDest.LIST, dest_tiers=work.every_tier, group=entries.group,
            count=work.places.block, addr=entries.addr,
        )  # fmt: skip

    def load_layer(self, layer: int) -> None:
        """Emit the loads of a layer's dense matrices; streamed: of its words of attention."""
        work = self._work
        rows = sum(work.tiling.norm_rows(work.layer(layer)))
        if rows:
            norms = work.memory.symbol(f"layer{layer}.norms")
            work.emitter.load(
                "norm weights", dest_kind=LoadDest.ROWS, dest_base=self.norm_row(layer), group=norms.group, count=rows,
                addr=norms.addr,
            )  # fmt: skip
        if not self._residence.resident:
            base = work.places.attention_base + layer % 2 * max(
                attention_words(work.tiling, k) for k in work.tiling.kinds
            )
            words = work.memory.symbol(f"layer{layer}.attention.words")
            work.emitter.load(
                "attention words", dest_kind=LoadDest.PARAMETER, dest_tiers=work.every_tier, group=words.group,
                dest_base=base, count=attention_words(work.tiling, work.layer(layer)), addr=words.addr,
            )  # fmt: skip
            self._attention[layer] = base
            return
        there = work.pinned is not None and layer in work.on_chip
        tag = work.next_tag() if work.pinned is None else PINNED_TAG
        for name, matrix in self._residence.matrices[work.layer(layer)].items():
            key = f"layer{layer}.{name}"
            self._tags[key] = tag
            if there:
                continue
            for share, tile in self._resident_tiles(layer, name, matrix):
                self._load_share(f"{name} weights", key, matrix, share, tile, tag)
        work.on_chip.add(layer)

    def load_head(self) -> None:
        """Emit the loads of the head, when it is resident."""
        work = self._work
        if not self._residence.resident:
            return
        tag = self._tags["head"] = work.next_tag() if work.pinned is None else PINNED_TAG
        if work.pinned is None or "head" not in work.on_chip:
            for share, tile in self._resident_tiles(-1, "head", work.tiling.head):
                self._load_share("head weights", "head", work.tiling.head, share, tile, tag)
        work.on_chip.add("head")

    def _resident_tiles(self, layer: int, name: str, matrix: Matrix) -> list[tuple[Share, int]]:
        """Return the shares of a resident matrix with the first tile of each."""
        residence, work = self._residence, self._work
        if name == "head":
            tile, shares = self._first_tile(len(work.tiling.model.layers)), residence.head
        else:
            kind = work.layer(layer)
            tile, shares = self._first_tile(layer), residence.shares[kind][name]
            for other, own in residence.shares[kind].items():
                if other == name:
                    break
                tile += sum(s.each for s in own) * residence.matrices[kind][other].k_slices
        found = []
        for share in shares:
            found.append((share, tile))
            tile += share.each * matrix.k_slices
        return found

    def _first_tile(self, layer: int) -> int:
        """Return the first tile of a layer's matrices; behind all layers, of the head."""
        layers, residence = self._work.tiling.model.layers, self._residence
        if self._work.pinned is not None:
            return sum(residence.layer_tiles(kind) for kind in layers[:layer])
        most = max(residence.layer_tiles(kind) for kind in self._work.tiling.kinds)
        return (2 if layer == len(layers) else layer % 2) * most

    def _load_share(self, name: str, key: str, matrix: Matrix, share: Share, tile: int, tag: int) -> None:
        work = self._work
        high, low = work.memory.planes(key)
        tiles, places = share.each * matrix.k_slices, np.arange(share.tiers)
        offset = (share.first * matrix.k_slices + places * tiles) * work.config.plane_bytes // ADDRESS_UNIT
        work.emitter.loads(
            name, {"dest_tiers": 1 << places, "addr": high.addr + offset, "addr_low": low.addr + offset},
            format=Format.PAIR, group=high.group, dest_base=tile, count=tiles, tag=tag,
        )  # fmt: skip

    # Streaming.

    def _stream_share(self, key: str, matrix: Matrix, number: int, share: Share, force: bool) -> _Loaded | None:
        """Emit the loads of a share of a streamed matrix, if there is room; with `force`: make room."""
        known = next((one for one in self._loaded if one.key == (key, number) and not one.retired), None)
        if known is not None:
            return known
        work, places = self._work, self._work.places
        tiles, words = share.each * matrix.k_slices, share.each
        tile = self._tile if self._tile + tiles <= self._residence.dense_tiles else 0
        end = work.config.parameter_words - places.words_base
        word = self._word if self._word + words <= end else 0
        for one in [one for one in self._loaded if _overlap(one, tile, tiles, places.words_base + word, words)]:
            if not one.retired and not force:
                return None
            self._loaded.remove(one)
        tag = work.next_tag()
        loaded = _Loaded((key, number), tile, tiles, places.words_base + word, words, tag)
        self._loaded.append(loaded)
        self._tile, self._word = tile + tiles, word + words
        self._load_share(f"{matrix.name} weights", key, matrix, share, tile, tag)
        symbol, tiers = work.memory.words(key, number, 0), np.arange(share.tiers)
        work.emitter.loads(
            f"{matrix.name} words",
            {"dest_tiers": 1 << tiers, "addr": symbol.addr + tiers * (symbol.size // ADDRESS_UNIT)},
            dest_kind=LoadDest.PARAMETER, group=symbol.group, dest_base=loaded.word, count=share.each,
        )  # fmt: skip
        return loaded

    def prefetch(self, layer: int, name: str) -> None:
        """Emit the loads of what comes first of a streamed matrix, as far as there is room."""
        if self._residence.resident:
            return
        key, matrix, shares = self._find(layer, name)
        for number, share in enumerate(shares):
            if self._stream_share(key, matrix, number, share, False) is None:
                return

    def prefetch_after(self, layer: int, head: bool) -> None:
        """Do the same with the first matrix after a layer: the next layer's, or the head if it is wanted."""
        layers = self._work.tiling.model.layers
        if layer + 1 < len(layers):
            self.prefetch(layer + 1, next(iter(self._residence.shares[layers[layer + 1]])))
        elif head:
            self.prefetch(-1, "head")

    def _find(self, layer: int, name: str) -> tuple[str, Matrix, tuple[Share, ...]]:
        if name == "head":
            return name, self._work.tiling.head, self._residence.head
        kind = self._work.layer(layer)
        return f"layer{layer}.{name}", self._residence.matrices[kind][name], self._residence.shares[kind][name]

    def norm_row(self, layer: int) -> int:
        """Return the first combine row of the weights of a layer's norms of queries and keys."""
        return self._work.places.rows["attention"]["weights"] + layer % 2 * self._work.tiling.most_norm_rows

    # GEMMs.

    def score_word(self, layer: int, head: int) -> int:
        """Return the requantisation word of the scores of a key/value head."""
        return self._attention[layer] + head

    def context_word(self, layer: int, head: int) -> int:
        """Return the requantisation word of the contexts of a key/value head."""
        return self._attention[layer] + self._work.heads(layer).kv_heads + head

    def project(
        self,
        layer: int,
        name: str,
        groups: Sequence[Group],
        *,
        act_stride: int,
        shift: int,
        mode: Mode = Mode.REQUANT16,
        only: Sequence[int] | None = None,
        **fields: int,
    ) -> int:
        """Emit a dense matrix for some groups of tokens; return the cycle in which the last rows are expected.

        Parameters
        ----------
        layer : int
            Layer; -1 for the head.
        name : str
            Matrix.
        groups : sequence of Group
            Tokens.
        act_stride, shift, mode
            As GEMM takes them.
        only : sequence of int, optional
            Numbers of the shares; default: all.
        **fields : int
            More of GEMM's fields, such as `dest_kind`.
        """
        ready = 0
        for share, place in self._on_chip(layer, name, only):
            _, matrix, _ = self._find(layer, name)
            offset = self._offset(share.first, mode, fields)
            for group in groups:
                ready = self._work.emitter.gemm(
                    name, tier_base=0, tier_count=share.tiers,
                    mapping=Mapping3D.N if share.tiers > 1 else Mapping3D.ALONE, tokens=group.tokens,
                    k_slices=matrix.k_slices, n_tiles=share.each, vcache_base=place.tile, tag=place.tag,
                    act_base=group.act, act_stride=act_stride, mode=mode, shift=shift, param_base=place.word,
                    dest_base=group.dest + offset, **fields,
                )  # fmt: skip
        return ready

    def project_heads(
        self, layer: int, name: str, *, tokens: int, act: tuple[int, int, int], dest: tuple[int, int, int],
        shift: int, tiers: int,
    ) -> int:  # fmt: skip
        """Emit a matrix in which each head has its own inputs, int8 in and out, each head on one tier.

        Parameters
        ----------
        layer, name, shift
            As for :meth:`project`.
        tokens : int
        act, dest : (int, int, int)
            First activation word, words from one head to the next, words from one token to the next.
        tiers : int
            Mask of the tiers whose buffers get the result.
        """
        each = self._work.tiling.per_head(self._work.layer(layer), name)
        ready = 0
        for share, place in self._on_chip(layer, name, None):
            _, matrix, _ = self._find(layer, name)
            tier, local = np.tile(np.arange(share.tiers), share.each // each), np.arange(0, share.each, each)
            local = local.repeat(share.tiers)  # the tiers in turn
            head = (share.first + tier * share.each + local) // each
            columns = {
                "tier_base": tier, "vcache_base": place.tile + local * matrix.k_slices,
                "param_base": place.word + local, "act_base": act[0] + head * act[1],
                "dest_base": dest[0] + head * dest[1],
            }  # fmt: skip
            ready = self._work.emitter.gemms(
                name, columns, tier_count=1, tokens=tokens, k_slices=matrix.k_slices, n_tiles=each, tag=place.tag,
                act_stride=act[2], mode=Mode.REQUANT8, shift=shift, dest_kind=Dest.ACTIVATION, dest_tiers=tiers,
                dest_stride=dest[2],
            )  # fmt: skip
        return ready

    def _on_chip(self, layer: int, name: str, only: Sequence[int] | None) -> Iterator[tuple[Share, _Loaded]]:
        """Yield the shares of a matrix with their places; streamed: load them ahead, and give them up after use."""
        key, matrix, shares = self._find(layer, name)
        chosen = range(len(shares)) if only is None else only
        if self._residence.resident:
            tiles = self._resident_tiles(layer, name, matrix)
            for number in chosen:
                share, tile = tiles[number]
                yield share, _Loaded((key, number), tile, 0, self._words[key][number], 0, self._tags[key])
            return
        for number in chosen:
            loaded = self._stream_share(key, matrix, number, shares[number], True)
            assert loaded is not None
            for after in range(number + 1, chosen[-1] + 1):
                if self._stream_share(key, matrix, after, shares[after], False) is None:
                    break
            yield shares[number], loaded
            loaded.retired = True

    def _offset(self, first: int, mode: Mode, fields: dict[str, int]) -> int:
        """Return how far a share's first output tile lies from the first row or word of a token."""
        config = self._work.config
        if fields.get("dest_kind"):
            return first
        return first * config.columns // (2 if mode == Mode.SWIGLU else 1) // config.rows


def _overlap(one: _Loaded, tile: int, tiles: int, word: int, words: int) -> bool:
    base = one.word
    return (one.tile < tile + tiles and tile < one.tile + one.tiles) or (
        base < word + words and word < base + one.words
    )
