# SPDX-License-Identifier: Apache-2.0
"""The FIFOs' latencies, measured."""

from __future__ import annotations

from typing import Any

from hdl.common.sram_fifo import TIMING as SRAM
from hdl.common.sram_fifo import SramFifo
from hdl.common.stream_fifo import TIMING, StreamFifo
from tests.support.timing import record


def test_stream_fifo() -> None:
    fifo = StreamFifo(8, 4)

    def drive(ctx: Any, cycle: int) -> None:
        ctx.set(fifo.input.valid, cycle == 5)

    assert record(fifo, {"out": fifo.output.valid}, drive)["out"][0] == 5 + TIMING.through


def test_sram_fifo() -> None:
    fifo = SramFifo(8, 4)

    def drive(ctx: Any, cycle: int) -> None:
        ctx.set(fifo.push, cycle == 5)

    assert record(fifo, {"out": fifo.valid}, drive)["out"][0] == 5 + SRAM.through
