# SPDX-License-Identifier: Apache-2.0
"""The latencies of the memory path's blocks, measured."""

from __future__ import annotations

from typing import Any

import pytest

from hdl.config import PRESETS
from hdl.isa import Instruction, LoadDest, Opcode, StoreFormat
from hdl.memory.axi import TIMING as MASTER
from hdl.memory.axi import GroupMaster, fetch_buffer_beats
from hdl.memory.bursts import TIMING as BURSTS
from hdl.memory.bursts import BurstSplitter
from hdl.memory.fetch import TIMING as FETCH
from hdl.memory.fetch import FetchUnit, longest_burst
from hdl.memory.load_address import TIMING as ADDRESSES
from hdl.memory.load_address import LoadAddress
from hdl.memory.loads import TIMING as LOADS
from hdl.memory.loads import LoadUnit
from hdl.memory.store import TIMING as STORE
from hdl.memory.store import StoreUnit
from hdl.memory.store_decode import TIMING as STORE_FRONT
from hdl.memory.store_decode import StoreDecode
from tests.support.timing import offer, record

TINY = PRESETS["tiny"]
WAIT = {"wait0_sem": 1, "wait0_count": 1}
LIMIT = 1 << 16


def test_burst_splitter() -> None:
    dut = BurstSplitter(TINY, 8)

    def drive(ctx: Any, cycle: int) -> None:
        ctx.set(dut.range.valid, cycle == 3)
        ctx.set(dut.range.payload, {"addr": 0, "beats": 4})
        for port, value in ((dut.enable, 1), (dut.room, 100), (dut.request.ready, 1)):
            ctx.set(port, value)

    seen = record(dut, {"issued": dut.issued, "request": dut.request.valid}, drive)
    assert seen == {"issued": [3 + BURSTS.issue], "request": [3 + BURSTS.issue + BURSTS.request]}


def test_group_master() -> None:
    dut = GroupMaster(TINY, fetch=True)
    axi = dut.axi[0]

    def drive(ctx: Any, cycle: int) -> None:
        ctx.set(dut.load.ar.valid, cycle == 3)
        ctx.set(dut.store.aw.valid, cycle == 3)
        ctx.set(dut.store.w.valid, cycle == 8)
        for ready in (axi.arready, axi.awready, axi.wready, dut.load.r.ready):
            ctx.set(ready, 1)
        ctx.set(axi.rvalid, cycle in (12, 20))
        ctx.set(axi.rid, cycle == 12)

    watched = {
        "ar": axi.arvalid, "aw": axi.awvalid, "w": axi.wvalid, "fetched": dut.fetch.r.valid, "loaded": dut.load.r.valid,
    }  # fmt: skip
    seen = record(dut, watched, drive)
    assert seen["ar"] == seen["aw"] == [3 + MASTER.request] and seen["w"] == [8 + MASTER.request]
    assert seen["fetched"][0] == 12 + MASTER.fetched and seen["loaded"] == [20]


def test_fetch_unit() -> None:
    dut, beats = FetchUnit(TINY), longest_burst(TINY)
    word = 32 // TINY.group_bytes
    given = range(30, 30 + beats)

    def drive(ctx: Any, cycle: int) -> None:
        ctx.set(dut.start, cycle == 3)
        ctx.set(dut.limit, LIMIT)
        ctx.set(dut.read.ar.ready, 1)
        ctx.set(dut.instructions.ready, 1)
        ctx.set(dut.read.r.valid, cycle in given)

    watched = {"ar": dut.read.ar.valid, "out": dut.instructions.valid, "taken": dut.read.r.ready}
    seen = record(dut, watched, drive, cycles=30 + beats + 20)
    first = fetch_buffer_beats(TINY) // beats
    assert seen["ar"][0] == 3 + FETCH.start
    assert set(given) <= set(seen["taken"]), "beats are taken at once"
    assert seen["out"][0] == given[word - 1] + FETCH.word
    assert seen["ar"][first] == given[-1] + FETCH.again


@pytest.mark.parametrize("slot", [False, True], ids=["plain", "with a slot"])
def test_load_address(slot: bool) -> None:
    granted = 30
    fields = {"dest_kind": LoadDest.PARAMETER, "dest_tiers": 1, "count": 2, "group": 1, "addr": 4}
    fields |= {"slot_en": 1, "slot": 0} if slot else {}

    def run(**more: int) -> dict[str, list[int]]:
        dut = LoadAddress(TINY, 1)

        def drive(ctx: Any, cycle: int) -> None:
            ctx.set(dut.slot_write, {"valid": cycle == 1, "slot": 0, "count": 4, "base": 0, "expert": 0})
            for port, value in ((dut.limit, LIMIT), (dut.jobs.ready, 1), (dut.request.ready, 1)):
                ctx.set(port, value)
            offer(ctx, dut.queue, Instruction(Opcode.LOAD, {**fields, **more}), cycle == 5)
            ctx.set(dut.wait.ready, cycle == granted)

        watched = {"ask": dut.wait.valid, "begun": dut.begun, "request": dut.request.valid, "fault": dut.fault.valid}
        return record(dut, watched, drive)

    plain, waiting = run(), run(**WAIT)
    after = ADDRESSES.slot if slot else 0
    assert plain["begun"] == [5 + ADDRESSES.decode + after]
    assert waiting["ask"][0] == 5 + ADDRESSES.decode and waiting["begun"] == [granted + ADDRESSES.grant + after]
    for seen in (plain, waiting):
        assert seen["request"][0] == seen["begun"][0] + BURSTS.issue + BURSTS.request and not seen["fault"]


def test_load_unit() -> None:
    """A load of one activation word: its beats, the word, the post."""
    dut, beats = LoadUnit(TINY), TINY.rows // TINY.group_bytes
    load = Instruction(
        Opcode.LOAD, {"dest_kind": LoadDest.ACTIVATION, "dest_tiers": 1, "count": 1, "group": 1, "post0_en": 1}
    )
    given = range(30, 30 + beats)

    def drive(ctx: Any, cycle: int) -> None:
        offer(ctx, dut.queue[1], load, cycle == 5)
        ctx.set(dut.limit[1], LIMIT)
        for ready in (dut.read[1].ar.ready, dut.bus_write.ready, dut.post[1].ready):
            ctx.set(ready, 1)
        ctx.set(dut.read[1].r.valid, cycle in given)
        ctx.set(dut.read[1].r.payload.last, cycle == given[-1])

    seen = record(dut, {"word": dut.bus_write.valid, "post": dut.post[1].valid}, drive)
    assert seen["word"] == [given[-1] + LOADS.beat + LOADS.word]
    assert seen["post"] == [seen["word"][0] + LOADS.post]


def test_store_decode() -> None:
    def run(**fields: int) -> dict[str, list[int]]:
        dut = StoreDecode(TINY)

        def drive(ctx: Any, cycle: int) -> None:
            offer(ctx, dut.queue, Instruction(Opcode.STORE, {"rows": 5, **fields}), cycle == 5)
            ctx.set(dut.window_limit[0], LIMIT)
            ctx.set(dut.wait.ready, cycle == 30)

        return record(dut, {"ask": dut.wait.valid, "offer": dut.job.valid, "error": dut.error.valid}, drive)

    waiting = run(**WAIT)
    assert waiting["ask"][0] == 5 + STORE_FRONT.check and waiting["offer"][0] == 30 + STORE_FRONT.grant
    assert run()["offer"][0] == 5 + STORE_FRONT.check
    assert run(addr_gap=3)["offer"][0] == 5 + STORE_FRONT.check + (5 - 1).bit_length()


@pytest.mark.parametrize("form", [StoreFormat.INT32, StoreFormat.DISCARD])
def test_store_unit(form: StoreFormat) -> None:
    """Two stores of two rows, whose rows come at once and whose response comes in a cycle of its own."""
    dut = StoreUnit(TINY)
    store = Instruction(Opcode.STORE, {"format": form, "rows": 2, "post0_en": 1})
    beats = 2 * 4 * TINY.columns // TINY.group_bytes
    given, answer = 30, 30 + 4 * beats

    def drive(ctx: Any, cycle: int) -> None:
        offer(ctx, dut.queue, store, cycle in (5, 21))
        ctx.set(dut.window_limit[0], LIMIT)
        for ready in (dut.store_read.ready, dut.write[0].aw.ready, dut.write[0].w.ready, dut.post.ready):
            ctx.set(ready, 1)
        ctx.set(dut.store_data.valid, cycle >= given)
        ctx.set(dut.write[0].b.valid, cycle == answer)

    watched = {
        "begun": dut.begun, "read": dut.store_read.valid, "aw": dut.write[0].aw.valid, "w": dut.write[0].w.valid,
        "post": dut.post.valid, "ended": dut.ended, "taken": dut.store_data.valid & dut.store_data.ready,
    }  # fmt: skip
    seen = record(dut, watched, drive, cycles=answer + 20)
    start = seen["begun"][0]
    assert seen["read"][0] == start + STORE.read
    if form == StoreFormat.DISCARD:
        last = seen["taken"][1]
        assert seen["ended"][0] == last + STORE.discard and seen["post"][0] == seen["ended"][0] + STORE.post
        assert seen["begun"][1] == last + STORE.next
        return
    assert seen["aw"][0] == start + STORE.request
    assert seen["w"][0] == given + STORE.beat
    assert seen["begun"][1] == seen["w"][beats - 1] + STORE.next
    assert seen["post"][0] == answer + STORE.post
