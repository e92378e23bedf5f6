# SPDX-License-Identifier: Apache-2.0
"""A group's AXI4 masters: every channel obeys AXI, all get the same, and no beat is lost or made up."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Mux, Signal

from hdl.config import MachineConfig
from hdl.memory.axi import FETCH_ID, LOAD_ID, GroupMaster, fetch_buffer_beats
from hdl.memory.jobs import log2
from tests.formal.fifos import any_word
from tests.formal.machines import TINIEST
from tests.support.formal.bench import Bench
from tests.support.formal.proof import Bug, Proof

__all__ = ["PROOFS"]

CONFIG = TINIEST.replace(rows=8, columns=8, row_fifo_depth=25, channels_per_group=2)
"""Two channels, which may be ready in different cycles."""

WIDE = CONFIG.replace(rows=32, columns=16, row_fifo_depth=49, channel_bytes=64)
"""Channels so wide that the buffer of fetched beats has few words."""

BUFFER = fetch_buffer_beats(WIDE)


def place(b: Bench, block: Any, config: MachineConfig = CONFIG) -> Any:
    """Place the masters, between units and a memory that keep to the rules."""
    unit = b.place(block(config, fetch=True))
    for stream in (unit.load.ar, unit.fetch.ar, unit.store.aw, unit.store.w):
        b.assume_hold(stream.valid, stream.ready, stream.payload)
    for axi in unit.axi:
        b.assume_hold(axi.rvalid, axi.rready, Cat(axi.rid, axi.rdata, axi.rresp, axi.rlast))
        b.assume_hold(axi.bvalid, axi.bready, Cat(axi.bid, axi.bresp))
    return unit


def requests(b: Bench, block: Any) -> None:
    unit = place(b, block)
    beat_bits = log2(CONFIG.group_bytes)
    for stream in (unit.load.ar, unit.fetch.ar, unit.store.aw):
        # What the burst splitters are proved to ask for.
        address = stream.payload
        within = address.addr[beat_bits:][: log2(CONFIG.burst_beats)] + address.beats_minus_1 < CONFIG.burst_beats
        b.assume(~stream.valid | ((address.addr[:beat_bits] == 0) & within))
    page = log2(4096 // CONFIG.channel_bytes)
    size = log2(CONFIG.channel_bytes)
    half = log2(CONFIG.channels_per_group)
    loads, fetches = unit.load.ar.valid & unit.load.ar.ready, unit.fetch.ar.valid & unit.fetch.ar.ready
    b.claim("one request at a time", ~(loads & fetches))
    sources = {
        "ar": (b.wire(loads | fetches), Mux(fetches, unit.fetch.ar.payload, unit.load.ar.payload)),
        "aw": (b.wire(unit.store.aw.valid & unit.store.aw.ready), unit.store.aw.payload.as_value()),
    }
    taken: dict[str, list[Any]] = {"ar": [], "aw": []}
    for number, axi in enumerate(unit.axi):
        for prefix, (accepted, payload) in sources.items():
            name = f"{prefix} of channel {number}"
            valid, ready = getattr(axi, f"{prefix}valid"), getattr(axi, f"{prefix}ready")
            address, length = getattr(axi, f"{prefix}addr"), getattr(axi, f"{prefix}len")
            others = ("id", "size", "burst", "lock", "cache", "prot", "qos")
            rest = Cat(getattr(axi, f"{prefix}{field}") for field in others)
            b.hold(name, valid, ready, Cat(address, length, rest))
            b.claim(f"{name}: full width, INCR", ~valid | ((getattr(axi, f"{prefix}size") == size)
                                                           & (getattr(axi, f"{prefix}burst") == 1)))  # fmt: skip
            b.claim(
                f"{name} is within 4 KiB, and no longer than configured",
                ~valid
                | (
                    (address[size:][:page] + length < 1 << page) & (length < CONFIG.burst_beats) & (address[:size] == 0)
                ),
            )
            due = b.count(2, accepted, valid & ready)
            b.claim(f"{name}: one for each request", valid == (due != 0))
            b.claim(f"{name}: at most one waits", due <= 1)
            request = Signal(len(payload), name=f"request_{prefix}{number}")
            with b.m.If(accepted):
                b.m.d.sync += request.eq(payload)
            addr_bits = CONFIG.address_bits
            same = (address == request[half:addr_bits]) & (length == request[addr_bits:])
            b.claim(f"{name} is what was asked for", ~valid | same)
            taken[prefix].append(valid & ready)
        was_fetch = Signal(name=f"was_fetch{number}")
        with b.m.If(sources["ar"][0]):
            b.m.d.sync += was_fetch.eq(fetches)
        b.claim(f"ids of channel {number}",
                ~axi.arvalid | (axi.arid == Mux(was_fetch, FETCH_ID, LOAD_ID)))  # fmt: skip
        b.claim(f"writes of channel {number} have id 0", axi.awid == 0)
    first, second = taken["ar"]
    b.cover("channels take a request in different cycles", first & ~second & b.past(second) & unit.axi[0].arid)
    b.cover("a load's request right after a fetch's", loads & b.past(fetches))


def writes(b: Bench, block: Any) -> None:
    unit = place(b, block)
    w = unit.store.w
    accepted = b.wire(w.valid & w.ready)
    beat = Signal(w.payload.shape())
    with b.m.If(accepted):
        b.m.d.sync += beat.eq(w.payload)
    width = 8 * CONFIG.channel_bytes
    for number, axi in enumerate(unit.axi):
        name = f"w of channel {number}"
        b.hold(name, axi.wvalid, axi.wready, Cat(axi.wdata, axi.wstrb, axi.wlast))
        due = b.count(2, accepted, axi.wvalid & axi.wready)
        b.claim(f"{name}: one beat for each of the unit", axi.wvalid == (due != 0))
        b.claim(f"{name}: at most one waits", due <= 1)
        part = (
            (axi.wdata == beat.data.word_select(number, width))
            & (axi.wstrb == beat.strobe.word_select(number, CONFIG.channel_bytes))
            & (axi.wlast == beat.last)
        )
        b.claim(f"{name}: its part of the beat, last where the unit says", ~axi.wvalid | part)
        b.claim(f"b of channel {number} is taken with the others",
                axi.bready == (unit.store.b.valid & unit.store.b.ready))  # fmt: skip
    b.claim("a response when all have one", unit.store.b.valid == Cat(axi.bvalid for axi in unit.axi).all())
    b.claim("an error of one is the group's", unit.store.b.payload.error == Cat(axi.bresp[1] for axi in unit.axi).any())
    b.cover("channels take a beat in different cycles",
            unit.axi[1].wvalid & ~unit.axi[0].wvalid & unit.axi[1].wlast)  # fmt: skip
    b.cover("a beat in every cycle", accepted & b.past(accepted) & b.past(b.past(accepted)))


def loaded(b: Bench, block: Any) -> None:
    unit = place(b, block)
    valid = Cat(axi.rvalid & (axi.rid == LOAD_ID) for axi in unit.axi)
    r = unit.load.r
    b.claim("a load's beat is one of every channel", r.valid == valid.all())
    for number, axi in enumerate(unit.axi):
        b.claim(f"a load's beat of channel {number} is taken with the group's",
                (axi.rready & axi.rvalid & (axi.rid == LOAD_ID)) == (r.valid & r.ready))  # fmt: skip
    b.claim("their data side by side", ~r.valid | (r.payload.data == Cat(axi.rdata for axi in unit.axi)))
    failed = Cat(axi.rresp[1] for axi in unit.axi).any()
    b.claim("an error of one is the group's", ~r.valid | (r.payload.error == failed))
    b.cover("a channel waits for the other", r.valid & r.ready & b.past(unit.axi[0].rvalid & ~unit.axi[1].rvalid))


def fetched(b: Bench, block: Any) -> None:
    unit = place(b, block, WIDE)
    r = unit.fetch.r
    pop = b.wire(r.valid & r.ready)
    # The fetch unit has asked for no more than the buffer holds, and a channel brings what was asked for.
    bits = BUFFER.bit_length() + 1
    asked = b.free("asked", bits)
    owed = Signal(bits)
    b.m.d.sync += owed.eq(owed + asked - pop)
    b.assume((asked <= BUFFER) & (owed + asked <= BUFFER))
    for number, axi in enumerate(unit.axi):
        push = b.wire(axi.rvalid & axi.rready & (axi.rid == FETCH_ID))
        held = b.count(bits, push, pop)
        offers = b.wire(axi.rvalid & (axi.rid == FETCH_ID))
        b.assume(~offers | (held < owed))
        b.claim(f"a fetched beat of channel {number} is never refused", ~offers | axi.rready)
        if number == 1:
            shown = r.payload.data.word_select(number, 8 * WIDE.channel_bytes)
            any_word(b, f"channel {number}", push, axi.rdata[:1], pop, shown[:1], held)
    b.cover("the buffer is full", b.wire(owed) == BUFFER)


PROOFS = (
    Proof(
        "axi-requests", GroupMaster,
        "AR and AW: held until taken, one a channel for each request, what was asked for, full width, within 4 KiB",
        requests,
        (
            Bug("a request is dropped when one channel has taken it", "m.d.sync += pending.eq(left)",
                "m.d.sync += pending.eq(left & left >> 1)"),
            Bug("a new request is taken while a channel still waits", "ready.eq(left == 0)", "ready.eq(left != 3)"),
            Bug("both requests are taken in one cycle", "self.load.ar.ready.eq(ready & ~self.fetch.ar.valid)",
                "self.load.ar.ready.eq(ready)"),
        ),
    ),
    Proof(
        "axi-writes", GroupMaster,
        "W: held until taken, each channel its part of each beat and WLAST; B taken together", writes,
        (
            Bug("channels take each other's part", "beat.data.word_select(i, 8 * channel_bytes)",
                "beat.data.word_select(1 - i, 8 * channel_bytes)"),
            Bug("a response is taken before all channels have one", "axi.bready.eq(answered & store.b.ready)",
                "axi.bready.eq(store.b.ready)"),
        ),
    ),
    Proof(
        "axi-loaded", GroupMaster,
        "R of loads: a beat is taken from all channels at once, its data and errors together", loaded,
        (Bug("a channel's beat is taken before the others'", "taken.eq(is_load.all() & self.load.r.ready)",
             "taken.eq(is_load.any() & self.load.r.ready)"),),
    ),
    Proof(
        "axi-fetched", GroupMaster,
        "R of fetches: never refused while no more than the buffer is asked for; in order on every channel", fetched,
        (
            Bug("beats of loads enter the buffer", "buffer.input.valid.eq(axi.rvalid & (axi.rid == FETCH_ID))",
                "buffer.input.valid.eq(axi.rvalid)"),
            Bug("a channel's beat leaves the buffer before the others' are there",
                "output.ready.eq(valid & self.fetch.r.ready)", "output.ready.eq(self.fetch.r.ready)"),
        ),
        slow=True,
    ),
)  # fmt: skip
