# SPDX-License-Identifier: Apache-2.0
"""Tags of V-Cache tiles: a tile is seen when its last word has come since the sweep, with its load's tag."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Mux, Signal

from hdl.control.tags import TAG_BITS, TierTags
from tests.formal.machines import TINIEST
from tests.support.formal.bench import Bench
from tests.support.formal.proof import Bug, Proof

__all__ = ["PROOFS"]

CONFIG = TINIEST.replace(tiers=2, rows=8, row_fifo_depth=34)
"""Another tier, whose fill words are not meant, and fill words that are neither the first nor the last of a tile."""


def tags(b: Bench, block: Any) -> None:
    unit = b.place(block(CONFIG))
    upper = b.constant("upper")
    select = b.wire(Mux(upper, 2, 1))
    b.drive(unit.tier_select, select)
    ends = []
    for control in unit.fill_control:
        mine = control.valid & (control.tiers & select).any()
        b.assume(~mine | unit.ready)
        ends.append(b.wire(mine & ((control.word == 0) | (control.word == CONFIG.fill_words - 1))))
    b.assume(~Cat(ends).all())
    # A stream starts when the sweep of the one before is over.
    b.assume(~unit.clear | unit.ready)
    b.assume(unit.first <= CONFIG.vcache_tiles)

    # The reference watches one tile, whichever it is.
    tile = b.constant("tile", CONFIG.vcache_bits)
    filled, tag = Signal(), Signal(TAG_BITS)
    for control, word_tag, end in zip(unit.fill_control, unit.fill_tag, ends, strict=True):
        with b.m.If(end & (control.tile == tile)):
            b.m.d.sync += [filled.eq(control.word != 0), tag.eq(word_tag)]
    with b.m.If(unit.clear & (tile >= unit.first)):
        b.m.d.sync += filled.eq(0)
    was = b.past(filled)
    looked = b.wire(b.past(unit.addr == tile))
    open_ = b.wire(b.past(unit.ready) & unit.ready)
    b.claim("seen only if it is filled and no sweep runs", ~(looked & unit.valid) | (was & open_))
    # Nothing looks in the cycle in which a stream starts.
    b.claim("seen if it is", ~(looked & was & open_) | unit.valid | b.past(unit.clear))
    b.claim("with the tag of its load", ~(looked & unit.valid) | (unit.tag == b.past(tag)))
    swept = Signal(range(CONFIG.vcache_tiles + 2))
    b.m.d.sync += swept.eq(Mux(unit.ready, 0, swept + 1))
    b.claim("a sweep takes a cycle a tile", swept <= CONFIG.vcache_tiles)
    cleared = Signal()
    with b.m.If(unit.clear):
        b.m.d.sync += cleared.eq(1)
    b.cover("a tile that stays is seen after a sweep", looked & unit.valid & cleared & b.past(b.past(~unit.ready)))
    b.cover("a tile is filled again and seen", looked & unit.valid & b.past(b.past(~filled)) & cleared)


PROOFS = (
    Proof(
        "vcache-tags", TierTags,
        "a tile is seen when it was filled in this stream or stays from the last, with its load's tag; sweeps end",
        tags,
        (
            Bug("the first word of a refill leaves the tile valid", "Cat(self.fill_tag[lane], Const(1, 1)), 0)",
                "Cat(self.fill_tag[lane], Const(1, 1)), Cat(self.fill_tag[lane], Const(1, 1)))"),
            Bug("a sweep begins behind its first tile", "sweep_addr.eq(self.first)]", "sweep_addr.eq(self.first + 1)]"),
            Bug("a read during the sweep's last cycle counts", "swept.eq(~sweeping", "swept.eq(1 | ~sweeping"),
            Bug("fill words of other tiers count", "control.valid & (control.tiers & self.tier_select).any()",
                "control.valid & control.tiers.any()"),
        ),
    ),
)  # fmt: skip
