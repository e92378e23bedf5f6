# SPDX-License-Identifier: Apache-2.0
"""When things happen at the ports of one block alone: what its ``TIMING`` says is measured with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from amaranth.hdl import Value
from amaranth.lib.wiring import Component
from amaranth.sim import Simulator

from hdl.interfaces import queue_entry_layout
from hdl.isa import Instruction, encode

__all__ = ["offer", "record"]

Cycles = dict[str, list[int]]


def record(dut: Component, watched: Mapping[str, Any], drive: Callable[[Any, int], None], cycles: int = 80) -> Cycles:
    """Run a block; return for each watched signal the cycles in which it is not zero.

    Parameters
    ----------
    dut : Component
        The block; simulated as it is.
    watched : mapping of str to Value
        Outputs, or expressions of them.
    drive : callable
        ``drive(ctx, cycle)`` sets the inputs of a cycle before the outputs are looked at.
    cycles : int
    """
    seen: Cycles = {name: [] for name in watched}

    async def bench(ctx: Any) -> None:
        for cycle in range(cycles):
            drive(ctx, cycle)
            for name, value in watched.items():
                if ctx.get(Value.cast(value)):
                    seen[name].append(cycle)
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return seen


def offer(ctx: Any, port: Any, instruction: Instruction, valid: bool = True) -> None:
    """Show an instruction at the head of a queue."""
    word = int.from_bytes(encode(instruction), "little")
    ctx.set(port.payload, queue_entry_layout().const({"word": word, "pc": 3}))
    ctx.set(port.valid, int(valid))
