# SPDX-License-Identifier: Apache-2.0
"""The vector unit with a Python combine buffer, activation buffers and semaphores, in Amaranth's simulator."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from amaranth.sim import Simulator

from hdl.config import MachineConfig
from hdl.interfaces import queue_entry_layout
from hdl.isa import Instruction, encode
from hdl.vector.unit import VectorUnit, vector_stats_layout


@dataclass
class VectorBench:
    """Plays VECTOR and ROUTE instructions; `combine` and `activation` are changed in place by the unit under test.

    `stall` is the probability with which each ready signal is low in a cycle.
    """

    config: MachineConfig
    combine: np.ndarray
    activation: np.ndarray
    stall: float = 0.0
    seed: int = 0
    lists: dict[int, tuple[int, int, int, int]] = field(default_factory=dict)
    table: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    posts: list[tuple[int, int, int, int]] = field(default_factory=list)
    stats: dict[str, int] = field(default_factory=dict)
    error: tuple[int, int] | None = None
    cycles: int = 0
    finished: list[int] = field(default_factory=list)

    def run(self, instructions: Sequence[Instruction], limit: int = 20_000) -> None:
        """Run until all instructions are done, or one is in error."""
        unit = VectorUnit(self.config)
        rng = random.Random(self.seed)
        todo = deque(instructions)
        shape = queue_entry_layout()
        lanes, columns = self.config.result_lanes, self.config.columns
        names = list(vector_stats_layout().members)

        def go() -> bool:
            return rng.random() >= self.stall

        async def bench(ctx: Any) -> None:
            pending: list[tuple[int, int] | None] = [None] * lanes
            number = idle = 0
            while self.cycles < limit:
                # What was read in the cycle before shows now, garbage at other times.
                for bank in range(lanes):
                    row = rng.getrandbits(32 * columns)
                    if pending[bank] is not None:
                        values = self.combine[pending[bank][0] * lanes + bank]
                        row = int.from_bytes(values.astype("<i4").tobytes(), "little")
                    ctx.set(unit.row_data[bank].as_value(), row)
                    ctx.set(unit.row_read[bank].ready, int(go()))
                    ctx.set(unit.row_write[bank].ready, int(go()))
                ctx.set(unit.act_write.ready, int(go()))
                ctx.set(unit.list_ready, int(go()))
                ctx.set(unit.wait.ready, int(go()))
                ctx.set(unit.post.ready, int(go()))
                if todo and not ctx.get(unit.queue.valid):
                    word = int.from_bytes(encode(todo[0]), "little")
                    ctx.set(unit.queue.payload, shape.const({"word": word, "pc": number}))
                    ctx.set(unit.queue.valid, 1)
                # Sample.
                taken = ctx.get(unit.queue.valid) and ctx.get(unit.queue.ready)
                for bank in range(lanes):
                    read, write = unit.row_read[bank], unit.row_write[bank]
                    pending[bank] = None
                    if ctx.get(read.valid) and ctx.get(read.ready):
                        pending[bank] = (ctx.get(read.payload), 0)
                    if ctx.get(write.valid) and ctx.get(write.ready):
                        data = ctx.get(write.payload.data.as_value()).to_bytes(4 * columns, "little")
                        place = ctx.get(write.payload.row) * lanes + bank
                        later = np.frombuffer(data, "<i4")
                        self._write(place, later)
                if ctx.get(unit.act_write.valid) and ctx.get(unit.act_write.ready):
                    word = unit.act_write.payload
                    enable, addr, tiers = ctx.get(word.enable), ctx.get(word.addr), ctx.get(word.tiers)
                    data = ctx.get(word.data.as_value()).to_bytes(self.config.rows, "little")
                    for tier in range(self.config.tiers):
                        if tiers >> tier & 1:
                            for byte in range(self.config.rows):
                                if enable >> byte & 1:
                                    self.activation[tier, addr, byte] = np.frombuffer(data, np.int8)[byte]
                if ctx.get(unit.list_valid) and ctx.get(unit.list_ready):
                    entry = unit.list_entry
                    fields = tuple(ctx.get(getattr(entry, n)) for n in ("source", "dest", "gate", "drop"))
                    self.lists[ctx.get(unit.list_addr)] = fields
                slot = unit.slot_write
                if ctx.get(slot.valid):
                    self.table[ctx.get(slot.slot)] = tuple(
                        ctx.get(getattr(slot, n)) for n in ("count", "base", "expert", "high_only")
                    )
                if ctx.get(unit.post.valid) and ctx.get(unit.post.ready):
                    p = unit.post.payload
                    self.posts.append(tuple(ctx.get(getattr(p, n)) for n in ("en0", "sem0", "en1", "sem1")))
                for name in names:
                    self.stats[name] = self.stats.get(name, 0) + ctx.get(getattr(unit.stats, name))
                if ctx.get(unit.error.valid):
                    self.error = (ctx.get(unit.error.code), ctx.get(unit.error.pc))
                    return
                idle = 0 if todo or ctx.get(unit.busy) else idle + 1
                if idle > 3:
                    return
                await ctx.tick()
                self.cycles += 1
                if taken:
                    todo.popleft()
                    number += 1
                    ctx.set(unit.queue.valid, 0)
            raise AssertionError(f"not finished after {limit} cycles; {len(todo)} instructions left")

        self.unit = unit
        simulator = Simulator(unit)
        simulator.add_clock(1e-6)
        simulator.add_testbench(bench)
        simulator.run()

    def _write(self, place: int, values: np.ndarray) -> None:
        self.combine[place] = values
