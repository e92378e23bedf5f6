# SPDX-License-Identifier: Apache-2.0
"""Fetch and dispatch of the cycle model: when instructions are there, full queues, and the end of the memory."""

from __future__ import annotations

import pytest

from hdl.config import INSTRUCTION_BYTES, PRESETS
from hdl.isa import Instruction, LoadDest, Opcode
from scheduler.cost.blocks import blocks_of
from scheduler.cost.memory_timing import MemoryTiming
from scheduler.cost.model import simulate

NOP = Instruction(Opcode.NOP, {})
VECTOR = Instruction(Opcode.VECTOR, {"vectors": 64, "rows": 8})


@pytest.mark.parametrize("name", ["tiny", "small", "medium"])
def test_the_first_instruction_comes_a_latency_after_the_start_and_the_others_as_fast_as_their_beats(name: str) -> None:
    config = PRESETS[name]
    b = blocks_of(config)
    for latency in (10, 40):
        dispatched = simulate(config, [NOP] * 9, memory=MemoryTiming(latency=latency)).dispatched
        first = b.fetch_first + latency + b.instruction_beats - 1 + b.fetch_beat + b.dispatch
        assert dispatched[0] == first
        assert dispatched[8] - dispatched[0] == 8 * b.instruction_beats


def test_a_full_queue_holds_up_what_comes_behind_it() -> None:
    config = PRESETS["tiny"]
    blocked = simulate(config, [VECTOR] * (config.queue_depth + 8) + [NOP])
    assert blocked.dispatched[-1] > 5 * 64 * 8
    free = simulate(config, [VECTOR] * config.queue_depth + [NOP])
    assert free.dispatched[-1] < 64 * 8


@pytest.mark.parametrize("name", ["tiny", "small", "medium"])
def test_a_stream_of_any_length_can_be_the_last_thing_in_memory(name: str) -> None:
    for count in (1, 3, 16, 17, 40):
        forecast = simulate(PRESETS[name], [NOP] * count, fetch_room=INSTRUCTION_BYTES * count)
        assert forecast.dispatched[-1] == simulate(PRESETS[name], [NOP] * count).dispatched[-1]


def test_what_is_fetched_behind_a_stream_takes_the_bus_unless_the_memory_ends() -> None:
    config = PRESETS["tiny"]
    load = Instruction(Opcode.LOAD, {"dest_kind": LoadDest.ROWS, "count": 4, "addr": 64})
    end = Instruction(Opcode.END, {})
    behind = simulate(config, [load, end])
    alone = simulate(config, [load, end], fetch_room=2 * INSTRUCTION_BYTES)
    beats = blocks_of(config).fetch_depth - 2 * INSTRUCTION_BYTES // config.group_bytes
    assert beats // 2 < behind.done[0] - alone.done[0] <= beats
    assert alone.dispatched[0] == behind.dispatched[0]
