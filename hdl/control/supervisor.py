# SPDX-License-Identifier: Apache-2.0
"""Start, end, error and deadlock: the state machine above all units."""

from __future__ import annotations

from typing import Final, NamedTuple

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.config import MachineConfig
from hdl.interfaces import PC_BITS, error_layout
from hdl.isa.error_codes import ErrorCode

__all__ = ["ERROR_SOURCES", "TIMING", "Supervisor", "SupervisorTiming"]

ERROR_SOURCES = 7
"""Error reports: dispatcher, sequencers, collector, loads, store, vector unit, fetch; in the same cycle the earlier
one wins."""

SETTLE_CYCLES = 16
"""Idle cycles required before END counts as reached: covers work on its way between two units."""


class SupervisorTiming(NamedTuple):
    """Cycles of the supervisor.

    Attributes
    ----------
    start : int
        From the start of the fetch to the first cycle that counts.
    settle : int
        Cycles that count from the first one in which all units are idle after END, that one included.
    """

    start: int
    settle: int


TIMING: Final = SupervisorTiming(start=1, settle=SETTLE_CYCLES + 1)
"""The fetch starts in the last cycle of the state before."""


class Supervisor(wiring.Component):
    """Sequences a stream from start to done or to a clean stop.

    Start clears the counters and enables the fetch. After END the machine is done once every unit has been idle for
    `SETTLE_CYCLES`. The first error halts all units; when no AXI transaction is outstanding, ``soft_reset`` clears all
    control state, the tags are swept, and the machine is ready again.

    Members
    -------
    start : In(1)
        Pulse from the registers (only given while ``ready``).
    invalidate : In(1)
        With ``start``: sweep the tags before the stream.
    ready, busy, running : Out(1)
        A stream can start / is running or being stopped / counts cycles.
    done, failed : Out(1)
        Pulses to the registers.
    report : Out(error_layout())
        The latched first error.
    error : In(error_layout()).array(ERROR_SOURCES)
    overflow : In(1)
        Semaphore overflow.
    ended, idle, quiet, tags_ready, slots_ready, progress : In(1)
        END dispatched; all units idle; no AXI transaction outstanding; tag sweep finished; routing table cleared;
        something moved this cycle.
    kept_tiles : In(vcache_bits + 1)
        With ``invalidate``: tiles of each tier, from the first on, whose tags stay.
    watchdog : In(32)
        Cycles without progress that count as deadlock, 0 = off.
    stuck_pc : In(PC_BITS)
        Instruction to blame for a deadlock.
    fetch_start, clear_counters, halt : Out(1)
    restart : Out(1)
        Resets what a finished stream leaves behind: semaphores, the END flag, buffered instructions.
    soft_reset, tags_clear : Out(1)
        After power-up and after an error: resets all control state and sweeps the tags.
    tags_first : Out(vcache_bits + 1)
        With ``tags_clear``: the first tile that is swept.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "start": In(1),
                "invalidate": In(1),
                "ready": Out(1),
                "busy": Out(1),
                "running": Out(1),
                "done": Out(1),
                "failed": Out(1),
                "report": Out(error_layout()),
                "error": In(error_layout()).array(ERROR_SOURCES),
                "overflow": In(1),
                "ended": In(1),
                "idle": In(1),
                "quiet": In(1),
                "tags_ready": In(1),
                "slots_ready": In(1),
                "progress": In(1),
                "kept_tiles": In(config.vcache_bits + 1),
                "watchdog": In(32),
                "stuck_pc": In(PC_BITS),
                "fetch_start": Out(1),
                "clear_counters": Out(1),
                "halt": Out(1),
                "restart": Out(1),
                "soft_reset": Out(1),
                "tags_clear": Out(1),
                "tags_first": Out(config.vcache_bits + 1),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return f"supervisor_d{self.config.vcache_tiles}"

    def elaborate(self, platform: object) -> Module:
        """Build the state machine."""
        m = Module()
        report = Signal(error_layout())
        m.d.comb += self.report.eq(report)

        silence = Signal(32)
        stuck = Signal()
        m.d.comb += stuck.eq((self.watchdog != 0) & (silence >= self.watchdog))
        with m.If(self.progress | ~self.running):
            m.d.sync += silence.eq(0)
        with m.Else():
            m.d.sync += silence.eq(silence + 1)

        settle = Signal(range(SETTLE_CYCLES + 1))
        error_now = Signal()
        chosen = Signal(error_layout())
        m.d.comb += error_now.eq(self.overflow | stuck | Cat(source.valid for source in self.error).any())
        m.d.comb += chosen.valid.eq(1)
        with m.If(self.error[0].valid):
            m.d.comb += chosen.eq(self.error[0])
        for source in list(self.error)[1:]:
            with m.Elif(source.valid):
                m.d.comb += chosen.eq(source)
        with m.Elif(self.overflow):
            m.d.comb += chosen.code.eq(ErrorCode.SEMAPHORE)
        with m.Else():
            m.d.comb += [chosen.code.eq(ErrorCode.WATCHDOG), chosen.pc.eq(self.stuck_pc)]

        with m.FSM(name="state"):
            with m.State("CLEAR"):
                m.d.comb += [self.soft_reset.eq(1), self.tags_clear.eq(1)]
                m.next = "SWEEP"
            with m.State("SWEEP"):
                # The units' resets are registers: they are on in the first of these cycles.
                m.d.sync += self.halt.eq(0)
                with m.If(self.tags_ready & self.slots_ready):
                    m.next = "READY"
            with m.State("READY"):
                m.d.comb += self.ready.eq(1)
                m.d.sync += settle.eq(0)
                with m.If(self.start):
                    # Control state of the previous stream (semaphores, END) goes; memories and tags stay.
                    m.d.comb += [self.restart.eq(1), self.clear_counters.eq(1)]
                    m.d.sync += report.eq(0)
                    m.d.comb += [self.tags_clear.eq(self.invalidate), self.tags_first.eq(self.kept_tiles)]
                    m.next = "START"
            with m.State("START"):
                # The sweep begins the cycle after its request; give `tags_ready` time to fall.
                m.d.comb += self.busy.eq(1)
                m.d.sync += settle.eq(settle + 1)
                with m.If((settle >= 2) & self.tags_ready):
                    m.d.comb += self.fetch_start.eq(1)
                    m.d.sync += settle.eq(0)
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += [self.busy.eq(1), self.running.eq(1)]
                with m.If(error_now):
                    m.d.sync += [report.eq(chosen), settle.eq(0), self.halt.eq(1)]
                    m.next = "STOP"
                with m.Elif(self.ended & self.idle):
                    m.d.sync += settle.eq(settle + 1)
                    with m.If(settle == SETTLE_CYCLES):
                        m.d.comb += self.done.eq(1)
                        m.next = "READY"
                with m.Else():
                    m.d.sync += settle.eq(0)
            # `halt`, which goes to every unit, is a register: high from STOP until the units have been reset.
            with m.State("STOP"):
                m.d.comb += self.busy.eq(1)
                m.d.sync += settle.eq(settle + 1)
                with m.If(~self.quiet):
                    m.d.sync += settle.eq(0)
                with m.Elif(settle == SETTLE_CYCLES):
                    m.next = "REPORT"
            with m.State("REPORT"):
                m.d.comb += [self.busy.eq(1), self.failed.eq(1)]
                m.next = "CLEAR"
        return m
