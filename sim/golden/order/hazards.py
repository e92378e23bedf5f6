# SPDX-License-Identifier: Apache-2.0
"""Finds the earlier instructions that a new one must not overtake, and says whether the order is already certain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hdl.config import MachineConfig
from hdl.isa import Instruction, LoadDest, Opcode, issue_queues
from sim.golden.order.footprint import SPACES, Access, Footprint, space_cells
from sim.golden.order.ordering import Ordering, reads_by_importance, row_completions
from sim.golden.order.spans import SpanLog
from sim.golden.order.vector_footprint import vector_conflict

__all__ = ["Conflict", "HazardTracker", "self_conflict"]

Last = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Conflict:
    """Two instructions that touch the same cell in an order that matters.

    Attributes
    ----------
    earlier : int
        Number of the instruction that comes first in the stream.
    what : str
        Words for messages, such as ``reads activation cell 12 before it is written``.
    ordered : bool
        Whether queues, posted semaphores or tags already keep the order.
    """

    earlier: int
    what: str
    ordered: bool


def self_conflict(instruction: Instruction, touched: Footprint, config: MachineConfig) -> str | None:
    """Return why one instruction races with itself, or None.

    A GEMM's rows come out while later waves still read, so it must not write activations that it reads; and two rows
    of one GEMM for the same cell have no defined order unless they are added. For VECTOR see `vector_conflict`.
    """
    if instruction.opcode == Opcode.VECTOR:
        return vector_conflict(instruction, config)
    for space in ("activation", "combine"):
        reads = [a.cells for a in touched.accesses if a.space == space and a.kind == "read" and a.tier >= 0]
        writes = [a.cells for a in touched.accesses if a.space == space and a.kind == "write" and a.tier >= 0]
        if not writes:
            continue
        written = np.concatenate(writes)
        if np.unique(written).size != written.size:
            return f"two of its rows overwrite the same {space} cell"
        if reads and np.intersect1d(written, np.concatenate(reads)).size:
            return f"it writes {space} words that it also reads"
    return None


class HazardTracker:
    """Keeps, for each cell, the last accesses that a later instruction can conflict with.

    Parameters
    ----------
    config : MachineConfig
        The machine.
    order : Ordering
        What is known about the order of the instructions seen so far.
    tags : int16 array [tiers, vcache_tiles], optional
        Fill tags that an earlier stream left; -1: not valid.
    """

    def __init__(
        self, config: MachineConfig, order: Ordering, tags: npt.NDArray[np.int16] | None = None
    ) -> None:  # fmt: skip
        self.config = config
        self._kept = None if tags is None else tags.reshape(-1)
        self.order = order
        self._written: dict[str, Last] = {s: np.full(space_cells(s, config), -1, np.int32) for s in SPACES}
        self._writer_tier: dict[str, Last] = {s: np.full(space_cells(s, config), -1, np.int32) for s in SPACES}
        # Reads and additions since the last write, by space, kind, unit of completion and tier.
        self._since: dict[str, dict[tuple[str, tuple[tuple[str, ...], ...], int], Last]] = {s: {} for s in SPACES}
        self._memory_reads, self._memory_writes = SpanLog(), SpanLog()
        self._tile_loads: dict[int, list[int]] = {}

    def conflicts(
        self, instruction: Instruction, touched: Footprint, done: int, asked: int | None = None
    ) -> list[Conflict]:  # fmt: skip
        """Return the conflicts of an instruction with earlier ones.

        Parameters
        ----------
        instruction : Instruction
            The later instruction.
        touched : Footprint
            What it touches.
        done : int
            Bit set of completions that surely precede its start.
        asked : int, optional
            Those that surely precede its grant; default: the same. From then on a gang's tiers may look its slot up.
        """
        found: list[Conflict] = []
        for access in touched.accesses:
            looked_up = access.space == "slots" and access.kind == "read" and asked is not None
            found += self._cell_conflicts(instruction, access, asked if looked_up and asked is not None else done)
        # One engine reads a group and one unit stores, each in order: the latest instruction stands for all before it,
        # and stores need no order among themselves.
        for spans, earlier, text in (
            (touched.reads, self._memory_writes, "reads memory that was stored"),
            (touched.writes, self._memory_reads, "overwrites memory that is loaded"),
        ):
            for span in spans:
                overlap = earlier.last_overlap(span)
                if overlap is not None:
                    number, byte = overlap
                    fine = self._ordered(number, -1, "read", instruction, -1, "write", done)
                    found.append(Conflict(number, f"{text} (group {span.group}, byte {byte:#x})", fine))
        return found

    def _cell_conflicts(self, instruction: Instruction, access: Access, done: int) -> list[Conflict]:
        found = []
        space, cells = access.space, np.sort(access.cells)  # the lowest is named
        by_tag = space == "vcache" and access.kind == "read"
        numbers = self._written[space][cells]
        tiers = self._writer_tier[space][cells]
        # Both numbers in one, tiers from -1 to 7.
        writers, first = np.unique(numbers.astype(np.int64) * 16 + tiers + 1, return_index=True)
        for writer, place in zip(writers.tolist(), first.tolist(), strict=True):
            number, tier = writer >> 4, (writer & 15) - 1
            if number < 0:
                continue
            if by_tag:
                fine = self.order.done_before(done, number) or self._tag_orders(instruction, cells, number, done)
            else:
                fine = self._ordered(number, tier, "write", instruction, access.tier, access.kind, done)
            found.append(Conflict(number, f"{access.kind}s {space} cell {cells[place]} after its write", fine))
        for (kind, _units, tier), last in self._since[space].items():
            if kind == access.kind:
                continue
            values = last[cells]
            if values.size == 0 or values.max() < 0:
                continue
            readers, first = np.unique(values, return_index=True)
            for number, place in zip(readers.tolist(), first.tolist(), strict=True):
                if number < 0:
                    continue
                fine = self._ordered(number, tier, kind, instruction, access.tier, access.kind, done)
                text = f"{access.kind}s {space} cell {cells[place]} after its {kind}"
                found.append(Conflict(number, text, fine))
        return found

    def _ordered(
        self, earlier: int, tier: int, kind: str, instruction: Instruction, new_tier: int, new_kind: str, done: int
    ) -> bool:
        if self.order.done_before(done, earlier, tier if tier >= 0 else None):
            return True
        first = self.order.instructions[earlier]
        both = {first.opcode, instruction.opcode}
        if len(both) > 1 and both != {Opcode.VECTOR, Opcode.ROUTE}:
            return False
        if instruction.opcode == Opcode.GEMM:
            if kind == "read" and new_kind == "write":
                # The tier that read has issued its last wave before the new operation's first, in each of its queues.
                return f"tier{tier}" in issue_queues(instruction)
            return tier == new_tier and kind != "read" and new_kind != "read"  # rows of one tier arrive in order
        if reads_by_importance(first) or reads_by_importance(instruction):
            return False
        # Loads of one engine, stores, and the vector unit's instructions do their work in order.
        return bool(set(row_completions(first)[0]) & set(row_completions(instruction)[0]))

    def _tag_orders(self, instruction: Instruction, cells: npt.NDArray[np.int64], load: int, done: int) -> bool:
        """Return whether the fill tag alone makes the GEMM wait for `load` in all of these tiles.

        It does, unless an older fill of the tile, maybe of an earlier stream, had the same tag and may still be there.
        A slot's fill between them does not disprove that, as it may have been skipped. (A GEMM whose slot's load is
        skipped does not read.)
        """
        tag = instruction["tag"]

        def filled(number: int) -> bool:
            surely = number == load or not self.order.instructions[number]["slot_en"]
            return surely and self.order.done_before(done, number)

        for cell in cells[self._written["vcache"][cells] == load]:
            history = self._tile_loads[int(cell)]
            same = [n for n, number in enumerate(history[:-1]) if self.order.instructions[number]["tag"] == tag]
            if self._kept is not None and self._kept[cell] == tag:
                same = same or [-1]
            if same and not any(filled(number) for number in history[same[-1] + 1 :]):
                return False
        return True

    def tag_loads(self, touched: Footprint) -> list[int]:
        """Return the loads whose last tile a GEMM reads: they are complete before it is.

        Loads for a slot do not count: they and their GEMMs may be skipped.
        """
        loads = set()
        for access in touched.accesses:
            if access.space == "vcache" and access.kind == "read":
                numbers = self._written["vcache"][access.cells]
                for number in {int(n) for n in np.unique(numbers) if n >= 0}:
                    load = self.order.instructions[number]
                    if load["slot_en"]:
                        continue
                    last = load["dest_base"] + load["count"] - 1
                    tiles = access.cells[numbers == number] % self.config.vcache_tiles
                    if last in tiles:
                        loads.add(number)
        return sorted(loads)

    def record(self, number: int, touched: Footprint) -> None:
        """Note the accesses of instruction `number`, which has been added to the order."""
        instruction = self.order.instructions[number]
        units = row_completions(instruction)
        for access in touched.accesses:
            if access.kind == "write":
                self._written[access.space][access.cells] = number
                self._writer_tier[access.space][access.cells] = access.tier
                for last in self._since[access.space].values():
                    last[access.cells] = -1
                if access.space == "vcache" and instruction["dest_kind"] == LoadDest.VCACHE:
                    for cell in access.cells:
                        self._tile_loads.setdefault(int(cell), []).append(number)
            else:
                since, key = self._since[access.space], (access.kind, units, access.tier)
                if key not in since:
                    since[key] = np.full(space_cells(access.space, self.config), -1, np.int32)
                since[key][access.cells] = number
        for span in touched.reads:
            self._memory_reads.add(number, span)
        for span in touched.writes:
            self._memory_writes.add(number, span)
