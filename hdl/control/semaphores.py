# SPDX-License-Identifier: Apache-2.0
"""Counting semaphores: the only thing that orders instructions of different queues."""

from __future__ import annotations

from typing import Final, NamedTuple

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.common.queues import queue_count
from hdl.config import MachineConfig
from hdl.emit.hierarchy import digest, instantiate
from hdl.interfaces import post_layout, wait_layout

__all__ = ["POST_SOURCES", "TIMING", "SemaphoreTiming", "SemaphoreUnit"]


class SemaphoreTiming(NamedTuple):
    """Cycles of the semaphores.

    Attributes
    ----------
    post : int
        From the transfer of a post to the first grant that can take it.
    ask : int
        From the first cycle of a wait to its grant, when the counters hold enough.
    again : int
        From a grant to the next one.
    """

    post: int
    ask: int
    again: int


TIMING: Final = SemaphoreTiming(post=3, ask=1, again=3)
"""A post is a register, then in the counter, then in the comparison with what is waited for. So is what a grant takes:
what was compared meanwhile does not count."""

POST_SOURCES = 5
"""Sources of posts: the collector, the two load engines, the store unit, the vector unit."""


class SemaphoreUnit(wiring.Component):
    """``config.semaphores`` counters of ``config.semaphore_bits`` bits, all zero after reset.

    A wait is granted (``ready``) when both of its counters hold at least the counts asked for; both are subtracted.
    Once valid, a wait stays as it is until it is granted, or the machine stops. Grants and posts are fair among their
    requesters (round robin); requesters whose condition does not hold take no turn. Posts and grants of the same cycle
    on the same counter both take effect.

    Latency: `TIMING`. Comparison, arbitration and subtraction have a cycle each, since one after the other they would
    be the longest path of the machine. Throughput: one post a cycle, one grant in three.

    A pair of waits on one semaphore is not legal (the dispatcher refuses it); neither is a wait with a number beyond
    the configuration.

    Members
    -------
    wait : In(stream of wait_layout).array(queue_count)
        Tiers 0 and up, load engines 0 and 1, store unit, vector unit. A transfer is the grant.
    post : In(stream of post_layout).array(POST_SOURCES)
        Collector, load engines 0 and 1, store unit, vector unit. Adds 1 to each enabled semaphore (2 when both are the
        same).
    overflow : Out(1)
        A counter would have passed its maximum two cycles ago (a pulse); the counter keeps its value.
    all_zero : Out(1)
        Every counter is zero, and no post is on its way to one.
    values : Out(semaphore_bits).array(semaphores)
        The counters.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "wait": In(stream.Signature(wait_layout(config))).array(queue_count(config)),
                "post": In(stream.Signature(post_layout(config))).array(POST_SOURCES),
                "overflow": Out(1),
                "all_zero": Out(1),
                "values": Out(config.semaphore_bits).array(config.semaphores),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        c = self.config
        return f"semaphore_unit_{digest(c.tiers, c.semaphores, c.semaphore_bits)}"

    def elaborate(self, platform: object) -> Module:
        """Build the two arbiters and the counters."""
        m = Module()
        config = self.config
        values = Cat(self.values)
        waiters = queue_count(config)

        # Comparison. What a grant of this or of the last cycle takes is not in the counters yet.
        satisfied = Signal(waiters)
        granted = Signal()
        stale = Signal()
        m.d.comb += granted.eq(satisfied.any())
        m.d.sync += stale.eq(granted)
        for index in range(waiters):
            wait = self.wait[index]
            counters = [values.word_select(s, config.semaphore_bits) for s in (wait.payload.sem0, wait.payload.sem1)]
            enough = (counters[0] >= wait.payload.count0) & (counters[1] >= wait.payload.count1)
            m.d.sync += satisfied[index].eq(wait.valid & enough & ~granted & ~stale)
        grant = round_robin(m, "wait", satisfied)
        offered = Signal(POST_SOURCES)
        m.d.comb += offered.eq(Cat(self.post[index].valid for index in range(POST_SOURCES)))
        accept = round_robin(m, "post", offered)

        taken, taking = Signal(wait_layout(config)), Signal(wait_layout(config))
        for index in range(waiters):
            m.d.comb += self.wait[index].ready.eq(grant[index])
            with m.If(grant[index]):
                m.d.comb += taking.eq(self.wait[index].payload)
        given, giving = Signal(post_layout(config)), Signal(post_layout(config))
        for index in range(POST_SOURCES):
            m.d.comb += self.post[index].ready.eq(accept[index])
            with m.If(accept[index]):
                m.d.comb += giving.eq(self.post[index].payload)
        m.d.sync += [taken.eq(taking), given.eq(giving)]

        over = Signal(config.semaphores)
        for number in range(config.semaphores):
            cell = instantiate(m, platform, f"semaphore{number}", SemaphoreCell(config))
            # `taken` and `given` are zero when nothing is granted or accepted.
            m.d.comb += [
                cell.number.eq(number),
                cell.taken.eq(taken),
                cell.given.eq(given),
                self.values[number].eq(cell.value),
                over[number].eq(cell.over),
            ]
        m.d.sync += self.overflow.eq(over.any())
        m.d.comb += self.all_zero.eq(~values.any() & ~given.en0 & ~given.en1)
        return m


class SemaphoreCell(wiring.Component):
    """One counter, in a module of its own so that it is written once.

    Members
    -------
    number : In(semaphore_id_bits)
        Which semaphore it is (a constant outside).
    taken : In(wait_layout), given : In(post_layout)
        What is subtracted and added in this cycle, from and to whichever semaphores.
    value : Out(semaphore_bits)
    over : Out(1)
        The counter would have passed its maximum in the previous cycle; it has kept its value.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "number": In(config.semaphore_id_bits),
                "taken": In(wait_layout(config)),
                "given": In(post_layout(config)),
                "value": Out(config.semaphore_bits),
                "over": Out(1),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return f"semaphore_cell_i{self.config.semaphore_id_bits}_b{self.config.semaphore_bits}"

    def elaborate(self, platform: object) -> Module:
        """Build the counter."""
        m = Module()
        taken, given, number = self.taken, self.given, self.number
        bits = self.config.semaphore_bits
        minus = Mux(taken.sem0 == number, taken.count0, 0) | Mux(taken.sem1 == number, taken.count1, 0)
        plus = (given.en0 & (given.sem0 == number)) + (given.en1 & (given.sem1 == number))
        following = Signal(bits + 1)
        m.d.comb += following.eq(self.value - minus + plus)
        m.d.sync += self.over.eq(following[bits])
        with m.If(~following[bits]):
            m.d.sync += self.value.eq(following)
        return m


def round_robin(m: Module, name: str, requests: Signal) -> Value:
    """Return the one-hot grant of a round-robin arbiter: the first request after the last one granted.

    Parameters
    ----------
    m : Module
        Where the arbiter's state is placed.
    name : str
        Prefix of its signals.
    requests : Signal
        One bit per requester; the grant is combinational.
    """
    width = len(requests)
    # Requesters up to the one granted last are masked out first; without any left, everybody takes part again.
    mask = Signal(width, name=f"{name}_mask")
    preferred = Signal(width, name=f"{name}_preferred")
    pool = Signal(width, name=f"{name}_pool")
    grant = Signal(width, name=f"{name}_grant")
    m.d.comb += [
        preferred.eq(requests & mask),
        pool.eq(Mux(preferred.any(), preferred, requests)),
        grant.eq(pool & (~pool + 1)),
    ]
    with m.If(grant.any()):
        m.d.sync += mask.eq(~(grant | (grant - 1)))
    return grant
