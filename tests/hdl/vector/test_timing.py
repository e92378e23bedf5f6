# SPDX-License-Identifier: Apache-2.0
"""The latencies of the vector unit's parts, measured; those of its pipeline are seen at the unit as a whole."""

from __future__ import annotations

from typing import Any

import pytest

from hdl.config import PRESETS
from hdl.isa import Instruction, Opcode, VectorBits, VectorDest, VectorOp
from hdl.vector.route import TIMING as ROUTE
from hdl.vector.route import RouteUnit
from hdl.vector.setup import TIMING as SETUP
from hdl.vector.setup import VectorSetup
from hdl.vector.unit import VectorUnit, vector_timing
from scheduler.cost.work import route_cycles
from scheduler.stream.table import Table
from tests.support.timing import offer, record

TINY = PRESETS["tiny"]
WAIT = {"wait0_sem": 1, "wait0_count": 1}
SCALE = {"op": VectorOp.SCALE, "vectors": 2, "rows": 3, "dest_kind": VectorDest.ROWS, "bits": VectorBits.BITS32}


def test_setup() -> None:
    def run(**more: int) -> dict[str, list[int]]:
        dut = VectorSetup(TINY)

        def drive(ctx: Any, cycle: int) -> None:
            offer(ctx, dut.queue, Instruction(Opcode.VECTOR, {**SCALE, **more}), cycle == 5)
            ctx.set(dut.wait.ready, cycle == 30)

        return record(dut, {"ask": dut.wait.valid, "offer": dut.start.valid}, drive)

    assert run()["offer"][0] == 5 + SETUP.check
    waiting = run(**WAIT)
    assert waiting["ask"][0] == 5 + SETUP.check and waiting["offer"][0] == 30 + SETUP.grant


@pytest.mark.parametrize(
    ("tokens", "choices", "experts", "used"), [(8, 1, 8, 8), (16, 2, 8, 8), (30, 2, 12, 12), (9, 1, 8, 1), (4, 1, 3, 2)]
)
@pytest.mark.parametrize("by_number", [0, 1])
def test_route(tokens: int, choices: int, experts: int, used: int, by_number: int) -> None:
    """Choices are spread over the first `used` experts; with an empty one at the end sorting is a cycle shorter."""
    taken = 60  # behind the clearing of its counters
    dut = RouteUnit(TINY)
    fields = {"tokens": tokens, "choices": choices, "experts": experts, "by_number": by_number}
    route, address = Instruction(Opcode.ROUTE, {**fields, "post0_en": 1}), 0

    def drive(ctx: Any, cycle: int) -> None:
        nonlocal address
        offer(ctx, dut.queue, route, cycle == taken)
        ctx.set(dut.scalar_data, address % used << 16)
        for ready in (dut.row_ready, dut.list_ready, dut.post.ready):
            ctx.set(ready, 1)
        if ctx.get(dut.scalar_en):
            address = ctx.get(dut.scalar_addr)

    seen = record(dut, {"begun": dut.begun, "post": dut.post.valid, "error": dut.error.valid}, drive, cycles=400)
    assert seen["begun"] == [taken + ROUTE.check] and not seen["error"]
    most = -(-tokens * choices // used)
    cycles = route_cycles(Table.of([route]).rows, 0, ROUTE.phases, ROUTE.sort, most)
    assert seen["post"][0] == seen["begun"][0] + cycles - (0 if used == experts or by_number else 1)


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_unit(name: str) -> None:
    """A VECTOR that makes rows, then one that reads a scalar which a third one makes."""
    config = PRESETS[name]
    timing, dut = vector_timing(config.columns), VectorUnit(config)
    banks = range(config.result_lanes)

    def drive(ctx: Any, cycle: int) -> None:
        program = {
            5: Instruction(Opcode.VECTOR, {**SCALE, "post0_en": 1}),
            100: Instruction(Opcode.VECTOR, {"op": VectorOp.SUMSQ, "vectors": 1, "rows": 1, "post0_en": 1}),
        }
        offer(ctx, dut.queue, program[100 if cycle > 50 else 5], cycle in program)
        for bank in banks:
            ctx.set(dut.row_read[bank].ready, 1)
            ctx.set(dut.row_write[bank].ready, 1)
        ctx.set(dut.post.ready, 1)

    watched = {"post": dut.post.valid}
    for bank in banks:
        watched |= {f"read{bank}": dut.row_read[bank].valid, f"write{bank}": dut.row_write[bank].valid}
    seen = record(dut, watched, drive, cycles=200)
    reads = sorted(cycle for bank in banks for cycle in seen[f"read{bank}"])
    writes = sorted(cycle for bank in banks for cycle in seen[f"write{bank}"])
    first = 5 + SETUP.check + timing.issue
    assert reads == [*range(first, first + 6), 100 + SETUP.check + timing.issue]
    assert writes == [cycle + timing.row for cycle in reads[:6]]
    assert seen["post"] == [
        writes[-1] + timing.done + timing.post, reads[-1] + timing.scalar + timing.done + timing.post,
    ]  # fmt: skip
