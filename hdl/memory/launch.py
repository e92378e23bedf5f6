# SPDX-License-Identifier: Apache-2.0
"""Decides in each cycle which engine's word leaves the load unit; all of the load unit's control but its engines."""

from __future__ import annotations

from itertools import pairwise

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.common.semaphore_ports import has_posts
from hdl.config import MachineConfig
from hdl.emit.hierarchy import parameter_key, parameters
from hdl.interfaces import error_layout, post_layout
from hdl.memory.jobs import job_fifo_depth

__all__ = ["LoadLaunch", "offer_layout"]

POSTS = 8
"""Posts of engine 0 that may wait for a load of engine 1: those of a few small loads that come behind it."""


def offer_layout(config: MachineConfig) -> data.StructLayout:
    """Return what the launcher needs to know of an engine's output word: all but its data and address."""
    return data.StructLayout(
        {
            "valid": 1,
            "fill": 1,
            "columns": 1,
            "word": config.fill_word_bits,
            "bus": 1,
            "list": 1,
            "row": 1,
            "empty": 1,
            "last": 1,
            "alone": 1,
            "tiers": config.tiers,
            "post": post_layout(config),
        }
    )


class LoadLaunch(wiring.Component):
    """Arbiter of fill lanes, bus, row and list writes; posts; bookkeeping of unfinished loads; the first error.

    Latency: none from ``offer`` to ``launch``; one cycle to ``post``. Throughput: one word per cycle and engine.

    Members
    -------
    offer : In(offer_layout).array(2)
        Output word of each engine.
    launch : Out(1).array(2)
        The word leaves in this cycle.
    fill : Out(1).array(2)
        It leaves as a fill word on the engine's lane.
    bus_valid : Out(1) / bus_ready : In(1) / bus_owner : Out(1)
        Write-bus stream and the engine that it belongs to; an offer stays until it is taken.
    row_valid : Out(1) / row_ready : In(1) / row_owner : Out(1)
        Row-write stream, likewise.
    list_valid : Out(1) / list_owner : Out(1)
        A list write happens, of this engine.
    gave_way : Out(1).array(2)
        A fill word waits for the other lane.
    post : Out(stream of post_layout).array(2)
    accepted, followed, queued : In(1).array(2)
        An instruction was taken from the queue; engine 1 finished its part of a PAIR load; the queue is not empty.
    ended : Out(1).array(2)
        The last word of an instruction leaves in this cycle; not engine 1's of a PAIR load.
    pending : Out(1)
        A load is not finished.
    fault : In(error_layout).array(4)
        Of the data sides and the address sides.
    halt : In(1)
    stop : Out(1)
        ``halt``, or an error is held: the engines offer no new words.
    error : Out(error_layout)
        The first fault.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "offer": In(offer_layout(config)).array(2),
                "launch": Out(1).array(2),
                "fill": Out(1).array(2),
                "bus_valid": Out(1),
                "bus_ready": In(1),
                "bus_owner": Out(1),
                "row_valid": Out(1),
                "row_ready": In(1),
                "row_owner": Out(1),
                "list_valid": Out(1),
                "list_owner": Out(1),
                "gave_way": Out(1).array(2),
                "post": Out(stream.Signature(post_layout(config))).array(2),
                "accepted": In(1).array(2),
                "followed": In(1).array(2),
                "queued": In(1).array(2),
                "ended": Out(1).array(2),
                "pending": Out(1),
                "fault": In(error_layout()).array(4),
                "halt": In(1),
                "stop": Out(1),
                "error": Out(error_layout()),
            }
        )

    PARAMETERS = parameters("columns group_bytes outstanding_bursts rows semaphores stationary_feed tiers")
    """What the module depends on."""

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return parameter_key("load_launch", self.config, self.PARAMETERS)

    def elaborate(self, platform: object) -> Module:
        """Build the arbiters."""
        m = Module()
        held = Signal(error_layout())
        m.d.comb += self.error.eq(held)
        # A register of its own, since it holds back the engines. Words that they have offered still leave: an error
        # is followed by the reset of all that could use them, and their launch must not wait for this register.
        m.d.sync += self.stop.eq(self.stop | self.halt | Cat(fault.valid for fault in self.fault).any())
        with m.If(~self.stop):
            for fault in reversed(list(self.fault)):
                with m.If(fault.valid):
                    m.d.sync += held.eq(fault)

        fill, bus, row, entry, empty = (
            Signal(2, name=name) for name in ("fills", "bus_words", "rows", "entries", "empty")
        )
        unfinished: list[Value] = []
        for g in range(2):
            offer = self.offer[g]
            ready = Signal(name=f"ready{g}")
            if g == 0:
                blocked, several = self._post_in_turn(m)
                unfinished.append(several)
            else:
                blocked = self._post(m)
            m.d.comb += [
                ready.eq(offer.valid & ~blocked),
                fill[g].eq(ready & offer.fill),
                bus[g].eq(ready & offer.bus),
                row[g].eq(ready & offer.row),
                entry[g].eq(ready & offer.list),
                empty[g].eq(ready & offer.empty),
                self.ended[g].eq(self.launch[g] & offer.last & ~(offer.alone & (g == 1))),
            ]
            count = Signal(range(job_fifo_depth(self.config) + 8), name=f"unfinished{g}")
            # A register: whether an engine takes an instruction is known late in a cycle.
            accepted = Signal(name=f"accepted_before{g}")
            # Engine 1 may finish two in a cycle: the last word of one load leaves while the PAIR load behind it ends.
            m.d.sync += [
                accepted.eq(self.accepted[g]),
                count.eq(count + accepted - (self.launch[g] & offer.last) - self.followed[g]),
            ]
            unfinished.append((count != 0) | accepted | self.queued[g])
        m.d.comb += self.pending.eq(Cat(unfinished).any())

        conflict = Signal()
        turn = Signal()
        m.d.comb += [
            conflict.eq(fill.all() & (self.offer[0].tiers & self.offer[1].tiers).any() & self._clash()),
            self.fill[0].eq(fill[0] & ~(conflict & turn)),
            self.fill[1].eq(fill[1] & ~(conflict & ~turn)),
        ]
        with m.If(conflict):
            m.d.sync += turn.eq(~turn)

        m.d.comb += [
            self.bus_valid.eq(bus.any()),
            self.bus_owner.eq(self._owner(m, "bus", bus, self.bus_ready)),
            self.row_valid.eq(row.any()),
            self.row_owner.eq(self._owner(m, "row", row, self.row_ready)),
            self.list_valid.eq(entry.any()),
            self.list_owner.eq(self._owner(m, "list", entry, None)),
        ]
        for g in range(2):
            m.d.comb += [
                self.gave_way[g].eq(fill[g] & ~self.fill[g]),
                self.launch[g].eq(
                    self.fill[g]
                    | empty[g]
                    | (bus[g] & self.bus_ready & (self.bus_owner == g))
                    | (row[g] & self.row_ready & (self.row_owner == g))
                    | (entry[g] & (self.list_owner == g))
                ),
            ]
        return m

    def _clash(self) -> Value:
        """Return whether two fill words for the same tier cannot leave together: one of them waits, in turns.

        They write the banks of different rows, unless one is of a transposed tile, or the feed is the edge feed, whose
        words write all banks. Tags have one write port, for first and last words. Two streams of words that have
        waited two words for each other go on together.
        """
        words, last = [offer.word for offer in self.offer], self.config.fill_words - 1
        if self.config.stationary_feed == "edge":
            return Const(1)
        tags = [(word == 0) | (word == last) for word in words]
        return (words[0] == words[1]) | self.offer[0].columns | self.offer[1].columns | (tags[0] & tags[1])

    def _post(self, m: Module) -> Value:
        """Build the register of engine 1's post; return whether the word that is offered has to wait for it."""
        offer, post, valid = self.offer[1], self.post[1], Signal(name="post_valid")
        posts = offer.last & has_posts(offer.post)
        m.d.comb += post.valid.eq(valid)
        with m.If(self.launch[1] & posts):
            m.d.sync += [valid.eq(1), post.payload.eq(offer.post)]
        with m.Elif(post.ready):
            m.d.sync += valid.eq(0)
        return posts & valid

    def _post_in_turn(self, m: Module) -> tuple[Value, Value]:
        """Build the posts of engine 0, which stay in order.

        Engine 0 posts for loads that engine 1 runs alone. While such a post waits for engine 1, others may queue behind
        it; else there is room for one, as in engine 1.

        Returns
        -------
        blocked, several : Value
            The word that is offered has to wait; more than one post is to come.
        """
        offer, post = self.offer[0], self.post[0]
        waits = offer.alone & offer.empty
        finishes = self.launch[1] & self.offer[1].last & self.offer[1].alone & ~self.offer[1].empty
        entry = data.StructLayout({"alone": 1, "post": post_layout(self.config)})
        waiting = [Signal(entry, name=f"post_{n}") for n in range(POSTS)]
        count, finished = Signal(range(POSTS + 1)), Signal(range(job_fifo_depth(self.config) + 8))
        queued = Signal(range(POSTS + 1))  # of `waiting`, those of loads that engine 1 runs alone
        head, may_go, pops, pushes = waiting[0], Signal(), Signal(), Signal()
        m.d.comb += [
            may_go.eq((count != 0) & (~head.alone | (finished != 0))),
            post.valid.eq(may_go & has_posts(head.post)),
            post.payload.eq(head.post),
            pops.eq(may_go & (post.ready | ~post.valid)),
            pushes.eq(self.launch[0] & offer.last & (has_posts(offer.post) | waits)),
        ]
        m.d.sync += [
            count.eq(count + pushes - pops),
            queued.eq(queued + (pushes & waits) - (pops & head.alone)),
            finished.eq(finished + finishes - (pops & head.alone)),
        ]
        with m.If(pops):
            m.d.sync += [own.eq(behind) for own, behind in pairwise(waiting)]
        for place, own in enumerate(waiting):
            with m.If(pushes & (count - pops == place)):
                m.d.sync += [own.alone.eq(waits), own.post.eq(offer.post)]
        blocked = offer.last & (has_posts(offer.post) | waits) & Mux(queued != 0, count == POSTS, count != 0)
        return blocked, count > 1

    def _owner(self, m: Module, name: str, wants: Signal, ready: Value | None) -> Signal:
        """Return which engine has the output: in turns when both want it, fixed while an offer is not taken."""
        owner = Signal(name=f"{name}_chosen")
        last = Signal(name=f"{name}_last")
        m.d.comb += owner.eq(Mux(wants.all(), ~last, wants[1]))
        if ready is not None:
            locked = Signal(name=f"{name}_locked")
            with m.If(locked):
                m.d.comb += owner.eq(last)
            m.d.sync += locked.eq(wants.any() & ~ready)
        with m.If(wants.any()):
            m.d.sync += last.eq(owner)
        return owner
