# SPDX-License-Identifier: Apache-2.0
"""The latencies of dispatcher, semaphores, supervisor, setup and sequencer, measured."""

from __future__ import annotations

from typing import Any

import pytest

from hdl.config import PRESETS
from hdl.control.dispatcher import TIMING as DISPATCHER
from hdl.control.dispatcher import Dispatcher
from hdl.control.operation import TIMING as SETUP
from hdl.control.operation import OperationSetup
from hdl.control.semaphores import TIMING as SEMAPHORES
from hdl.control.semaphores import SemaphoreUnit
from hdl.control.sequencer import TIMING as SEQUENCER
from hdl.control.supervisor import TIMING as SUPERVISOR
from hdl.control.supervisor import Supervisor
from hdl.isa import Instruction, Mapping3D, Opcode
from tests.support.control.sequencer_bench import Bench, small_config
from tests.support.control.sequencer_model import ListEntry
from tests.support.timing import offer, record

TINY = PRESETS["tiny"]
GEMM = {"tier_count": 1, "tokens": 4, "k_slices": 1, "n_tiles": 1}


def gemm(**fields: int) -> Instruction:
    return Instruction(Opcode.GEMM, GEMM | fields)


def test_dispatcher() -> None:
    dut = Dispatcher(TINY)
    seen = record(
        dut, {"issued": dut.issued, "head": dut.queue[0].valid},
        lambda ctx, cycle: offer(ctx, dut.instructions, gemm(), cycle == 4),
    )  # fmt: skip
    assert seen["issued"] == [4 + DISPATCHER.checks]
    assert seen["head"][0] == 4 + DISPATCHER.checks + DISPATCHER.queue


def test_semaphores() -> None:
    dut = SemaphoreUnit(TINY)

    def drive(ctx: Any, cycle: int) -> None:
        ctx.set(dut.wait[0].valid, 1)
        ctx.set(dut.wait[0].payload, {"sem0": 2, "count0": 1})
        ctx.set(dut.post[1].valid, cycle == 6)
        ctx.set(dut.post[1].payload, {"en0": 1, "sem0": 2})

    assert record(dut, {"grant": dut.wait[0].ready}, drive)["grant"] == [6 + SEMAPHORES.post]


def test_supervisor() -> None:
    dut = Supervisor(TINY)

    def drive(ctx: Any, cycle: int) -> None:
        ctx.set(dut.start, cycle == 20)
        for port in (dut.quiet, dut.tags_ready, dut.slots_ready, dut.progress):
            ctx.set(port, 1)
        ctx.set(dut.ended, cycle >= 40)
        ctx.set(dut.idle, cycle >= 45)

    seen = record(dut, {"fetch": dut.fetch_start, "running": dut.running, "done": dut.done}, drive)
    assert seen["running"][0] - seen["fetch"][0] == SUPERVISOR.start
    assert seen["running"][-1] - 45 + 1 == SUPERVISOR.settle
    assert seen["done"], "the stream ends"


@pytest.mark.parametrize(
    ("fields", "after"),
    [({}, 0), ({"slot_en": 1, "slot": 0, "act_list": 1}, SETUP.slot)],
    ids=["plain", "with a slot"],
)
def test_setup(fields: dict[str, int], after: int) -> None:
    granted = 30
    dut = OperationSetup(TINY)

    def drive(ctx: Any, cycle: int) -> None:
        ctx.set(dut.slot_write, {"valid": cycle == 1, "slot": 0, "count": 4, "base": 0, "expert": 0})
        waits = {"wait0_sem": 1, "wait0_count": 1}
        offer(ctx, dut.queue, gemm(**waits, **fields), cycle == 5)
        ctx.set(dut.wait.ready, cycle == granted)

    seen = record(dut, {"ask": dut.wait.valid, "offer": dut.start.valid, "error": dut.error.valid}, drive)
    assert seen["ask"][0] == 5 + SETUP.ask and not seen["error"]
    assert seen["offer"][0] == granted + SETUP.grant + after
    if not fields:
        dut = OperationSetup(TINY)
        seen = record(dut, {"offer": dut.start.valid}, lambda ctx, cycle: offer(ctx, dut.queue, gemm(), cycle == 5))
        assert seen["offer"][0] == 5 + SETUP.setup


LISTS = [[ListEntry(0, 0, 0, 0)] * 32 for _ in range(2)]


def first_wave(bench: Bench, pc: int = 0) -> int:
    """Return the cycle in which the first wave of an instruction is on its tier's dispatch lane."""
    bench.run()
    return bench.record.issues[0][pc].cycle


def test_from_the_grant_to_the_dispatch_lane() -> None:
    wait = gemm(wait0_sem=1, wait0_count=1)
    bench = Bench(small_config(1), [wait], LISTS, grant=lambda cycle, tier: cycle >= 40)
    assert first_wave(bench) == 40 + SETUP.grant + SEQUENCER.nest + SEQUENCER.dispatch


def test_from_the_last_fill_word_to_the_wave() -> None:
    config, at = small_config(1), 60

    def fills(cycle: int) -> list[tuple[int, int, int, int, int]]:
        return [(0, 1, 0, config.fill_words - 1, 0)] if cycle == at else []

    bench = Bench(config, [gemm()], LISTS, resident=False, fills=fills, pending_until=at + 1)
    assert first_wave(bench) == at + SEQUENCER.tile + SEQUENCER.dispatch


def test_from_a_gangs_first_wave_to_the_next_request() -> None:
    gang = gemm(tier_count=2, mapping=int(Mapping3D.N), wait0_sem=2, wait0_count=1)
    follows = gemm(wait0_sem=1, wait0_count=1)
    bench = Bench(small_config(2), [gang, follows], LISTS, grant=lambda cycle, tier: cycle >= 40)
    wave = first_wave(bench) - SEQUENCER.dispatch
    assert [cycle for cycle, _, sems in bench.record.grants if sems[0] == 1] == [wave + SEQUENCER.hold]


def test_from_a_credit_to_the_wave_that_needs_it() -> None:
    config, delay = small_config(1), 100
    tokens = config.row_fifo_depth // 2
    bench = Bench(config, [gemm(tokens=tokens)] * 3, LISTS, credit_delay=lambda: delay)
    bench.run()
    cycles = [issue.cycle for issue in bench.record.issues[0]]
    late = next(n for n in range(1, len(cycles)) if cycles[n] - cycles[n - 1] > 20)
    assert late == config.row_fifo_depth
    assert (
        cycles[late] == cycles[0] + 1 + delay + SEQUENCER.credit + SEQUENCER.dispatch
    )  # the bench is told a cycle later
