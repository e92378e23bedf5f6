# SPDX-License-Identifier: Apache-2.0
"""Counting semaphores: the only thing that orders instructions of different queues."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.config import MachineConfig
from hdl.control.queues import queue_count
from hdl.emit.hierarchy import digest
from hdl.interfaces import post_layout, wait_layout

__all__ = ["POST_SOURCES", "SemaphoreUnit"]

POST_SOURCES = 5
"""Sources of posts: the collector, the two load engines, the store unit, the vector unit."""


class SemaphoreUnit(wiring.Component):
    """``config.semaphores`` counters of ``config.semaphore_bits`` bits, all zero after reset.

    A wait is granted (``ready``) in a cycle in which both of its counters hold at least the counts asked for; both are
    subtracted at the end of that cycle. One grant and one post per cycle, each fair among its requesters (round robin);
    requesters whose condition does not hold take no turn. A post that is accepted in cycle t is seen by waits in
    cycle t + 1. Posts and waits of the same cycle on the same counter both take effect.

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
        A counter would have passed its maximum in the previous cycle (a pulse); the counter keeps its value.
    all_zero : Out(1)
        Every counter is zero.
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
        values = Array(self.values)
        waiters = queue_count(config)

        satisfied = Signal(waiters)
        for index in range(waiters):
            wait = self.wait[index]
            enough = (values[wait.payload.sem0] >= wait.payload.count0) & (
                values[wait.payload.sem1] >= wait.payload.count1
            )
            m.d.comb += satisfied[index].eq(wait.valid & enough)
        grant = round_robin(m, "wait", satisfied)
        offered = Signal(POST_SOURCES)
        m.d.comb += offered.eq(Cat(self.post[index].valid for index in range(POST_SOURCES)))
        accept = round_robin(m, "post", offered)

        taken = Signal(wait_layout(config))
        for index in range(waiters):
            m.d.comb += self.wait[index].ready.eq(grant[index])
            with m.If(grant[index]):
                m.d.comb += taken.eq(self.wait[index].payload)
        given = Signal(post_layout(config))
        for index in range(POST_SOURCES):
            m.d.comb += self.post[index].ready.eq(accept[index])
            with m.If(accept[index]):
                m.d.comb += given.eq(self.post[index].payload)

        limit = (1 << config.semaphore_bits) - 1
        over = Signal(config.semaphores)
        for number in range(config.semaphores):
            value = self.values[number]
            # `taken` and `given` are zero when nothing is granted or accepted.
            minus = Mux(taken.sem0 == number, taken.count0, 0) | Mux(taken.sem1 == number, taken.count1, 0)
            plus = (given.en0 & (given.sem0 == number)) + (given.en1 & (given.sem1 == number))
            following = Signal(config.semaphore_bits + 1, name=f"following{number}")
            m.d.comb += [following.eq(value - minus + plus), over[number].eq(following > limit)]
            with m.If(~over[number]):
                m.d.sync += value.eq(following)
        m.d.sync += self.overflow.eq(over.any())
        m.d.comb += self.all_zero.eq(~Cat(self.values).any())
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
