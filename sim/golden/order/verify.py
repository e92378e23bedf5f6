# SPDX-License-Identifier: Apache-2.0
"""What :mod:`scheduler.stream.prove` must find, one instruction at a time.

It shares no code with that proof but the instructions' own facts (:mod:`hdl.isa`) and the class of the findings; tests
want the same findings of both, in the same words. What is checked, and what is not, is written there. What a semaphore
wait guarantees is worked out in :mod:`sim.golden.order.settle`, what touches what in :mod:`sim.golden.order.footprint`
and :mod:`sim.golden.order.hazards`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hdl.config import MachineConfig
from hdl.isa import Format, Instruction, LoadDest, Opcode, StoreFormat, store_span
from hdl.isa.legality import Limits, check_instruction, check_load_addresses, tiers_of_mask
from hdl.isa.slots import has_two_addresses, slot_load
from scheduler.stream.prove import Finding
from sim.golden.order.footprint import Footprint, Lists, footprint, space_cells
from sim.golden.order.hazards import HazardTracker, self_conflict
from sim.golden.order.ordering import Ordering, reads_by_importance, row_completions
from sim.golden.order.settle import overflows, posts_of, settle, waits_of
from sim.golden.order.spans import Span, SpanLog, whole_span

__all__ = ["verify_stream"]

SLOT_NUMBERS = 256
"""Slots that an instruction can name."""

Images = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]


def verify_stream(
    instructions: Sequence[Instruction],
    config: MachineConfig,
    images: Images,
    limits: Limits | None = None,
    tags: npt.NDArray[np.int16] | None = None,
) -> list[Finding]:
    """Return everything that is wrong with a stream; an empty list is the proof.

    Parameters
    ----------
    instructions : sequence of Instruction
        The stream, END included.
    config : MachineConfig
        The machine.
    images : tuple of two uint8 arrays
        Memories of the groups, from which token lists are read.
    limits : Limits, optional
        Memory limits; default: all that the machine can address.
    tags : int16 array [tiers, vcache_tiles], optional
        Fill tags that an earlier stream left (-1: not valid); default: none.
    """
    limits = limits or Limits.whole(config)
    findings = _illegal(instructions, config, limits) or _deadlocks(instructions)
    if findings:
        return findings
    prints, findings = _footprints(instructions, config, images, limits, tags)
    if findings:
        return findings
    order = settle(instructions, prints.tag_loads)
    findings = _stolen(order) + _overflows(order, config)
    hazards = HazardTracker(config, order, tags)
    for number, touched in enumerate(prints.touched):
        before = order.before_start[number], order.before_grant[number]
        for conflict in hazards.conflicts(instructions[number], touched, *before):
            if not conflict.ordered:
                pair = (conflict.earlier, number)
                names = f"{instructions[pair[0]].opcode.name} and {instructions[number].opcode.name}"
                text = f"instructions {pair[0]} and {pair[1]} ({names}) race: {pair[1]} {conflict.what} by {pair[0]}"
                findings.append(Finding("race", pair, text))
        hazards.record(number, touched)
    return findings


def _illegal(instructions: Sequence[Instruction], config: MachineConfig, limits: Limits) -> list[Finding]:
    findings = []
    for number, instruction in enumerate(instructions):
        wrong = check_instruction(instruction, config, limits)
        if wrong is not None:
            findings.append(Finding("illegal", (number,), f"instruction {number}: {wrong.code.name}: {wrong.message}"))
    ends = [n for n, i in enumerate(instructions) if i.opcode == Opcode.END]
    if ends != [len(instructions) - 1]:
        where = f"at {', '.join(map(str, ends))}" if ends else "nowhere"
        text = f"END stands {where}; a stream of {len(instructions)} instructions has it once, as the last"
        findings.append(Finding("illegal", tuple(ends), text))
    return findings


def _deadlocks(instructions: Sequence[Instruction]) -> list[Finding]:
    values: dict[int, int] = defaultdict(int)
    for number, instruction in enumerate(instructions):
        for semaphore, count in waits_of(instruction):
            if values[semaphore] < count:
                text = (
                    f"instruction {number} ({instruction.opcode.name}) waits for {count} of semaphore {semaphore}; "
                    f"the instructions before it leave {values[semaphore]}: deadlock"
                )
                return [Finding("deadlock", (number,), text)]
            values[semaphore] -= count
        for semaphore in posts_of(instruction):
            values[semaphore] += len(row_completions(instruction))
    return []


@dataclass(frozen=True)
class _Prints:
    touched: list[Footprint]
    tag_loads: list[list[int]]


def _footprints(
    instructions: Sequence[Instruction],
    config: MachineConfig,
    images: Images,
    limits: Limits,
    tags: npt.NDArray[np.int16] | None,
) -> tuple[_Prints, list[Finding]]:
    """Return what each instruction touches, and what is wrong with that on its own."""
    lists, findings = Lists(config), []
    state = np.full((config.tiers, config.vcache_tiles), -1, dtype=np.int16) if tags is None else tags.copy()
    conditions = np.full(state.shape, -1, dtype=np.int64)  # ROUTE and slot, where a slot's load has filled
    hazards = HazardTracker(config, Ordering(), tags)
    prints = _Prints([], [])
    stored, ever = SpanLog(), _stored_ranges(instructions, config)
    for number, instruction in enumerate(instructions):
        touched = footprint(instruction, config, lists)
        wrong = _out_of_range(touched, config) or self_conflict(instruction, touched, config)
        if wrong:
            findings.append(Finding("race", (number,), f"instruction {number} ({instruction.opcode.name}): {wrong}"))
            break
        prints.touched.append(touched)
        prints.tag_loads.append(hazards.tag_loads(touched))
        hazards.order.add(instruction)
        hazards.record(number, touched)
        for span in touched.writes:
            stored.add(number, span)
        if instruction.opcode == Opcode.LOAD and instruction["dest_kind"] == LoadDest.LIST:
            if any(stored.last_overlap(span) for span in touched.reads):
                text = f"instruction {number} loads a token list from memory that the stream stores: not checkable"
                findings.append(Finding("race", (number,), text))
        if reads_by_importance(instruction):
            if any(r.group == s.group and r.start < s.end and s.start < r.end for r in touched.reads for s in ever):
                text = (
                    f"instruction {number} loads from memory that the stream stores, by whichever engine its slot's "
                    "importance decides: not checkable"
                )
                findings.append(Finding("race", (number,), text))
        findings += _slots(number, instruction, config, lists, limits)
        lists.apply(instruction, images)
        condition = -1
        if instruction["slot_en"]:
            _, number_of_route = lists.slots.get(instruction["slot"], (None, -1))
            condition = (1 + number_of_route) * SLOT_NUMBERS + instruction["slot"]
        if instruction.opcode == Opcode.LOAD and instruction["dest_kind"] == LoadDest.VCACHE:
            if instruction["format"] == Format.LOW:
                findings += _halves(number, instruction, state, conditions, condition)
            for tier in tiers_of_mask(instruction["dest_tiers"]):
                base = instruction["dest_base"]
                state[tier, base : base + instruction["count"]] = instruction["tag"]
                conditions[tier, base : base + instruction["count"]] = condition
        if instruction.opcode == Opcode.GEMM:
            findings += _misses(number, instruction, touched, state, conditions, condition)
    return prints, findings


def _stored_ranges(instructions: Sequence[Instruction], config: MachineConfig) -> list[Span]:
    """Return where a stream stores, gaps included, ranges that meet or touch as one."""
    spans = [
        whole_span(i["group"], *store_span(i, config))
        for i in instructions
        if i.opcode == Opcode.STORE and i["format"] != StoreFormat.DISCARD
    ]
    found: list[Span] = []
    for span in sorted(spans):
        if found and found[-1].group == span.group and span.start <= found[-1].end:
            found[-1] = whole_span(span.group, found[-1].start, max(found[-1].end, span.end))
        else:
            found.append(span)
    return found


def _slots(number: int, instruction: Instruction, config: MachineConfig, lists: Lists, limits: Limits) -> list[Finding]:
    """Return what is wrong with the use of a slot: no ROUTE before it, or an expert outside memory."""
    if not instruction["slot_en"]:
        return []
    name = f"instruction {number} ({instruction.opcode.name})"
    route = lists.route(instruction)
    if route is None:
        text = f"{name} has a slot that no ROUTE before it in the stream writes: not checkable"
        return [Finding("illegal", (number,), text)]
    if instruction.opcode != Opcode.LOAD:
        return []
    experts = route["experts"]
    for expert in sorted({0, min(1, experts - 1), max(0, experts - 2), experts - 1}):
        wrong = check_load_addresses(slot_load(instruction, expert), config, limits)
        if wrong is None and has_two_addresses(instruction):
            wrong = check_load_addresses(slot_load(instruction, expert, high_only=True), config, limits)
        if wrong is not None:
            text = f"instruction {number}, expert {expert}: {wrong.code.name}: {wrong.message}"
            return [Finding("illegal", (number,), text)]
    return []


def _out_of_range(touched: Footprint, config: MachineConfig) -> str | None:
    for access in touched.accesses:
        if access.tier >= 0 and access.space in ("activation", "combine") and access.cells.size:
            # An activation address beyond the buffer would spill into the next tier's cells.
            cells = space_cells(access.space, config)
            if access.cells.max() >= cells:
                return f"it {access.kind}s beyond the {access.space} memory through its token list"
    return None


def _halves(
    number: int,
    instruction: Instruction,
    state: npt.NDArray[np.int16],
    conditions: npt.NDArray[np.int64],
    condition: int,
) -> list[Finding]:
    """Return the first tile that has no high plane for the low one; a load that may be skipped keeps its tag."""
    tiles = slice(instruction["dest_base"], instruction["dest_base"] + instruction["count"])
    for tier in tiers_of_mask(instruction["dest_tiers"]):
        found, needed = state[tier, tiles], conditions[tier, tiles]
        other = (needed >= 0) & (needed != condition)
        wrong = np.flatnonzero(other | (found < 0) | (found != instruction["tag"] if instruction["scored"] else False))
        if wrong.size and other[wrong[0]]:
            return [
                Finding("miss", (number,), _of_slot("LOAD", number, tier, tiles.start + wrong[0], needed[wrong[0]]))
            ]
        if wrong.size:
            has = "no valid fill" if found[wrong[0]] < 0 else f"tag {found[wrong[0]]}"
            text = (
                f"instruction {number} (LOAD) adds a low plane with tag {instruction['tag']} to tile "
                f"{tiles.start + wrong[0]} of tier {tier}, which has {has}"
            )
            return [Finding("miss", (number,), text)]
    return []


def _of_slot(name: str, number: int, tier: int, tile: int, condition: int) -> str:
    return (
        f"instruction {number} ({name}) needs tile {tile} of tier {tier}, which is filled only if slot "
        f"{int(condition) % SLOT_NUMBERS} is not empty: use the same slot, and no ROUTE that writes it between"
    )


def _misses(
    number: int,
    instruction: Instruction,
    touched: Footprint,
    state: npt.NDArray[np.int16],
    conditions: npt.NDArray[np.int64],
    condition: int,
) -> list[Finding]:
    """Return the tiles that a GEMM does not find filled, or finds only if a slot is not empty that is not its own."""
    for access in touched.accesses:
        if access.space == "vcache":
            needed = conditions.reshape(-1)[access.cells]
            other = np.flatnonzero((needed >= 0) & (needed != condition))
            if other.size:
                tile = int(access.cells[other[0]]) % state.shape[1]
                text = _of_slot("GEMM", number, access.tier, tile, needed[other[0]])
                return [Finding("miss", (number,), text)]
            found = state.reshape(-1)[access.cells]
            wrong = np.flatnonzero(found != instruction["tag"])
            if wrong.size:
                tile = int(access.cells[wrong[0]]) % state.shape[1]
                has = "no valid fill" if found[wrong[0]] < 0 else f"tag {found[wrong[0]]}"
                needs = f"tag {instruction['tag']} in tile {tile} of tier {access.tier}"
                return [Finding("miss", (number,), f"instruction {number} (GEMM) needs {needs}, which has {has}")]
    return []


def _stolen(order: Ordering) -> list[Finding]:
    findings = []
    last: dict[int, int] = {}
    for number, instruction in enumerate(order.instructions):
        for semaphore, _ in waits_of(instruction):
            earlier = last.get(semaphore)
            if earlier is not None and not order.grants_before_grant[number] >> earlier & 1:
                text = (
                    f"instructions {earlier} and {number} both wait for semaphore {semaphore} and nothing orders "
                    f"them: either may take the other's posts"
                )
                findings.append(Finding("stolen", (earlier, number), text))
            last[semaphore] = number
    return findings


def _overflows(order: Ordering, config: MachineConfig) -> list[Finding]:
    most = (1 << config.semaphore_bits) - 1
    return [
        Finding("overflow", (number,), f"semaphore {semaphore} may count beyond {most} at instruction {number}")
        for semaphore, number in overflows(order, most)
    ]
