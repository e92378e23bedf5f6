# SPDX-License-Identifier: Apache-2.0
"""ROUTE: from the router's choices to the routing table and the token lists (``docs/vector.md``, section 6).

A counting sort in two small memories: a counter for each expert, and for each number of tokens how many experts have
just that many. One item a cycle goes through three stages: the first address, what is found there as the address of the
second memory, what is found there and written back. While the lists are written, each expert's gates are summed; from
the sums follows how much of its weights is wanted.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final, NamedTuple

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.common.semaphore_ports import assign_posts, assign_waits, has_waits
from hdl.common.sram import Sram
from hdl.config import MachineConfig
from hdl.emit.hierarchy import instantiate, parameter_key, parameters
from hdl.interfaces import (
    error_layout,
    list_entry_layout,
    post_layout,
    queue_entry_layout,
    slot_write_layout,
    wait_layout,
)
from hdl.isa import MAX_CHOICES, Opcode, instruction_layout
from hdl.isa.error_codes import ErrorCode
from hdl.isa.route import IMPORTANCE_BITS
from hdl.numerics.precision import MAX_IMPORTANCE

__all__ = ["TIMING", "RouteTiming", "RouteUnit", "gate_lanes"]

CHECKS = 4
"""Products that the range check needs, one a cycle."""


class RouteTiming(NamedTuple):
    """Cycles of a ROUTE.

    Attributes
    ----------
    check : int
        From an instruction's transfer to the first cycle in which it asks for semaphores, or begins without.
    phases : int
        From the begin to the post, beside those that `RouteUnit` counts by tokens, choices and experts.
    sort : int
        Of these, those that there are not with slots by number.
    scores : int
        What comes to them with scores, beside one for each expert.
    """

    check: int
    phases: int
    sort: int
    scores: int


TIMING: Final = RouteTiming(check=CHECKS + 3, phases=16, sort=5, scores=3)
"""The holding register, the products and the last comparison; the begin, and the pipeline that runs dry after each
phase: three cycles, two in ORDER, four in LIST."""

_COUNT_BITS = 14
"""Width of a number of choices."""


class _Phase(IntEnum):
    """What the unit does with an instruction, in order."""

    CHECK = 0
    WAIT = 1
    COUNT = 2
    """Each choice: its expert's counter goes up. The other memory is cleared meanwhile."""
    COMPARE = 3
    """Each expert: the experts with as many tokens go up by one, and their tokens by its own. Not by number."""
    ORDER = 4
    """From the largest number of tokens down: the first slot and the first list entry of its experts. Not by number."""
    PLACE = 5
    """Each expert: its slot is written, and its counter becomes its next list entry. Experts without tokens come
    behind the others, or at their number."""
    LIST = 6
    """Each choice: its list entry is written, and its gate added to its expert's."""
    SCORE = 7
    """Each expert that has tokens: its slot is written again, with what its gates ask for. Only with `full_score`."""
    POST = 8


def gate_lanes(config: MachineConfig) -> int:
    """Return the lanes of a row that may hold gates."""
    return min(MAX_CHOICES, config.columns)


class RouteUnit(wiring.Component):
    """Runs one ROUTE at a time; the vector unit lends it scalars and rows while nothing else runs there.

    Cycles for T tokens, k choices, E experts and a largest count of m, when no request is held up:
    ``T*k + 2*E + m + T*(k + 2)`` and about 20, with slots by number ``T*k + E + T*(k + 2)`` and about 15; with
    `full_score` E and 3 more. After it the
    counters are cleared in `expert_slots` cycles, beside other instructions of the vector unit; after a reset the slots
    are, too.

    Members
    -------
    queue : In(stream of queue_entry_layout)
        ROUTE instructions whose fields are legal.
    wait, post : Out(stream of wait_layout / post_layout)
    scalar_en : Out(1), scalar_addr : Out(scalar_bits), scalar_data : In(32)
        Read of a scalar; the data one cycle later, held until the next read.
    row_valid : Out(1), row : Out(combine_bits), row_ready : In(1), gates : In(16 * gate_lanes)
        Request of a combine row; its lanes' low halves one cycle after it was accepted.
    list_valid : Out(1), list_ready : In(1), list_addr : Out(list_bits), list_entry : Out(list_entry_layout)
        Write of an entry in the token list of every tier.
    slot_write : Out(slot_write_layout)
        Writes of the routing table.
    ready : Out(1)
        The slots have been cleared since the reset.
    halt : In(1)
        Start nothing more.
    busy, waiting : Out(1)
        An instruction is here; it waits for semaphores.
    begun, ended : Out(1)
        Pulses: an instruction begins its work; it is complete.
    error : Out(error_layout)
        RANGE; level until reset. Table and lists are as they were.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "queue": In(stream.Signature(queue_entry_layout())),
                "wait": Out(stream.Signature(wait_layout(config))),
                "post": Out(stream.Signature(post_layout(config))),
                "scalar_en": Out(1),
                "scalar_addr": Out(config.scalar_bits),
                "scalar_data": In(32),
                "row_valid": Out(1),
                "row": Out(config.combine_bits),
                "row_ready": In(1),
                "gates": In(16 * gate_lanes(config)),
                "list_valid": Out(1),
                "list_ready": In(1),
                "list_addr": Out(config.list_bits),
                "list_entry": Out(list_entry_layout()),
                "slot_write": Out(slot_write_layout(config)),
                "ready": Out(1),
                "halt": In(1),
                "busy": Out(1),
                "waiting": Out(1),
                "begun": Out(1),
                "ended": Out(1),
                "error": Out(error_layout()),
            }
        )

    PARAMETERS = parameters("activation_words columns combine_rows expert_slots list_depth scalar_depth semaphores")
    """What the module depends on."""

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return parameter_key("route_unit", self.config, self.PARAMETERS)

    def elaborate(self, platform: object) -> Module:
        """Build the holding register and the phases."""
        m = Module()
        entry, held = Signal(queue_entry_layout()), Signal()
        word = data.View(instruction_layout(Opcode.ROUTE), entry.word)
        phase = Signal(range(len(_Phase)))
        cleared = Signal()
        m.d.comb += [self.queue.ready.eq(~held & ~self.halt), self.busy.eq(held)]
        with m.If(self.queue.valid & self.queue.ready):
            m.d.sync += [entry.eq(self.queue.payload), held.eq(1), phase.eq(_Phase.CHECK)]
        entries, checked, bad = self._check(m, word, held)

        needed = has_waits(word)
        waits = held & (phase == _Phase.WAIT) & needed
        m.d.comb += [
            self.waiting.eq(waits),
            self.wait.valid.eq(waits & cleared & ~self.halt & ~self.error.valid),
            *assign_waits(self.wait.payload, word),
            self.post.valid.eq(held & (phase == _Phase.POST) & (word.post0_en | word.post1_en)),
            *assign_posts(self.post.payload, word),
        ]
        through, no_expert = self._phases(m, platform, word, held, phase, entries, cleared)
        fault = Signal()
        with m.If(held & ~self.error.valid):
            with m.Switch(phase):
                with m.Case(_Phase.CHECK):
                    with m.If(checked):
                        m.d.comb += fault.eq(bad)
                        m.d.sync += phase.eq(_Phase.WAIT)
                with m.Case(_Phase.WAIT):
                    with m.If(cleared & ~self.halt & (~needed | self.wait.ready)):
                        m.d.comb += self.begun.eq(1)
                        m.d.sync += phase.eq(_Phase.COUNT)
                with m.Case(_Phase.COUNT):
                    with m.If(through):
                        m.d.comb += fault.eq(no_expert)
                        m.d.sync += phase.eq(Mux(word.by_number, _Phase.PLACE, _Phase.COMPARE))
                with m.Case(_Phase.LIST):
                    with m.If(through):
                        m.d.sync += phase.eq(Mux(word.full_score.any(), _Phase.SCORE, _Phase.POST))
                with m.Case(_Phase.POST):
                    with m.If(~self.post.valid | self.post.ready):
                        m.d.comb += self.ended.eq(1)
                        m.d.sync += held.eq(0)
                with m.Default():
                    with m.If(through):
                        m.d.sync += phase.eq(phase + 1)
        with m.If(fault):
            m.d.sync += [self.error.valid.eq(1), self.error.code.eq(ErrorCode.RANGE), self.error.pc.eq(entry.pc)]
        return m

    def _check(self, m: Module, word: Any, held: Signal) -> tuple[Signal, Signal, Signal]:
        """Build the range check, a product and a comparison a cycle; return (choices, checked, out of range)."""
        config = self.config
        step = Signal(range(CHECKS + 2))
        product, entries = Signal(20), Signal(_COUNT_BITS)
        checked, bad = Signal(), Signal()
        last, factor_a, factor_b = Signal(10), Signal(10), Signal(10)
        m.d.comb += [last.eq(word.tokens - 1), factor_a.eq(last)]

        def over(start: Any, limit: int) -> Value:
            return Value.cast(start) + product >= limit

        with m.If(held & ~checked):
            m.d.sync += [step.eq(step + 1), product.eq(factor_a * factor_b)]
            with m.Switch(step):
                with m.Case(0):
                    m.d.comb += [factor_a.eq(word.tokens), factor_b.eq(word.choices)]
                with m.Case(1):
                    m.d.comb += factor_b.eq(word.a_stride)
                    scalars_over = over(word.s_base, config.scalar_depth + 1)
                    m.d.sync += [
                        entries.eq(product),
                        bad.eq(scalars_over | over(word.list_base, config.list_depth + 1)),
                    ]
                with m.Case(2):
                    m.d.comb += factor_b.eq(word.source_stride)
                    m.d.sync += bad.eq(bad | over(word.a_base, config.combine_rows))
                with m.Case(3):
                    m.d.comb += factor_b.eq(word.dest_stride)
                    m.d.sync += bad.eq(bad | over(word.source_base, config.activation_words))
                with m.Case(4):
                    m.d.sync += [bad.eq(bad | over(word.dest_base, config.combine_rows)), checked.eq(1)]
        with m.If(~held):
            m.d.sync += [step.eq(0), checked.eq(0), bad.eq(0)]
        return entries, checked, bad

    def _phases(
        self,
        m: Module,
        platform: object,
        word: Any,
        held: Signal,
        phase: Signal,
        entries: Signal,
        cleared: Signal,
    ) -> tuple[Signal, Signal]:
        """Build memories and stages; return (the phase has nothing left to do, a choice is no expert)."""
        config = self.config
        count_bits, slot_bits = config.list_bits + 1, config.slot_bits
        about = data.StructLayout(
            {"count": count_bits, "slot": slot_bits, "tokens": count_bits, "score": IMPORTANCE_BITS, "first": 1}
        )
        counters = instantiate(m, platform, "counters", Sram(about.size, config.expert_slots))
        equals = instantiate(m, platform, "equals", Sram(slot_bits + 1 + count_bits, config.list_depth))
        names = {p: Signal(name=p.name.lower()) for p in _Phase}
        m.d.comb += [names[p].eq(held & (phase == p)) for p in _Phase]
        counts, compares, orders, places, lists, scores = (
            names[p] for p in (_Phase.COUNT, _Phase.COMPARE, _Phase.ORDER, _Phase.PLACE, _Phase.LIST, _Phase.SCORE)
        )

        # First stage: choices in COUNT and LIST, experts in COMPARE and PLACE; ORDER has only the later ones.
        issue, step, through = Signal(), Signal(), Signal()
        index, most = Signal(_COUNT_BITS), Signal(count_bits)
        second, third = Signal(), Signal()
        place, gate, source, dest = self._choices(m, word, lists, step)
        ends = Signal(_COUNT_BITS)
        m.d.comb += [
            ends.eq(Mux(counts, entries, Mux(orders, most, word.experts))),
            issue.eq(Mux(lists, place.valid, (counts | compares | orders | places | scores) & (index != ends))),
            through.eq(~issue & ~second & ~third & (~lists | place.done) & ~self.list_valid),
            step.eq(~self.list_valid | self.list_ready),
            self.scalar_en.eq(step & issue & (counts | lists)),
            self.scalar_addr.eq(Mux(lists, place.scalar, word.s_base + index)),
        ]
        with m.If(~held | through):
            m.d.sync += index.eq(0)
        with m.Elif(issue & step):
            m.d.sync += index.eq(index + 1)

        # Second stage. `key` is an expert, and a number of tokens less one in COMPARE, ORDER and PLACE.
        expert2, count2 = Signal(slot_bits), Signal(count_bits)
        gate2, source2, dest2, first2 = Signal(16), Signal(16), Signal(16), Signal()
        with m.If(step):
            m.d.sync += [second.eq(issue & ~orders), expert2.eq(index), gate2.eq(gate)]
            m.d.sync += [source2.eq(source), dest2.eq(dest), first2.eq(place.first)]
        choice = self.scalar_data[16:]
        by_choice = counts | lists
        some = Signal()
        m.d.comb += [
            count2.eq(Mux(orders, most - index, counters.read_data[:count_bits])),
            some.eq(Mux(orders, issue, second & (by_choice | places | scores | counters.read_data[:count_bits].any()))),
        ]
        no_expert = Signal()
        with m.If(~held):
            m.d.sync += no_expert.eq(0)
        with m.Elif(counts & second & (choice >= word.experts)):
            m.d.sync += no_expert.eq(1)
        number = Signal(max(slot_bits, config.list_bits))
        m.d.comb += number.eq(Mux(by_choice, choice, count2 - 1))

        # Third stage, with what the item before has written in the cycle of the read.
        key, expert3, count3 = Signal.like(number), Signal(slot_bits), Signal(count_bits)
        gate3, source3, dest3, first3 = Signal(16), Signal(16), Signal(16), Signal()
        about3 = Signal(about)
        with m.If(step):
            m.d.sync += [third.eq(some), key.eq(number), expert3.eq(expert2), count3.eq(count2)]
            m.d.sync += [gate3.eq(gate2), source3.eq(source2), dest3.eq(dest2), first3.eq(first2)]
            m.d.sync += about3.eq(counters.read_data)
        empty = Signal()
        m.d.comb += empty.eq(count3 == 0)
        sorted_ = ~by_choice & ~scores & ~empty & ~word.by_number  # the item has a place in `equals`
        width = max(len(equals.read_data), about.size)
        old, new, kept, kept_key, forward = Signal(width), Signal(width), Signal(width), Signal.like(key), Signal()
        with m.If(step):
            m.d.sync += [kept.eq(new), kept_key.eq(key), forward.eq(third & (by_choice | sorted_))]
        m.d.comb += old.eq(Mux(forward & (kept_key == key), kept, Mux(by_choice, counters.read_data, equals.read_data)))
        # Tokens or list entry; experts or slot.
        old_low, old_high = old[:count_bits], old[count_bits : len(equals.read_data)]
        old_about, new_about = data.View(about, old[: about.size]), Signal(about)
        gates = Signal(IMPORTANCE_BITS + 1)
        m.d.comb += [
            gates.eq(old_about.score + gate3),
            new_about.eq(old_about),
            new_about.count.eq(old_low + 1),
        ]
        with m.If(lists):
            m.d.comb += [
                new_about.score.eq(Mux(gates[-1], MAX_IMPORTANCE, gates)),
                new_about.first.eq(old_about.first | first3),
            ]
        slots, entry = Signal(slot_bits + 1), Signal(count_bits)
        with m.If(by_choice):
            m.d.comb += new.eq(new_about)
        with m.Elif(orders):
            m.d.comb += new.eq(Cat(entry, slots))
        with m.Else():
            m.d.comb += new.eq(Cat((old_low + count3)[:count_bits], (old_high + 1)[: slot_bits + 1]))
        with m.If(compares & third & (count3 > most)):
            m.d.sync += most.eq(count3)
        with m.Elif(counts):
            m.d.sync += most.eq(0)
        with m.If(counts | compares):
            m.d.sync += [slots.eq(word.slot_base), entry.eq(word.list_base)]
        with m.Elif(orders & third):
            m.d.sync += [slots.eq(slots + old_high), entry.eq(entry + old_low)]
        with m.Elif(places & third):  # slots: the next one for an expert without tokens, or by number
            m.d.sync += entry.eq(entry + count3)
            with m.If(empty | word.by_number):
                m.d.sync += slots.eq(slots + 1)
        first_entry, slot = Signal(count_bits), Signal(slot_bits)
        m.d.comb += [
            first_entry.eq(Mux(word.by_number, entry, old_low)),
            slot.eq(Mux(empty | word.by_number, slots, old_high)),
        ]

        # The memories' ports. The counters are swept when no instruction needs them, and after a reset the slots with
        # them.
        sweep = Signal(slot_bits)
        with m.If(cleared):
            m.d.sync += self.ready.eq(1)
        m.d.comb += [
            counters.read_en.eq(step & Mux(by_choice, second, issue)),
            counters.read_addr.eq(Mux(by_choice, choice, index)),
            equals.read_en.eq(some & ~by_choice),
            equals.read_addr.eq(number),
        ]
        with m.If(~cleared):
            m.d.comb += [counters.write_en.eq(1), counters.write_addr.eq(sweep)]
            m.d.sync += [sweep.eq(sweep + 1), cleared.eq(sweep == config.expert_slots - 1)]
        with m.Else():
            m.d.comb += [
                counters.write_en.eq(third & step & (by_choice | places)),
                counters.write_addr.eq(Mux(places, expert3, key)),
                counters.write_data.eq(Mux(places, Cat(first_entry, slot, count3), new[: about.size])),
            ]
        with m.If(names[_Phase.POST]):
            m.d.sync += cleared.eq(0)
        with m.If(counts):
            m.d.comb += [equals.write_en.eq(issue), equals.write_addr.eq(index)]
        with m.Else():
            m.d.comb += [
                equals.write_en.eq(third & sorted_),
                equals.write_addr.eq(key),
                equals.write_data.eq(new),
            ]

        # What comes out, through registers.
        write, full, some_plane = self.slot_write, Signal(), Signal()
        m.d.comb += [
            full.eq((about3.score >= word.full_score) | (about3.first & word.first_full)),
            some_plane.eq(full | (about3.score >= word.high_score)),
        ]
        m.d.sync += write.valid.eq((third & (places | (scores & about3.tokens.any()))) | (~self.ready & ~cleared))
        with m.If(~self.ready):
            m.d.sync += [write.slot.eq(sweep), write.count.eq(0)]
        with m.Elif(places & third):
            m.d.sync += [
                write.slot.eq(slot), write.count.eq(count3), write.base.eq(first_entry), write.expert.eq(expert3),
                write.high_only.eq(0),
            ]  # fmt: skip
        with m.Elif(scores & third):
            m.d.sync += [
                write.slot.eq(about3.slot), write.count.eq(Mux(some_plane, about3.tokens, 0)),
                write.base.eq(about3.count - about3.tokens), write.expert.eq(expert3), write.high_only.eq(~full),
            ]  # fmt: skip
        with m.If(step):
            m.d.sync += self.list_valid.eq(lists & third)
            with m.If(lists & third):
                m.d.sync += [
                    self.list_addr.eq(old_low), self.list_entry.source.eq(source3), self.list_entry.dest.eq(dest3),
                    self.list_entry.gate.eq(gate3),
                ]  # fmt: skip
        return through, no_expert

    def _choices(self, m: Module, word: Any, lists: Signal, step: Signal) -> tuple[Any, Signal, Signal, Signal]:
        """Build the walk over tokens and their choices in LIST; return (place, gate, source, dest) of the choice.

        Place: ``valid``: its gates are here; ``first``: it is its token's first choice; ``scalar``: where its expert
        is; ``done``: none is left.
        """
        config = self.config
        place: Any = Signal(data.StructLayout({"valid": 1, "done": 1, "first": 1, "scalar": config.scalar_bits}))
        token, choice = Signal(10), Signal(4)
        row, source, dest = Signal(16), Signal(16), Signal(16)
        first, scalar = Signal(config.scalar_bits), Signal(config.scalar_bits)
        asked, here = Signal(), Signal()
        gates = Signal(len(self.gates))
        gate = Signal(16)
        m.d.comb += [
            place.done.eq(token == word.tokens),
            place.valid.eq(lists & here),
            place.first.eq(choice == 0),
            place.scalar.eq(scalar),
            self.row_valid.eq(lists & ~asked & ~here & ~place.done & ~self.halt),
            self.row.eq(row),
            gate.eq(gates.word_select(choice, 16)),
        ]
        with m.If(~lists):
            m.d.sync += [
                token.eq(0), choice.eq(0), row.eq(word.a_base), source.eq(word.source_base), dest.eq(word.dest_base),
                first.eq(word.s_base), scalar.eq(word.s_base), asked.eq(0), here.eq(0),
            ]  # fmt: skip
        with m.Elif(self.row_valid & self.row_ready):
            m.d.sync += asked.eq(1)
        with m.Elif(asked):
            m.d.sync += [gates.eq(self.gates), asked.eq(0), here.eq(1)]
        with m.Elif(here & step):
            m.d.sync += [choice.eq(choice + 1), scalar.eq(scalar + word.tokens)]
            with m.If(choice + 1 == word.choices):
                m.d.sync += [
                    choice.eq(0), token.eq(token + 1), row.eq(row + word.a_stride), here.eq(0),
                    source.eq(source + word.source_stride), dest.eq(dest + word.dest_stride),
                    first.eq(first + 1), scalar.eq(first + 1),
                ]  # fmt: skip
        return place, gate, source, dest
